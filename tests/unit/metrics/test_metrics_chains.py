"""R-hat and effective draws on chains whose autocorrelation is known."""

from __future__ import annotations

import numpy as np
import pytest

from reverie.errors import DataError
from reverie.metrics import autocorrelation, effective_draws, r_hat


def ar1(phi: float, chains: int = 4, steps: int = 2000, seed: int = 0) -> np.ndarray:
    """x_t = phi x_{t-1} + e_t, started at rest: N independent draws' worth is N (1 - phi) / (1 + phi)."""
    rng = np.random.default_rng(seed)
    x = np.empty((chains, steps))
    x[:, 0] = rng.normal(size=chains) / np.sqrt(1 - phi**2)
    for t in range(1, steps):
        x[:, t] = phi * x[:, t - 1] + rng.normal(size=chains)
    return x


@pytest.mark.parametrize(("phi", "tolerance"), [(0.0, 0.1), (0.5, 0.1), (0.9, 0.2), (0.99, 0.4)])
def test_effective_draws_of_a_known_chain(phi, tolerance):
    """Mean of 10 runs; the slower the chain, the fewer draws there are to tell (64 of 8,000 at phi = 0.99)."""
    share = np.mean([effective_draws(ar1(phi, seed=seed)) / 8000 for seed in range(10)])
    assert share == pytest.approx((1 - phi) / (1 + phi), rel=tolerance)


def test_autocorrelation_of_a_known_chain():
    """phi^lag; from 40 chains of 2,000 steps its standard error is about sqrt((1 + phi^2) / (1 - phi^2) / 80,000) = 0.006."""
    found = autocorrelation(ar1(0.7, chains=40))
    assert found.shape == (2000,)
    np.testing.assert_allclose(found[:8], 0.7 ** np.arange(8), atol=0.03)
    apart = ar1(0.7) + 50 * np.arange(4)[:, None]
    assert autocorrelation(apart)[500] > 0.99


def test_independent_chains_agree():
    """4 chains of 1,000 independent draws: R-hat within 0.01 of 1."""
    assert r_hat(np.random.default_rng(0).normal(size=(4, 1000))) == pytest.approx(1, abs=0.01)


def test_chains_apart():
    x = np.random.default_rng(0).normal(size=(2, 500))
    x[1] += 20
    assert r_hat(x) > 1.5  # two halves of the normal scores: their means are 1.6 apart, their spread 0.6
    assert effective_draws(x) < 10


def test_same_middle_other_width():
    """Ranks alone see nothing; distances from the median do."""
    x = np.random.default_rng(0).normal(size=(2, 1000)) * np.array([[1.0], [5.0]])
    assert r_hat(x) > 1.1


def test_a_drift_within_chains():
    """Whole chains agree with each other; their halves do not."""
    x = np.random.default_rng(0).normal(size=(4, 1000)) + np.linspace(-2, 2, 1000)
    assert r_hat(x) > 1.3


def test_monotone_maps_change_nothing_of_the_middle():
    x = ar1(0.7)
    assert effective_draws(np.exp(x)) == pytest.approx(effective_draws(x), rel=1e-12)


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_nothing_to_say(value):
    x = np.full((2, 10), value)
    assert np.isnan(r_hat(x))
    assert np.isnan(effective_draws(x))
    assert np.isnan(autocorrelation(x)).all()


@pytest.mark.parametrize("shape", [(10,), (2, 3), (0, 10), (2, 2, 10)])
def test_wrong_shapes(shape):
    with pytest.raises(DataError, match=r"draws: expected \(chains, steps\)"):
        r_hat(np.zeros(shape))
