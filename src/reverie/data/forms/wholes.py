"""A y that is an example of its own: a picture, a text, a sequence. Described and read as X of that form would be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from reverie.data.forms.arrays import array_column, array_field, as_array, restore_array
from reverie.data.forms.lists import restore_list, sequence_column, sequence_field, text_column
from reverie.data.schema import Field
from reverie.data.table import Array
from reverie.errors import DataError, SchemaMismatch


def infer_whole(y: Any, n: int, name: str, kind: str | None) -> tuple[Field, Array] | None:
    """The field and column of a y of `n` pictures, texts or sequences; None when y is labels or numbers.

    Pictures are arrays of three or four axes. Texts are labels unless `kind` says text. Sequences are a list of arrays or of
    lists, of different lengths, or whatever `kind` says to be sequences.
    """
    try:
        return _infer(y, n, name, kind)
    except DataError as problem:
        text = str(problem)
        raise DataError(text if text.startswith("y ") else f"y: {text}") from None


def _infer(y: Any, n: int, name: str, kind: str | None) -> tuple[Field, Array] | None:
    if kind == "image" or (isinstance(y, np.ndarray | torch.Tensor) and y.ndim >= 3 and kind != "sequence"):
        array, dtype = as_array(y)
        _check_rows(len(array), n)
        field = _as_y(array_field(array, name, dtype=dtype, kind="image"), "tensor" if _is_tensor(y) else "array")
        return field, array_column(field, array)
    if kind == "text":
        texts = _listed(y, "texts")
        _check_rows(len(texts), n)
        return Field(name, "text", "condition", dtype="str", form="list"), text_column(texts)
    if kind == "sequence" or _ragged(y):
        rows = _listed(y, "sequences")
        _check_rows(len(rows), n)
        items = rows if _symbols(rows) else [item if _is_array(item) else np.asarray(item) for item in rows]
        field = dataclasses.replace(sequence_field(items, name), role="condition", whole=True)
        return field, sequence_column(field, items)
    return None


def read_whole(field: Field, y: Any, n: int) -> Array:
    """Later pictures, texts or sequences against a known condition: one for all `n` rows, or `n` of them.

    Raises `SchemaMismatch` for another shape, type or number.
    """
    try:
        if field.kind == "image":
            array = as_array(y)[0]
            array = array[None] if array.shape == field.shape else array
            column = array_column(field, array, SchemaMismatch)
        elif field.kind == "text":
            column = text_column([y] if isinstance(y, str) else _listed(y, "texts"), SchemaMismatch)
        else:
            rows = [y] if _one_sequence(field, y) else _listed(y, "sequences")
            items = rows if field.form is not None else [i if _is_array(i) else np.asarray(i) for i in rows]
            column = sequence_column(field, items, SchemaMismatch)
    except SchemaMismatch as problem:
        raise SchemaMismatch(f"condition {field.name!r}: {problem}") from None
    except DataError as problem:
        raise SchemaMismatch(f"condition {field.name!r}: {problem}") from None
    if len(column) == 1 and n != 1:
        return column[np.zeros(n, np.int64)]
    if len(column) != n:
        raise SchemaMismatch(f"y has {len(column)} rows where {n} are wanted: give one for all, or {n} of them")
    return column


def restore_whole(field: Field, column: Array) -> Any:
    """The user's array, tensor or list."""
    return restore_array(field, column) if field.kind == "image" else restore_list(field, column)


def _as_y(field: Field, form: str) -> Field:
    return dataclasses.replace(field, role="condition", form=form)


def _check_rows(count: int, n: int) -> None:
    if count != n:
        raise DataError(f"y has {count} rows and X has {n}: give one for each row")


def _listed(y: Any, what: str) -> list[Any]:
    if isinstance(y, str) or not (isinstance(y, Sequence) or hasattr(y, "__array__")):
        raise DataError(f"y is a {type(y).__name__}: give a list of {what}, one for each row")
    return list(y)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _symbols(rows: Sequence[Any]) -> bool:
    """Are these lists of text?"""
    return bool(rows) and not _is_array(rows[0]) and any(isinstance(value, str) for row in rows for value in row)


def _ragged(y: Any) -> bool:
    """A list of arrays or lists of different lengths, or of matrices: no vectors of one width."""
    if not isinstance(y, list | tuple) or not y or not all(isinstance(i, list | tuple) or _is_array(i) for i in y):
        return False
    if any(_is_array(item) and item.ndim != 1 for item in y):
        return all(_is_array(item) and item.ndim == 2 for item in y)
    return len({len(item) for item in y}) > 1 or _symbols(y)


def _one_sequence(field: Field, y: Any) -> bool:
    """Is y a single sequence, not a list of them?"""
    if _is_array(y):
        return bool(y.ndim == len(field.shape) + 1)
    return isinstance(y, list | tuple) and bool(y) and not isinstance(y[0], list | tuple) and not _is_array(y[0])
