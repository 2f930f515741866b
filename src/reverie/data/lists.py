"""Lists: texts, sequences of different lengths, and plain nested lists of numbers (read as an array)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from reverie.data.arrays import as_array
from reverie.data.schema import Field
from reverie.data.table import Array
from reverie.errors import DataError


def list_form(X: Sequence[Any]) -> str:
    """`text`, `sequence` or `array` (plain numbers, possibly nested), or a `DataError` saying what to give."""
    if len(X) == 0:
        raise DataError("X is empty: there is nothing to learn from")
    kinds = [_item_kind(item) for item in X]
    first = kinds[0]
    odd = next((row for row, kind in enumerate(kinds) if kind != first), None)
    if odd is not None:
        raise DataError(f"X mixes types: item 0 is a {type(X[0]).__name__}, item {odd} a {type(X[odd]).__name__}")
    if first == "other":
        name = type(X[0]).__name__
        advice = "give pd.DataFrame(X)" if isinstance(X[0], dict) else "give an array, a DataFrame or a list of texts"
        raise DataError(f"X is a list of {name}: {advice}")
    if first == "sequence":
        deep = next((row for row, item in enumerate(X) if item.ndim not in (1, 2)), None)
        if deep is not None:
            raise DataError(
                f"item {deep} of the list has shape {tuple(X[deep].shape)}: a sequence is (T,) or (T, d); "
                "for images give one array, np.stack(X)"
            )
    return "array" if first in ("number", "row") else first


def _item_kind(item: Any) -> str:
    if isinstance(item, str):
        return "text"
    if isinstance(item, torch.Tensor | np.ndarray) and item.ndim:
        return "sequence"
    if isinstance(item, list | tuple):
        return "row"
    return "number" if isinstance(item, bool | int | float | np.generic | torch.Tensor | np.ndarray) else "other"


def stack(X: Sequence[Any]) -> Array:
    """Nested lists of numbers as one array. Rows of different lengths or text raise `DataError`."""
    lengths = [len(row) if isinstance(row, list | tuple) else -1 for row in X]
    odd = next((row for row, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is not None:
        raise DataError(
            f"rows have different lengths: row 0 has {lengths[0]} numbers, row {odd} has {lengths[odd]}. Make them equal, "
            "or for sequences give a list of arrays, [np.asarray(row) for row in X]"
        )
    try:
        array = np.array(X)
    except (ValueError, TypeError, OverflowError) as problem:
        raise DataError(f"X cannot be read as an array of numbers ({problem})") from None
    if array.dtype.kind not in "biuf":
        raise DataError("X is a list of rows that are not only numbers: give pd.DataFrame(X, columns=[...])")
    return array


def sequence_field(X: Sequence[Any], name: str = "x") -> Field:
    """Describe a list of (T,) or (T, d) arrays; shape is () or (d,), dtype the common type of the items."""
    arrays = [as_array(item) for item in X]
    tensors = arrays[0][1].startswith("torch.")
    shape = tuple(arrays[0][0].shape[1:])
    for row, (array, _) in enumerate(arrays):
        if array.dtype.kind not in "biuf":
            raise DataError(f"sequence {row} is of type {array.dtype}: give numbers")
        if tuple(array.shape[1:]) != shape:
            raise DataError(
                f"sequence {row} has shape {array.shape}, sequence 0 has {arrays[0][0].shape}: all need the same width d"
            )
    if tensors:
        kinds = {text for _, text in arrays}
        if len(kinds) > 1:
            raise DataError(f"sequences are of different types, {', '.join(sorted(kinds))}: convert them to one")
        dtype = kinds.pop()
    else:
        dtype = str(np.result_type(*(array.dtype for array, _ in arrays)))
    nullable = any(array.dtype.kind == "f" and bool(np.isnan(array).any()) for array, _ in arrays)
    return Field(name, "sequence", shape=shape, dtype=dtype, nullable=nullable)


def sequence_column(field: Field, X: Sequence[Any], error: type[DataError] = DataError) -> Array:
    """Object array of float arrays (T_i, d); d is 1 where the user gave (T,)."""
    kind = np.float32 if field.dtype.endswith(("float32", "float16")) else np.float64
    out = np.empty(len(X), dtype=object)
    for row, item in enumerate(X):
        array, _ = as_array(item)
        if array.dtype.kind not in "biuf" or array.ndim != len(field.shape) + 1 or array.shape[1:] != field.shape:
            raise error(
                f"sequence {row} has shape {array.shape} and type {array.dtype}: "
                f"numbers (T{''.join(f', {size}' for size in field.shape)}) are wanted"
            )
        if len(array) == 0:
            raise error(f"sequence {row} is empty: drop it")
        if array.dtype.kind == "f" and np.isinf(array).any():
            raise error(f"sequence {row}, step {int(np.argwhere(np.isinf(array))[0][0])} is infinite: replace it")
        out[row] = array.reshape(len(array), -1).astype(kind)
    return out


def text_column(X: Sequence[Any], error: type[DataError] = DataError) -> Array:
    """Object array of str."""
    out = np.empty(len(X), dtype=object)
    for row, item in enumerate(X):
        if not isinstance(item, str):
            raise error(f"item {row} is a {type(item).__name__}, where text is wanted")
        out[row] = str(item)
    return out


def restore_list(field: Field, column: Array) -> list[Any]:
    """The user's list of texts, arrays or tensors."""
    if field.kind == "text":
        return [None if value is None else str(value) for value in column]
    from reverie.data.arrays import restore_array

    one = Field(field.name, "number", dtype=field.dtype)
    flat = [item if field.shape else item[:, 0] for item in column]
    return [restore_array(one, np.asarray(item)) for item in flat]
