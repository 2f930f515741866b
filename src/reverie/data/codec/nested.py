"""Steps around other steps: values that stick out or are missing come first, the rest after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reverie.data.codec.grids import Grid, WarpedGrid
from reverie.data.codec.levels import Bit, Constant, Count, Levels, OneHot, Symbol
from reverie.data.codec.steps import Affine, Bools, ColumnStep, Floats, Quantile, Warped
from reverie.data.space import Block
from reverie.data.warps import Warp


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


def step_from_json(data: dict[str, Any]) -> ColumnStep:
    """Rebuild a step from `to_json`."""
    rest = {key: value for key, value in data.items() if key != "kind"}
    match data["kind"]:
        case "affine":
            return Affine(**rest)
        case "quantile":
            inner = rest.get("inner")
            return Quantile(
                np.array(rest["knots"]),
                np.array(rest["heights"]),
                None if inner is None else Warped(**_with_warp(inner)),
            )
        case "warped":
            return Warped(**_with_warp(rest))
        case "warped grid":
            return WarpedGrid(**_with_warp(rest))
        case "grid":
            values, bounds = rest.pop("values"), rest.pop("bounds")
            levels = None if values is None else np.array(values)
            return Grid(**rest, values=levels, bounds=(bounds[0], bounds[1]))
        case "count":
            return Count(**rest)
        case "levels":
            return Levels(np.array(rest.pop("values")), **rest)
        case "one-hot":
            return OneHot(**rest)
        case "symbol":
            return Symbol(**rest)
        case "bit":
            return Bit(**rest)
        case "atoms":
            return Atoms(np.array(rest["atoms"]), step_from_json(rest["rest"]))
        case "constant":
            return Constant(**rest)
        case "flagged":
            return Flagged(step_from_json(rest["inner"]))
    raise ValueError(f"unknown column step {data['kind']!r}")


def _with_warp(data: dict[str, Any]) -> dict[str, Any]:
    """The entries of a step with a map of its own."""
    rest = {key: value for key, value in data.items() if key != "kind"}
    pairs = {key: tuple(rest[key]) for key in ("basis", "closed") if key in rest}
    return {**rest, "warp": Warp.from_json(rest["warp"]), **pairs}
