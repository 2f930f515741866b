"""Numbers to and from model space: continuous columns and grids.

A `ColumnStep` has `prepare` (float64, deterministic), `decode` (its inverse), a log-determinant per cell, and the
blocks it occupies. Array blocks become one step per column.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from reverie.data.space import Block

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class ColumnStep(ABC):
    """One scalar column in `width` model columns."""

    kind: ClassVar[str]

    @property
    def width(self) -> int:
        return 1

    @property
    def dequantise_step(self) -> float:
        """Width of the uniform noise in model units; 0 for none."""
        return 0.0

    @property
    @abstractmethod
    def measure(self) -> str:
        """ "Lebesgue", "counting" or "atoms + Lebesgue"."""

    @abstractmethod
    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        """(n,) data, NaN = missing -> model columns (n, width) and which of them are observed."""

    @abstractmethod
    def decode(self, x: Floats) -> Floats:
        """(n, width) model columns -> (n,) data."""

    def expected(self, x: Floats) -> Floats:
        """(n, width) expected model columns -> (n,) data, which need not be values that occur."""
        return self.decode(x)

    @abstractmethod
    def blocks(self, name: str) -> list[Block]:
        """The blocks of model space it fills, unplaced."""

    def to_json(self) -> dict[str, Any]:
        """The kind and every field, as JSON."""
        own: Any = self
        return {"kind": self.kind} | {field.name: _plain(getattr(self, field.name)) for field in fields(own)}

    def log_det(self, values: Floats) -> Floats:
        """(n,) data -> log |d model / d data| of each cell in nats; 0 where missing, -inf off the support."""
        return np.zeros(values.shape[0])


def _plain(value: Any) -> Any:
    if isinstance(value, ColumnStep):
        return value.to_json()
    return value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value


def one_column(x: Floats, seen: Bools) -> tuple[Floats, Bools]:
    return np.where(seen, x, 0.0)[:, None], seen[:, None]


@dataclass
class Affine(ColumnStep):
    """Continuous: x = (v - mean) / sd, log |dx/dv| = -log sd."""

    kind: ClassVar[str] = "affine"
    mean: float
    sd: float
    tied: bool = False
    """The values repeat or lie on a grid: a density compares models of this column, but is no probability."""

    @property
    def measure(self) -> str:
        return "Lebesgue"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column((values - self.mean) / self.sd, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        return x[:, 0] * self.sd + self.mean

    def log_det(self, values: Floats) -> Floats:
        return np.where(np.isnan(values), 0.0, -math.log(self.sd))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "real", 0, 1, scale=(self.sd,), rounded=self.tied)]


@dataclass
class Quantile(ColumnStep):
    """Continuous: x = Phi^-1(F(v)), F the empirical distribution, piecewise linear in x through (knots, heights).

    Beyond the knots the end slopes go on, so the map is one-to-one on the whole line.
    """

    kind: ClassVar[str] = "quantile"
    knots: Floats
    heights: Floats

    @classmethod
    def fit(cls, values: Floats) -> Quantile:
        """Knots at up to 256 mid-quantiles of the values."""
        from statistics import NormalDist

        count = int(min(256, np.unique(values).size))
        levels = (np.arange(count) + 0.5) / count
        knots = np.quantile(values, levels)
        keep = np.concatenate([[True], np.diff(knots) > 0])
        inverse = NormalDist().inv_cdf
        return cls(knots[keep], np.array([inverse(p) for p in levels[keep]]))

    @property
    def measure(self) -> str:
        return "Lebesgue"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        piece, slope = self._piece(values)
        return one_column(self.heights[piece] + (values - self.knots[piece]) * slope, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        z = x[:, 0]
        piece = np.clip(np.searchsorted(self.heights, z, side="right") - 1, 0, self.heights.size - 2)
        slope = (np.diff(self.knots) / np.diff(self.heights))[piece]
        return self.knots[piece] + (z - self.heights[piece]) * slope

    def log_det(self, values: Floats) -> Floats:
        return np.where(np.isnan(values), 0.0, np.log(self._piece(values)[1]))

    def _piece(self, values: Floats) -> tuple[NDArray[np.intp], Floats]:
        filled = np.where(np.isnan(values), self.knots[0], values)
        piece = np.clip(np.searchsorted(self.knots, filled, side="right") - 1, 0, self.knots.size - 2)
        return piece, (np.diff(self.heights) / np.diff(self.knots))[piece]

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "real", 0, 1, scale=(1.0,))]


@dataclass
class Grid(ColumnStep):
    """Gridded values v = low + k step, or the k-th of `values` when the levels are irregular.

    mode "native": x = (k - mean) / sd is an integer block with spacing 1 / sd, counting measure. mode "dequantise":
    x = (k + u - 1/2 - mean) / sd with u ~ U[0, 1), a real block; log P(v) >= E_u log p(x) - log sd (Theis et al. 2016,
    section 3.1). mode "round": a real block, rounded back on decode, no likelihood.
    """

    kind: ClassVar[str] = "grid"
    low: float
    step: float
    mean: float
    sd: float
    mode: Literal["native", "dequantise", "round"]
    values: Floats | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    """Smallest and largest k there can be: those seen (mode "round", irregular levels), or k of 0 for counts."""
    decimals: int | None = None
    """Digits after the point that the values have: 4.3 comes back as 4.3 and not as 4.300000000000001."""

    @property
    def measure(self) -> str:
        return "counting"

    @property
    def dequantise_step(self) -> float:
        return 1 / self.sd if self.mode == "dequantise" else 0.0

    def _k(self, values: Floats) -> Floats:
        if self.values is None:
            return (values - self.low) / self.step
        at = np.clip(np.searchsorted(self.values, values), 0, self.values.size - 1)
        below = np.clip(at - 1, 0, None)
        nearer = np.abs(self.values[below] - values) < np.abs(self.values[at] - values)
        return np.asarray(np.where(nearer, below, at), dtype=np.float64)

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column((self._k(values) - self.mean) / self.sd, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        k = np.round(x[:, 0] * self.sd + self.mean)
        k = np.clip(k, -np.inf if self.bounds[0] is None else self.bounds[0], self.bounds[1])
        if self.values is not None:
            return np.asarray(self.values[k.astype(np.int64)])
        values = self.low + k * self.step
        return values if self.decimals is None else np.round(values, self.decimals)

    def expected(self, x: Floats) -> Floats:
        if self.values is not None:
            return self.decode(x)
        k = x[:, 0] * self.sd + self.mean
        return self.low + self.step * np.clip(k, -np.inf if self.bounds[0] is None else self.bounds[0], self.bounds[1])

    def log_det(self, values: Floats) -> Floats:
        cells = np.full(values.shape[0], -math.log(self.sd) if self.mode == "dequantise" else 0.0)
        if self.values is None:
            k = self._k(values)
            off = np.abs(k - np.round(k)) > 1e-3
            if self.bounds[0] is not None:
                off |= k < self.bounds[0] - 0.5
        else:
            nearest = self.values[np.nan_to_num(self._k(values)).astype(np.int64)]
            off = np.abs(nearest - values) > 1e-6 * max(1.0, float(np.abs(self.values).max()))
        cells[off] = -np.inf  # off the grid a counting measure gives probability 0
        cells[np.isnan(values)] = 0.0
        return cells

    def blocks(self, name: str) -> list[Block]:
        if self.mode == "native":
            low, high = (None if bound is None else (bound - self.mean) / self.sd for bound in self.bounds)
            return [Block(name, "integer", 0, 1, step=(1 / self.sd,), low=low, high=high)]
        return [Block(name, "real", 0, 1, scale=(self.sd * self.step,), rounded=self.mode == "round")]
