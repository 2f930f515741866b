"""Intervals and standard errors."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from reverie.errors import DataError
from reverie.metrics.kernel import Estimate


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a proportion (Wilson 1927): (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    if n < 1 or not 0 <= successes <= n:
        raise DataError(f"{successes} successes of {n}: expected 0 <= successes <= n and n >= 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == n else min(centre + half, 1.0)
    return low, high


def mean_error(values: Any) -> Estimate:
    """Mean and its standard error sd / sqrt(n) in float64; infinite values give an infinite mean and NaN error."""
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(x) == 0:
        raise DataError("the mean of no values")
    if not np.isfinite(x).all():
        with np.errstate(invalid="ignore"):
            return Estimate(float(x.mean()), math.nan)
    return Estimate(float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else math.nan)


def median_error(values: Any, *, repeats: int = 200, seed: int = 0) -> Estimate:
    """Median and its bootstrap standard error (Efron 1979)."""
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    drawn = np.random.default_rng(seed).integers(0, len(x), size=(repeats, len(x)))
    return Estimate(float(np.median(x)), float(np.median(x[drawn], axis=1).std(ddof=1)))
