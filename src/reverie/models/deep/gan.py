"""Generative adversarial network (Goodfellow et al. 2014), with class condition (Mirza & Osindero 2014).

min_G max_D  E_x log sigmoid(D(x)) + E_z log(1 - sigmoid(D(G(z)))),  z ~ N(0, I).

`minimax` lets the generator minimise the second term; `non_saturating` lets it maximise E_z log sigmoid(D(G(z))), which
keeps its gradient when the discriminator wins (section 3 of the paper). An R1 penalty on real examples (Mescheder et al.
2018, eq. 9) damps the rotation of the game. There is no likelihood.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe, replace
from reverie.data.schema import Schema
from reverie.data.space import Batch, Block, Space, Wants
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.adversarial import Adversarial, Player
from reverie.learning.rules.descent import Descent, OptimizerName, ScheduleName
from reverie.learning.run import Run
from reverie.nn import specs
from reverie.nn.specs import MLP, ConvNet, Network
from reverie.rng import Noise


@recipe
class GAN(Estimator):
    """Generator against discriminator, for tables of any columns and for images."""

    family: ClassVar[str] = "gan"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 128, "ema": 0.999}

    latent: int = Field(default=32, ge=1)
    """Dimensions of the generator's input z."""
    loss: Literal["non_saturating", "minimax"] = "non_saturating"
    """The generator's side of the game."""
    r1: float = Field(default=0.1, ge=0)
    """Weight of the R1 penalty (r1 / 2) |grad_x D(x)|^2 on real examples; 0 leaves it out."""
    r1_every: int = Field(default=1, ge=1)
    """Rounds between R1 penalties, each then weighted by that number (lazy regularisation, Karras et al. 2020)."""
    generator: Network = "auto"
    """Network from z to an example: auto, a spec or a module."""
    discriminator: Network = "auto"
    """Network from an example to one logit: auto, a spec or a module."""
    discriminator_updates: int = Field(default=1, ge=1)
    """Updates of the discriminator per update of the generator."""
    numbers: Literal["standardise", "quantile"] = "standardise"
    """Continuous columns are standardised, or mapped to normal scores by their quantiles (heavy tails)."""
    temperature: float = Field(default=0.5, gt=0)
    """Temperature of the relaxed draws of category and yes/no columns."""
    optimizer: OptimizerName = "adam"
    """Optimizer of both players."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the generator at its highest."""
    discriminator_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the discriminator; None takes the generator's."""
    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of Adam."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of Adam's second moment."""
    schedule: ScheduleName = "cosine"
    """How the learning rates fall over the budget."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "category", "boolean", "datetime", "image"}),
            numbers=self.numbers,
            discrete="round",
            images="symmetric",
            missing="flag",
            conditions=frozenset({"labels", "vector", "columns"}),
            density=False,
        )

    def resolve(self, space: Space) -> Self:
        mlp = (
            MLP(hidden=(256, 256), activation="relu") if space.grid else MLP(hidden=(128, 128, 128), activation="relu")
        )
        up = ConvNet(channels=(32, 64), hidden=0, activation="relu")
        down = ConvNet(channels=(24, 48, 96), kernel=4, hidden=0, activation="leaky_relu")
        return replace(
            self,
            generator=specs.resolve(self.generator, space.shape, mlp=mlp, conv=up),
            discriminator=specs.resolve(self.discriminator, space.shape, mlp=mlp, conv=down),
        )

    def build(self, space: Space) -> GANNetwork:
        return GANNetwork(self, space)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, GANNetwork)

        def descent(parameters: list[nn.Parameter], lr: float) -> Descent:
            return Descent(
                parameters,
                run,
                optimizer=self.optimizer,
                lr=lr,
                betas=(self.beta1, self.beta2),
                decay=self.schedule,
            )

        def learner() -> Adversarial:
            critic = descent(list(network.discriminator.parameters()), self.discriminator_lr or self.lr)
            artist = descent(list(network.generator.parameters()), self.lr)
            players = [
                Player("discriminator", critic, network.discriminator_loss, self.discriminator_updates),
                Player("generator", artist, network.generator_loss),
            ]
            return Adversarial(network, players, run)

        return [Phase("train", learner)]


class GANNetwork(nn.Module):
    """Both players, and the two losses of the game."""

    def __init__(self, options: GAN, space: Space) -> None:
        super().__init__()
        self.space, self.code_width = space, options.latent
        self._loss, self._r1, self._r1_every = options.loss, options.r1, options.r1_every
        self._temperature = options.temperature
        shape: tuple[int, ...] = space.shape or (space.width,)
        condition = space.condition_width
        self.generator = specs.build(options.generator, (options.latent,), shape, condition)  # type: ignore[arg-type]
        self.discriminator = specs.build(options.discriminator, shape, (1,), condition)  # type: ignore[arg-type]

    def judge(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The discriminator's logits: positive where it takes x for real, (n,)."""
        out: Tensor = self.discriminator(x) if y is None else self.discriminator(x, y)
        return out[:, 0]

    def generate(self, z: Tensor, y: Tensor | None, noise: Noise | None) -> Tensor:
        """x = G(z). Category and yes/no columns are straight-through relaxed draws (Jang et al. 2017): exactly one-hot
        forwards, soft backwards, so that the discriminator cannot tell real codes by their being whole. Without noise
        they are the most probable value."""
        raw: Tensor = self.generator(z) if y is None else self.generator(z, y)
        if self.space.shape is not None:
            return torch.tanh(raw)
        if self.space.kinds == {"real"}:
            return raw
        return torch.cat([self._head(block, raw[:, block.start : block.stop], noise) for block in self.space.blocks], 1)

    def _head(self, block: Block, raw: Tensor, noise: Noise | None) -> Tensor:
        if block.kind == "real":
            return raw
        if block.kind == "binary":
            logits, width = torch.stack([raw, torch.zeros_like(raw)], -1), (block.width, 2)
        else:
            logits, width = raw[:, None, :], (1, block.width)
        if noise is not None:
            u = noise.uniform(*width).to(raw.dtype).clamp(1e-7, 1 - 1e-7)
            logits = logits - torch.log(-torch.log(u))
        soft = torch.softmax(logits / self._temperature, -1)
        hard = F.one_hot(logits.argmax(-1), width[1]).to(raw.dtype)
        drawn = hard + soft - soft.detach()
        return drawn[..., 0] if block.kind == "binary" else drawn[:, 0]

    # ------------------------------------------------------------------ the game

    def discriminator_loss(self, batch: Batch, noise: Noise, round_: int) -> dict[str, Tensor]:
        """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z)))) per row, with R1 on the real half every few rounds."""
        with torch.no_grad():
            fake = self.generate(noise.normal(self.code_width), batch.y, noise)
        penalised = self._r1 > 0 and round_ % self._r1_every == 0
        real = batch.x.requires_grad_(True) if penalised else batch.x
        on_real, on_fake = self.judge(real, batch.y), self.judge(fake, batch.y)
        loss = F.softplus(-on_real) + F.softplus(on_fake)
        if penalised:
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            loss = loss + 0.5 * self._r1 * self._r1_every * slope.flatten(1).square().sum(1)
        accuracy = 0.5 * ((on_real > 0).to(loss.dtype) + (on_fake <= 0).to(loss.dtype))
        return {"loss": loss, "accuracy": accuracy}

    def generator_loss(self, batch: Batch, noise: Noise, round_: int) -> dict[str, Tensor]:
        """-log sigmoid(D(G(z))) (non-saturating) or log(1 - sigmoid(D(G(z)))) (minimax), per row."""
        logits = self.judge(self.generate(noise.normal(self.code_width), batch.y, noise), batch.y)
        return {"loss": F.softplus(-logits) if self._loss == "non_saturating" else -F.softplus(logits)}

    # ------------------------------------------------------------------ capabilities

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        """G(z), z ~ N(0, I)."""
        return self.generate(noise.normal(self.code_width), y, noise)

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """G(z), with the most probable category and yes/no values."""
        return self.generate(z, y, None)
