"""The condition of given data and back: what a user hands over as y, as a column of the schema's condition."""

from __future__ import annotations

from typing import Any

import numpy as np

from reverie.data.forms.labels import read_condition, restore_condition
from reverie.data.forms.long import restore_long_labels
from reverie.data.forms.stepwise import read_step_labels, restore_step_labels
from reverie.data.schema import Schema
from reverie.data.table import Array, Table


def read_y(schema: Schema, y: Any, n: int, lengths: Array | None = None) -> Array:
    """The condition column for `n` rows, from one label (or number, or vector) or from `n` of them. Labels per step
    are `n` lists of them, of these `lengths` when given.

    Raises `SchemaMismatch` for an unknown label (listing the classes), another length or width, or when there is no
    condition.
    """
    if schema.condition is not None and schema.condition.kind == "sequence":
        return read_step_labels(schema.condition, y, n, lengths)
    return read_condition(schema.condition, y, n)


def label_lengths(schema: Schema, y: Any, n: int) -> Array:
    """(n,) the number of labels per sequence in a y of labels per step."""
    return np.array([len(labels) for labels in read_y(schema, y, n)], dtype=np.int64)


def restore_y(schema: Schema, values: Table | Array) -> Any:
    """The user's form of a condition column (or of the table that holds it): Series, ndarray, tensor or list; for
    labels per step a list of lists or the like.

    None when there is no condition, or the table lacks it.
    """
    field = schema.condition
    if field is None or (isinstance(values, Table) and field.name not in values):
        return None
    if field.kind == "sequence":
        table = values if isinstance(values, Table) else Table({field.name: values})
        return restore_step_labels(field, table[field.name]) if field.form else restore_long_labels(field, table)
    return restore_condition(field, values[field.name] if isinstance(values, Table) else values)
