"""What the data are: named fields, each with a kind and a role, and the container they came in. Plain JSON; `forms` reads and
restores by it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reverie.data.table import NO_DATE, Array, Table, hint, pack, unpack
from reverie.errors import DataError, SchemaMismatch

KINDS = ("number", "integer", "category", "boolean", "datetime", "image", "sequence", "text")
ROLES = ("data", "condition", "target", "weight", "group", "time", "id", "ignore")
STEPS = ("number", "integer", "category", "boolean", "datetime")
"""The kinds a step of a sequence may have."""
CONTAINERS = ("dataframe", "array", "tensor", "images", "list", "long")

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Field:
    """One column or block of columns.

    `shape` is per row: `()` scalar, `(d,)` block, `(H, W)` or `(H, W, C)` image; for a sequence `(d,)` per time step.
    `dtype` is the user's type as text (`float64`, `Int64`, `category`, `datetime64[us, UTC]`, `torch.uint8`, ...).
    """

    name: str
    kind: str
    role: str = "data"
    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    categories: tuple[Scalar, ...] | None = None
    """Values of a category field, in the order of the codes."""
    ordered: bool = False
    nullable: bool = False
    """Were cells missing when the schema was made."""
    low: float | None = None
    """Lowest value an image pixel may have; None for other kinds."""
    high: float | None = None
    categories_dtype: str | None = None
    """Type of the categories of a pandas Categorical."""
    missing: str | None = None
    """How an object column spells missing: `None`, `nan` or `NA`."""
    parsed: bool = False
    """Text cells are parsed into numbers or dates, because `kinds` asked for it."""
    label: int | None = None
    """The column's name where it is a whole number; else None."""
    form: str | None = None
    """How y came: `series`, `array`, `tensor` or `list`. Only for a condition given beside X; and how lists of symbols
    or of labels per step came: `list`, `tuple` or `array` (`tensor`) for each sequence."""
    whole: bool = False
    """A sequence given as y is one value of the whole example; otherwise its steps go with the steps of x."""
    step: str | None = None
    """The kind of one step of a sequence; None means `number`. Categories, type and missing cells are those of steps."""
    start: float | int | None = None
    """The time column of a long data frame: the earliest time at which a sequence begins ..."""
    every: float | int | None = None
    """... and the time from one step to the next, when that is regular; None when it is not."""
    spelling: tuple[str, ...] | None = None
    """How a text column spells the numbers or dates that it holds: see `forms.spelling`."""
    support: str | tuple[float | None, float | None] | None = None
    """Where the values of a numeric column can lie, because the user said so: see `codec.supports`. None: found from them."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(
                f"field {self.name!r}: no kind {self.kind!r}{hint(self.kind, KINDS)} Kinds: {', '.join(KINDS)}"
            )
        if self.role not in ROLES:
            raise DataError(
                f"field {self.name!r}: no role {self.role!r}{hint(self.role, ROLES)} Roles: {', '.join(ROLES)}"
            )
        if self.step is not None and (self.kind != "sequence" or self.step not in STEPS):
            raise DataError(
                f"field {self.name!r} of kind {self.kind}: no step {self.step!r}. Only sequences have steps, which are "
                f"of kind {', '.join(STEPS)}"
            )

    @property
    def width(self) -> int:
        """Numbers per row (per time step for a sequence)."""
        return math.prod(self.shape)

    @property
    def one_step(self) -> Field:
        """The field of a single step of a sequence, whose columns are packed steps; other fields themselves."""
        return dataclasses.replace(self, kind=self.step or "number", step=None) if self.kind == "sequence" else self

    @property
    def column_name(self) -> str | int:
        """The name the user's DataFrame gives this column."""
        return self.name if self.label is None else self.label

    def is_missing(self, column: Array) -> Array:
        """Which cells of `column` are missing: a boolean array of its shape. All False for sequences, whose packed steps
        `one_step` judges."""
        if self.kind in ("boolean", "category"):
            return np.asarray(column < 0)
        if self.kind == "datetime":
            return np.asarray(column == NO_DATE)
        if self.kind == "text":
            return np.array([value is None for value in column], dtype=bool)
        if self.kind != "sequence" and column.dtype.kind == "f":
            return np.isnan(column)
        return np.zeros(column.shape, dtype=bool)

    def hidden(self, column: Array, position: int) -> Array:
        """The column with its cells (those at `position` of a block) missing."""
        missing = {"boolean": -1, "category": -1, "datetime": NO_DATE}.get(self.kind, np.nan)
        out = column.copy() if self.kind in ("boolean", "category", "datetime") else column.astype(np.float64)
        if self.shape:
            out.reshape(len(out), -1)[:, position] = missing
        else:
            out[:] = missing
        return out

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the defaults."""
        out: dict[str, Any] = {"name": self.name, "kind": self.kind, "dtype": self.dtype}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name not in out and value != item.default:
                out[item.name] = list(value) if isinstance(value, tuple) else value
        return out

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Field:
        """The inverse of `to_json`. Raises `DataError` for unknown or absent keys."""
        names = [item.name for item in dataclasses.fields(Field)]
        for key in data:
            if key not in names:
                raise DataError(f"schema field: no entry {key!r}{hint(key, names)}")
        if "name" not in data or "kind" not in data:
            raise DataError(f"schema field without a name or kind: {dict(data)}")
        values = dict(data)
        values["shape"] = tuple(int(size) for size in values.get("shape", ()))
        if values.get("categories") is not None:
            values["categories"] = tuple(values["categories"])
        if values.get("spelling") is not None:
            values["spelling"] = tuple(values["spelling"])
        if isinstance(values.get("support"), list):
            values["support"] = tuple(values["support"])
        return Field(**values)


@dataclass(frozen=True)
class Schema:
    """The record of fields, in the user's column order, and the container X came in.

    `dataframe` pandas; `array` numpy block, `images` numpy images, `tensor` torch; `list` texts or sequences; `long` a
    data frame with a row per step (see `reverie.sequences`).
    """

    fields: tuple[Field, ...]
    container: str = "dataframe"
    rules: tuple[str, ...] = ("auto",)
    """What rows are to keep: "auto" for what the training rows show, rules as text, "not ..." for one that is not wanted."""

    def __post_init__(self) -> None:
        if self.container not in CONTAINERS:
            raise DataError(f"schema: no container {self.container!r}. Containers: {', '.join(CONTAINERS)}")
        names = [field.name for field in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"two columns are called {name!r}: rename one")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def data_fields(self) -> tuple[Field, ...]:
        """What a model learns: roles `data` and `target` (a data column that prediction asks for), in order."""
        return tuple(field for field in self.fields if field.role in ("data", "target"))

    @property
    def conditions(self) -> tuple[Field, ...]:
        """The fields that y consists of, in order."""
        return self.with_role("condition")

    @property
    def condition(self) -> Field | None:
        """The field of y where y is one, else None."""
        return self.conditions[0] if len(self.conditions) == 1 else None

    def names_y(self, y: Any) -> bool:
        """Is y the name of the one column that is the condition, or the names of all of them?"""
        names = [field.name for field in self.conditions]
        named = [y] if isinstance(y, str) else list(y) if isinstance(y, list | tuple) else None
        return bool(names) and named == names

    def with_role(self, *roles: str) -> tuple[Field, ...]:
        """The fields of these roles, in order."""
        return tuple(field for field in self.fields if field.role in roles)

    def field(self, name: str) -> Field:
        """The field of that name. Raises `DataError` with the closest name."""
        for field in self.fields:
            if field.name == str(name):
                return field
        raise DataError(f"no column {name!r}{hint(str(name), self.names)} Columns: {', '.join(self.names)}")

    def fill(self, raw: Table, filled: Table) -> Table:
        """`raw` with the missing cells of its data fields taken from `filled`; everything else as it was."""
        out: dict[str, Array] = {}
        for field in self.data_fields:
            values, other = raw[field.name], filled[field.name]
            if field.kind != "sequence":
                out[field.name] = np.where(field.is_missing(values), other.astype(values.dtype), values)
                continue
            (steps, lengths), (others, _) = pack(values), pack(other)
            holes = field.one_step.is_missing(steps)
            out[field.name] = unpack(np.where(holes, others.astype(steps.dtype), steps), lengths)
        return raw.with_columns(out)

    def check_same(self, other: Schema) -> None:
        """Are tables of `other` tables of this schema? Compares names, kinds, shapes, categories and ranges.

        Types (float32 or float64) may differ, and so may fields that are neither data nor condition. Raises
        `SchemaMismatch` naming the first difference.
        """
        theirs = {field.name: field for field in other.data_fields}
        for field in self.data_fields:
            if field.name not in theirs:
                raise SchemaMismatch(
                    f"the dataset has no column {field.name!r}{hint(field.name, theirs)} "
                    f"Its columns: {', '.join(theirs)}"
                )
            _check_same_field(field, theirs[field.name])
        known = [field.name for field in self.data_fields]
        extra = [name for name in theirs if name not in known]
        if extra:
            raise SchemaMismatch(f"the dataset has a column {extra[0]!r} that is not known{hint(extra[0], known)}")
        mine, others = self.conditions, other.conditions
        if mine and others:
            if len(mine) != len(others):
                raise SchemaMismatch(
                    f"y consists of {len(mine)} columns ({', '.join(field.name for field in mine)}), the dataset's of "
                    f"{len(others)} ({', '.join(field.name for field in others)})"
                )
            for field, another in zip(mine, others, strict=True):
                _check_same_field(field, another)

    def to_json(self) -> dict[str, Any]:
        plain = {"container": self.container, "fields": [field.to_json() for field in self.fields]}
        return plain if self.rules == ("auto",) else {**plain, "rules": list(self.rules)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Schema:
        """The inverse of `to_json`. Raises `DataError` for what is not a schema."""
        if not isinstance(data, Mapping) or "fields" not in data:
            raise DataError("not a schema: an object with 'container' and 'fields' is expected")
        fields = tuple(Field.from_json(item) for item in data["fields"])
        return Schema(fields, str(data.get("container", "dataframe")), tuple(data.get("rules", ("auto",))))

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{field.name}: {field.kind}{f' of {field.step}' if field.step else ''}"
            + (f" ({field.role})" if field.role != "data" else "")
            for field in self.fields[:8]
        )
        more = f", ... {len(self.fields) - 8} more" if len(self.fields) > 8 else ""
        return f"Schema({self.container}; {inside}{more})"


def _check_same_field(mine: Field, other: Field) -> None:
    for what in ("name", "kind", "step", "shape", "categories", "low", "high"):
        a, b = getattr(mine, what), getattr(other, what)
        if a != b:
            raise SchemaMismatch(
                f"column {mine.name!r} has {what} {_brief(a)} in the schema and {_brief(b)} in the dataset: give the raw "
                "data (dataset.X) instead, which is then read by the known schema"
            )


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
