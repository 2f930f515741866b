"""Rules as people write them: "start <= end", "total = net + tax - discount", "price = count * unit", "country by city"."""

from __future__ import annotations

import re

import numpy as np

from reverie.data.rules.finding import Search
from reverie.data.rules.kinds import Lookup, Order, Product, Sum
from reverie.data.rules.rule import Evidence, Rule
from reverie.data.table import hint
from reverie.errors import DataError, InvalidOption

FORMS = 'expected "a <= b", "a < b", "z = x + y - w", "z = x * y" or "b by a"'


def add_rule(search: Search, text: str) -> None:
    """Add the rule that `text` says. Raises `InvalidOption` for what is no rule or cannot go with another one, `DataError`
    where rows break it."""
    rule = _parse(search, text)
    _check(search, rule, text)
    search.add(rule)


def _parse(search: Search, text: str) -> Rule:
    if not isinstance(text, str):
        raise InvalidOption(f"rules: {text!r} is no text; {FORMS}")
    compared = re.fullmatch(r"\s*(.+?)\s*(<=|>=|<|>)\s*(.+?)\s*", text)
    if compared:
        left, sign, right = compared.groups()
        low, high = (left, right) if sign[0] == "<" else (right, left)
        low, high = _column(search, low, text, numeric=True), _column(search, high, text, numeric=True)
        if search.units[low] != search.units[high]:
            raise InvalidOption(f"rules: {text!r} compares a date with a number")
        digits = [search.digits(name) for name in (high, low)]
        most = None if None in digits else max(d for d in digits if d is not None)
        return Order(high, (low,), Evidence(search.n), len(sign) == 1, most)
    if " by " in text:
        column, by = (part.strip() for part in text.split(" by ", 1))
        return _lookup(search, _column(search, column, text), _column(search, by, text), text)
    if text.count("=") == 1:
        column, right = text.split("=")
        name = _column(search, column, text, numeric=True)
        if "*" in right:
            parts = [_column(search, part, text, numeric=True) for part in right.split("*")]
            if len(parts) != 2:
                raise InvalidOption(f"rules: {text!r}: a product has two factors")
            return Product(name, (parts[0], parts[1]), Evidence(search.n), search.digits(name))
        return _sum(search, name, right, text)
    raise InvalidOption(f"rules: {text!r} is no rule: {FORMS}")


def _sum(search: Search, name: str, right: str, text: str) -> Sum:
    parts: list[str] = []
    factors: list[float] = []
    constant = 0.0
    for sign, term in re.findall(r"([+-]?)\s*((?:[^+\-\s]|(?<=\S)-(?=\S)|\s(?![+-]))+)", right.strip()):
        term, turn = term.strip(), -1.0 if sign == "-" else 1.0
        scaled = re.fullmatch(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?:\s+(.+))?", term)
        if scaled and scaled[2] is None and term not in search.values:
            constant += turn * float(term)
            continue
        factor = float(scaled[1]) if scaled and term not in search.values else 1.0
        parts.append(_column(search, scaled[2] if scaled and term not in search.values else term, text, numeric=True))
        factors.append(turn * factor)
    if not parts:
        raise InvalidOption(f"rules: {text!r} names no column on the right; {FORMS}")
    return Sum(name, tuple(parts), tuple(factors), Evidence(search.n), constant, search.digits(name))


def _lookup(search: Search, column: str, by: str, text: str) -> Lookup:
    keys, codes = np.unique(search.values[by], return_inverse=True)
    own = search.values[column]
    first = np.full(keys.size, np.nan)
    first[codes[::-1]] = own[::-1]
    wrong = first[codes] != own
    wrong &= ~(np.isnan(first[codes]) & np.isnan(own))
    if np.isnan(search.values[by]).any():
        raise DataError(
            f"rules: {text!r}: {by!r} has missing cells, by which nothing can be looked up: fill them first"
        )
    if wrong.any():
        raise _breaks(text, wrong)
    return Lookup(column, by, keys, first, Evidence(search.n))


def _column(search: Search, name: str, text: str, *, numeric: bool = False) -> str:
    name = name.strip()
    if name not in search.values:
        raise InvalidOption(
            f"rules: {text!r}: no column {name!r}{hint(name, search.values)} Columns: {', '.join(search.values)}"
        )
    if numeric and name not in search.units:
        raise InvalidOption(f"rules: {text!r}: {name!r} holds no numbers and no dates")
    return name


def _check(search: Search, rule: Rule, text: str) -> None:
    if rule.column in rule.others:
        raise InvalidOption(f"rules: {text!r} says of {rule.column!r} that it follows from itself")
    if rule.column in search.taken:
        other = next(known.text for known in search.rules if known.column == rule.column)
        raise InvalidOption(f"rules: {text!r} and {other!r} both say what {rule.column!r} is: leave one of them out")
    if any(search.depends(other, rule.column) for other in rule.others):
        raise InvalidOption(f"rules: {text!r}: {rule.column!r} would follow from itself through the other rules")
    if isinstance(rule, Order):
        low, high = search.values[rule.lows[0]], search.values[rule.column]
        wrong = (high <= low) if rule.strict else (high < low)
        if np.isnan(low[~np.isnan(high)]).any():
            raise DataError(f"rules: {text!r}: {rule.lows[0]!r} is missing in rows where {rule.column!r} is not")
    else:
        wrong = rule.broken(search.values) > 0
    if wrong.any():
        raise _breaks(text, wrong)


def _breaks(text: str, wrong: np.ndarray) -> DataError:
    return DataError(
        f"rules: {text!r} does not hold in {int(wrong.sum())} of {wrong.size} rows, row {int(np.argmax(wrong))} first: mend the "
        "rows, or leave the rule out"
    )
