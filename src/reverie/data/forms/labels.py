"""y: what a model is conditioned on. Labels become a category, floats a number or a vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from reverie.data.forms.restoring import restore_column
from reverie.data.forms.series import category_codes, column_field, column_values, dtype_text, family
from reverie.data.schema import Field
from reverie.data.table import Array, hint
from reverie.errors import DataError, SchemaMismatch

CONDITION_NAMES = ("y", "label", "condition")
FEW = 50
"""Whole-number floats with at most this many values look like class labels."""


def infer_condition(y: Any, n: int, *, taken: Sequence[str], kind: str | None = None) -> tuple[Field, Array]:
    """The condition field for `n` labels or numbers given beside X, and its column.

    ints, bools, text and categoricals become a category whose categories are the sorted distinct values; floats a
    number, `(n, d)` floats a vector. Labels may be missing, and then whole-number floats are labels too. Raises
    `DataError`: another length, missing numbers, dates, whole-number floats with few values (labels or numbers?
    `kinds` says), integers in a matrix.
    """
    try:
        form, values = _form(y)
    except ValueError as problem:
        if isinstance(problem, DataError):
            raise
        raise DataError(
            "y has rows of different lengths: give one label or number per row, or vectors of one length; for sequences "
            "also a list of labels for each, one per step"
        ) from None
    name = next(name for name in CONDITION_NAMES if name not in taken)
    own = getattr(y, "name", None)
    if form == "series" and isinstance(own, str) and own and own not in taken:
        name = own
    if np.ndim(values) == 0:
        raise DataError(f"y is the single value {y!r}: give one label or number for each of the {n} rows")
    if len(values) != n:
        raise DataError(f"y has {len(values)} rows and X has {n}: give one label or number per row")
    if isinstance(values, np.ndarray) and values.ndim > 1:
        field = _vector_field(name, values, form, kind, str(_dtype(y, values)))
        return field, _vector_values(field, values, DataError)
    series = as_condition(values, name, kind)
    field = check_condition(column_field(name, series, role="condition", kind=kind), series, kind)
    dtype = field.dtype if form == "series" else str(_dtype(y, values))
    if form == "series" and values.dtype != series.dtype:  # whole numbers with missing ones, which came as floats
        dtype = dtype_text(values.dtype)
    field = dataclasses.replace(field, form=form, dtype=dtype)
    return field, condition_values(field, series, DataError)


def _form(y: Any) -> tuple[str, Any]:
    """(series | array | tensor | list, a Series or ndarray or list of scalars)."""
    import pandas as pd
    import torch

    if isinstance(y, torch.Tensor):
        plain = y.detach().cpu()
        return "tensor", _flat((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
    if isinstance(y, pd.DataFrame):
        return "array", _flat(y.to_numpy())
    if isinstance(y, pd.Series | pd.Categorical | pd.Index) or (hasattr(y, "__array__") and hasattr(y, "isna")):
        return "series", pd.Series(y).reset_index(drop=True)
    if isinstance(y, np.ndarray):
        return "array", _flat(y)
    if isinstance(y, list | tuple | range):
        first = y[0] if len(y) else None
        return "list", _flat(np.asarray(y)) if isinstance(first, list | tuple | np.ndarray) else list(y)
    if isinstance(y, str | bytes | bool | int | float | np.generic):
        return "list", y
    raise DataError(f"y is a {type(y).__name__}: give an array, a Series or a list with one label or number per row")


def _flat(values: Array) -> Array:
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _dtype(y: Any, values: Any) -> str:
    """The type of a y that is no Series, as text."""
    if isinstance(values, list):
        return type(next((value for value in values if value is not None), None)).__name__ if values else "object"
    text = str(getattr(y, "dtype", values.dtype))
    return text if text.startswith("torch.") else str(values.dtype)


def as_condition(values: Any, name: str, kind: str | None) -> Any:
    """A pandas Series of the labels, for which missing numbers, dates and unclear floats have been refused.

    Missing labels stay; the whole numbers beside them, which pandas made floats, are whole again.
    """
    import pandas as pd

    series = values if isinstance(values, pd.Series) else _series(values, name)
    missing = series.isna().to_numpy(dtype=bool)
    cells = family(series, name)
    if missing.any():
        present = series[~missing]
        if cells == "float" and kind in (None, "category"):
            numbers = present.to_numpy(dtype="float64")
            whole = np.isfinite(numbers).all() and bool((numbers == np.rint(numbers)).all())
            if whole and 0 < len(np.unique(numbers)) <= FEW:
                return series.astype("Int64")
        if kind == "number" or (cells == "float" and kind != "category") or cells == "datetime":
            row = int(np.argmax(missing))
            raise DataError(f"condition {name!r} has no value in row {row}: drop the row or fill in a label")
    if cells == "datetime":
        raise DataError(f"condition {name!r} holds dates: give labels or numbers, for instance .dt.year")
    if cells == "float" and kind is None:
        numbers = series.to_numpy(dtype="float64")
        distinct = np.unique(numbers)
        if np.isfinite(distinct).all() and (distinct == np.rint(distinct)).all() and len(distinct) <= FEW:
            raise DataError(
                f"condition {name!r} has whole-number floats ({', '.join(f'{v:g}' for v in distinct[:4])}, ...): are they "
                f"classes or numbers? Give y.astype(int) for classes, or kinds={{{name!r}: 'number'}} for a numeric condition"
            )
    return series


def _series(values: Any, name: str) -> Any:
    import pandas as pd

    if isinstance(values, np.ndarray) and values.dtype.kind in "SVcm":
        raise DataError(f"condition {name!r} is an array of type {values.dtype}: give text labels, integers or floats")
    try:
        return pd.Series(values)
    except (ValueError, TypeError, OverflowError) as problem:
        raise DataError(f"condition {name!r} cannot be read ({problem}): give one label or number per row") from None


def check_condition(field: Field, series: Any, kind: str | None) -> Field:
    """The field with the kind of a condition: integers and booleans are classes unless `kind` says number."""
    if kind is None and field.kind in ("integer", "boolean"):
        return column_field(field.column_name, series, role="condition", kind="category")
    if field.kind == "integer":
        return dataclasses.replace(field, kind="number")
    if field.kind not in ("category", "number"):
        raise DataError(f"condition {field.name!r} cannot be of kind {field.kind!r}: possible are category and number")
    return field


def label_column(label: str | int, series: Any, kind: str | None) -> tuple[Field, Array]:
    """A column of a data frame as a condition: its field, and its values. Text is labels unless `kind` says text."""
    if kind == "text":
        field = column_field(label, series, role="condition", kind=kind)
        return field, column_values(field, series, DataError)
    prepared = as_condition(series, str(label), kind)
    field = column_field(label, prepared, role="condition", kind=kind)
    field = check_condition(field, prepared, kind)
    column = condition_values(field, prepared, DataError)
    if prepared.dtype != series.dtype:  # whole numbers with missing ones among them, which came as floats
        field = dataclasses.replace(field, dtype=dtype_text(series.dtype))
    return field, column


def condition_values(field: Field, series: Any, error: type[DataError]) -> Array:
    """The condition's column: codes (-1 where a label is missing) or numbers, of which none is missing."""
    if field.kind == "category":
        return category_codes(field, series, error, what=f"condition {field.name!r}")
    return column_values(field, series, error)


def _vector_field(name: str, values: Array, form: str, kind: str | None, dtype: str) -> Field:
    if values.ndim > 2 or values.shape[1] == 0:
        raise DataError(f"y has shape {values.shape}: give labels (n,), numbers (n,) or vectors (n, d)")
    if values.dtype.kind in "iub" and kind != "number":
        one_hot = bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())
        advice = "y.argmax(1) turns it into labels" if one_hot else "y.astype(float) makes it a numeric condition"
        raise DataError(f"y is a matrix {values.shape} of integers{' that looks one-hot' * one_hot}: {advice}")
    if values.dtype.kind not in "fiub" or kind not in (None, "number"):
        raise DataError(f"y is a matrix {values.shape} of {values.dtype}: a vector condition must be of numbers")
    return Field(name, "number", "condition", (values.shape[1],), dtype, form=form)


def _vector_values(field: Field, values: Array, error: type[DataError]) -> Array:
    if values.dtype.kind not in "fiub":
        raise error(f"condition {field.name!r} is of numbers, but y is of {values.dtype}")
    out = values.astype(np.float32 if field.dtype.endswith(("float32", "float16")) else np.float64)
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out).reshape(len(out), -1).all(1)))
        raise error(f"condition {field.name!r}, row {row} is missing or infinite: drop the row or fill it in")
    return np.asarray(out)


def read_condition(field: Field | None, y: Any, n: int) -> Array:
    """`conditions.read_y` for values that are not per step: one label for all `n` rows, or `n` of them."""
    if field is None:
        raise SchemaMismatch("y was given, but the model was trained without a condition: leave y out")
    try:
        _, values = _form(y)
    except ValueError:
        raise SchemaMismatch(
            f"y has rows of different lengths: condition {field.name!r} has width {field.width}"
        ) from None
    if field.shape:
        return _read_vector(field, values, n)
    if isinstance(values, np.ndarray) and values.ndim == 0:
        values = values.item()
    if np.ndim(values) == 0:
        return np.repeat(_read_labels(field, [values]), n, axis=0)
    if len(values) != n:
        raise SchemaMismatch(f"y has {len(values)} rows where {n} are wanted: give one label for all, or {n} of them")
    if n == 0:
        return np.empty(0, np.int64 if field.kind == "category" else np.float64)
    return _read_labels(field, values)


def _read_labels(field: Field, values: Any) -> Array:
    if np.ndim(values) > 1:
        raise SchemaMismatch(f"y has shape {np.shape(values)}: condition {field.name!r} takes one {field.kind} per row")
    try:
        series = as_condition(values, field.name, field.kind)
        return condition_values(field, series, SchemaMismatch)
    except SchemaMismatch as problem:
        if field.kind != "category":
            raise
        raise SchemaMismatch(_unknown_label(field, values) or str(problem)) from None
    except DataError as problem:
        raise SchemaMismatch(str(problem)) from None


def _unknown_label(field: Field, values: Any) -> str | None:
    known = field.categories or ()
    for value in values:
        plain = value.item() if isinstance(value, np.generic) else value
        if plain is None or plain != plain:
            continue
        if plain not in known:
            shown = ", ".join(repr(item) for item in known[:20]) + (", ..." if len(known) > 20 else "")
            alike = next((item for item in known if str(item) == str(plain)), None)
            close = (
                f", did you mean {alike!r} ({type(alike).__name__})?"
                if alike is not None
                else hint(str(plain), [str(item) for item in known])
            )
            return f"y: no class {plain!r} in {field.name!r}{close} Classes: {shown}"
    return None


def _read_vector(field: Field, values: Any, n: int) -> Array:
    array = np.asarray(values)
    if array.ndim == 1 and field.shape == (1,) and len(array) == n:
        array = array[:, None]
    if array.shape == field.shape:
        array = np.repeat(array[None], n, axis=0)
    if array.shape != (n, *field.shape):
        raise SchemaMismatch(
            f"y has shape {array.shape}: condition {field.name!r} takes {field.shape} or {(n, *field.shape)}"
        )
    return _vector_values(field, array, SchemaMismatch)


def restore_condition(field: Field, column: Array) -> Any:
    """The user's form of y: a Series, ndarray, tensor or list; a missing label is None or NaN."""
    if field.form in (None, "series"):
        series = restore_column(field, column)
        series.name = field.column_name
        return series
    values: Any = column
    missing = field.kind == "category" and bool((column < 0).any())
    if field.kind == "category":
        lookup = np.empty(len(field.categories or ()) + 1, dtype=object)
        lookup[:-1] = field.categories  # the last one, which code -1 picks, stays None
        values = lookup[column].tolist()
    if field.form == "list":
        return values.tolist() if isinstance(values, np.ndarray) else values
    dtype = field.dtype.removeprefix("torch.")
    if missing:  # a plain whole-number or text type has no missing value
        dtype = "object" if isinstance(lookup[0], str) else dtype if "float" in dtype else "float64"
    if field.form == "tensor":
        import torch

        plain = np.asarray(values, dtype=np.float64) if missing else np.asarray(values)
        return torch.as_tensor(plain).to(getattr(torch, dtype))
    return np.asarray(values, dtype=np.dtype(dtype))
