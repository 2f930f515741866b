"""Who trains and who tests: at random, by group, or by time. Seeded, and written down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reverie.data.table import Array
from reverie.errors import DataError, InvalidOption
from reverie.rng import stream

METHODS = ("random", "group", "time")


def split_names(fractions: Sequence[float]) -> tuple[str, ...]:
    """Names for two (train, test) or three (train, valid, test) fractions, which must be above 0 with a sum <= 1."""
    try:
        shares = [float(share) for share in fractions]
    except (TypeError, ValueError):
        raise InvalidOption(f"fractions: expected two or three numbers such as (0.8, 0.2), got {fractions!r}") from None
    if len(shares) not in (2, 3):
        raise InvalidOption(f"fractions: expected (train, test) or (train, valid, test), got {len(shares)} numbers")
    if not all(0 < share < 1 for share in shares) or sum(shares) > 1 + 1e-9:
        raise InvalidOption(f"fractions: each must lie between 0 and 1, with a sum of at most 1, got {tuple(shares)}")
    return ("train", "test") if len(shares) == 2 else ("train", "valid", "test")


def random_split(n: int, fractions: Sequence[float], seed: int) -> dict[str, Array]:
    """Rows dealt at random; each part has its share, rounded, and at least one row. Indices ascend."""
    names = split_names(fractions)
    if n < len(names):
        raise DataError(f"{n} rows cannot be split into {len(names)} parts: give split=None")
    order = _generator(seed).permutation(n)
    ends = np.rint(np.cumsum(np.asarray(fractions, dtype=np.float64)) * n).astype(int)
    for part in range(len(names)):
        ends[part] = min(max(ends[part], (ends[part - 1] if part else 0) + 1), n - (len(names) - 1 - part))
    starts = [0, *ends[:-1]]
    return {name: np.sort(order[a:b]) for name, a, b in zip(names, starts, ends, strict=True)}


def group_split(groups: Array, fractions: Sequence[float], seed: int, column: str) -> dict[str, Array]:
    """Whole groups dealt at random, each to the part that lacks most rows; no group stands in two parts."""
    names = split_names(fractions)
    _, codes = np.unique(groups, return_inverse=True)
    counts = np.bincount(codes)
    if len(counts) < len(names):
        raise DataError(f"group column {column!r} has {len(counts)} groups, too few for {len(names)} parts")
    wanted = np.asarray(fractions, dtype=np.float64) * len(codes)
    wanted *= len(codes) / wanted.sum()
    have = np.zeros(len(names))
    part_of = np.empty(len(counts), dtype=np.int64)
    order = _generator(seed).permutation(len(counts))
    for position, group in enumerate(order):
        empty = np.flatnonzero(have == 0)
        must = len(empty) == len(order) - position
        part = int(empty[0]) if must else int(np.argmax(wanted - have))
        part_of[group] = part
        have[part] += counts[group]
    parts = part_of[codes]
    return {name: np.flatnonzero(parts == at) for at, name in enumerate(names)}


def time_split(times: Array, fractions: Sequence[float], column: str) -> dict[str, Array]:
    """The earliest rows train, the latest test. Rows of one time stay together, on the later side of a boundary."""
    names = split_names(fractions)
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    n = len(ordered)
    ends = np.rint(np.cumsum(np.asarray(fractions, dtype=np.float64)) * n).astype(int)
    ends[-1] = n if sum(fractions) > 1 - 1e-9 else ends[-1]
    # A boundary inside a run of equal times moves back to the start of the run.
    cuts = [int(np.searchsorted(ordered, ordered[end], side="left")) if end < n else n for end in ends]
    starts = [0, *cuts[:-1]]
    if any(a >= b for a, b in zip(starts, cuts, strict=True)):
        raise DataError(
            f"time column {column!r} has too few different times ({len(np.unique(times))}) for {len(names)} parts: "
            "give other fractions, or split='random'"
        )
    return {name: np.sort(order[a:b]) for name, a, b in zip(names, starts, cuts, strict=True)}


def count_duplicates(digests: Array, splits: dict[str, Array]) -> dict[str, int]:
    """For each pair of parts, how many rows of the later one also stand in the earlier: {"train/test": 3, ...}."""
    names = list(splits)
    out = {}
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            twice = np.isin(digests[splits[second]], digests[splits[first]])
            out[f"{first}/{second}"] = int(twice.sum())
    return out


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream(seed, "split")))
