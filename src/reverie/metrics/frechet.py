"""Frechet distance between two Gaussians fitted to features, and what it reads on two samples of one distribution."""

from __future__ import annotations

from typing import Any

import numpy as np

from reverie.errors import DataError
from reverie.metrics.arrays import FloatArray, as_matrix, same_width


def moments(features: Any) -> tuple[FloatArray, FloatArray]:
    """Mean `(d,)` and covariance `(d, d)` with divisor n - 1, in float64, centred before squaring. Needs n >= 2."""
    x = as_matrix(features, "features")
    if len(x) < 2:
        raise DataError("a covariance needs at least 2 rows, got 1")
    mean = x.mean(axis=0)
    deviation = x - mean
    return mean, deviation.T @ deviation / (len(x) - 1)


def frechet_distance(x: Any, y: Any) -> float:
    """Frechet distance of Gaussians fitted to features `x` (n, d) and `y` (m, d), in squared feature units.

    d^2 = |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)      (Dowson & Landau 1982; Heusel et al. 2017, eq. 6)

    It is the squared 2-Wasserstein distance of the two Gaussians: blind to higher moments, biased upwards by about
    `frechet_floor`, and smallest of all for copies of the reference. It is called FID only on Inception features.
    """
    x, y = as_matrix(x, "x"), as_matrix(y, "y")
    same_width(x, y)
    return frechet_from_moments(*moments(x), *moments(y))


def frechet_from_moments(mean1: FloatArray, cov1: FloatArray, mean2: FloatArray, cov2: FloatArray) -> float:
    """The same from means `(d,)` and covariances `(d, d)`.

    tr (S1^1/2 S2 S1^1/2)^1/2 is computed as the sum of the singular values of S1^1/2 S2^1/2, which are the square
    roots of the eigenvalues of S1^1/2 S2 S1^1/2 but without a root of rounding noise: right for singular covariances
    (n < d) as well. Never negative.
    """
    shift = mean1 - mean2
    cross = np.linalg.svd(_root(cov1) @ _root(cov2), compute_uv=False).sum()
    return max(float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2.0 * cross), 0.0)


def frechet_floor(cov: FloatArray, n: int, m: int) -> float:
    """Expected Frechet distance of samples of n and m rows from one Gaussian with covariance `cov` (d, d).

    (1/n + 1/m) [ sum_i l_i + (sum_ij l_i l_j / (l_i + l_j) + sum_i l_i / 2) / 2 ],  l = eigenvalues, to first order
    in 1/n; for the identity (1/n + 1/m) d (d + 5) / 4. A rule of thumb: 5 % of the total variance at n = 10 d.
    """
    eigenvalues = np.linalg.eigvalsh(cov).clip(min=0.0)
    values = eigenvalues[eigenvalues > 0.0]
    pairs = (values[:, None] * values[None, :] / (values[:, None] + values[None, :])).sum()
    total = values.sum()
    return float((1.0 / n + 1.0 / m) * (total + 0.5 * (pairs + 0.5 * total)))


def _root(cov: FloatArray) -> FloatArray:
    """Symmetric square root of a covariance; eigenvalues below d * eps * largest are rounding noise and become 0."""
    values, vectors = np.linalg.eigh(cov)
    values = np.where(values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0), values, 0.0)
    root: FloatArray = (vectors * np.sqrt(values)) @ vectors.T
    return root
