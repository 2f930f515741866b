"""Counting modes on ring8, grid25 and other data whose centres are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.errors import DataError
from reverie.metrics.arrays import as_matrix, same_width, squared_distances


@dataclass(frozen=True)
class Modes:
    """`high_quality` share within `radius` sd of a centre; `hit` modes with one such row or more (a weak figure);
    `covered` modes with at least half their expected mass; `tv` total variation of the mode histogram; `total`."""

    high_quality: float
    hit: int
    covered: int
    tv: float
    total: int


def count_modes(
    samples: Any, centres: Any, sd: float, *, radius: float = 3.0, weights: Any = None, expected: float | None = None
) -> Modes:
    """Assign samples (n, d) to their nearest centre and count (ring8 and grid25: Lin et al. 2018, PacGAN).

    "High quality" = within `radius` standard deviations of that centre. A perfect sampler of 2-D Gaussians reaches
    `expected_high_quality(radius, 2)` = 0.98889 at 3 sd, not 1. Mode shares are taken among high-quality rows; the
    histogram for `tv` uses all rows. `weights` are the modes' true shares (equal if not given).
    """
    x, c = as_matrix(samples, "samples"), as_matrix(centres, "centres")
    same_width(x, c)
    if sd <= 0:
        raise DataError(f"sd={sd}: expected a positive standard deviation")
    share = np.full(len(c), 1.0 / len(c)) if weights is None else np.asarray(weights, dtype=np.float64)
    share = share / share.sum()
    square = squared_distances(x, c)
    mode = square.argmin(axis=1)
    good = square[np.arange(len(x)), mode] <= (radius * sd) ** 2
    good_counts = np.bincount(mode[good], minlength=len(c))
    histogram = np.bincount(mode, minlength=len(c)) / len(x)
    best = expected_high_quality(radius, x.shape[1]) if expected is None else expected
    return Modes(
        high_quality=float(good.mean()),
        hit=int((good_counts > 0).sum()),
        covered=int((good_counts >= 0.5 * best * share * len(x)).sum()),
        tv=float(0.5 * np.abs(histogram - share).sum()),
        total=len(c),
    )


def expected_high_quality(radius: float = 3.0, d: int = 2) -> float:
    """P(|z| <= radius) of a standard normal in d dimensions: 1 - exp(-radius^2 / 2) for d = 2.

    From the regularised incomplete gamma function P(d/2, radius^2/2) by its recurrence in steps of one.
    """
    half = radius * radius / 2.0
    if d % 2 == 0:
        value, term, start = 1.0 - math.exp(-half), math.exp(-half), 1.0
    else:
        value, term, start = math.erf(math.sqrt(half)), math.exp(-half) / math.sqrt(math.pi * half), 0.5
    order = start
    while order < d / 2:
        # P(a + 1, h) = P(a, h) - h^a exp(-h) / Gamma(a + 1)
        term *= half / order
        value -= term
        order += 1.0
    return value
