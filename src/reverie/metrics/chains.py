"""Have Markov chains mixed? Split R-hat and the effective number of draws, on ranks (Vehtari et al. 2021)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reverie.errors import DataError

Floats = NDArray[np.float64]


def r_hat(draws: ArrayLike) -> float:
    """Split R-hat of draws (chains, steps): the larger of that of the ranks and that of the distances from the median,
    eqs. 4-14. 1 for chains that agree; above 1.01 they do not yet. NaN where draws are constant or not finite."""
    halves = _split(_checked(draws))
    folded = np.abs(halves - np.median(halves))
    return max(_plain_r_hat(_ranks(halves)), _plain_r_hat(_ranks(folded)))


def effective_draws(draws: ArrayLike) -> float:
    """How many independent draws say as much about the middle of the distribution as these (chains, steps): N divided
    by 1 + 2 times the sum of autocorrelations of the ranks, cut off by Geyer's (1992) rule. NaN as for `r_hat`."""
    return _effective(_ranks(_split(_checked(draws))))


def autocorrelation(draws: ArrayLike) -> Floats:
    """Autocorrelation of draws (chains, steps) by lag, (steps,), of all chains together (eq. 10): chains that disagree are
    correlated at every lag. NaN where draws are constant."""
    array = _checked(draws)
    n = array.shape[1]
    within, whole = _variances(array)
    if not whole > 0:
        return np.full(n, np.nan)
    centred = array - array.mean(1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 ** math.ceil(math.log2(2 * n)), axis=1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :n].mean(0) / n
    correlation = 1 - (within - covariance * n / (n - 1)) / whole
    correlation[0] = 1.0
    return np.asarray(correlation)


def _checked(draws: ArrayLike) -> Floats:
    array = np.asarray(draws, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 4:
        raise DataError(f"draws: expected (chains, steps) with at least 4 steps, got shape {array.shape}")
    return array


def _split(draws: Floats) -> Floats:
    """Each chain's first and second half as chains of their own."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _ranks(draws: Floats) -> Floats:
    """Normal scores of the ranks over all chains, ties at their mean."""
    if not np.isfinite(draws).all():
        return np.full(draws.shape, np.nan)
    _, which, counts = np.unique(draws, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[which].reshape(draws.shape)
    return np.asarray(torch.special.ndtri(torch.from_numpy((ranks - 0.375) / (draws.size + 0.25))).numpy())


def _variances(draws: Floats) -> tuple[float, float]:
    """(W, var+): the mean variance within chains, and the estimate of the whole variance."""
    n = draws.shape[1]
    within = float(draws.var(1, ddof=1).mean())
    between = float(draws.mean(1).var(ddof=1))
    return within, within * (n - 1) / n + between


def _plain_r_hat(draws: Floats) -> float:
    within, whole = _variances(draws)
    return math.sqrt(whole / within) if within > 0 else math.nan


def _effective(draws: Floats) -> float:
    chains, n = draws.shape
    correlation = autocorrelation(draws)
    if not np.isfinite(correlation).all():
        return math.nan
    pairs = correlation[: n // 2 * 2].reshape(-1, 2).sum(1)
    positive = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs)
    time = -1 + 2 * float(np.minimum.accumulate(pairs[: max(positive, 1)]).sum())
    total = float(chains * n)
    return total / max(time, 1 / math.log10(total))
