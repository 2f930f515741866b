"""Did it copy its training data? Share nearer to train, distances, exact duplicates, closest pairs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reverie.evaluation.features import row_bytes
from reverie.evaluation.rows import Row
from reverie.evaluation.sources import Real
from reverie.evaluation.yardstick import View, Yardstick
from reverie.metrics import (
    Pairs,
    closest_pairs,
    duplicate_rate,
    median_error,
    nearer_to_train,
    nearest,
    verdict,
    wilson,
)
from reverie.metrics.arrays import FloatArray
from reverie.metrics.floors import SMALL_N

if TYPE_CHECKING:
    from reverie.data.table import Table

MOSTLY, P_CLEAR, P_HINT = 0.5, 1e-3, 0.01
_MOST_ROWS = 3000


@dataclass(frozen=True)
class Memory:
    """Rows; notes; pairs of (row of the generated table, row of the training table)."""

    rows: list[Row]
    notes: list[str]
    pairs: Pairs | None


def memory(yardstick: Yardstick, tables: list[Table], views: list[View], permutations: int = 1000) -> Memory:
    """Memorisation rows of the generated `tables` (first ones up to 3000 rows), in the first feature space.

    Needs the yardstick's training rows; without them a note says that nothing is known about copying.
    """
    from reverie.data.table import Table

    train, test = yardstick.train, yardstick.test
    if train is None:
        return Memory([], ["Nothing is known about copying: give train= to look for memorised training rows."], None)
    if not yardstick.spaces:
        return Memory([], [], None)
    space = yardstick.spaces[0]
    generated = np.concatenate([view.features[space.name] for view in views])[:_MOST_ROWS]
    train_features, test_features = space.encode(train.table), space.encode(test.table)
    rows = [_nearer_row(yardstick, generated, train_features, test_features, space.name, permutations)]
    rows.append(_distance_row(generated, train_features, test_features, space.name))
    rows.append(_duplicate_row(yardstick, train, Table.concat(tables).take(slice(0, _MOST_ROWS))))
    notes = []
    if train.n < train.total:
        notes.append(f"Copies were looked for among {train.n:,} of {train.total:,} training rows.")
    return Memory(rows, notes, closest_pairs(generated, train_features, 16))


def _nearer_row(
    yardstick: Yardstick, generated: FloatArray, train: FloatArray, test: FloatArray, features: str, permutations: int
) -> Row:
    start = time.perf_counter()
    total = yardstick.train.total if yardstick.train is not None else len(train)
    size = min(len(train), len(test))
    rng = np.random.default_rng([yardstick.seed, 17])
    train = train[rng.permutation(len(train))[:size]]
    test = test[rng.permutation(len(test))[:size]]
    found = nearer_to_train(generated, train, test, permutations=permutations, seed=yardstick.seed)
    # A copy of one of `total` training rows is nearer to train for sure only if that row is among the `size` compared;
    # otherwise it is so in half of the cases. A share s then looks like 2 (s - 1/2) total / size of copies.
    implied = min(max(2 * (found.share - 0.5) * total / size, 0.0), 1.0)
    if size < SMALL_N:
        words = "n too small to rank"
    elif found.p <= P_CLEAR and implied >= MOSTLY:
        words = "copies its training data"
    elif found.p < P_HINT:
        words = "leans towards its training data"
    else:
        words = "no sign of copying at this n"
    return Row(
        name="nearer to train",
        value=found.share,
        floor=0.5,
        floor_sd=found.null_sd,
        n_real=size,
        n_gen=len(generated),
        direction="down",
        kind="memorisation",
        features=features,
        seconds=time.perf_counter() - start,
        note=f"share nearer to {size} training rows than to as many test rows; "
        f"p = {found.p:.2g} from {permutations} permutations"
        + (f"; as if {implied:.0%} of the samples were copies" if found.p < P_HINT else ""),
        verdict=words,
        p=found.p,
    )


def _distance_row(generated: FloatArray, train: FloatArray, test: FloatArray, features: str) -> Row:
    start = time.perf_counter()
    value = median_error(nearest(generated, train)[0][:, 0])
    floor = median_error(nearest(test, train)[0][:, 0])
    n = min(len(generated), len(test))
    words = verdict(value.value, floor.value, math.hypot(floor.standard_error, value.standard_error), "up", n)
    if "%" in words:
        words = f"closer to train: {words.replace('floor', 'test distance')}"
    elif words.startswith("above"):
        words = "farther than test rows are"
    return Row(
        name="distance to nearest train row",
        value=value.value,
        low=value.value - value.standard_error,
        high=value.value + value.standard_error,
        floor=floor.value,
        floor_sd=floor.standard_error,
        n_real=len(test),
        n_gen=len(generated),
        kind="memorisation",
        features=features,
        seconds=time.perf_counter() - start,
        note="median; its floor is the median for test rows",
        verdict=words,
    )


def _duplicate_row(yardstick: Yardstick, train: Real, made: Table) -> Row:
    start = time.perf_counter()
    known = row_bytes(yardstick.schema, train.table)
    share = duplicate_rate(row_bytes(yardstick.schema, made), known)
    floor = duplicate_rate(row_bytes(yardstick.schema, yardstick.test.table), known)
    low, high = wilson(round(share * made.n), made.n)
    floor_high = wilson(round(floor * yardstick.test.n), yardstick.test.n)[1]
    if share == 0:
        words = "none"
    elif low > floor_high:
        words = "more than test rows have: copies"
    else:
        words = "no more than test rows have"
    return Row(
        name="exact copies of train rows",
        value=share,
        low=low,
        high=high,
        floor=floor,
        floor_sd=math.sqrt(floor * (1 - floor) / yardstick.test.n),
        n_real=yardstick.test.n,
        n_gen=made.n,
        direction="down",
        kind="memorisation",
        seconds=time.perf_counter() - start,
        note="share of generated rows equal to a training row in every cell; its floor is the share among test rows",
        verdict=words,
    )
