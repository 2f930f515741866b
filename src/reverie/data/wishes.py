"""What a user may say about where the values of numeric columns can lie."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from reverie.data.schema import Field, Schema
from reverie.data.table import hint
from reverie.errors import InvalidOption

SupportWish = str | tuple[float | None, float | None]
WISHES = ("real", "positive", "non-negative", "negative", "heavy-tailed")


def check_wish(wish: Any, label: str) -> SupportWish:
    """A support asked for, in one of its spellings. Raises `InvalidOption`."""
    if isinstance(wish, str) and wish in WISHES:
        return wish
    ends = tuple(wish) if isinstance(wish, list | tuple) else ()
    numbers = [end for end in ends if end is not None]
    fine = len(ends) == 2 and all(isinstance(end, int | float) and not isinstance(end, bool) for end in numbers)
    if (
        fine
        and numbers
        and not (len(numbers) == 2 and not numbers[0] < numbers[1])
        and not any(map(math.isnan, numbers))
    ):
        low, high = (None if end is None or not math.isfinite(end) else float(end) for end in ends)
        return (low, high)
    raise InvalidOption(
        f"columns: {label!r}: expected {', '.join(WISHES)} or a range (low, high) with low < high, one of them perhaps None, "
        f"got {wish!r}"
    )


def with_wishes(schema: Schema, columns: Mapping[Any, Any] | str) -> Schema:
    """The schema with what is wished of its columns; one word for all numeric ones. Raises `InvalidOption` for a column that
    is not there or holds no numbers."""
    numeric = {field.name for field in schema.data_fields if _is_numeric(field)}
    if isinstance(columns, str):
        columns = dict.fromkeys(numeric, columns)
    if not isinstance(columns, Mapping):
        raise InvalidOption(f"columns: expected a mapping from column to support, got {type(columns).__name__}")
    asked: dict[str, SupportWish] = {}
    for key, wish in columns.items():
        name = str(key)
        if name not in schema.names:
            raise InvalidOption(
                f"columns: no column {key!r}{hint(name, schema.names)} Columns: {', '.join(schema.names)}"
            )
        if name not in numeric:
            field = schema.field(name)
            raise InvalidOption(
                f"columns: {key!r} is of kind {field.kind} and role {field.role}: only numbers that are learned have a support"
            )
        asked[name] = check_wish(wish, name)
    fields = [dataclasses.replace(f, support=asked.get(f.name, f.support)) for f in schema.fields]
    return dataclasses.replace(schema, fields=tuple(fields))


def _is_numeric(field: Field) -> bool:
    kind = (field.step or "number") if field.kind == "sequence" else field.kind
    return kind in ("number", "integer", "datetime")
