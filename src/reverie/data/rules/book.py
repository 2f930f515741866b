"""The rules of one table, applied together: rows rewritten into what is free, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.data.rules.kinds import Given, rule_from_json
from reverie.data.rules.rule import Bools, Floats, Rule, Values, scattered


class RuleBook:
    """Rules in an order in which every column comes after those it follows from.

    A row's free part has no column that follows wholly from others, and of those that follow in part what is left.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        left, self.rules = list(rules), list[Rule]()
        while left:
            waiting = {rule.column for rule in left}
            ready = [rule for rule in left if not waiting & set(rule.others)]
            self.rules += ready
            left = [rule for rule in left if rule not in ready]
            assert ready, "rules that follow from each other in a circle"

    def __bool__(self) -> bool:
        return bool(self.rules)

    @property
    def removed(self) -> frozenset[str]:
        """Columns of which nothing is left to learn."""
        return frozenset(rule.column for rule in self.rules if not rule.keeps)

    def free(self, values: Values, *, holes: bool) -> tuple[dict[str, Floats], list[Floats]]:
        """The free part of rows, and by how much each rule is broken (n,). With `holes` what a rule fixes is missing from its
        column; without, a value of other rows stands in."""
        known = dict(values)
        for rule in (*self.rules, *reversed(self.rules)):
            rule.solve(known)
        out = {name: column for name, column in known.items() if name not in self.removed}
        for rule in self.rules:
            if rule.keeps:
                out[rule.column] = self._left(rule, known, holes)
        return out, [rule.broken(known) for rule in self.rules]

    @staticmethod
    def _left(rule: Rule, known: Values, holes: bool) -> Floats:
        left = rule.forward(known)
        if holes or not isinstance(rule, Given):
            return left
        fixed: Bools = np.isnan(left) & ~np.isnan(known[rule.column])
        rows = np.flatnonzero(fixed)
        left = left.copy()
        left[rows] = scattered(rule.donors, rows)
        return left

    def whole(self, free: Values, names: Sequence[str]) -> dict[str, Floats]:
        """Inverse of `free`: rows that keep every rule, their columns in the order of `names`."""
        out = dict(free)
        for rule in self.rules:
            out[rule.column] = rule.backward(out, free.get(rule.column))
        return {name: out[name] for name in names}

    def reconciled(self, seen: Values, made: Values) -> dict[str, Floats]:
        """Rows that were made up, changed in cells that were not seen (NaN in `seen`) so that rules hold with those that were."""
        known = dict(seen)
        out = {name: np.where(np.isnan(known[name]), column, known[name]) for name, column in made.items()}
        for rule in reversed(self.rules):
            rule.reconcile(known, out, made)
        for rule in self.rules:
            left = rule.forward(made) if rule.keeps else None
            again = rule.backward(out, left if left is None else np.where(np.isnan(left), out[rule.column], left))
            out[rule.column] = np.where(np.isnan(seen[rule.column]), again, out[rule.column])
        return out

    def to_json(self) -> list[dict[str, Any]]:
        return [rule.to_json() for rule in self.rules]

    @classmethod
    def from_json(cls, data: Sequence[Mapping[str, Any]]) -> RuleBook:
        return cls([rule_from_json(item) for item in data])
