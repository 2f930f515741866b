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
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe, replace
from reverie.data.schema import Schema
from reverie.data.space import Batch, Space, Wants
from reverie.errors import InvalidOption
from reverie.estimator import Estimator, inherit_but
from reverie.learning.contrastive import ContrastiveDivergence
from reverie.learning.descent import Descent, ScheduleName
from reverie.learning.gradient import Gradient
from reverie.learning.phases import Phase
from reverie.learning.run import Run
from reverie.learning.up_down import UpDown
from reverie.model import check_count
from reverie.nn.unrolled import supervised_loss
from reverie.probability.belief import BeliefNetwork
from reverie.probability.units import Bernoulli, Units
from reverie.rng import Noise


@recipe
class DBN(Estimator):
    """Deep belief network, for yes/no columns and binarised images; with y also a classifier."""

    family: ClassVar[str] = "dbn"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 100, "ema": 0.999}

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128, 128), min_length=2)
    """Hidden units of each layer, bottom up."""
    sweeps: int = Field(default=1, ge=1)
    """Gibbs sweeps per update (the k of CD-k and PCD-k)."""
    chains: int = Field(default=200, ge=0)
    """Persistent chains of each machine; 0 starts the sweeps from the batch (CD-k)."""
    lr: float = Field(default=0.2, gt=0)
    """Learning rate of the machines at its highest."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of the machines' updates."""
    schedule: ScheduleName = "linear"
    """How every phase's learning rate falls over its budget."""
    centring: float = Field(default=0.01, ge=0, le=1)
    """Rate at which the centring offsets follow the data; 0 turns centring off."""
    updown: float = Field(default=0.0, ge=0)
    """Passes of the up-down algorithm for every pass over one machine; 0 for none."""
    updown_lr: float = Field(default=0.01, gt=0)
    """Learning rate of the up-down algorithm at its highest."""
    head: bool = False
    """With y: unroll the stack into a net that ends in a softmax layer (a linear one where y is numbers), instead of
    giving the top machine label units."""
    finetune: float = Field(default=1.0, gt=0)
    """With `head`: passes of backpropagation for every pass over one machine."""
    finetune_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of backpropagation (Adam) at its highest."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of hidden units dropped in backpropagation."""
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of inputs dropped in backpropagation."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Number format of the machines' matrix products in training (sums are float32 in either): bfloat16 is twice as fast
    on processors with instructions for it, and many times slower on others."""
    pixels: Literal["binary", "threshold"] = "binary"
    """Grey levels become bits by a draw anew for every batch, or by a threshold at one half."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"boolean", "integer", "image"}),
            discrete="binary",
            images=self.pixels,
            missing="refuse",
            conditions=frozenset({"labels", "vector"} if self.head else {"labels"}),
            mixed=False,
            flat=True,
            partial=True,
        )

    def tuned(self, *, labelled: bool) -> Self:
        """A model without labels goes on with a head when they come."""
        return replace(self, head=True) if labelled else self

    def inherit(self, network: nn.Module, trained: nn.Module) -> bool:
        """A classifier may be new; the stack that it is unrolled from is the trained one's."""
        return inherit_but(network, trained, "classifier.")

    def build(self, space: Space) -> DBNNetwork:
        if self.head and space.condition is None:
            raise InvalidOption("head: there is no y to predict; give y, or leave head out")
        return DBNNetwork(
            Bernoulli(space.width),
            self.hidden,
            labels=0 if self.head else space.condition_width,
            untied=self.updown > 0,
            outputs=space.condition_width if self.head else 0,
            dropout=(self.input_dropout, self.dropout),
            centring=self.centring,
            short_products=self.products == "bfloat16",
            pictures=space.grid is not None,
            numbers=space.condition is not None and space.condition.kind == "vector",
        )

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, DBNNetwork)
        tuning = Phase("finetune", lambda: self._tuning(network, run), share=self.finetune, middle=True)
        if self.head and not fresh:
            return [tuning]
        found = []
        for number in range(len(self.hidden)):
            network.machine(number).fresh = fresh
            found.append(self._layer(network, number, run))
        if self.updown:
            found.append(Phase("up-down", lambda: self._up_down(network, run), share=self.updown))
        return [*found, tuning] if self.head else found

    def _layer(self, network: DBNNetwork, number: int, run: Run) -> Phase:
        """Machine `number` learns from draws of the hidden units below it."""
        machine = network.machine(number)

        def lift(batch: Batch, noise: Noise) -> Batch:
            return dataclasses.replace(batch, x=network.up(batch.x.flatten(1), noise, to=number)[-1])

        def learner() -> ContrastiveDivergence:
            descent = self._descent(list(machine.parameters()), run, self.lr)
            return ContrastiveDivergence(network, descent, run, sweeps=self.sweeps, chains=self.chains, machine=machine)

        return Phase(f"layer {number + 1}", learner, transform=lift if number else None)

    def _up_down(self, network: DBNNetwork, run: Run) -> UpDown:
        assert network.recognition is not None
        parameters = [*network.layers.parameters(), *network.recognition.parameters()]
        descent = self._descent(parameters, run, self.updown_lr)
        top = ContrastiveDivergence(network, descent, run, sweeps=self.sweeps, chains=self.chains, machine=network.top)
        return UpDown(network, descent, run, top)

    def _descent(self, parameters: list[nn.Parameter], run: Run, lr: float) -> Descent:
        return Descent(parameters, run, optimizer="sgd", lr=lr, momentum=self.momentum, decay=self.schedule)

    def _tuning(self, network: DBNNetwork, run: Run) -> Gradient:
        assert network.classifier is not None
        descent = Descent(list(network.classifier.parameters()), run, lr=self.finetune_lr, decay=self.schedule)
        return Gradient(network, descent, run, start=lambda batches: network.unroll())


class DBNNetwork(BeliefNetwork):
    """The network and what a Model asks of it."""

    marginalises = True

    def __init__(
        self, visible: Units, hidden: Sequence[int], *, pictures: bool, numbers: bool = False, **options: Any
    ) -> None:
        super().__init__(visible, hidden, **options)
        self.pictures, self.numbers, self.code_width = pictures, numbers, hidden[-1]

    @property
    def predicts_y(self) -> bool:
        """y is predicted from x alone; x does not depend on it."""
        return self.classifier is not None

    @property
    def likelihood(self) -> str:
        """A bound, less a log Z that may be an estimate."""
        return "lower bound" if self.top.listable else "estimate"

    def partition_info(self) -> dict[str, Any] | None:
        """That of the top machine."""
        return self.top.partition_info()

    def limits(self, space: Space) -> dict[str, str]:
        """Without labels there is nothing to predict, and numbers have no probabilities."""
        if not self.labels and self.classifier is None:
            reason = "it was trained without y; reverie.finetune(model, X, y) unrolls it into a classifier"
            return {"predict": reason, "predict_proba": reason}
        return {"predict_proba": "y is numbers, not classes"} if self.numbers else {}

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]:
        """The unrolled net's loss of every row, (n,)."""
        assert self.classifier is not None
        if batch.y is None:
            raise InvalidOption("y: this dbn ends in a layer that predicts y; give y to go on training it")
        outputs = self.classifier(batch.x.flatten(1), noise if self.training else None)
        return supervised_loss(outputs, batch.y.to(outputs.dtype), self.numbers)

    def classify(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(y | x), (n, K), by the head or by the top machine given the means below it; numbers by a linear head."""
        if self.classifier is not None:
            outputs: Tensor = self.classifier(x)
            return outputs if self.numbers else torch.log_softmax(outputs.double(), 1)
        return torch.log_softmax(self.top.precise().label_scores(self.up(x)[-1].double()), 1)

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
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 200
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
