"""Units of Boltzmann machines: one layer of variables, each an exponential family in the field that acts on it.

p(x | f) = exp(f . x - U(x) - A(f)), with U the units' own energy and A the log-partition. A machine's energy is
E = sum over layers of U(x) - f . x over its fields and connections, so everything it needs of a layer is here: A, its
gradient (the mean), samples and U. Bernoulli and softmax: Hinton (2002), Salakhutdinov, Mnih & Hinton (2007); Gaussian with
learned variance: Cho, Ilin & Raiko (2011); rectified: a normal cut off at zero (Tubiana, Cocco & Monasson 2019).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.data.space import Space
from reverie.probability.exponential_family import LOG_2PI
from reverie.rng import Noise

Kind = Literal["bernoulli", "spin", "categorical", "gaussian", "relu"]

_CLIP = 8.0
"""Bound of a log-variance, either way."""
_FAR = 35.0
"""Below minus this a rectified unit's normal has a mass that float64 hardly holds."""


class Units(nn.Module, ABC):
    """`width` columns of units; fields and states are (n, width)."""

    levels: int | None = None
    """How many values each unit has, None where it is a number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @property
    def count(self) -> int:
        """The number of units; categorical ones have several columns each."""
        return self.width

    @property
    def radices(self) -> tuple[int, ...] | None:
        """How many values each unit has, (count,); None where some unit is a number."""
        return None if self.levels is None else (self.levels,) * self.count

    @property
    def bits(self) -> float:
        """Binary digits that the joint states of all units need; infinitely many where some unit is a number."""
        return math.inf if self.radices is None else sum(map(math.log2, self.radices))

    def log_partition(self, field: Tensor) -> Tensor:
        """A(f) = log of the sum, or integral, of exp(f . x - U(x)), (n,)."""
        return self.column_partition(field).sum(1)

    @abstractmethod
    def column_partition(self, field: Tensor) -> Tensor:
        """A(f) unit by unit, (n, width): where a unit has several columns, in its first."""

    @abstractmethod
    def mean(self, field: Tensor) -> Tensor:
        """E[x | f] = dA / df, (n, width)."""

    @abstractmethod
    def sample(self, field: Tensor, noise: Noise) -> Tensor:
        """x ~ p(x | f), (n, width)."""

    def energy(self, x: Tensor) -> Tensor | None:
        """U(x), (n,); None where it is 0 for every state."""
        return None

    def start(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Fields (width,) at which independent units have about that mean; sets what is learned of U from the variance."""
        return self.field_of(mean)

    @abstractmethod
    def field_of(self, mean: Tensor) -> Tensor:
        """The field at which the mean is `mean`, clipped where that would be infinite, (width,)."""

    def sample_at(self, field: Tensor, noise: Noise, temperature: float) -> Tensor:
        """x ~ exp((f . x - U(x)) / T): for units without an energy of their own, of the field f / T."""
        return self.sample(field / temperature, noise)

    def mean_at(self, field: Tensor, temperature: float) -> Tensor:
        """E[x] under exp((f . x - U(x)) / T), (n, width)."""
        return self.mean(field / temperature)

    def states(self, first: int, last: int) -> Tensor:
        """Joint states number `first` to `last` of all units, the first unit's value changing fastest,
        (last - first, width) float64."""
        radices = torch.tensor(self.radices)
        weights = torch.cat([torch.ones(1, dtype=torch.long), radices.cumprod(0)[:-1]])
        return self.values((torch.arange(first, last)[:, None] // weights) % radices)

    def values(self, digits: Tensor) -> Tensor:
        """The states whose units have the values number `digits` (n, count), (n, width) float64."""
        return digits.double()

    def learned(self, x: Tensor, weight: Tensor | None) -> dict[nn.Parameter, Tensor]:
        """Sums over rows of -dU / dp for every parameter p of U."""
        return {}


class Bernoulli(Units):
    """Bits 0 and 1: A = sum softplus(f)."""

    levels = 2

    def column_partition(self, field: Tensor) -> Tensor:
        return F.softplus(field)

    def mean(self, field: Tensor) -> Tensor:
        return torch.sigmoid(field)

    def sample(self, field: Tensor, noise: Noise) -> Tensor:
        return noise.bernoulli(torch.sigmoid(field))

    def field_of(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.clamp(0.001, 0.999))


class Spin(Units):
    """Spins -1 and +1: A = sum log(2 cosh f)."""

    levels = 2

    def column_partition(self, field: Tensor) -> Tensor:
        return torch.logaddexp(field, -field)

    def mean(self, field: Tensor) -> Tensor:
        return torch.tanh(field)

    def sample(self, field: Tensor, noise: Noise) -> Tensor:
        return 2 * noise.bernoulli(torch.sigmoid(2 * field)) - 1

    def field_of(self, mean: Tensor) -> Tensor:
        return torch.atanh(mean.clamp(-0.998, 0.998))

    def values(self, digits: Tensor) -> Tensor:
        return 2 * digits.double() - 1


class Categorical(Units):
    """Softmax units, one-hot over `levels` columns each: A = sum over units of logsumexp(f)."""

    def __init__(self, count: int, levels: int) -> None:
        super().__init__(count * levels)
        self.levels: int = levels

    @property
    def count(self) -> int:
        return self.width // self.levels

    def _split(self, field: Tensor) -> Tensor:
        return field.view(len(field), self.count, self.levels)

    def column_partition(self, field: Tensor) -> Tensor:
        own = torch.logsumexp(self._split(field), 2, keepdim=True)
        return F.pad(own, (0, self.levels - 1)).flatten(1)

    def log_partition(self, field: Tensor) -> Tensor:
        return torch.logsumexp(self._split(field), 2).sum(1)

    def mean(self, field: Tensor) -> Tensor:
        return torch.softmax(self._split(field), 2).flatten(1)

    def sample(self, field: Tensor, noise: Noise) -> Tensor:
        chosen = noise.categorical(self._split(field))
        return F.one_hot(chosen, self.levels).to(field.dtype).flatten(1)

    def field_of(self, mean: Tensor) -> Tensor:
        logs = mean.clamp_min(0.001).log().view(self.count, self.levels)
        return (logs - logs.mean(1, keepdim=True)).flatten()

    def values(self, digits: Tensor) -> Tensor:
        return F.one_hot(digits, self.levels).double().flatten(1)


class Gaussian(Units):
    """Numbers with U = x^2 / (2 v), v learned: x | f ~ N(v f, v), A = sum (v f^2 + log(2 pi v)) / 2."""

    log_variance: Tensor

    def __init__(self, width: int, *, learn_variance: bool = True) -> None:
        super().__init__(width)
        if learn_variance:
            self.log_variance = nn.Parameter(torch.zeros(width))
        else:
            self.register_buffer("log_variance", torch.zeros(width))

    @property
    def variance(self) -> Tensor:
        return self.log_variance.clamp(-_CLIP, _CLIP).exp()

    def column_partition(self, field: Tensor) -> Tensor:
        v = self.variance.to(field.dtype)
        return 0.5 * (v * field.square() + v.log() + LOG_2PI)

    def mean(self, field: Tensor) -> Tensor:
        return self.variance.to(field.dtype) * field

    def sample(self, field: Tensor, noise: Noise) -> Tensor:
        return self.sample_at(field, noise, 1.0)

    def sample_at(self, field: Tensor, noise: Noise, temperature: float) -> Tensor:
        """N(v f, v T)."""
        v = self.variance.to(field.dtype)
        return v * field + (v * temperature).sqrt() * noise.normal(self.width).to(field.dtype)

    def mean_at(self, field: Tensor, temperature: float) -> Tensor:
        return self.mean(field)

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * (x.square() / self.variance.to(x.dtype)).sum(1)

    def start(self, mean: Tensor, variance: Tensor) -> Tensor:
        with torch.no_grad():
            self.log_variance.copy_(variance.clamp_min(math.exp(-_CLIP)).log())
        return self.field_of(mean)

    def field_of(self, mean: Tensor) -> Tensor:
        return mean / self.variance.to(mean.dtype)

    def learned(self, x: Tensor, weight: Tensor | None) -> dict[nn.Parameter, Tensor]:
        """Sums of x^2 / (2 v), which is -dU / d log v."""
        if not isinstance(self.log_variance, nn.Parameter):
            return {}
        squares = x.square() if weight is None else x.square() * weight[:, None].to(x.dtype)
        return {self.log_variance: 0.5 * squares.sum(0) / self.variance.to(x.dtype)}


class ReLU(Units):
    """Numbers from 0 on with U = x^2 / 2: a unit normal about f cut off at 0, A = sum f^2 / 2 + log(sqrt(2 pi) Phi(f))."""

    def column_partition(self, field: Tensor) -> Tensor:
        log_mass: Tensor = torch.special.log_ndtr(field)
        return 0.5 * field.square() + 0.5 * LOG_2PI + log_mass

    def mean(self, field: Tensor) -> Tensor:
        ratio = torch.exp(-0.5 * field.square() - 0.5 * LOG_2PI - torch.special.log_ndtr(field))
        # Far below zero f + phi / Phi cancels: the expansion -1/f (1 - 2/f^2) takes over.
        far = field.clamp_max(-30.0)
        return torch.where(field > -30.0, field + ratio, -(1 - 2 / far.square()) / far).clamp_min(0)

    def sample(self, field: Tensor, noise: Noise) -> Tensor:
        """By inverting the upper tail, P(x > t) = Phi(f - t) / Phi(f) = u; where Phi(f) would underflow the tail is
        exponential with rate -f to one part in f^2."""
        u = noise.uniform(self.width).double().clamp_min(1e-17)
        f = field.double()
        mass: Tensor = torch.exp(torch.special.log_ndtr(f.clamp_min(-_FAR)))  # ndtr itself is 0 below -8.3
        inverse: Tensor = torch.special.ndtri(u * mass)
        tail = u.log() / f.clamp_max(-_FAR)
        return torch.where(f > -_FAR, f - inverse, tail).clamp_min(0).to(field.dtype)

    def sample_at(self, field: Tensor, noise: Noise, temperature: float) -> Tensor:
        """sqrt(T) u with u a unit of field f / sqrt(T)."""
        root = math.sqrt(temperature)
        return root * self.sample(field / root, noise)

    def mean_at(self, field: Tensor, temperature: float) -> Tensor:
        root = math.sqrt(temperature)
        return root * self.mean(field / root)

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1)

    def field_of(self, mean: Tensor) -> Tensor:
        """By bisection: the mean rises with the field."""
        target = mean.clamp_min(0.01).double()
        low, high = torch.full_like(target, -200.0), target.clone()
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self.mean(middle[None])[0] > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (0.5 * (low + high)).to(mean.dtype)


class SideBySide(Units):
    """Layers of several kinds as one, each over columns of its own, in order."""

    def __init__(self, parts: Sequence[Units]) -> None:
        super().__init__(sum(part.width for part in parts))
        self.parts = nn.ModuleList(parts)

    @property
    def count(self) -> int:
        return sum(part.count for part in self.layers)

    @property
    def radices(self) -> tuple[int, ...] | None:
        found = [part.radices for part in self.layers]
        return None if None in found else tuple(itertools.chain.from_iterable(part for part in found if part))

    @property
    def layers(self) -> list[Units]:
        """The parts, in order."""
        return [part for part in self.parts if isinstance(part, Units)]

    def _cut(self, values: Tensor) -> list[tuple[Units, Tensor]]:
        layers = self.layers
        return list(zip(layers, torch.split(values, [part.width for part in layers], -1), strict=True))

    def column_partition(self, field: Tensor) -> Tensor:
        return torch.cat([part.column_partition(own) for part, own in self._cut(field)], 1)

    def log_partition(self, field: Tensor) -> Tensor:
        return torch.stack([part.log_partition(own) for part, own in self._cut(field)]).sum(0)

    def mean(self, field: Tensor) -> Tensor:
        return torch.cat([part.mean(own) for part, own in self._cut(field)], 1)

    def sample(self, field: Tensor, noise: Noise) -> Tensor:
        return torch.cat([part.sample(own, noise) for part, own in self._cut(field)], 1)

    def sample_at(self, field: Tensor, noise: Noise, temperature: float) -> Tensor:
        return torch.cat([part.sample_at(own, noise, temperature) for part, own in self._cut(field)], 1)

    def mean_at(self, field: Tensor, temperature: float) -> Tensor:
        return torch.cat([part.mean_at(own, temperature) for part, own in self._cut(field)], 1)

    def values(self, digits: Tensor) -> Tensor:
        counts = [part.count for part in self.layers]
        own = torch.split(digits, counts, 1)
        return torch.cat([part.values(codes) for part, codes in zip(self.layers, own, strict=True)], 1)

    def energy(self, x: Tensor) -> Tensor | None:
        found = [value for part, own in self._cut(x) if (value := part.energy(own)) is not None]
        return torch.stack(found).sum(0) if found else None

    def start(self, mean: Tensor, variance: Tensor) -> Tensor:
        pairs = zip(self._cut(mean), self._cut(variance), strict=True)
        return torch.cat([part.start(own, spread) for (part, own), (_, spread) in pairs])

    def field_of(self, mean: Tensor) -> Tensor:
        return torch.cat([part.field_of(own) for part, own in self._cut(mean)])

    def learned(self, x: Tensor, weight: Tensor | None) -> dict[nn.Parameter, Tensor]:
        return {key: value for part, own in self._cut(x) for key, value in part.learned(own, weight).items()}


def units_of(space: Space) -> Units:
    """The layer of units that these columns are: bits, softmax units of as many levels, or numbers of learned variance."""
    layers: list[Units] = []
    for kind, run in itertools.groupby(
        space.blocks, key=lambda block: (block.kind, block.kind == "category" and block.width)
    ):
        blocks = list(run)
        width = sum(block.width for block in blocks)
        if kind[0] == "category":
            layers.append(Categorical(len(blocks), blocks[0].width))
        else:
            layers.append(Gaussian(width) if kind[0] == "real" else Bernoulli(width))
    return layers[0] if len(layers) == 1 else SideBySide(layers)


def units(kind: Kind, count: int, levels: int = 2, *, learn_variance: bool = True) -> Units:
    """`count` units of that kind."""
    if kind == "categorical":
        return Categorical(count, levels)
    if kind == "gaussian":
        return Gaussian(count, learn_variance=learn_variance)
    kinds: dict[str, type[Units]] = {"bernoulli": Bernoulli, "spin": Spin, "relu": ReLU}
    return kinds[kind](count)
