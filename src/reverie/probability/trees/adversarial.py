"""Growing an adversarial forest (Watson, Blesch, Kapar & Wright 2023): a random forest tells rows from made ones, the made
ones are drawn anew from its leaves, until it can no longer tell.

Made rows of the first round are the columns, each shuffled by itself. Those of later rounds come from the leaves: a leaf by
its rows, and of every column the value of one of these. Holes are filled, for growing alone, by values of their column,
and each round anew by values of the leaf that the row falls into in some tree.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reverie.probability.trees.falling import Nodes
from reverie.probability.trees.forest import Forest
from reverie.probability.trees.variables import Variables
from reverie.rng import stream

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NARROWEST = 1e-9
"""Of leaves whose values are all the same, in standard deviations of the column."""
_PSEUDO_ROWS = 1.0
"""That the variance of a typical leaf counts for in every leaf: five rows alone say little of a width."""


@dataclass(frozen=True)
class Growth:
    """How to grow: trees, rows that a leaf must have, rounds at most, by how much more than half of the made rows may be
    told apart, and how many rows the broad density and the training shares count for in a leaf."""

    trees: int
    leaf: int
    rounds: int
    delta: float
    smoothing: float
    seed: int


@dataclass(frozen=True)
class Rows:
    """What to learn from: (n, variables), NaN where nothing is seen, and how much every row counts (n,)."""

    values: Floats
    weight: Floats


def grow(forest: Forest, rows: Rows, how: Growth) -> list[float]:
    """Put trees grown on these rows into the forest, beside those it has. Returns the accuracy of every round."""
    random = np.random.Generator(np.random.PCG64(stream(how.seed, "forest")))
    filled = _filled(rows.values, random)
    made = np.stack([random.permutation(column) for column in filled.T], axis=1)
    kept: list[Any] = []
    accuracies: list[float] = []
    for round_ in range(how.rounds):
        told, accuracy = _tell_apart(filled, made, rows.weight, how, round_)
        accuracies.append(accuracy)
        if kept and (accuracy <= 0.5 + how.delta or accuracy > accuracies[-2]):
            break  # what was made from the forest before is not told apart: that one stays
        kept = told
        if accuracy <= 0.5 + how.delta:
            break
        filled = _refilled(rows.values, filled, _ends(kept, filled), random)
        made = _made(filled, _ends(kept, filled), rows.weight, random)
    grids = _thresholds(filled, forest.variables)
    narrow = filled.astype(np.float32)
    trees = [_pruned(tree.tree_, tree.tree_.apply(narrow), how.leaf, grids) for tree in kept]
    _settle(forest, functools.reduce(Nodes.joined, trees), rows, filled, how)
    return accuracies


def _filled(values: Floats, random: np.random.Generator) -> Floats:
    out = values.copy()
    for column in out.T:
        gaps = np.isnan(column)
        if gaps.any():
            seen = column[~gaps]
            column[gaps] = random.choice(seen, int(gaps.sum())) if len(seen) else 0.0
    return out


def _members(leaf: Ints) -> tuple[Ints, Ints, Ints]:
    """Of the leaves of the rows in all trees (n, B): the rows sorted by leaf, where each leaf's begin, how many it has."""
    flat = leaf.T.ravel()
    count = np.bincount(flat)
    order = np.argsort(flat, kind="stable") % len(leaf)
    return order, np.cumsum(count) - count, count


def _made(filled: Floats, leaf: Ints, weight: Floats, random: np.random.Generator) -> Floats:
    """As many rows as there are: a leaf that a row falls into in some tree, of every column one of this leaf's values."""
    order, start, count = _members(leaf)
    n, d = filled.shape
    row = random.choice(n, n, p=weight / weight.sum())
    own = leaf[row, random.integers(0, leaf.shape[1], n)]
    picks = start[own, None] + (random.random((n, d)) * count[own, None]).astype(np.int64)
    return filled[order[picks], np.arange(d)]


def _refilled(values: Floats, filled: Floats, leaf: Ints, random: np.random.Generator) -> Floats:
    """Holes take the value of a row of the leaf that the row falls into, in a tree of each row's own."""
    gaps = np.isnan(values)
    if not gaps.any():
        return filled
    order, start, count = _members(leaf)
    own = leaf[np.arange(len(values)), random.integers(0, leaf.shape[1], len(values))]
    picks = start[own, None] + (random.random(values.shape) * count[own, None]).astype(np.int64)
    return np.where(gaps, filled[order[picks], np.arange(values.shape[1])], filled)


def _tell_apart(real: Floats, made: Floats, weight: Floats, how: Growth, round_: int) -> tuple[list[Any], float]:
    """The trees of a random forest of real against made rows, and its out-of-bag accuracy."""
    from sklearn.ensemble import RandomForestClassifier

    classifier = RandomForestClassifier(
        n_estimators=how.trees,
        min_samples_leaf=how.leaf,
        oob_score=how.rounds > 1,
        random_state=stream(how.seed, "forest", round_) % 2**32,
    )
    both = np.concatenate([real, made])
    label = np.repeat([0, 1], len(real))
    counted = None if (weight == weight[0]).all() else np.concatenate([weight, np.full(len(made), weight.mean())])
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Some inputs do not have OOB scores"
        )  # few trees: it tells less, no more
        classifier.fit(both, label, sample_weight=counted)
    return classifier.estimators_, float(classifier.oob_score_) if how.rounds > 1 else math.nan


def _ends(trees: list[Any], rows: Floats) -> Ints:
    """The node that every row ends in, numbered through all trees, (n, B)."""
    narrow = rows.astype(np.float32)
    found = np.stack([tree.tree_.apply(narrow) for tree in trees], 1)
    sizes = np.array([tree.tree_.node_count for tree in trees])
    return np.asarray(found + (np.cumsum(sizes) - sizes), dtype=np.int64)


def _thresholds(real: Floats, variables: Variables) -> dict[int, tuple[Floats, Floats]]:
    """The values of each gridded variable and the upper edges of their cells: cuts lie between cells."""
    out = {}
    for j, variable in enumerate(variables.all):
        if variable.gridded:
            points = np.unique(real[:, j])
            out[j] = (points, variable.edges(torch.from_numpy(points))[1].numpy())
    return out


def _pruned(tree: Any, ends: Ints, least: int, grids: dict[int, tuple[Floats, Floats]]) -> Nodes:
    """A tree without the leaves in which fewer than `least` real rows end: their sibling takes their place. Of the cuts
    through a grid, each lies between two cells."""
    left, right, feature = (
        np.array(getattr(tree, name), dtype=np.int64) for name in ("children_left", "children_right", "feature")
    )
    threshold = np.array(tree.threshold, dtype=np.float64)
    for j, (points, edges) in grids.items():
        own = feature == j
        below = np.clip(np.searchsorted(points, threshold[own], side="right") - 1, 0, len(points) - 1)
        threshold[own] = edges[below]
    stands, total = np.full(len(left), -1), np.bincount(ends, minlength=len(left))
    for node in range(len(left) - 1, -1, -1):  # children are numbered after their parents
        a, b = left[node], right[node]
        if a < 0:
            stands[node] = node if total[node] >= least else -1
            continue
        total[node] = total[a] + total[b]
        left[node], right[node] = stands[a], stands[b]
        if left[node] >= 0 and right[node] >= 0:
            stands[node] = node
        elif left[node] >= 0 or right[node] >= 0:
            stands[node] = max(left[node], right[node])
        else:
            stands[node] = node if total[node] >= least else -1
            left[node] = -1
    root = max(int(stands[0]), 0)
    left[root] = left[root] if stands[0] >= 0 else -1
    kept, waiting = [], [root]
    while waiting:
        node = waiting.pop()
        kept.append(node)
        if left[node] >= 0:
            waiting += [right[node], left[node]]
    chosen = np.array(kept)
    number = np.zeros(len(left), dtype=np.int64)
    number[chosen] = np.arange(len(chosen))
    lone = left[chosen] < 0
    arrays = (
        np.where(lone, -1, feature[chosen]),
        np.where(lone, 0.0, threshold[chosen]),
        np.where(lone, 0, number[left[chosen]]),
        np.where(lone, 0, number[right[chosen]]),
        np.where(lone, np.cumsum(lone) - 1, -1),
        np.zeros(1, dtype=np.int64),
    )
    return Nodes(*(torch.from_numpy(array) for array in arrays))


def _settle(forest: Forest, nodes: Nodes, rows: Rows, filled: Floats, how: Growth) -> None:
    """Count the rows in every leaf, and put nodes and counts into the forest."""
    leaf = nodes.leaves_of(torch.from_numpy(filled)).numpy()
    variables, weight = forest.variables, rows.weight
    trees = leaf.shape[1]
    count, flat = int(leaf.max()) + 1, leaf.T.ravel()
    repeated = np.tile(weight, trees)
    seen, values = ~np.isnan(rows.values), np.nan_to_num(rows.values)

    def total(column: Floats) -> Floats:
        return np.asarray(np.bincount(flat, weights=np.tile(column, trees), minlength=count), dtype=np.float64)

    share = np.bincount(flat, weights=repeated, minlength=count) / weight.sum() / trees
    ranges = torch.tensor([v.range for v in variables.all], dtype=torch.float64)
    low, high = (ends.numpy() for ends in nodes.boxes(ranges[:, 0], ranges[:, 1]))
    columns: dict[str, list[Floats]] = {"mean": [], "sd": [], "spread": []}
    scale = len(weight) / weight.sum()  # rows, as they count on average
    for j in variables.numbers:
        own = weight * seen[:, j] * scale
        rows_of = total(own)
        below, above = np.maximum(low[:, j], values[:, j].min()), np.minimum(high[:, j], values[:, j].max())
        wide = np.minimum(np.square(above - below) / 12, 1.0)
        mean = total(own * values[:, j]) / np.maximum(rows_of, 1e-300)
        mean = np.where(rows_of > 0, mean, 0.5 * (below + above))
        apart = np.square(values[:, j] - mean[leaf].T).ravel() * np.tile(own, trees)
        squares = np.bincount(flat, weights=apart, minlength=count)
        typical = _typical(squares / np.maximum(rows_of - 1, 1e-300), share * (rows_of >= 2) * (squares > 0))
        variance = (squares + _PSEUDO_ROWS * np.minimum(typical, wide)) / np.maximum(
            rows_of - 1 + _PSEUDO_ROWS, _PSEUDO_ROWS
        )
        columns["mean"].append(mean)
        columns["sd"].append(np.sqrt(np.maximum(variance, _NARROWEST**2)))
        columns["spread"].append(how.smoothing / (rows_of + how.smoothing))
    chances = []
    for j in variables.coded:
        levels = variables.all[j].levels
        own = weight * seen[:, j] * scale
        codes = values[:, j].astype(np.int64)
        overall: Floats = np.bincount(codes, weights=own, minlength=levels).astype(np.float64)
        if variables.all[j].block is not None:
            overall += 0.5  # no level of a column is impossible; a class without rows is
        inside = (np.arange(levels) > low[:, j, None]) & (np.arange(levels) <= high[:, j, None])
        prior = np.where(inside, overall, 0.0)
        prior = prior / np.maximum(prior.sum(1, keepdims=True), 1e-300)
        tally = np.bincount(
            (flat * levels + np.tile(codes, trees)), weights=np.tile(own, trees), minlength=count * levels
        ).reshape(count, levels)
        chances.append((tally + how.smoothing * prior) / (tally.sum(1, keepdims=True) + how.smoothing))
    learned = {name: np.stack(found) if found else np.zeros((0, count)) for name, found in columns.items()}
    learned["chance"] = np.concatenate(chances, 1).T.copy() if chances else np.zeros((0, count))
    learned["share"] = share
    forest.add(nodes, {name: torch.from_numpy(found) for name, found in learned.items()})


def _typical(variances: Floats, weight: Floats) -> float:
    """The geometric mean of the leaves' variances, 1 (the column's own) where no leaf tells."""
    own = weight > 0
    return float(np.exp(np.average(np.log(variances[own]), weights=weight[own]))) if own.any() else 1.0
