"""The map for `y`: what every such map promises, and the one for a single column: class labels to one-hot rows, numbers to
standardised rows. `compound` has the map of everything else that y can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.space import Condition, Points
from reverie.data.table import Table, pack
from reverie.errors import DataError, SchemaMismatch, Unsupported
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Field

_POOL = 1024


class ConditionCodec(ABC):
    """The fitted map between y, the condition columns of a table, and what a network sees of it (`slot`)."""

    frequencies: NDArray[np.float64] | None = None
    """(K,) of the classes in training, where labelled; None where y is no class."""
    partial: bool = False
    """Values of y may be missing."""

    @property
    def kind(self) -> str:
        """Of the slot: labels, steps, vector, columns, picture or sequence."""
        return self.slot.kind

    @property
    @abstractmethod
    def slot(self) -> Condition: ...

    @abstractmethod
    def encode(self, table: Table, dtype: torch.dtype) -> Points:
        """The condition columns of a table, ready for batching. Raises `SchemaMismatch` for what must not be missing."""

    def finish(self, y: Points) -> Points:
        """Rows of what `encode` gave -> what the network sees, per batch."""
        return y

    @abstractmethod
    def draw(self, noise: Noise) -> Table:
        """`noise.rows` values of y as they occur in training."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...


@dataclass
class ColumnCondition(ConditionCodec):
    """The map of one column. `of` "labels" (one per example) and "steps" (one per step): `frequencies`. "vector": `mean`,
    `sd` (w,) and a `pool` of training values from which unconditional samples draw theirs. `partial`: labels may be missing
    (code -1)."""

    field: Field
    of: Literal["labels", "steps", "vector"]
    frequencies: NDArray[np.float64] | None = None
    mean: NDArray[np.float64] | None = None
    sd: NDArray[np.float64] | None = None
    pool: NDArray[np.float64] | None = None
    partial: bool = False

    @classmethod
    def fit(cls, field: Field, values: NDArray[Any], *, partial: bool = False) -> ColumnCondition:
        steps = field.kind == "sequence"
        if steps or field.kind in ("category", "boolean"):
            codes = (pack(values)[0] if steps else values).astype(np.int64)
            classes = 2 if field.one_step.kind == "boolean" else len(field.categories or ())
            counts = np.bincount(codes[codes >= 0], minlength=classes).astype(np.float64)
            if not counts.sum():
                raise DataError(f"condition {field.name!r} has no label in any training row: leave y out")
            return cls(field, "steps" if steps else "labels", frequencies=counts / counts.sum(), partial=partial)
        numbers = values.astype(np.float64).reshape(len(values), -1)
        spread = numbers.std(0)
        pool = numbers[np.linspace(0, len(numbers) - 1, min(_POOL, len(numbers))).astype(np.int64)]
        return cls(field, "vector", mean=numbers.mean(0), sd=np.where(spread > 0, spread, 1.0), pool=pool)

    @property
    def slot(self) -> Condition:
        width = self.frequencies if self.frequencies is not None else self.mean
        assert width is not None
        return Condition(self.of, len(width))

    def encode(self, table: Table, dtype: torch.dtype) -> Tensor:
        """(n,) codes, n arrays of codes per step, or (n,)/(n, w) numbers -> (n, width), per step (N, width).

        A missing label (code -1) is an all-zero row, where labels may be missing.
        """
        values = table[self.field.name]
        hole = None if self.partial else unlabelled(self.field, values)
        if hole:
            raise SchemaMismatch(hole)
        return self._rows(values).to(dtype)

    def _rows(self, values: NDArray[Any]) -> Tensor:
        if self.frequencies is not None:
            flat = pack(values)[0] if self.of == "steps" else values
            codes = torch.from_numpy(np.asarray(flat, dtype=np.int64))
            return torch.nn.functional.one_hot(codes + 1, len(self.frequencies) + 1)[:, 1:].double()
        assert self.mean is not None
        assert self.sd is not None
        numbers = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        return torch.from_numpy((numbers - self.mean) / self.sd)

    def decode(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardised rows (n, w) -> the numbers y has, (n,) or (n, w)."""
        assert self.mean is not None
        assert self.sd is not None
        numbers = rows * self.sd + self.mean
        return numbers if self.field.shape else numbers[:, 0]

    def draw(self, noise: Noise) -> Table:
        """Labels per step are the family's to draw."""
        if self.of == "steps":
            raise Unsupported("y: labels per step are drawn with the sequences, not before them")
        u = noise.uniform().double().cpu().numpy()
        if self.frequencies is not None:
            ends = np.cumsum(self.frequencies)
            codes = np.minimum(np.searchsorted(ends, u * ends[-1], side="right"), len(ends) - 1)
            return Table({self.field.name: codes})
        assert self.pool is not None
        rows = self.pool[np.minimum((u * len(self.pool)).astype(np.int64), len(self.pool) - 1)]
        return Table({self.field.name: rows if self.field.shape else rows[:, 0]})

    def to_json(self) -> dict[str, Any]:
        arrays = {"frequencies": self.frequencies, "mean": self.mean, "sd": self.sd, "pool": self.pool}
        return {
            "kind": self.of,
            "partial": self.partial,
            **{name: None if a is None else a.tolist() for name, a in arrays.items()},
        }

    @classmethod
    def from_json(cls, field: Field, data: dict[str, Any]) -> ColumnCondition:
        arrays = {
            name: None if v is None else np.array(v) for name, v in data.items() if name not in ("kind", "partial")
        }
        return cls(field, data["kind"], **arrays, partial=data.get("partial", False))


def unlabelled(field: Field, values: NDArray[Any]) -> str | None:
    """Where the first missing label of a condition's column is and what to do about it, or None."""
    where = None
    if field.kind == "sequence":
        row = next((row for row, labels in enumerate(values) if (labels < 0).any()), None)
        where = None if row is None else f"sequence {row}, step {int(np.argmax(values[row] < 0))}"
    elif field.kind in ("category", "boolean") and (values < 0).any():
        where = f"row {int(np.argmax(values < 0))}"
    what = "step" if field.kind == "sequence" else "row"
    return where and f"condition {field.name!r} has no value in {where}: drop the {what} or fill in a label"
