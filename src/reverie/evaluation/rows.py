"""One figure of a report, with its floor, and how numbers are printed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reverie.metrics.floors import Direction, Floor, verdict, z_score

LIKELIHOOD_KINDS = ("exact", "lower bound", "estimate", "unnormalised")
GROUPS = {
    "likelihood": "Likelihood",
    "distance": "Generated against real data",
    "labels": "Generated against real data",
    "modes": "Generated against real data",
    "marginals": "Columns",
    "memorisation": "Memorisation",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    `low`, `high`: mean +- standard error for likelihoods, the range over the generated sets for sample figures, a 95 %
    Wilson interval for shares of duplicates. `floor` +- `floor_sd`: the same figure between two sets of real rows at
    the same n. `direction`: which way is better. `kind`: for likelihoods `exact`, `lower bound`, `estimate` or
    `unnormalised`, else the group (`distance`, `labels`, `modes`, `marginals`, `memorisation`). `measure`: of the
    likelihood. `features`: the space a distance was taken in. `p`: of a permutation test.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_sd: float | None = None
    n_real: int = 0
    n_gen: int = 0
    direction: Direction | None = None
    kind: str = "distance"
    measure: str = ""
    features: str = ""
    seconds: float = 0.0
    note: str = ""
    verdict: str = ""
    p: float | None = None

    @property
    def group(self) -> str:
        """Heading of the part of the report it stands in."""
        return GROUPS.get("likelihood" if self.kind in LIKELIHOOD_KINDS else self.kind, "Other")

    @property
    def z(self) -> float | None:
        """Floor standard deviations worse than real data; None without a floor."""
        if self.floor is None or self.floor_sd is None or self.direction is None:
            return None
        if not (math.isfinite(self.value) and math.isfinite(self.floor)):
            return None
        return z_score(self.value, self.floor, self.floor_sd, self.direction)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers that are not finite become text."""
        return {name: finite(value) for name, value in dataclasses.asdict(self).items()}


def sample_row(
    name: str,
    values: Sequence[float],
    floor: Floor | None,
    direction: Direction,
    *,
    n_real: int,
    n_gen: int,
    kind: str = "distance",
    features: str = "",
    seconds: float = 0.0,
    note: str = "",
) -> Row:
    """The row of a figure computed on several generated sets: mean, range, floor and verdict."""
    known = [value for value in values if math.isfinite(value)]
    value = sum(known) / len(known) if known else math.nan
    words = "" if floor is None else verdict(value, floor.mean, floor.sd, direction, min(n_real, n_gen))
    return Row(
        name=name,
        value=value,
        low=min(known, default=None),
        high=max(known, default=None),
        floor=None if floor is None else floor.mean,
        floor_sd=None if floor is None else floor.sd,
        n_real=n_real,
        n_gen=n_gen,
        direction=direction,
        kind=kind,
        features=features,
        seconds=seconds,
        note=note,
        verdict=words,
    )


def finite(value: Any) -> Any:
    """Numbers that JSON cannot hold as the texts "nan", "inf", "-inf"; everything else unchanged."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None, spread: float | None = None) -> str:
    """A number for people: to two digits of its spread when that is known, else to four significant digits."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value.is_integer() and abs(value) < 1e7 and not spread:
        return f"{value:,.0f}".replace("-", "−")
    if value == 0:
        return "0"
    size = abs(spread) if spread and math.isfinite(spread) and spread > 0 else abs(value) / 100
    decimals = 1 - math.floor(math.log10(size)) if size > 0 else 3
    if decimals > 7:
        return f"{value:.2e}".replace("-", "−")
    text = f"{value:,.{max(decimals, 0)}f}" if abs(value) < 1e7 else f"{value:.3e}"
    if not text.strip("-0.,"):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def value_text(row: Row) -> str:
    """The value to the digits its own spread supports; `± SE` for likelihoods."""
    if row.kind in LIKELIHOOD_KINDS and row.high is not None and math.isfinite(row.value):
        error = row.high - row.value
        return f"{number(row.value, error)} ± {number(error, error)}"
    return number(row.value, _precision(row))


def range_text(row: Row) -> str:
    """`low to high`, empty when there is none or when the value already carries its error."""
    if row.low is None or row.high is None or row.kind in LIKELIHOOD_KINDS:
        return ""
    return f"{number(row.low, _precision(row))} to {number(row.high, _precision(row))}"


def floor_text(row: Row) -> str:
    """`floor ± sd`, empty without a floor."""
    if row.floor is None or row.floor_sd is None:
        return ""
    if not row.floor_sd > 0:
        return number(row.floor)
    return f"{number(row.floor, row.floor_sd)} ± {number(row.floor_sd, row.floor_sd)}"


def _precision(row: Row) -> float | None:
    """The smallest spread that is worth printing: of the floor, or a hundredth of the value if that is coarser; else
    the width of the range."""
    if row.floor_sd and math.isfinite(row.floor_sd) and math.isfinite(row.value):
        return max(row.floor_sd, abs(row.value) / 100)
    if row.low is not None and row.high is not None and row.high > row.low:
        return row.high - row.low
    return None


READING = (
    "Floor: the same figure between two sets of real rows at the same n, mean ± sd over 20 splits; a perfect model "
    "reaches the floor, not zero. Range: over the generated sets. Distances are comparable only within one report: "
    "they depend on the feature space and on n."
)
ARROWS = {"up": "higher is better", "down": "lower is better", None: ""}
