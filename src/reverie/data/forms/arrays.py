"""numpy arrays and torch tensors: one block of numbers, or images. Large arrays are read piece by piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from reverie.data.forms.restoring import whole
from reverie.data.forms.series import WHOLE
from reverie.data.schema import Field
from reverie.data.table import Array
from reverie.errors import DataError

PIECE = 2**24
"""Bytes looked at in one go when an array is checked."""
CHANNELS = (1, 2, 3, 4)


def as_array(X: Any) -> tuple[Array, str]:
    """The ndarray behind a tensor or array, and the user's type as text (`torch.float32`, `uint8`)."""
    if isinstance(X, torch.Tensor):
        if X.layout != torch.strided or X.is_quantized:
            raise DataError(f"X is a {X.layout} tensor: give a dense one, X.to_dense()")
        plain = X.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy(), str(X.dtype)
    if isinstance(X, np.ma.MaskedArray):
        raise DataError("X is a masked array: mark missing cells with NaN, X.astype(float).filled(np.nan)")
    array = X if type(X) is np.memmap else np.asarray(X)
    return array, str(array.dtype)


def pieces(X: Array) -> Iterator[tuple[int, Array]]:
    """(first row, rows) in pieces of about 16 MB, so that a memory-mapped array is never held whole."""
    rows = max(PIECE // max(X[:1].nbytes, 1), 1)
    for start in range(0, len(X), rows):
        yield start, np.asarray(X[start : start + rows])


def array_field(
    X: Array, name: str = "x", *, dtype: str, kind: str | None = None, value_range: tuple[float, float] | None = None
) -> Field:
    """Describe a numeric array: (n,) scalar, (n, d) block, (n, H, W) or (n, H, W, C) images.

    Raises `DataError` for an empty array, infinities (with row and column), a column without any value, channel-first
    images, float images outside [0, 1], whole numbers beyond 2**53, and types that are not numbers.
    """
    _check_type(X, dtype)
    if X.ndim == 0:
        raise DataError("X is a single number: give an array with one row per example")
    if len(X) == 0 or X.size == 0:
        raise DataError(f"X has shape {X.shape}: there is nothing to learn from")
    if X.ndim > 4:
        raise DataError(f"X has shape {X.shape}: at most four axes are possible, (n, height, width, channels)")
    if X.ndim >= 3:
        return _image_field(X, name, dtype, kind, value_range)
    shape = tuple(X.shape[1:])
    if X.dtype.kind == "M":
        if shape or kind not in (None, "datetime"):
            raise DataError("dates: give one axis, or a DataFrame for several columns")
        return Field(name, "datetime", dtype=dtype, nullable=bool(np.isnat(X).any()))
    natural = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}[X.dtype.kind]
    chosen = kind or natural
    if chosen not in ("number", "integer", "boolean", "category") or (chosen == "category" and natural == "number"):
        raise DataError(
            f"an array of {dtype} and shape {X.shape} cannot be of kind {chosen!r}: "
            "possible are number, integer, boolean and, for whole numbers, category"
        )
    field = Field(name, chosen, shape=shape, dtype=dtype)
    if chosen == "category":
        values = sorted({value for _, piece in pieces(X) for value in np.unique(piece).tolist()})
        return dataclasses.replace(field, categories=tuple(values))
    return dataclasses.replace(field, nullable=_check_values(field, X))


def _check_type(X: Array, dtype: str) -> None:
    kind = X.dtype.kind
    advice = {
        "c": "holds complex numbers: give real and imaginary parts as two columns",
        "V": "is a structured array: give pd.DataFrame(X)",
        "O": "holds Python objects: give X.astype(float) for numbers, or pd.DataFrame(X) for mixed columns",
        "S": "holds bytes: decode it with np.char.decode(X)",
        "U": "holds text: give X.tolist() for texts, or pd.DataFrame(X) for columns of categories",
        "m": "holds time differences: divide by np.timedelta64(1, 's')",
    }
    if kind in advice:
        raise DataError(f"X ({dtype}) {advice[kind]}")
    if kind == "f" and X.dtype.itemsize > 8:
        raise DataError(f"X is of type {dtype}: convert it with X.astype(np.float64)")
    if kind not in "biufM":
        raise DataError(f"X is of type {dtype}: give numbers, for instance X.astype(np.float32)")


def _check_values(field: Field, X: Array) -> bool:
    """Refuse what cannot be learned; tell whether cells are missing."""
    if field.kind == "boolean" and X.dtype.kind != "b":
        for _, piece in pieces(X):
            if not np.isin(piece[~np.isnan(piece)] if piece.dtype.kind == "f" else piece, (0, 1)).all():
                raise DataError("X cannot be of kind 'boolean': it has values other than 0 and 1")
    if X.dtype.kind in "iu":
        for start, piece in pieces(X):
            if int(piece.max()) > WHOLE or int(piece.min()) < -WHOLE:
                flat = (piece > WHOLE) | (piece < -WHOLE)
                raise DataError(f"{_where(flat, start)} is beyond 2**53, where floats skip whole numbers: scale X")
    if X.dtype.kind != "f":
        return False
    nullable, seen = False, np.zeros(X.shape[1:], dtype=bool)
    for start, piece in pieces(X):
        if np.isinf(piece).any():
            raise DataError(f"{_where(np.isinf(piece), start)} is infinite: replace it, for instance by NaN (missing)")
        absent = np.isnan(piece)
        nullable |= bool(absent.any())
        seen |= ~absent.all(axis=0)
        if field.kind == "integer" and not (absent | (piece == np.rint(piece))).all():
            raise DataError("X cannot be of kind 'integer': it has values that are not whole")
    if not seen.all():
        column = f"column {int(np.argmin(seen))}" if X.ndim == 2 else "X"
        raise DataError(f"{column} has no value in any row: drop it, for instance with np.delete(X, column, axis=1)")
    return nullable


def _where(wrong: Array, start: int) -> str:
    first = np.argwhere(wrong)[0]
    row = f"row {start + int(first[0])}"
    return f"X: {row}, column {int(first[1])}" if wrong.ndim > 1 else f"X: {row}"


def _image_field(X: Array, name: str, dtype: str, kind: str | None, value_range: tuple[float, float] | None) -> Field:
    if kind not in (None, "image"):
        raise DataError(f"X has shape {X.shape}, which is images: kind {kind!r} needs (n,) or (n, d)")
    check_image_shape(tuple(X.shape), dtype)
    low, high = value_range or {"b": (0.0, 1.0), "f": (0.0, 1.0)}.get(X.dtype.kind, (0.0, 255.0))
    if value_range is None and X.dtype == np.uint16:
        high = 65535.0
    if value_range is None and X.dtype in (np.uint8, np.uint16) and _brightest(X) == 1:
        high = 1.0  # whole numbers 0 and 1 are black and white
    if X.dtype.kind == "b" or X.dtype in (np.uint8, np.uint16):
        return Field(name, "image", shape=tuple(X.shape[1:]), dtype=dtype, low=low, high=high)
    smallest, largest, nullable = np.inf, -np.inf, False
    for start, piece in pieces(X):
        if X.dtype.kind == "f":
            if np.isinf(piece).any():
                raise DataError(f"image {start + int(np.argwhere(np.isinf(piece))[0][0])} has an infinite pixel")
            absent = np.isnan(piece)
            nullable |= bool(absent.any())
            piece = piece[~absent]
        if piece.size:
            smallest, largest = min(smallest, float(piece.min())), max(largest, float(piece.max()))
    if smallest > largest:
        raise DataError("the images have no value in any pixel")
    if X.dtype.kind in "iu":
        fits = next((t for t, top in (("uint8", 255), ("uint16", 65535)) if smallest >= 0 and largest <= top), None)
        advice = f"X.astype(np.{fits})" if fits else "scale them to 0..255 and X.astype(np.uint8)"
        raise DataError(f"images of type {dtype} with values {smallest:g} to {largest:g}: give {advice}")
    if smallest < low or largest > high:
        if smallest >= 0 and largest <= 255:
            advice = "divide by 255, or give X.round().astype(np.uint8)"
        elif smallest >= -1 and largest <= 1:
            advice = "give (X + 1) / 2"
        else:
            advice = "rescale them, and if these are no images but sequences, give a list of (T, d) arrays"
        raise DataError(f"float images must lie in [0, 1], these go from {smallest:g} to {largest:g}: {advice}")
    return Field(name, "image", shape=tuple(X.shape[1:]), dtype=dtype, nullable=nullable, low=low, high=high)


def _brightest(X: Array) -> int:
    """The largest pixel, or 2 as soon as one is larger than 1."""
    largest = 0
    for _, piece in pieces(X):
        largest = max(largest, int(piece.max()))
        if largest > 1:
            return 2
    return largest


def check_image_shape(shape: tuple[int, ...], dtype: str, error: type[DataError] = DataError) -> None:
    """(n, H, W) or (n, H, W, C) with C in 1..4; a channel-first shape gets told how to turn it."""
    if len(shape) == 4 and shape[3] not in CHANNELS:
        if shape[1] in CHANNELS:
            turn = "X.permute(0, 2, 3, 1)" if dtype.startswith("torch.") else "np.moveaxis(X, 1, -1)"
            raise error(f"X has shape {shape}, which looks channel-first: images are (n, H, W, C) here, give {turn}")
        raise error(f"X has shape {shape}: images are (n, H, W) or (n, H, W, C) with 1 to 4 channels")


def array_column(field: Field, X: Array, error: type[DataError] = DataError) -> Array:
    """The rows of X as a table column of this field. Later data are checked against it (`error`)."""
    if X.shape[1:] != field.shape:
        hint = ": for one example give X[None]" if X.shape == field.shape else ""
        if field.kind == "image":
            check_image_shape(tuple(X.shape), str(X.dtype), error)
        raise error(f"X has shape {X.shape} where (n{''.join(f', {size}' for size in field.shape)}) is wanted{hint}")
    if X.dtype.kind not in "biufM" or (X.dtype.kind == "M") != (field.kind == "datetime"):
        raise error(f"X is of type {X.dtype} where {field.dtype} is wanted")
    if field.kind == "datetime":
        return _dates(X, error)
    if field.kind == "image":
        return _pixels(field, X, error)
    if field.kind == "category":
        return _codes(field, X, error)
    values = np.asarray(X)
    if values.dtype.kind in "iu" and values.size and (int(values.max()) > WHOLE or int(values.min()) < -WHOLE):
        raise error("X has whole numbers beyond 2**53, where floats skip whole numbers: scale it")
    if values.dtype.kind == "f" and np.isinf(values).any():
        raise error(f"{_where(np.isinf(values), 0)} is infinite: replace it, for instance by NaN (missing)")
    if field.kind == "number":
        return values.astype(np.float32 if field.dtype.endswith(("float32", "float16")) else np.float64)
    if field.kind == "boolean" and values.dtype.kind == "b":
        return values.astype(np.int8)
    absent = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    if field.kind == "boolean":
        if not (absent | (values == 0) | (values == 1)).all():
            raise error("X is true or false (1 or 0) here, but has other values")
        return np.where(absent, -1, values).astype(np.int8)
    if not (absent | (values == np.rint(values))).all():
        raise error(f"{_where(~absent & (values != np.rint(values)), 0)} is not a whole number, as X was in the schema")
    return values.astype(np.float64)


def _dates(X: Array, error: type[DataError]) -> Array:
    values = np.asarray(X)
    years = values.astype("datetime64[Y]").astype(np.int64) + 1970
    if (~np.isnat(values) & ((years < 1678) | (years > 2261))).any():
        raise error("X has dates outside the years 1678 to 2261 that nanoseconds can hold")
    return np.asarray(values.astype("datetime64[ns]").view(np.int64))


def _pixels(field: Field, X: Array, error: type[DataError]) -> Array:
    values = np.asarray(X)
    stored = np.dtype(field.dtype.removeprefix("torch.")) if "bfloat" not in field.dtype else np.dtype(np.float32)
    low, high = field.low or 0.0, 1.0 if field.high is None else field.high
    absent = np.isnan(values) if values.dtype.kind == "f" else np.zeros((), dtype=bool)
    smallest = float(np.nanmin(values)) if values.size and not absent.all() else low
    largest = float(np.nanmax(values)) if values.size and not absent.all() else high
    if smallest < low or largest > high:
        raise error(
            f"pixels go from {smallest:g} to {largest:g}, but lie in {low:g} to {high:g} in the schema: rescale X"
        )
    if stored.kind == "f":
        if values.dtype.kind != "f":
            raise error(
                f"pixels of type {values.dtype} where {field.dtype} in [{low:g}, {high:g}] is wanted: rescale X"
            )
        return values.astype(np.float64 if stored.itemsize == 8 else np.float32)
    if values.dtype.kind == "f":
        # Floats stand for whole pixel values when some are missing; all within [0, 1] means another scale.
        small = high > 1 and largest <= 1 and not absent.any() and values.size > 0
        if small or not (absent | (values == np.rint(values))).all():
            raise error(
                f"float pixels where {field.dtype} from {low:g} to {high:g} is wanted: give (X * {high:g}).round()"
            )
        if absent.any():
            return values.astype(np.float32)
    return values.astype(np.uint16 if stored == np.uint16 else np.uint8)


def _codes(field: Field, X: Array, error: type[DataError]) -> Array:
    known = np.array(field.categories)
    codes = np.clip(np.searchsorted(known, np.asarray(X)), 0, len(known) - 1)
    wrong = known[codes] != X
    if wrong.any():
        raise error(
            f"{_where(wrong, 0)} is {np.asarray(X)[wrong][0]}, which is not a known value: {known[:20].tolist()}"
        )
    return codes.astype(np.int64)


def restore_array(field: Field, column: Array) -> Any:
    """The user's ndarray or tensor: type and shape as they came, whole numbers rounded and clipped."""
    text = field.dtype.removeprefix("torch.")
    torch_type = getattr(torch, text) if field.dtype.startswith("torch.") else None
    dtype = np.dtype(np.float32 if text == "bfloat16" else text)
    missing = field.is_missing(column)
    values = column
    if field.kind == "category":
        values = np.array([*(field.categories or ()), 0])[column]
    elif field.kind == "datetime":
        return values.astype(np.int64).view("datetime64[ns]").astype(dtype)
    if field.kind == "image" and dtype.kind != "b":
        values = np.clip(values, field.low, field.high)
    if missing.any() and dtype.kind != "f":
        out = np.where(missing, np.nan, values.astype(np.float64))
        return torch.from_numpy(out) if torch_type is not None else out
    if dtype.kind == "b":
        values = np.asarray(values >= 0.5)
    elif dtype.kind in "iu" and values.dtype != dtype:
        values = whole(values, dtype)
    elif dtype == np.float16:
        values = np.clip(values, -65504, 65504)
    values = np.ascontiguousarray(values.astype(dtype, copy=False))
    return torch.from_numpy(values).to(torch_type) if torch_type is not None else values
