"""Whole values to and from model space: counts, bits, symbols, categories; each value has a probability of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from reverie.data.codec.steps.step import MANY, Bools, ColumnStep, Floats, one_column, unexpected
from reverie.data.space import Block


class _Counted(ColumnStep):
    """A step whose values have probabilities, in one column that holds them as they are."""

    @property
    def measure(self) -> str:
        return "counting"

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column(values, ~np.isnan(values))


@dataclass
class Count(_Counted):
    """Whole numbers from 0 on, as they are; another value is the nearest of them, and unexpected."""

    kind: ClassVar[str] = "count"
    rows: int = MANY

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column(np.maximum(np.round(values), 0.0), ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        return np.maximum(np.round(x[:, 0]), 0.0)

    def log_det(self, values: Floats) -> Floats:
        filled = np.nan_to_num(values)
        fine = (filled >= 0) & (filled == np.round(filled))
        return np.where(fine, 0.0, unexpected(self.rows, np.maximum(-filled, 0.0)))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "count", 0, 1)]


@dataclass
class Symbol(_Counted):
    """Codes 0 .. levels-1 (NaN = missing) as one column that holds the code: one-hot rows without their memory."""

    kind: ClassVar[str] = "symbol"
    levels: int

    def decode(self, x: Floats) -> Floats:
        return np.clip(np.round(x[:, 0]), 0, self.levels - 1)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "symbol", 0, 1, levels=self.levels)]


@dataclass
class Bit(_Counted):
    """0/1 (NaN = missing) as one binary column; decode cuts at one half. Another value is the nearer of them, and unexpected."""

    kind: ClassVar[str] = "bit"
    rows: int = MANY

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return one_column((values > 0.5).astype(np.float64), ~np.isnan(values))

    def decode(self, x: Floats) -> Floats:
        return (x[:, 0] > 0.5).astype(np.float64)

    def log_det(self, values: Floats) -> Floats:
        away = np.maximum(np.maximum(-values, values - 1), 0.0)
        return np.where(np.isnan(values) | np.isin(values, (0.0, 1.0)), 0.0, unexpected(self.rows, np.nan_to_num(away)))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "binary", 0, 1)]


@dataclass
class OneHot(_Counted):
    """Codes 0 .. levels-1 (NaN = missing) as one-hot columns."""

    kind: ClassVar[str] = "one-hot"
    levels: int

    @property
    def width(self) -> int:
        return self.levels

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        seen = ~np.isnan(values)
        x = np.zeros((values.size, self.levels))
        x[np.flatnonzero(seen), values[seen].astype(np.int64)] = 1.0
        return x, np.repeat(seen[:, None], self.levels, axis=1)

    def decode(self, x: Floats) -> Floats:
        return np.asarray(np.argmax(x, axis=1), dtype=np.float64)

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "category", 0, self.levels)]


@dataclass
class Levels(_Counted):
    """Numbers of which there are few as categories; another number is a missing cell, and unexpected."""

    kind: ClassVar[str] = "levels"
    values: Floats
    rows: int = MANY

    @property
    def width(self) -> int:
        return self.values.size

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        at = np.clip(np.searchsorted(self.values, values), 0, self.values.size - 1)
        return OneHot(self.values.size).prepare(np.where(self.values[at] == values, at, np.nan))

    def decode(self, x: Floats) -> Floats:
        return np.asarray(self.values[np.argmax(x, axis=1)])

    def log_det(self, values: Floats) -> Floats:
        missing = np.isnan(values)
        filled = np.where(missing, self.values[0], values)
        nearest = np.abs(self.values[:, None] - filled).min(0)
        away = nearest / (float(np.diff(self.values).min()) if self.values.size > 1 else 1.0)
        return np.where(missing | np.isin(values, self.values), 0.0, unexpected(self.rows, away))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "category", 0, self.values.size)]


@dataclass
class Constant(_Counted):
    """One value in training: a category with a single level; any other value is unexpected."""

    kind: ClassVar[str] = "constant"
    value: float
    rows: int = MANY

    def prepare(self, values: Floats) -> tuple[Floats, Bools]:
        return OneHot(1).prepare(np.where(np.isnan(values), np.nan, 0.0))

    def decode(self, x: Floats) -> Floats:
        return np.full(x.shape[0], self.value)

    def log_det(self, values: Floats) -> Floats:
        away = np.nan_to_num(np.abs(values - self.value)) / (abs(self.value) or 1.0)
        return np.where(np.isnan(values) | (values == self.value), 0.0, unexpected(self.rows, away))

    def blocks(self, name: str) -> list[Block]:
        return [Block(name, "category", 0, 1)]
