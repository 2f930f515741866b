"""Units against sums over their states, quadrature and autograd; their samplers against the moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from reverie.probability.machines.units import Bernoulli, Categorical, Gaussian, ReLU, SideBySide, Spin, Units, units
from reverie.rng import RowNoise

torch.manual_seed(0)
FIELDS = torch.tensor([[-3.0, 0.2, 1.7, 0.0, -0.4, 4.0]], dtype=torch.float64)


def made(kind: str) -> Units:
    layer = units(kind, 2 if kind == "categorical" else 6, levels=3).double()
    if isinstance(layer, Gaussian):
        with torch.no_grad():
            layer.log_variance.copy_(torch.linspace(-1, 1, 6))
    return layer


KINDS = ["bernoulli", "spin", "categorical", "gaussian", "relu"]


@pytest.mark.parametrize("kind", ["bernoulli", "spin", "categorical"])
def test_log_partition_by_listing_all_states(kind):
    layer = made(kind)
    states = layer.states(0, math.prod(layer.radices))
    assert len(torch.unique(states, dim=0)) == len(states) == math.prod(layer.radices)
    weights = torch.softmax((states @ FIELDS[0]), 0)
    torch.testing.assert_close(layer.log_partition(FIELDS)[0], torch.logsumexp(states @ FIELDS[0], 0))
    torch.testing.assert_close(layer.mean(FIELDS)[0], weights @ states)


@pytest.mark.parametrize("kind", ["gaussian", "relu"])
def test_log_partition_by_quadrature(kind):
    """Over 14 standard deviations about the peak, cut at 0 for rectified units."""
    layer, total = made(kind), 0.0
    variance = layer.variance.detach().numpy() if kind == "gaussian" else np.ones(6)
    for f, v in zip(FIELDS[0].numpy(), variance, strict=True):
        low, high = f * v - 14 * v**0.5, f * v + 14 * v**0.5
        low = max(low, 0.0) if kind == "relu" else low
        mass, _ = integrate.quad(lambda x, f=f, v=v: np.exp(f * x - x**2 / (2 * v)), low, high, epsabs=0, epsrel=1e-11)
        total += np.log(mass)
    assert layer.log_partition(FIELDS).detach().item() == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_gradient(kind):
    layer, field = made(kind), FIELDS.clone().requires_grad_()
    layer.log_partition(field).sum().backward()
    torch.testing.assert_close(layer.mean(FIELDS), field.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_mean_and_covariance(kind):
    """At 4 standard errors of 200,000 draws; the covariance is A's Hessian."""
    layer, n, fields = made(kind), 200_000, FIELDS * 0.5  # no event so rare that 200,000 draws hold none
    x = layer.sample(fields.expand(n, -1), RowNoise(3, n, dtype=torch.float64)).detach()
    hessian = torch.autograd.functional.hessian(lambda f: layer.log_partition(f[None])[0], fields[0])
    sd = hessian.diagonal().sqrt()
    assert ((x.mean(0) - layer.mean(fields)[0]).abs() <= 4 * sd / n**0.5 + 1e-12).all()
    # products of centred draws: their own spread gives the standard error
    centred = x - layer.mean(fields)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / n**0.5
    assert ((products.mean(0) - hessian).abs() <= 4.5 * error + 1e-12).all()


def test_learned_variance_is_the_energy_s_gradient():
    layer, x = made("gaussian"), torch.randn(50, 6, dtype=torch.float64)
    weight = torch.rand(50, dtype=torch.float64)
    (-(layer.energy(x) * weight).sum()).backward()
    torch.testing.assert_close(layer.learned(x, weight)[layer.log_variance].detach(), layer.log_variance.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_means(kind):
    layer = made(kind)
    mean = layer.mean(FIELDS * 0.5)[0].detach()
    torch.testing.assert_close(layer.mean(layer.field_of(mean)[None])[0], mean, rtol=1e-6, atol=1e-6)


def test_start_takes_the_variance():
    layer = Gaussian(3).double()
    mean, variance = torch.tensor([1.0, -2.0, 0.0]).double(), torch.tensor([4.0, 0.25, 1.0]).double()
    field = layer.start(mean, variance)
    torch.testing.assert_close(layer.variance.detach(), variance)
    torch.testing.assert_close(layer.mean(field[None])[0].detach(), mean)


def test_rectified_units_far_below_zero():
    """About an exponential of rate -f: finite, positive, mean 1 / -f to f^-2."""
    layer, field = ReLU(3), torch.tensor([[-20.0, -60.0, -1e4]], dtype=torch.float64)
    np.testing.assert_allclose(layer.mean(field)[0], [1 / 20, 1 / 60, 1e-4], rtol=6e-3)
    n = 100_000
    x = layer.sample(field.expand(n, -1), RowNoise(0, n, dtype=torch.float64))
    assert (x >= 0).all()
    assert torch.isfinite(layer.log_partition(field)).all()
    np.testing.assert_allclose(x.mean(0) / layer.mean(field)[0], 1, atol=5 / n**0.5)  # an exponential's sd is its mean


def test_side_by_side_is_its_parts():
    parts = [Bernoulli(2), Categorical(1, 3), Gaussian(1).double(), Spin(2), ReLU(1)]
    layer = SideBySide(parts).double()
    field = torch.randn(4, layer.width, dtype=torch.float64)
    pieces = field.split([part.width for part in parts], 1)
    assert layer.count == 7
    torch.testing.assert_close(
        layer.log_partition(field), sum(p.log_partition(f) for p, f in zip(parts, pieces, strict=True))
    )
    x = layer.sample(field, RowNoise(0, 4, dtype=torch.float64)).detach()
    torch.testing.assert_close(layer.energy(x), parts[2].energy(x[:, 5:6]) + parts[4].energy(x[:, 8:9]))
    assert list(layer.learned(x, None)) == [parts[2].log_variance]
    assert SideBySide([Bernoulli(1), Spin(1)]).energy(torch.zeros(2, 2)) is None
    start = layer.start(x.mean(0).clamp(0.1, 0.6), x.var(0) + 0.1)
    assert start.shape == (layer.width,)
    assert layer.radices is None  # numbers have too many states to list
    codes = SideBySide([Categorical(2, 3), Spin(1), Bernoulli(2)])
    assert codes.radices == (3, 3, 2, 2, 2)
    states = codes.states(0, 72)
    assert len(torch.unique(states, dim=0)) == 72
    assert set(states[:, 6].tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(states[10:20], codes.states(10, 20))
