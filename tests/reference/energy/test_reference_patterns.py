"""Memories that keep their patterns: the update is a gradient step, the density a mixture, conditionals those of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import reverie as rv
from reverie.models import hopfield
from reverie.probability.machines.patterns import Patterns, likeliest_temperature
from reverie.rng import RowNoise

KINDS = ["dense", "attention"]


def memory(kind: str, rows: int = 7, width: int = 3, temperature: float = 0.5, seed: int = 0) -> Patterns:
    source = torch.Generator().manual_seed(seed)
    network = Patterns(width, kind, temperature, torch.float64)
    network.store(torch.randn(rows, width, generator=source, dtype=torch.float64), None)
    network.settle()
    return network


def centres(network: Patterns) -> tuple[np.ndarray, np.ndarray]:
    """(weights, means) of the mixture, from the definition of the energies."""
    x, T = network.patterns.numpy(), float(network.T)
    weight = np.ones(len(x)) if network.similarity == "dense" else np.exp(np.square(x).sum(1) / (2 * T))
    return weight / weight.sum(), x


def density(network: Patterns, rows: np.ndarray) -> np.ndarray:
    weight, means = centres(network)
    width = rows.shape[1]
    squared = np.square(rows[:, None] - means).sum(2)
    return np.exp(-squared / (2 * float(network.T))) @ weight / (2 * math.pi * float(network.T)) ** (width / 2)


def test_the_energy_of_attention_is_that_of_ramsauer():
    """E = -lse(beta, X x) + x.x / 2 up to log P / beta and M^2 / 2, with lse(beta, z) = log(sum exp(beta z)) / beta."""
    network = memory("attention")
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    beta = 1 / float(network.T)
    want = -torch.logsumexp(beta * x @ network.patterns.t(), 1) / beta + 0.5 * x.square().sum(1)
    torch.testing.assert_close(network.energy(x) / beta, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_retrieval_is_a_gradient_step(kind):
    """x - dE/dx with E the energy itself (T times what is shown): X^T softmax(beta X x) for attention."""
    network = memory(kind)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(float(network.T) * network.energy(x).sum(), x)
    found, energy = network.retrieve(x.detach())
    torch.testing.assert_close(found, (x - slope).detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(energy, network.energy(x).detach())
    if kind == "attention":
        want = torch.softmax(x.detach() @ network.patterns.t() / network.T, 1) @ network.patterns
        torch.testing.assert_close(found, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_is_the_mixture_and_integrates_to_one(kind):
    network = memory(kind)
    rows = np.random.default_rng(0).normal(size=(9, 3))
    found = network.log_prob(torch.from_numpy(rows), None, None, RowNoise(0, 9))
    np.testing.assert_allclose(found.numpy(), np.log(density(network, rows)), atol=1e-11)
    line = memory(kind, width=1, temperature=0.3)
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)[:, None]
    total = float(line.log_prob(grid, None, None, RowNoise(0, len(grid))).exp().sum()) * 24 / 24_000
    assert abs(total - 1) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_mixture(kind):
    """Mean and second moments of 200,000 draws at 4.5 standard errors; T 5 % too large must show in the variance."""
    network, n = memory(kind), 200_000
    weight, means = centres(network)
    x = network.sample(RowNoise(1, n, dtype=torch.float64), None).numpy()
    products = x[:, :, None] * x[:, None]
    want = np.einsum("i,ij,ik->jk", weight, means, means) + 0.5 * np.eye(3)
    assert (np.abs(x.mean(0) - weight @ means) < 4.5 * x.std(0) / n**0.5).all()
    error = products.std(0) / n**0.5
    assert (np.abs(products.mean(0) - want) < 4.5 * error).all()
    assert (np.diag(np.abs(products.mean(0) - want - 0.025 * np.eye(3))) > 4.5 * np.diag(error)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_conditionals_are_those_of_the_mixture(kind):
    """p(x_3 | x_1, x_2): the mean against quadrature of the joint, draws against its distribution function."""
    network, n = memory(kind), 20_000
    given = np.array([0.3, -0.4])
    grid = np.linspace(-9, 9, 20_001)
    joint = density(network, np.column_stack([np.tile(given, (len(grid), 1)), grid]))
    x = torch.tensor([[*given, 0.0]], dtype=torch.float64)
    seen = torch.tensor([[True, True, False]])
    mean = network.conditional(x, seen, None, RowNoise(0, 1), mean=True)
    assert float(mean[0, 2]) == pytest.approx((grid * joint).sum() / joint.sum(), abs=1e-7)
    noise = RowNoise(0, n, dtype=torch.float64)
    drawn = network.conditional(x.expand(n, -1), seen.expand(n, -1), None, noise, mean=False)
    assert (drawn[:, :2].numpy() == given).all()
    cdf = np.cumsum(joint) / joint.sum()
    assert stats.kstest(drawn[:, 2].numpy(), lambda value: np.interp(value, grid, cdf)).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [False, True])
def test_recall_goes_down_to_a_mode(kind, hidden):
    network = memory(kind, rows=30, width=5, temperature=0.4)
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    seen = torch.arange(5).expand(40, -1) < 3 if hidden else None
    found = network.recall(x, seen, sweeps=5000, update=None, seed=0)
    assert found.converged.all()
    assert float(found.energies.diff(dim=1).max()) <= 1e-12
    state = found.x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(network.energy(state).sum(), state)
    if hidden:
        assert torch.equal(found.x[:, :3], x[:, :3])
        slope = slope[:, 3:]
    assert float(slope.abs().max()) < 1e-4
    assert float((found.energies[:, -1] - network.energy(found.x)).abs().max()) < 1e-12


def test_the_temperature_has_the_highest_likelihood_with_one_left_out():
    """Against a direct search of mean log p(x_i | the others), weights included."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(60, 2)), rng.integers(1, 4, 60).astype(float)

    def loss(log_T: float) -> float:
        T = math.exp(log_T)
        kernel = np.exp(-np.square(x[:, None] - x).sum(2) / (2 * T)) * weight / (2 * math.pi * T)
        np.fill_diagonal(kernel, 0)
        return -float(weight @ np.log(kernel.sum(1) / (weight.sum() - weight)) / weight.sum())

    best = math.exp(optimize.minimize_scalar(loss, bounds=(-6, 2), method="bounded", options={"xatol": 1e-9}).x)
    found = likeliest_temperature(torch.from_numpy(x), torch.from_numpy(weight))
    assert found == pytest.approx(best, rel=1e-3)
    same, weights = torch.ones(5, 3, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    assert likeliest_temperature(same[:1], weights[:1]) == 1.0
    assert 0 < likeliest_temperature(same, weights) < 1e-6  # twins say nothing of a width


def test_a_table_of_numbers():
    """Two clusters: likelier than one normal on rows never seen; samples and completions stay near the clusters."""
    rng = np.random.default_rng(0)
    centre = rng.integers(0, 2, (600, 1)) * 10.0
    rows = rng.normal(size=(600, 3)) * [1, 2, 0.5] + centre * [1, -2, 0.5]
    model = rv.Hopfield(memory="dense").fit(rows[:500], progress=False)
    assert model.log_prob_kind == "exact"
    one = stats.multivariate_normal(rows[:500].mean(0), np.cov(rows[:500].T)).logpdf(rows[500:]).mean()
    assert model.log_prob(rows[500:]).mean() > one + 0.5
    holes = rows[500:].copy()
    holes[:, 1] = np.nan
    assert np.abs(model.impute(holes) - rows[500:])[:, 1].max() < 10
    drawn = np.stack(model.impute(holes, n_draws=20))[:, :, 1]
    assert 1.0 < drawn.std(0).mean() < 4.0


def test_whole_pictures_come_back_from_halves():
    """Bundled digits: grey levels exactly, from a random half of the pixels, for 99 % of 500 of them."""
    digits = rv.load_data("digits", y=False).train.X[:500]
    model = rv.Hopfield(memory="dense").fit(digits, progress=False)
    seen = np.random.default_rng(0).random(digits.shape) < 0.5
    found = hopfield.recall(model, digits, observed=seen)
    assert found.patterns.dtype == digits.dtype
    assert (found.patterns[seen] == digits[seen]).all()
    nearest = np.square(found.patterns.astype(float)[:, None] - digits.astype(float)).sum((2, 3)).argmin(1)
    assert (nearest == np.arange(500)).mean() > 0.99
