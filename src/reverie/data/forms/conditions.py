"""What a user hands over as y, in fit and later: columns of X by name, labels, numbers, pictures, texts, sequences, or several
columns at once; as fields of the role condition, and their columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.data.forms.labels import CONDITION_NAMES, infer_condition, label_column, read_condition
from reverie.data.forms.stepwise import infer_step_labels, read_step_labels
from reverie.data.forms.wholes import infer_whole, read_whole
from reverie.data.schema import Field, Schema
from reverie.data.table import Array, Table, hint
from reverie.errors import DataError, SchemaMismatch


def infer_y(
    y: Any, n: int, *, taken: Sequence[str], kinds: Mapping[str, str], lengths: Array | None = None
) -> dict[Field, Array]:
    """The condition fields of a y given beside `n` rows of X, and their columns.

    A DataFrame of several columns, or a mapping of them, is several fields; `kinds` has theirs, and that of a y without a
    name under "y". `lengths` are those of the sequences of X, whose steps may be what y labels.
    """
    if column_names(y):
        return _infer_columns(y, n, taken, kinds)
    name = next(name for name in CONDITION_NAMES if name not in taken)
    kind = kinds.get("y")
    steps = None
    if lengths is not None and kind not in ("image", "text", "sequence"):
        steps = infer_step_labels(y, lengths, taken=taken, kind=kind)
    found = steps or infer_whole(y, n, name, kind) or infer_condition(y, n, taken=taken, kind=kind)
    return dict([found])


def column_names(y: Any) -> list[str]:
    """The names of its columns where y, given beside X, is a mapping of columns or a DataFrame of several; else []."""
    import pandas as pd

    several = isinstance(y, Mapping) or (isinstance(y, pd.DataFrame) and y.shape[1] > 1)
    return [str(name) for name in y] if several else []


def _infer_columns(y: Any, n: int, taken: Sequence[str], kinds: Mapping[str, str]) -> dict[Field, Array]:
    import pandas as pd

    try:
        frame = pd.DataFrame(y).reset_index(drop=True)
    except ValueError as problem:
        raise DataError(f"y cannot be read as columns ({problem}): give lists of one length, or a DataFrame") from None
    if len(frame) != n:
        raise DataError(f"y has {len(frame)} rows and X has {n}: give one for each row")
    out: dict[Field, Array] = {}
    for label in frame.columns:
        if str(label) in taken:
            raise DataError(f"y has a column {str(label)!r}, as X has: rename one, or give y={str(label)!r}")
        field, column = label_column(label, frame[label], kinds.get(str(label)))
        out[dataclasses.replace(field, form="frame")] = column
    return out


def read_y(schema: Schema, y: Any, n: int, lengths: Array | None = None) -> Table:
    """The condition columns for `n` rows, from one y for all (label, number, vector, picture, text, sequence, a mapping of
    columns) or from `n` of them. Labels per step are `n` lists of them, of these `lengths` when given.

    Raises `SchemaMismatch` for an unknown label (listing the classes), another length or shape, or when there is no
    condition.
    """
    fields = schema.conditions
    if not fields:
        raise SchemaMismatch("y was given, but the model was trained without a condition: leave y out")
    if len(fields) > 1:
        return _read_columns(fields, y, n)
    field = fields[0]
    if isinstance(y, Mapping) or (column_names(y) and not field.shape):
        y = _only(y, field)
    if field.kind == "sequence" and not field.whole:
        return Table({field.name: read_step_labels(field, y, n, lengths)}, n)
    if field.kind in ("image", "text", "sequence"):
        return Table({field.name: read_whole(field, y, n)}, n)
    return Table({field.name: read_condition(field, y, n)}, n)


def _only(y: Any, field: Field) -> Any:
    """The one column that a mapping or data frame has for a condition of one column."""
    if [str(name) for name in y] != [field.name]:
        raise SchemaMismatch(f"y has the columns {', '.join(map(str, y))}, where only {field.name!r} is wanted")
    return y[next(iter(y))]


def _read_columns(fields: Sequence[Field], y: Any, n: int) -> Table:
    names = [field.name for field in fields]
    example = "{" + ", ".join(f"{name!r}: ..." for name in names) + "}"
    if not column_names(y):
        raise SchemaMismatch(f"y consists of the columns {', '.join(names)}: give y={example}, or a DataFrame of them")
    given = {str(name): y[name] for name in y}
    for name in given:
        if name not in names:
            raise SchemaMismatch(f"y has no column {name!r}{hint(name, names)} Columns: {', '.join(names)}")
    absent = [name for name in names if name not in given]
    if absent:
        raise SchemaMismatch(f"y lacks {', '.join(map(repr, absent))}: give y={example}")
    return Table({field.name: _repeated(field, given[field.name], n) for field in fields}, n)


def _repeated(field: Field, values: Any, n: int) -> Array:
    """The column for `n` rows from one value for all or `n` of them; columns of one row are one value."""
    single = not isinstance(values, str) and hasattr(values, "__len__") and len(values) == 1
    return np.repeat(read_condition(field, values, 1), n) if single else read_condition(field, values, n)


def label_lengths(schema: Schema, y: Any, n: int) -> Array:
    """(n,) the number of labels per sequence in a y of labels per step."""
    (labels,) = read_y(schema, y, n).columns.values()
    return np.array([len(item) for item in labels], dtype=np.int64)
