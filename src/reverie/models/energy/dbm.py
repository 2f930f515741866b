"""Deep Boltzmann machine (Salakhutdinov & Hinton 2009): layers of hidden units above the visible ones, undirected throughout.

E(v, h1, ..., hL) = U(v) - b0.v - sum_l bl.hl - v W0 h1 - sum_l hl Wl h(l+1),   p(v) = sum_h exp(-E) / Z.

Learned by mean-field inference of what the data leave open and persistent chains of the whole machine, with closed-form
centred gradients (Montavon & Müller 2012), after layer-wise pre-training with doubled weights where it is asked for.
log p(v) is bounded from below by the mean-field posterior, with log Z by annealed importance sampling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.config import check_count, check_positive, recipe
from reverie.data.space import Batch, Space
from reverie.learning.phases import Phase
from reverie.learning.rules.contrastive import ContrastiveDivergence
from reverie.learning.run import Run
from reverie.models.energy.stacked import Stacked, StackedRecipe
from reverie.nn.unrolled import Unrolled
from reverie.probability.machines.bipartite import Clamped
from reverie.probability.machines.deep import DeepMachine
from reverie.probability.machines.units import Bernoulli, Units, units
from reverie.rng import Noise


@recipe
class DBM(StackedRecipe):
    """Deep Boltzmann machine, for yes/no columns and binarised images; with y also a classifier."""

    family: ClassVar[str] = "dbm"

    units: Literal["bernoulli", "spin"] = "bernoulli"
    """What the hidden units are: bits or spins."""
    chains: int = Field(default=100, ge=1)
    """Persistent chains."""
    passes: int = Field(default=5, ge=1)
    """Mean-field updates of the posterior in training, and for the classifier: at most so many."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Mean-field updates end when no mean moves by more than this."""
    damping: float = Field(default=0.0, ge=0, lt=1)
    """Share of the old means that a mean-field update keeps."""
    pretrain: float = Field(default=0.0, ge=0)
    """Passes of pre-training over each pair of layers for every pass of joint training; 0 for none, which centring makes
    possible."""
    pretrain_lr: float = Field(default=0.1, gt=0)
    """Learning rate of pre-training at its highest."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on the weights."""
    finetune: float = Field(default=0.5, gt=0)
    """With `head`: passes of backpropagation for every pass of joint training."""

    def build(self, space: Space) -> DBMNetwork:
        layers = [Bernoulli(space.width), *(units(self.units, width) for width in self.hidden)]
        return DBMNetwork(
            layers,
            centring=self.centring,
            l2=self.weight_decay,
            passes=self.passes,
            tolerance=self.tolerance,
            damping=self.damping,
            pretrained=self.pretrain > 0,
            **self.ends(space),
        )

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, DBMNetwork)
        if self.head and not fresh:
            return [self.tuning(network, run)]
        network.fresh = fresh and not self.pretrain
        found = (
            [self._stage(network, number, run) for number in range(len(self.hidden))] if self.pretrain and fresh else []
        )
        found.append(Phase("joint", lambda: self._joint(network, run)))
        return [*found, self.tuning(network, run)] if self.head else found

    def _stage(self, network: DBMNetwork, number: int, run: Run) -> Phase:
        """Layers `number` and `number` + 1 as one machine, on draws of the lower one."""

        def lift(batch: Batch, noise: Noise) -> Batch:
            return dataclasses.replace(batch, x=network.lift(batch.x.flatten(1), number, noise), y=None)

        def learner() -> ContrastiveDivergence:
            machine = network.stage(number)
            descent = self.descent(list(machine.parameters()), run, self.pretrain_lr)
            return self.contrasting(network, run, descent, machine, chains=self.chains)

        return Phase(f"layer {number + 1}", learner, share=self.pretrain, transform=lift)

    def _joint(self, network: DBMNetwork, run: Run) -> ContrastiveDivergence:
        """All layers together."""
        descent = self.descent(network.machine_parameters(), run, self.lr)
        return self.contrasting(network, run, descent, network, chains=self.chains)


class DBMNetwork(DeepMachine, Stacked):
    """The machine and what a Model asks of it; with `outputs` a classifier unrolled from it, whose input is x beside the
    mean-field means of the second hidden layer (Salakhutdinov & Hinton 2009, section 3.3)."""

    def __init__(
        self,
        layers: Sequence[Units],
        *,
        pictures: bool = False,
        outputs: int = 0,
        dropout: tuple[float, float] = (0.0, 0.0),
        adversarial: float = 0.0,
        numbers: bool = False,
        short_products: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(layers, short_products=short_products, **options)
        self.adversarial = adversarial
        self.pictures, self.numbers, self.code_width = pictures, numbers, self.widths[self.top]
        second = self.widths[2] if self.top > 1 else 0
        widths = [self.widths[0] + second, *self.widths[1 : self.top + 1]]
        self.classifier = Unrolled(widths, outputs, dropout=dropout, short_products=short_products) if outputs else None

    def machine_parameters(self) -> list[nn.Parameter]:
        """W, b, and what the visible units have learned."""
        return [*self.W, *self.b, *self.even_units.parameters()]

    @property
    def likelihood(self) -> str:
        """A bound, less a log Z that may be an estimate."""
        return "lower bound" if self.listable else "estimate"

    # ------------------------------------------------------------------ the classifier

    def unroll(self) -> None:
        assert self.classifier is not None
        for number in range(self.top):
            weights = self.W[number] * (2.0 if 0 < number < self.top - 1 else 1.0)
            if number == 0 and self.top > 1:
                weights = torch.cat([weights, self.W[1].t()])
            self.classifier.begin_from(number, weights, self.b[number + 1])

    @torch.no_grad()
    def inputs(self, x: Tensor) -> Tensor:
        """x and behind it the posterior means of the second hidden layer, the classifier's input: by as many updates when
        it is used as when it learned."""
        if self.top == 1:
            return x
        with self.fixed_weights():
            return torch.cat([x, self.split(*self.infer(x, passes=self.passes))[2]], 1)

    def scores(self, x: Tensor) -> Tensor:
        """By the bounds on log p(x, y)."""
        return self.precise().class_bounds(x.double())

    def class_log_prior(self) -> Tensor:
        """log p(y) under the machine itself, (K,) in float64."""
        return torch.log_softmax(self.class_log_partitions(), 0)

    # ------------------------------------------------------------------ verbs

    def log_prob(
        self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise, *, samples: int = 0
    ) -> Tensor:
        """The mean-field bound on log p(x), with y on log p(x | y), (n,) nats; with `samples` draws from the posterior
        the importance-weighted bound, which is tighter."""
        if samples:
            check_count(samples, "samples")
        machine, v = self.precise(), x.double()
        if not self.labels:
            return machine.bound(v, noise, samples) - self.log_partition()
        bounds = machine.class_bounds(v, noise, samples)
        if y is None:
            return torch.logsumexp(bounds, 1) - self.log_partition()
        return (bounds * y).sum(1) - y.double() @ self.class_log_partitions()

    def sample(
        self, noise: Noise, y: Tensor | None, *, sweeps: int = 500, mean: bool | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Chains from independent units after `sweeps` of Gibbs sampling of exp(-E / temperature), the label clamped to
        y; with mean=True the last visible probabilities instead of a draw. Default: probabilities for images, which show
        as grey levels, draws for tables."""
        check_count(sweeps, "sweeps")
        check_positive(temperature, "temperature")
        held, held_odd = self._label_held(y)
        even = self.fantasy(noise)
        even = even if held is None else torch.where(*held, even)
        even = self.gibbs(even, sweeps - 1, noise, temperature=temperature, clamped=held, clamped_odd=held_odd)
        odd = self.odd.sample_at(self.odd_field(even), noise, temperature)
        odd = odd if held_odd is None else torch.where(*held_odd, odd)
        field, visible = self.even_field(odd), slice(0, self.widths[0])
        if self.pictures if mean is None else mean:
            return self.even.mean_at(field, temperature)[:, visible]
        return self.even.sample_at(field, noise, temperature)[:, visible]

    def _label_held(self, y: Tensor | None) -> tuple[Clamped | None, Clamped | None]:
        """The label clamped to y, among the even units or among the odd ones."""
        if y is None or not self.labels:
            return None, None
        group = self.odd if (self.depth - 1) % 2 else self.even
        where = torch.arange(group.width, device=y.device) >= group.width - self.labels
        values = torch.cat([y.new_zeros(len(y), group.width - self.labels), y], 1).to(self.b[0].dtype)
        return (None, (where, values)) if (self.depth - 1) % 2 else ((where, values), None)

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """Mean-field means of the highest hidden layer, (n, hidden[-1])."""
        return self.split(*self.infer(x, y))[self.top]

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Means of x by one pass down from the highest hidden layer, weights doubled where a layer lacks the one below."""
        for number in reversed(range(self.top)):
            double = 2.0 if number else 1.0
            z = self.layers[number].mean(torch.addmm(self.b[number], z, self.W[number].t(), alpha=double))
        return z

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 100
    ) -> Tensor:
        """Clamped Gibbs sampling of the missing units, the label clamped to y where it is given; `mean` averages their
        means over the second half."""
        held, held_odd = self._label_held(y)
        even, visible = self.fantasy(noise), slice(0, self.widths[0])
        where = torch.zeros_like(even, dtype=torch.bool)
        where[:, visible] = observed
        values = even.clone()
        values[:, visible] = x
        if held is not None:
            where, values = where | held[0], torch.where(*held, values)
        even = torch.where(where, values, even)
        total = torch.zeros_like(x)
        for sweep in range(sweeps):
            odd = self.up(even, noise)
            field = self.even_field(odd if held_odd is None else torch.where(*held_odd, odd))
            even = torch.where(where, values, self.even.sample(field, noise))
            if mean and sweep >= sweeps // 2:
                total += self.even.mean(field)[:, visible]
        return torch.where(observed, x, total / (sweeps - sweeps // 2)) if mean else even[:, visible]
