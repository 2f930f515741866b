"""Which rules the rows of a table keep: those that hold in every row, and would not if columns had nothing to do with each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reverie.data.rules.kinds import Given, Lookup, Order, Product, Sum
from reverie.data.rules.rule import Bools, Evidence, Floats, Rule, Values

LEAST_ROWS = 50
"""Rows below which nothing is found."""
_CHANCE = math.log(1e-6)
"""Of all rules of one kind in one table together: the chance that one of them is none."""
_PROBE = 8
"""Rows on which sums and products are tried before all are."""
_SHUFFLES = 2_000
_LEAST_LEVELS = 5
_MOST_COLUMNS = 60
_LEAST_REPEATS = 5
"""Rows a value must have on average before other columns are looked up by it."""


class Search:
    """The columns that rules may speak of, and those already spoken for.

    numeric: numbers, whole numbers and dates, which can be added and compared within `units` (dates with dates); discrete: what
    can be looked up by; `values` of all rows; `digits` after the point that the values of numbers are written with, None for
    none in particular.
    """

    def __init__(
        self,
        values: Values,
        numeric: Sequence[str],
        discrete: Sequence[str],
        units: Mapping[str, str],
        digits: Callable[[Floats], int | None],
    ) -> None:
        self.values = {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
        spread = [name for name, column in self.values.items() if _varies(column)]
        self.numeric = [name for name in numeric if name in spread][:_MOST_COLUMNS]
        self.discrete = [name for name in discrete if name in spread][:_MOST_COLUMNS]
        self.units = dict(units)
        self.order = list(self.values)
        self.n = len(next(iter(self.values.values()), []))
        self.rules: list[Rule] = []
        self.taken: set[str] = set()
        self._count, self._digits = digits, dict[str, int | None]()

    def digits(self, name: str) -> int | None:
        """Digits after the point that the values of a column are written with; None for none in particular."""
        if name not in self._digits:
            column = self.values[name]
            self._digits[name] = self._count(column[~np.isnan(column)])
        return self._digits[name]

    def add(self, rule: Rule) -> None:
        self.rules.append(rule)
        self.taken.add(rule.column)

    def depends(self, name: str, on: str) -> bool:
        """Does column `name` follow from `on`, directly or not?"""
        found = [rule for rule in self.rules if rule.column == name]
        return any(other == on or self.depends(other, on) for rule in found for other in rule.others)


def find_rules(search: Search) -> list[Rule]:
    """All rules, those that say most first; a column follows from at most one."""
    if search.n < LEAST_ROWS:
        return []
    _find_lookups(search)
    _find_copies(search)
    _find_sums(search)
    _find_products(search)
    _find_given(search)
    _find_orders(search)
    return search.rules


def _varies(column: Floats) -> bool:
    seen = column[~np.isnan(column)]
    return bool(seen.size and seen.min() < seen.max())


def _both(*columns: Floats) -> Bools:
    return ~np.isnan(np.sum(columns, axis=0))  # type: ignore[no-any-return]


def _chance_of_equal(wanted: Floats, found: Floats) -> float:
    """log of the chance that a column equal to `wanted` in all rows would be so if its rows were in any other order."""
    shuffled = np.random.default_rng(0).permutation(found.size)[:_SHUFFLES]
    sample = wanted[:: max(1, wanted.size // _SHUFFLES)][: shuffled.size]
    same = float(np.isclose(sample, found[shuffled[: sample.size]], rtol=1e-9, atol=1e-12).mean())
    return found.size * math.log(min(max(same, 1 / (2 * sample.size)), 1 - 1e-12))


# ---------------------------------------------------------------------- functions of one column


def _find_lookups(search: Search) -> None:
    """Columns of which every value of another column has one value only."""
    coded = {name: np.unique(search.values[name], return_inverse=True) for name in search.discrete}
    usable = {
        name: (keys, codes)
        for name, (keys, codes) in coded.items()
        if not np.isnan(search.values[name]).any() and keys.size * _LEAST_REPEATS <= search.n
    }
    tests = max(len(usable) * len(search.order), 1)
    for name in sorted(usable, key=lambda name: usable[name][0].size):
        keys, codes = usable[name]
        counts = np.bincount(codes, minlength=keys.size)
        for column in search.order:
            if column == name or column in search.taken or not _varies(search.values[column]):
                continue
            if search.depends(name, column) or (column in usable and usable[column][0].size > keys.size):
                continue
            own = search.values[column]
            first = np.full(keys.size, np.nan)
            first[codes[::-1]] = own[::-1]
            if not np.array_equal(first[codes], own, equal_nan=True):
                continue
            _, inverse, share = np.unique(own, return_inverse=True, return_counts=True, equal_nan=True)
            log_share = np.log(share / search.n)
            log_chance = float(((counts - 1) * log_share[inverse[_firsts(codes, keys.size)]]).sum())
            if log_chance < _CHANCE - math.log(tests):
                evidence = Evidence(int((counts - 1).sum()), log_chance)
                search.add(Lookup(column, name, keys, first, evidence))


def _firsts(codes: np.ndarray, size: int) -> np.ndarray:
    """The first row of every code."""
    first = np.zeros(size, dtype=np.int64)
    first[codes[::-1]] = np.arange(codes.size)[::-1]
    return first


# ---------------------------------------------------------------------- sums and products


def _find_copies(search: Search) -> None:
    """Columns that are another one in other units: z = a x + b."""
    free = [name for name in search.numeric if name not in search.taken]
    for x, z in itertools.permutations(free, 2):
        if (
            x in search.taken
            or z in search.taken
            or search.order.index(x) > search.order.index(z)
            or _apart(search, x, z)
        ):
            continue
        a, b = search.values[x], search.values[z]
        both = _both(a, b)
        if both.sum() < LEAST_ROWS or not np.array_equal(np.isnan(a), np.isnan(b)):
            continue
        factor, constant = _line(a[both], b[both])
        digits = search.digits(z)
        rule = Sum(z, (x,), (factor,), Evidence(int(both.sum())), constant, digits)
        if factor and not rule.broken(search.values).any():
            log_chance = _chance_of_equal(rule.backward(search.values, None)[both], b[both])
            if log_chance < _CHANCE - 2 * math.log(len(free)):
                search.add(Sum(z, (x,), (factor,), Evidence(int(both.sum()), log_chance), constant, digits))


def _line(x: Floats, z: Floats) -> tuple[float, float]:
    """z = factor x + constant through all points, in numbers as round as the points allow."""
    spread = x - x.mean()
    factor = float(spread @ (z - z.mean()) / (spread @ spread))
    short = float(f"{factor:.6g}")
    factor = short if abs(short - factor) < 1e-7 * abs(factor) else factor
    constant = float(np.median(z - factor * x))
    short = float(f"{constant:.6g}")
    return factor, short if abs(short - constant) < 1e-7 * max(abs(constant), float(z.std()) * 1e-3) else constant


def _apart(search: Search, *names: str) -> bool:
    return len({search.units[name] for name in names}) > 1


def _find_sums(search: Search) -> None:
    """Columns that are the sum of two or three others: tried on a few rows, then on all."""
    plain = [name for name in search.numeric if search.units[name] == "number"]
    whole = [name for name in plain if not np.isnan(search.values[name]).any()]
    if len(whole) < 3:
        return
    matrix = np.column_stack([search.values[name] for name in whole])
    probe = matrix[np.linspace(0, search.n - 1, _PROBE).astype(int)]
    slack = 1e-8 * np.abs(matrix).max(0) + 1e-12
    m = len(whole)
    tests = m**2 * (m + 1)
    pairs = list(itertools.combinations(range(m), 2))
    for i, j in pairs:
        off = np.abs(probe[:, i] + probe[:, j] - probe.T).max(1)
        for k in np.flatnonzero(off <= slack + slack[i] + slack[j]).tolist():
            if k not in (i, j):
                _try_sum(search, whole[k], (whole[i], whole[j]), tests)
    if m > 30:
        return
    for i, j, k in itertools.combinations(range(m), 3):
        off = np.abs(probe[:, i] + probe[:, j] + probe[:, k] - probe.T).max(1)
        for z in np.flatnonzero(off <= slack + slack[i] + slack[j] + slack[k]).tolist():
            if z not in (i, j, k):
                _try_sum(search, whole[z], (whole[i], whole[j], whole[k]), tests * m)


def _try_sum(search: Search, column: str, parts: tuple[str, ...], tests: int) -> None:
    if column in search.taken or any(search.depends(part, column) for part in parts):
        return
    rule = Sum(column, parts, (1.0,) * len(parts), Evidence(search.n), 0.0, search.digits(column))
    if rule.broken(search.values).any():
        return
    log_chance = _chance_of_equal(rule.backward(search.values, None), search.values[column])
    if log_chance < _CHANCE - math.log(tests):
        search.add(Sum(column, parts, rule.coefficients, Evidence(search.n, log_chance), 0.0, rule.digits))


def _find_products(search: Search) -> None:
    """Columns that are the product of two others, rounded as they are written."""
    plain = [name for name in search.numeric if search.units[name] == "number"]
    whole = [name for name in plain if not np.isnan(search.values[name]).any()]
    if len(whole) < 3:
        return
    matrix = np.column_stack([search.values[name] for name in whole])
    probe = matrix[np.linspace(0, search.n - 1, _PROBE).astype(int)]
    half = np.array(
        [0.0 if search.digits(name) is None else 0.5 * 10.0 ** -(search.digits(name) or 0) for name in whole]
    )
    slack = 1e-8 * np.abs(matrix).max(0) + half * (1 + 1e-6)
    for i, j in itertools.combinations(range(len(whole)), 2):
        off = np.abs(probe[:, i] * probe[:, j] - probe.T).max(1)
        for k in np.flatnonzero(off <= slack).tolist():
            parts = (whole[i], whole[j])
            if k in (i, j) or whole[k] in search.taken or any(search.depends(part, whole[k]) for part in parts):
                continue
            rule = Product(whole[k], parts, Evidence(search.n), search.digits(whole[k]))
            if rule.broken(search.values).any():
                continue
            log_chance = _chance_of_equal(rule.backward(search.values, None), search.values[whole[k]])
            if log_chance < _CHANCE - 3 * math.log(len(whole)):
                search.add(Product(whole[k], parts, Evidence(search.n, log_chance), rule.digits))


# ---------------------------------------------------------------------- a constant where a category has a value


def _find_given(search: Search) -> None:
    """Columns that always have one value where another column has a certain one, and vary elsewhere."""
    levels = {name: np.unique(search.values[name][~np.isnan(search.values[name])]) for name in search.discrete}
    few = {name: keys for name, keys in levels.items() if keys.size <= 50}
    tests = max(sum(keys.size for keys in few.values()) * len(search.order), 1)
    for column in search.order:
        if column in search.taken or not _varies(search.values[column]):
            continue
        best: Given | None = None
        for name, keys in few.items():
            if name == column or name in search.taken or search.depends(name, column):
                continue
            found = _constants(search, column, name, keys, tests)
            if found is not None and (best is None or found.evidence.rows > best.evidence.rows):
                best = found
        if best is not None:
            search.add(best)


def _constants(search: Search, column: str, name: str, keys: Floats, tests: int) -> Given | None:
    own, by = search.values[column], search.values[name]
    fixed: list[tuple[float, float]] = []
    rows, total = 0, 0.0
    for key in keys:
        inside = own[by == key]
        if inside.size < LEAST_ROWS // 2 or np.isnan(inside).any() or inside.min() < inside.max():
            continue
        share = float((own == inside[0]).mean())
        log_chance = inside.size * math.log(min(share, 1 - 1e-12))
        if log_chance < _CHANCE - math.log(tests):
            fixed.append((float(key), float(inside[0])))
            rows, total = rows + inside.size, min(total, log_chance)
    outside = ~np.isin(by, [key for key, _ in fixed]) & ~np.isnan(own)
    free, keys_outside = own[outside], by[outside & ~np.isnan(by)]
    if not fixed or keys_outside.size < LEAST_ROWS // 2 or not _varies(free):
        return None
    evenly = np.linspace(0.01, 0.99, 64)
    donors, free_keys = (np.quantile(some, evenly, method="nearest") for some in (free, keys_outside))
    at, values = np.array([key for key, _ in fixed]), np.array([value for _, value in fixed])
    return Given(column, name, at, values, Evidence(rows, total), donors=donors, free_keys=free_keys)


# ---------------------------------------------------------------------- orders


def _has_levels(column: Floats) -> bool:
    """More values than a yes and a no, a grade or a class have."""
    return np.unique(column[~np.isnan(column)][:_SHUFFLES]).size >= _LEAST_LEVELS


def _always_below(search: Search, low: str, other: str) -> bool:
    """Is it never the larger of the two? Of two that are always the same the first is."""
    a, b = search.values[low], search.values[other]
    both = _both(a, b)
    first = search.order.index(low) < search.order.index(other)
    return bool((a[both] <= b[both]).all() and (not first or (a[both] < b[both]).any()))


def _find_orders(search: Search) -> None:
    """Columns that are never below another, though their values overlap."""
    free = [name for name in search.numeric if _has_levels(search.values[name])]
    below: dict[str, dict[str, tuple[int, float, bool]]] = {}
    tests = max(len(free) * (len(free) - 1), 1)
    for low, high in itertools.permutations(free, 2):
        if high in search.taken or _apart(search, low, high) or search.depends(low, high):
            continue
        a, b = search.values[low], search.values[high]
        both = _both(a, b)
        if both.sum() < LEAST_ROWS or np.isnan(a[~np.isnan(b)]).any():
            continue
        a, b = a[both], b[both]
        if a.max() <= b.min() or (b < a).any():
            continue
        ordered = np.sort(a)
        chance = np.searchsorted(ordered, b, side="right") / a.size  # of an a below each b
        log_chance = float(np.log(np.minimum(chance, 1 - 1e-12)).sum())
        if log_chance < _CHANCE - math.log(tests):
            below.setdefault(high, {})[low] = (a.size, log_chance, bool((b > a).all()))
    for high in sorted(below, key=lambda name: len(below[name])):
        lows = [low for low in below[high] if not search.depends(low, high)]
        lows = [low for low in lows if not any(_always_below(search, low, other) for other in lows if other != low)]
        if not lows:
            continue
        rows = min(below[high][low][0] for low in lows)
        log_chance = max(below[high][low][1] for low in lows)
        strict = all(below[high][low][2] for low in lows)
        digits = [search.digits(name) for name in (high, *lows)]
        most = None if None in digits else max(d for d in digits if d is not None)
        search.add(Order(high, tuple(lows), Evidence(rows, log_chance), strict, most))
