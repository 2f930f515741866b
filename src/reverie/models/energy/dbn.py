"""Deep belief network (Hinton, Osindero & Teh 2006): a stack of restricted Boltzmann machines learned one after the other.

p(v, h1, ..., hL) = p(v | h1) ... p(h(L-2) | h(L-1)) p(h(L-1), hL): directed layers below, a restricted machine on top.

Each machine learns from draws of the hidden units of the one below (contrastive divergence); `updown` then tunes all layers
together by the contrastive wake-sleep algorithm. Labels are units of the top machine, or with `head` the stack is unrolled
into a feed-forward net with a softmax (or linear) layer and trained by backpropagation. log p(v) is bounded from below by
the recognition posterior, with log Z of the top machine exact or by annealed importance sampling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.config import check_count, recipe
from reverie.data.space import Batch, Space
from reverie.learning.phases import Phase
from reverie.learning.rules.contrastive import ContrastiveDivergence
from reverie.learning.rules.up_down import UpDown
from reverie.learning.run import Run
from reverie.models.energy.stacked import Stacked, StackedRecipe
from reverie.nn.unrolled import Unrolled
from reverie.probability.machines.belief import BeliefNetwork
from reverie.probability.machines.units import Bernoulli, Units
from reverie.rng import Noise


@recipe
class DBN(StackedRecipe):
    """Deep belief network, for yes/no columns and binarised images; with y also a classifier."""

    family: ClassVar[str] = "dbn"

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128, 128), min_length=2)
    """Hidden units of each layer, bottom up."""
    chains: int = Field(default=200, ge=0)
    """Persistent chains of each machine; 0 starts the sweeps from the batch (CD-k)."""
    lr: float = Field(default=0.2, gt=0)
    """Learning rate of the machines at its highest."""
    updown: float = Field(default=0.0, ge=0)
    """Passes of the up-down algorithm for every pass over one machine; 0 for none."""
    updown_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the up-down algorithm at its highest."""

    def build(self, space: Space) -> DBNNetwork:
        return DBNNetwork(
            Bernoulli(space.width),
            self.hidden,
            untied=self.updown > 0,
            centring=self.centring,
            **self.ends(space),
        )

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, DBNNetwork)
        if self.head and not fresh:
            return [self.tuning(network, run)]
        found = []
        for number in range(len(self.hidden)):
            network.machine(number).fresh = fresh
            found.append(self._layer(network, number, run))
        if self.updown:
            found.append(Phase("up-down", lambda: self._up_down(network, run), share=self.updown))
        return [*found, self.tuning(network, run)] if self.head else found

    def _layer(self, network: DBNNetwork, number: int, run: Run) -> Phase:
        """Machine `number` learns from draws of the hidden units below it."""
        machine = network.machine(number)

        def lift(batch: Batch, noise: Noise) -> Batch:
            return dataclasses.replace(batch, x=network.up(batch.x.flatten(1), noise, to=number)[-1])

        def learner() -> ContrastiveDivergence:
            descent = self.descent(list(machine.parameters()), run, self.lr)
            return self.contrasting(network, run, descent, machine, chains=self.chains)

        return Phase(f"layer {number + 1}", learner, transform=lift if number else None)

    def _up_down(self, network: DBNNetwork, run: Run) -> UpDown:
        assert network.recognition is not None
        parameters = [*network.layers.parameters(), *network.recognition.parameters()]
        descent = self.descent(parameters, run, self.updown_lr)
        top = self.contrasting(network, run, descent, network.top, chains=self.chains)
        return UpDown(network, descent, run, top)


class DBNNetwork(BeliefNetwork, Stacked):
    """The network and what a Model asks of it."""

    def __init__(
        self,
        visible: Units,
        hidden: Sequence[int],
        *,
        pictures: bool,
        outputs: int = 0,
        dropout: tuple[float, float] = (0.0, 0.0),
        adversarial: float = 0.0,
        numbers: bool = False,
        short_products: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(visible, hidden, short_products=short_products, **options)
        self.adversarial = adversarial
        self.pictures, self.numbers, self.code_width = pictures, numbers, hidden[-1]
        self.classifier = (
            Unrolled(self.widths, outputs, dropout=dropout, short_products=short_products) if outputs else None
        )

    def unroll(self) -> None:
        assert self.classifier is not None
        for number in range(len(self.layers)):
            self.classifier.begin_from(number, *self.recognising(number))

    def scores(self, x: Tensor) -> Tensor:
        """By the top machine, given the means below it."""
        return self.top.precise().label_scores(self.up(x)[-1].double())

    @property
    def likelihood(self) -> str:
        """A bound, less a log Z that may be an estimate."""
        return "lower bound" if self.top.listable else "estimate"

    def partition_info(self) -> dict[str, Any] | None:
        """That of the top machine."""
        return self.top.partition_info()

    def log_prob(
        self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise, *, samples: int = 16
    ) -> Tensor:
        """The importance-weighted bound on log p(x), with y on log p(x | y), from `samples` draws of the recognition
        posterior, (n,) nats."""
        check_count(samples, "samples")
        found = self.bound(x, noise, samples, y).double()
        if y is None:
            return found - self.top.log_partition()
        return found - y.double() @ self.top.class_log_partitions()

    def sample(self, noise: Noise, y: Tensor | None, *, sweeps: int = 500, mean: bool | None = None) -> Tensor:
        """`sweeps` of Gibbs sampling in the top machine, the label clamped to y, then draws downwards; with mean=True the
        visible probabilities instead of a draw. Default: probabilities for images, draws for tables."""
        check_count(sweeps, "sweeps")
        top, h = self.top, self.top.fantasy(noise)
        clamped = None
        if y is not None:
            h = torch.cat([h[:, : top.data_width], y.to(h.dtype)], 1)
            clamped = (torch.arange(h.shape[1], device=h.device) >= top.data_width, h)
        h = top.gibbs(h, sweeps, noise, clamped=clamped)[:, : top.data_width]
        states = self.down(h, noise)
        if self.pictures if mean is None else mean:
            machine = self.machine(0)
            return machine.even.mean(machine.even_field(states[-2]))
        return states[-1]

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """Means of the top layer by one pass up, (n, hidden[-1])."""
        return self.top.hidden_mean(self.up(x)[-1], y)

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Means of x by one pass down, (n, visible)."""
        return self.down(self.top.visible_given(z)[:, : self.top.data_width])[-1]

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 100
    ) -> Tensor:
        """Missing units by passes up, one sweep of the top machine, and passes down, the observed ones put back each time
        (the recognition posterior stands in for the true one); `mean` averages their means over the second half."""
        machine, top = self.machine(0), self.top
        v = torch.where(observed, x, machine.even.sample(machine.base.expand(len(x), -1), noise))
        total = torch.zeros_like(v)
        for sweep in range(sweeps):
            h = top.clamp(self.up(v, noise)[-1], y, lambda: noise)
            states = self.down(top.gibbs(h, 1, noise)[:, : top.data_width], noise)
            field = machine.even_field(states[-2])
            v = torch.where(observed, x, machine.even.sample(field, noise))
            if mean and sweep >= sweeps // 2:
                total += machine.even.mean(field)
        return torch.where(observed, x, total / (sweeps - sweeps // 2)) if mean else v
