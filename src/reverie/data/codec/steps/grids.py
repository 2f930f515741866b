"""Numbers that lie on a grid, to and from model space: every grid point has a probability of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from reverie.data.codec.steps.step import MANY, Bools, ColumnStep, Floats, one_column, told, unexpected
from reverie.data.space import Block
from reverie.data.warps import Warp, on_arrays

Mode = Literal["native", "dequantise", "round"]
_OFF = 1e-3
"""Share of a step by which a value may sit off its grid."""


@dataclass
class Grid(ColumnStep):
    """Gridded values v = low + k step, or the k-th of `values` when the levels are irregular.

    mode "native": x = (k - mean) / sd is an integer block with spacing 1 / sd, counting measure. mode "dequantise":
    x = (k + u - 1/2 - mean) / sd with u ~ U[0, 1), a real block; log P(v) >= E_u log p(x) - log sd (Theis et al. 2016,
    section 3.1). mode "round": a real block, rounded back on decode, no likelihood. A value that is none of the grid's has
    the probability of the nearest one times what is left to the unexpected.
    """

    kind: ClassVar[str] = "grid"
    low: float
    step: float
    mean: float
    sd: float
    mode: Mode
    values: Floats | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    """Smallest and largest k there can be: those seen (mode "round", irregular levels), or k of 0 for counts."""
    decimals: int | None = None
    """Digits after the point that the values have: 4.3 comes back as 4.3 and not as 4.300000000000001."""
    rows: int = MANY

    @property
    def measure(self) -> str:
        return "counting"

    @property
    def dequantise_step(self) -> float:
        return 1 / self.sd if self.mode == "dequantise" else 0.0

    def _k(self, values: Floats) -> tuple[Floats, Bools, Floats]:
        """The nearest grid point of every value, whether the value is another, and how many steps it lies beyond the
        ends."""
        if self.values is None:
            k = (values - self.low) / self.step
            off = np.abs(k - np.round(k)) > _OFF
            least, most = (-math.inf if self.bounds[0] is None else self.bounds[0]), math.inf
            beyond = np.maximum(least - k, 0.0)
            return np.where(off, np.clip(np.round(k), least, most), np.maximum(k, least)), off | (beyond > 0.5), beyond
        levels = self.values
        at = np.clip(np.searchsorted(levels, values), 0, levels.size - 1)
        below = np.clip(at - 1, 0, None)
        nearest = np.where(np.abs(levels[below] - values) < np.abs(levels[at] - values), below, at)
        gap = (levels[-1] - levels[0]) / max(levels.size - 1, 1) or 1.0
        away = np.abs(levels[nearest] - values)
        off = away > 1e-6 * max(1.0, float(np.abs(levels).max()))
        beyond = np.where((values < levels[0]) | (values > levels[-1]), away / gap, 0.0)
        return nearest.astype(np.float64), off, beyond

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column((self._k(values)[0] - self.mean) / self.sd, ~np.isnan(values))

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
        missing = np.isnan(values)
        _, off, beyond = self._k(np.where(missing, self.low if self.values is None else self.values[0], values))
        cells = np.full(values.shape[0], -math.log(self.sd) if self.mode == "dequantise" else 0.0)
        cells += np.where(off, unexpected(self.rows, beyond), 0.0)
        return np.where(missing, 0.0, cells)

    def blocks(self, name: str) -> list[Block]:
        if self.mode == "native":
            low, high = (None if bound is None else (bound - self.mean) / self.sd for bound in self.bounds)
            return [Block(name, "integer", 0, 1, step=(1 / self.sd,), low=low, high=high)]
        return [Block(name, "real", 0, 1, scale=(self.sd * self.step,), rounded=self.mode == "round")]


@dataclass
class WarpedGrid(ColumnStep):
    """Gridded values v = low + k step on a support of their own, whose ends are edges of cells.

    mode "native": x = warp(v) is an integer block, whose cells have the edges warp(v -+ step / 2). mode "dequantise":
    x = warp(v + (u - 1/2) step), a real block; log P(v) >= E_u log p(x) + log |dx/dv| + log step. mode "round": a real
    block, rounded back on decode, no likelihood.
    """

    kind: ClassVar[str] = "warped grid"
    low: float
    step: float
    warp: Warp
    mode: Mode
    rows: int = MANY
    basis: tuple[str, str] = ("", "")
    decimals: int | None = None
    closed: tuple[float | None, float | None] = (None, None)
    """Ends at which decoded values stop, where the support has none."""

    @property
    def measure(self) -> str:
        return "counting"

    @property
    def support(self) -> str:
        return told(self.warp, self.basis, self.warp.low, self.warp.high)

    @property
    def own_noise(self) -> bool:
        return self.mode == "dequantise"

    def _point(self, values: Floats) -> tuple[Floats, Bools, Floats]:
        """The nearest grid point inside the support, whether the value is another, and how many steps beyond an end it lies."""
        k = (values - self.low) / self.step
        least, most = self._ends()
        nearest = np.clip(np.round(k), least, most)
        beyond = np.maximum(np.maximum(least - k, k - most), 0.0)
        return self._value(nearest), np.abs(k - nearest) > _OFF, np.where(beyond > 0.5, beyond, 0.0)

    def _ends(self) -> tuple[float, float]:
        least = (self.warp.low - self.low) / self.step + 0.5
        most = (self.warp.high - self.low) / self.step - 0.5
        return math.ceil(least - _OFF) if math.isfinite(least) else least, (
            math.floor(most + _OFF) if math.isfinite(most) else most
        )

    def _value(self, k: Floats) -> Floats:
        values = self.low + k * self.step
        return values if self.decimals is None else np.round(values, self.decimals)

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column(on_arrays(self.warp.forward, self._point(values)[0]), ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        values = on_arrays(self.warp.inverse, x[:, 0])
        low, high = self.closed
        return self._point(values if low is None and high is None else np.clip(values, low, high))[0]

    def expected(self, x: Floats) -> Floats:
        return on_arrays(self.warp.inverse, x[:, 0])

    def log_det(self, values: Floats) -> Floats:
        missing = np.isnan(values)
        _, off, beyond = self._point(np.where(missing, self.low, values))
        return np.where(missing | ~off, 0.0, unexpected(self.rows, beyond))

    def noised(self, x: Tensor, u: Tensor) -> Tensor:
        """Anywhere into the cells of grid points."""
        v = self.warp.inverse(x.double())
        v = self.low + torch.round((v - self.low) / self.step) * self.step
        return self.warp.forward(v + (u.double() - 0.5) * self.step).to(x.dtype)

    def noise_log_det(self, x: Tensor) -> Tensor:
        """log |dx/dv| + log step."""
        return self.warp.log_slope(self.warp.inverse(x.double())) + math.log(self.step)

    def blocks(self, name: str) -> list[Block]:
        middle = on_arrays(self.warp.inverse, np.zeros(1))
        unit = float(np.exp(-on_arrays(self.warp.log_slope, middle))[0])
        if self.mode == "native":
            return [
                Block(
                    name, "integer", 0, 1, step=(self.step / unit,), warp=self.warp, spacing=self.step, origin=self.low
                )
            ]
        return [Block(name, "real", 0, 1, scale=(unit,), rounded=self.mode == "round")]
