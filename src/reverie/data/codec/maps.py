"""The base of all maps between data and model space: what a codec promises, and what its deterministic half returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reverie import catalog
from reverie.data.codec.condition import ConditionCodec
from reverie.data.rules.rule import Rule
from reverie.data.space import Points, Ragged, Space, Unseen, Wants, rows_of
from reverie.data.table import Table
from reverie.errors import DataError
from reverie.rng import LatticeNoise, Noise

if TYPE_CHECKING:
    from reverie.data.schema import Schema


@dataclass
class Prepared:
    """Examples ready for batching. `x` may still be uint8 (pixels); `noise` makes it the network's float type.

    x is a Tensor (n, ...) or a `Ragged`, then observed is (N, width) and, when `labelled_steps`, y is (N, classes). y is as
    `ConditionCodec.encode` gave it, still to be finished per batch.
    log_det is (n,) nats: log |d model / d data| over observed cells, and -inf where a value lies off its grid.
    """

    x: Points
    observed: Tensor | None
    y: Points | None
    weight: Tensor | None
    log_det: Tensor
    labelled_steps: bool = False

    def __len__(self) -> int:
        return len(self.x)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.x, self.observed, self.y, self.weight) if t is not None)

    def rows(self, index: Tensor | slice) -> Prepared:
        """The examples of that index, in its order."""
        steps = self.x.steps(index) if isinstance(self.x, Ragged) else index
        return Prepared(
            rows_of(self.x, index),
            rows_of(self.observed, steps),
            rows_of(self.y, steps if self.labelled_steps else index),
            rows_of(self.weight, index),
            self.log_det[index],
            self.labelled_steps,
        )


class Codec(ABC):
    """A fitted map for one schema and one family's wants. States its `space`, its `measure`, and whether it turns an
    exact likelihood into a lower bound (`lowers`)."""

    schema: Schema
    space: Space
    condition: ConditionCodec | None
    noise_width: int = 0
    """Uniforms drawn per row by `noise`; 0 means the map is deterministic."""
    unseen: Unseen = "refuse"
    """What `read_table` shall do with categories that training did not have."""

    @property
    def kept(self) -> tuple[Rule, ...]:
        """The rules that all rows keep that are decoded."""
        return ()

    def supports(self) -> dict[str, str]:
        """Numeric columns that are not as they are in model space: where they can lie, what says so, and their map."""
        return {}

    @property
    @abstractmethod
    def measure(self) -> str: ...

    @property
    @abstractmethod
    def lowers(self) -> bool: ...

    @abstractmethod
    def prepare(self, table: Table, *, holes: bool = False) -> Prepared:
        """Data space -> model space, the deterministic half. Raises `UnsupportedData` for holes a family refuses, unless
        `holes` says they are there to be filled."""

    @abstractmethod
    def noise(self, x: Points, noise: Noise) -> Points:
        """The random half, per batch: prepared x -> the floats the network sees."""

    def middle(self, x: Points) -> Points:
        """Prepared x -> floats in the middle of what `noise` may make of it."""
        return self.noise(x, LatticeNoise(len(x), 0, 1))

    @abstractmethod
    def batch_log_det(self, x: Points, observed: Tensor | None = None) -> Tensor | None:
        """(n,) further log-determinant that depends on the noise drawn, over the observed cells of noised `x`; None when there
        is none."""

    @abstractmethod
    def decode(self, x: Points, *, means: bool = False) -> Table:
        """Model space -> data space; inverse of `prepare` and `noise` but for binarisation. With `means`, x holds
        expected values: numbers on a grid then stay between its points, as far as their kind allows."""

    def reconcile(self, raw: Table, made: Table) -> Table:
        """Decoded rows `made`, changed where `raw` has missing cells so that rules hold with the cells that it has."""
        return made

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...

    def encode_condition(self, table: Table) -> Points:
        """The condition columns of a table as the network sees them: (n, condition width), (N, width) for labels per step,
        (n, C, H, W) for pictures, `Ragged` for sequences.

        Raises `SchemaMismatch` for a missing label unless the family takes those (`Wants.partial`).
        """
        assert self.condition is not None
        return self.condition.finish(self.condition.encode(table, self.space.torch_dtype))

    def condition_of(self, table: Table) -> Points | None:
        """The encoded y of a table, still to be finished; None when there is no condition or the table lacks it."""
        fields = self.schema.conditions
        if self.condition is None or not fields or any(field.name not in table for field in fields):
            return None
        return self.condition.encode(table, self.space.torch_dtype)


def others(schema: Schema, wants: Wants, *extra: str, verb: str | None = None, holes: bool = False) -> str:
    """The families but this one that learn from these fields (and kinds `extra`) and this y, for an error message."""
    kinds = {field.kind for field in schema.data_fields} | set(extra)
    return catalog.who_takes(kinds, condition=slot_kind(schema), verb=verb, holes=holes, but=wants.family)


def slot_kind(schema: Schema) -> str | None:
    """The kind of slot that y of this schema needs; None without y."""
    fields = schema.conditions
    if len(fields) > 1:
        return "columns"
    if not fields:
        return None
    field = fields[0]
    if field.kind == "image":
        return "picture"
    if field.kind == "text" or (field.kind == "sequence" and field.whole):
        return "sequence"
    if field.kind == "sequence":
        return "steps"
    return "labels" if field.kind in ("category", "boolean") else "vector"


def sample_weights(schema: Schema, table: Table) -> Tensor | None:
    """The column of role weight as a tensor, checked: finite, not negative, not all zero."""
    fields = [field for field in schema.fields if field.role == "weight"]
    if not fields or fields[0].name not in table.columns:
        return None
    values = np.array(table.columns[fields[0].name], dtype=np.float64)  # a copy: columns of frames are read-only
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() == 0:
        raise DataError(f"weights in {fields[0].name!r} must be finite, not negative, and not all zero")
    return torch.from_numpy(values)
