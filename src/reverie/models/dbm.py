"""Deep Boltzmann machine (Salakhutdinov & Hinton 2009): layers of hidden units above the visible ones, undirected throughout.

E(v, h1, ..., hL) = U(v) - b0.v - sum_l bl.hl - v W0 h1 - sum_l hl Wl h(l+1),   p(v) = sum_h exp(-E) / Z.

Learned by mean-field inference of what the data leave open and persistent chains of the whole machine, with closed-form
centred gradients (Montavon & Müller 2012), after layer-wise pre-training with doubled weights where it is asked for.
log p(v) is bounded from below by the mean-field posterior, with log Z by annealed importance sampling.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe
from reverie.data.schema import Schema
from reverie.data.space import Space, Wants
from reverie.estimator import Estimator
from reverie.learning.contrastive import ContrastiveDivergence
from reverie.learning.descent import Descent, ScheduleName
from reverie.learning.phases import Phase
from reverie.learning.run import Run
from reverie.model import check_count, check_positive
from reverie.probability.deep import DeepMachine
from reverie.probability.units import Bernoulli, units
from reverie.rng import Noise


@recipe
class DBM(Estimator):
    """Deep Boltzmann machine, for yes/no columns and binarised images."""

    family: ClassVar[str] = "dbm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 100, "ema": 0.999}

    hidden: tuple[int, ...] = Field(default=(128, 128), min_length=1)
    """Hidden units of each layer, bottom up."""
    units: Literal["bernoulli", "spin"] = "bernoulli"
    """What the hidden units are: bits or spins."""
    sweeps: int = Field(default=1, ge=1)
    """Gibbs sweeps of the chains per update."""
    chains: int = Field(default=100, ge=1)
    """Persistent chains."""
    passes: int = Field(default=25, ge=1)
    """Mean-field updates of the posterior, at most."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Mean-field updates end when no mean moves by more than this."""
    damping: float = Field(default=0.0, ge=0, lt=1)
    """Share of the old means that a mean-field update keeps."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate at its highest."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of the updates."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on the weights."""
    schedule: ScheduleName = "linear"
    """How the learning rate falls over the budget."""
    centring: float = Field(default=0.01, ge=0, le=1)
    """Rate at which the centring offsets follow the data; 0 turns centring off."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Number format of training's matrix products (sums are float32 in either): bfloat16 is twice as fast on processors
    with instructions for it, and many times slower on others."""
    pixels: Literal["binary", "threshold"] = "binary"
    """Grey levels become bits by a draw anew for every batch, or by a threshold at one half."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"boolean", "integer", "image"}),
            discrete="binary",
            images=self.pixels,
            missing="refuse",
            conditions=frozenset({"labels"}),
            mixed=False,
            flat=True,
            partial=True,
        )

    def build(self, space: Space) -> DBMNetwork:
        layers = [Bernoulli(space.width), *(units(self.units, width) for width in self.hidden)]
        return DBMNetwork(
            layers,
            labels=space.condition_width,
            centring=self.centring,
            l2=self.weight_decay,
            passes=self.passes,
            tolerance=self.tolerance,
            damping=self.damping,
            short_products=self.products == "bfloat16",
            pictures=space.grid is not None,
        )

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, DBMNetwork)
        network.fresh = fresh

        def joint() -> ContrastiveDivergence:
            descent = Descent(
                list(network.parameters()),
                run,
                optimizer="sgd",
                lr=self.lr,
                momentum=self.momentum,
                decay=self.schedule,
            )
            return ContrastiveDivergence(network, descent, run, sweeps=self.sweeps, chains=self.chains)

        return [Phase("joint", joint)]


class DBMNetwork(DeepMachine):
    """The machine and what a Model asks of it."""

    marginalises = True

    def __init__(self, layers: Any, *, pictures: bool = False, **options: Any) -> None:
        super().__init__(layers, **options)
        self.pictures = pictures

    @property
    def likelihood(self) -> str:
        """A bound, of the posterior or of log Z or of both."""
        return "lower bound" if self.listable else "estimate"

    def log_prob(
        self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise, *, samples: int = 0
    ) -> Tensor:
        """The mean-field bound on log p(v), (n,) nats, less log Z; with `samples` draws from the posterior the
        importance-weighted bound, which is tighter. With y of log p(v | y)."""
        return self.precise().bound(x.double(), noise, samples) - self.log_partition()

    def sample(
        self, noise: Noise, y: Tensor | None, *, sweeps: int = 500, mean: bool | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Chains from independent units after `sweeps` of Gibbs sampling."""
        check_count(sweeps, "sweeps")
        check_positive(temperature, "temperature")
        even = self.gibbs(self.fantasy(noise), sweeps - 1, noise, temperature=temperature)
        odd = self.odd.sample_at(self.odd_field(even), noise, temperature)
        field = self.even_field(odd)
        visible = slice(0, self.widths[0])
        if self.pictures if mean is None else mean:
            return self.even.mean_at(field, temperature)[:, visible]
        return self.even.sample_at(field, noise, temperature)[:, visible]
