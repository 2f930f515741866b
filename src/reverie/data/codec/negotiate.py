"""The one negotiator: `fit_codec` chooses and fits the map between these data and what a family can live with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.data.codec.compound import CompoundCondition
from reverie.data.codec.condition import ColumnCondition, ConditionCodec, unlabelled
from reverie.data.codec.maps import Codec, others, slot_kind
from reverie.data.codec.pixels import ImageCodec
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.codec.tables import TableCodec
from reverie.data.space import Wants
from reverie.data.table import Table
from reverie.errors import DataError, UnsupportedData

if TYPE_CHECKING:
    from reverie.data.dataset import Dataset
    from reverie.data.schema import Schema

_FIT_ROWS = 200_000
_SLOTS = {"steps": "label-per-step"}


def fit_codec(schema: Schema, wants: Wants, train: Dataset) -> Codec:
    """Choose and fit the map for these data and this family, from the training rows only.

    Raises `UnsupportedData`, naming the families that can, when kinds, holes, ties or `y` do not suit the family.
    """
    fields = schema.data_fields
    if not fields:
        raise DataError("the data have no column with the role data: there is nothing to learn")
    _check_kinds(schema, wants)
    sample = _fit_sample(train)
    condition = _fit_condition(schema, wants, sample)
    if any(field.kind == "image" for field in fields):
        if len(fields) > 1:
            raise UnsupportedData(
                "images beside other data columns are not supported: give the other columns the role condition or "
                "ignore"
            )
        return ImageCodec.fit(schema, wants, sample, condition)
    if any(field.kind in ("sequence", "text") for field in fields):
        _check_mixing(schema, wants)
        return SequenceCodec.fit(schema, wants, sample, condition)
    return TableCodec.fit(schema, wants, sample, condition)


def with_condition(codec: Codec, schema: Schema, wants: Wants, train: Dataset) -> Codec:
    """A codec fitted without y, with the map for the y of these data beside it; `schema` is its own with y added."""
    condition = _fit_condition(schema, wants, _fit_sample(train))
    assert condition is not None
    return codec_from_json(schema, {**codec.to_json(), "condition": condition.to_json()})


def codec_from_json(schema: Schema, data: dict[str, Any]) -> Codec:
    """Rebuild a codec from `to_json`."""
    condition = _condition_from_json(schema, data["condition"]) if data["condition"] else None
    if data["type"] == "image":
        return ImageCodec.from_json(schema, data, condition)
    if data["type"] == "sequence":
        return SequenceCodec.from_json(schema, data, condition)
    return TableCodec.from_json(schema, data, condition)


def _condition_from_json(schema: Schema, data: dict[str, Any]) -> ConditionCodec:
    if "codec" in data:
        return CompoundCondition.from_json(schema, data)
    return ColumnCondition.from_json(schema.conditions[0], data)


def _check_kinds(schema: Schema, wants: Wants) -> None:
    wrong = [field for field in schema.data_fields if field.kind not in wants.kinds]
    if wrong:
        named = ", ".join(f"{field.name!r} ({field.kind})" for field in wrong[:5])
        raise UnsupportedData(
            f"{wants.family} cannot learn from {named}: it takes {', '.join(sorted(wants.kinds))}{wants.otherwise and '; '}"
            f"{wants.otherwise}. Families that can: {others(schema, wants)}"
        )


def _check_mixing(schema: Schema, wants: Wants) -> None:
    """Windows of several sequences have no y and no weight of their own."""
    whole = [field for field in schema.conditions if field.kind != "sequence" or field.whole]
    whole += schema.with_role("weight")
    if wants.windows is not None and wants.windows.mixed and whole:
        raise UnsupportedData(
            f"{wants.family} would mix sequences in one window, and {whole[0].name!r} ({whole[0].role}) is a value of the "
            "whole sequence: let windows keep to one sequence, or leave it out"
        )


def _fit_sample(train: Dataset) -> Table:
    if len(train) == 0:
        raise DataError("the training data have no rows")
    if train.in_memory or len(train) <= _FIT_ROWS:
        return train.whole()
    return train.take(np.linspace(0, len(train) - 1, _FIT_ROWS).astype(np.int64))


def _fit_condition(schema: Schema, wants: Wants, sample: Table) -> ConditionCodec | None:
    kind, fields = slot_kind(schema), schema.conditions
    if kind is None:
        return None
    names = ", ".join(repr(field.name) for field in fields)
    if kind not in wants.conditions:
        raise UnsupportedData(
            f"{wants.family} does not learn from y ({names} {_are(kind)}). Leave y out, or give it the role ignore. "
            f"Families that take it: {others(schema, wants)}"
        )
    if kind in ("columns", "picture", "sequence"):
        return CompoundCondition.fit(kind, schema, sample, wants.dtype)
    column = sample.columns[fields[0].name]
    hole = None if wants.partial else unlabelled(fields[0], column)
    if hole:
        raise DataError(hole)
    return ColumnCondition.fit(fields[0], column, partial=wants.partial)


def _are(kind: str) -> str:
    return f"is a {_SLOTS.get(kind, kind)} condition" if kind != "columns" else "are several columns"
