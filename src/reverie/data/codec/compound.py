"""The map for a `y` that is more than one column of labels or numbers: several columns, a picture, a text or a sequence. It
goes through the very codecs that x of that kind goes through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from reverie.data.codec.condition import ConditionCodec
from reverie.data.codec.maps import Codec
from reverie.data.codec.pixels import ImageCodec
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.codec.tables import TableCodec
from reverie.data.schema import Field, Schema
from reverie.data.space import Condition, Points, Wants
from reverie.data.table import Table, column_from_json, column_to_json
from reverie.errors import SchemaMismatch
from reverie.rng import Noise

_POOL_ROWS = 1024
_POOL_BYTES = 2**21
"""What a model keeps of the training values of y, to draw some where none are given."""

_CODECS: dict[str, type[TableCodec] | type[ImageCodec] | type[SequenceCodec]] = {
    "columns": TableCodec,
    "picture": ImageCodec,
    "sequence": SequenceCodec,
}


class CompoundCondition(ConditionCodec):
    """y through an `inner` codec of its own kind; `pool` holds training rows of it, from which samples draw theirs."""

    def __init__(self, of: str, inner: Codec, pool: Table) -> None:
        self._of, self.inner, self.pool = of, inner, pool

    @classmethod
    def fit(cls, of: str, schema: Schema, sample: Table, dtype: Literal["float32", "float64"]) -> CompoundCondition:
        """From the condition columns of training rows, for a family of that float type."""
        own = Schema(tuple(_as_data(field) for field in schema.conditions), rules=())
        table = sample.select(own.names)
        wants = Wants(
            family="y",
            kinds=frozenset(["number", "integer", "category", "boolean", "datetime", "image", "sequence", "text"]),
            discrete="round",
            images="symmetric",
            density=False,
            dtype=dtype,
            symbols=True,
        )
        _refuse_holes(own, table)
        rows = min(_POOL_ROWS, max(16, _POOL_BYTES * table.n // max(table.nbytes, 1)), table.n)
        kept = np.linspace(0, table.n - 1, rows).astype(np.int64)
        return cls(of, _CODECS[of].fit(own, wants, table, None), table.take(kept))

    @property
    def slot(self) -> Condition:
        space = self.inner.space
        return Condition(self._of, space.width, space)  # type: ignore[arg-type]

    def encode(self, table: Table, dtype: torch.dtype) -> Points:
        _refuse_holes(self.inner.schema, table)
        return self.inner.prepare(table.select(self.inner.schema.names)).x

    def finish(self, y: Points) -> Points:
        return self.inner.middle(y)

    def draw(self, noise: Noise) -> Table:
        u = noise.uniform().double().cpu().numpy()
        return self.pool.take(np.minimum((u * self.pool.n).astype(np.int64), self.pool.n - 1))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self._of,
            "codec": self.inner.to_json(),
            "pool": {name: column_to_json(column) for name, column in self.pool.columns.items()},
        }

    @classmethod
    def from_json(cls, schema: Schema, data: dict[str, Any]) -> CompoundCondition:
        own = Schema(tuple(_as_data(field) for field in schema.conditions), rules=())
        inner = _CODECS[data["kind"]].from_json(own, data["codec"], None)
        return cls(data["kind"], inner, Table({name: column_from_json(item) for name, item in data["pool"].items()}))


def _as_data(field: Field) -> Field:
    return replace(field, role="data")


def _refuse_holes(schema: Schema, table: Table) -> None:
    """Say where y is missing, in the words of a condition."""
    for field in schema.fields:
        column = table[field.name]
        if field.kind in ("text", "sequence"):
            missing = np.array([item is None or len(item) == 0 for item in column], dtype=bool)
        else:
            missing = np.asarray(field.is_missing(column).reshape(len(column), -1).any(1))
        if missing.any():
            raise SchemaMismatch(
                f"condition {field.name!r} has no value in row {int(np.argmax(missing))}: drop the row or fill it in"
            )
