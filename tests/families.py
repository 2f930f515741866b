"""Tiny recipes and data for every family, and a throwaway two-phase family that exists for the tests alone."""

from __future__ import annotations

from dataclasses import replace as with_fields
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from reverie import catalog
from reverie.config import recipe
from reverie.data.schema import Schema
from reverie.data.sources.load import as_dataset
from reverie.data.space import Batch, Space, Wants
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.descent import Descent
from reverie.learning.rules.gradient import Gradient
from reverie.learning.run import Run
from reverie.models.classical.adversarial_forest import AdversarialForest
from reverie.models.classical.mixture import GaussianMixture, TableMixture
from reverie.models.classical.naive_bayes import NaiveBayes
from reverie.models.classical.unmasking_trees import UnmaskingTrees
from reverie.models.deep.autoencoder import Autoencoder
from reverie.models.deep.gan import GAN
from reverie.models.deep.vae import VAE
from reverie.models.energy.boltzmann import BoltzmannMachine
from reverie.models.energy.dbm import DBM
from reverie.models.energy.dbn import DBN
from reverie.models.energy.rbm import RBM
from reverie.models.energy.temporal_rbm import TemporalRBM
from reverie.nn.specs import MLP
from reverie.rng import Noise


@recipe
class Stack(Estimator):
    """Two linear autoencoders, the second on the codes of the first: phases, shares and a network in two halves."""

    family: ClassVar[str] = "stack"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 4, "batch_size": 100}
    wide: int = Field(default=6, ge=1)
    """Units of the first layer."""
    narrow: int = Field(default=3, ge=1)
    """Units of the second layer."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(family="stack", kinds=frozenset({"number"}), density=False, discrete="round")

    def build(self, space: Space) -> StackNetwork:
        return StackNetwork(space.width, self.wide, self.narrow)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, StackNetwork)

        def learner(layer: Layer) -> Gradient:
            return Gradient(layer, Descent(list(layer.parameters()), run, lr=0.01, decay="linear"), run)

        def codes(batch: Batch, noise: Noise) -> Batch:
            with torch.no_grad():
                return with_fields(batch, x=network.first.encode(batch.x))

        return [
            Phase("first", lambda: learner(network.first), share=1.0),
            Phase("second", lambda: learner(network.second), share=1.0, transform=codes),
        ]


class Layer(nn.Module):
    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, units), nn.Linear(units, width)

    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.up(x))

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]:
        noisy = batch.x + 0.1 * noise.normal(batch.x.shape[1])
        return {"loss": (self.down(self.encode(noisy)) - batch.x).square().sum(1)}


class StackNetwork(nn.Module):
    def __init__(self, width: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.narrow, self.first, self.second = narrow, Layer(width, wide), Layer(wide, narrow)

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        return self.first.down(self.second.down(noise.normal(self.narrow).tanh()))


STACK_ROW = catalog.Family(
    name="stack",
    path="families:Stack",
    title="Stack",
    summary="two autoencoders, for tests",
    can=("sample",),
    kinds=("number",),
)

SMALL = MLP(hidden=(16,), activation="silu")


def small_recipes() -> dict[str, Estimator]:
    """A quick recipe for every way of learning, by the name of its family."""
    return {
        "gmm": GaussianMixture(components=3, tol=0),
        "table_mixture": TableMixture(components=3, tol=0, stepwise=True),
        "naive_bayes": NaiveBayes(tol=0),
        "adversarial_forest": AdversarialForest(trees=4, leaf=10, rounds=2),
        "unmasking_trees": UnmaskingTrees(depth=2, copies=2, trees=3, leaves=5),
        "rbm": RBM(hidden=8, chains=20, schedule="linear", momentum=0.5),
        "tempered rbm": RBM(hidden=8, chains=21, replicas=3, sweeps=2),
        "temporal_rbm": TemporalRBM(hidden=6, order=2, frames=60, sweeps=2),
        "dbn": DBN(hidden=(6, 4), chains=20, updown=0.5, head=True, finetune=0.5, adversarial=1.0),
        "dbm": DBM(hidden=(6, 4), chains=20, pretrain=0.5),
        "autoencoder": Autoencoder(hidden=(6,), code=2, pretrain=0.5, corruption=0.1, fantasies=0.5),
        "boltzmann_machine": BoltzmannMachine(hidden=3, chains=20, momentum=0.5, posterior="sampled"),
        "vae": VAE(latent=3, encoder=SMALL, decoder=SMALL, schedule="cosine"),
        "gan": GAN(latent=3, generator=SMALL, discriminator=SMALL),
        "stack": Stack(),
    }


def numeric_rows(n: int = 501, d: int = 4, *, holes: float = 0.0, seed: int = 0) -> np.ndarray:
    """Three overlapping clusters in d columns, with holes if wanted."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) + 3 * rng.integers(0, 3, size=(n, 1))
    rows[rng.random(rows.shape) < holes] = np.nan
    return rows


def bit_rows(n: int = 501, d: int = 12, *, seed: int = 0) -> np.ndarray:
    """Yes/no rows around four prototypes."""
    rng = np.random.default_rng(seed)
    prototypes = rng.random((4, d)) < 0.5
    return prototypes[rng.integers(0, 4, n)] ^ (rng.random((n, d)) < 0.1)


def walks(n: int = 501, *, seed: int = 0) -> list[np.ndarray]:
    """Short walks in two columns, of one to five steps."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, 2)).cumsum(0) for length in rng.integers(1, 6, n)]


def rows_for(family: str, n: int = 501) -> Any:
    """Data this family learns from: bits for the machines, with labels for the deep belief net, holes for the mixtures, holes in rows and labels for naive Bayes and the forest,
    sequences for the temporal machine, plain numbers for the others."""
    if family == "temporal_rbm":
        return walks(n)
    if family in ("rbm", "tempered rbm", "dbm", "boltzmann_machine"):
        return bit_rows(n)
    if family == "dbn":
        rows = bit_rows(n)
        return as_dataset(rows, pd.Series(np.where(rows[:, :6].sum(1) > 3, "many", "few")))
    if family in ("naive_bayes", "adversarial_forest"):
        rows = numeric_rows(n)
        y = pd.Series(np.where(rows[:, 0] > 3, "high", "low")).where(np.arange(n) % 3 > 0)
        return as_dataset(numeric_rows(n, holes=0.1), y)
    return numeric_rows(n, holes=0.1 if family in ("gmm", "table_mixture", "unmasking_trees") else 0.0)


OPTIONS: dict[str, dict[str, Any]] = {
    "gmm": {"epochs": 3, "batch_size": 100},
    "table_mixture": {"epochs": 3, "batch_size": 100},
    "naive_bayes": {"epochs": 3, "batch_size": 100},
    "adversarial_forest": {"epochs": 1, "batch_size": 100},
    "unmasking_trees": {"epochs": 1, "batch_size": 100},
    "rbm": {"epochs": 3, "batch_size": 100, "ema": 0.9},
    "tempered rbm": {"epochs": 3, "batch_size": 100, "ema": 0.9},
    "temporal_rbm": {"epochs": 3, "batch_size": 100, "ema": 0.9},
    "dbn": {"epochs": 4, "batch_size": 100, "ema": 0.9},
    "dbm": {"epochs": 3, "batch_size": 100, "ema": 0.9},
    "autoencoder": {"epochs": 4, "batch_size": 100, "ema": 0.9},
    "boltzmann_machine": {"epochs": 3, "batch_size": 100, "ema": 0.9},
    "vae": {"epochs": 3, "batch_size": 100, "ema": 0.9},
    "gan": {"epochs": 3, "batch_size": 100, "ema": 0.9},
    "stack": {"epochs": 4, "batch_size": 100, "ema": 0},
}
"""Budgets under which 501 rows make five batches and a tail that joins the fifth."""
