"""How a model reads what users give it: tables in chunks against the known schema, prepared rows, conditions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.codec.maps import Codec, Prepared
from reverie.data.dataset import Dataset
from reverie.data.forms.conditions import read_y
from reverie.data.forms.long import in_user_order
from reverie.data.forms.reading import read_table, restore_y
from reverie.data.schema import Schema
from reverie.data.space import Points
from reverie.data.table import Table, unpack
from reverie.errors import InvalidOption, SchemaMismatch
from reverie.rng import RowNoise, stream


class Intake:
    """Reads data of one schema for one codec. `family` is named in messages; `predicts_y`: y is what the model says of x,
    and x does not depend on it."""

    def __init__(self, schema: Schema, codec: Codec, family: str, *, predicts_y: bool = False) -> None:
        self.schema, self.codec, self.family, self.predicts_y = schema, codec, family, predicts_y

    @property
    def per_step(self) -> bool:
        """y names the steps of sequences, not whole examples."""
        return self.codec.condition is not None and self.codec.condition.kind == "steps"

    def tables(self, X: Any, y: Any, chunk: int, *, filling: bool = False) -> Iterator[tuple[int, Table]]:
        """(number of its first example, table) for chunks of the data, checked against the schema; with the condition
        column when y is given. `filling`: missing cells will be filled, so an unknown category is refused."""
        if isinstance(X, Dataset):
            self.schema.check_same(X.schema)
            self._check_dataset_y(X, y)
            start = 0
            for table in X.chunks(chunk):
                yield start, table
                start += table.n
            return
        table = read_table(self.schema, X, y, unseen="refuse" if filling else self.codec.unseen)
        if table.n == 0:
            raise InvalidOption("X has no rows")
        for start in range(0, table.n, chunk):
            yield start, table.take(np.arange(start, min(start + chunk, table.n)))

    def _check_dataset_y(self, X: Dataset, y: Any) -> None:
        """A Dataset brings its own y, which is used when y names it."""
        if y is None:
            return
        ours, theirs = self.schema.conditions, X.schema.conditions
        names = [field.name for field in theirs]
        if not ours or not X.schema.names_y(y):
            brought = "none" if not names else f"y={names[0] if len(names) == 1 else names!r}"
            raise InvalidOption(
                f"y: X is a Dataset, which brings its own y ({brought}); for other labels pass X.X and y"
            )
        for own, other in zip(ours, theirs, strict=False):
            if (own.name, own.kind, own.shape, own.categories) != (
                other.name,
                other.kind,
                other.shape,
                other.categories,
            ):
                raise SchemaMismatch(
                    f"y: the dataset's {other.name!r} differs from the one of training; pass X.X and X.y"
                )

    def prepared(self, X: Any, y: Any, chunk: int) -> Iterator[tuple[int, Table, Prepared]]:
        """The same chunks as tables and prepared for the network."""
        if y is not None and self.codec.condition is None:
            raise InvalidOption(f"y: this {self.family} was trained without y. Leave y out")
        self._refuse_y(y)
        for start, table in self.tables(X, y, chunk):
            yield start, table, self.prepare(table, y is not None)

    def _refuse_y(self, y: Any) -> None:
        if y is not None and self.predicts_y:
            raise InvalidOption(f"y: this {self.family} predicts y from x, and x does not depend on it. Leave y out")

    def prepare(self, table: Table, with_y: bool, *, holes: bool = False) -> Prepared:
        names = [field.name for field in self.schema.conditions]
        if not with_y:
            table = table.select([name for name in table.columns if name not in names])
        prepared = self.codec.prepare(table, holes=holes)
        if prepared.y is not None and self.codec.condition is not None:
            prepared.y = self.codec.condition.finish(prepared.y)
        return prepared

    def conditions(self, y: Any, n: int, seed: int) -> tuple[Points | None, Any]:
        """y for n examples as the network wants it, and as the user would see it; drawn as it occurs in training when
        None, but for labels per step, which are drawn with the sequences."""
        condition = self.codec.condition
        self._refuse_y(y)
        if condition is None or self.predicts_y:
            if y is not None:
                raise InvalidOption(f"y: this {self.family} was trained without y. Fit it with y, or leave y out here")
            return None, None
        if y is None and self.per_step:
            return None, None
        given = condition.draw(RowNoise(stream(seed, "y"), n)) if y is None else read_y(self.schema, y, n)
        return self.codec.encode_condition(given), restore_y(self.schema, given)

    def read_y(self, y: Any, n: int) -> Table:
        """The condition columns of a given y, for n examples."""
        self._refuse_y(y)
        return read_y(self.schema, y, n)

    def labels(self, table: Table, values: NDArray[Any]) -> Any:
        """Values of the one condition column in the user's form; for labels per step in the order of the user's rows."""
        assert self.schema.condition is not None
        return restore_y(self.schema, table.with_columns({self.schema.condition.name: values}))

    def steps(self, tables: list[Table], values: NDArray[Any]) -> Any:
        """Results per step (N, ...): an array per sequence, or for a long DataFrame one array in its row order."""
        table = Table.concat(tables)
        if self.schema.container == "long":
            return in_user_order(table, values)
        return list(np.split(values, np.cumsum(self.lengths(table))[:-1]))

    def step_labels(self, tables: list[Table], codes: NDArray[np.int64]) -> Any:
        """Codes per step (N,), -1 for none, in the form y had."""
        table = Table.concat(tables)
        return self.labels(table, unpack(codes, self.lengths(table)))

    def lengths(self, table: Table) -> NDArray[np.int64]:
        """The number of steps of every sequence of a table."""
        first = self.schema.data_fields[0].name
        return np.array([len(item) for item in table[first]], dtype=np.int64)


def one_hot(codes: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """(N,) codes -> (N, classes); a row of zeros for a negative code."""
    return torch.nn.functional.one_hot(codes.clamp_min(-1) + 1, classes + 1)[:, 1:].to(dtype)
