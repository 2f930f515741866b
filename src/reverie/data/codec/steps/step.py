"""Numbers to and from model space: continuous columns and grids.

A `ColumnStep` has `prepare` (float64, deterministic), `decode` (its inverse), a log-determinant per cell, and the
blocks it occupies. Array blocks become one step per column.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.space import Block
from reverie.data.warps import Warp, on_arrays

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MANY = 1_000_000
"""Training rows assumed of a column whose file does not say how many there were."""


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
    def own_noise(self) -> bool:
        """Whether its noise is not of one width: then `noised` moves its columns."""
        return False

    def noised(self, x: Tensor, u: Tensor) -> Tensor:
        """Prepared model columns (n,) moved by u (n,) in [0, 1), where the noise is its own."""
        raise NotImplementedError

    def noise_log_det(self, x: Tensor) -> Tensor:
        """(n,) what the log-determinant of noised columns adds where it depends on the noise, float64."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

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

    @property
    def support(self) -> str:
        """Where its values can lie, what says so, and its map, for people; empty where the column is as it is."""
        return ""

    def to_json(self) -> dict[str, Any]:
        """The kind and every field, as JSON."""
        own: Any = self
        return {"kind": self.kind} | {field.name: _plain(getattr(self, field.name)) for field in fields(own)}

    def log_det(self, values: Floats) -> Floats:
        """(n,) data -> log |d model / d data| of each cell in nats; 0 where missing, -inf off the support."""
        return np.zeros(values.shape[0])


def unexpected(rows: int, distance: Floats | float = 0.0) -> Floats:
    """log of what is left to a value that training never had: a share of one in rows + 2 (Laplace 1814), spread with the square
    of the `distance` from the nearest possible value, in units: no value is impossible, the further off the less likely, and
    together they have no more than twice that share."""
    return np.asarray(-math.log(rows + 2) - 2 * np.log1p(distance))


def _plain(value: Any) -> Any:
    if isinstance(value, ColumnStep | Warp):
        return value.to_json()
    return value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value


def one_column(x: Floats, seen: Bools) -> tuple[Floats, Bools]:
    return np.where(seen, x, 0.0)[:, None], seen[:, None]


@dataclass
class Affine(ColumnStep):
    """Continuous: x = (v - mean) / sd, log |dx/dv| = -log sd, as far out as `limit`; beyond, model space is logarithmic."""

    kind: ClassVar[str] = "affine"
    mean: float
    sd: float
    tied: bool = False
    """The values repeat or lie on a grid: a density compares models of this column, but is no probability."""
    limit: float | None = None
    grain: float | None = None
    """Values are whole multiples of it (dates without seconds, amounts in cents), too fine to be a grid."""
    closed: tuple[float | None, float | None] = (None, None)
    """What lies beyond becomes the end: of a column of one sign, so far from 0 that its likelihood need not know."""

    @property
    def warp(self) -> Warp:
        return Warp(mean=self.mean, sd=self.sd, limit=self._reach)

    @property
    def _reach(self) -> float:
        return math.inf if self.limit is None else self.limit

    @property
    def measure(self) -> str:
        return "Lebesgue"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        x = (values - self.mean) / self.sd
        if (np.abs(x) > self._reach).any():
            x = on_arrays(self.warp.forward, values)
        return one_column(x, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        far = bool((np.abs(x[:, 0]) > self._reach).any())
        values = on_arrays(self.warp.inverse, x[:, 0]) if far else x[:, 0] * self.sd + self.mean
        low, high = self.closed
        return on_grain(values if low is None and high is None else np.clip(values, low, high), self.grain)

    def log_det(self, values: Floats) -> Floats:
        missing = np.isnan(values)
        if (np.abs(values - self.mean) > self._reach * self.sd).any():
            return np.where(missing, 0.0, on_arrays(self.warp.log_slope, np.where(missing, self.mean, values)))
        return np.where(missing, 0.0, -math.log(self.sd))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "real", 0, 1, scale=(self.sd,), rounded=self.tied)]


@dataclass
class Warped(ColumnStep):
    """Continuous on a support of its own: x = warp(v), log |dx/dv| its slope. A value outside the support has the density next to
    its end, times what is left to the unexpected."""

    kind: ClassVar[str] = "warped"
    warp: Warp
    rows: int = MANY
    basis: tuple[str, str] = ("", "")
    """What says that the support ends below, and above."""
    closed: tuple[float | None, float | None] = (None, None)
    """Ends that values reach: the support goes on a little, and what lies there becomes the end."""
    grain: float | None = None
    """Values are whole multiples of it."""

    @property
    def measure(self) -> str:
        return "Lebesgue"

    @property
    def support(self) -> str:
        return told(self.warp, self.basis, self.warp.low, self.warp.high)

    def _settled(self, values: Floats) -> tuple[Floats, Floats]:
        """Values inside the support, NaN where missing, and how far away each was, in the unit of the column."""
        typical = self.unit
        inner = 1e-9 * typical
        inside = np.clip(values, _inner(self.warp.low, inner), _inner(self.warp.high, -inner))
        outside = (values <= self.warp.low) | (values >= self.warp.high)
        settled = np.where(outside, inside, values)
        return settled, np.where(outside, np.abs(values - settled) / typical, 0.0)

    @property
    def unit(self) -> float:
        """Data units per model unit in the middle of the column."""
        middle = on_arrays(self.warp.inverse, np.zeros(1))
        return float(np.exp(-on_arrays(self.warp.log_slope, middle))[0])

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column(on_arrays(self.warp.forward, self._settled(values)[0]), ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        values = on_grain(on_arrays(self.warp.inverse, x[:, 0]), self.grain)
        if self.grain is not None:  # nothing is rounded onto an end that does not belong to the support
            values = np.where(values <= self.warp.low, values + self.grain, values)
            values = np.where(values >= self.warp.high, values - self.grain, values)
        low, high = self.closed
        return values if low is None and high is None else np.clip(values, low, high)

    def log_det(self, values: Floats) -> Floats:
        settled, away = self._settled(values)
        slope = on_arrays(self.warp.log_slope, settled)
        return np.where(np.isnan(values), 0.0, slope + np.where(away > 0, unexpected(self.rows, away), 0.0))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "real", 0, 1, scale=(self.unit,))]


def told(warp: Warp, basis: tuple[str, str], low: float, high: float) -> str:
    """A map and its support in words."""
    ends = []
    for end, why, side in ((low, basis[0], "above"), (high, basis[1], "below")):
        if math.isfinite(end):
            ends.append(f"{side} {end:.6g}" + (f" ({why})" if why else ""))
    return f"{' and '.join(ends) or 'any number'}: {warp.formula}"


def on_grain(values: Floats, grain: float | None) -> Floats:
    """The nearest whole multiples of the grain."""
    if grain is None:
        return values
    return np.round(values, round(-math.log10(grain))) if grain < 1 else np.round(values / grain) * grain


def _inner(end: float, hair: float) -> float:
    """An end moved inwards, by more than its own rounding."""
    return end + (
        math.copysign(max(abs(hair), 4 * np.finfo(float).eps * abs(end)), hair) if math.isfinite(end) else 0.0
    )


@dataclass
class Quantile(ColumnStep):
    """Continuous: x = Phi^-1(F(w)), w = warp(v), F the empirical distribution, piecewise linear in x through (knots, heights).

    Beyond the knots the end slopes go on, so the map is one-to-one from the support of `inner` onto the whole line.
    """

    kind: ClassVar[str] = "quantile"
    knots: Floats
    heights: Floats
    inner: Warped | None = None

    @classmethod
    def fit(cls, values: Floats, inner: Warped | None = None) -> Quantile:
        """Knots at up to 256 mid-quantiles of the values."""
        if inner is not None:
            values = inner.prepare(values)[0][:, 0]
        from statistics import NormalDist

        count = int(min(256, np.unique(values).size))
        levels = (np.arange(count) + 0.5) / count
        knots = np.quantile(values, levels)
        keep = np.concatenate([[True], np.diff(knots) > 0])
        inverse = NormalDist().inv_cdf
        return cls(knots[keep], np.array([inverse(p) for p in levels[keep]]), inner)

    @property
    def measure(self) -> str:
        return "Lebesgue"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        w = self._inside(values)
        piece, slope = self._piece(w)
        return one_column(self.heights[piece] + (w - self.knots[piece]) * slope, ~np.isnan(values))

    @property
    def support(self) -> str:
        return "normal scores" + (f", {self.inner.support}" if self.inner else "")

    def _inside(self, values: Floats) -> Floats:
        """w of every value, NaN where missing."""
        if self.inner is None:
            return values
        return np.where(np.isnan(values), np.nan, self.inner.prepare(values)[0][:, 0])

    def decode(self, x: Floats) -> Floats:
        z = x[:, 0]
        piece = np.clip(np.searchsorted(self.heights, z, side="right") - 1, 0, self.heights.size - 2)
        slope = (np.diff(self.knots) / np.diff(self.heights))[piece]
        w = self.knots[piece] + (z - self.heights[piece]) * slope
        return w if self.inner is None else self.inner.decode(w[:, None])

    def log_det(self, values: Floats) -> Floats:
        own = np.where(np.isnan(values), 0.0, np.log(self._piece(self._inside(values))[1]))
        return own if self.inner is None else own + self.inner.log_det(values)

    def _piece(self, values: Floats) -> tuple[NDArray[np.intp], Floats]:
        filled = np.where(np.isnan(values), self.knots[0], values)
        piece = np.clip(np.searchsorted(self.knots, filled, side="right") - 1, 0, self.knots.size - 2)
        return piece, (np.diff(self.heights) / np.diff(self.knots))[piece]

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "real", 0, 1, scale=(1.0,))]
