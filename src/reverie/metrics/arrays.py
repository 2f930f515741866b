"""Arrays for the metrics: float64 matrices, blocks of bounded memory, nearest neighbours.

Distances use |x - y|^2 = |x|^2 + |y|^2 - 2 x.y on centred data, one block of rows at a time. The rounding error of
that form is about eps * |x|^2, so comparisons allow `slack` and reported distances are recomputed by subtraction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reverie.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BLOCK_CELLS = 2**22


def as_matrix(values: Any, name: str = "values") -> FloatArray:
    """`values` (numpy, torch or nested lists) as a finite float64 matrix `(n, d)`; further axes are flattened.

    Raises `DataError` for an empty set or for values that are not finite.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim == 0 or matrix.shape[0] == 0:
        raise DataError(f"{name}: expected at least one row, got shape {matrix.shape}")
    matrix = matrix.reshape(matrix.shape[0], -1)
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix).all(axis=1)).sum())
        raise DataError(f"{name}: {bad} of {len(matrix)} rows hold NaN or infinity; drop or encode them first")
    return matrix


def same_width(x: FloatArray, y: FloatArray) -> None:
    """Raise `DataError` unless both sets have the same number of features."""
    if x.shape[1] != y.shape[1]:
        raise DataError(f"the two sets have different widths: {x.shape[1]} and {y.shape[1]} features")


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices that cut `rows` so that a block of `rows x columns` float64 stays below 32 MiB."""
    size = max(1, _BLOCK_CELLS // max(columns, 1))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def centred(*sets: FloatArray) -> list[FloatArray]:
    """The sets, all shifted by the mean of the first (distances stay the same, cancellation becomes smaller)."""
    centre = sets[0].mean(axis=0)
    return [values - centre for values in sets]


def squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """Squared Euclidean distances `(n, m)`, clipped at 0. Callers pass blocks."""
    square = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)[None, :] - 2.0 * (x @ y.T)
    clipped: FloatArray = np.maximum(square, 0.0)
    return clipped


def slack(*sets: FloatArray) -> float:
    """The rounding allowance for comparing two squared distances: 1e-12 of the largest squared norm."""
    return 1e-12 * max(float((values * values).sum(axis=1).max()) for values in sets)


def nearest(x: Any, y: Any, k: int = 1, *, same: bool = False) -> tuple[FloatArray, IntArray]:
    """The k nearest rows of `y` for each row of `x`: distances `(n, k)` ascending and indices `(n, k)`.

    With `same=True` the two are one set and a row is not its own neighbour. Distances are recomputed by subtraction,
    so exact copies are at exactly 0.
    """
    x, y = as_matrix(x, "x"), as_matrix(y, "y")
    same_width(x, y)
    available = len(y) - int(same)
    if not 1 <= k <= available:
        raise DataError(f"k={k}: expected between 1 and {available}, the number of other rows")
    cx, cy = centred(x, y)
    distances = np.empty((len(x), k))
    indices = np.empty((len(x), k), dtype=np.int64)
    for rows in row_blocks(len(x), len(y)):
        square = squared_distances(cx[rows], cy)
        if same:
            square[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)] = np.inf
        found = np.argpartition(square, k - 1, axis=1)[:, :k] if k < len(y) else np.argsort(square, axis=1)[:, :k]
        exact = np.sqrt(((x[rows][:, None, :] - y[found]) ** 2).sum(axis=2))
        order = np.argsort(exact, axis=1, kind="stable")
        distances[rows] = np.take_along_axis(exact, order, axis=1)
        indices[rows] = np.take_along_axis(found, order, axis=1)
    return distances, indices
