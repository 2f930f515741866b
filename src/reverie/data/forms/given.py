"""Values of some columns for rows that are still to be made: read against a schema, the other cells missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reverie.data.forms.arrays import array_column
from reverie.data.forms.frames import missing_column
from reverie.data.forms.series import column_values
from reverie.data.schema import Field, Schema
from reverie.data.table import Array, Table, hint
from reverie.errors import SchemaMismatch, Unsupported


def given_table(schema: Schema, given: Any, n: int) -> Table:
    """`n` rows with the columns that `given` has: a mapping from column to one value or `n` of them, or a DataFrame of 1 or
    `n` rows. Columns of an array go by their number. A value that is missing leaves its cell to be drawn.

    Raises `SchemaMismatch` for an unknown column or value, another number of values; `Unsupported` for pictures and
    sequences.
    """
    if not isinstance(given, Mapping) and not hasattr(given, "columns"):
        raise SchemaMismatch(
            f"given is a {type(given).__name__}: give a mapping from columns to values, given={{column: value}}"
        )
    fields = schema.data_fields
    other = next((field.kind for field in fields if field.kind in ("image", "sequence", "text")), None)
    if other is not None:
        raise Unsupported(
            f"given fixes columns of tables, not parts of {other} data: for those mark what is missing with NaN and call "
            "impute(X, n_draws=...)"
        )
    values = {key: given[key] for key in given}
    if schema.container == "dataframe":
        return _columns_given(fields, values, n)
    return _positions_given(fields[0], values, n)


def _columns_given(fields: tuple[Field, ...], values: dict[Any, Any], n: int) -> Table:
    import pandas as pd

    by_name = {field.name: field for field in fields}
    for key in values:
        if str(key) not in by_name:
            raise SchemaMismatch(f"given: no column {key!r}{hint(str(key), by_name)} Columns: {', '.join(by_name)}")
    known = {str(key): value for key, value in values.items()}
    out = {}
    for name, field in by_name.items():
        if name not in known:
            out[name] = missing_column(field, n)
            continue
        listed = _listed(known[name])
        series = listed if isinstance(listed, pd.Series) else pd.Series(listed, dtype=object).infer_objects()
        try:
            column = column_values(field, series.reset_index(drop=True), SchemaMismatch)
        except SchemaMismatch as problem:
            raise SchemaMismatch(f"given: {problem}") from None
        out[name] = _repeated(column, n, name)
    return Table(out, n)


def _positions_given(field: Field, values: dict[Any, Any], n: int) -> Table:
    width, one = max(field.width, 1), replace(field, shape=())
    columns = [missing_column(one, n) for _ in range(width)]
    for key, value in values.items():
        if not isinstance(key, int | np.integer) or isinstance(key, bool) or not -width <= key < width:
            raise SchemaMismatch(f"given: no column {key!r}: the columns of this array go by number, 0 to {width - 1}")
        try:
            column = array_column(one, np.asarray(_listed(value)), SchemaMismatch)
        except SchemaMismatch as problem:
            raise SchemaMismatch(f"given: column {key}: {problem}") from None
        columns[key] = _repeated(column, n, str(key))
    return Table({field.name: np.stack(columns, axis=1).reshape(n, *field.shape)}, n)


def _listed(value: Any) -> Any:
    """One value as a list of it; several as they are."""
    several = hasattr(value, "__len__") and not isinstance(value, str | bytes) and np.ndim(value) > 0
    return value if several else [value]


def _repeated(column: Array, n: int, name: str) -> Array:
    if len(column) == n:
        return column
    if len(column) == 1:
        return np.repeat(column, n)
    raise SchemaMismatch(
        f"given: column {name!r} has {len(column)} values where {n} rows are asked for: give one, or {n}"
    )
