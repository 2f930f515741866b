"""Real rows to judge against, read under the model's own schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.errors import DataError
from reverie.metrics.arrays import IntArray

if TYPE_CHECKING:
    from reverie.data.schema import Schema
    from reverie.data.table import Table


@dataclass(frozen=True)
class Real:
    """Rows of a dataset under the model's schema. `total` rows were there; `table` holds a random part of them."""

    name: str
    schema: Schema
    table: Table
    total: int

    @property
    def n(self) -> int:
        return self.table.n

    @property
    def labelled(self) -> bool:
        """Is the condition known for these rows."""
        condition = self.schema.condition
        return condition is not None and condition.name in self.table

    def take(self, index: IntArray | slice) -> Real:
        return Real(self.name, self.schema, self.table.take(index), self.total)

    @property
    def X(self) -> Any:
        """The data fields in the user's form."""
        return self.schema.restore(self.table)

    @property
    def y(self) -> Any:
        """The condition in the user's form, or None."""
        return self.schema.restore_y(self.table) if self.labelled else None


def read_real(data: Any, schema: Schema, limit: int, seed: int, what: str) -> Real:
    """At most `limit` random rows of `data`: a Dataset, a pair (X, y), or anything `data.as_dataset` takes.

    Raises `DataError` for fewer than 4 rows, `SchemaMismatch` when the data are not what the model was trained on.
    """
    y = None
    if isinstance(data, tuple) and len(data) == 2:
        data, y = data
    if isinstance(data, str | Path) or (not hasattr(data, "schema") and not _in_memory(data)):
        from reverie.data.dataset import as_dataset

        data, y = as_dataset(data, y), None
    if hasattr(data, "schema") and hasattr(data, "take") and hasattr(data.schema, "data_fields"):
        total = len(data)
        rows = _subset(total, limit, seed, what)
        table = data.take(rows)
        if data.schema != schema:
            table = schema.read(data.schema.restore(table), _condition(data.schema, table, schema))
        return Real(str(getattr(data, "name", "") or ""), schema, table, total)
    table = schema.read(data, y)
    rows = _subset(table.n, limit, seed, what)
    return Real("", schema, table.take(rows) if len(rows) < table.n else table, table.n)


def _in_memory(data: Any) -> bool:
    """Arrays, tensors, data frames and lists are read by the model's schema at once, without inferring another."""
    return isinstance(data, list | np.ndarray) or hasattr(data, "columns") or hasattr(data, "detach")


def _condition(source: Schema, table: Table, schema: Schema) -> Any:
    if schema.condition is None or source.condition is None or source.condition.name not in table:
        return None
    return source.restore_y(table)


def _subset(total: int, limit: int, seed: int, what: str) -> IntArray:
    if total < 4:
        raise DataError(f"{what} has {total} rows; evaluation needs at least 4")
    if total <= limit:
        return np.arange(total, dtype=np.int64)
    drawn = np.random.default_rng([seed, 7]).choice(total, limit, replace=False)
    return np.sort(drawn).astype(np.int64)
