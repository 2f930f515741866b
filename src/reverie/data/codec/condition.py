"""The map for `y`: class labels to one-hot rows, numbers to standardised rows, and draws from the training values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.space import Condition
from reverie.data.table import pack
from reverie.errors import DataError, Unsupported
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Field

_POOL = 1024


@dataclass
class ConditionCodec:
    """kind "labels" (one per example) and "steps" (one per step): `frequencies` (K,) of the classes in training, where
    labelled. kind "vector": `mean`, `sd` (w,) and a `pool` of training values from which unconditional samples draw
    theirs. `partial`: labels may be missing (code -1)."""

    kind: Literal["labels", "steps", "vector"]
    frequencies: NDArray[np.float64] | None = None
    mean: NDArray[np.float64] | None = None
    sd: NDArray[np.float64] | None = None
    pool: NDArray[np.float64] | None = None
    partial: bool = False

    @classmethod
    def fit(cls, field: Field, values: NDArray[Any], *, partial: bool = False) -> ConditionCodec:
        steps = field.kind == "sequence"
        if steps or field.kind in ("category", "boolean"):
            codes = (pack(values)[0] if steps else values).astype(np.int64)
            classes = 2 if field.one_step.kind == "boolean" else len(field.categories or ())
            counts = np.bincount(codes[codes >= 0], minlength=classes).astype(np.float64)
            if not counts.sum():
                raise DataError(f"condition {field.name!r} has no label in any training row: leave y out")
            return cls("steps" if steps else "labels", frequencies=counts / counts.sum(), partial=partial)
        numbers = values.astype(np.float64).reshape(len(values), -1)
        spread = numbers.std(0)
        pool = numbers[np.linspace(0, len(numbers) - 1, min(_POOL, len(numbers))).astype(np.int64)]
        return cls("vector", mean=numbers.mean(0), sd=np.where(spread > 0, spread, 1.0), pool=pool)

    @property
    def slot(self) -> Condition:
        width = self.frequencies if self.frequencies is not None else self.mean
        assert width is not None
        return Condition(self.kind, len(width))

    def encode(self, values: NDArray[Any]) -> Tensor:
        """(n,) codes, n arrays of codes per step, or (n,)/(n, w) numbers -> (n, width), per step (N, width), float64.

        A missing label (code -1) is an all-zero row.
        """
        if self.frequencies is not None:
            flat = pack(values)[0] if self.kind == "steps" else values
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
        return numbers[:, 0] if numbers.shape[1] == 1 else numbers

    def draw(self, noise: Noise) -> NDArray[Any]:
        """`noise.rows` values of y as they occur in training; labels per step are the family's to draw."""
        if self.kind == "steps":
            raise Unsupported("y: labels per step are drawn with the sequences, not before them")
        u = noise.uniform().double().cpu().numpy()
        if self.frequencies is not None:
            ends = np.cumsum(self.frequencies)
            return np.asarray(np.minimum(np.searchsorted(ends, u * ends[-1], side="right"), len(ends) - 1))
        assert self.pool is not None
        rows = self.pool[np.minimum((u * len(self.pool)).astype(np.int64), len(self.pool) - 1)]
        return rows[:, 0] if rows.shape[1] == 1 else rows

    def to_json(self) -> dict[str, Any]:
        arrays = {"frequencies": self.frequencies, "mean": self.mean, "sd": self.sd, "pool": self.pool}
        return {
            "kind": self.kind,
            "partial": self.partial,
            **{name: None if a is None else a.tolist() for name, a in arrays.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ConditionCodec:
        arrays = {
            name: None if v is None else np.array(v) for name, v in data.items() if name not in ("kind", "partial")
        }
        return cls(data["kind"], **arrays, partial=data.get("partial", False))
