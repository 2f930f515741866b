"""DataFrames: describe, read and restore, column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.data.forms.conditions import column_names, infer_y, read_y
from reverie.data.forms.labels import CONDITION_NAMES, as_condition, condition_values, label_column
from reverie.data.forms.restoring import restore_column
from reverie.data.forms.series import column_field, column_values
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


def named_columns(y: Any, names: Sequence[str], rows: int) -> list[str] | None:
    """The columns of X that y names: one by its name, several by a list of theirs; None when y is the values themselves.

    A list as long as X that is not all names of different columns is values. Raises `DataError` for a name that is none.
    """
    if isinstance(y, str) or (isinstance(y, int | np.integer) and not isinstance(y, bool)):
        asked = [str(y)]
    elif isinstance(y, list | tuple) and y and all(isinstance(item, str) for item in y):
        asked = list(y)
        known = [name in names for name in asked]
        if len(set(asked)) < len(asked) or not any(known) or (len(asked) == rows and not all(known)):
            return None
    else:
        return None
    for name in asked:
        if name not in names:
            raise DataError(f"y={name!r} is no column{hint(name, names)} Columns: {', '.join(names)}")
    return asked


def frame_roles(
    labels: Sequence[str | int], named: Sequence[str] | None, roles: Mapping[Any, str] | None, *, beside: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Role of every column, and the names of the condition columns: those that y or a role names. `beside`: y comes beside
    X, and no column may be a condition then."""
    names = [str(label) for label in labels]
    given = column_options(roles, "roles", names)
    conditions = [name for name, role in given.items() if role == "condition"]
    for name in named or ():
        if given.get(name, "condition") != "condition":
            raise DataError(f"column {name!r} is y, and has the role {given[name]!r} in roles: keep one")
    if named and set(conditions) - set(named):
        extra = ", ".join(name for name in conditions if name not in named)
        raise DataError(
            f"y names {', '.join(named)}, and roles make {extra} a condition too: give y={[*named, *conditions]}"
        )
    if conditions and beside:
        raise DataError(f"y is given, and the column {conditions[0]!r} has the role condition: keep one of them")
    conditions = list(named or conditions)
    out = {name: "condition" if name in conditions else given.get(name, "data") for name in names}
    if not any(role in ("data", "target") for role in out.values()):
        raise DataError("no column is left to learn from: give one of them the role 'data'")
    return out, conditions


def frame_field(label: str | int, series: Any, role: str, kind: str | None) -> tuple[Field, Array | None]:
    """One column described and read, checked for its role. An ignored column is not read (None)."""
    if role == "condition":
        return label_column(label, series, kind)
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
    plan = frame_plan(labels, y, roles, kinds, len(X))
    fields: list[Field] = []
    columns: dict[str, Array] = {}
    for position, label in enumerate(labels):
        name = str(label)
        field, column = frame_field(label, X.iloc[:, position], plan.roles[name], plan.kinds.get(name))
        fields.append(field)
        if column is not None:
            columns[name] = column
    beside = plan.infer_beside(y, len(X))
    columns |= {field.name: column for field, column in beside.items()}
    return Schema((*fields, *beside), "dataframe"), Table(columns, len(X))


@dataclass(frozen=True)
class FramePlan:
    """What is asked of the columns of a frame: role and kind by name; of a y given `beside` them its own kinds."""

    roles: dict[str, str]
    kinds: dict[str, str]
    beside: bool
    own_kinds: dict[str, str]

    def infer_beside(self, y: Any, n: int) -> dict[Field, Array]:
        """The fields and columns of a y that is not among the columns of X; {} when it is."""
        return infer_y(y, n, taken=list(self.roles), kinds=self.own_kinds) if self.beside else {}


def frame_plan(
    labels: Sequence[str | int],
    y: Any,
    roles: Mapping[Any, str] | None,
    kinds: Mapping[Any, str] | None,
    rows: int,
) -> FramePlan:
    """Role and kind of every column, from `y`, `roles` and `kinds`. Raises `DataError` where they contradict each other."""
    named = named_columns(y, [str(label) for label in labels], rows)
    beside = y is not None and named is None
    by_role, conditions = frame_roles(labels, named, roles, beside=beside)
    own = [*column_names(y), CONDITION_NAMES[0]] if y is not None else []
    asked = column_options(kinds, "kinds", list(by_role), extra=own)
    inside = {name: kind for name, kind in asked.items() if name in by_role}
    if "y" in asked and len(conditions) == 1:
        inside.setdefault(conditions[0], asked["y"])
    return FramePlan(by_role, inside, beside, {name: kind for name, kind in asked.items() if name not in by_role})


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
    inside = y is None or (schema.names_y(y) and all(field.form is None for field in schema.conditions))
    columns: dict[str, Array] = {}
    for field in schema.fields:
        if field.role == "ignore" or (field.role == "condition" and (field.form is not None or not inside)):
            continue
        if field.name in position:
            series = X.iloc[:, position[field.name]]
            if field.role == "condition":
                prepared = series if field.kind == "text" else as_condition(series, field.name, field.kind)
                columns[field.name] = condition_values(field, prepared, SchemaMismatch)
            else:
                lenient = unseen and field.role in ("data", "target")
                columns[field.name] = column_values(field, series, SchemaMismatch, unseen=lenient)
        elif field.role in ("data", "target"):
            columns[field.name] = missing_column(field, len(X))
        elif field.role == "condition" and y is not None:
            raise SchemaMismatch(
                f"y={y!r} names a column that X does not have: {field.name!r}. Columns given: {', '.join(names)}"
            )
    if y is not None and not inside:
        columns |= read_y(schema, y, len(X)).columns
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
