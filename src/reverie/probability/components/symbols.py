"""Symbols from a large alphabet, as codes: P(code | k) by looking rows up, never as one-hot columns."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.probability.exponential_family import EMPTY, Components, Move, Sums, log_probability, stay
from reverie.rng import Noise


class Symbols(Components):
    """One column that holds codes 0 .. levels - 1, with a Dirichlet(1 + a) prior on each member (a = pseudo-count)."""

    own = ("probability",)
    probability: Tensor

    def __init__(self, size: int, levels: int, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.levels, self.smoothing = size, 1, levels, smoothing
        self.register_buffer("probability", torch.full((size, levels), 1 / levels, dtype=torch.float64))

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        table = log_probability(self.probability).t().contiguous()
        out = table[_codes(x, observed)]
        return out if observed is None else out.mul_(observed)

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        total = torch.zeros(self.levels, self.size, dtype=torch.float64, device=x.device)
        total.index_add_(0, _codes(x, observed), r if observed is None else r * observed)
        return {"count": r.sum(0), "levels": total.t().contiguous()}

    def maximise(self, sums: Sums) -> Move:
        raised = sums["levels"] + self.smoothing
        total = raised.sum(1, keepdim=True)
        self.probability.copy_(torch.where(total > EMPTY, raised / total.clamp_min(1e-300), self.probability))
        return stay

    def implied(self, count: Tensor) -> Sums:
        return {"count": count, "levels": count[:, None] * self.probability}

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        weight = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        weight = weight if observed is None else weight * observed[:, 0]
        counts = torch.bincount(_codes(rows, observed), weights=weight, minlength=self.levels) + 0.5
        self.probability.copy_((counts / counts.sum()).expand_as(self.probability))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform(1).double()
        cumulative = self.probability.cumsum(1)
        out = torch.empty(len(k), 1, dtype=torch.float64, device=k.device)
        for member in torch.unique(k).tolist():
            rows = torch.nonzero(k == member)[:, 0]
            level = torch.searchsorted(cumulative[member], u[rows, 0] * cumulative[member, -1], right=True)
            out[rows, 0] = level.clamp_max(self.levels - 1).double()
        return out

    def mean_given(self, x: Tensor, observed: Tensor, r: Tensor) -> Tensor:
        """Missing symbols at the likeliest one: codes have no mean."""
        out = x.double().clone()
        rows = torch.nonzero(~observed[:, 0])[:, 0]
        out[rows, 0] = (r[rows] @ self.probability).argmax(1).double()
        return out

    def means(self) -> Tensor:
        """The likeliest code of each member, (K, 1)."""
        return self.probability.argmax(1, keepdim=True).double()

    def free_parameters(self) -> int:
        return self.size * (self.levels - 1)

    def log_prior(self) -> Tensor:
        return self.smoothing * log_probability(self.probability).sum()

    def _part(self, source: int, target: int) -> None:
        self.probability[source, ::2] *= 0.8
        self.probability[target, 1::2] *= 0.8
        for member in (source, target):
            self.probability[member] /= self.probability[member].sum()


def _codes(x: Tensor, observed: Tensor | None) -> Tensor:
    codes = x[:, 0].long()
    return codes if observed is None else torch.where(observed[:, 0], codes, 0)
