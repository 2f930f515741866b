"""Steps around other steps: values that stick out or are missing come first, the rest after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.codec.steps.grids import Grid, WarpedGrid
from reverie.data.codec.steps.levels import Bit, Constant, Count, Levels, OneHot, Symbol
from reverie.data.codec.steps.step import Affine, Bools, ColumnStep, Floats, Quantile, Warped, one_column
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

    @property
    def support(self) -> str:
        return _around(self.atoms, self.rest)

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
class Lifted(ColumnStep):
    """Atoms and other values in one real column: there, atom i is an interval of `widths[i]` model units between the values
    below it and those above it, and noise puts it anywhere inside.

    log p(v) = log p(x) + log |dx/dv| of other values; log P(atom) >= E_u log p(x) + log width. `rest` maps the other values.
    """

    kind: ClassVar[str] = "lifted"
    atoms: Floats
    places: Floats
    """Where among the other values, mapped by `rest`, each atom's interval is put in; ascending."""
    widths: Floats
    rest: ColumnStep
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def fit(cls, values: Floats, atoms: Floats, rest: ColumnStep) -> Lifted:
        """Intervals in which an atom is as dense as the middle of a normal; atoms beyond all other values lie next to them."""
        shares = np.array([(values == atom).mean() for atom in atoms])
        others = rest.prepare(values[~np.isin(values, atoms)])[0][:, 0]
        low, high = float(others.min()), float(others.max())
        margin = 0.1 * float(others.std())
        places = np.clip(rest.prepare(atoms)[0][:, 0], low - margin, high + margin)
        plain = cls(atoms, places, shares * 2.5, rest)
        x = plain.prepare(values)[0][:, 0]
        return cls(atoms, places, plain.widths, rest, float(x.mean()), float(x.std()))

    @property
    def own_noise(self) -> bool:
        return True

    @property
    def measure(self) -> str:
        return "atoms + Lebesgue"

    @property
    def support(self) -> str:
        return _around(self.atoms, self.rest)

    @property
    def _lifts(self) -> Floats:
        """How far everything is moved up that has so many atoms below it."""
        return np.concatenate([[0.0], np.cumsum(self.widths)])

    def _atom(self, values: Floats) -> tuple[NDArray[np.intp], Bools]:
        """The atom next to every value, and whether it is that value."""
        which = np.minimum(np.searchsorted(self.atoms, values), self.atoms.size - 1)
        return which, self.atoms[which] == values

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        missing = np.isnan(values)
        filled = np.where(missing, self.atoms[0], values)
        which, same = self._atom(filled)
        mapped = self.rest.prepare(filled)[0][:, 0]
        other = mapped + self._lifts[np.searchsorted(self.places, mapped)]
        z = np.where(same, self.places[which] + self._lifts[which] + self.widths[which] / 2, other)
        return one_column((z - self.mean) / self.sd, ~missing)

    def decode(self, x: Floats) -> Floats:
        z = x[:, 0] * self.sd + self.mean
        begin = self.places + self._lifts[:-1]
        below = np.searchsorted(begin, z)
        which = np.maximum(below - 1, 0)
        inside = (below > 0) & (z <= begin[which] + self.widths[which])
        return np.where(inside, self.atoms[which], self.rest.decode((z - self._lifts[below])[:, None]))

    def log_det(self, values: Floats) -> Floats:
        missing = np.isnan(values)
        filled = np.where(missing, self.atoms[0], values)
        which, same = self._atom(filled)
        own = np.where(same, np.log(self.widths[which]), self.rest.log_det(filled))
        return np.where(missing, 0.0, own - np.log(self.sd))

    def noised(self, x: Tensor, u: Tensor) -> Tensor:
        """Anywhere into the intervals of atoms; other values stay."""
        begin = torch.from_numpy(self.places + self._lifts[:-1]).to(x.device)
        end = begin + torch.from_numpy(self.widths).to(x.device)
        z = x.double() * self.sd + self.mean
        which = (torch.searchsorted(begin, z.contiguous()) - 1).clamp_min(0)
        inside = (z >= begin[which]) & (z <= end[which])
        drawn = begin[which] + u.double() * (end - begin)[which]
        return torch.where(inside, ((drawn - self.mean) / self.sd).to(x.dtype), x)

    def blocks(self, name: str) -> list[Block]:
        unit = self.rest.blocks(name)[0].scale[0]
        return [Block(name, "real", 0, 1, scale=(unit * self.sd,))]


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
    def support(self) -> str:
        return self.inner.support

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


def _around(atoms: Floats, rest: ColumnStep) -> str:
    some = ", ".join(f"{atom:g}" for atom in atoms[:4]) + (", ..." if atoms.size > 4 else "")
    return f"often {some}, otherwise {rest.support or 'any number'}"


def step_from_json(data: dict[str, Any]) -> ColumnStep:
    """Rebuild a step from `to_json`."""
    rest = {key: value for key, value in data.items() if key != "kind"}
    match data["kind"]:
        case "affine":
            return Affine(**{**rest, "closed": tuple(rest.get("closed", (None, None)))})
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
        case "lifted":
            arrays: dict[str, Any] = {name: np.array(rest.pop(name)) for name in ("atoms", "places", "widths")}
            return Lifted(rest=step_from_json(rest.pop("rest")), **arrays, **rest)
        case "constant":
            return Constant(**rest)
        case "flagged":
            return Flagged(step_from_json(rest["inner"]))
    raise ValueError(f"unknown column step {data['kind']!r}")


def _with_warp(data: dict[str, Any]) -> dict[str, Any]:
    """The entries of a step with a map of its own."""
    rest = {key: value for key, value in data.items() if key != "kind"}
    pairs: dict[str, Any] = {key: tuple(rest[key]) for key in ("basis", "closed") if key in rest}
    return {**rest, "warp": Warp.from_json(rest["warp"]), **pairs}
