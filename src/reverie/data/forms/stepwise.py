"""y per step: a list of labels for every sequence, None where a step has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from reverie.data.forms.arrays import as_array
from reverie.data.forms.labels import CONDITION_NAMES
from reverie.data.schema import Field, Scalar
from reverie.data.table import Array, hint, pack, unpack
from reverie.errors import DataError, SchemaMismatch

Label = Scalar | None


def infer_step_labels(
    y: Any, lengths: Array, *, taken: Sequence[str], kind: str | None = None
) -> tuple[Field, Array] | None:
    """The condition field of labels per step and its column, or None when y is something else (one value per sequence).

    y is a list with one list (tuple, array, tensor) of labels for every sequence, of its length, or None where a whole
    sequence is unlabelled; or an integer matrix (n, T). Labels are text, whole numbers or booleans; None and NaN are
    missing. Raises `DataError` for another length, mixed types, or no label at all.
    """
    if kind == "number" or not _per_step(y, lengths):
        return None
    rows = _rows(y, lengths, DataError)
    known = {label for row in rows for label in row if label is not None}
    if not known:
        raise DataError("y has no label in any step: leave y out")
    if len({isinstance(label, str) for label in known}) > 1:
        some = [
            next(label for label in sorted(known, key=str) if isinstance(label, str) == text) for text in (True, False)
        ]
        raise DataError(f"y mixes types, such as {some[0]!r} and {some[1]!r}: make all labels text or all numbers")
    categories = tuple(sorted(known))
    first = next(item for item in y if item is not None)
    form = next((form for form, kinds in _FORMS if isinstance(first, kinds)), "list")
    arrays = form in ("array", "tensor")
    field = Field(
        next(name for name in CONDITION_NAMES if name not in taken),
        "sequence",
        "condition",
        dtype=str(first.dtype) if arrays else type(categories[0]).__name__,
        categories=categories,
        nullable=any(label is None for row in rows for label in row),
        form="matrix" if isinstance(y, np.ndarray | torch.Tensor) and y.ndim == 2 else form,
        step="category",
    )
    return field, _codes(field, rows)


_FORMS = (("tensor", torch.Tensor), ("array", np.ndarray), ("tuple", tuple))


def _per_step(y: Any, lengths: Array) -> bool:
    """Is y a list of labels for each sequence? Rows of fractions, or float rows of other lengths, are vectors."""
    if isinstance(y, np.ndarray | torch.Tensor):
        if y.ndim == 2:
            code = as_array(y)[0].dtype.kind
            return code in "iubUO" and y.shape[1] > 1
        if y.ndim != 1 or str(y.dtype) != "object":
            return False
    elif not isinstance(y, list | tuple):
        return False
    rows = [item for item in y if item is not None]
    if not rows or not all(isinstance(item, list | tuple | np.ndarray | torch.Tensor) for item in rows):
        return False
    if not all(isinstance(item, list | tuple) or item.ndim == 1 for item in rows):
        return False
    values = [as_array(item)[0].tolist() if isinstance(item, np.ndarray | torch.Tensor) else item for item in rows]
    floats = [[v for v in row if isinstance(v, float) and np.isfinite(v)] for row in values]
    if any(not v.is_integer() for row in floats for v in row):
        return False
    fits = len(y) == len(lengths) and all(
        item is None or len(item) == length for item, length in zip(y, lengths, strict=True)
    )
    return fits or any(len(some) < len(row) for some, row in zip(floats, values, strict=True))


def _rows(y: Any, lengths: Array | None, error: type[DataError]) -> list[list[Label]]:
    n = len(y) if lengths is None else len(lengths)
    if len(y) != n:
        raise error(f"y has labels for {len(y)} sequences and X has {n}: give one list of labels per sequence")
    out: list[list[Label]] = []
    for row, item in enumerate(y):
        steps = None if lengths is None else int(lengths[row])
        if item is None and steps is not None:
            out.append([None] * steps)
            continue
        if not isinstance(item, list | tuple | np.ndarray | torch.Tensor):
            raise error(f"y of sequence {row} is {item!r}: give a list with one label (or None) for every step")
        plain = as_array(item)[0].tolist() if isinstance(item, np.ndarray | torch.Tensor) else list(item)
        if steps is not None and len(plain) != steps:
            raise error(
                f"sequence {row} has {steps} steps and y[{row}] has {len(plain)} labels: give one label, or None, per step"
            )
        out.append([_label(value, row, step, error) for step, value in enumerate(plain)])
    return out


def _label(value: Any, row: int, step: int, error: type[DataError]) -> Label:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value != value or type(value).__name__ == "NAType":
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # whole numbers with missing ones among them come as floats
    if isinstance(value, str | bool | int):
        return str(value) if isinstance(value, str) else value
    raise error(f"y of sequence {row}, step {step} is {value!r}: a label is text, a whole number, a bool or None")


def _codes(field: Field, rows: list[list[Label]]) -> Array:
    lookup: dict[Label, int] = {None: -1} | {label: code for code, label in enumerate(field.categories or ())}
    out = np.empty(len(rows), dtype=object)
    for at, row in enumerate(rows):
        wrong = next((step for step, label in enumerate(row) if label not in lookup), None)
        if wrong is not None:
            known = field.categories or ()
            shown = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
            raise SchemaMismatch(
                f"y of sequence {at}, step {wrong}: no class {row[wrong]!r} in {field.name!r}"
                f"{hint(str(row[wrong]), [str(label) for label in known])} Classes: {shown}"
            )
        out[at] = np.array([lookup[label] for label in row], dtype=np.int64)
    return out


def read_step_labels(field: Field, y: Any, n: int, lengths: Array | None = None) -> Array:
    """Later labels per step against a known field: `n` lists, or one label for every step when `lengths` are known.

    Raises `SchemaMismatch`: another number of sequences or steps, an unknown label.
    """
    if isinstance(y, str | bool | int | float | np.generic):
        if lengths is None:
            raise SchemaMismatch(f"y={y!r} is one label, but {field.name!r} has one per step: give {n} lists of labels")
        y = [[y] * int(length) for length in lengths]
    if not isinstance(y, list | tuple | np.ndarray | torch.Tensor):
        raise SchemaMismatch(f"y is a {type(y).__name__}: give a list of labels for every sequence")
    if len(y) != n:
        raise SchemaMismatch(f"y has labels for {len(y)} sequences where {n} are wanted: give one list per sequence")
    return _codes(field, _rows(y, lengths, SchemaMismatch))


def restore_step_labels(field: Field, column: Array) -> Any:
    """The user's lists (tuples, arrays, tensors) of labels."""
    if len(column) == 0:
        return []
    codes, lengths = pack(column)
    lookup = np.empty(len(field.categories or ()) + 1, dtype=object)
    lookup[:-1] = field.categories
    values: Any = lookup[codes]
    if field.form in ("list", "tuple", None):
        rows = [item.tolist() for item in unpack(values, lengths)]
        return [tuple(row) for row in rows] if field.form == "tuple" else rows
    missing = bool((codes < 0).any())
    dtype = field.dtype.removeprefix("torch.")
    if isinstance(lookup[0], str) or dtype == "object":
        values = values if missing or dtype == "object" else values.astype(np.str_)
    else:  # whole numbers and booleans have no missing value; floats do
        plain = "float64" if "float" in dtype or missing else "int64"
        values = values.astype(plain)
        if field.dtype.startswith("torch."):
            values = torch.from_numpy(values).to(
                torch.float64 if missing and "float" not in dtype else getattr(torch, dtype)
            )
        else:
            values = values.astype(plain if missing and "float" not in dtype else dtype)
    if field.form == "matrix" and (lengths == lengths[0]).all():
        return values.reshape(len(lengths), int(lengths[0]))
    if isinstance(values, torch.Tensor):
        return list(torch.split(values, lengths.tolist()))
    return list(unpack(values, lengths))
