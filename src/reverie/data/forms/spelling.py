"""Numbers and dates that come as text: "$1,234.50", "12,5 %", "31.12.2024". How a column spells them, read and written back."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.data.table import Array
from reverie.errors import DataError

_CURRENCIES = r"[$€£¥₹]|US\$|USD|EUR|GBP|CHF"
_UNITS = r"%|[$€£¥₹]|USD|EUR|GBP|CHF"
_NUMBER = re.compile(
    rf"(?P<prefix>(?:{_CURRENCIES})\s?)?(?P<sign>[+-]?)(?P<whole>\d+|\d{{1,3}}(?:[,.' \u00a0\u202f]\d{{3}})+)"
    rf"(?:(?P<point>[.,])(?P<rest>\d+))?(?P<suffix>\s?(?:{_UNITS}))?"
)
_DATES = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%d.%m.%Y",
    "%d.%m.%Y %H:%M", "%d/%m/%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y", "%m/%d/%Y %H:%M", "%d-%m-%Y", "%d %b %Y", "%b %d, %Y", "%Y%m%d",
)  # fmt: skip
_FEWEST, _MOST_ODD, _FEW_VALUES = 20, 0.02, 20
_BLANKS = ("", "-", "--", "?", "n/a", "na", "nan", "none", "null", ".")


@dataclass(frozen=True)
class Spelling:
    """`kind` "number" with its signs around and between digits, or "datetime" with its `format`; from `least` to
    `digits` after the point; `blank` is what a missing cell looks like, None for none."""

    kind: str
    prefix: str = ""
    suffix: str = ""
    thousands: str = ""
    point: str = "."
    digits: int = 0
    least: int = 0
    format: str = ""
    blank: str | None = None

    def pack(self) -> tuple[str, ...]:
        """As texts, for a field."""
        parts = (
            self.kind,
            self.prefix,
            self.suffix,
            self.thousands,
            self.point,
            str(self.digits),
            str(self.least),
        )
        return (*parts, self.format) if self.blank is None else (*parts, self.format, self.blank)

    @classmethod
    def unpack(cls, parts: tuple[str, ...]) -> Spelling:
        kind, prefix, suffix, thousands, point, digits, least, form, *blank = parts
        return cls(kind, prefix, suffix, thousands, point, int(digits), int(least), form, blank[0] if blank else None)

    def read(self, series: Any) -> Any:
        """A text column as floats, or as dates; what is no number or date in this spelling is missing."""
        import pandas as pd

        texts = series.astype(object).where(series.notna(), "").astype(str).str.strip()
        if self.kind == "datetime":
            return pd.to_datetime(texts, format=self.format, errors="coerce")
        for sign in (self.prefix.strip(), self.suffix.strip()):
            if sign:
                texts = texts.str.replace(sign, "", regex=False)
        if self.thousands:
            texts = texts.str.replace(self.thousands, "", regex=False)
        if self.point != ".":
            texts = texts.str.replace(self.point, ".", regex=False)
        return pd.to_numeric(texts.str.strip(), errors="coerce").astype("float64")

    def write(self, column: Array, missing: Array) -> list[Any]:
        """Numbers, or nanoseconds since 1970, as they are spelled; None (or the blank) where missing."""
        import pandas as pd

        if self.kind == "datetime":
            told = pd.Series(np.where(missing, 0, column).astype(np.int64).view("datetime64[ns]")).dt.strftime(
                self.format
            )
            return [self.blank if gone else text for text, gone in zip(told, missing, strict=True)]
        return [
            self.blank if gone else self._number(value) for value, gone in zip(column.tolist(), missing, strict=True)
        ]

    def _number(self, value: float) -> str:
        text = f"{abs(value):,.{self.digits}f}"
        whole, _, rest = text.partition(".")
        rest = rest[: self.least] + rest[self.least :].rstrip("0")
        whole = whole.replace(",", self.thousands)
        sign = "-" if value < 0 and text.strip("0.,") else ""
        return f"{self.prefix}{sign}{whole}{self.point + rest if rest else ''}{self.suffix}"


def spelling_of(series: Any) -> Spelling | None:
    """How a text column spells numbers or dates; None where its cells are other texts, or codes: a few whole numbers, or
    whole numbers that begin with 0."""
    present = series.dropna().astype(str)
    stripped = present.str.strip()
    blank = stripped.str.lower().isin(_BLANKS)
    cells = stripped[~blank]
    if len(cells) < _FEWEST:
        return None
    blanks = present[blank]
    empty = None if not len(blanks) else str(blanks.iloc[0])
    return _numbers(cells, empty) or _dates(cells, empty)


def _numbers(cells: Any, blank: str | None) -> Spelling | None:
    found = [match for match in map(_NUMBER.fullmatch, cells) if match]
    if len(found) < (1 - _MOST_ODD) * len(cells):
        return None
    prefixes, suffixes = ({match[side] or "" for match in found} for side in ("prefix", "suffix"))
    if len(prefixes) > 1 or len(suffixes) > 1:
        return None
    wholes, points = [match["whole"] for match in found], [match["point"] for match in found]
    between = {sign for whole in wholes for sign in whole if not sign.isdigit()}
    if len(between) > 1:
        return None
    thousands = next(iter(between), "")
    point, thousands = _point({sign for sign in points if sign}, thousands, found)
    if point is None:
        return None
    rests = [len(match["rest"] or "") if match["point"] == point else 0 for match in found]
    digits = max(rests)
    plain = not (digits or thousands or prefixes != {""} or suffixes != {""})
    if plain and (len(set(wholes)) <= _FEW_VALUES or any(len(w) > 1 and w[0] == "0" for w in wholes)):
        return None
    return Spelling("number", prefixes.pop(), suffixes.pop(), thousands, point, digits, min(rests), "", blank)


def _point(points: set[str], thousands: str, found: list[re.Match[str]]) -> tuple[str | None, str]:
    """The decimal point and the sign between thousands; (None, _) where cells contradict each other."""
    groups = all(len(match["rest"]) == 3 and match["whole"][0] != "0" for match in found if match["point"])
    if len(points) > 1 or (points == {thousands} and not groups):
        return None, thousands
    if points == {thousands}:  # one group is read as digits behind a point
        points = set()
    if not points:
        return ("," if thousands == "." else "."), thousands
    point = next(iter(points))
    if point == "," and not thousands and groups:  # "1,234" with three digits behind every sign: thousands
        return ".", ","
    return point, thousands


def _dates(cells: Any, blank: str | None) -> Spelling | None:
    import pandas as pd

    first = str(cells.iloc[0])
    if not first[:1].isdigit() and not re.match(r"[A-Z][a-z]{2} ", first):
        return None
    for form in _DATES:
        try:
            pd.to_datetime(first, format=form)
        except (ValueError, TypeError):
            continue
        dates = pd.to_datetime(cells, format=form, errors="coerce")
        known = dates.notna()
        if known.mean() >= 1 - _MOST_ODD and bool((dates[known].dt.strftime(form) == cells[known]).all()):
            return Spelling("datetime", format=form, blank=blank)
    return None


def parse_text(series: Any, name: str, kind: str, error: type[DataError]) -> Any:
    """A text column as numbers or dates; a cell that is neither raises `error` with its row."""
    import pandas as pd

    if kind == "datetime":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                parsed = pd.to_datetime(series, errors="coerce", format="ISO8601")
                if bool((parsed.isna() & series.notna()).any()):
                    parsed = pd.to_datetime(series, errors="coerce")
            except (ValueError, TypeError):
                parsed = pd.to_datetime(series, errors="coerce", utc=True, format="mixed")
    else:
        parsed = pd.to_numeric(series, errors="coerce").astype("float64")
    bad = (parsed.isna() & series.notna()).to_numpy(dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        wanted = "a date" if kind == "datetime" else "a number"
        raise error(
            f"column {name!r}, row {row}: {short_text(series.iloc[row])} is not {wanted}: mend the cell or leave it empty"
        )
    return parsed


def short_text(value: Any) -> str:
    """A cell as messages show it."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else text[:37] + "..."
