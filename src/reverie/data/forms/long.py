"""Long data frames: a row per step, one sequence per value of a column. Described, read, and brought back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.data.forms.frames import column_labels, column_options, frame_field, frame_roles, missing_column
from reverie.data.forms.labels import as_condition, condition_values, read_condition
from reverie.data.forms.restoring import restore_column, to_dtype
from reverie.data.forms.series import category_codes, column_values
from reverie.data.schema import STEPS, Field, Schema
from reverie.data.table import ROWS, Array, Table, hint, pack, unpack
from reverie.errors import DataError, SchemaMismatch

_ROLES = ("data", "target", "condition", "weight", "group", "ignore")
_REGULAR = 0.9
"""Times are regular when this share of the gaps between steps equals their median."""


def infer_long(
    X: Any,
    *,
    by: str | int | None = None,
    time: str | int | None = None,
    y: str | int | None = None,
    roles: Mapping[Any, str] | None = None,
    kinds: Mapping[Any, str] | None = None,
) -> tuple[Schema, Table]:
    """The schema of a long data frame and its table, a row per sequence; see `reverie.sequences`."""
    labels = column_labels(X)
    names = [str(label) for label in labels]
    if len(X) == 0:
        raise DataError("the DataFrame has no rows")
    if ROWS in names:
        raise DataError(f"a column is called {ROWS!r}, which is the row number here: rename it")
    special = _special(names, by, time, y, column_options(roles, "roles", names))
    by_role, conditions = frame_roles(labels, None if y is None else [str(y)], {**(roles or {}), **special})
    if len(conditions) > 1:
        raise DataError(f"steps have one label each, but {', '.join(conditions)} are conditions: keep one")
    condition = conditions[0] if conditions else None
    asked = column_options(kinds, "kinds", names, extra=("y",) if condition else ())
    fields: list[Field] = []
    columns: dict[str, Array] = {}
    for at, label in enumerate(labels):
        kind = asked.get(names[at]) or (asked.get("y") if names[at] == condition else None)
        field, column = frame_field(label, X.iloc[:, at], by_role[names[at]], kind)
        fields.append(field)
        if column is not None:
            columns[field.name] = column
    order, lengths = _order(X, fields, columns, DataError)
    table = _fold(fields, columns, order, lengths, DataError)
    return Schema(tuple(_of_steps(field, table) for field in fields), "long"), table


def _special(names: Sequence[str], by: Any, time: Any, y: Any, roles: Mapping[str, str]) -> dict[str, str]:
    """The roles of the columns that `by` and `time` name, checked."""
    for what, name in (("by", by), ("time", time), ("y", y)):
        if name is None:
            continue
        if isinstance(name, bool) or not isinstance(name, str | int | np.integer):
            raise DataError(f"{what}: expected the name of a column, got a {type(name).__name__}")
        if str(name) not in names:
            raise DataError(f"{what}={name!r} is no column{hint(str(name), names)} Columns: {', '.join(names)}")
    used = [str(name) for name in (by, time, y) if name is not None]
    twice = next((name for name in used if used.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"column {twice!r} is named twice in by, time and y: keep one")
    for name, role in roles.items():
        if name in used[: (by is not None) + (time is not None)]:
            raise DataError(f"column {name!r} is named by by or time, and has the role {role!r} in roles: keep one")
        if role not in _ROLES:
            advice = f"give time={name!r}" if role == "time" else f"give by={name!r}, or the role 'ignore'"
            raise DataError(f"roles: column {name!r} of a long data frame cannot be {role!r}: {advice}")
    return {str(name): role for name, role in ((by, "id"), (time, "time")) if name is not None}


def _order(X: Any, fields: Sequence[Field], columns: dict[str, Array], error: type[DataError]) -> tuple[Array, Array]:
    """The user's row number of every step, sequence after sequence in the order they first occur, and the lengths."""
    import pandas as pd

    codes = np.zeros(len(X), np.int64)
    for field in fields:
        if field.role == "id":
            missing = np.array([value is None for value in columns[field.name]], dtype=bool)
            if missing.any():
                raise error(
                    f"column {field.name!r} names the sequences but has no value in row {_first(missing)}: fill it"
                )
            codes = np.asarray(pd.factorize(columns[field.name])[0], dtype=np.int64)
    times = next((columns[field.name] for field in fields if field.role == "time"), np.zeros(len(X)))
    return np.lexsort((times, codes)), np.bincount(codes).astype(np.int64)


def _first(wrong: Array) -> int:
    return int(np.argmax(wrong))


def _fold(
    fields: Sequence[Field], columns: Mapping[str, Array], order: Array, lengths: Array, error: type[DataError]
) -> Table:
    """Columns of rows as columns of sequences; one value per sequence for ids, groups and weights."""
    starts = np.cumsum(lengths) - lengths
    out: dict[str, Array] = {}
    for field in fields:
        if field.name not in columns:
            continue
        steps = columns[field.name][order]
        if field.role not in ("id", "group", "weight"):
            out[field.name] = unpack(steps, lengths)
            continue
        out[field.name] = steps[starts]
        changes = steps != np.repeat(out[field.name], lengths)
        if changes.any():
            row = int(order[_first(changes)])
            raise error(
                f"{field.role} column {field.name!r} changes inside a sequence (row {row}): it needs one value for all "
                "steps of a sequence"
            )
    out[ROWS] = unpack(order, lengths)
    return Table(out, len(lengths))


def _of_steps(field: Field, table: Table) -> Field:
    """The field of a column of rows as the field of sequences that it becomes."""
    if field.role in ("id", "group", "weight", "ignore"):
        return field
    if field.kind not in STEPS:
        raise DataError(
            f"column {field.name!r} is of kind {field.kind}: the steps of a sequence are of kind {', '.join(STEPS)}"
        )
    if field.role == "condition" and field.kind != "category":
        raise DataError(
            f"y: column {field.name!r} is of kind {field.kind}: only labels can go with steps. Give "
            f"kinds={{{field.name!r}: 'category'}} for labels, or leave y out to learn it like the other columns"
        )
    start, every = _clock(table[field.name]) if field.role == "time" else (None, None)
    return dataclasses.replace(field, kind="sequence", step=field.kind, start=start, every=every)


def _clock(times: Array) -> tuple[float | int, float | int | None]:
    """The earliest beginning, and the median gap between steps if most gaps are equal to it."""
    start = min(item[0].item() for item in times)
    gaps = np.concatenate([np.diff(item) for item in times])
    if not gaps.size:
        return start, None
    every = np.sort(gaps)[gaps.size // 2]
    regular = every > 0 and np.mean(np.abs(gaps - every) <= 1e-6 * every) >= _REGULAR
    return start, every.item() if regular else None


def read_long(schema: Schema, X: Any, y: Any = None, *, partial: bool = False, unseen: bool = False) -> Table:
    """Later rows against a known schema of a long data frame; see `reading.read_table`."""
    import pandas as pd

    known = [field.name for field in schema.fields]
    if not isinstance(X, pd.DataFrame):
        raise SchemaMismatch(
            f"X is a {type(X).__name__}, where a long DataFrame with the columns {', '.join(known[:8])} is wanted"
        )
    labels = column_labels(X, SchemaMismatch)
    position = {str(label): at for at, label in enumerate(labels)}
    if len(X) == 0:
        raise SchemaMismatch("X has no rows")
    extra = [name for name in position if name not in known]
    if extra:
        raise SchemaMismatch(
            f"column {extra[0]!r} is not known{hint(extra[0], known)} Drop it, X.drop(columns={extra[:5]}), or rename it. "
            f"Columns known: {', '.join(known)}"
        )
    needed = ("id", "time") if partial else ("id", "time", "data", "target")
    absent = [field.name for field in schema.with_role(*needed) if field.name not in position]
    if absent:
        raise SchemaMismatch(f"column {absent[0]!r} is missing. Columns given: {', '.join(position)}")
    fields: list[Field] = []
    columns: dict[str, Array] = {}
    for field in schema.fields:
        one = field.one_step
        if field.role == "ignore" or (field.name not in position and field.role not in ("data", "target", "condition")):
            continue
        if field.role == "condition":
            column = _labels(one, X, position, y)
            if column is None:
                continue
        elif field.name not in position:
            column = missing_column(one, len(X))
        elif one.kind == "category" and field.role != "group":
            column = category_codes(one, X.iloc[:, position[field.name]], SchemaMismatch, unseen=unseen)
        else:
            column = column_values(one, X.iloc[:, position[field.name]], SchemaMismatch)
        if field.role == "time" and one.is_missing(column).any():
            row = _first(one.is_missing(column))
            raise SchemaMismatch(f"time column {field.name!r} has no value in row {row}: fill it")
        fields.append(field)
        columns[field.name] = column
    if y is not None and schema.condition is None:
        read_condition(schema.condition, y, len(X))  # says that there is no condition
    order, lengths = _order(X, fields, columns, SchemaMismatch)
    return _fold(fields, columns, order, lengths, SchemaMismatch)


def _labels(field: Field, X: Any, position: Mapping[str, int], y: Any) -> Array | None:
    """The label of every row, from `y` (one for all rows, one per row, or the column's name) or from the column."""
    named = isinstance(y, str) and y == field.name
    if y is not None and not named:
        return read_condition(field, y, len(X))
    if field.name not in position:
        if named:
            raise SchemaMismatch(f"y={y!r} names a column that X does not have. Columns given: {', '.join(position)}")
        return None
    series = as_condition(X.iloc[:, position[field.name]], field.name, field.kind)
    return condition_values(field, series, SchemaMismatch)


def in_user_order(table: Table, steps: Array) -> Array:
    """Per-step results (N, ...) of a long data frame's table in the order of the rows the user gave; as they are for
    other tables."""
    if ROWS not in table:
        return steps
    return np.asarray(steps)[np.argsort(pack(table[ROWS])[0], kind="stable")]


def restore_long_labels(field: Field, table: Table) -> Any:
    """The column of labels per step, in the order of the user's rows."""
    codes = pack(table[field.name])[0].astype(np.int64)
    series = restore_column(field.one_step, in_user_order(table, codes))
    series.name = field.column_name
    return series


def restore_long(schema: Schema, table: Table, fields: Sequence[Field] | None = None) -> Any:
    """A long DataFrame of these fields (default: the column that names sequences, time, and the data fields)."""
    import pandas as pd

    data = schema.data_fields if fields is None else fields
    first = next((table[field.name] for field in data if field.kind == "sequence"), None)
    if first is None or not len(first):
        raise DataError("a long data frame is restored from at least one sequence with a column of steps")
    lengths = np.array([len(item) for item in first], dtype=np.int64)
    chosen = schema.with_role("id", "time", "data", "target") if fields is None else fields
    series: dict[str | int, Any] = {}
    for field in schema.fields:
        if field not in chosen:
            continue
        column = _steps(field, table, lengths)
        if column is not None:
            series[field.column_name] = column
    frame = pd.DataFrame(series, index=pd.RangeIndex(int(lengths.sum())))
    frame.columns = pd.Index(list(series))
    if ROWS not in table:
        return frame
    return frame.iloc[in_user_order(table, np.arange(len(frame)))].reset_index(drop=True)


def _steps(field: Field, table: Table, lengths: Array) -> Any:
    """One column of rows, sequence after sequence; ids and times that the table lacks are numbered and counted on."""
    if field.kind == "sequence" and field.name in table:
        return restore_column(field.one_step, pack(table[field.name])[0])
    if field.name in table:
        return restore_column(field, np.repeat(table[field.name], lengths))
    if field.role == "id":
        return _numbered(field, lengths)
    if field.role != "time" or field.every is None or field.start is None:
        return None
    place = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return restore_column(field.one_step, field.start + place * field.every)


def _numbered(field: Field, lengths: Array) -> Any:
    """0, 1, ... for the sequences of a sample, in the user's type where it can hold numbers or text."""
    import pandas as pd

    number = np.repeat(np.arange(len(lengths)), lengths)
    dtype = to_dtype(field.dtype)
    code = getattr(dtype, "kind", "O")
    if code in "iu" and len(lengths) - 1 > np.iinfo(getattr(dtype, "numpy_dtype", dtype)).max:
        return pd.Series(number)
    if code in "bMm" or isinstance(dtype, pd.DatetimeTZDtype):
        return pd.Series(number)
    text = np.empty(len(number), dtype=object)
    text[:] = [str(value) for value in number.tolist()]
    return restore_column(field, text)
