"""Every sampler draws from the distribution it says, at 4 standard errors (a true sampler fails one such test in 16000)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from reverie.data.forms.reading import read_table
from reverie.models.classical.mixture import GaussianMixture, parameters, with_parameters
from reverie.models.deep.vae import VAE
from reverie.models.energy.rbm import RBMNetwork
from reverie.probability.gaussians.student import _gamma
from reverie.rng import RowNoise

N = 40_000


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_mixture_moments(covariance):
    """Mean, covariance and component shares; the variance of c_ij is bounded through the draws' own fourth moments."""
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.0, 0.5], [0.0, 20.0, 0.2], [0.9, 10.0, 0.3]])
    X = rng.normal(size=(300, 3)) @ mixing + np.array([[0, 5, 100.0]]) + 6 * rng.integers(0, 2, (300, 1))
    model = GaussianMixture(components=3, covariance=covariance).fit(X, epochs=5)
    found = parameters(model)
    w, mu, c = found["weights"], found["means"], found["covariances"]
    full = {
        "full": lambda: c,
        "tied": lambda: np.repeat(c[None], 3, 0),
        "diag": lambda: np.stack([np.diag(v) for v in c]),
        "spherical": lambda: np.stack([np.eye(3) * v for v in c]),
    }[covariance]()
    mean = w @ mu
    cov = np.einsum("k,kij->ij", w, full + np.einsum("ki,kj->kij", mu, mu)) - np.outer(mean, mean)
    draws = model.sample(N, seed=1)
    assert (np.abs(draws.mean(0) - mean) < 4 * np.sqrt(np.diag(cov) / N)).all()
    centred = draws - mean
    products = centred[:, :, None] * centred[:, None, :]
    assert (np.abs(products.mean(0) - cov) < 4 * products.std(0) / math.sqrt(N)).all()


def test_mixture_component_shares():
    X = np.random.default_rng(0).normal(size=(50, 1))
    w = np.array([0.02, 0.18, 0.8])
    model = with_parameters(
        GaussianMixture(components=3), X, weights=w, means=[[-100.0], [0.0], [100.0]], covariances=np.ones((3, 1, 1))
    )
    draws = model.sample(N, seed=0)[:, 0]
    for share, centre in zip(w, (-100, 0, 100), strict=True):
        assert abs((np.abs(draws - centre) < 50).mean() - share) < 4 * math.sqrt(share * (1 - share) / N)


def rbm(visible: int = 5, hidden: int = 3) -> tuple[RBMNetwork, torch.Tensor, torch.Tensor]:
    """A machine with its states and their exact probabilities."""
    network = RBMNetwork(visible, hidden).requires_grad_(False)
    g = torch.Generator().manual_seed(2)
    network.W.copy_(torch.randn(visible, hidden, generator=g))
    network.b.copy_(0.5 * torch.randn(visible, generator=g))
    network.c.copy_(0.5 * torch.randn(hidden, generator=g))
    v = torch.tensor([[(i >> k) & 1 for k in range(visible)] for i in range(2**visible)], dtype=torch.float32)
    return network, v, torch.softmax(-network.even_energy(v).double(), 0)


def frequencies(draws: torch.Tensor) -> torch.Tensor:
    code = (draws.long() * 2 ** torch.arange(draws.shape[1])).sum(1)
    return torch.bincount(code, minlength=2 ** draws.shape[1]).double() / len(draws)


def test_rbm_chains_reach_the_boltzmann_distribution():
    """All 32 states at 4 sqrt(p (1 - p) / n) after 60 sweeps of independent chains."""
    network, _, p = rbm()
    share = frequencies(network.sample(RowNoise(0, N), None, sweeps=60))
    assert ((share - p).abs() < 4 * (p * (1 - p) / N).sqrt()).all()


def test_rbm_gibbs_sweeps_leave_the_distribution_alone():
    network, v, p = rbm()
    start = v[RowNoise(5, N).categorical(p.log().float().expand(N, -1))]
    share = frequencies(network.gibbs(start, 1, RowNoise(1, N)))
    assert ((share - p).abs() < 4 * (p * (1 - p) / N).sqrt()).all()


def test_rbm_mean_samples_have_the_same_mean():
    network, v, p = rbm()
    means = network.sample(RowNoise(0, N), None, sweeps=60, mean=True).double().mean(0)
    assert ((means - p @ v.double()).abs() < 4 * 0.5 / math.sqrt(N)).all()


def test_rbm_completions_follow_the_conditional():
    """Units 3 and 4 given the first three, from enumeration."""
    network, v, p = rbm()
    given = torch.tensor([1.0, 0.0, 1.0])
    match = (v[:, :3] == given).all(1)
    want = p[match] / p[match].sum()
    n = 10_000
    x = torch.cat([given, torch.zeros(2)]).expand(n, 5)
    observed = torch.tensor([True, True, True, False, False]).expand(n, 5)
    drawn = network.conditional(x, observed, None, RowNoise(0, n), mean=False, sweeps=40)
    assert torch.equal(drawn[:, :3], x[:, :3])
    share = frequencies(drawn)[match]
    assert ((share - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all()
    mean = network.conditional(x[:200], observed[:200], None, RowNoise(0, 200), mean=True, sweeps=200)
    # averaged over 100 sweeps x 200 chains; successive sweeps are correlated, hence the factor 3
    assert ((mean[:, 3:].double().mean(0) - want @ v[match][:, 3:].double()).abs() < 3 * 4 * 0.5 / math.sqrt(2e4)).all()


def test_vae_draws_follow_its_decoder():
    """With a decoder that ignores z, every column is independent with known probabilities."""
    frame = pd.DataFrame(
        {
            "c": pd.Categorical(np.random.default_rng(0).choice(["x", "y", "z"], 200)),
            "b": np.random.default_rng(1).random(200) < 0.5,
            "v": np.random.default_rng(2).normal(5, 2, 200),
        }
    )
    model = VAE(latent=1, decoder=torch.nn.Linear(1, 6)).fit(frame, epochs=0, columns="real")
    decoder = model.network.decoder
    logits = torch.tensor([0.5, -0.5, 1.0])
    decoder.weight.zero_()
    model.network.bias.zero_()
    decoder.bias.copy_(torch.cat([logits, torch.tensor([0.8, 0.3, -1.0])]))
    draws = model.sample(N, seed=0)
    want = torch.softmax(logits.double(), 0).numpy()
    share = draws["c"].value_counts(normalize=True).reindex(["x", "y", "z"]).to_numpy()
    assert (np.abs(share - want) < 4 * np.sqrt(want * (1 - want) / N)).all()
    bit = 1 / (1 + math.exp(-0.8))
    assert abs(draws["b"].mean() - bit) < 4 * math.sqrt(bit * (1 - bit) / N)
    from reverie.probability.likelihoods import split_scale

    mean, sd = frame["v"].mean(), frame["v"].std(ddof=0)
    scale = sd * math.exp(float(split_scale(torch.tensor([[0.3, -1.0]]))[1]))
    assert abs(draws["v"].mean() - (mean + 0.3 * sd)) < 4 * scale / math.sqrt(N)
    assert abs(draws["v"].std() / scale - 1) < 4 / math.sqrt(2 * N)
    # and the density is the one of these draws: minus its mean is the entropy
    nats = model.log_prob(draws.head(4000), samples=1)
    entropy = -(want * np.log(want)).sum() - (bit * math.log(bit) + (1 - bit) * math.log(1 - bit))
    entropy += 0.5 * math.log(2 * math.pi * math.e * scale**2)
    assert abs(nats.mean() + entropy) < 4 * nats.std() / math.sqrt(4000)


def test_lattice_offsets_average_like_uniform_noise():
    """64 lattice points integrate a smooth log-density to a few hundredths of a nat in the tails, 4096 as well as random
    offsets can tell (4.5 standard errors, since 50 rows are looked at)."""
    X = np.random.default_rng(0).poisson([3.0, 9.0], (400, 2))
    model = GaussianMixture(components=2).fit(X, epochs=5)
    rows = X[:50]
    fine = model.log_prob(rows, dequantisation=4096)
    np.testing.assert_allclose(model.log_prob(rows, dequantisation=64), fine, atol=0.03)
    prepared = model.codec.prepare(read_table(model.schema, rows))
    values = []
    for seed in range(300):
        x = model.codec.noise(prepared.x, RowNoise(seed, 50, dtype=torch.float64))
        further = model.codec.batch_log_det(x)
        values.append((model.network.log_prob(x, None, None, RowNoise(0, 50)) + prepared.log_det + further).numpy())
    error = np.std(values, axis=0, ddof=1) / math.sqrt(300)
    assert (np.abs(np.mean(values, axis=0) - fine) < 4.5 * error).all()


@pytest.mark.parametrize("degrees", [0.6, 2.0, 7.0])
def test_precisions_of_student_rows_are_gamma(degrees):
    """Kolmogorov-Smirnov against Gamma(nu / 2, rate nu / 2), with rows enough to see proposals that were never refused; p > 1e-4 for a right sampler in all but one of 10,000 seeds."""
    drawn = _gamma(torch.full((400_000,), degrees, dtype=torch.float64), RowNoise(3, 400_000)).numpy()
    assert scipy.stats.kstest(drawn, scipy.stats.gamma(degrees / 2, scale=2 / degrees).cdf).pvalue > 1e-4
