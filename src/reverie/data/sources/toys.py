"""Small sets in two dimensions whose density is known: moons, a ring and a grid of Gaussians. Always the same rows."""

from __future__ import annotations

import numpy as np

from reverie.data.table import Array
from reverie.rng import stream

ROWS = 2500
RING_SIGMA = 0.01
GRID_SIGMA = 0.05


def two_moons() -> Array:
    """Two interleaved half circles with Gaussian noise of 0.1, shape (2500, 2) float64."""
    rng = _generator("two_moons")
    angle = rng.uniform(0, np.pi, ROWS)
    upper = rng.integers(0, 2, ROWS) == 0
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], 1) + rng.normal(0, 0.1, (ROWS, 2))


def ring_centres() -> Array:
    """The 8 centres of `ring8`, on the unit circle, shape (8, 2)."""
    angle = np.arange(8) * (np.pi / 4)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def ring8() -> Array:
    """8 Gaussians of sigma 0.01 on a circle of radius 1, equally likely, shape (2500, 2) float64."""
    return _mixture("ring8", ring_centres(), RING_SIGMA)


def grid_centres() -> Array:
    """The 25 centres of `grid25`, {-4, -2, 0, 2, 4} squared, shape (25, 2)."""
    axis = np.arange(-4.0, 5.0, 2.0)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def grid25() -> Array:
    """25 Gaussians of sigma 0.05 on a 5 x 5 grid with spacing 2, equally likely, shape (2500, 2) float64."""
    return _mixture("grid25", grid_centres(), GRID_SIGMA)


def _mixture(name: str, centres: Array, sigma: float) -> Array:
    rng = _generator(name)
    return np.asarray(centres[rng.integers(0, len(centres), ROWS)] + rng.normal(0, sigma, (ROWS, 2)))


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream(0, "toys", name)))
