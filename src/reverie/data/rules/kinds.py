"""The kinds of rules: orders, sums, products, functions of a column, constants where another has a certain value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from reverie.data.rules.rule import Bools, Evidence, Floats, Rule, Values, rounded, scattered, unit_of


@dataclass(frozen=True)
class Order(Rule):
    """column >= every one of `lows`: what is left is the gap, column - max(lows)."""

    kind: ClassVar[str] = "order"
    column: str
    lows: tuple[str, ...]
    evidence: Evidence
    strict: bool = False
    digits: int | None = None

    @property
    def others(self) -> tuple[str, ...]:
        return self.lows

    @property
    def keeps(self) -> bool:
        return True

    def _base(self, values: Values) -> Floats:
        return np.max([values[low] for low in self.lows], axis=0)  # type: ignore[no-any-return]

    def forward(self, values: Values) -> Floats:
        return rounded(values[self.column] - self._base(values), self.digits)

    def backward(self, values: Values, left: Floats | None) -> Floats:
        assert left is not None
        return rounded(self._base(values) + left, self.digits)

    def broken(self, values: Values) -> Floats:
        return np.zeros_like(values[self.column])  # the gap's own support says so

    def reconcile(self, seen: dict[str, Floats], made: dict[str, Floats], drawn: Values) -> None:
        """Where the upper end was seen lower ones keep the distance that was drawn; where it was not, it does."""
        known = ~np.isnan(seen[self.column])
        gap = drawn[self.column] - self._base(drawn)
        for low in self.lows:
            free = known & np.isnan(seen[low])
            made[low] = np.where(free, rounded(seen[self.column] - gap, self.digits), made[low])
            seen[low] = np.where(free, made[low], seen[low])

    @property
    def text(self) -> str:
        return " and ".join(f"{low} {'<' if self.strict else '<='} {self.column}" for low in self.lows)


@dataclass(frozen=True)
class Sum(Rule):
    """column = constant + sum_i coefficients_i parts_i, rounded to `digits`."""

    kind: ClassVar[str] = "sum"
    column: str
    parts: tuple[str, ...]
    coefficients: tuple[float, ...]
    evidence: Evidence
    constant: float = 0.0
    digits: int | None = None

    @property
    def others(self) -> tuple[str, ...]:
        return self.parts

    def _total(self, values: Values) -> Floats:
        total = np.full_like(values[self.parts[0]], self.constant)
        for name, factor in zip(self.parts, self.coefficients, strict=True):
            total = total + factor * values[name]
        return total

    def forward(self, values: Values) -> Floats:
        return np.full_like(values[self.column], np.nan)

    def backward(self, values: Values, left: Floats | None) -> Floats:
        return rounded(self._total(values), self.digits)

    def broken(self, values: Values) -> Floats:
        off = np.abs(values[self.column] - self.backward(values, None))
        slack = 1e-9 * np.nanmax(np.abs(values[self.column]), initial=1.0)
        return np.nan_to_num(np.where(off > slack, off / unit_of(values[self.column]), 0.0))

    def solve(self, values: dict[str, Floats]) -> None:
        super().solve(values)
        for name, factor in zip(self.parts, self.coefficients, strict=True):
            rest = [other for other in self.parts if other != name]
            known = np.all([~np.isnan(values[other]) for other in (*rest, self.column)], axis=0)
            hole = np.isnan(values[name]) & known
            if hole.any():
                without = self._total({**values, name: np.zeros_like(values[name])})
                values[name] = np.where(
                    hole, rounded((values[self.column] - without) / factor, self.digits), values[name]
                )

    def reconcile(self, seen: dict[str, Floats], made: dict[str, Floats], drawn: Values) -> None:
        """The parts that were made up share what is missing to the total, in proportion to their size."""
        known = ~np.isnan(seen[self.column])
        free = np.array([known & np.isnan(seen[name]) for name in self.parts])
        if not free.any():
            return
        factors = np.array(self.coefficients)[:, None]
        parts = np.array([made[name] for name in self.parts])
        wanted = np.where(known, seen[self.column], 0.0) - self.constant - (factors * parts * ~free).sum(0)
        loose = (factors * parts * free).sum(0)
        scale = np.divide(wanted, loose, out=np.ones_like(loose), where=np.abs(loose) > 1e-12)
        parts = np.where(free, rounded(parts * scale, self.digits), parts)
        rest = wanted - (factors * parts * free).sum(0)
        last = len(self.parts) - 1 - free[::-1].argmax(0)  # takes what rounding leaves
        rows = np.flatnonzero(free.any(0))
        parts[last[rows], rows] += rest[rows] / factors[last[rows], 0]
        for name, column in zip(self.parts, parts, strict=True):
            made[name] = rounded(column, self.digits)
            seen[name] = np.where(known, made[name], seen[name])

    @property
    def text(self) -> str:
        out = []
        for name, factor in zip(self.parts, self.coefficients, strict=True):
            size = "" if abs(factor) == 1 else f"{abs(factor):.6g} "
            out.append(("- " if factor < 0 else "+ ") + size + name)
        if self.constant:
            out.append(f"{'-' if self.constant < 0 else '+'} {abs(self.constant):.6g}")
        return f"{self.column} = {' '.join(out).removeprefix('+ ')}"


@dataclass(frozen=True)
class Product(Rule):
    """column = parts_1 parts_2, rounded to `digits`."""

    kind: ClassVar[str] = "product"
    column: str
    parts: tuple[str, str]
    evidence: Evidence
    digits: int | None = None

    @property
    def others(self) -> tuple[str, ...]:
        return self.parts

    def forward(self, values: Values) -> Floats:
        return np.full_like(values[self.column], np.nan)

    def backward(self, values: Values, left: Floats | None) -> Floats:
        return rounded(values[self.parts[0]] * values[self.parts[1]], self.digits)

    def broken(self, values: Values) -> Floats:
        off = np.abs(values[self.column] - self.backward(values, None))
        slack = 1e-9 * np.nanmax(np.abs(values[self.column]), initial=1.0)
        return np.nan_to_num(np.where(off > slack, off / unit_of(values[self.column]), 0.0))

    def _factor(self, values: Values, name: str) -> Floats:
        """The factor that gives the product with the other one, NaN where none does."""
        other = values[self.parts[1] if name == self.parts[0] else self.parts[0]]
        exact = np.divide(values[self.column], other, out=np.full_like(other, np.nan), where=other != 0)
        short = rounded(exact, self.digits)  # as short as the product, where that gives it as well
        return np.where(rounded(short * other, self.digits) == values[self.column], short, exact)

    def solve(self, values: dict[str, Floats]) -> None:
        super().solve(values)
        for name in self.parts:
            hole = np.isnan(values[name])
            if hole.any():
                values[name] = np.where(hole, self._factor(values, name), values[name])

    def reconcile(self, seen: dict[str, Floats], made: dict[str, Floats], drawn: Values) -> None:
        """The factor that was made up, the second where both were, becomes the one that gives the product seen."""
        known = ~np.isnan(seen[self.column])
        for name in reversed(self.parts):
            factor = self._factor({**made, self.column: seen[self.column]}, name)
            free = known & np.isnan(seen[name]) & ~np.isnan(factor)
            made[name] = np.where(free, factor, made[name])
            seen[name] = np.where(free, factor, seen[name])
            known = known & ~free

    @property
    def text(self) -> str:
        return f"{self.column} = {self.parts[0]} * {self.parts[1]}"


@dataclass(frozen=True)
class Lookup(Rule):
    """column is a function of `by`: values_i where `by` is keys_i (sorted); elsewhere that of the nearest key."""

    kind: ClassVar[str] = "lookup"
    column: str
    by: str
    keys: Floats
    values: Floats
    evidence: Evidence

    @property
    def others(self) -> tuple[str, ...]:
        return (self.by,)

    def forward(self, values: Values) -> Floats:
        return np.full_like(values[self.column], np.nan)

    def backward(self, values: Values, left: Floats | None) -> Floats:
        own = values[self.by]
        at = np.clip(np.searchsorted(self.keys, own), 0, self.keys.size - 1)
        below = np.clip(at - 1, 0, None)
        nearest = np.where(np.abs(self.keys[below] - own) < np.abs(self.keys[at] - own), below, at)
        return np.where(np.isnan(own), np.nan, self.values[nearest])

    def broken(self, values: Values) -> Floats:
        wanted, found = self.backward(values, None), values[self.column]
        known = ~np.isnan(values[self.by]) & ~np.isnan(found)
        return np.where(known & (wanted != found), 1.0, 0.0)

    def reconcile(self, seen: dict[str, Floats], made: dict[str, Floats], drawn: Values) -> None:
        """A made-up key that does not go with the value seen becomes one that does, spread over the rows."""
        known = ~np.isnan(seen[self.column]) & np.isnan(seen[self.by])
        wrong = np.flatnonzero(known & (self.backward(made, None) != seen[self.column]))
        for row in wrong:
            fitting = self.keys[self.values == seen[self.column][row]]
            if fitting.size:
                made[self.by][row] = fitting[row % fitting.size]
        seen[self.by] = np.where(known, made[self.by], seen[self.by])

    @property
    def text(self) -> str:
        return f"{self.column} by {self.by}"


@dataclass(frozen=True)
class Given(Rule):
    """column is values_i where `by` is keys_i; elsewhere it is free, and that is what is left of it."""

    kind: ClassVar[str] = "given"
    column: str
    by: str
    keys: Floats
    values: Floats
    evidence: Evidence
    names: tuple[str, ...] = ()
    """The keys and values as a person reads them, "key: value"."""
    donors: Floats = dataclasses.field(default_factory=lambda: np.zeros(1))
    """Values of the rows in which it is free: what stands in for it where a family takes no missing cells."""
    free_keys: Floats = dataclasses.field(default_factory=lambda: np.zeros(1))
    """Values of `by` of those rows."""

    @property
    def others(self) -> tuple[str, ...]:
        return (self.by,)

    @property
    def keeps(self) -> bool:
        return True

    def _at(self, values: Values) -> tuple[Bools, Floats]:
        own = values[self.by]
        at = np.clip(np.searchsorted(self.keys, own), 0, self.keys.size - 1)
        return self.keys[at] == own, self.values[at]

    def forward(self, values: Values) -> Floats:
        return np.where(self._at(values)[0], np.nan, values[self.column])

    def backward(self, values: Values, left: Floats | None) -> Floats:
        assert left is not None
        fixed, value = self._at(values)
        return np.where(fixed, value, left)

    def broken(self, values: Values) -> Floats:
        fixed, value = self._at(values)
        found = values[self.column]
        return np.where(fixed & ~np.isnan(found) & (found != value), 1.0, 0.0)

    def solve(self, values: dict[str, Floats]) -> None:
        fixed, value = self._at(values)
        hole = np.isnan(values[self.column]) & fixed
        values[self.column] = np.where(hole, value, values[self.column])

    def reconcile(self, seen: dict[str, Floats], made: dict[str, Floats], drawn: Values) -> None:
        """A made-up key under which the value seen cannot be becomes one under which it can."""
        fixed, value = self._at(made)
        wrong = ~np.isnan(seen[self.column]) & np.isnan(seen[self.by]) & fixed & (value != seen[self.column])
        rows = np.flatnonzero(wrong)
        made[self.by][rows] = scattered(self.free_keys, rows)
        seen[self.by] = np.where(wrong, made[self.by], seen[self.by])

    @property
    def text(self) -> str:
        return f"{self.column} given {self.by} ({', '.join(self.names)})"


KINDS: dict[str, type[Rule]] = {rule.kind: rule for rule in (Order, Sum, Product, Lookup, Given)}


def rule_from_json(data: Mapping[str, Any]) -> Rule:
    """Inverse of `to_json`."""
    rest = {key: value for key, value in data.items() if key != "kind"}
    rest["evidence"] = Evidence(**rest["evidence"])
    for name in ("lows", "parts", "coefficients", "names"):
        if name in rest:
            rest[name] = tuple(rest[name])
    for name in ("keys", "values", "donors", "free_keys"):
        if name in rest:
            rest[name] = np.array([np.nan if v is None else v for v in rest[name]], dtype=np.float64)
    return KINDS[data["kind"]](**rest)
