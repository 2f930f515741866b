"""The base of all maps between data and model space: what a codec promises, and what its deterministic half returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie import catalog
from reverie.data.condition import ConditionCodec
from reverie.data.space import Space, Wants
from reverie.data.table import Table
from reverie.errors import DataError
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema


@dataclass
class Prepared:
    """Examples ready for batching. `x` may still be uint8 (pixels); `noise` makes it the network's float type.

    log_det is (n,) nats: log |d model / d data| over observed cells, and -inf where a value lies off its grid.
    """

    x: Tensor
    observed: Tensor | None
    y: Tensor | None
    weight: Tensor | None
    log_det: Tensor

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def rows(self, index: Tensor | slice) -> Prepared:
        def pick(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[index]

        return Prepared(self.x[index], pick(self.observed), pick(self.y), pick(self.weight), self.log_det[index])


class Codec(ABC):
    """A fitted map for one schema and one family's wants. States its `space`, its `measure`, and whether it turns an
    exact likelihood into a lower bound (`lowers`)."""

    schema: Schema
    space: Space
    condition: ConditionCodec | None
    noise_width: int = 0
    """Uniforms drawn per row by `noise`; 0 means the map is deterministic."""

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
    def noise(self, x: Tensor, noise: Noise) -> Tensor:
        """The random half, per batch: prepared x -> the float tensor the network sees."""

    @abstractmethod
    def batch_log_det(self, x: Tensor) -> Tensor | None:
        """(n,) further log-determinant that depends on the noise drawn, for noised `x`; None when there is none."""

    @abstractmethod
    def decode(self, x: Tensor) -> Table:
        """Model space -> data space; inverse of `prepare` and `noise` but for binarisation."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...

    def encode_condition(self, values: NDArray[Any]) -> Tensor:
        """The column of y -> (n, condition width) in the network's float type."""
        assert self.condition is not None
        return self.condition.encode(values).to(self.space.torch_dtype)


def others(schema: Schema, wants: Wants, *extra: str, verb: str | None = None, holes: bool = False) -> str:
    """The families but this one that learn from these fields (and kinds `extra`) and this y, for an error message."""
    kinds = {field.kind for field in schema.data_fields} | set(extra)
    condition = slot_kind(schema.condition) if schema.condition else None
    return catalog.who_takes(kinds, condition=condition, verb=verb, holes=holes, but=wants.family)


def slot_kind(field: Field) -> str:
    return "labels" if field.kind in ("category", "boolean") else "vector"


def sample_weights(schema: Schema, table: Table) -> Tensor | None:
    """The column of role weight as a tensor, checked: finite, not negative, not all zero."""
    fields = [field for field in schema.fields if field.role == "weight"]
    if not fields or fields[0].name not in table.columns:
        return None
    values = np.asarray(table.columns[fields[0].name], dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() == 0:
        raise DataError(f"weights in {fields[0].name!r} must be finite, not negative, and not all zero")
    return torch.from_numpy(values)
