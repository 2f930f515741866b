"""Normals on a grid: P(x | k) is the mass of N(mean_k, variance_k) in the cell around a grid point, exactly.

A latent z ~ N lies in the cell of x; EM over z as well as k fits mean and variance by the moments of truncated normals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reverie.data.space import Block
from reverie.probability.cells import cell_edges
from reverie.probability.exponential_family import Sums
from reverie.probability.gaussians.gaussian import DiagonalGaussian
from reverie.rng import Noise

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_FEW_LEVELS = 1024


class GridGaussian(DiagonalGaussian):
    """Columns that hold the grid points of `blocks`, one integer block for each; at the ends of a block the cells take the
    tails, so that the probabilities of its grid points sum to 1."""

    low: Tensor
    high: Tensor

    def __init__(self, size: int, blocks: list[Block], floor: Tensor, *, prior: float = 0.0) -> None:
        super().__init__(size, len(blocks), floor, prior=prior)
        self.blocks = blocks
        ends = [(-math.inf if b.low is None else b.low, math.inf if b.high is None else b.high) for b in blocks]
        self.register_buffer("low", torch.tensor([low for low, _ in ends], dtype=torch.float64), persistent=False)
        self.register_buffer("high", torch.tensor([high for _, high in ends], dtype=torch.float64), persistent=False)

    def complete(self, holes: bool) -> bool:
        return False  # masses of cells are not linear in any few features

    def _log_prob_apart(self, x: Tensor, observed: Tensor | None) -> Tensor:
        out = torch.zeros(len(x), self.size, dtype=torch.float64, device=x.device)
        for j in range(self.width):
            seen, levels, which = self._levels(x, observed, j)
            log_mass, _, _ = self._moments(levels, j)
            out[seen] += log_mass[which]
        return out

    def _sums_apart(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        first, second = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        total = torch.zeros_like(self.mean)
        for j in range(self.width):
            seen, levels, which = self._levels(x, observed, j)
            share = torch.zeros(len(levels), self.size, dtype=torch.float64, device=x.device)
            share.index_add_(0, which, r[seen])
            _, one, two = self._moments(levels, j)
            total[:, j], first[:, j], second[:, j] = share.sum(0), (share * one).sum(0), (share * two).sum(0)
        return {"count": r.sum(0), "seen": total, "first": first, "second": second}

    def _levels(self, x: Tensor, observed: Tensor | None, j: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows that have column j, its distinct values, and each row's number among them: a grid repeats, so the
        special functions are computed once per value."""
        seen = torch.arange(len(x), device=x.device) if observed is None else torch.nonzero(observed[:, j])[:, 0]
        values = x[seen, j].double()
        if len(values) and self.blocks[j].warp is None:
            step, lowest = self.blocks[j].step[0], values.min()
            places = ((values - lowest) / step).round_().clamp_max_(2.0**40).long()
            count = int(places.max()) + 1
            if count <= _FEW_LEVELS:  # counting is quicker than sorting, where no great gaps are counted too
                levels = lowest + step * torch.arange(count, dtype=torch.float64, device=x.device)
                return seen, levels, places
        levels, which = torch.unique(values, return_inverse=True)
        return seen, levels, which

    def _moments(self, levels: Tensor, j: int) -> tuple[Tensor, Tensor, Tensor]:
        """log P(x | k), E[z - mean | x, k] and E[(z - mean)^2 | x, k], each (L, K)."""
        sd = self.variance[:, j].sqrt()
        lower, upper = cell_edges(levels, self.blocks[j])
        a, b = (lower[:, None] - self.mean[:, j]) / sd, (upper[:, None] - self.mean[:, j]) / sd
        log_mass = _log_mass(a, b)
        at_a, at_b = torch.exp(_log_normal(a) - log_mass), torch.exp(_log_normal(b) - log_mass)
        one = at_a - at_b
        two = 1 + torch.where(a.isfinite(), a * at_a, 0.0) - torch.where(b.isfinite(), b * at_b, 0.0)
        return log_mass, sd * one, sd.square() * two.clamp_min(0)

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        x = super().draw(k, noise)
        # Onto the grid through `low` or zero; the codec's own rounding then changes nothing.
        return torch.maximum(torch.minimum(x, self.high), self.low)


def _log_normal(x: Tensor) -> Tensor:
    return -0.5 * x.square() - _LOG_ROOT_2PI


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """log(Phi(b) - Phi(a)), a < b, from the side where both are small."""
    flip = a + b > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    log_b: Tensor = torch.special.log_ndtr(b)
    ratio: Tensor = torch.exp((torch.special.log_ndtr(a) - log_b).clamp_max(-1e-300))
    return log_b + torch.log1p(-ratio)
