"""Precision, recall, density and coverage from k-nearest-neighbour balls, and their values for a perfect model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.errors import DataError
from reverie.metrics.arrays import as_matrix, centred, nearest, row_blocks, same_width, slack, squared_distances


@dataclass(frozen=True)
class Neighbourhood:
    """Shares in 0..1, except density, which may exceed 1. Identical distributions do not give 1 everywhere."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood(real: Any, generated: Any, k: int = 5) -> Neighbourhood:
    """Balls around each point reach to its k-th neighbour in its own set; a point on the rim is inside (`<=`).

    precision = share of generated rows inside some real ball; recall = share of real rows inside some generated ball
    (Kynkaanniemi et al. 2019). density = balls of real rows around a generated one, over k, on average; coverage =
    share of real rows whose ball holds a generated one (Naeem et al. 2020, eq. 4-5). With `<=`, two identical
    constant sets score 1. Shapes (n, d) and (m, d); time O((n + m)^2 d), memory in blocks.
    """
    real, generated = as_matrix(real, "real"), as_matrix(generated, "generated")
    same_width(real, generated)
    if not 1 <= k < min(len(real), len(generated)):
        raise DataError(f"k={k}: each set needs more than k rows, got {len(real)} and {len(generated)}")
    real, generated = centred(real, generated)
    allow = slack(real, generated)
    real_radius = nearest(real, real, k, same=True)[0][:, -1] ** 2 + allow
    generated_radius = nearest(generated, generated, k, same=True)[0][:, -1] ** 2 + allow
    balls = np.zeros(len(generated), dtype=np.int64)
    recalled, covered = 0, 0
    for rows in row_blocks(len(real), len(generated)):
        square = squared_distances(real[rows], generated)
        inside = square <= real_radius[rows, None]
        balls += inside.sum(axis=0)
        covered += int(inside.any(axis=1).sum())
        recalled += int((square <= generated_radius[None, :]).any(axis=1).sum())
    return Neighbourhood(
        precision=float((balls > 0).mean()),
        recall=recalled / len(real),
        density=float(balls.mean()) / k,
        coverage=covered / len(real),
    )


def expected_coverage(n: int, m: int, k: int = 5) -> float:
    """Coverage of n real rows by m rows of the same continuous distribution: 1 - prod_{j=1..k} (n-j) / (n+m-j).

    A real row stays uncovered when its k nearest of the other n + m - 1 points are all real (Naeem et al. 2020,
    section 3.3); free of the dimension and of the distribution. The expected density is 1.
    """
    return 1.0 - math.prod((n - j) / (n + m - j) for j in range(1, k + 1))
