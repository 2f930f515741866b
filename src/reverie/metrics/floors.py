"""What a figure reads on real data against real data at the same n, and the words for a figure beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reverie.errors import DataError
from reverie.metrics.arrays import IntArray

Direction = Literal["up", "down"]

SMALL_N = 50
"""Below this many rows a side a verdict only says that n is too small to rank."""


@dataclass(frozen=True)
class Floor:
    """Mean and standard deviation of a statistic between two disjoint halves of real data, `n` rows each."""

    mean: float
    sd: float
    n: int
    repeats: int


def real_floor(
    statistic: Callable[[IntArray, IntArray], Mapping[str, float]],
    rows: int,
    n: int,
    *,
    repeats: int = 20,
    seed: int = 0,
) -> dict[str, Floor]:
    """Split `rows` real rows at random into two disjoint sets of n, `repeats` times; mean and sd of every statistic.

    `statistic(first, second)` gets two index arrays `(n,)`. The splits share rows, so the sd is slightly too small
    when 2 n is close to `rows`. Bootstrapping with replacement is not offered: repeated rows add the small-sample
    bias of a distance a second time. NaN results are left out.
    """
    if n < 1 or 2 * n > rows:
        raise DataError(f"a floor at n={n} needs {2 * n} real rows, there are {rows}")
    if repeats < 2:
        raise DataError(f"repeats={repeats}: a standard deviation needs at least 2")
    rng = np.random.default_rng(seed)
    collected: dict[str, list[float]] = {}
    for _ in range(repeats):
        order = rng.permutation(rows)[: 2 * n]
        for name, value in statistic(order[:n], order[n:]).items():
            collected.setdefault(name, []).append(float(value))
    out = {}
    for name, values in collected.items():
        finite = np.asarray([value for value in values if math.isfinite(value)])
        mean = float(finite.mean()) if len(finite) else math.nan
        sd = float(finite.std(ddof=1)) if len(finite) > 1 else math.nan
        out[name] = Floor(mean, sd, n, repeats)
    return out


def z_score(value: float, floor: float, floor_sd: float, direction: Direction) -> float:
    """How many floor sd the value is *worse* than real data: (value - floor) / sd for `down`, negated for `up`.

    A floor that never varies gives 0 for an equal value and infinity otherwise.
    """
    worse = value - floor if direction == "down" else floor - value
    if not floor_sd > 0.0:
        return 0.0 if abs(worse) <= 1e-12 else math.copysign(math.inf, worse)
    return worse / floor_sd


def verdict(value: float, floor: float, floor_sd: float, direction: Direction, n: int) -> str:
    """z < 2: "indistinguishable at this n"; else the factor over the floor, or z where a factor means nothing."""
    if not (math.isfinite(value) and math.isfinite(floor)):
        return "no verdict"
    if n < SMALL_N:
        return "n too small to rank"
    z = z_score(value, floor, floor_sd, direction)
    if z < -3.0:
        return "closer than real data: check for copies" if direction == "down" else "above real data"
    if z < 2.0:
        return "indistinguishable at this n"
    if floor > 2.0 * floor_sd:
        factor = value / floor
        return f"{_factor(factor)} the floor" if direction == "down" else f"{factor:.0%} of the floor"
    return f"{z:.0f} sd above the floor" if math.isfinite(z) else "above the floor"


def _factor(factor: float) -> str:
    return f"{factor:.1f}x" if factor < 10 else f"{factor:,.0f}x"
