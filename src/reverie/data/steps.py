"""Scalar columns to and from model space: what a column is (continuous, gridded, with atoms, constant), and its map.

A `ColumnStep` has `prepare` (float64, deterministic), `decode` (its inverse), a log-determinant per cell, and the
blocks it occupies. Array blocks become one step per column.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from reverie.data.space import Block

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TIED = 0.05
"""A column with a larger share of repeated values has ties, on which a density would reach unbounded likelihood."""
_ATOM_SHARE, _MOST_ATOMS, _MOST_STEPS = 0.02, 32, 2**22
_SPIKE_SHARE, _MOST_SPIKES, _FEW_LEVELS = 0.2, 4, 20


@dataclass(frozen=True)
class Profile:
    """What a numeric column looks like: "continuous"; "grid" (low + k step); "levels" (repeated values without a
    regular step); "atoms" (some values repeated, the rest continuous); "constant"."""

    kind: Literal["continuous", "grid", "levels", "atoms", "constant"]
    low: float = 0.0
    step: float = 1.0
    values: tuple[float, ...] = ()


def profile(values: Floats, *, integer: bool = False) -> Profile:
    """Classify the observed values (n,) of one column."""
    unique, counts = np.unique(values, return_counts=True)
    if integer:
        return Profile("grid", float(unique[0]), 1.0)
    if unique.size == 1:
        return Profile("constant", float(unique[0]), 1.0, (float(unique[0]),))
    if 1 - unique.size / values.size <= TIED:
        return Profile("continuous")
    step = _grid_step(unique)
    if step is not None:
        return Profile("grid", float(unique[0]), step)
    atoms = unique[counts >= max(5, math.ceil(_ATOM_SHARE * values.size))]
    rest = values[~np.isin(values, atoms)]
    if 0 < atoms.size <= _MOST_ATOMS and rest.size and 1 - np.unique(rest).size / rest.size <= TIED:
        return Profile("atoms", values=tuple(float(v) for v in atoms))
    return Profile("levels", values=tuple(float(v) for v in unique))


def _grid_step(unique: Floats) -> float | None:
    """The largest step of which all gaps are multiples (to rounding), or None."""
    gaps = np.diff(unique)
    smallest, span = float(gaps.min()), float(unique[-1] - unique[0])
    # Values that came through float32 or a decimal file sit off the grid by about 1e-7 of their size.
    slack = 4 * float(np.finfo(np.float32).eps) * max(abs(float(unique[0])), abs(float(unique[-1])))
    for divisor in range(1, 21):
        step = smallest / divisor
        if span / step > _MOST_STEPS or slack > 0.1 * step:
            return None
        k = np.round((unique - unique[0]) / step)
        step = span / float(k[-1])
        if np.abs(unique[0] + k * step - unique).max() <= max(slack, 1e-9 * step):
            return step
    return None


def decimals(low: float, step: float) -> int | None:
    """The fewest digits after the point that write both numbers, to one millionth of the step; None where the step then
    has more than four digits of its own (thirds are no decimals)."""
    for digits in range(11):
        if step * 10**digits >= 10**4:
            return None
        if max(abs(round(low, digits) - low), abs(round(step, digits) - step)) <= 1e-6 * step:
            return digits
    return None


def spikes(values: Floats) -> Floats:
    """Values of a gridded column that hold at least a fifth of its rows each, when the rest spreads over more than 20
    levels (a cost that is mostly 0): a smooth likelihood would smear them. Empty when there are none."""
    unique, counts = np.unique(values, return_counts=True)
    found: Floats = unique[counts >= _SPIKE_SHARE * values.size]
    enough = 0 < found.size <= _MOST_SPIKES and unique.size - found.size > _FEW_LEVELS
    return found if enough else np.empty(0)


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

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...

    def log_det(self, values: Floats) -> Floats:
        """(n,) data -> log |d model / d data| of each cell in nats; 0 where missing, -inf off the support."""
        return np.zeros(values.shape[0])


def _one_column(x: Floats, seen: Bools) -> tuple[Floats, Bools]:
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
        return _one_column((values - self.mean) / self.sd, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        return x[:, 0] * self.sd + self.mean

    def log_det(self, values: Floats) -> Floats:
        return np.where(np.isnan(values), 0.0, -math.log(self.sd))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "real", 0, 1, scale=(self.sd,), rounded=self.tied)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "mean": self.mean, "sd": self.sd, "tied": self.tied}


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
        return _one_column(self.heights[piece] + (values - self.knots[piece]) * slope, ~np.isnan(values))

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

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "knots": self.knots.tolist(), "heights": self.heights.tolist()}


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
        return _one_column((self._k(values) - self.mean) / self.sd, ~np.isnan(values))

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

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "low": self.low,
            "step": self.step,
            "mean": self.mean,
            "sd": self.sd,
            "mode": self.mode,
            "values": None if self.values is None else self.values.tolist(),
            "bounds": list(self.bounds),
            "decimals": self.decimals,
        }


@dataclass
class Count(ColumnStep):
    """Whole numbers from 0 on, as they are; other values have probability 0."""

    kind: ClassVar[str] = "count"

    @property
    def measure(self) -> str:
        return "counting"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return _one_column(values, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        return np.maximum(np.round(x[:, 0]), 0.0)

    def log_det(self, values: Floats) -> Floats:
        filled = np.nan_to_num(values)
        return np.where((filled >= 0) & (filled == np.round(filled)), 0.0, -np.inf)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "count", 0, 1)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


@dataclass
class OneHot(ColumnStep):
    """Codes 0 .. levels-1 (NaN = missing) as one-hot columns."""

    kind: ClassVar[str] = "one-hot"
    levels: int

    @property
    def width(self) -> int:
        return self.levels

    @property
    def measure(self) -> str:
        return "counting"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        seen = ~np.isnan(values)
        x = np.zeros((values.size, self.levels))
        x[np.flatnonzero(seen), values[seen].astype(np.int64)] = 1.0
        return x, np.repeat(seen[:, None], self.levels, axis=1)

    def decode(self, x: Floats) -> Floats:
        return np.asarray(np.argmax(x, axis=1), dtype=np.float64)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "category", 0, self.levels)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "levels": self.levels}


@dataclass
class Levels(ColumnStep):
    """Numbers of which there are few as categories; another number is a missing cell of probability 0."""

    kind: ClassVar[str] = "levels"
    values: Floats

    @property
    def width(self) -> int:
        return self.values.size

    @property
    def measure(self) -> str:
        return "counting"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        at = np.clip(np.searchsorted(self.values, values), 0, self.values.size - 1)
        return OneHot(self.values.size).prepare(np.where(self.values[at] == values, at, np.nan))

    def decode(self, x: Floats) -> Floats:
        return np.asarray(self.values[np.argmax(x, axis=1)])

    def log_det(self, values: Floats) -> Floats:
        return np.where(np.isnan(values) | np.isin(values, self.values), 0.0, -np.inf)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "category", 0, self.values.size)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": self.values.tolist()}


@dataclass
class Symbol(ColumnStep):
    """Codes 0 .. levels-1 (NaN = missing) as one column that holds the code: one-hot rows without their memory."""

    kind: ClassVar[str] = "symbol"
    levels: int

    @property
    def measure(self) -> str:
        return "counting"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return _one_column(values, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        return np.clip(np.round(x[:, 0]), 0, self.levels - 1)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "symbol", 0, 1, levels=self.levels)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "levels": self.levels}


@dataclass
class Bit(ColumnStep):
    """0/1 (NaN = missing) as one binary column; decode cuts at one half. Other values have probability 0."""

    kind: ClassVar[str] = "bit"

    @property
    def measure(self) -> str:
        return "counting"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return _one_column(values, ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        return (x[:, 0] > 0.5).astype(np.float64)

    def log_det(self, values: Floats) -> Floats:
        return np.where(np.isnan(values) | np.isin(values, (0.0, 1.0)), 0.0, -np.inf)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "binary", 0, 1)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


@dataclass
class Atoms(ColumnStep):
    """A category (which atom, or none) followed by a step for the other values, observed only when it is none.

    log p(v) = log P(atom), or log P(none) + log p(v | none): a density for the measure that counts atoms. When the other
    values are gridded, their step gives a little mass to the atoms too, so the sum is at most 1.
    """

    kind: ClassVar[str] = "atoms"
    atoms: Floats
    rest: ColumnStep

    @property
    def width(self) -> int:
        return self.atoms.size + 1 + self.rest.width

    @property
    def measure(self) -> str:
        return "counting" if self.rest.measure == "counting" else "atoms + Lebesgue"

    def _which(self, values: Floats) -> NDArray[np.intp]:
        at = np.clip(np.searchsorted(self.atoms, values), 0, self.atoms.size - 1)
        return np.where(self.atoms[at] == values, at, self.atoms.size)

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        which = np.where(np.isnan(values), np.nan, self._which(values))
        x, seen = OneHot(self.atoms.size + 1).prepare(which)
        rest, rest_seen = self.rest.prepare(np.where(which == self.atoms.size, values, np.nan))
        return np.hstack([x, rest]), np.hstack([seen, rest_seen])

    def decode(self, x: Floats) -> Floats:
        split = self.atoms.size + 1
        which = np.argmax(x[:, :split], axis=1)
        atom = self.atoms[np.minimum(which, self.atoms.size - 1)]
        return np.where(which < self.atoms.size, atom, self.rest.decode(x[:, split:]))

    def log_det(self, values: Floats) -> Floats:
        return self.rest.log_det(np.where(self._which(values) == self.atoms.size, values, np.nan))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "category", 0, self.atoms.size + 1), *self.rest.blocks(name)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "atoms": self.atoms.tolist(), "rest": self.rest.to_json()}


@dataclass
class Constant(ColumnStep):
    """One value in training: a category with a single level; any other value has probability 0."""

    kind: ClassVar[str] = "constant"
    value: float

    @property
    def measure(self) -> str:
        return "counting"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return OneHot(1).prepare(np.where(np.isnan(values), np.nan, 0.0))

    def decode(self, x: Floats) -> Floats:
        return np.full(x.shape[0], self.value)

    def log_det(self, values: Floats) -> Floats:
        return np.where(np.isnan(values) | (values == self.value), 0.0, -np.inf)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "category", 0, 1)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "value": self.value}


@dataclass
class Flagged(ColumnStep):
    """Missingness as a binary column of its own, before the column's step: modelled like any other.

    Where the flag says missing, the value columns are 0 and decode gives NaN.
    """

    kind: ClassVar[str] = "flagged"
    inner: ColumnStep

    @property
    def width(self) -> int:
        return 1 + self.inner.width

    @property
    def measure(self) -> str:
        return self.inner.measure

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        x, _ = self.inner.prepare(values)
        x = np.hstack([np.isnan(values).astype(np.float64)[:, None], x])
        return x, np.ones(x.shape, bool)

    def decode(self, x: Floats) -> Floats:
        return np.where(x[:, 0] > 0.5, np.nan, self.inner.decode(x[:, 1:]))

    def blocks(self, name: str) -> list[Block]:
        return [Block(f"{name} is missing", "binary", 0, 1), *self.inner.blocks(name)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "inner": self.inner.to_json()}


def step_from_json(data: dict[str, Any]) -> ColumnStep:
    """Rebuild a step from `to_json`."""
    rest = {key: value for key, value in data.items() if key != "kind"}
    match data["kind"]:
        case "affine":
            return Affine(**rest)
        case "quantile":
            return Quantile(np.array(rest["knots"]), np.array(rest["heights"]))
        case "grid":
            values, bounds = rest.pop("values"), rest.pop("bounds")
            levels = None if values is None else np.array(values)
            return Grid(**rest, values=levels, bounds=(bounds[0], bounds[1]))
        case "count":
            return Count()
        case "levels":
            return Levels(np.array(rest["values"]))
        case "one-hot":
            return OneHot(**rest)
        case "symbol":
            return Symbol(**rest)
        case "bit":
            return Bit()
        case "atoms":
            return Atoms(np.array(rest["atoms"]), step_from_json(rest["rest"]))
        case "constant":
            return Constant(**rest)
        case "flagged":
            return Flagged(step_from_json(rest["inner"]))
    raise ValueError(f"unknown column step {data['kind']!r}")
