"""What users and items are like on the whole: a user's offset g and an item's place d_i move every rating of theirs up or down.

    p(v_i = k | g) = softmax_k(b_k + (d_i + g) z_k),     g ~ N(0, s^2) on a grid,     d_i ~ N(0, t^2)

with z the levels' numbers, standardised: the rating scale model (Andrich 1978) with offsets integrated out, learned by EM (Bock &
Aitkin 1981). The variances are learned too, so that how far a user of few ratings, or an item of few, is drawn to the mean needs no
setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 33
"""Places of the offset, evenly over 4.5 standard deviations to either side."""
_PASSES = 20
_FIRST = 0.25
"""The variances of offsets and of places that EM starts from."""
_NUMBERS = 2**21
"""Numbers of items x places x levels that are held together."""


@dataclasses.dataclass
class Offsets:
    """base (items, levels): b_k + d_i z_k; the levels' numbers z; places of g, (GRID,); log p(g)."""

    base: Tensor
    z: Tensor
    grid: Tensor
    prior: Tensor


def places() -> tuple[Tensor, Tensor]:
    """Standardised places of the offset and their log-probabilities."""
    t = torch.linspace(-4.5, 4.5, GRID, dtype=torch.float64)
    return t, torch.log_softmax(-(t**2) / 2, 0)


def numbers(total: Tensor) -> Tensor:
    """The levels in order as numbers of mean 0 and variance 1 under so many ratings of each, (levels,)."""
    level = torch.arange(len(total), dtype=torch.float64)
    share = total / total.sum()
    mean = share @ level
    return (level - mean) / (share @ (level - mean) ** 2).sqrt().clamp_min(0.1)


def log_masses(base: Tensor, z: Tensor, grid: Tensor) -> Tensor:
    """log sum_k exp(base_ik + g z_k), (items, places of g)."""
    return torch.logsumexp(base[:, None] + grid[:, None] * z, 2)


def fit_offsets(items: Tensor, rating: Tensor, lengths: Tensor, weight: Tensor, counts: Tensor) -> Offsets:
    """EM over users given as `items`, `rating` (N,) user after user, `lengths` and `weight` (n,); `counts` (items, levels) are
    the weighted ratings."""
    total = counts.sum(0) + 1e-3
    z, (t, prior) = numbers(total), places()
    b, d = (total / total.sum()).log(), counts.new_zeros(len(counts))
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    raters = row[items.argsort(stable=True)]
    first, last = lengths.cumsum(0) - lengths, torch.bincount(items, minlength=len(counts))
    level = counts.new_zeros(len(lengths)).index_add_(0, row, z[rating])
    phi, variance, spread = counts.new_empty(len(counts), GRID), _FIRST, _FIRST
    for _ in range(_PASSES):
        grid = spread**0.5 * t
        for piece in _pieces(counts):
            phi[piece] = log_masses(b + d[piece, None] * z, z, grid)
        own = F.embedding_bag(items, phi, first, mode="sum")
        posterior = torch.softmax(prior + level[:, None] * grid - own, 1) * weight[:, None]
        seen = F.embedding_bag(raters, posterior, last.cumsum(0) - last, mode="sum")
        expected, bend = torch.zeros_like(total), torch.empty_like(d)
        for piece in _pieces(counts):
            law = (b + (d[piece, None] + grid)[:, :, None] * z - phi[piece, :, None]).exp()
            mean = law @ z
            slope = counts[piece] @ z - (seen[piece] * mean).sum(1) - d[piece] / variance
            bend[piece] = (seen[piece] * (law @ z**2 - mean**2)).sum(1) + 1 / variance
            expected += torch.einsum("ig,igk->k", seen[piece], law)
            d[piece] += (slope / bend[piece]).clamp(-0.5, 0.5)
        b = b + 0.7 * (total / (expected + 1e-3)).log()
        variance = float((d**2 + 1 / bend).mean().clamp_min(1e-6))
        spread = float(((posterior @ grid**2).sum() / weight.sum()).clamp_min(1e-6))
    base = b + d[:, None] * z
    return Offsets(base - base.mean(1, keepdim=True), z, spread**0.5 * t, prior)


def _pieces(counts: Tensor) -> Iterator[slice]:
    size = max(1, _NUMBERS // (GRID * counts.shape[1]))
    return (slice(start, start + size) for start in range(0, len(counts), size))
