"""What a rule is: of one column, how it follows from others, or what is left of it once they are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Values = Mapping[str, Floats]
"""Columns (n,) by name, NaN where missing; categories as codes, dates as seconds."""


class Rule(ABC):
    """One rule: `column` follows from `others`."""

    kind: ClassVar[str]
    column: str
    evidence: Evidence

    @property
    @abstractmethod
    def others(self) -> tuple[str, ...]:
        """The columns it follows from."""

    @property
    def keeps(self) -> bool:
        """Whether something of the column is left to be learned (a gap, the rows outside a category)."""
        return False

    @abstractmethod
    def forward(self, values: Values) -> Floats:
        """What is left of the column, (n,): NaN where nothing is. Rows that break the rule give something possible."""

    @abstractmethod
    def backward(self, values: Values, left: Floats | None) -> Floats:
        """The column (n,) from the others, and from what was left of it."""

    @abstractmethod
    def broken(self, values: Values) -> Floats:
        """(n,) by how many units of the column each row breaks the rule; 0 where it holds or a cell is missing."""

    def solve(self, values: dict[str, Floats]) -> None:
        """Fill in place the one cell of a row that the rule gives where all others are there."""
        known = np.all([~np.isnan(values[name]) for name in self.others], axis=0)
        hole = np.isnan(values[self.column]) & known
        if hole.any() and not self.keeps:
            values[self.column] = np.where(hole, self.backward(values, None), values[self.column])

    def reconcile(self, seen: dict[str, Floats], made: dict[str, Floats], drawn: Values) -> None:
        """Change in place cells that were made up, so that the rule holds with those that were seen (NaN: not seen). `drawn` is
        the row as it was made up, in which the rule holds; what is changed counts as seen from then on."""
        return

    @property
    @abstractmethod
    def text(self) -> str:
        """The rule as it is written and read."""

    def to_json(self) -> dict[str, Any]:
        own: Any = self
        found = {field.name: _plain(getattr(self, field.name)) for field in fields(own)}
        return {"kind": self.kind, **found}


@dataclass(frozen=True)
class Evidence:
    """`rows` that could have broken the rule, and the natural logarithm of the chance that none would if the columns had
    nothing to do with each other. A rule of the user's has no chance to speak of."""

    rows: int
    log_chance: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "log_chance": self.log_chance}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [None if np.isnan(v) else v for v in value.tolist()]
    if isinstance(value, Evidence):
        return value.to_json()
    return list(value) if isinstance(value, tuple) else value


def rounded(values: Floats, digits: int | None) -> Floats:
    """Values with so many digits after the point; None: as they are."""
    return values if digits is None else np.round(values, digits)


def scattered(values: Floats, rows: NDArray[np.intp]) -> Floats:
    """One of the values for every row number, all of them about as often."""
    return values[(rows * 40_503 + 7) % values.size]


def unit_of(values: Floats) -> float:
    """The spread of a column, 1 where it has none."""
    spread = float(np.nanstd(values)) if values.size and not np.isnan(values).all() else 0.0
    return spread or 1.0
