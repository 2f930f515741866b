"""Checks of parameters that users give as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reverie.errors import InvalidOption


def numbers(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Finite float64 numbers of that shape, or `InvalidOption`."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidOption(f"{name}: expected an array of numbers") from None
    if array.shape != shape or not np.isfinite(array).all():
        raise InvalidOption(f"{name}: expected finite numbers of shape {shape}, got {array.shape}")
    return array


def probabilities(name: str, values: ArrayLike, shape: tuple[int, ...], *, zeros: bool) -> NDArray[np.float64]:
    """Numbers of that shape that sum to 1 along the last axis; positive ones unless `zeros` are allowed."""
    array = numbers(name, values, shape)
    if (array < 0).any() or (not zeros and (array == 0).any()) or np.abs(array.sum(-1) - 1).max() > 1e-6:
        raise InvalidOption(f"{name}: expected {'probabilities' if zeros else 'positive numbers'} that sum to 1")
    return array
