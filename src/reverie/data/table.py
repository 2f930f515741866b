"""Rows of named columns, each a numpy array whose first axis is the row. The one form in which data travel inside."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.errors import DataError, did_you_mean

Array = npt.NDArray[Any]
NO_DATE = int(np.iinfo(np.int64).min)
"""The missing value of a datetime column (what numpy calls NaT)."""

ROWS = "(row)"
"""The column of a long data frame's table that holds, for every step, the number of the row it came from."""


def pack(column: Array) -> tuple[Array, Array]:
    """A column of sequences as one array of all steps (N, *shape), sequence after sequence, and the lengths (n,)."""
    lengths = np.array([len(item) for item in column], dtype=np.int64)
    return (np.concatenate(list(column)) if len(column) else np.empty(0)), lengths


def unpack(steps: Array, lengths: Array) -> Array:
    """Inverse of `pack`: an object array of views."""
    out = np.empty(len(lengths), dtype=object)
    ends = np.cumsum(lengths)
    for row, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        out[row] = steps[end - length : end]
    return out


def column_to_json(column: Array) -> dict[str, Any]:
    """A column as JSON: texts as they are, numbers as their compressed bytes, sequences packed with their lengths."""
    if column.dtype != object:
        plain = np.ascontiguousarray(column)
        data = base64.b64encode(zlib.compress(plain.astype(plain.dtype.newbyteorder("<")).tobytes(), 6)).decode("ascii")
        return {"dtype": plain.dtype.str.lstrip("<>=|"), "shape": list(plain.shape), "data": data}
    if all(value is None or isinstance(value, str) for value in column):
        return {"texts": column.tolist()}
    steps, lengths = pack(column)
    return {"steps": column_to_json(steps), "lengths": lengths.tolist()}


def column_from_json(data: Mapping[str, Any]) -> Array:
    """Inverse of `column_to_json`."""
    if "texts" in data:
        out = np.empty(len(data["texts"]), dtype=object)
        out[:] = data["texts"]
        return out
    if "steps" in data:
        return unpack(column_from_json(data["steps"]), np.array(data["lengths"], dtype=np.int64))
    dtype = np.dtype(data["dtype"])
    values = np.frombuffer(zlib.decompress(base64.b64decode(data["data"])), dtype=dtype.newbyteorder("<"))
    return values.astype(dtype).reshape(data["shape"])


def hint(word: str, choices: Iterable[str]) -> str:
    """`, did you mean 'latent'?` when a choice is close to the word, else a full stop."""
    return did_you_mean(word, choices) or "."


class Table:
    """`n` rows; `columns[name]` has shape `(n, *field.shape)`. Which type stands for which kind, and what means missing:

    number float64 or float32 (NaN), integer float64 of whole numbers (NaN), boolean int8 (-1), category int64 codes
    (-1), datetime int64 nanoseconds UTC (`NO_DATE`), image uint8, uint16 or float (NaN), sequence object array of
    arrays `(T_i, *field.shape)` with the types and missing values of its steps, text object array of str (None).
    Tables of long data frames also hold the column `ROWS`: the user's row number of every step.
    """

    __slots__ = ("columns", "n")

    def __init__(self, columns: Mapping[str, Array], n: int | None = None) -> None:
        """Columns must have one length (`DataError`); `n` is needed only when there are none."""
        self.columns: dict[str, Array] = dict(columns)
        lengths = {name: len(column) for name, column in self.columns.items()}
        self.n: int = n if n is not None else next(iter(lengths.values()), 0)
        for name, length in lengths.items():
            if length != self.n:
                raise DataError(f"column {name!r} has {length} rows where {self.n} were expected")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, name: str) -> Array:
        if name not in self.columns:
            raise DataError(
                f"no column {name!r} in this table{hint(name, self.columns)} Columns: {', '.join(self.columns)}"
            )
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {c.dtype}{list(c.shape[1:]) or ''}" for name, c in self.columns.items())
        return f"Table({self.n} rows; {inside})"

    @property
    def nbytes(self) -> int:
        """Bytes held, counting the arrays and strings inside object columns."""
        return sum(
            sum(getattr(item, "nbytes", 64) for item in column) if column.dtype == object else column.nbytes
            for column in self.columns.values()
        )

    def take(self, index: Array | Sequence[int] | slice) -> Table:
        """The rows of that index, in its order (a slice gives views, an index array copies)."""
        if isinstance(index, slice):
            n = len(range(*index.indices(self.n)))
            return Table({name: column[index] for name, column in self.columns.items()}, n)
        rows = np.asarray(index) if len(index) else np.empty(0, np.int64)
        n = int(rows.sum()) if rows.dtype == bool else len(rows)
        return Table({name: column[rows] for name, column in self.columns.items()}, n)

    def select(self, names: Iterable[str]) -> Table:
        """These columns only, in this order."""
        return Table({name: self[name] for name in names}, self.n)

    def with_columns(self, columns: Mapping[str, Array]) -> Table:
        """A table with these columns added or replaced."""
        return Table({**self.columns, **columns}, self.n)

    @staticmethod
    def concat(tables: Iterable[Table]) -> Table:
        """The rows of all tables, one after the other. They must have the same columns (`DataError`)."""
        parts = list(tables)
        if not parts:
            raise DataError("no tables to join")
        names = list(parts[0].columns)
        for part in parts:
            if set(part.columns) != set(names):
                raise DataError(f"tables to join have columns {names} and {list(part.columns)}")
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in names}
        return Table(columns, sum(part.n for part in parts))
