"""Tables column by column and pair by pair: Kolmogorov-Smirnov, total variation, association.

Numbers are float64 with NaN for missing; categories are codes 0..levels-1 with -1 for missing. A missing number is an
atom below all numbers, a missing category a level of its own, so a wrong share of missing cells shows as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reverie.errors import DataError
from reverie.metrics.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Column:
    """One column of a table: `values` (n,) float64 numbers, or codes when `levels` is given (number of categories)."""

    name: str
    values: NDArray[Any]
    levels: int | None = None

    def take(self, index: IntArray) -> Column:
        return Column(self.name, self.values[index], self.levels)


def ks_statistic(x: Any, y: Any) -> float:
    """sup_t |F_x(t) - F_y(t)| of two 1-D samples (Kolmogorov 1933), 0..1; NaN is an atom below all numbers."""
    a, b = (np.asarray(v, dtype=np.float64).reshape(-1) for v in (x, y))
    if len(a) == 0 or len(b) == 0:
        raise DataError("the Kolmogorov-Smirnov distance needs at least one value on each side")
    a, b = (np.sort(np.where(np.isnan(v), -np.inf, v)) for v in (a, b))
    steps = np.concatenate([a, b])
    gap = np.searchsorted(a, steps, side="right") / len(a) - np.searchsorted(b, steps, side="right") / len(b)
    return float(np.abs(gap).max())


def total_variation(x: Any, y: Any, levels: int) -> float:
    """(1/2) sum_c |p_x(c) - p_y(c)| over codes 0..levels-1 and missing (-1), 0..1."""
    a, b = (_histogram(v, levels) for v in (x, y))
    return float(0.5 * np.abs(a - b).sum())


def marginal_distance(x: Column, y: Column) -> float:
    """KS for numbers, TV for categories."""
    if x.levels is None:
        return ks_statistic(x.values, y.values)
    return total_variation(x.values, y.values, x.levels)


def _histogram(codes: Any, levels: int) -> FloatArray:
    shifted = np.asarray(codes, dtype=np.int64).reshape(-1) + 1
    if len(shifted) == 0 or shifted.min() < 0 or shifted.max() > levels:
        raise DataError(f"category codes must lie in -1..{levels - 1} and there must be at least one")
    return np.bincount(shifted, minlength=levels + 1) / len(shifted)


def association_pairs(columns: int, limit: int = 400, seed: int = 0) -> IntArray:
    """All pairs of column numbers `(p, 2)`, or `limit` of them drawn without replacement."""
    pairs = np.stack(np.triu_indices(columns, 1), axis=1).astype(np.int64)
    if len(pairs) > limit:
        pairs = pairs[np.sort(np.random.default_rng(seed).choice(len(pairs), limit, replace=False))]
    return pairs


def associations(columns: Sequence[Column], pairs: IntArray) -> FloatArray:
    """Strength of association of each pair, `(p,)`; NaN where a side is constant or fewer than 3 rows are complete.

    number-number: Spearman's rank correlation, -1..1. category-category: Cramer's V with Bergsma's bias correction
    (2013), 0..1. number-category: correlation ratio eta = sqrt(variance of the level means of the ranks / variance),
    corrected for its degrees of freedom (epsilon, Kelley 1935), 0..1. Missing numbers drop out pairwise, a missing
    category is a level.
    """
    ranked = [column.values if column.levels is not None else _ranks(column.values) for column in columns]
    out = np.full(len(pairs), math.nan)
    for position, (i, j) in enumerate(pairs):
        a, b = columns[i], columns[j]
        if a.levels is None and b.levels is None:
            out[position] = _correlation(ranked[i], ranked[j])
        elif a.levels is not None and b.levels is not None:
            out[position] = _cramers_v(ranked[i], ranked[j], a.levels + 1, b.levels + 1)
        elif a.levels is None:
            out[position] = _correlation_ratio(ranked[i], ranked[j], (b.levels or 0) + 1)
        else:
            out[position] = _correlation_ratio(ranked[j], ranked[i], a.levels + 1)
    return out


def association_error(x: Sequence[Column], y: Sequence[Column], pairs: IntArray) -> float:
    """Mean |association in x - association in y| over the pairs; one that is undefined on one side only counts as 0
    there, on both sides it is left out. NaN when no pair is left."""
    a, b = associations(x, pairs), associations(y, pairs)
    either = ~(np.isnan(a) & np.isnan(b))
    if not either.any():
        return math.nan
    return float(np.abs(np.nan_to_num(a[either]) - np.nan_to_num(b[either])).mean())


def _ranks(values: NDArray[Any]) -> FloatArray:
    """Mid-ranks of the observed values; NaN stays NaN."""
    out = np.full(len(values), math.nan)
    seen = ~np.isnan(values)
    _, inverse, counts = np.unique(values[seen], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    out[seen] = (last - (counts - 1) / 2.0)[inverse.reshape(-1)]
    return out


def _correlation(a: FloatArray, b: FloatArray) -> float:
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 3:
        return math.nan
    a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def _cramers_v(a: IntArray, b: IntArray, levels_a: int, levels_b: int) -> float:
    n = len(a)
    table = np.bincount((a + 1) * levels_b + (b + 1), minlength=levels_a * levels_b).reshape(levels_a, levels_b)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(np.float64)
    r, c = table.shape
    if min(r, c) < 2 or n < 3:
        return math.nan
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / n
    phi2 = float(((table - expected) ** 2 / expected).sum()) / n
    phi2 = max(phi2 - (r - 1) * (c - 1) / (n - 1), 0.0)
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return min(math.sqrt(phi2 / smaller), 1.0) if smaller > 0 else math.nan


def _correlation_ratio(ranks: FloatArray, codes: IntArray, levels: int) -> float:
    seen = ~np.isnan(ranks)
    ranks, codes = ranks[seen], codes[seen] + 1
    counts = np.bincount(codes, minlength=levels)
    present, n = int((counts > 0).sum()), len(ranks)
    if present < 2 or n <= present:
        return math.nan
    ranks = ranks - ranks.mean()
    total = float(ranks @ ranks)
    if total <= 0:
        return math.nan
    sums = np.bincount(codes, weights=ranks, minlength=levels)[counts > 0]
    between = float((sums**2 / counts[counts > 0]).sum())
    within = (total - between) / (n - present)
    return math.sqrt(max(1.0 - within / (total / (n - 1)), 0.0))
