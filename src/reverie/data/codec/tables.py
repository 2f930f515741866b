"""The codec of tables: one `ColumnStep` for every scalar column, chosen from what the column is and what a family wants."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from reverie.data.codec.columns import Columns, Floats, from_float, to_float
from reverie.data.codec.condition import ConditionCodec
from reverie.data.codec.maps import Codec, Prepared, sample_weights
from reverie.data.codec.ruled import free_fields, rules_of
from reverie.data.codec.steps.step import MANY, unexpected
from reverie.data.rules.book import RuleBook
from reverie.data.rules.rule import Rule
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
        rules: RuleBook | None = None,
        rows: int = MANY,
    ) -> None:
        self.schema, self.columns, self.condition = schema, columns, condition
        self.rules, self._rows = rules or RuleBook([]), rows
        self._free = free_fields(schema.data_fields, self.rules)
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
        rules = rules_of(schema, values)
        free, _ = rules.free(values, holes=wants.missing == "mask")
        wants = replace(wants, symbols=False, supports=wants.numbers is not None)
        columns, holes = Columns.fit(schema, wants, free_fields(fields, rules), free)
        return cls(
            schema,
            columns,
            dtype=wants.dtype,
            missing=holes and wants.missing == "mask",
            refuses_holes=None if wants.missing == "mask" else wants.family,
            unseen="refuse" if wants.unseen == "refuse" else "missing",
            condition=condition,
            rules=rules,
            rows=sample.n,
        )

    @property
    def kept(self) -> tuple[Rule, ...]:
        return tuple(self.rules.rules)

    def supports(self) -> dict[str, str]:
        dates = {field.name for field in self._free if field.kind == "datetime"}  # their ends are numbers of seconds
        return {name: text for name, text in self.columns.supports().items() if name not in dates}

    @property
    def measure(self) -> str:
        return self.columns.measure

    @property
    def lowers(self) -> bool:
        return self.noise_width > 0

    def prepare(self, table: Table, *, holes: bool = False) -> Prepared:
        values = {field.name: to_float(field, table.columns[field.name]) for field in self.schema.data_fields}
        refuses = None if holes else self._refuses_holes
        free, broken = self.rules.free(values, holes=self._refuses_holes is None)
        x, observed, log_det = self.columns.prepare(free, table.n, refuses=refuses)
        for units in broken:
            log_det += np.where(units > 0, unexpected(self._rows, units), 0.0)
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
        free = self.columns.decode(x, self._free, means=means)
        values = self.rules.whole(free, [field.name for field in fields]) if self.rules else free
        return Table({field.name: from_float(field, values[field.name]) for field in fields}, x.shape[0])

    def reconcile(self, raw: Table, made: Table) -> Table:
        if not self.rules:
            return made
        fields = self.schema.data_fields
        seen, drawn = ({f.name: to_float(f, table.columns[f.name]) for f in fields} for table in (raw, made))
        values = self.rules.reconciled(seen, drawn)
        return made.with_columns({field.name: from_float(field, values[field.name]) for field in fields})

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
            "rules": self.rules.to_json(),
            "rows": self._rows,
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
            rules=RuleBook.from_json(data.get("rules", [])),
            rows=data.get("rows", MANY),
        )
