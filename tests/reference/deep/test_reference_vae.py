"""The VAE's likelihoods and bounds against closed forms: the linear-Gaussian model has an exact evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from reverie.data.space import Batch, Block, Space
from reverie.models.deep.vae import VAE, VAENetwork
from reverie.probability import likelihoods as lik
from reverie.rng import RowNoise

SPACE = Space(blocks=(Block("x", "real", 0, 3, scale=(1.0, 1.0, 1.0)),))
W = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, -0.8]])
MEAN = torch.tensor([0.2, -0.1, 0.4])
RAW = torch.tensor([-0.5, 0.0, -1.0])


def linear_vae(widen: float) -> tuple[VAENetwork, torch.Tensor]:
    """x | z ~ N(W z + m, D), z ~ N(0, I_2), with q(z | x) the exact posterior, its sd per coordinate times `widen`.

    The posterior covariance S = (I + W^T D^-1 W)^-1 is diagonal after rotating z; W is rotated accordingly. Returns the
    network and the covariance of x.
    """
    _, log_scale = lik.split_scale(torch.cat([MEAN, RAW])[None])
    precision = torch.exp(-2 * log_scale[0])
    _, rotation = torch.linalg.eigh(W.t() @ (precision[:, None] * W))
    loading = W @ rotation
    S = torch.linalg.inv(torch.eye(2) + loading.t() @ (precision[:, None] * loading))
    encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 6)
    with torch.no_grad():
        gain = S @ loading.t() * precision
        encoder.weight.copy_(torch.cat([gain, torch.zeros(2, 3)]))
        encoder.bias.copy_(torch.cat([-gain @ MEAN, torch.log(torch.diagonal(S)) + 2 * math.log(widen)]))
        decoder.weight.copy_(torch.cat([loading, torch.zeros(3, 2)]))
        decoder.bias.copy_(torch.cat([MEAN, RAW]))
    network = VAE(latent=2, encoder=encoder, decoder=decoder).build(SPACE).eval().requires_grad_(False)
    return network, loading @ loading.t() + torch.diag(1 / precision)


def evidence(x: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    return torch.distributions.MultivariateNormal(MEAN.double(), covariance.double()).log_prob(x.double())


X = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 1.3


@pytest.mark.parametrize("samples", [1, 3, 20])
def test_with_the_true_posterior_the_bound_is_the_evidence(samples):
    network, covariance = linear_vae(1.0)
    bound = network.log_prob(X, None, None, RowNoise(0, 400), samples=samples)
    torch.testing.assert_close(bound, evidence(X, covariance), rtol=0, atol=2e-5)


def test_with_a_wider_q_the_bound_rises_to_the_evidence_from_below():
    """sd 1.5 times too wide in two dimensions: the gap at K = 1 is KL(q || p(z | x)) = 1.5^2 - 1 - log 1.5^2 = 0.439;
    it falls with K. 400 rows x 25 seeds: each mean is tested against the next at 4 standard errors."""
    network, covariance = linear_vae(1.5)
    exact = evidence(X, covariance)
    gaps, errors = [], []
    for samples in (1, 5, 50):
        values = torch.stack(
            [network.log_prob(X, None, None, RowNoise(seed, 400), samples=samples) - exact for seed in range(25)]
        )
        means = values.mean(1)
        gaps.append(float(means.mean()))
        errors.append(float(means.std() / 5))
    assert abs(gaps[0] + (2.25 - 1 - math.log(2.25))) < 4 * errors[0]
    assert gaps[0] < gaps[1] - 4 * errors[1] < gaps[1] < gaps[2] - 4 * errors[2]
    assert gaps[2] < 0
    assert gaps[2] > -0.03


def test_the_encoder_sees_rows_less_their_mean():
    network, _ = linear_vae(1.0)
    plain = network.posterior(X, None, None)
    shift = torch.tensor([3.0, -2.0, 0.5])
    network.start(lambda: [Batch(part, rows=400) for part in (X[:300] + shift, X[300:] + shift)])
    torch.testing.assert_close(network.centre, (X + shift).mean(0))
    for found, want in zip(network.posterior(X + network.centre, None, None), plain, strict=True):
        torch.testing.assert_close(found, want)


def test_the_loss_is_the_negative_bound():
    """loss() has the KL in closed form, log_prob(samples=1) by its draw: equal means over 60 seeds, 4 standard errors."""
    network, _ = linear_vae(1.4)
    batch = Batch(X, rows=400)
    loss = torch.stack([network.loss(batch, RowNoise(seed, 400), 1.0)["loss"] for seed in range(60)]).double()
    bound = torch.stack([network.log_prob(X, None, None, RowNoise(900 + seed, 400), samples=1) for seed in range(60)])
    difference = (-loss).mean(1) - bound.mean(1)
    assert abs(float(difference.mean())) < 4 * float(difference.std() / math.sqrt(60))
    parts = network.loss(batch, RowNoise(0, 400), 1.0)
    torch.testing.assert_close(parts["loss"], parts["misfit"] + parts["kl"])
    mean, log_variance = network.posterior(X, None, None)
    want = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, torch.exp(0.5 * log_variance)), torch.distributions.Normal(0.0, 1.0)
    ).sum(1)
    torch.testing.assert_close(parts["kl"], want, rtol=1e-4, atol=1e-5)


def test_the_kl_weight_warms_up():
    recipe = VAE(latent=2, beta=2.0, kl_warmup=0.5, encoder=nn.Linear(3, 4), decoder=nn.Linear(2, 6))
    network = recipe.build(SPACE)
    for progress, beta in ((0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (1.0, 2.0)):
        parts = network.loss(Batch(X, rows=400), RowNoise(0, 400), progress)
        torch.testing.assert_close(parts["loss"], parts["misfit"] + beta * parts["kl"])


def test_samples_have_the_models_covariance():
    """40000 draws of x: mean and covariance at 4 standard errors (Gaussian: Var of c_ij is (c_ii c_jj + c_ij^2) / n)."""
    network, covariance = linear_vae(1.0)
    n = 40_000
    x = network.sample(RowNoise(1, n), None, mean=False).double()
    covariance = covariance.double()
    assert ((x.mean(0) - MEAN).abs() < 4 * (torch.diagonal(covariance) / n).sqrt()).all()
    diagonal = torch.diagonal(covariance)
    error = ((torch.outer(diagonal, diagonal) + covariance.square()) / n).sqrt()
    assert ((torch.cov(x.t()) - covariance).abs() < 4 * error).all()


def test_imputation_is_the_conditional_gaussian():
    """x3 | x1, x2 in closed form. The encoder takes the hole for a 0, so q is off; 2000 proposals from it, twice as wide as
    the posterior of a whole row, are resampled by weight. 600 copies of a row: the mean at 4 standard errors + 0.03 sd
    for the bias of self-normalised weights, the spread to 10 % (4 / sqrt(2 * 600) = 11 %)."""
    network, covariance = linear_vae(2.0)
    n = 600
    row = torch.tensor([1.0, -0.7, 0.0]).expand(n, 3)
    observed = torch.tensor([True, True, False]).expand(n, 3)
    c = covariance
    gain = c[2:, :2] @ torch.linalg.inv(c[:2, :2])
    mean = float(MEAN[2] + gain @ (row[0, :2] - MEAN[:2]))
    sd = math.sqrt(float(c[2, 2] - gain @ c[:2, 2:]))
    drawn = network.conditional(row, observed, None, RowNoise(0, n), mean=False, proposals=2000)
    assert torch.equal(drawn[:, :2], row[:, :2])
    assert abs(float(drawn[:, 2].mean()) - mean) < 4 * sd / math.sqrt(n) + 0.03 * sd
    assert abs(float(drawn[:, 2].std()) / sd - 1) < 0.11
    best = network.conditional(row, observed, None, RowNoise(0, n), mean=True, proposals=2000)
    assert abs(float(best[:, 2].mean()) - mean) < 0.03 * sd
    assert float(best[:, 2].std()) < 0.15 * sd


# ---------------------------------------------------------------------- likelihoods

PARAMETERS = [(0.0, 0.0), (0.37, -3.0), (-2.0, 1.5), (0.99, -6.0), (40.0, 0.0), (0.0, -50.0), (0.0, 50.0)]


@pytest.mark.parametrize(("location", "raw"), PARAMETERS)
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_bounded_logistic_sums_to_one(location, raw, levels):
    step = 2 / (levels - 1)
    grid = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    parameters = torch.tensor([[location, raw]], dtype=torch.float64).expand(levels, 2)
    log_p = lik.discretised_logistic(grid, parameters, torch.tensor([step], dtype=torch.float64), -1.0, 1.0)
    assert (log_p <= 1e-9).all()
    assert torch.isfinite(log_p).all()
    assert abs(float(log_p.exp().sum()) - 1) < 1e-9


@pytest.mark.parametrize(("location", "raw"), PARAMETERS[:4])
def test_the_unbounded_logistic_sums_to_one(location, raw):
    """Points 0.25 apart, over 60 scales on either side: tails below e^-60."""
    _, log_scale = lik.split_scale(torch.tensor([[location, raw]], dtype=torch.float64))
    reach = 60 * float(log_scale.exp()) + 2
    k = torch.arange(
        math.floor((location - reach) / 0.25), math.ceil((location + reach) / 0.25) + 1, dtype=torch.float64
    )
    parameters = torch.tensor([[location, raw]], dtype=torch.float64).expand(len(k), 2)
    log_p = lik.discretised_logistic(
        0.25 * k[:, None], parameters, torch.tensor([0.25], dtype=torch.float64), None, None
    )
    assert abs(float(log_p.exp().sum()) - 1) < 1e-9


def test_the_logistic_in_float32_agrees_with_float64():
    grid = torch.linspace(-1, 1, 256)[:, None]
    for location, raw in PARAMETERS[:5]:
        parameters = torch.tensor([[location, raw]]).expand(256, 2)
        step = torch.tensor([2 / 255])
        single = lik.discretised_logistic(grid, parameters, step, -1.0, 1.0).double()
        double = lik.discretised_logistic(grid.double(), parameters.double(), step.double(), -1.0, 1.0)
        np.testing.assert_allclose(single, double, rtol=2e-3, atol=2e-3)


def test_densities_against_torch():
    g = torch.Generator().manual_seed(0)
    x, parameters = torch.randn(50, 3, generator=g), torch.randn(50, 6, generator=g)
    location, log_scale = lik.split_scale(parameters)
    torch.testing.assert_close(
        lik.normal(x, parameters), torch.distributions.Normal(location, log_scale.exp()).log_prob(x)
    )
    bits, logits = (x > 0).float(), parameters[:, :3]
    torch.testing.assert_close(lik.bernoulli(bits, logits), torch.distributions.Bernoulli(logits=logits).log_prob(bits))
    codes = torch.randint(0, 3, (50,), generator=g)
    onehot = nn.functional.one_hot(codes, 3).float()
    want = torch.distributions.Categorical(logits=logits).log_prob(codes)
    torch.testing.assert_close(lik.categorical(onehot, logits).sum(1), want)
    torch.testing.assert_close(lik.standard_normal(x), torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1))


def test_log_scales_stay_in_their_range():
    raw = torch.linspace(-100, 100, 2001)
    _, log_scale = lik.split_scale(torch.stack([torch.zeros_like(raw), raw], 1))
    low, high = lik.LOG_SCALE_RANGE
    assert float(log_scale.min()) >= low - 1e-5
    assert float(log_scale.max()) <= high + 1e-5
    assert (log_scale.diff(dim=0) >= -1e-5).all()
    middle = (raw > -3) & (raw < -1)
    assert (log_scale[middle, 0] - raw[middle]).abs().max() < 0.15  # nearly the identity in between


def test_draws_have_the_moments_they_should():
    """n = 40000: mean within 4 sd / sqrt(n); variance within 4 var sqrt((kurtosis - 1) / n), kurtosis 3 and 4.2."""
    n = 40_000
    parameters = torch.tensor([[1.5, -0.5]]).expand(n, 2)
    scale = math.exp(float(lik.split_scale(parameters[:1])[1]))
    for draw, variance, kurtosis in (
        (lik.draw_normal, scale**2, 3.0),
        (lik.draw_logistic, scale**2 * math.pi**2 / 3, 4.2),
    ):
        x = draw(parameters, RowNoise(0, n)).double()[:, 0]
        assert abs(float(x.mean()) - 1.5) < 4 * math.sqrt(variance / n)
        assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt((kurtosis - 1) / n)
