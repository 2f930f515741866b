"""Examples with their schema and splits, in memory or on disk."""

from __future__ import annotations

import copy
import dataclasses
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from reverie.data.digests import row_digests, table_digest, text_digest
from reverie.data.forms.reading import restore_table, restore_y
from reverie.data.schema import Field, Schema
from reverie.data.splits import METHODS, count_duplicates, group_split, random_split, split_names, time_split
from reverie.data.table import Array, Table, hint
from reverie.data.wishes import with_wishes
from reverie.errors import DataError, InvalidOption

_CHUNK_BYTES = 2**28
_COUNT_ROWS = 5_000_000


class Source(Protocol):
    """Where rows come from. Sources are picklable, so that worker processes can read them too."""

    n: int
    in_memory: bool

    def take(self, index: Array) -> Table:
        """The rows of that index (int64, each in [0, n)), in its order."""

    def fingerprint(self) -> str:
        """A digest that changes when the content does."""


class MemorySource:
    """Rows held as a table."""

    in_memory = True

    def __init__(self, table: Table) -> None:
        self.table, self.n = table, table.n

    def take(self, index: Array) -> Table:
        return self.table.take(index)

    def fingerprint(self) -> str:
        return table_digest(Schema(()), [self.table])


class Dataset:
    """Rows of a source with a schema, and how they are split. Never changes; parts of it are views.

    `splits` maps `train`, `valid`, `test` to row indices; `split_info` records method, seed, fractions, column, sizes
    and the duplicates between the parts; `warnings` says what is worth a look.
    """

    def __init__(
        self,
        schema: Schema,
        source: Source | Table,
        *,
        name: str = "data",
        splits: Mapping[str, Array] | None = None,
        split_info: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
        rows: Array | None = None,
    ) -> None:
        self.schema, self.name = schema, name
        self.source: Source = MemorySource(source) if isinstance(source, Table) else source
        self.splits: dict[str, Array] = dict(splits or {})
        self.split_info: dict[str, Any] = dict(split_info or {})
        self.warnings: list[str] = list(warnings)
        self.origin: dict[str, Any] | None = None
        """The arguments of `load_data` that read exactly this dataset again; None for data from memory and for views."""
        self._rows = rows
        self._hash: str | None = None

    def __len__(self) -> int:
        return self.source.n if self._rows is None else len(self._rows)

    def supporting(self, columns: Mapping[Any, Any] | str) -> Dataset:
        """The same rows, with what is known of where the values of numeric columns can lie: {"price": "positive", "share":
        (0, 1)}, or one word for all: "real", "positive", "non-negative", "negative", "heavy-tailed". Other columns keep to the
        support that their values show. Raises `InvalidOption`."""
        out = copy.copy(self)
        out.schema, out._hash = with_wishes(self.schema, columns), None
        return out

    def keeping(self, rules: Sequence[str] | str | None) -> Dataset:
        """The same rows, with what is known of the rules they keep: texts such as "start <= end", "total = net + tax", "price =
        count * unit", "country by city"; "auto" for those that training rows show (as without this), "not ..." for one of them
        that is not wanted; None for no rules at all. Raises `InvalidOption`."""
        asked = () if rules is None else (rules,) if isinstance(rules, str) else tuple(rules)
        wrong = [rule for rule in asked if not isinstance(rule, str)]
        if wrong:
            raise InvalidOption(f"rules: expected texts, got {wrong[0]!r}")
        out = copy.copy(self)
        out.schema, out._hash = dataclasses.replace(self.schema, rules=asked), None
        return out

    @property
    def in_memory(self) -> bool:
        """False when rows are read from disk each time they are taken."""
        return self.source.in_memory

    def take(self, index: Array | Sequence[int] | slice) -> Table:
        """The rows of that index as a table: all fields but the ignored ones. A streamed set reads just these rows.

        Raises `DataError` for an index out of range.
        """
        return self.source.take(self._positions(index))

    def whole(self) -> Table:
        """All rows as a table that is only read: it may share memory with the data."""
        positions = self._positions(slice(None))
        if isinstance(self.source, MemorySource) and np.array_equal(positions, np.arange(self.source.n)):
            return self.source.table
        return self.source.take(positions)

    def _positions(self, index: Array | Sequence[int] | slice) -> Array:
        """Row numbers of this view, any usual way of indexing, as row numbers of the source."""
        n = len(self)
        if isinstance(index, slice):
            rows = np.arange(n)[index]
        else:
            given = np.asarray(index)
            rows = np.flatnonzero(given) if given.dtype == bool else given.astype(np.int64).reshape(-1)
        if len(rows) and (rows.min() < -n or rows.max() >= n):
            raise DataError(f"row {int(rows.max() if rows.max() >= n else rows.min())} is out of range: there are {n}")
        rows = np.where(rows < 0, rows + n, rows)
        return rows if self._rows is None else self._rows[rows]

    def view(self, index: Array | Sequence[int] | slice, name: str | None = None) -> Dataset:
        """A dataset of these rows only, without splits of its own; nothing is read or copied but the index."""
        rows = self._positions(index)
        info = {key: value for key, value in self.split_info.items() if key != "sizes"}
        return Dataset(
            self.schema, self.source, name=name or self.name, split_info=info, warnings=self.warnings, rows=rows
        )

    def chunks(self, rows: int = 65536) -> Iterator[Table]:
        """All rows in order, at most `rows` at a time (fewer when they are wide: a chunk stays under 256 MB)."""
        if len(self) == 0:
            return
        # Sequences differ in length, so the first row says little about the others.
        ragged = self.in_memory and any(field.kind in ("sequence", "text") for field in self.schema.fields)
        row_bytes = self._all().nbytes // len(self) if ragged else self.take([0]).nbytes
        step = max(min(rows, _CHUNK_BYTES // max(row_bytes, 1)), 1)
        for start in range(0, len(self), step):
            yield self.take(np.arange(start, min(start + step, len(self))))

    @property
    def hash(self) -> str:
        """SHA-256 of this view's content and schema. For a streamed set: of names, sizes, times and pieces of files."""
        if self._hash is None:
            if self.in_memory:
                self._hash = table_digest(self.schema, self.chunks())
            else:
                rows = "all" if self._rows is None else table_digest(Schema(()), [Table({"rows": self._rows})])
                self._hash = text_digest(self.schema.to_json(), self.source.fingerprint(), rows)
        return self._hash

    @property
    def train(self) -> Dataset:
        return self._part("train")

    @property
    def valid(self) -> Dataset:
        return self._part("valid")

    @property
    def test(self) -> Dataset:
        return self._part("test")

    def _part(self, part: str) -> Dataset:
        if part not in self.splits:
            have = ", ".join(self.splits) or "none"
            raise DataError(
                f"{self.name} has no {part} part (it has: {have}): make one, "
                f"data.split('random', fractions={'(0.7, 0.1, 0.2)' if part == 'valid' else '(0.8, 0.2)'}, seed=0)"
            )
        return self.view(self.splits[part], f"{self.name}.{part}")

    @property
    def X(self) -> Any:
        """All rows of the data fields in the user's form. A streamed set is read into memory."""
        return restore_table(self.schema, self._all())

    @property
    def y(self) -> Any:
        """The condition of all rows in the user's form, or None."""
        return restore_y(self.schema, self._all()) if self.schema.conditions else None

    def _all(self) -> Table:
        return self.take(slice(None))

    def head(self, n: int = 5) -> Any:
        """The first `n` rows of the data fields in the user's form."""
        return restore_table(self.schema, self.take(slice(0, max(n, 0))))

    def split(
        self,
        method: str | None = "random",
        *,
        fractions: Sequence[float] = (0.8, 0.2),
        group: str | None = None,
        time: str | None = None,
        seed: int = 0,
    ) -> Dataset:
        """The same rows, split anew: (train, test) or (train, valid, test).

        `random` deals rows (a single text or sequence is cut: its beginning trains, its end tests); `group` whole groups, so
        that none stands in two parts; `time` the earliest rows to train.
        `group=` and `time=` name the column (default: the one of that role). None removes the splits. Raises
        `InvalidOption` for an unknown method or fractions, `DataError` when the rows cannot be split so.
        """
        if group is not None and time is not None:
            raise InvalidOption("group and time: a split goes by one of them, not both")
        method = "group" if group is not None else "time" if time is not None else method
        if method is None:
            return self.with_splits({}, {})
        if method not in METHODS:
            raise InvalidOption(
                f"split: no method {method!r}{hint(str(method), METHODS)} Methods: {', '.join(METHODS)}"
            )
        split_names(fractions)
        column = None
        if method == "random" and self.one_sequence:
            return self._cut(fractions)
        if method == "random":
            splits = random_split(len(self), fractions, seed)
        else:
            field = self._split_field(method, group or time)
            column = field.name
            values = np.concatenate([table[column] for table in self._only(column)])
            if field.is_missing(values).any():
                raise DataError(f"{method} column {column!r} has no value in some rows: fill it before splitting")
            if method == "group":
                splits = group_split(values.astype(str) if values.dtype == object else values, fractions, seed, column)
            else:
                if field.kind not in ("number", "integer", "datetime"):
                    raise DataError(f"time column {column!r} is of kind {field.kind}: times are numbers or dates")
                splits = time_split(values, fractions, column)
        info = {"method": method, "seed": seed, "fractions": [float(share) for share in fractions], "column": column}
        return self.with_splits(splits, info)

    @property
    def one_sequence(self) -> bool:
        """Is this a single text or sequence, which can be cut into parts? Not where a value, y say, is of the whole of it."""
        if len(self) != 1 or self.schema.container != "list":
            return False
        whole = [field for field in self.schema.conditions if field.kind == "text" or field.whole]
        return not whole and all(field.kind in ("sequence", "text") for field in self.schema.fields)

    def _cut(self, fractions: Sequence[float]) -> Dataset:
        """The one sequence cut into consecutive parts of these shares of its steps, each a row."""
        names, table = split_names(fractions), self.whole()
        steps = min(len(table[field.name][0]) for field in self.schema.fields)
        ends = np.rint(np.cumsum(np.asarray(fractions, dtype=np.float64)) * steps).astype(int).tolist()
        if min(np.diff([0, *ends])) < 1:
            raise DataError(f"a sequence of {steps} steps cannot be cut into {len(names)} parts: give split=None")
        columns = {}
        for field in self.schema.fields:
            columns[field.name] = np.empty(len(names), dtype=object)
            for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                columns[field.name][row] = table[field.name][0][start:end]
        whole = Dataset(self.schema, Table(columns), name=self.name, warnings=self.warnings)
        info = {"method": "steps", "fractions": [float(share) for share in fractions], "column": None}
        return whole.with_splits({name: np.array([row]) for row, name in enumerate(names)}, info)

    def _only(self, column: str) -> Iterator[Table]:
        if self.in_memory:
            yield self._all().select([column])
        else:
            yield from (table.select([column]) for table in self.chunks())

    def _split_field(self, method: str, column: str | None) -> Field:
        if column is None:
            found = self.schema.with_role(method)
            if len(found) != 1:
                raise DataError(
                    f"split={method!r}: name the column, {method}='column' (it has {len(found)} of that role)"
                )
            return found[0]
        field = self.schema.field(str(column))
        if field.role == "ignore" or field.shape or field.kind == "sequence":
            raise DataError(
                f"{method} column {column!r} is ignored, a block or a sequence: it cannot split the "
                + ("sequences, which are dealt out whole" if field.kind == "sequence" else "rows")
            )
        return field

    def with_splits(self, splits: Mapping[str, Array], info: Mapping[str, Any]) -> Dataset:
        """This dataset with these parts, their sizes and duplicates recorded."""
        out = Dataset(
            self.schema, self.source, name=self.name, splits=splits, warnings=_without(self.warnings), rows=self._rows
        )
        if not splits:
            return out
        counted = out.count_duplicates() if self.in_memory and len(self) <= _COUNT_ROWS else None
        out.split_info = {
            **info,
            "sizes": {part: len(rows) for part, rows in splits.items()},
            "duplicates": counted,
        }
        for pair, count in (counted or {}).items():
            if count:
                first, second = pair.split("/")
                size = len(splits[second])
                out.warnings.append(
                    f"{_DUPLICATES} {count} of {size} {second} rows also stand in {first}: scores on them are too good"
                )
        return out

    def without_y(self) -> Dataset:
        """The same rows and parts without the condition: a column of a data frame is ignored, other labels go."""
        conditions = self.schema.conditions
        if not conditions:
            return self
        inside = self.schema.container in ("dataframe", "long")
        fields = [
            dataclasses.replace(field, role="ignore") if field in conditions else field
            for field in self.schema.fields
            if field not in conditions or (inside and field.form is None)
        ]
        schema = dataclasses.replace(self.schema, fields=tuple(fields))
        return Dataset(
            schema,
            self.source,
            name=self.name,
            splits=self.splits,
            split_info=self.split_info,
            warnings=self.warnings,
            rows=self._rows,
        )

    def count_duplicates(self) -> dict[str, int]:
        """Rows of a later part that stand in an earlier one too, judged by the data fields. Reads every row.

        Done at once for a set in memory; for a streamed one only when asked, since it reads everything.
        """
        names = [field.name for field in self.schema.data_fields]
        digests = np.concatenate([row_digests(table, names) for table in self.chunks()])
        return count_duplicates(digests, self.splits)

    def __repr__(self) -> str:
        where = "" if self.in_memory else ", on disk"
        parts = "; ".join(f"{part} {len(rows)}" for part, rows in self.splits.items())
        return f"Dataset({self.name!r}, {len(self)} rows{where}{'; ' + parts if parts else ''}; {self.schema!r})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(field.name)}</td><td>{field.kind}</td><td>{field.role}</td>"
            f"<td>{field.shape or ''}</td><td>{html.escape(field.dtype)}</td></tr>"
            for field in self.schema.fields[:20]
        )
        parts = ", ".join(f"{part} {len(index)}" for part, index in self.splits.items())
        head = f"<b>{html.escape(self.name)}</b>: {len(self)} rows{' (' + parts + ')' if parts else ''}"
        titles = "".join(f"<th>{title}</th>" for title in ("field", "kind", "role", "shape", "type"))
        return f"{head}<table><tr>{titles}</tr>{rows}</table>"


_DUPLICATES = "duplicates:"


def _without(warnings: Sequence[str]) -> list[str]:
    return [line for line in warnings if not line.startswith(_DUPLICATES)]
