"""What the stacks of machines share: the options of their machines and of the classifier that a stack is unrolled into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe, replace
from reverie.data.schema import Schema
from reverie.data.space import Batch, Space, Wants
from reverie.errors import InvalidOption
from reverie.estimator import Estimator, inherit_but
from reverie.learning.phases import Phase
from reverie.learning.rules.contrastive import ContrastiveDivergence
from reverie.learning.rules.descent import Descent, ScheduleName
from reverie.learning.rules.gradient import Gradient
from reverie.learning.run import Run
from reverie.nn.unrolled import Unrolled, adversarial_loss, supervised_loss
from reverie.probability.machines.bipartite import Bipartite
from reverie.rng import Noise


@recipe
class StackedRecipe(Estimator):
    """Machines learned by contrastive divergence, for yes/no columns and binarised images; with y a classifier."""

    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 100, "ema": 0.999}

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(128, 128), min_length=1)
    """Hidden units of each layer, bottom up."""
    sweeps: int = Field(default=1, ge=1)
    """Gibbs sweeps per update (the k of CD-k and PCD-k)."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate at its highest."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of the updates."""
    schedule: ScheduleName = "linear"
    """How every phase's learning rate falls over its budget."""
    centring: float = Field(default=0.01, ge=0, le=1)
    """Rate at which the centring offsets follow the data; 0 turns centring off."""
    head: bool = False
    """With y: unroll the stack into a net that ends in a softmax layer (a linear one where y is numbers), instead of
    giving its top label units."""
    finetune: float = Field(default=1.0, gt=0)
    """With `head`: passes of backpropagation for every pass of the phase before it."""
    finetune_lr: float = Field(default=1e-3, gt=0)
    """Learning rate of backpropagation (Adam) at its highest."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of hidden units dropped in backpropagation."""
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of inputs dropped in backpropagation."""
    adversarial: float = Field(default=0.0, ge=0)
    """Length of a change of the inputs, towards where it matters most, that should not change what backpropagation's net
    says of rows with labels (virtual adversarial training), at three times the cost; 0 for none. It takes the place of
    dropout rather than joining it."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Number format of training's matrix products (sums are float32 in either): bfloat16 is about twice as fast on
    processors with instructions for it, and many times slower on others."""
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

    def ends(self, space: Space) -> dict[str, Any]:
        """How a network for this space ends: in label units or in a classifier."""
        if self.head and space.condition is None:
            raise InvalidOption("head: there is no y to predict; give y, or leave head out")
        return {
            "labels": 0 if self.head else space.condition_width,
            "outputs": space.condition_width if self.head else 0,
            "dropout": (self.input_dropout, self.dropout),
            "adversarial": self.adversarial,
            "numbers": space.condition is not None and space.condition.kind == "vector",
            "pictures": space.grid is not None,
            "short_products": self.products == "bfloat16",
        }

    def descent(self, parameters: list[nn.Parameter], run: Run, lr: float) -> Descent:
        """Plain gradient descent on a machine's parameters."""
        return Descent(parameters, run, optimizer="sgd", lr=lr, momentum=self.momentum, decay=self.schedule)

    def contrasting(
        self, network: nn.Module, run: Run, descent: Descent, machine: Bipartite, *, chains: int
    ) -> ContrastiveDivergence:
        """The rule by which a machine of the network learns."""
        return ContrastiveDivergence(network, descent, run, sweeps=self.sweeps, chains=chains, machine=machine)

    def tuning(self, network: Stacked, run: Run) -> Phase:
        """Backpropagation through the classifier, which starts from the stack."""

        def learner() -> Gradient:
            assert network.classifier is not None
            descent = Descent(list(network.classifier.parameters()), run, lr=self.finetune_lr, decay=self.schedule)
            return Gradient(network, descent, run, start=lambda batches: network.unroll())

        return Phase("finetune", learner, share=self.finetune, middle=True)


class Stacked(nn.Module, ABC):
    """A stack's network, beside its maths: what a Model asks of one that ends in label units or in a `classifier`, whose
    outputs are `numbers` or log-odds of classes."""

    marginalises = True
    mean_chains = 10
    """Chains whose conditional means `impute` averages: one stays in the valley that it fell into."""
    classifier: Unrolled | None
    adversarial: float
    labels: int
    numbers: bool
    pictures: bool

    @abstractmethod
    def unroll(self) -> None:
        """The classifier starts from the stack's weights, its head from nearly nothing."""

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor:
        """log p(y | x) up to what does not depend on y, (n, K) float64, by the label units."""

    def inputs(self, x: Tensor) -> Tensor:
        """What the classifier sees of x."""
        return x

    @property
    def predicts_y(self) -> bool:
        """y is predicted from x alone; x does not depend on it."""
        return self.classifier is not None

    def limits(self, space: Space) -> dict[str, str]:
        """Without labels there is nothing to predict, and numbers have no probabilities."""
        if not self.labels and self.classifier is None:
            reason = "it was trained without y; reverie.finetune(model, X, y) unrolls it into a classifier"
            return {"predict": reason, "predict_proba": reason}
        return {"predict_proba": "y is numbers, not classes"} if self.numbers else {}

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]:
        """The classifier's loss of every row, (n,), and what changes of its input add."""
        assert self.classifier is not None
        if batch.y is None:
            raise InvalidOption("y: this model ends in a layer that predicts y; give y to go on training it")
        x = self.inputs(batch.x.flatten(1))
        outputs = self.classifier(x, noise if self.training else None)
        found = supervised_loss(outputs, batch.y.to(outputs.dtype), self.numbers)
        if self.adversarial and self.training:
            known = 1.0 if self.numbers else batch.y.to(x.dtype).sum(1)
            found["adversarial"] = known * adversarial_loss(self.classifier, x, noise, self.adversarial, self.numbers)
            found["loss"] = found["loss"] + found["adversarial"]
        return found

    def classify(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(y | x), (n, K), by the classifier or by the label units; numbers by a linear head."""
        if self.classifier is None:
            return torch.log_softmax(self.scores(x), 1)
        outputs: Tensor = self.classifier(self.inputs(x))
        return outputs if self.numbers else torch.log_softmax(outputs.double(), 1)
