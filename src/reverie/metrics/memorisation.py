"""Is it copied? Share nearer to train than to held-out rows, exact duplicates, closest pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reverie.errors import DataError
from reverie.metrics.arrays import (
    FloatArray,
    IntArray,
    as_matrix,
    centred,
    nearest,
    row_blocks,
    same_width,
    slack,
    squared_distances,
)

_PERMUTATION_CELLS = 2**22


@dataclass(frozen=True)
class NearerShare:
    """`share` nearer to train; `p` one-sided by permutation; `null_sd` the sd of the share under the null (mean 1/2)."""

    share: float
    p: float
    null_sd: float
    permutations: int


def nearer_to_train(
    generated: Any, train: Any, held_out: Any, *, permutations: int = 1000, seed: int = 0
) -> NearerShare:
    """Share of generated rows whose nearest real row is a training row; ties count one half.

    `train` and `held_out` must be of equal size. If the model never saw `train` the two are exchangeable and the
    share is 1/2 in expectation, in any feature space and dimension; copies push it to 1. The test permutes the labels
    train / held-out: the share's spread exceeds the binomial one because rows share neighbours. The share rests on
    the shares of Meehan et al. 2020 and Alaa et al. 2022; the permutation test is exact by exchangeability.
    p = (1 + #{permuted share >= share}) / (1 + permutations). Shapes (g, d), (n, d), (n, d).
    """
    generated, train, held_out = as_matrix(generated, "generated"), as_matrix(train), as_matrix(held_out)
    if len(train) != len(held_out):
        raise DataError(f"train and held-out must be of equal size, got {len(train)} and {len(held_out)} rows")
    pool = np.concatenate([train, held_out])
    distinct, group = np.unique(pool, axis=0, return_inverse=True)
    group = group.reshape(-1)
    starts, tied = _nearest_with_ties(generated, distinct)
    rng = np.random.default_rng(seed)
    is_train = np.arange(len(pool)) < len(train)

    def shares(labels: NDArray[np.bool_]) -> FloatArray:  # (p, pool) -> (p,)
        by_group = np.argsort(group, kind="stable")
        group_starts = np.searchsorted(group[by_group], np.arange(len(distinct)))
        near_train = np.logical_or.reduceat(labels[:, by_group], group_starts, axis=1)
        near_held = np.logical_or.reduceat(~labels[:, by_group], group_starts, axis=1)
        a = np.logical_or.reduceat(near_train[:, tied], starts, axis=1)
        b = np.logical_or.reduceat(near_held[:, tied], starts, axis=1)
        share: FloatArray = (a.astype(np.float64) - 0.5 * (a & b)).mean(axis=1)
        return share

    share = float(shares(is_train[None, :])[0])
    chunk = max(1, _PERMUTATION_CELLS // max(len(tied), len(pool)))
    null: list[FloatArray] = []
    for start in range(0, permutations, chunk):
        labels = np.tile(is_train, (min(chunk, permutations - start), 1))
        null.append(shares(rng.permuted(labels, axis=1)))
    permuted = np.concatenate(null)
    p = (1 + int((permuted >= share - 1e-12).sum())) / (1 + permutations)
    return NearerShare(share, p, float(permuted.std(ddof=1)), permutations)


def _nearest_with_ties(x: FloatArray, y: FloatArray) -> tuple[IntArray, IntArray]:
    """For each row of x the indices of all rows of y at its smallest distance: starts `(n,)` and indices `(nnz,)`."""
    same_width(x, y)
    x, y = centred(x, y)
    allow = slack(x, y)
    counts, indices = [], []
    for rows in row_blocks(len(x), len(y)):
        square = squared_distances(x[rows], y)
        hit = square <= square.min(axis=1, keepdims=True) + allow
        counts.append(hit.sum(axis=1))
        indices.append(np.nonzero(hit)[1])
    count = np.concatenate(counts)
    return np.concatenate([[0], np.cumsum(count)[:-1]]).astype(np.int64), np.concatenate(indices).astype(np.int64)


def duplicate_rate(generated: Any, reference: Any) -> float:
    """Share of generated rows that occur, cell for cell, in `reference`. NaN equals NaN, -0.0 equals 0.0."""
    known = set(_row_keys(reference))
    keys = _row_keys(generated)
    return sum(key in known for key in keys) / len(keys)


def _row_keys(values: Any) -> list[bytes]:
    array = np.asarray(values)
    array = array.reshape(len(array), -1)
    if len(array) == 0:
        raise DataError("no rows to look for duplicates in")
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.nan, array) + 0.0
    array = np.ascontiguousarray(array)
    return [row.tobytes() for row in array]


@dataclass(frozen=True)
class Pairs:
    """Rows of the generated set, their nearest rows in train, and the distances, closest first; each `(count,)`."""

    generated: IntArray
    train: IntArray
    distance: FloatArray


def closest_pairs(generated: Any, train: Any, count: int = 16) -> Pairs:
    """The generated rows that come closest to a training row, each with that row, in feature units."""
    distance, index = nearest(generated, train, 1)
    order = np.argsort(distance[:, 0], kind="stable")[:count]
    return Pairs(order.astype(np.int64), index[order, 0], distance[order, 0])
