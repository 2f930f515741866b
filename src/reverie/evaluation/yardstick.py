"""Everything that is known before a model is looked at: real rows, feature spaces, and the floor of every figure.

One yardstick serves any number of models, so that a comparison uses the same rows, features and floors for all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.errors import DataError, InvalidOption, did_you_mean
from reverie.evaluation.features import (
    ClassifierSpace,
    FeatureSpace,
    PixelSpace,
    TableSpace,
    image_fields,
    scalar_columns,
)
from reverie.evaluation.rows import Row, sample_row
from reverie.evaluation.sources import Real, codes_in, read_real
from reverie.metrics import (
    Column,
    Floor,
    association_error,
    association_pairs,
    count_modes,
    expected_coverage,
    frechet_distance,
    frechet_floor,
    kid,
    marginal_distance,
    neighbourhood,
    real_floor,
    sliced_wasserstein,
    total_variation,
)
from reverie.metrics.arrays import FloatArray, IntArray
from reverie.metrics.floors import Direction

if TYPE_CHECKING:
    from reverie.data.schema import Schema
    from reverie.data.table import Table


@dataclass(frozen=True)
class Level:
    """What a level spends: rows per comparison, generated sets, rows for likelihoods, training rows searched."""

    n: int
    sets: int
    likelihood_rows: int
    train_rows: int
    repeats: int = 20


LEVELS = {"quick": Level(1000, 3, 2000, 10_000), "standard": Level(4000, 5, 10_000, 50_000)}
WORST_COLUMNS = 5
NEIGHBOURS = 5

_UP = {"precision", "recall", "density", "coverage", "high-quality share", "modes covered"}
_CLASS_BALANCE = "class balance"


@dataclass(frozen=True)
class View:
    """Rows as the measures see them: features by space, scalar columns, predicted classes."""

    features: dict[str, FloatArray]
    columns: list[Column]
    classes: IntArray | None

    def take(self, index: IntArray) -> View:
        return View(
            {name: values[index] for name, values in self.features.items()},
            [column.take(index) for column in self.columns],
            None if self.classes is None else self.classes[index],
        )


class Yardstick:
    """Real rows, feature spaces and floors. Raises `InvalidOption` for a bad level, n or seed, `DataError` for too
    few rows."""

    def __init__(
        self, schema: Schema, test: Any, train: Any = None, *, n: int | None = None, level: str = "quick", seed: int = 0
    ) -> None:
        if level not in LEVELS:
            raise InvalidOption(f"level={level!r}{did_you_mean(str(level), LEVELS)} Levels: {', '.join(LEVELS)}")
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 8):
            raise InvalidOption(f"n={n!r}: expected a whole number of rows per comparison, at least 8, or None")
        self.schema, self.level_name, self.level, self.seed = schema, level, LEVELS[level], int(seed)
        self.notes: list[str] = []
        most = max(self.level.likelihood_rows, n or self.level.n)
        self.test = read_real(test, schema, most, self.seed, "test")
        self.train: Real | None = None
        if train is not None:
            self.train = read_real(train, schema, max(self.level.train_rows, most), self.seed, "train")
        self._data_names = [field.name for field in schema.data_fields]
        self.pool, self.n = self._make_pool(n)
        self.classifier: ClassifierSpace | None = None
        self.spaces = self._make_spaces()
        self.view_of_pool = self.view(self.pool)
        self.pairs = association_pairs(len(self.view_of_pool.columns), 400, self.seed)
        self.modes = _known_modes(self.test.name)
        self.seconds: dict[str, float] = {}
        self.floors = self._make_floors()

    def _make_pool(self, wanted: int | None) -> tuple[Table, int]:
        """Test rows, then training rows up to as many again; the rows per comparison that they allow."""
        from reverie.data.table import Table

        pool = self.test.table.select(self._data_names)
        if self.train is not None:
            room = min(self.train.n, max(2 * (wanted or self.level.n) - self.test.n, self.test.n))
            pool = Table.concat([pool, self.train.table.select(self._data_names).take(slice(0, room))])
        most = min(self.test.n, pool.n // 2)
        n = min(wanted or self.level.n, most)
        if n < 8:
            raise DataError(
                f"{self.test.n} test rows leave {n} for a comparison and for its floor; at least 8 are needed, "
                "so give 16 test rows, or train= as well"
            )
        if wanted is not None and wanted > n:
            self.notes.append(
                f"n={wanted} was asked for; the real rows allow {n} (a floor needs two sets of real rows)."
            )
        return pool, n

    def _make_spaces(self) -> list[FeatureSpace]:
        spaces: list[FeatureSpace] = []
        if image_fields(self.schema):
            spaces.append(PixelSpace(self.schema, self.pool, seed=self.seed))
            self.classifier = self._make_classifier()
            if self.classifier is not None:
                spaces.append(self.classifier)
        if scalar_columns(self.schema, self.pool.take(slice(0, 4))):
            spaces.append(TableSpace(self.schema, self.pool))
        others = sorted({field.kind for field in self.schema.data_fields if field.kind in ("sequence", "text")})
        if others:
            self.notes.append(f"Columns of kind {' and '.join(others)} have no sample-based figures in this version.")
        return spaces

    def _make_classifier(self) -> ClassifierSpace | None:
        """The domain classifier, if the training rows have class labels of at least two classes."""
        if self.train is None or self.train.labels is None:
            if self.test.labels is not None:
                self.notes.append("No domain-classifier features: they need train= with its labels.")
            return None
        known = np.flatnonzero(self.train.labels >= 0)
        labels = self.train.labels[known]
        if len(np.unique(labels)) < 2:
            return None
        space = ClassifierSpace(self.schema, self.train.table.take(known), labels, self.seed)
        self.classes = self.train.classes
        if self.test.labels is not None:
            truth = codes_in(self.test.labels, self.test.classes, self.classes)
            right = float((space.classify(self.test.table) == truth)[truth >= 0].mean())
            self.classifier_accuracy = right
            space.note += f", {right:.1%} right on {int((truth >= 0).sum())} test rows"
        return space

    classifier_accuracy: float | None = None
    classes: tuple[Any, ...] = ()

    def view(self, table: Table) -> View:
        """Features, columns and predicted classes of a table."""
        return View(
            {space.name: space.encode(table) for space in self.spaces},
            scalar_columns(self.schema, table),
            None if self.classifier is None else self.classifier.classify(table),
        )

    def reference(self, number: int) -> IntArray:
        """Pool rows the generated set of that number is held against: n test rows, another draw for each set."""
        if self.n == self.test.n:
            return np.arange(self.n, dtype=np.int64)
        drawn = np.random.default_rng([self.seed, 13, number]).permutation(self.test.n)[: self.n]
        return drawn.astype(np.int64)

    def _make_floors(self) -> dict[str, Floor]:
        def between(first: IntArray, second: IntArray) -> dict[str, float]:
            return self.statistics(self.view_of_pool.take(first), self.view_of_pool.take(second))

        return real_floor(between, self.pool.n, self.n, repeats=self.level.repeats, seed=self.seed)

    def statistics(self, real: View, other: View) -> dict[str, float]:
        """Every sample figure of `other` against `real`, by row name, in the order of the report."""
        out: dict[str, float] = {}

        def add(measure: Callable[..., dict[str, float]], *arguments: Any) -> None:
            start = time.perf_counter()
            found = measure(*arguments)
            spent = (time.perf_counter() - start) / max(len(found), 1)
            out.update(found)
            for name in found:
                self.seconds[name] = self.seconds.get(name, 0.0) + spent

        for space in self.spaces:
            x, y = real.features[space.name], other.features[space.name]
            table = space.name == TableSpace.name
            add(_sliced if table else _frechet, x, y, space.name, self.seed)
            add(_kid, x, y, space.name)
            add(_coverage, x, y, space.name, not table)
        if real.classes is not None and other.classes is not None:
            add(_balance, real.classes, other.classes, len(self.classes))
        if self.modes is not None:
            add(self._modes, other)
        if real.columns:
            add(self._marginals, real, other)
        return out

    def _modes(self, other: View) -> dict[str, float]:
        centres, sd = self.modes or (np.zeros((1, 2)), 1.0)
        points = np.stack([column.values for column in other.columns], axis=1)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) == 0:
            return {"high-quality share": 0.0, "modes covered": 0.0}
        found = count_modes(points, centres, sd)
        return {"high-quality share": found.high_quality, "modes covered": float(found.covered)}

    def _marginals(self, real: View, other: View) -> dict[str, float]:
        by_column = [marginal_distance(a, b) for a, b in zip(real.columns, other.columns, strict=True)]
        numbers = [d for d, c in zip(by_column, real.columns, strict=True) if c.levels is None]
        categories = [d for d, c in zip(by_column, real.columns, strict=True) if c.levels is not None]
        out: dict[str, float] = {}
        if numbers:
            out["mean KS of columns"] = float(np.mean(numbers))
        if categories:
            out["mean TV of columns"] = float(np.mean(categories))
        if len(self.pairs):
            error = association_error(real.columns, other.columns, self.pairs)
            if math.isfinite(error):
                out["pair association error"] = error
        for column, distance in zip(real.columns, by_column, strict=True):
            out[_column_row(column)] = distance
        return out

    def rows(self, generated: list[View]) -> list[Row]:
        """The rows of several generated sets, each against its own draw of test rows; of the columns, the worst five."""
        before = dict(self.seconds)
        references = [self.view_of_pool.take(self.reference(i)) for i in range(len(generated))]
        found = [self.statistics(ref, made) for ref, made in zip(references, generated, strict=True)]
        column_rows = {_column_row(column) for column in self.view_of_pool.columns}
        rows: list[Row] = []
        columns: list[Row] = []
        for name in found[0]:
            space = name.split("[")[-1].rstrip("]") if name.endswith("]") and name not in column_rows else ""
            stem = name.split("[")[0]
            direction: Direction = "up" if stem in _UP else "down"
            row = sample_row(
                name,
                [values.get(name, math.nan) for values in found],
                self.floors.get(name),
                direction,
                n_real=self.n,
                n_gen=self.n,
                kind=self._kind(name, column_rows),
                features=space,
                seconds=self.seconds.get(name, 0.0) - before.get(name, 0.0),
                note=self._note(stem, space, references[0], generated[0]),
            )
            (columns if name in column_rows else rows).append(row)
        if len(columns) <= 1 and any(row.name.startswith("mean ") for row in rows):
            return rows
        columns.sort(key=lambda row: row.z if row.z is not None else -math.inf, reverse=True)
        return rows + columns[:WORST_COLUMNS]

    def _kind(self, name: str, column_rows: set[str]) -> str:
        if name in column_rows or name.startswith(("mean ", "pair ")):
            return "marginals"
        if name == _CLASS_BALANCE:
            return "labels"
        return "modes" if name in ("high-quality share", "modes covered") else "distance"

    def _note(self, stem: str, space: str, real: View, other: View) -> str:
        if stem == "fd":
            cov = np.cov(self.view_of_pool.features[space], rowvar=False).reshape(-1)
            d = math.isqrt(len(cov))
            small = f"; n is below 10 d = {10 * d}, so read it beside its floor only" if self.n < 10 * d else ""
            return f"analytic floor {frechet_floor(cov.reshape(d, d), self.n, self.n):.3g} at d={d}{small}"
        if stem == "kid":
            error = kid(real.features[space], other.features[space]).standard_error
            return f"standard error of one set {error:.2g}; small negative values are right"
        if stem == "coverage":
            return f"a perfect sampler reaches {expected_coverage(self.n, self.n, NEIGHBOURS):.3f}"
        return {
            "density": "may exceed 1; a perfect sampler is near 1",
            _CLASS_BALANCE: "total variation of the classes the domain classifier gives",
            "high-quality share": "within 3 sd of a mode; a perfect sampler reaches 0.989",
            "modes covered": f"of {len(self.modes[0]) if self.modes else 0}, with at least half their expected mass",
            "pair association error": "mean |difference| of Spearman, Cramer's V or correlation ratio over column pairs",
        }.get(stem, "")


def _sliced(x: FloatArray, y: FloatArray, space: str, seed: int) -> dict[str, float]:
    return {f"sliced w2[{space}]": sliced_wasserstein(x, y, projections=128, seed=seed)}


def _frechet(x: FloatArray, y: FloatArray, space: str, seed: int) -> dict[str, float]:
    return {f"fd[{space}]": frechet_distance(x, y)}


def _kid(x: FloatArray, y: FloatArray, space: str) -> dict[str, float]:
    return {f"kid[{space}]": kid(x, y).value}


def _balance(real: IntArray, other: IntArray, classes: int) -> dict[str, float]:
    return {_CLASS_BALANCE: total_variation(real, other, classes)}


def _coverage(x: FloatArray, y: FloatArray, space: str, all_four: bool) -> dict[str, float]:
    if min(len(x), len(y)) <= NEIGHBOURS:
        return {}
    found = neighbourhood(x, y, NEIGHBOURS)
    names = ("precision", "recall", "density", "coverage") if all_four else ("density", "coverage")
    return {f"{name}[{space}]": getattr(found, name) for name in names}


def _column_row(column: Column) -> str:
    return f"{column.name} ({'KS' if column.levels is None else 'TV'})"


def _known_modes(name: str) -> tuple[FloatArray, float] | None:
    """Centres `(modes, 2)` and sd of a toy data set whose modes are known, else None."""
    from reverie.data.sources import toys

    known = {"ring8": (toys.ring_centres(), toys.RING_SIGMA), "grid25": (toys.grid_centres(), toys.GRID_SIGMA)}
    return known.get(name)
