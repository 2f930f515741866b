"""Restricted Boltzmann machine (Smolensky 1986; Hinton 2002): two layers of units, connected with each other only.

E(v, h) = U(v) + U(h) - b.v - c.h - v W h,   p(v) = sum_h exp(-E(v, h)) / Z,   F(v) = U(v) - b.v - A(c + v W),

with U and A the layers' own energy and log-partition (`probability.units`): for bits U = 0 and A = sum softplus.

Learned by (persistent) contrastive divergence with closed-form gradients and centring (Melchior, Fischer & Wiskott 2016).
log Z is exact when a layer has at most 20 units, else annealed importance sampling (Salakhutdinov & Murray 2008) paired
with its reverse.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from reverie.config import check_count, check_positive, check_seed, recipe
from reverie.data.schema import Schema
from reverie.data.space import Space, Wants
from reverie.errors import InvalidOption, Unsupported
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.contrastive import ContrastiveDivergence
from reverie.learning.rules.descent import Descent, OptimizerName, ScheduleName
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.machines.restricted import Penalties, Restricted
from reverie.probability.machines.units import Bernoulli, units, units_of
from reverie.rng import Noise, RowNoise, stream


@recipe
class RBM(Estimator):
    """Restricted Boltzmann machine, for yes/no columns and binarised images, or tables of mixed columns."""

    family: ClassVar[str] = "rbm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 50, "batch_size": 100, "ema": 0.999}

    hidden: int = Field(default=128, ge=1)
    """Hidden units."""
    units: Literal["bernoulli", "spin", "relu", "gaussian"] = "bernoulli"
    """What the hidden units are: bits, spins, numbers from 0 on, or numbers."""
    visible: Literal["binary", "mixed"] = "binary"
    """What the visible units are: bits; or bits for yes/no columns, softmax units for categories and Gaussian ones of
    learned variance for numbers; many numbers want a smaller learning rate."""
    sweeps: int = Field(default=1, ge=1)
    """Gibbs sweeps per update (the k of CD-k and PCD-k)."""
    chains: int = Field(default=200, ge=0)
    """Persistent chains; 0 starts the sweeps from the batch (CD-k)."""
    replicas: int = Field(default=1, ge=1)
    """Copies of every persistent chain at as many temperatures, from independent units to the machine itself: more than 1
    is parallel tempering, which mixes where Gibbs sampling sticks, at as many times the chains' cost."""
    lr: float = Field(default=0.2, gt=0)
    """Learning rate at its highest. Centred gradients with persistent chains bear far more than plain CD does."""
    optimizer: OptimizerName = "sgd"
    """Optimizer: plain gradient descent suits the centred gradient of log p(x); that of log p(y | x) wants adam, with a
    learning rate of a few thousandths."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of the updates, with sgd or rmsprop."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on the weights."""
    l1: float = Field(default=0.0, ge=0)
    """L1 penalty on the weights."""
    sparsity: float = Field(default=0.0, ge=0)
    """Strength of a pull of the hidden units' mean activity towards `activity`."""
    activity: float = Field(default=0.1, ge=0)
    """The mean activity wanted of a hidden unit, where `sparsity` is above 0."""
    discriminative: float = Field(default=0.0, ge=0, le=1)
    """With y: share of the gradient that is of log p(y | x) instead of log p(x, y)."""
    schedule: ScheduleName = "linear"
    """How the learning rate falls over the budget."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Number format of training's matrix products (sums are float32 in either): bfloat16 is twice as fast on processors
    with instructions for it, and many times slower on others."""
    centring: float = Field(default=0.01, ge=0, le=1)
    """Rate at which the centring offsets follow the data; 0 turns centring off."""
    pixels: Literal["binary", "threshold"] = "binary"
    """Grey levels become bits by a draw anew for every batch, or by a threshold at one half."""

    def __post_init__(self) -> None:
        if self.replicas > 1 and not self.chains:
            raise InvalidOption(
                "replicas: tempered copies are of persistent chains; give chains, or leave replicas at 1"
            )

    def wants(self, schema: Schema) -> Wants:
        bits, kinds = self.visible == "binary", {"boolean", "integer", "image"}
        return Wants(
            family=self.family,
            kinds=frozenset(kinds if bits else kinds | {"number", "datetime", "category"}),
            discrete="binary" if bits else "dequantise",
            images=self.pixels if bits else "dequantise",
            missing="mask",
            conditions=frozenset({"labels"}),
            mixed=False,
            flat=True,
            partial=True,
            otherwise="visible='mixed' takes numbers and categories too" if bits else "",
        )

    def build(self, space: Space) -> RBMNetwork:
        labels = space.condition_width
        if self.discriminative and not labels:
            raise InvalidOption("discriminative: there are no labels to tell apart; give y, or leave it at 0")
        if self.momentum and self.optimizer.startswith("adam"):
            raise InvalidOption(f"momentum: {self.optimizer} has its own; leave momentum at 0, or take optimizer='sgd'")
        return RBMNetwork(
            units_of(space),
            units(self.units, self.hidden, learn_variance=False),
            labels=labels,
            centring=self.centring,
            pictures=space.grid is not None,
            penalties=Penalties(self.weight_decay, self.l1, self.sparsity, self.activity),
            short_products=self.products == "bfloat16",
        )

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, RBMNetwork)
        network.fresh = fresh

        def learner() -> ContrastiveDivergence:
            descent = Descent(
                list(network.parameters()),
                run,
                optimizer=self.optimizer,
                lr=self.lr,
                momentum=self.momentum,
                decay=self.schedule,
            )
            return ContrastiveDivergence(
                network,
                descent,
                run,
                sweeps=self.sweeps,
                chains=self.chains,
                replicas=self.replicas,
                discriminative=self.discriminative,
            )

        return [Phase("train", learner)]


class RBMNetwork(Restricted):
    """The machine and what a Model asks of it."""

    marginalises = True
    mean_chains = 10
    """Chains whose conditional means `impute` averages: one stays in the valley that it fell into."""

    def limits(self, space: Space) -> dict[str, str]:
        """Without labels there is nothing to predict."""
        if self.labels:
            return {}
        reason = "it was trained without y; fit it with y"
        return {"predict": reason, "predict_proba": reason}

    # ------------------------------------------------------------------ verbs

    def log_prob(
        self,
        x: Tensor,
        observed: Tensor | None,
        y: Tensor | None,
        noise: Noise,
        *,
        chains: int = 10,
        temperatures: int = 500,
    ) -> Tensor:
        """-F(v) - log Z, labels summed out; with y -F(v, y) - log Z of that class, which is log p(v | y): (n,) nats.

        Missing cells are summed out too: exactly where a layer's states can be listed, else by annealed importance
        sampling with `chains` chains for every row over so many `temperatures`, which errs low.
        """
        if observed is not None and not bool(observed.all()):
            log_z = self.log_partition() if y is None else y.double() @ self.class_log_partitions()
            return self._sum_out(x, observed, y, noise, chains, temperatures) - log_z
        if y is None:
            return -self.energy(x) - self.log_partition()
        scores = (self._scores(x) * y).sum(1)
        return scores - y.double() @ self.class_log_partitions()

    def _sum_out(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, chains: int, temperatures: int
    ) -> Tensor:
        """log of the sum of exp(-F) over missing cells (and over labels without y), (n,) in float64."""
        v, held = self.rows(x, y), self.held(observed, y)
        if self.listable:
            return self.precise().marginal(v.double(), held)
        check_count(chains, "chains")
        check_count(temperatures, "temperatures", least=2)
        return self.annealed_marginal(v, held, noise, chains=chains, temperatures=temperatures)

    def _scores(self, x: Tensor) -> Tensor:
        """-F(v, y) in float64, (n, K)."""
        return self.precise().label_scores(x.double())

    def energy(self, x: Tensor) -> Tensor:
        """The free energy F(v) in float64, labels summed out, (n,)."""
        if self.labels:
            return -torch.logsumexp(self._scores(x), 1)
        return self.precise().even_energy(x.double())

    def classify(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(y | v), exactly, (n, K); missing cells are summed out where a layer's states can be listed, else filled
        in by their means."""
        if observed is None or bool(observed.all()):
            return torch.log_softmax(self._scores(x), 1)
        if not self.listable:
            return torch.log_softmax(self._scores(self._means(x, observed, None)[:, : self.data_width]), 1)
        machine, classes = self.precise(), torch.eye(self.labels, dtype=torch.float64, device=x.device)
        rows = [row.expand(len(x), -1) for row in classes]
        scores = [machine.marginal(machine.rows(x.double(), y), machine.held(observed, y)) for y in rows]
        return torch.log_softmax(torch.stack(scores, 1), 1)

    def _means(self, x: Tensor, observed: Tensor, y: Tensor | None, passes: int = 50) -> Tensor:
        """Visible rows with what is missing at its mean-field means."""
        v, held = self.rows(x, y), self.held(observed, y)
        filled = torch.where(held, v, self.visible.mean(self.base[None]))
        for _ in range(passes):
            filled = torch.where(held, v, self.visible_given(self.hidden_given(filled)))
        return filled

    def sample(
        self,
        noise: Noise,
        y: Tensor | None,
        *,
        sweeps: int = 500,
        mean: bool | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Chains from the data's base rates after `sweeps` of Gibbs sampling of exp(-E / temperature), with the label
        clamped to y; with mean=True the last visible probabilities instead of a draw. Default: probabilities for
        images, which show as grey levels, draws for tables."""
        check_count(sweeps, "sweeps")
        check_positive(temperature, "temperature")
        v, clamped = self.fantasy(noise), None
        if y is not None and self.labels:
            v = self.rows(v[:, : self.data_width], y)
            clamped = (self._places(), v)
        v = self.gibbs(v, sweeps - 1, noise, temperature=temperature, clamped=clamped)
        odd = self.odd.sample_at(self.odd_field(v), noise, temperature)
        field = self.even_field(odd)
        if self.pictures if mean is None else mean:
            return self.visible.mean_at(field, temperature)[:, : self.data_width]
        return self.visible.sample_at(field, noise, temperature)[:, : self.data_width]

    def _places(self) -> Tensor:
        """Which visible columns hold the label, (visible,)."""
        return torch.arange(self.visible.width, device=self.W.device) >= self.data_width

    def class_log_prior(self) -> Tensor:
        """log p(y) under the machine itself, (K,) in float64."""
        return torch.log_softmax(self.class_log_partitions(), 0)

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """E[h | v], for bits p(h = 1 | v), (n, hidden); E[h | v, y] where y is given, else labels are summed out. So are
        missing cells where a layer's states can be listed; else they are filled in by their means."""
        if observed is None or bool(observed.all()):
            return self.hidden_mean(x, y)
        if not self.listable:
            return self.hidden_given(self._means(x, observed, y))
        machine = self.precise()
        return machine.odd_given(machine.rows(x.double(), y), machine.held(observed, y)).to(x.dtype)

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """E[v | h], for bits p(v = 1 | h), (n, visible)."""
        return self.visible_given(z)[:, : self.data_width]

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 100
    ) -> Tensor:
        """Clamped Gibbs sampling of the missing units, the label clamped to y where it is given; `mean` averages their
        means over the second half."""
        held, x = self.held(observed, y), self.rows(x, y)
        v = torch.where(held, x, self.visible.sample(self.base.expand(len(x), -1), noise))
        total = torch.zeros_like(v)
        for sweep in range(sweeps):
            field = self.even_field(self.up(v, noise))
            v = torch.where(held, x, self.visible.sample(field, noise))
            if mean and sweep >= sweeps // 2:
                total += self.visible.mean(field)
        filled = torch.where(held, x, total / (sweeps - sweeps // 2)) if mean else v
        return filled[:, : self.data_width]


# ---------------------------------------------------------------------- functions of a Model


def pseudo_log_likelihood(model: Model, X: Any, *, seed: int = 0) -> NDArray[np.float64]:
    """sum_i log p(v_i | the other units), (n,) nats, exactly, without log Z (Besag 1975): for visible bits.

    log p(v_i | rest) = log sigmoid(F(v with bit i flipped) - F(v)). It is no likelihood: two machines may rank the other
    way round by `log_prob`. Grey levels become bits by one draw from `seed`. Raises `Unsupported` for other machines.
    """
    machine = model.network
    if not isinstance(machine, Restricted) or not isinstance(machine.data_units, Bernoulli) or machine.labels:
        raise Unsupported(
            f"pseudo_log_likelihood is for an rbm of visible bits without labels, not this {model.family}"
        )
    found = []
    for start, _, prepared in model.intake.prepared(X, None, model.chunk):
        if prepared.observed is not None and not bool(prepared.observed.all()):
            raise InvalidOption(
                "pseudo_log_likelihood: rows with missing cells have none; impute them, or use log_prob"
            )
        noise = RowNoise(stream(check_seed(seed), "binarise"), len(prepared), start=start, dtype=machine.W.dtype)
        with torch.inference_mode():
            found.append(machine.pseudo_log_likelihood(model.codec.noise(prepared.x, noise).to(model.device)).cpu())
    return np.asarray(torch.cat(found).double())
