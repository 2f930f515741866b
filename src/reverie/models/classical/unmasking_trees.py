"""Unmasking trees (McCarter 2024): every column of a table given any of the others, by boosted trees, one yes/no question after
the other; for filling cells, and for drawing rows column by column.

p(x) = prod_j p(x_j | x_1 .. x_{j-1}).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe
from reverie.data.schema import Schema
from reverie.data.space import Batch, Space, Wants
from reverie.errors import UnsupportedData
from reverie.estimator import Estimator
from reverie.learning.phases import Metrics, Phase
from reverie.learning.rules.gathering import gathering_phases
from reverie.learning.run import Run
from reverie.probability.trees.unmasking import Boosting, Unmasking
from reverie.rng import Noise


@recipe
class UnmaskingTrees(Estimator):
    """Boosted trees that draw or guess any cell of a mixed table from the cells that are seen."""

    family: ClassVar[str] = "unmasking_trees"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 1, "batch_size": 65536}

    depth: int = Field(default=4, ge=1, le=8)
    """Turns of left or right that find a number: 2^depth bins."""
    copies: int = Field(default=8, ge=1)
    """Copies of every row to learn from, each with other cells hidden."""
    trees: int = Field(default=150, ge=1)
    """Boosted trees of every turn (and level of a category)."""
    leaves: int = Field(default=63, ge=2)
    """Leaves of a tree at most."""
    rate: float = Field(default=0.15, gt=0, le=1)
    """What every tree adds of what it has found: with fewer trees take more."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "category", "boolean", "datetime"}),
            missing="mask",
            dtype="float64",
        )

    def build(self, space: Space) -> UnmaskingNetwork:
        return UnmaskingNetwork(space, self)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return gathering_phases(network, run, "grow")


class UnmaskingNetwork(Unmasking):
    """Rows, from one column given others."""

    def __init__(self, space: Space, how: UnmaskingTrees) -> None:
        super().__init__(space, how.depth)
        self.how = how

    def learn(self, batch: Batch, seed: int) -> Metrics:
        values, seen = self.variables.read(batch.x, batch.observed, None)
        values[~seen] = torch.nan
        weight = torch.ones(len(values), dtype=torch.float64) if batch.weight is None else batch.weight.double()
        used = weight > 0
        if not bool(used.any()):
            raise UnsupportedData("every row has the weight 0: there is nothing to learn from")
        how = self.how
        self.grow(
            values[used].numpy(), weight[used].numpy(), Boosting(how.copies, how.trees, how.leaves, how.rate, seed)
        )
        return {}

    def limits(self, space: Space) -> dict[str, str]:
        verbs = () if len(self.first) else ("sample", "log_prob", "impute")
        return dict.fromkeys(verbs, "nothing is learned yet; fit it for a pass")

    # ------------------------------------------------------------------ capabilities

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """sum_j log p(x_j | x_1 .. x_{j-1}), (n,): over the columns that are seen, each given the seen ones before it."""
        values, seen = self.variables.read(x, observed, None)
        given = torch.full_like(values, torch.nan)
        total = values.new_zeros(len(values))
        for j in range(len(self.variables)):
            rows = seen[:, j].nonzero()[:, 0]
            if len(rows):
                own, known = values[:, j].index_select(0, rows), given.index_select(0, rows)
                total = total.index_add(0, rows, self._log_column(j, known, own))
                given[:, j] = torch.where(seen[:, j], values[:, j], torch.nan)
        return total

    def _log_column(self, j: int, given: Tensor, value: Tensor) -> Tensor:
        if self.variables.all[j].levels:
            return self.level_logs(j, given).gather(1, value.long()[:, None])[:, 0]
        at = self.variables.numbers.index(j)
        which = self.bin_of(at, value)
        return self.log_bin(at, given, which) + self.within(at, which, value)

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        """Column after column, in their order."""
        nothing = self.edges.new_full((noise.rows, len(self.variables)), torch.nan)
        order = torch.arange(len(self.variables), device=nothing.device).expand(noise.rows, -1)
        return self._complete(nothing, order, noise)

    def conditional(self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool) -> Tensor:
        """The missing columns: of each the mean given what is seen, or all drawn, one after the other in an order of
        every row's own."""
        values, seen = self.variables.read(x, observed, None)
        values = torch.where(seen, values, torch.nan)
        if mean:
            filled = self._means(values, ~seen)
        else:
            keys = noise.uniform(len(self.variables))
            for gate, rest in self.variables.gates:
                keys[:, rest] = keys[:, gate]  # and a stable sort draws it next
            order = keys.argsort(dim=1, stable=True)
            filled = self._complete(values, order, noise)
        return torch.where(observed, x.to(filled.dtype), filled)

    def _means(self, values: Tensor, gone: Tensor) -> Tensor:
        numbers, chances = [], []
        for at, j in enumerate(self.variables.numbers):
            rows = gone[:, j].nonzero()[:, 0]
            found = self.bin_chances(at, values.index_select(0, rows)) @ self.middles(at)
            numbers.append(values.new_zeros(len(values)).index_copy(0, rows, found))
        for j in self.variables.coded:
            rows = gone[:, j].nonzero()[:, 0]
            found = self.level_logs(j, values.index_select(0, rows)).exp()
            chances.append(values.new_zeros(len(values), found.shape[1]).index_copy(0, rows, found))
        return self._written(values, numbers, chances)

    def _written(self, values: Tensor, numbers: list[Tensor], chances: list[Tensor]) -> Tensor:
        empty = values.new_zeros(len(values), 0)
        return self.variables.write(
            torch.stack(numbers, 1) if numbers else empty, torch.cat(chances, 1) if chances else empty, self.width
        )

    def _complete(self, values: Tensor, order: Tensor, noise: Noise) -> Tensor:
        """Draw what is missing, NaN, in that order (n, variables) of every row."""
        u = noise.uniform(len(self.variables), self.depth + 2).to(values.dtype)
        gone, given, drawn = values.isnan(), values.clone(), values.clone()
        for turn in range(order.shape[1]):
            for j in range(len(self.variables)):
                rows = ((order[:, turn] == j) & gone[:, j]).nonzero()[:, 0]
                if len(rows):
                    found = self._draw_column(j, given.index_select(0, rows), u[:, j].index_select(0, rows))
                    given[:, j] = given[:, j].index_copy(0, rows, found)
                    drawn[:, j] = drawn[:, j].index_copy(0, rows, found)
                    for gate, rest in self.variables.gates:
                        if rest == j:  # where a value kept apart was drawn there is no other number
                            apart = given[:, gate] < self.variables.all[gate].levels - 1
                            given[:, rest] = torch.where(apart, torch.nan, given[:, rest])
        numbers = [drawn[:, j] for j in self.variables.numbers]
        levels = [self.variables.all[j].levels for j in self.variables.coded]
        codes = [drawn[:, j].long() for j in self.variables.coded]
        chances = [
            nn.functional.one_hot(code, count).to(values.dtype) for code, count in zip(codes, levels, strict=True)
        ]
        return self._written(values, numbers, chances)

    def _draw_column(self, j: int, given: Tensor, u: Tensor) -> Tensor:
        if self.variables.all[j].levels:
            upto = self.level_logs(j, given).exp().cumsum(1)
            code = (upto <= u[:, :1] * upto[:, -1:]).sum(1).clamp_max(upto.shape[1] - 1)
            return code.to(given.dtype)
        at = self.variables.numbers.index(j)
        which = self.draw_bin(at, given, u[:, : self.depth])
        return self.draw_within(at, which, u[:, self.depth :])
