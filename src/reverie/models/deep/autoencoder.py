"""Deep autoencoder (Hinton & Salakhutdinov 2006): a code of few numbers from which the row can be rebuilt.

z = encoder(x), x' = decoder(z), logistic hidden layers and a linear code, the decoder mirroring the encoder. Learned by
backpropagation of the error of x', from random weights or from restricted Boltzmann machines learned one on the other.
Denoising (Vincent et al. 2008): x' is to be x although the encoder sees a spoilt x. Contractive (Rifai et al. 2011): the
encoder's Jacobian is kept small, sum_ij (dz_j / dx_i)^2 added to the loss. With fantasies, the error of rows decoded from
codes near those of the batch is added, as the encoder's sleep phase (Hinton et al. 1995).

It has no likelihood. Samples decode draws from one normal that follows the codes of the training rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe, replace
from reverie.data.schema import Schema
from reverie.data.space import Batch, Block, Space, Wants
from reverie.errors import InvalidOption
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.contrastive import ContrastiveDivergence
from reverie.learning.rules.descent import Descent, OptimizerName, ScheduleName
from reverie.learning.rules.gradient import Gradient
from reverie.learning.run import Run
from reverie.nn.unrolled import Mirrored
from reverie.probability.machines.restricted import Restricted
from reverie.probability.machines.units import Bernoulli, Gaussian, units_of
from reverie.rng import Noise

_CODE_RATE = 0.1
"""A machine with numbers for hidden units bears a tenth of the learning rate (Hinton & Salakhutdinov 2006)."""

_FOLLOW = 0.01
"""Rate at which the account of the codes follows the batches."""


@recipe
class Autoencoder(Estimator):
    """Deep autoencoder, plain, denoising or contractive, for tables of any columns and for images."""

    family: ClassVar[str] = "autoencoder"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 50, "batch_size": 100, "ema": 0.999}

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 64)
    """Units of the encoder's hidden layers, from the data up; the decoder has them in reverse."""
    code: int = Field(default=16, ge=1)
    """Numbers in a code."""
    pretrain: float = Field(default=0.0, ge=0)
    """Passes over each pair of layers as a restricted Boltzmann machine for every pass of backpropagation; 0 for none."""
    pretrain_lr: float = Field(default=0.1, gt=0)
    """Learning rate of pre-training at its highest."""
    activation: Literal["sigmoid", "tanh", "relu", "silu"] | None = None
    """Nonlinearity of the hidden layers; None is sigmoid with pre-training, which needs it, and silu without."""
    tied: bool = False
    """The decoder's weights are the encoder's, transposed."""
    error: Literal["cross_entropy", "squared"] = "cross_entropy"
    """Error of bits and grey levels; numbers have squared error, categories cross-entropy."""
    corruption: float = Field(default=0.0, ge=0, lt=1)
    """Share of the cells that the encoder sees as 0 in training (a denoising autoencoder)."""
    contraction: float = Field(default=0.0, ge=0)
    """Weight of the squared norm of the encoder's Jacobian (a contractive autoencoder)."""
    fantasies: float = Field(default=0.0, ge=0)
    """The pair also learns to rebuild rows that it decodes from codes around the batch's, this many standard deviations of
    the codes away: rows without end for an encoder that overfits. Doubles the cost; 0 for none."""
    optimizer: OptimizerName = "adam"
    """Optimizer of backpropagation."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of backpropagation at its highest."""
    schedule: ScheduleName = "cosine"
    """How every phase's learning rate falls over its budget."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of backpropagation."""
    products: Literal["float32", "bfloat16"] = "float32"
    """Number format of training's matrix products (sums are float32 in either): bfloat16 is about twice as fast on
    processors with instructions for it, and many times slower on others."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "category", "boolean", "datetime", "image"}),
            discrete="round",
            images="binary",
            missing="flag",
            density=False,
            flat=True,
        )

    def resolve(self, space: Space) -> Self:
        if self.pretrain and self.activation not in (None, "sigmoid"):
            raise InvalidOption(f"activation: machines of bits unroll into sigmoid layers, not {self.activation}")
        return replace(self, activation=self.activation or ("sigmoid" if self.pretrain else "silu"))

    def build(self, space: Space) -> AutoencoderNetwork:
        return AutoencoderNetwork(self, space)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, AutoencoderNetwork)
        found = []
        if self.pretrain and fresh:
            found = [self._machine(network, number, run) for number in range(len(network.machines))]

        def tuning() -> Gradient:
            parameters = list(network.nets.parameters())
            descent = Descent(
                parameters,
                run,
                optimizer=self.optimizer,
                lr=self.lr,
                weight_decay=self.weight_decay,
                decay=self.schedule,
            )
            start = (lambda batches: network.unroll()) if self.pretrain and fresh else None
            return Gradient(network, descent, run, start=start)

        return [*found, Phase("backpropagation", tuning, middle=True)]

    def _machine(self, network: AutoencoderNetwork, number: int, run: Run) -> Phase:
        machine = network.machine(number)
        last = number == len(network.machines) - 1

        def lift(batch: Batch, noise: Noise) -> Batch:
            x = batch.x.flatten(1)
            for below in range(number):
                x = network.machine(below).hidden_given(x)
            return dataclasses.replace(batch, x=x)

        def learner() -> ContrastiveDivergence:
            lr = self.pretrain_lr * (_CODE_RATE if last or (network.has_numbers and number == 0) else 1.0)
            descent = Descent(list(machine.parameters()), run, optimizer="sgd", lr=lr, decay=self.schedule)
            return ContrastiveDivergence(network, descent, run, sweeps=1, chains=0, machine=machine)

        return Phase(f"layer {number + 1}", learner, share=self.pretrain, transform=lift, middle=True)


class AutoencoderNetwork(nn.Module):
    """The pair of nets, the machines that pre-training stacks, and the moments of the training rows' codes."""

    reads_middle = True
    code_mean: Tensor
    code_products: Tensor
    _followed: Tensor

    def __init__(self, options: Autoencoder, space: Space) -> None:
        super().__init__()
        self.blocks, self.code_width = space.blocks, options.code
        self.squared = options.error == "squared"
        self.corruption, self.contraction, self.fantasies = options.corruption, options.contraction, options.fantasies
        self.pictures = space.grid is not None
        self.has_numbers = "real" in space.kinds
        widths = [space.width, *options.hidden]
        assert options.activation is not None
        short = options.products == "bfloat16"
        self.nets = Mirrored(
            widths, options.code, tied=options.tied, activation=options.activation, short_products=short
        )
        self.machines = nn.ModuleList()
        if options.pretrain:
            above = [*(Bernoulli(width) for width in options.hidden), Gaussian(options.code, learn_variance=False)]
            below = [units_of(space), *(Bernoulli(width) for width in options.hidden)]
            self.machines.extend(
                Restricted(low, high, centring=0.01, short_products=short)
                for low, high in zip(below, above, strict=True)
            )
        self.register_buffer("code_mean", torch.zeros(options.code))
        self.register_buffer("code_products", torch.eye(options.code))
        self.register_buffer("_followed", torch.zeros(()))
        self._codes: Tensor | None = None

    def machine(self, number: int) -> Restricted:
        """Machine number `number` of pre-training, bottom up."""
        machine = self.machines[number]
        assert isinstance(machine, Restricted)
        return machine

    def unroll(self) -> None:
        """Both nets start from the machines; numbers among the visible units come back as their means, v W h + v b."""
        for number in range(len(self.machines)):
            machine = self.machine(number)
            self.nets.begin_from(number, machine.W, machine.c, machine.b)

    # ------------------------------------------------------------------ learning

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]:
        """The error of x' for every row, (n,), its squared error, and what fantasies and contraction add."""
        x = batch.x.flatten(1)
        seen = x
        if self.corruption and self.training:
            seen = x * (noise.uniform(x.shape[1]).to(x.dtype) >= self.corruption)
        z = self.nets.encode(seen)
        self._codes = z.detach()
        error, squared = self._errors(x, self.nets.decode(z))
        found = {"loss": error, "squared_error": squared.detach()}
        if self.fantasies and self.training:
            found["fantasies"] = self._fantasised(z, noise)
            found["loss"] = found["loss"] + found["fantasies"]
        if self.contraction:
            found["contraction"] = self._jacobian(seen, noise)
            found["loss"] = found["loss"] + self.contraction * found["contraction"]
        return found

    def _fantasised(self, z: Tensor, noise: Noise) -> Tensor:
        """The error of what is decoded from codes drawn around z, (n,): rows whose code is known to rebuild them."""
        with torch.no_grad():
            spread = (self.code_products.diagonal() - self.code_mean.square()).clamp_min(0).sqrt()
            x = self.decode(z + self.fantasies * spread * noise.normal(self.code_width).to(z.dtype), None)
        return self._errors(x, self.nets.decode(self.nets.encode(x)))[0]

    def _jacobian(self, x: Tensor, noise: Noise) -> Tensor:
        """Unbiased estimates of |dz/dx|^2 for every row, (n,): |u^T dz/dx|^2 with u normal (Hutchinson 1989)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            code = self.nets.encode(x)
            u = noise.normal(code.shape[1]).to(code.dtype)
            return torch.autograd.grad((code * u).sum(), x, create_graph=self.training)[0].square().sum(1)

    def _errors(self, x: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The error that is minimised and the squared error, (n,) each."""
        total, squared = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for block in self.blocks:
            want, found = x[:, block.start : block.stop], outputs[:, block.start : block.stop]
            distance = (self._means(block, found) - want).square().sum(1)
            squared = squared + distance
            if block.kind == "category":
                total = total - (F.log_softmax(found, 1) * want).sum(1)
            elif block.kind == "binary" and not self.squared:
                total = total + F.binary_cross_entropy_with_logits(found, want, reduction="none").sum(1)
            else:
                total = total + distance
        return total, squared

    def _means(self, block: Block, outputs: Tensor) -> Tensor:
        """What the outputs of a block say of its columns, in model space."""
        if block.kind == "category":
            return torch.softmax(outputs, 1)
        return torch.sigmoid(outputs) if block.kind == "binary" else outputs

    def follow(self, batch: Batch, total: Callable[[Sequence[Tensor]], None]) -> None:
        """Running mean and products of the codes, over the last hundred batches or so."""
        assert self._codes is not None
        z = self._codes
        weighted = z if batch.weight is None else z * batch.weight[:, None].to(z.dtype)
        rows = z.new_tensor(float(len(z))) if batch.weight is None else batch.weight.sum().to(z.dtype)
        sums = [weighted.sum(0), weighted.t() @ z, rows]
        total(sums)
        rate = max(_FOLLOW, 1 / (1 + float(self._followed)))
        self.code_mean.lerp_(sums[0] / sums[2], rate)
        self.code_products.lerp_(sums[1] / sums[2], rate)
        self._followed += 1
        self._codes = None

    # ------------------------------------------------------------------ verbs

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """z, (n, code)."""
        return self.nets.encode(x.flatten(1))

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """x', (n, width)."""
        outputs = self.nets.decode(z)
        return torch.cat([self._means(block, outputs[:, block.start : block.stop]) for block in self.blocks], 1)

    def blend(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """A straight line in code space."""
        return torch.lerp(a, b, t)

    def sample(self, noise: Noise, y: Tensor | None, *, mean: bool | None = None) -> Tensor:
        """Decoded draws from the normal of the training rows' codes: with mean=True the decoder's means (default for
        pictures), else bits and categories drawn by them (default for tables)."""
        centre = self.code_mean.double()
        values, vectors = torch.linalg.eigh(self.code_products.double() - torch.outer(centre, centre))
        root = vectors * values.clamp_min(0).sqrt()
        z = centre + noise.normal(self.code_width).double() @ root.t()
        x = self.decode(z.to(self.code_mean.dtype), y)
        if self.pictures if mean is None else mean:
            return x
        return torch.cat([self._drawn(block, x[:, block.start : block.stop], noise) for block in self.blocks], 1)

    def _drawn(self, block: Block, means: Tensor, noise: Noise) -> Tensor:
        """A draw by the means of a block; numbers have none but themselves."""
        if block.kind == "category":
            return F.one_hot(noise.categorical(means.clamp_min(1e-12).log()[:, None])[:, 0], block.width).to(
                means.dtype
            )
        return noise.bernoulli(means) if block.kind == "binary" else means
