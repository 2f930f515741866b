"""Real rows to judge against, read under the model's own schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.data.forms.reading import read_table, restore_table, restore_y
from reverie.errors import DataError
from reverie.metrics.arrays import IntArray

if TYPE_CHECKING:
    from reverie.data.schema import Schema
    from reverie.data.table import Table


@dataclass(frozen=True)
class Real:
    """Rows of a dataset under the model's schema. `total` rows were there; `table` holds a random part of them.

    `labels` are class codes into `classes` (-1 = none) when the data have class labels, even if the model was trained
    without them.
    """

    name: str
    schema: Schema
    table: Table
    total: int
    labels: IntArray | None = None
    classes: tuple[Any, ...] = ()

    @property
    def n(self) -> int:
        return self.table.n

    @property
    def labelled(self) -> bool:
        """Is the condition of the model known for these rows."""
        fields = self.schema.conditions
        return bool(fields) and all(field.name in self.table for field in fields)

    def take(self, index: IntArray | slice) -> Real:
        labels = None if self.labels is None else self.labels[index]
        return Real(self.name, self.schema, self.table.take(index), self.total, labels, self.classes)

    @property
    def X(self) -> Any:
        """The data fields in the user's form."""
        return restore_table(self.schema, self.table)

    @property
    def y(self) -> Any:
        """The condition in the user's form, or None."""
        return restore_y(self.schema, self.table)


def read_real(data: Any, schema: Schema, limit: int, seed: int, part: str) -> Real:
    """At most `limit` random rows of `data`: a Dataset, a pair (X, y), or anything `data.as_dataset` takes.

    Of a Dataset with splits only the `part` ("test" or "train") is read. Raises `DataError` for fewer than 4 rows, `SchemaMismatch` when the data are not what the model was trained on.
    """
    y = None
    if isinstance(data, tuple) and len(data) == 2:
        data, y = data
    if not _is_dataset(data) and (y is not None or not _in_memory(data)):
        from reverie.data.sources.load import as_dataset

        data = as_dataset(data, y)
    if not _is_dataset(data):
        table = read_table(schema, data)
        total = table.n
        table = table.take(_subset(total, limit, seed, part))
        return Real("", schema, table, total, *_labels(schema, table))
    if part in getattr(data, "splits", {}):
        data = getattr(data, part)
    source, total = data.schema, len(data)
    table = data.take(_subset(total, limit, seed, part))
    labels, classes = _labels(source, table)
    if source != schema:
        y = restore_y(source, table) if schema.conditions else None
        table = read_table(schema, restore_table(source, table), y)
    name = str(getattr(data, "name", "")).removesuffix(f".{part}")
    return Real("" if name == "data" else name, schema, table, total, labels, classes)


def codes_in(labels: IntArray, classes: tuple[Any, ...], target: tuple[Any, ...]) -> IntArray:
    """Class codes into `classes` as codes into `target`, by value; -1 for classes that are not there."""
    place = {value: code for code, value in enumerate(target)}
    lookup = np.array([place.get(value, -1) for value in classes] + [-1], dtype=np.int64)
    return lookup[labels]


def _labels(schema: Schema, table: Table) -> tuple[IntArray | None, tuple[Any, ...]]:
    """Class codes and class names of the condition, if it has classes."""
    field = schema.condition
    if field is None or field.kind not in ("category", "boolean") or field.name not in table or field.shape:
        return None, ()
    classes = tuple(field.categories or ()) if field.kind == "category" else (False, True)
    return table[field.name].astype(np.int64), classes


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "take") and hasattr(getattr(data, "schema", None), "data_fields")


def _in_memory(data: Any) -> bool:
    """Arrays, tensors, data frames and lists are read by the model's schema at once, without inferring another."""
    return isinstance(data, list | np.ndarray) or hasattr(data, "columns") or hasattr(data, "detach")


def _subset(total: int, limit: int, seed: int, part: str) -> IntArray:
    if total < 4:
        raise DataError(f"the {part} data have {total} rows; evaluation needs at least 4")
    if total <= limit:
        return np.arange(total, dtype=np.int64)
    drawn = np.random.default_rng([seed, 7]).choice(total, limit, replace=False)
    return np.sort(drawn).astype(np.int64)
