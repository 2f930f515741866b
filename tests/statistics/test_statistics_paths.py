"""Paths drawn from the posterior of a hidden chain: how often each pair of states occurs, against the exact posterior."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reverie.inference.algebra import Linear
from reverie.inference.layout import Layout
from reverie.inference.message_passing import posteriors, sample_paths
from reverie.inference.tracing import _by_maps, thrown, trace

DRAWS = 20_000


def case(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    A = rng.dirichlet(np.ones(3), 3)
    log_b = 1.5 * rng.normal(size=(12, 3))
    if name == "zeros":
        A[0, 2] = A[2, 1] = 0
        A /= A.sum(1, keepdims=True)
        log_b[5, 0] = -np.inf
    if name == "never left":  # lost on plain numbers: drawn on logarithms
        A = np.eye(3)
        log_b = np.zeros((12, 3))
        log_b[:6, 1:], log_b[6:, 0], log_b[6:, 2] = -400, -400, -399.9
        log_b[11, 1] = -0.7
    return torch.tensor(log_b), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), torch.tensor(A)


@pytest.mark.parametrize("name", ["plain", "zeros", "never left"])
@pytest.mark.parametrize("segment", [0, 4])
def test_pairs_of_drawn_states(name, segment):
    """For every step and pair of states: the share among 20,000 paths within 4 standard errors of p(z_t, z_t+1 | x)."""
    log_b, pi, A = case(name)
    layout = Layout([12], 3, segment=segment)
    uniforms = torch.rand(12, DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    paths = sample_paths(log_b, layout, pi, A, uniforms)
    for t in range(11):
        shares = torch.zeros(3, 3, dtype=torch.float64)
        shares.index_put_((paths[t], paths[t + 1]), torch.ones(DRAWS, dtype=torch.float64) / DRAWS, accumulate=True)
        exact = pair(log_b, pi, A, t)
        error = (exact * (1 - exact) / DRAWS).sqrt()
        assert ((shares - exact).abs() <= 4 * error + 1e-9).all(), (t, shares, exact)


def pair(log_b: torch.Tensor, pi: torch.Tensor, A: torch.Tensor, t: int) -> torch.Tensor:
    """p(z_t, z_t+1 | x) on logarithms, step by step."""
    left = pi.log() + log_b[0]
    for s in range(1, t + 1):
        left = torch.logsumexp(left[:, None] + A.log(), 0) + log_b[s]
    right = torch.zeros(3, dtype=torch.float64)
    for s in range(len(log_b) - 1, t + 1, -1):
        right = torch.logsumexp(A.log() + log_b[s] + right, 1)
    both = left[:, None] + A.log() + log_b[t + 1] + right
    return (both - both.logsumexp((0, 1))).exp()


def test_a_long_path_in_segments_is_the_path_step_by_step():
    """The same uniform numbers choose the same states however the sequence is cut, also where segments do not meet."""
    rng = np.random.default_rng(0)
    uniforms = torch.tensor(rng.random(3000))
    for A in (rng.dirichlet(np.ones(5), 5), 0.9995 * np.eye(5) + 1e-4, np.roll(np.eye(5), 1, 1)):
        A = torch.tensor(A / A.sum(1, keepdims=True))
        log_b, pi = torch.tensor(0.1 * rng.normal(size=(3000, 5))), torch.ones(5, dtype=torch.float64) / 5
        whole = sample_paths(log_b, Layout([3000], 5, segment=0), pi, A, uniforms)
        cut = sample_paths(log_b, Layout([3000], 5, segment=40), pi, A, uniforms)
        torch.testing.assert_close(cut, whole)
        gamma = posteriors(log_b, Layout([3000], 5), pi, A).gamma
        assert (gamma[torch.arange(3000), whole] > 0).all()


def test_maps_over_whole_segments_end_where_the_path_does():
    """Segments traced from every state and composed: the last states of all segments at once, whatever was guessed."""
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(4, 500, dtype=torch.float64, generator=generator)
    algebra = Linear(0.99 * torch.eye(4, dtype=torch.float64) + 0.0025)
    layout = Layout([300, 7, 120, 73], 4, segment=20)
    choose = thrown(algebra, torch.rand(500, dtype=torch.float64, generator=generator))
    states = trace(table, layout, choose)
    guess = states.clone()
    guess[: len(layout.size)][layout.leaders] = 0  # only what last segments begin with is taken from it
    torch.testing.assert_close(_by_maps(table, guess, layout, choose), states[layout.last[layout.leaders]])
