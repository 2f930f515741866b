"""Sets over bits, counts and categories: parameters are probabilities and rates, smoothed by pseudo-counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.probability.exponential_family import Move, Sums, keep_if_empty, log_probability, stay, totals
from reverie.probability.features import SharedFeatures
from reverie.rng import Noise


class _Counted(SharedFeatures):
    """Sets with one parameter per column, learned from the column's total over the rows that have it."""

    def feature_count(self, holes: bool) -> int:
        return self.width * (2 if holes else 1)

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        out[: self.width] = x
        if observed is not None:
            out[self.width :] = observed

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        seen = product[:, self.width :] if holes else count[:, None].expand(-1, self.width)
        return {"total": product[:, : self.width].clone(), "seen": seen.clone()}

    def implied(self, count: Tensor) -> Sums:
        seen = count[:, None].expand(-1, self.width).clone()
        return {"count": count, "total": seen * self.means(), "seen": seen}

    def free_parameters(self) -> int:
        return self.size * self.width


class Bernoulli(_Counted):
    """Bits: P(x_j = 1 | k) = p_kj, with a Beta(1 + a, 1 + a) prior on each (a = pseudo-count, Laplace smoothing at 1)."""

    own = ("probability",)
    probability: Tensor

    def __init__(self, size: int, width: int, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.smoothing = size, width, smoothing
        self.register_buffer("probability", torch.full((size, width), 0.5, dtype=torch.float64))

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        on, off = log_probability(self.probability), log_probability(1 - self.probability)
        if holes:
            return torch.cat([on - off, off], 1), torch.zeros(self.size, dtype=torch.float64, device=on.device)
        return on - off, off.sum(1)

    def maximise(self, sums: Sums) -> Move:
        a = self.smoothing
        total = sums["seen"] + 2 * a
        new = torch.where(total > 0, (sums["total"] + a) / total.clamp_min(1e-300), self.probability).clamp(0, 1)
        self.probability.copy_(keep_if_empty(sums["count"], new, self.probability))
        return stay

    def log_prior(self) -> Tensor:
        p = self.probability
        return self.smoothing * (log_probability(p) + log_probability(1 - p)).sum()

    def _part(self, source: int, target: int) -> None:
        _part_probabilities(self.probability, source, target)

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        on, seen = totals(rows, observed)
        self.probability.copy_(((on + 0.5) / (seen + 1)).expand_as(self.probability))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        return noise.bernoulli(self.probability[k])

    def means(self) -> Tensor:
        return self.probability


class Poisson(_Counted):
    """Counts: P(x_j | k) = rate^x e^-rate / x!, with a Gamma prior that adds `smoothing` rows of the overall rate."""

    own = ("rate",)
    rate: Tensor
    overall: Tensor

    def __init__(self, size: int, width: int, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.smoothing = size, width, smoothing
        self.register_buffer("rate", torch.ones(size, width, dtype=torch.float64))
        self.register_buffer("overall", torch.ones(width, dtype=torch.float64))

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        log_rate = log_probability(self.rate)
        if holes:
            return torch.cat([log_rate, -self.rate], 1), torch.zeros(self.size).to(log_rate)
        return log_rate, -self.rate.sum(1)

    def base(self, x: Tensor, observed: Tensor | None) -> Tensor | None:
        return -torch.lgamma(x.double() + 1).sum(0)

    def maximise(self, sums: Sums) -> Move:
        a = self.smoothing
        seen = sums["seen"] + a
        new = torch.where(seen > 0, (sums["total"] + a * self.overall) / seen.clamp_min(1e-300), self.rate)
        self.rate.copy_(keep_if_empty(sums["count"], new, self.rate))
        return stay

    def log_prior(self) -> Tensor:
        return self.smoothing * (self.overall * log_probability(self.rate) - self.rate).sum()

    def _part(self, source: int, target: int) -> None:
        self.rate[source] *= 0.8
        self.rate[target] *= 1.25

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        total, seen = totals(rows, observed)
        self.overall.copy_((total + 0.5) / (seen + 1))
        self.rate.copy_(self.overall.expand_as(self.rate))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        """By inverting the distribution function, so that a row's draw depends on its own uniforms only."""
        rate = self.rate[k]
        u = noise.uniform(self.width).double()
        out = torch.zeros_like(rate)
        term = torch.exp(-rate)
        below = term.clone()
        most = int(torch.ceil(rate.max() + 12 * rate.max().sqrt() + 30)) if rate.numel() else 0
        if most > 2000:  # a sum of so many terms is slow, and exp(-rate) vanishes: the normal quantile is as good
            wide = rate > 500
            normal = torch.special.ndtri(u.clamp(1e-16, 1 - 1e-16))
            # Cornish-Fisher to second order: error O(1 / rate) in the count.
            approximate = torch.floor(rate + normal * rate.sqrt() + (normal.square() - 1) / 6 + 0.5).clamp_min(0)
            out, below = torch.where(wide, approximate, out), torch.where(wide, torch.ones_like(below), below)
            most = 800
        for value in range(1, most + 1):
            more = u >= below
            if not bool(more.any()):
                break
            out += more
            term = term * rate / value
            below = below + term
        return out

    def means(self) -> Tensor:
        return self.rate


class Categorical(SharedFeatures):
    """Fields of one-hot columns: P(level l of field j | k), each with a Dirichlet(1 + a) prior (a = pseudo-count)."""

    own = ("probability",)
    probability: Tensor
    field: Tensor

    def __init__(self, size: int, widths: Sequence[int], *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.smoothing = size, sum(widths), smoothing
        self.widths = tuple(widths)
        levels = torch.tensor(self.widths, dtype=torch.float64)
        field = torch.repeat_interleave(torch.arange(len(widths)), levels.long())
        self.register_buffer("field", field, persistent=False)
        self.register_buffer("probability", (1 / levels[field]).expand(size, -1).clone())

    def feature_count(self, holes: bool) -> int:
        return self.width

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        out.copy_(x)

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        # A missing field has no 1 among its columns and drops out by itself.
        zero = torch.zeros(self.size, dtype=torch.float64, device=self.probability.device)
        return log_probability(self.probability), zero

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        return {"levels": product.clone()}

    def maximise(self, sums: Sums) -> Move:
        raised = sums["levels"] + self.smoothing
        total = self._per_field(raised)
        new = torch.where(total > 0, raised / total.clamp_min(1e-300), self.probability)
        self.probability.copy_(keep_if_empty(sums["count"], new, self.probability))
        return stay

    def _per_field(self, values: Tensor) -> Tensor:
        """The sum over each column's field, (K, width)."""
        totals = torch.zeros(values.shape[0], len(self.widths), dtype=values.dtype, device=values.device)
        return totals.index_add_(1, self.field, values)[:, self.field]

    def log_prior(self) -> Tensor:
        return self.smoothing * log_probability(self.probability).sum()

    def _part(self, source: int, target: int) -> None:
        _part_probabilities(self.probability, source, target)
        self.probability.div_(self._per_field(self.probability))

    def implied(self, count: Tensor) -> Sums:
        return {"count": count, "levels": count[:, None] * self.probability}

    def free_parameters(self) -> int:
        return self.size * (self.width - len(self.widths))

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        on, _ = totals(rows, observed)
        raised = (on + 0.5)[None]
        self.probability.copy_((raised / self._per_field(raised)).expand_as(self.probability))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform(len(self.widths)).double()
        chosen = self.probability[k]
        out = torch.zeros_like(chosen)
        for number, (start, width) in enumerate(zip(self._starts(), self.widths, strict=True)):
            cumulative = chosen[:, start : start + width].cumsum(1)
            level = (cumulative <= u[:, number, None] * cumulative[:, -1:]).sum(1).clamp_(max=width - 1)
            out[torch.arange(len(k), device=k.device), start + level] = 1.0
        return out

    def _starts(self) -> list[int]:
        return [sum(self.widths[:number]) for number in range(len(self.widths))]

    def means(self) -> Tensor:
        return self.probability


def _part_probabilities(probability: Tensor, source: int, target: int) -> None:
    """Raise every second probability of one member and lower those of the other by a fifth of their room."""
    room = 0.2 * probability[source] * (1 - probability[source])
    room[::2] *= -1
    probability[source] += room
    probability[target] -= room
