"""The codec of tables: one `ColumnStep` for every scalar column, chosen from what the column is and what a family wants."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from reverie.data.codec.columns import Columns, Floats, from_float, to_float
from reverie.data.codec.condition import ConditionCodec
from reverie.data.codec.maps import Codec, Prepared, sample_weights
from reverie.data.space import Space, Wants
from reverie.data.table import Table
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Schema


class TableCodec(Codec):
    """One `ColumnStep` for every scalar column; model space is their columns side by side, in the schema's order."""

    def __init__(
        self,
        schema: Schema,
        columns: Columns,
        *,
        dtype: str,
        missing: bool,
        refuses_holes: str | None,
        unseen: Literal["refuse", "missing"] = "refuse",
        condition: ConditionCodec | None,
    ) -> None:
        self.schema, self.columns, self.condition = schema, columns, condition
        self.steps = columns.steps
        self._refuses_holes, self.unseen = refuses_holes, unseen
        self.space = Space(
            blocks=columns.blocks,
            missing=missing,
            condition=condition.slot if condition else None,
            dtype=dtype,
        )
        self.noise_width = len(columns.noisy)

    @classmethod
    def fit(cls, schema: Schema, wants: Wants, sample: Table, condition: ConditionCodec | None) -> TableCodec:
        fields = list(schema.data_fields)
        values = {field.name: to_float(field, sample.columns[field.name]) for field in fields}
        columns, holes = Columns.fit(
            schema, replace(wants, symbols=False, supports=wants.numbers is not None), fields, values
        )
        return cls(
            schema,
            columns,
            dtype=wants.dtype,
            missing=holes and wants.missing == "mask",
            refuses_holes=None if wants.missing == "mask" else wants.family,
            unseen="refuse" if wants.unseen == "refuse" else "missing",
            condition=condition,
        )

    @property
    def measure(self) -> str:
        return self.columns.measure

    @property
    def lowers(self) -> bool:
        return self.noise_width > 0

    def prepare(self, table: Table, *, holes: bool = False) -> Prepared:
        values = {field.name: to_float(field, table.columns[field.name]) for field in self.schema.data_fields}
        refuses = None if holes else self._refuses_holes
        x, observed, log_det = self.columns.prepare(values, table.n, refuses=refuses)
        return Prepared(
            torch.from_numpy(x).to(self.space.torch_dtype),
            None if observed.all() else torch.from_numpy(observed),
            self.condition_of(table),
            sample_weights(self.schema, table),
            torch.from_numpy(log_det),
        )

    def noise(self, x: Tensor, noise: Noise) -> Tensor:
        return self.columns.dequantise(x, noise.uniform(self.noise_width)) if self.noise_width else x

    def batch_log_det(self, x: Tensor, observed: Tensor | None = None) -> Tensor | None:
        return self.columns.noise_log_det(x, observed)

    def decode(self, x: Tensor, *, means: bool = False) -> Table:
        fields = list(self.schema.data_fields)
        values = self.columns.decode(x, fields, means=means)
        return Table({field.name: from_float(field, values[field.name]) for field in fields}, x.shape[0])

    @property
    def affine(self) -> tuple[Floats, Floats]:
        """(offset, scale) of every column, data = offset + scale * model; for affine and gridded columns."""
        return self.columns.offsets(), self.space.scales

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "table",
            "dtype": self.space.dtype,
            "missing": self.space.missing,
            "refuses_holes": self._refuses_holes,
            "unseen": self.unseen,
            "steps": self.columns.to_json(),
            "condition": self.condition.to_json() if self.condition else None,
        }

    @classmethod
    def from_json(cls, schema: Schema, data: dict[str, Any], condition: ConditionCodec | None) -> TableCodec:
        return cls(
            schema,
            Columns.from_json(data["steps"]),
            dtype=data["dtype"],
            missing=data["missing"],
            refuses_holes=data["refuses_holes"],
            unseen=data["unseen"],
            condition=condition,
        )
