"""The map between data space and model space, and the one negotiator that chooses it: `fit_codec`.

`prepare` is deterministic, float64 and run once; `noise` is what changes per batch (dequantisation, binarisation) and
stays in the network's float type. Log-determinants are per cell and summed over observed cells only.
"""

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
from reverie.errors import DataError, UnsupportedData
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.dataset import Dataset
    from reverie.data.schema import Field, Schema

_FIT_ROWS = 200_000


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


def fit_codec(schema: Schema, wants: Wants, train: Dataset) -> Codec:
    """Choose and fit the map for these data and this family, from the training rows only.

    Raises `UnsupportedData`, naming the families that can, when kinds, holes, ties or `y` do not suit the family.
    """
    fields = schema.data_fields
    if not fields:
        raise DataError("the data have no column with the role data: there is nothing to learn")
    _check_kinds(schema, wants)
    sample = _fit_sample(train)
    condition = _fit_condition(schema, wants, sample)
    from reverie.data.tables import TableCodec

    if any(field.kind == "image" for field in fields):
        from reverie.data.pixels import ImageCodec

        if len(fields) > 1:
            raise UnsupportedData(
                "images beside other data columns are not supported: give the other columns the role condition or "
                "ignore"
            )
        return ImageCodec.fit(schema, wants, sample, condition)
    return TableCodec.fit(schema, wants, sample, condition)


def codec_from_json(schema: Schema, data: dict[str, Any]) -> Codec:
    """Rebuild a codec from `to_json`."""
    from reverie.data.pixels import ImageCodec
    from reverie.data.tables import TableCodec

    if data["type"] == "image":
        return ImageCodec.from_json(schema, data)
    return TableCodec.from_json(schema, data)


def others(schema: Schema, wants: Wants, *extra: str, verb: str | None = None, holes: bool = False) -> str:
    """The families but this one that learn from these fields (and kinds `extra`) and this y, for an error message."""
    kinds = {field.kind for field in schema.data_fields} | set(extra)
    condition = _slot_kind(schema.condition) if schema.condition else None
    return catalog.who_takes(kinds, condition=condition, verb=verb, holes=holes, but=wants.family)


def _slot_kind(field: Field) -> str:
    return "labels" if field.kind in ("category", "boolean") else "vector"


def _check_kinds(schema: Schema, wants: Wants) -> None:
    wrong = [field for field in schema.data_fields if field.kind not in wants.kinds]
    if wrong:
        named = ", ".join(f"{field.name!r} ({field.kind})" for field in wrong[:5])
        raise UnsupportedData(
            f"{wants.family} cannot learn from {named}: it takes {', '.join(sorted(wants.kinds))}. "
            f"Families that can: {others(schema, wants)}"
        )


def _fit_sample(train: Dataset) -> Table:
    if len(train) == 0:
        raise DataError("the training data have no rows")
    if train.in_memory or len(train) <= _FIT_ROWS:
        return train.take(np.arange(len(train)))
    return train.take(np.linspace(0, len(train) - 1, _FIT_ROWS).astype(np.int64))


def _fit_condition(schema: Schema, wants: Wants, sample: Table) -> ConditionCodec | None:
    field = schema.condition
    if field is None:
        return None
    kind = _slot_kind(field)
    if kind not in wants.conditions:
        raise UnsupportedData(
            f"{wants.family} does not learn from y ({field.name!r} is a {kind} condition). Leave y out, or give it the "
            f"role ignore. Families that take it: {others(schema, wants)}"
        )
    return ConditionCodec.fit(field, sample.columns[field.name])


def sample_weights(schema: Schema, table: Table) -> Tensor | None:
    """The column of role weight as a tensor, checked: finite, not negative, not all zero."""
    fields = [field for field in schema.fields if field.role == "weight"]
    if not fields or fields[0].name not in table.columns:
        return None
    values = np.asarray(table.columns[fields[0].name], dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() == 0:
        raise DataError(f"weights in {fields[0].name!r} must be finite, not negative, and not all zero")
    return torch.from_numpy(values)
