"""Maximum mean discrepancy: the unbiased estimate with a standard error that holds under the null as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.errors import DataError
from reverie.metrics.arrays import FloatArray, as_matrix, row_blocks, same_width, squared_distances

Kernel = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error."""

    value: float
    standard_error: float


def cubic_kernel(x: FloatArray, y: FloatArray) -> FloatArray:
    """k(x, y) = (x.y / d + 1)^3, shape `(n, m)` (Binkowski et al. 2018, section 4). Depends on the feature scale."""
    kernel: FloatArray = (x @ y.T / x.shape[1] + 1.0) ** 3
    return kernel


def gaussian_kernel(width: float) -> Kernel:
    """k(x, y) = exp(-|x - y|^2 / (2 width^2))."""

    def kernel(x: FloatArray, y: FloatArray) -> FloatArray:
        values: FloatArray = np.exp(-squared_distances(x, y) / (2.0 * width**2))
        return values

    return kernel


def kid(x: Any, y: Any) -> Estimate:
    """Kernel distance of features `x` (n, d) and `y` (m, d): unbiased MMD^2 with the cubic kernel.

    Small negative values are correct: the estimate is centred on 0 for equal distributions. The standard error is
    that of the whole estimate, not the spread of overlapping subsets other packages print.
    """
    return mmd2(x, y, cubic_kernel)


def mmd2(x: Any, y: Any, kernel: Kernel) -> Estimate:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) and its standard error.

    MMD^2_u = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j)

    The variance is the exact one of this U-statistic by Hoeffding's decomposition,
    4 zx / n + 4 zy / m + 2 sxx / (n (n-1)) + 2 syy / (m (m-1)) + 4 sxy / (n m): z the variances of the first-order
    projections (0 when the distributions are equal), s those of the doubly centred kernel (what is left then). Each
    is estimated without the upward bias it gets from the other. Memory: blocks of rows; time O((n + m)^2 d).
    """
    x, y = as_matrix(x, "x"), as_matrix(y, "y")
    same_width(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 4:
        raise DataError(f"MMD needs at least 4 rows on each side, got {n} and {m}")
    mean_x, row_x, s_xx = _within(x, kernel)
    mean_y, row_y, s_yy = _within(y, kernel)
    cross_x, cross_y, square = np.zeros(n), np.zeros(m), 0.0
    for rows in row_blocks(n, m):
        block = kernel(x[rows], y)
        cross_x[rows] = block.mean(axis=1)
        cross_y += block.sum(axis=0) / n
        square += float((block * block).sum()) / (n * m)
    mean_xy = float(cross_x.mean())
    variance_x, variance_y = float(cross_x.var(ddof=1)), float(cross_y.var(ddof=1))
    # Row means over m columns carry s_xy / m of the doubly centred part, column means s_xy / n.
    s_xy = max((square - mean_xy**2 - variance_x - variance_y) / (1.0 - 1.0 / m - 1.0 / n), 0.0)
    z_x = float((row_x - cross_x).var(ddof=1)) - s_xx / (n - 1) - s_xy / m
    z_y = float((row_y - cross_y).var(ddof=1)) - s_yy / (m - 1) - s_xy / n
    second = 2 * s_xx / (n * (n - 1)) + 2 * s_yy / (m * (m - 1)) + 4 * s_xy / (n * m)
    # z scatters around 0 under the null; clipping it there would bias the error upwards, so only the sum is bounded.
    variance = max(4 * z_x / n + 4 * z_y / m + second, second / 4)
    return Estimate(mean_x + mean_y - 2.0 * mean_xy, math.sqrt(variance))


def _within(x: FloatArray, kernel: Kernel) -> tuple[float, FloatArray, float]:
    """Mean over pairs i != j, mean of each row without its diagonal `(n,)`, variance of the doubly centred kernel."""
    n = len(x)
    rows_mean, square = np.zeros(n), 0.0
    for rows in row_blocks(n, n):
        block = kernel(x[rows], x)
        block[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)] = 0.0
        rows_mean[rows] = block.sum(axis=1) / (n - 1)
        square += float((block * block).sum()) / (n * (n - 1))
    mean = float(rows_mean.mean())
    # Var k = 2 Var h + s and the sample variance of the row means is Var h + s / (n - 1).
    centred = (square - mean**2 - 2.0 * float(rows_mean.var(ddof=1))) / (1.0 - 2.0 / (n - 1))
    return mean, rows_mean, max(centred, 0.0)
