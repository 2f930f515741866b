"""Densities between two ends: a normal and a logistic, each cut to (low, high), in logarithms that hold far out.

The logistic is the broad one: its tails are heavy enough that no number is impossible, and it falls on both sides of 0.
All ends are in units of the scale, about the centre.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reverie.probability.exponential_family import LOG_2PI

_SMALLEST = 1e-300


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log (Phi(high) - Phi(low))."""
    flip = low > 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper: Tensor = torch.special.log_ndtr(b)
    return upper + _log_less(torch.special.log_ndtr(a) - upper)


def log_logistic_mass(low: Tensor, high: Tensor) -> Tensor:
    """log (S(high) - S(low)) with S the logistic function: S(h) S(-l) (1 - exp(l - h))."""
    return _log_sigmoid(high) + _log_sigmoid(-low) + _log_less(low - high)


def log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + LOG_2PI)


def log_logistic(z: Tensor) -> Tensor:
    size = z.abs()
    return 2 * _log_sigmoid(size) - size


def _log_sigmoid(x: Tensor) -> Tensor:
    found: Tensor = torch.nn.functional.logsigmoid(x)
    return found


def _log_less(x: Tensor) -> Tensor:
    """log (1 - exp(x)) for x <= 0."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def normal_mean(low: Tensor, high: Tensor) -> Tensor:
    """The mean of a standard normal between low and high; between the two, whatever rounding says."""
    found = (torch.exp(log_normal(low)) - torch.exp(log_normal(high))) * torch.exp(-log_normal_mass(low, high))
    return torch.minimum(torch.maximum(found, low), high)


def logistic_mean(low: Tensor, high: Tensor) -> Tensor:
    """The mean of a standard logistic between low and high: the integral of x S'(x) is x S(x) - log(1 + exp(x))."""
    flip = low > 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    found = (_moment(b) - _moment(a)) * torch.exp(-log_logistic_mass(a, b))
    found = torch.minimum(torch.maximum(found, a), b)
    return torch.where(flip, -found, found)


def _moment(x: Tensor) -> Tensor:
    """x S(x) - log(1 + exp(x)), 0 at both ends; to the right by -|x| S(-|x|) - log(1 + exp(-|x|)), the same figure."""
    size = -x.abs()
    return torch.where(torch.isinf(x), 0.0, size * torch.sigmoid(size) - torch.nn.functional.softplus(size))


def draw_normal(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The u-quantile of a standard normal between low and high, which lie about 0."""
    below, above = torch.special.ndtr(low), torch.special.ndtr(high)
    chance = (below + u * (above - below)).clamp(_SMALLEST, 1 - 2**-53)
    return torch.minimum(torch.maximum(torch.special.ndtri(chance), low), high)


def draw_logistic(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The u-quantile of a standard logistic between low and high."""
    flip = low > 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    below, above = torch.sigmoid(a), torch.sigmoid(b)
    chance = (below + torch.where(flip, 1 - u, u) * (above - below)).clamp(_SMALLEST, 1 - 2**-53)
    found = torch.minimum(torch.maximum(torch.logit(chance), a), b)
    return torch.where(flip, -found, found)
