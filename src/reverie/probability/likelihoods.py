"""p(x | parameters) for every kind of block in model space, from one row of decoder outputs per example.

A real or integer column takes two numbers (location, log scale), a binary column one (logit), a category column one
per level (logits). Log-probabilities are per column, so that missing cells drop out of the sum.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.rng import Noise

_FAR = 1e6
LOG_SCALE_RANGE = (-7.0, 3.0)
"""Bounds of a log scale in model units: a likelihood cannot run away on a column it predicts perfectly."""


def parameter_width(kind: str, width: int) -> int:
    """Numbers per example that a block of this kind and width needs."""
    return 2 * width if kind in ("real", "integer") else width


def split_scale(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 2w) -> location and log scale, each (n, w); the log scale is squeezed softly into its range."""
    location, raw = parameters.chunk(2, 1)
    low, high = LOG_SCALE_RANGE
    return location, low + F.softplus(raw - low) - F.softplus(raw - high)


def normal(x: Tensor, parameters: Tensor) -> Tensor:
    """log N(x; location, scale^2) per column, (n, w)."""
    location, log_scale = split_scale(parameters)
    return -0.5 * ((x - location) * torch.exp(-log_scale)).square() - log_scale - 0.5 * math.log(2 * math.pi)


def logistic_mass(lower: Tensor, upper: Tensor, parameters: Tensor) -> Tensor:
    """log of the logistic mass of the cells from `lower` to `upper`, (n, w), either of which may be infinite."""
    location, log_scale = split_scale(parameters)
    inverse = torch.exp(-log_scale)
    # Far enough to be infinite, and near enough for a gradient of zero.
    lower, upper = lower.clamp_min(-_FAR), upper.clamp_max(_FAR)
    width = (upper - lower).to(location.dtype)
    a, b = (lower.to(location.dtype) - location) * inverse, (upper.to(location.dtype) - location) * inverse
    # log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)): no cancellation.
    return F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1(-(width * inverse).clamp_min(1e-12)))


def discretised_logistic(x: Tensor, parameters: Tensor, step: Tensor, low: float | None, high: float | None) -> Tensor:
    """log P(x) on a grid of spacing `step`: the logistic mass of the cell around x (Kingma et al. 2016, eq. 12).

    A bound makes its end cell take the tail beyond, so that the grid points from low to high have total probability 1;
    without one the grid goes on for ever. (n, w).
    """
    location, log_scale = split_scale(parameters)
    inverse = torch.exp(-log_scale)
    upper = (x + 0.5 * step - location) * inverse
    lower = (x - 0.5 * step - location) * inverse
    # log(sigmoid(u) - sigmoid(l)) = log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u)): no cancellation.
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-(step * inverse).clamp_min(1e-12)))
    if low is not None:
        inside = torch.where(x < low + 0.25 * step, F.logsigmoid(upper), inside)
    if high is not None:
        inside = torch.where(x > high - 0.25 * step, F.logsigmoid(-lower), inside)
    return inside


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log P(x) of bits, (n, w)."""
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")


def categorical(x: Tensor, logits: Tensor) -> Tensor:
    """log P of one-hot rows, spread over the block's columns: (n, k) with the only non-zero entry at the level seen."""
    return x * F.log_softmax(logits, 1)


def draw_logistic(parameters: Tensor, noise: Noise) -> Tensor:
    """A logistic draw per column; rounding to the grid is the codec's."""
    location, log_scale = split_scale(parameters)
    u = noise.uniform(location.shape[1]).to(location.dtype).clamp(1e-7, 1 - 1e-7)
    return location + torch.exp(log_scale) * (torch.log(u) - torch.log1p(-u))


def draw_normal(parameters: Tensor, noise: Noise) -> Tensor:
    """A normal draw per column."""
    location, log_scale = split_scale(parameters)
    return location + torch.exp(log_scale) * noise.normal(location.shape[1]).to(location.dtype)


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (n,). Kingma & Welling (2014), appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), (n,)."""
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
