"""Small machines, and sums over all their states by brute force, for the tests of the Boltzmann machine."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from reverie.inference.graphs import between, complete, lattice, matrix
from reverie.model.model import Model
from reverie.models import boltzmann
from reverie.probability.machines.boltzmann_network import BoltzmannNetwork

CRITICAL = 2 / math.log(1 + math.sqrt(2))
"""The critical temperature of spins on a square lattice with J = 1."""


def machine(
    visible: int, hidden: int, edges: Tensor, *, scale: float = 0.8, seed: int = 0, **options
) -> BoltzmannNetwork:
    """A network in float64 with normal couplings and biases."""
    network = BoltzmannNetwork(visible, hidden, edges, **options).double()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return network.requires_grad_(False)


def states(n: int, *, spins: bool = False) -> Tensor:
    """All states, the last unit changing fastest, (2^n, n)."""
    return torch.tensor(list(itertools.product([-1.0, 1.0] if spins else [0.0, 1.0], repeat=n)), dtype=torch.float64)


def numbers(z: Tensor) -> Tensor:
    """Which of `states` rows of bits are, (n,)."""
    return (z.long() << torch.arange(z.shape[1] - 1, -1, -1)).sum(1)


def p_value(codes: Tensor, chance: Tensor) -> float:
    """Chi-square of states by their numbers (n,) against the probabilities of all states, rare states (fewer than 5
    expected) pooled."""
    counts = torch.bincount(codes, minlength=len(chance)).double().numpy()
    expected = (chance * len(codes)).numpy()
    rare = expected < 5
    if counts[expected == 0].any():
        return 0.0
    seen, wanted = list(counts[~rare]), list(expected[~rare])
    if expected[rare].sum() > 5:
        seen.append(counts[rare].sum())
        wanted.append(expected[rare].sum())
    wanted = np.array(wanted) * sum(seen) / sum(wanted)
    return float(stats.chisquare(seen, wanted).pvalue)


def energies(x: Tensor, J: Tensor, b: Tensor, edges: Tensor) -> Tensor:
    """E of rows of units' values, edge by edge."""
    return -(x @ b) - (x[:, edges[0]] * x[:, edges[1]] * J).sum(1)


def ising(side: int, *, periodic: bool, temperature: float = CRITICAL) -> Model:
    """Spins on a square lattice with J = 1 and no field."""
    edges = lattice(side, side, periodic=periodic)
    W = matrix(side * side, edges, torch.ones(edges.shape[1], dtype=torch.float64))
    return boltzmann.with_parameters(W.numpy(), units="spin", temperature=temperature)


def sherrington_kirkpatrick(n: int, seed: int) -> Model:
    """Spins with J_ij ~ N(0, 1 / n) between all of them."""
    J = np.triu(np.random.default_rng(seed).normal(size=(n, n)) / math.sqrt(n), 1)
    return boltzmann.with_parameters(J + J.T, units="spin")


GRAPHS = {
    "dense": (3, 2, complete(5)),
    "visible alone": (4, 0, complete(4)),
    "restricted": (3, 2, between(0, 3, 5)),
    "semi-restricted": (3, 2, torch.cat([complete(3), between(0, 3, 5)], 1)),
    "a ring with a tail": (4, 2, torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 4, 4]])),
    "no edges": (2, 1, torch.empty(2, 0, dtype=torch.long)),
}
"""Visible units, hidden units, edges."""
