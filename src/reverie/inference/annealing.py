"""Annealed importance sampling of ratios of partition functions (Neal 2001), forwards and backwards.

Forwards the estimate of Z is unbiased, so log Z errs low on average; run backwards from samples of the target it errs
high (Burda, Grosse & Salakhutdinov 2015; Grosse et al. 2015). The two together sandwich log Z.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """log of a ratio from `chains` weights: its value, the standard error of the log, the weights' effective size."""

    value: float
    standard_error: float
    effective: float
    chains: int


def ladder(count: int) -> Tensor:
    """`count` + 1 inverse temperatures from 0 to 1 in the proportions of Salakhutdinov & Murray (2008): 1/29 of the
    steps on [0, 0.5], 8/29 on [0.5, 0.9], the rest on [0.9, 1]."""
    first, second = max(1, round(count / 29)), max(1, round(count * 8 / 29))
    third = max(1, count - first - second)
    parts = [
        torch.linspace(0, 0.5, first + 1, dtype=torch.float64),
        torch.linspace(0.5, 0.9, second + 1, dtype=torch.float64)[1:],
        torch.linspace(0.9, 1, third + 1, dtype=torch.float64)[1:],
    ]
    return torch.cat(parts)


def anneal(
    state: Tensor,
    betas: Tensor,
    move: Callable[[Tensor, float, float, bool], tuple[Tensor, Tensor]],
) -> Tensor:
    """Log-weights (chains,) of annealing `state` through `betas`, in the order given; summed in float64.

    move(x, a, b, last) returns log f_b(x) - log f_a(x) for neighbouring temperatures a and b, and x moved by a
    transition that leaves f_b invariant (not needed when `last`). One function, since both need the same fields.
    """
    weights = torch.zeros(state.shape[0], dtype=torch.float64, device=state.device)
    temperatures = betas.tolist()
    last = len(temperatures) - 2
    for index, (a, b) in enumerate(itertools.pairwise(temperatures)):
        gain, state = move(state, a, b, index == last)
        weights += gain
    return weights


def sandwich(log_base: float, forward: Tensor, backward: Tensor) -> dict[str, float]:
    """log Z from below and from above, of log-weights from a base of `log_base` to the target and from the target back."""
    up, down = summarise(forward), summarise(backward)
    return {
        "log_z": log_base + up.value,
        "standard_error": up.standard_error,
        "effective_chains": up.effective,
        "log_z_reverse": log_base - down.value,
        "standard_error_reverse": down.standard_error,
    }


def summarise(log_weights: Tensor) -> Estimate:
    """log mean exp of the weights, and its standard error by the delta method: sd(w) / (sqrt(R) mean(w))."""
    count = log_weights.numel()
    top = log_weights.max()
    weights = torch.exp(log_weights - top)
    mean = weights.mean()
    error = float(weights.std(unbiased=True) / mean) / math.sqrt(count) if count > 1 else math.inf
    effective = float(weights.sum().square() / weights.square().sum())
    return Estimate(float(torch.log(mean) + top), error, effective, count)
