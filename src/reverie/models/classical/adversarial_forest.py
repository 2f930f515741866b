"""Adversarial random forests (Watson, Blesch, Kapar & Wright 2023): densities and draws of tables from the leaves of trees.

p(x) = 1/B sum_b sum_l pi_bl prod_j p_bl(x_j): within a leaf of a tree that can no longer tell rows from made ones the columns
are as good as independent. Everything asked of the forest is a sum over leaves, exact, also with missing cells.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from reverie.config import recipe
from reverie.data.schema import Schema
from reverie.data.space import Batch, Space, Wants
from reverie.errors import UnsupportedData
from reverie.estimator import Estimator
from reverie.learning.phases import Metrics, Phase
from reverie.learning.rules.gathering import gathering_phases
from reverie.learning.run import Run
from reverie.probability.trees.adversarial import Growth, Rows, grow
from reverie.probability.trees.forest import Forest


@recipe
class AdversarialForest(Estimator):
    """A mixture over the leaves of trees that were grown to tell rows from made ones, for tables of mixed columns."""

    family: ClassVar[str] = "adversarial_forest"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 1, "batch_size": 65536}

    trees: int = Field(default=50, ge=1)
    """Trees, over which the density is the mean: more make it smoother, at the same cost each."""
    leaf: int = Field(default=3, ge=1)
    """Rows that every leaf has at least."""
    rounds: int = Field(default=10, ge=1)
    """Forests grown at most, each against rows drawn from the one before."""
    delta: float = Field(default=0.0, ge=0, le=0.5)
    """Stop when no more than 1/2 + delta of the rows are told apart."""
    smoothing: float = Field(default=0.05, gt=0)
    """Rows that the broad density of every number, and the overall shares of every category, count for in a leaf."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "category", "boolean", "datetime"}),
            missing="mask",
            conditions=frozenset({"labels"}),
            partial=True,
            dtype="float64",
        )

    def build(self, space: Space) -> ForestNetwork:
        return ForestNetwork(space, self)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return gathering_phases(network, run, "grow")


class ForestNetwork(Forest):
    """The forest, and how it is grown."""

    def __init__(self, space: Space, how: AdversarialForest) -> None:
        super().__init__(space)
        self.how = how

    def learn(self, batch: Batch, seed: int) -> Metrics:
        """Grow trees on these rows beside those there are."""
        values, seen = self.variables.read(batch.x, batch.observed, batch.y)
        values[~seen] = torch.nan
        weight = torch.ones(len(values), dtype=torch.float64) if batch.weight is None else batch.weight.double()
        used = weight > 0
        if not bool(used.any()):
            raise UnsupportedData("every row has the weight 0: there is nothing to learn from")
        rows = Rows(values[used].numpy(), weight[used].numpy())
        how = self.how
        growth = Growth(how.trees, how.leaf, how.rounds, how.delta, how.smoothing, seed)
        accuracies = grow(self, rows, growth)
        return {"told_apart": torch.tensor(accuracies[-1], dtype=torch.float64)} if how.rounds > 1 else {}
