"""DataFrames: describe, read and restore, column by column."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.data.forms.labels import (
    CONDITION_NAMES,
    as_condition,
    check_condition,
    condition_values,
    infer_condition,
    read_condition,
)
from reverie.data.forms.restoring import restore_column
from reverie.data.forms.series import column_field, column_values, dtype_text
from reverie.data.schema import KINDS, ROLES, Field, Schema
from reverie.data.table import NO_DATE, Array, Table, hint
from reverie.errors import DataError, SchemaMismatch


def column_options(
    options: Mapping[Any, str] | None, what: str, names: Sequence[str], *, extra: Sequence[str] = ()
) -> dict[str, str]:
    """`roles` or `kinds` with text keys, checked against the column names. Raises `DataError` with the closest one."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise DataError(f"{what}: expected a mapping from column to {what[:-1]}, got {type(options).__name__}")
    allowed = ROLES if what == "roles" else KINDS
    out: dict[str, str] = {}
    for key, value in options.items():
        if str(key) not in names and str(key) not in extra:
            raise DataError(f"{what}: no column {key!r}{hint(str(key), names)} Columns: {', '.join(names) or 'none'}")
        if value not in allowed:
            raise DataError(
                f"{what}: {key!r} cannot be {value!r}{hint(str(value), allowed)} "
                f"{what.capitalize()}: {', '.join(allowed)}"
            )
        out[str(key)] = value
    return out


def column_labels(X: Any, error: type[DataError] = DataError) -> list[str | int]:
    """The column names of a DataFrame, checked: text or whole numbers, each once."""
    import pandas as pd

    if isinstance(X.columns, pd.MultiIndex):
        raise error("columns have several levels: flatten them, X.columns = ['_'.join(map(str, c)) for c in X.columns]")
    if X.shape[1] == 0:
        raise error("the DataFrame has no columns")
    labels: list[str | int] = []
    for label in X.columns:
        if isinstance(label, np.integer):
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise error(f"column name {label!r} is neither text nor a whole number: rename it, X.columns = [...]")
        if str(label) in [str(other) for other in labels]:
            raise error(f"two columns are called {str(label)!r}: rename one, X.columns = [...]")
        labels.append(label)
    return labels


def frame_roles(
    labels: Sequence[str | int], y: Any, roles: Mapping[Any, str] | None
) -> tuple[dict[str, str], str | None]:
    """Role of every column, and the name of the condition column when `y` (or a role) names one."""
    names = [str(label) for label in labels]
    given = column_options(roles, "roles", names)
    conditions = [name for name, role in given.items() if role == "condition"]
    named = isinstance(y, str) or (isinstance(y, int | np.integer) and not isinstance(y, bool))
    if named:
        if str(y) not in names:
            raise DataError(f"y={y!r} is no column{hint(str(y), names)} Columns: {', '.join(names)}")
        if given.get(str(y), "condition") != "condition":
            raise DataError(f"column {str(y)!r} is y, and has the role {given[str(y)]!r} in roles: keep one")
        conditions = [*(name for name in conditions if name != str(y)), str(y)]
    if len(conditions) > 1 or (conditions and y is not None and not named):
        more = [*conditions, "y"] if y is not None and not named else conditions
        raise DataError(f"only one condition is possible, but there are {', '.join(more)}")
    out = {name: given.get(name, "data") for name in names}
    if conditions:
        out[conditions[0]] = "condition"
    if not any(role in ("data", "target") for role in out.values()):
        raise DataError("no column is left to learn from: give one of them the role 'data'")
    return out, conditions[0] if conditions else None


def frame_field(label: str | int, series: Any, role: str, kind: str | None) -> tuple[Field, Array | None]:
    """One column described and read, checked for its role. An ignored column is not read (None)."""
    if role == "condition":
        prepared = as_condition(series, str(label), kind)
        field = column_field(label, prepared, role=role, kind=kind)
        field = check_condition(field, prepared, kind)
        column = condition_values(field, prepared, DataError)
        if prepared.dtype != series.dtype:  # whole numbers with missing ones among them, which came as floats
            field = dataclasses.replace(field, dtype=dtype_text(series.dtype))
        return field, column
    field = column_field(label, series, role=role, kind=kind)
    if role == "ignore":
        return field, None
    column = column_values(field, series, DataError)
    check_role(field, column)
    return field, column


def check_role(field: Field, column: Array) -> None:
    """Weights are numbers >= 0 with a positive sum, groups and times are complete, times can be ordered."""
    missing = field.is_missing(column)
    if field.role in ("weight", "time", "group") and missing.any():
        raise DataError(f"{field.role} column {field.name!r} has no value in row {int(np.argmax(missing))}: fill it")
    if field.role == "weight":
        if field.kind not in ("number", "integer", "boolean"):
            raise DataError(f"weight column {field.name!r} is of kind {field.kind}: weights are numbers >= 0")
        if (column < 0).any() or not column.sum() > 0:
            raise DataError(f"weight column {field.name!r}: weights are numbers >= 0, with at least one above 0")
    if field.role == "time" and field.kind not in ("number", "integer", "datetime"):
        raise DataError(
            f"time column {field.name!r} is of kind {field.kind}, which has no order in time: give numbers or dates, "
            f'or kinds={{"{field.name}": "datetime"}} to read text as dates'
        )


def infer_frame(
    X: Any, y: Any = None, *, roles: Mapping[Any, str] | None = None, kinds: Mapping[Any, str] | None = None
) -> tuple[Schema, Table]:
    """The schema of a DataFrame and its table, which also holds y, weight, group, time and id columns."""
    labels = column_labels(X)
    if len(X) == 0:
        raise DataError("the DataFrame has no rows")
    by_role, condition = frame_roles(labels, y, roles)
    asked = column_options(kinds, "kinds", list(by_role), extra=CONDITION_NAMES[:1] if y is not None else ())
    fields: list[Field] = []
    columns: dict[str, Array] = {}
    for position, label in enumerate(labels):
        name = str(label)
        kind = asked.get(name) or (asked.get("y") if name == condition else None)
        field, column = frame_field(label, X.iloc[:, position], by_role[name], kind)
        fields.append(field)
        if column is not None:
            columns[name] = column
    if y is not None and condition is None:
        kind = asked.get("y") if "y" not in by_role else None
        field, column = infer_condition(y, len(X), taken=list(by_role), kind=kind)
        fields.append(field)
        columns[field.name] = column
    return Schema(tuple(fields), "dataframe"), Table(columns, len(X))


def read_frame(schema: Schema, X: Any, y: Any = None, *, partial: bool = False, unseen: bool = False) -> Table:
    """Later rows against a known schema; see `reading.read_table`."""
    labels = column_labels(X, SchemaMismatch)
    names = [str(label) for label in labels]
    position = {name: at for at, name in enumerate(names)}
    known = [field.name for field in schema.fields]
    absent = [field for field in schema.data_fields if field.name not in position]
    extra = [name for name in names if name not in known]
    if absent and not partial:
        lines = []
        for field in absent[:5]:
            lines.append(f"column {field.name!r} is missing{hint(field.name, extra)}")
        raise SchemaMismatch(f"{'; '.join(lines)} Columns given: {', '.join(names)}. Columns known: {', '.join(known)}")
    if extra:
        listed = ", ".join(repr(name) for name in extra[:5])
        raise SchemaMismatch(
            f"column {listed} is not known{hint(extra[0], [f.name for f in absent] or known)} "
            f"Drop it, X.drop(columns={extra[:5]}), or rename it. Columns known: {', '.join(known)}"
        )
    columns: dict[str, Array] = {}
    for field in schema.fields:
        if field.role == "ignore" or (field.role == "condition" and field.form is not None):
            continue
        if field.name in position:
            if field.role == "condition":
                if y is not None and not (isinstance(y, str) and y == field.name):
                    continue
                series = as_condition(X.iloc[:, position[field.name]], field.name, field.kind)
                columns[field.name] = condition_values(field, series, SchemaMismatch)
            else:
                series = X.iloc[:, position[field.name]]
                lenient = unseen and field.role in ("data", "target")
                columns[field.name] = column_values(field, series, SchemaMismatch, unseen=lenient)
        elif field.role in ("data", "target"):
            columns[field.name] = missing_column(field, len(X))
    condition = schema.condition
    if y is not None and (condition is None or condition.name not in columns):
        if condition is not None and isinstance(y, str) and y == condition.name and condition.form is None:
            raise SchemaMismatch(f"y={y!r} names a column that X does not have. Columns given: {', '.join(names)}")
        columns[condition.name if condition else "y"] = read_condition(schema.condition, y, len(X))
    return Table(columns, len(X))


def missing_column(field: Field, n: int) -> Array:
    """`n` missing cells of a scalar field."""
    if field.kind in ("boolean", "category"):
        return np.full(n, -1, np.int8 if field.kind == "boolean" else np.int64)
    if field.kind == "datetime":
        return np.full(n, NO_DATE, np.int64)
    if field.kind == "text":
        return np.full(n, None, dtype=object)
    return np.full(n, np.nan, np.float32 if field.dtype.lower() in ("float32", "float16") else np.float64)


def restore_frame(fields: Sequence[Field], table: Table) -> Any:
    """A DataFrame of these fields, in this order, with the user's names and types; rows numbered from 0."""
    import pandas as pd

    series = {field.column_name: restore_column(field, table[field.name]) for field in fields}
    frame = pd.DataFrame(series, index=pd.RangeIndex(table.n))
    frame.columns = pd.Index([field.column_name for field in fields])
    return frame
