"""Between the columns of a table and its rules: which rules these rows keep, and the fields of what is free."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reverie.data.codec.steps.profiles import decimals, profile
from reverie.data.codec.steps.step import Floats
from reverie.data.rules.book import RuleBook
from reverie.data.rules.finding import Search, find_rules
from reverie.data.rules.kinds import Given, Order
from reverie.data.rules.parsing import add_rule
from reverie.data.rules.rule import Rule
from reverie.errors import InvalidOption

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema

_SAMPLE = 20_000


def rules_of(schema: Schema, values: Mapping[str, Floats]) -> RuleBook:
    """The rules asked for, and where "auto" is among them those found, less those that "not ..." takes out."""
    fields = {field.name: field for field in schema.data_fields}
    if schema.container != "dataframe" or any(field.shape for field in fields.values()) or not schema.rules:
        return RuleBook([])
    numeric = [name for name, field in fields.items() if field.kind in ("number", "integer", "datetime")]
    discrete = [name for name, field in fields.items() if field.kind in ("category", "boolean", "integer")]
    units = {name: "date" if fields[name].kind == "datetime" else "number" for name in numeric}
    search = Search(values, numeric, discrete, units, _digits)
    unwanted = [text.removeprefix("not ").strip() for text in schema.rules if text.startswith("not ")]
    for text in schema.rules:
        if text != "auto" and not text.startswith("not "):
            add_rule(search, text)
    asked = len(search.rules)
    if "auto" in schema.rules:
        find_rules(search)
    rules = [named(rule, fields) for rule in search.rules]
    found = rules[asked:]
    absent = [text for text in unwanted if all(text not in (rule.text, rule.text.split(" (")[0]) for rule in found)]
    if absent:
        known = "; ".join(rule.text for rule in found) or "none"
        raise InvalidOption(f"rules: 'not {absent[0]}' takes out a rule that was not found. Found: {known}")
    kept = [rule for rule in found if rule.text not in unwanted and rule.text.split(" (")[0] not in unwanted]
    return RuleBook([*rules[:asked], *kept])


def _digits(values: Floats) -> int | None:
    if not np.remainder(values, 1).any():
        return 0
    found = profile(values[:: max(1, values.size // _SAMPLE)])
    return decimals(found.low, found.step) if found.kind == "grid" else None


def named(rule: Rule, fields: Mapping[str, Field]) -> Rule:
    """The rule with its keys and values as the user knows them."""
    if not isinstance(rule, Given):
        return rule
    pairs = zip(rule.keys.tolist(), rule.values.tolist(), strict=True)
    texts = [f"{_told(fields[rule.by], key)}: {_told(fields[rule.column], value)}" for key, value in pairs]
    return dataclasses.replace(rule, names=tuple(texts))


def _told(field: Field, value: float) -> str:
    if field.kind == "category" and field.categories:
        return str(field.categories[int(value)])
    if field.kind == "boolean":
        return str(bool(value))
    return f"{value:g}" if field.kind != "datetime" else str(np.datetime64(int(value), "s"))


def free_fields(fields: Sequence[Field], book: RuleBook) -> list[Field]:
    """The fields of what rules leave: none of columns that follow wholly, gaps for those above others."""
    gaps = {rule.column: rule for rule in book.rules if isinstance(rule, Order)}
    by_name = {field.name: field for field in fields}
    out = []
    for field in fields:
        if field.name in book.removed:
            continue
        if field.name in gaps:
            rule = gaps[field.name]
            whole = all(by_name[name].kind == "integer" for name in (field.name, *rule.lows))
            field = dataclasses.replace(
                field,
                kind="integer" if whole else "number",
                dtype="float64",
                support="positive" if rule.strict else "non-negative",
            )
        out.append(field)
    return out
