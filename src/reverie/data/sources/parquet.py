"""Parquet files: described one column at a time, streamed one row group at a time. Needs pyarrow."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data.digests import files_digest, table_digest
from reverie.data.forms.frames import check_role, column_labels, frame_field, frame_plan, read_frame
from reverie.data.schema import Field, Schema
from reverie.data.sources.loaded import Asked, Loaded
from reverie.data.table import Array, Table
from reverie.errors import DataError, MissingExtra

_CACHE_BYTES = 2**28


def read_parquet(paths: list[Path], name: str, asked: Asked) -> Loaded:
    """One or several Parquet files with the same columns; big ones stay on disk (see `Asked.in_memory`)."""
    groups = RowGroups(tuple(paths))
    if groups.n == 0:
        raise DataError(f"{paths[0]} has no rows")
    if not asked.streams(groups.nbytes):
        return Loaded(groups.frame(None), name=name)
    schema, extra = _describe(groups, asked)
    return Loaded(ready=(schema, ParquetSource(groups, schema, extra)), name=name)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("Parquet files need pyarrow: pip install reverie[parquet]") from None
    return pyarrow


class RowGroups:
    """Where each row group of the files begins, and how to read some of their columns."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        self.places: list[tuple[int, int]] = []
        sizes: list[int] = []
        self.nbytes = 0
        self.columns: list[str] = []
        for number, path in enumerate(paths):
            file = self._open(path)
            columns = _columns(file, path)
            if number and columns != self.columns:
                raise DataError(f"{path} has the columns {columns}, {paths[0].name} has {self.columns}: all must agree")
            self.columns = columns
            for group in range(file.metadata.num_row_groups):
                self.places.append((number, group))
                sizes.append(file.metadata.row_group(group).num_rows)
                self.nbytes += file.metadata.row_group(group).total_byte_size
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.n = int(self.starts[-1])

    def _open(self, path: Path) -> Any:
        arrow = _pyarrow()
        try:
            return arrow.parquet.ParquetFile(path)
        except (arrow.ArrowException, OSError, ValueError) as problem:
            raise DataError(f"{path} is damaged or no Parquet file: {problem}") from None

    def frame(self, columns: list[str] | None, place: int | None = None) -> Any:
        """A DataFrame of these columns (default all) of one row group, or of all of them."""
        arrow = _pyarrow()
        chosen = self.columns if columns is None else columns
        wanted = range(len(self.paths)) if place is None else [self.places[place][0]]
        tables = []
        for number in wanted:
            file = self._open(self.paths[number])
            try:
                one = file.read(chosen) if place is None else file.read_row_group(self.places[place][1], chosen)
            except (arrow.ArrowException, OSError, ValueError) as problem:
                raise DataError(f"{self.paths[number]} is damaged: {problem}") from None
            tables.append(one)
        try:
            table = arrow.concat_tables(tables, promote_options="permissive")
            return table.select(chosen).to_pandas(date_as_object=False).reset_index(drop=True)
        except (arrow.ArrowException, ValueError, TypeError, OverflowError) as problem:
            raise DataError(f"{self.paths[0]}: columns cannot be turned into pandas: {problem}") from None


def _columns(file: Any, path: Path) -> list[str]:
    """Names of the columns, without those in which pandas stored its index."""
    schema = file.schema_arrow
    names = [str(name) for name in schema.names]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: two columns are called {name!r}: rename one")
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in names if name not in index]


def _describe(groups: RowGroups, asked: Asked) -> tuple[Schema, Table]:
    """The schema of all rows, reading one whole column at a time, and the table of a y given apart."""
    labels = column_labels(groups.frame(None, 0))
    plan = frame_plan(labels, asked.y, asked.roles, asked.kinds, groups.n)
    fields: list[Field] = []
    for label, stored in zip(labels, groups.columns, strict=True):
        name = str(label)
        series = groups.frame([stored]).iloc[:, 0]
        field, column = frame_field(label, series, plan.roles[name], plan.kinds.get(name))
        if column is not None:
            check_role(field, column)
        fields.append(field)
    beside = plan.infer_beside(asked.y, groups.n)
    extra = Table({field.name: column for field, column in beside.items()}, groups.n)
    return Schema((*fields, *beside), "dataframe"), extra


class ParquetSource:
    """Rows of row groups, of which the last ones used are kept."""

    in_memory = False

    def __init__(self, groups: RowGroups, schema: Schema, extra: Table) -> None:
        self.groups, self.schema, self.extra, self.n = groups, schema, extra, groups.n
        self._kept: OrderedDict[int, Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    def take(self, index: Array) -> Table:
        places = np.searchsorted(self.groups.starts, index, side="right") - 1
        if len(index) == 0:
            return self._group(0).take(np.empty(0, np.int64)).with_columns(self.extra.take(index).columns)
        parts, rows = [], []
        for place in np.unique(places):
            here = np.flatnonzero(places == place)
            parts.append(self._group(int(place)).take(index[here] - self.groups.starts[place]))
            rows.append(here)
        back = np.argsort(np.concatenate(rows), kind="stable")
        return Table.concat(parts).take(back).with_columns(self.extra.take(index).columns)

    def _group(self, place: int) -> Table:
        if place not in self._kept:
            self._kept[place] = read_frame(self.schema, self.groups.frame(None, place))
            while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > _CACHE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]

    def fingerprint(self) -> str:
        return files_digest(list(self.groups.paths)) + table_digest(Schema(()), [self.extra])
