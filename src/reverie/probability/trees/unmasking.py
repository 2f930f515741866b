"""One column given any others, by boosted trees (McCarter 2024): rows are learned from with random cells hidden, so that columns
may be drawn in any order.

    number     a path of left and right through `bisection.Bins`, each turn a yes/no model of the seen columns; within a bin
               (1 - e) normal + e logistic, cut to the bin
    category   a model of several classes

p(x) = prod_j p(x_j | x_1 .. x_{j-1}) in the order of the columns, the later ones hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.space import Space
from reverie.probability.trees import densities as cut
from reverie.probability.trees.bisection import bisect
from reverie.probability.trees.boosted import Boosted, Collected
from reverie.probability.trees.growing import Growing
from reverie.probability.trees.variables import Variables
from reverie.rng import stream

Floats = NDArray[np.float64]
_FEW = 10
"""Rows on both sides that a turn must have for its own model; below that its share decides."""
_SMOOTHING = 0.05
"""Rows that the broad density counts for in a bin."""
_FIELDS = tuple(field.name for field in fields(Boosted))


@dataclass(frozen=True)
class Boosting:
    """How to learn: copies of the rows with other cells hidden, boosted trees of every model, leaves of a tree, the rate."""

    copies: int
    trees: int
    leaves: int
    rate: float
    seed: int


class Unmasking(Growing):
    """Models of all turns of all numbers, then of all levels of all categories, side by side (`boosted.Boosted`); `edges`
    (numbers, bins + 1), `mean`, `sd` and `spread` (numbers, bins) of the bins."""

    likelihood = "exact"
    grows = frozenset(_FIELDS)
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    missing: Tensor
    roots: Tensor
    first: Tensor
    base: Tensor
    edges: Tensor
    mean: Tensor
    sd: Tensor
    spread: Tensor

    def __init__(self, space: Space, depth: int) -> None:
        super().__init__()
        self.variables, self.width, self.depth = Variables(space), space.width, depth
        for name in _FIELDS:
            real = name in ("threshold", "value", "base")
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64 if real else torch.int64))
        numbers = len(self.variables.numbers)
        self.register_buffer("edges", torch.zeros(numbers, 2**depth + 1, dtype=torch.float64))
        for name in ("mean", "sd", "spread"):
            self.register_buffer(name, torch.full((numbers, 2**depth), 0.5, dtype=torch.float64))
        self.slots, slot = [0] * len(self.variables), 0
        for j in [*self.variables.numbers, *self.variables.coded]:
            self.slots[j] = slot
            levels = self.variables.all[j].levels
            slot += 2**depth - 1 if not levels else 1 if levels == 2 else levels if levels > 2 else 0
        self.bounds: list[int] = []

    def derive(self) -> None:
        self.bounds = self.first.tolist()

    # ------------------------------------------------------------------ learning

    def grow(self, values: Floats, weight: Floats, how: Boosting) -> None:
        """Learn from rows (n, variables), NaN where nothing is seen, that count `weight` (n,)."""
        random = np.random.Generator(np.random.PCG64(stream(how.seed, "unmasking")))
        rows = np.tile(values, (how.copies, 1))
        count = np.tile(weight, how.copies)
        # From all cells seen to none, a third of them hidden on average: the copies share out [0, 1), rates are the squares.
        rate = (np.repeat(np.arange(how.copies), len(values)) + random.random(len(rows))) / how.copies
        shown = np.where(random.random(rows.shape) < np.square(rate)[:, None], np.nan, rows)
        for gate, rest in self.variables.gates:  # one column of the table: seen or hidden together
            shown[:, rest] = np.where(np.isnan(shown[:, gate]), np.nan, rows[:, rest])
        models = Collected()
        for at, j in enumerate(self.variables.numbers):
            self._number(models, at, j, values, weight, (rows, shown, count), how)
        for j in self.variables.coded:
            self._levels(models, j, (rows, shown, count), how)
        device = self.edges.device
        for name, tensor in models.tensors().items():
            setattr(self, name, tensor.to(device))
        self.derive()

    def _number(
        self,
        models: Collected,
        at: int,
        j: int,
        values: Floats,
        weight: Floats,
        copies: tuple[Floats, Floats, Floats],
        how: Boosting,
    ) -> None:
        rows, shown, count = copies
        seen = ~np.isnan(values[:, j])
        bins = bisect(self.variables.all[j], values[seen, j], weight[seen], self.depth)
        scale = seen.sum() / max(weight[seen].sum(), 1e-300)
        spread = _SMOOTHING / (bins.count * scale + _SMOOTHING)
        for name, found in (("edges", bins.edges), ("mean", bins.mean), ("sd", bins.sd), ("spread", spread)):
            getattr(self, name)[at] = torch.from_numpy(found).to(self.edges.device)
        there = np.flatnonzero(~np.isnan(rows[:, j]))
        given, which = _without(shown[there], j), np.searchsorted(bins.edges[1:-1], rows[there, j], side="left")
        for level in range(self.depth):
            below = self.depth - level
            for node in range(2**level):
                own = np.flatnonzero(which >> below == node)
                right = which[own] >> (below - 1) & 1
                narrow = bins.edges[(2 * node + 1) << (below - 1)] >= bins.edges[(node + 1) << below]
                _turn(models, given[own], right, count[there][own], how, impossible=narrow)

    def _levels(self, models: Collected, j: int, copies: tuple[Floats, Floats, Floats], how: Boosting) -> None:
        rows, shown, count = copies
        levels = self.variables.all[j].levels
        there = np.flatnonzero(~np.isnan(rows[:, j]))
        rests = [rest for gate, rest in self.variables.gates if gate == j]
        given, code = _without(shown[there], j, *rests), rows[there, j].astype(np.int64)
        if levels == 2:
            _turn(models, given, code, count[there], how)
            return
        if levels < 3:
            return
        tally = np.bincount(code, weights=count[there], minlength=levels)
        present = np.flatnonzero(tally)
        if len(present) < 3 or len(code) < 2 * _FEW:
            for level in range(levels):
                models.constant(float(np.log(tally[level] + 0.5)))
            return
        learned = _boost(given, code, count[there], how)
        models.fitted(learned, present, levels, float(np.log(0.5 / tally.max())))

    # ------------------------------------------------------------------ one column given others

    @property
    def _boosted(self) -> Boosted:
        return Boosted(*(getattr(self, name) for name in _FIELDS))

    def _turns(self, at: int, given: Tensor, path: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For every turn of number `at`: the bit of `path` (n,), which rows, and their score for right. `path` is what the rows
        have turned so far, and may grow from outside between the turns."""
        slot, boosted = self.slots[self.variables.numbers[at]], self._boosted
        for level in range(self.depth):
            below = self.depth - level
            node = path >> below
            for k in range(2**level):
                own = (node == k).nonzero()[:, 0]
                if len(own):
                    score = boosted.score(slot + 2**level - 1 + k, given.index_select(0, own), self.bounds)
                    yield below - 1, own, score

    def log_bin(self, at: int, given: Tensor, path: Tensor) -> Tensor:
        """log P(bin `path` | given), (n,)."""
        total = given.new_zeros(len(given))
        for bit, own, score in self._turns(at, given, path):
            right = (path.index_select(0, own) >> bit & 1) > 0
            turn = torch.nn.functional.logsigmoid(torch.where(right, score, -score))
            total = total.index_add(0, own, turn)
        return total

    def draw_bin(self, at: int, given: Tensor, u: Tensor) -> Tensor:
        """A bin for every row by P(bin | given), from uniforms u (n, depth)."""
        path = torch.zeros(len(given), dtype=torch.int64, device=given.device)
        for bit, own, score in self._turns(at, given, path):
            right = u[:, self.depth - 1 - bit].index_select(0, own) < torch.sigmoid(score)
            path.index_add_(0, own, right.long() << bit)
        return path

    def bin_chances(self, at: int, given: Tensor) -> Tensor:
        """P(bin | given), (n, bins)."""
        slot, boosted = self.slots[self.variables.numbers[at]], self._boosted
        chances = given.new_ones(len(given), 1)
        for level in range(self.depth):
            scores = [boosted.score(slot + 2**level - 1 + k, given, self.bounds) for k in range(2**level)]
            right = torch.sigmoid(torch.stack(scores, 1))
            chances = torch.stack([chances * (1 - right), chances * right], 2).flatten(1)
        return chances

    def level_logs(self, j: int, given: Tensor) -> Tensor:
        """log P(level | given) of a category, (n, levels)."""
        levels, slot, boosted = self.variables.all[j].levels, self.slots[j], self._boosted
        if levels == 1:
            return given.new_zeros(len(given), 1)
        scores = [boosted.score(slot + k, given, self.bounds) for k in range(1 if levels == 2 else levels)]
        if levels == 2:
            scores.insert(0, torch.zeros_like(scores[0]))
        return torch.log_softmax(torch.stack(scores, 1), 1)

    def _of_bins(self, at: int, which: Tensor) -> tuple[Tensor, ...]:
        """low, high, mean, sd, spread of bins (n,) of number `at`."""
        low, high = self.edges[at, :-1].index_select(0, which), self.edges[at, 1:].index_select(0, which)
        return low, high, *(table[at].index_select(0, which) for table in (self.mean, self.sd, self.spread))

    def bin_of(self, at: int, value: Tensor) -> Tensor:
        return torch.searchsorted(self.edges[at, 1:-1].contiguous(), value.contiguous())

    def within(self, at: int, which: Tensor, value: Tensor) -> Tensor:
        """log p(value | its bin), (n,): a density, or on a grid the mass of its cell."""
        low, high, mean, sd, spread = self._of_bins(at, which)
        variable = self.variables.all[self.variables.numbers[at]]
        narrow = torch.log1p(-spread) - cut.log_normal_mass((low - mean) / sd, (high - mean) / sd)
        broad = spread.log() - cut.log_logistic_mass(low, high)
        if variable.gridded:
            a, b = variable.edges(value)
            return torch.logaddexp(
                narrow + cut.log_normal_mass((a - mean) / sd, (b - mean) / sd), broad + cut.log_logistic_mass(a, b)
            )
        return torch.logaddexp(narrow + cut.log_normal((value - mean) / sd) - sd.log(), broad + cut.log_logistic(value))

    def draw_within(self, at: int, which: Tensor, u: Tensor) -> Tensor:
        """A number of every bin, from uniforms u (n, 2)."""
        low, high, mean, sd, spread = self._of_bins(at, which)
        narrow = mean + sd * cut.draw_normal(u[:, 0], (low - mean) / sd, (high - mean) / sd)
        return torch.where(u[:, 1] < spread, cut.draw_logistic(u[:, 0], low, high), narrow)

    def middles(self, at: int) -> Tensor:
        """The mean of every bin, (bins,)."""
        every = torch.arange(2**self.depth, device=self.edges.device)
        low, high, mean, sd, spread = self._of_bins(at, every)
        narrow = mean + sd * cut.normal_mean((low - mean) / sd, (high - mean) / sd)
        found = (1 - spread) * narrow + spread * cut.logistic_mean(low, high)
        return torch.where(low < high, found, 0.0)  # nothing lies in bins without width


def _without(rows: Floats, *columns: int) -> Floats:
    out = rows.copy()
    out[:, list(columns)] = 0.0
    return out


def _turn(
    models: Collected,
    given: Floats,
    right: NDArray[np.int64],
    count: Floats,
    how: Boosting,
    *,
    impossible: bool = False,
) -> None:
    """A model of yes or no, from rows enough on both sides; else their shares."""
    yes = int(right.sum())
    if min(yes, len(right) - yes) >= _FEW:
        models.fitted(_boost(given, right, count, how))
        return
    ones = float(count @ right)
    models.constant(-np.inf if impossible else float(np.log((ones + 0.5) / (count.sum() - ones + 0.5))))


def _boost(given: Floats, target: NDArray[np.int64], count: Floats, how: Boosting) -> Any:
    """scikit-learn's boosted trees, fitted; a column without any value among these rows says nothing."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    machine = HistGradientBoostingClassifier(
        max_iter=how.trees,
        learning_rate=how.rate,
        max_leaf_nodes=how.leaves,
        early_stopping=False,
        random_state=stream(how.seed, "boosting") % 2**32,
    )
    empty = np.isnan(given).all(0)
    shown = np.where(empty, 0.0, given) if empty.any() else given
    return machine.fit(shown, target, sample_weight=None if (count == count[0]).all() else count)
