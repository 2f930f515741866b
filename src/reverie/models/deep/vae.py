"""Variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

log p(x) >= E_q(z|x) [log p(x | z)] - KL(q(z | x) || p(z)),  p(z) = N(0, I),  q(z | x) = N(mu(x), diag sigma^2(x)).

The decoder's likelihood follows the data: Bernoulli for bits, categorical for classes, Gaussian for reals, discretised
logistic for integers and grey levels. Missing cells drop out of the likelihood and the encoder is told which they are
(Nazabal et al. 2020); imputation draws from p(x_missing | x_observed) by importance resampling (Mattei & Frellsen 2019).
With y, everything is conditional on it (Sohn et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe, replace
from reverie.data.schema import Schema
from reverie.data.space import Batch, Block, Space, Wants
from reverie.errors import InvalidOption
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.descent import Descent, OptimizerName, ScheduleName
from reverie.learning.rules.gradient import Gradient
from reverie.learning.run import Run
from reverie.nn import specs
from reverie.nn.specs import MLP, ConvNet, Network
from reverie.probability import likelihoods as lik
from reverie.probability.cells import cell_edges
from reverie.rng import Noise


@recipe
class VAE(Estimator):
    """Variational autoencoder for tables of any columns and for images."""

    family: ClassVar[str] = "vae"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 50, "batch_size": 128, "ema": 0.995}

    latent: int = Field(default=16, ge=1)
    """Dimensions of the latent code z."""
    beta: float = Field(default=1.0, ge=0)
    """Weight of the KL term; 1 maximises the evidence lower bound."""
    kl_warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the budget over which the weight of the KL term rises from 0 to beta."""
    encoder: Network = "auto"
    """Network from x to mean and log-variance of q(z | x): auto, a spec or a module."""
    decoder: Network = "auto"
    """Network from z to the parameters of p(x | z): auto, a spec or a module."""
    pixels: Literal["native", "binary", "threshold"] = "native"
    """Likelihood of images: of their grey levels as they are, or of pixels binarised anew for every batch or at one
    half."""
    numbers: Literal["standardise", "quantile"] = "standardise"
    """Continuous columns are standardised, or mapped to normal scores by their quantiles (heavy tails)."""
    optimizer: OptimizerName = "adam"
    """Optimizer."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate at its highest."""
    schedule: ScheduleName = "cosine"
    """How the learning rate falls over the budget."""
    warmup: float = Field(default=0.01, ge=0, lt=1)
    """Share of the budget over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the optimizer."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "category", "boolean", "datetime", "image"}),
            numbers=self.numbers,
            discrete="native",
            images=self.pixels,
            missing="mask",
            conditions=frozenset({"labels", "vector", "columns"}),
        )

    def resolve(self, space: Space) -> Self:
        mlp = MLP(hidden=(512, 512), activation="gelu") if space.grid else MLP(hidden=(256, 256), activation="gelu")
        conv = ConvNet(channels=(16, 32), activation="gelu")
        return replace(
            self,
            encoder=specs.resolve(self.encoder, space.shape, mlp=mlp, conv=conv),
            decoder=specs.resolve(self.decoder, space.shape, mlp=mlp, conv=conv),
        )

    def build(self, space: Space) -> VAENetwork:
        return VAENetwork(self, space)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, VAENetwork)

        def learner() -> Gradient:
            descent = Descent(
                list(network.parameters()),
                run,
                optimizer=self.optimizer,
                lr=self.lr,
                weight_decay=self.weight_decay,
                decay=self.schedule,
                warmup=self.warmup,
            )
            return Gradient(network, descent, run, start=network.start if fresh else None)

        return [Phase("train", learner)]


class VAENetwork(nn.Module):
    """Encoder, decoder and the likelihood of each block of the space."""

    likelihood = "lower bound"
    centre: Tensor
    _steps: Tensor

    def __init__(self, options: VAE, space: Space) -> None:
        super().__init__()
        self.space, self.code_width = space, options.latent
        self._beta, self._kl_warmup = options.beta, options.kl_warmup
        in_shape: tuple[int, ...] = space.shape or (space.width,)
        if space.missing:  # the mask enters beside the values
            in_shape = (2 * in_shape[0], *in_shape[1:])
        outputs = sum(lik.parameter_width(block.kind, block.width) for block in space.blocks)
        out_shape: tuple[int, ...] = (outputs,)
        if space.shape:
            _, height, width = space.shape
            out_shape = (outputs // (height * width), height, width)
        condition = space.condition_width
        self.encoder = specs.build(options.encoder, in_shape, (2 * options.latent,), condition)  # type: ignore[arg-type]
        self.decoder = specs.build(options.decoder, (options.latent,), out_shape, condition)  # type: ignore[arg-type]
        # Where the data's mean goes: the decoder starts from it instead of learning it, the encoder sees what differs.
        self.register_buffer("centre", torch.zeros(space.width))
        self.bias = nn.Parameter(torch.zeros(outputs))
        steps = [step for block in space.blocks for step in _step_columns(block)]
        self.register_buffer("_steps", torch.tensor(steps), persistent=False)

    # ------------------------------------------------------------------ the two halves

    def start(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Centre the encoder's input, and let the decoder's bits and classes begin at their frequency in the data."""
        sums, counts = torch.zeros(self.space.width, dtype=torch.float64), torch.zeros(self.space.width)
        for batch in batches():
            x = batch.x.detach().flatten(1).cpu()
            seen = torch.ones_like(x) if batch.observed is None else batch.observed.flatten(1).cpu().to(x.dtype)
            sums += (x * seen).sum(0).double()
            counts += seen.sum(0)
        mean = (sums / counts.clamp_min(1)).float()
        self.centre.copy_(mean)
        start = 0
        with torch.no_grad():
            for block in self.space.blocks:
                wide = lik.parameter_width(block.kind, block.width)
                share = mean[block.start : block.stop].clamp(0.001, 0.999)
                if block.kind == "binary":
                    self.bias[start : start + wide] = torch.logit(share)
                elif block.kind == "category":
                    self.bias[start : start + wide] = share.log()
                start += wide

    def posterior(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each (n, latent)."""
        x = x - self.centre.view_as(x[0])
        if self.space.missing:
            seen = torch.ones_like(x) if observed is None else observed.to(x.dtype)
            x = torch.cat([x * seen, seen], 1)
        elif observed is not None:
            x = x * observed
        out = self.encoder(x) if y is None else self.encoder(x, y)
        mean, log_variance = out.chunk(2, 1)
        return mean, log_variance.clamp(-15, 10)

    def parameters_of(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The decoder's output, one flat row per example."""
        out: Tensor = self.decoder(z) if y is None else self.decoder(z, y)
        return out.flatten(1) + self.bias

    def cell_log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x_j | z) of each column, (n, width)."""
        x, parts, start = x.flatten(1), [], 0
        for block in self.space.blocks:
            wide = lik.parameter_width(block.kind, block.width)
            cells, own = x[:, block.start : block.stop], parameters[:, start : start + wide]
            start += wide
            match block.kind:
                case "real":
                    parts.append(lik.normal(cells, own))
                case "integer" if block.warp is not None:
                    parts.append(lik.logistic_mass(*cell_edges(cells, block), own))
                case "integer":
                    step = self._steps[block.start : block.stop]
                    parts.append(lik.discretised_logistic(cells, own, step, block.low, block.high))
                case "binary":
                    parts.append(lik.bernoulli(cells, own))
                case "category":
                    parts.append(lik.categorical(cells, own))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def row_log_prob(self, x: Tensor, observed: Tensor | None, parameters: Tensor) -> Tensor:
        """log p(x_observed | z), (n,)."""
        cells = self.cell_log_prob(x, parameters)
        if observed is not None:
            cells = cells.masked_fill(~observed.flatten(1), 0.0)
        return cells.sum(1)

    def expected(self, parameters: Tensor) -> Tensor:
        """E[x | z], in x's shape: locations, bit and class probabilities."""
        return self._read(parameters, None)

    def _read(self, parameters: Tensor, noise: Noise | None) -> Tensor:
        """A draw from p(x | z), or its mean when there is no noise."""
        parts, start = [], 0
        for block in self.space.blocks:
            wide = lik.parameter_width(block.kind, block.width)
            own = parameters[:, start : start + wide]
            start += wide
            parts.append(_mean(block, own) if noise is None else _draw(block, own, noise))
        x = torch.cat(parts, 1)
        return x.view(-1, *self.space.shape) if self.space.shape else x

    # ------------------------------------------------------------------ learning

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]:
        """Negative evidence lower bound per row, with one draw of z (Kingma & Welling 2014, eq. 7)."""
        mean, log_variance = self.posterior(batch.x, batch.observed, batch.y)
        z = mean + torch.exp(0.5 * log_variance) * noise.normal(self.code_width)
        misfit = -self.row_log_prob(batch.x, batch.observed, self.parameters_of(z, batch.y))
        kl = lik.normal_kl(mean, log_variance)
        beta = self._beta * min(1.0, progress / self._kl_warmup) if self._kl_warmup else self._beta
        return {"loss": misfit + beta * kl, "misfit": misfit, "kl": kl}

    # ------------------------------------------------------------------ capabilities

    def log_prob(
        self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise, *, samples: int = 16
    ) -> Tensor:
        """Importance-weighted lower bound log (1/K) sum_k p(x, z_k) / q(z_k | x) with K = `samples`, (n,) nats.

        K = 1 is an unbiased draw of the evidence lower bound; the bound rises with K (Burda et al. 2016, eq. 8).
        """
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise InvalidOption(f"samples: expected a whole number of at least 1, got {samples!r}")
        mean, log_variance = self.posterior(x, observed, y)
        total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        for _ in range(samples):
            _, _, log_weight = self._importance(x, observed, y, mean, log_variance, noise)
            total = torch.logaddexp(total, log_weight)
        return total - math.log(samples)

    def _importance(
        self, x: Tensor, observed: Tensor | None, y: Tensor | None, mean: Tensor, log_variance: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A draw z ~ q, the decoder's parameters there, and log p(x_observed, z) - log q(z | x) in float64."""
        e = noise.normal(self.code_width)
        z = mean + torch.exp(0.5 * log_variance) * e
        parameters = self.parameters_of(z, y)
        log_q = lik.standard_normal(e) - 0.5 * log_variance.sum(1)
        log_p = self.row_log_prob(x, observed, parameters) + lik.standard_normal(z)
        return z, parameters, log_p.double() - log_q.double()

    def sample(self, noise: Noise, y: Tensor | None, *, mean: bool | None = None) -> Tensor:
        """z ~ N(0, I), then x ~ p(x | z), or E[x | z] with mean=True. Default: the mean for images, as is usual for
        pictures, and draws for tables."""
        parameters = self.parameters_of(noise.normal(self.code_width), y)
        use_mean = self.space.grid is not None if mean is None else mean
        return self._read(parameters, None if use_mean else noise)

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """The mean of q(z | x), (n, latent)."""
        return self.posterior(x, observed, y)[0]

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """E[x | z]."""
        return self.expected(self.parameters_of(z, y))

    def blend(self, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """The code `weight` of the way from a to b, on a straight line."""
        return torch.lerp(a, b, weight)

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, proposals: int = 64
    ) -> Tensor:
        """x with missing cells filled from p(x_missing | x_observed): self-normalised importance weights over draws of
        q(z | x_observed); their average (mean) or one draw resampled by weight (Mattei & Frellsen 2019, section 3)."""
        centre, log_variance = self.posterior(x, observed, y)
        total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        kept = torch.zeros(len(x), 1, device=x.device)
        for _ in range(proposals):
            _, parameters, log_weight = self._importance(x, observed, y, centre, log_variance, noise)
            total = torch.logaddexp(total, log_weight)
            share = torch.exp(log_weight - total)[:, None].to(x.dtype)
            if mean:
                kept = kept + share * (self.expected(parameters).flatten(1) - kept)
            else:  # reservoir sampling: each proposal ends up kept with probability equal to its weight
                kept = torch.where(noise.uniform(1) < share, parameters, kept)
        filled = kept if mean else self._read(kept, noise).flatten(1)
        return torch.where(observed, x, filled.view_as(x))


def _step_columns(block: Block) -> list[float]:
    """The grid spacing of each column of a block; 0 where there is none."""
    if not block.step:
        return [0.0] * block.width
    return list(block.step) * (block.width // len(block.step))


def _mean(block: Block, own: Tensor) -> Tensor:
    match block.kind:
        case "binary":
            return torch.sigmoid(own)
        case "category":
            return torch.softmax(own, 1)
    location = lik.split_scale(own)[0]
    return location if block.low is None and block.high is None else location.clamp(block.low, block.high)


def _draw(block: Block, own: Tensor, noise: Noise) -> Tensor:
    match block.kind:
        case "real":
            return lik.draw_normal(own, noise)
        case "integer":
            return lik.draw_logistic(own, noise)
        case "binary":
            return noise.bernoulli(torch.sigmoid(own))
    codes = noise.categorical(own)
    return nn.functional.one_hot(codes, block.width).to(own.dtype)
