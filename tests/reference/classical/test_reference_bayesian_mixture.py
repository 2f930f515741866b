"""The Bayesian mixture against torch.distributions and against what its two priors say of known counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Beta, Dirichlet, kl_divergence

import reverie as rv
from reverie.errors import InvalidOption
from reverie.models.classical.bayesian_mixture import effective_components
from reverie.probability.latent.variational import DirichletWeights, StickBreakingWeights

COUNT = torch.tensor([3.0, 40.0, 0.0, 11.5], dtype=torch.float64)


def two_blobs() -> np.ndarray:
    """Thirty rows here and ten there, so far apart that every row belongs to one member for certain."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-50, 1, (30, 2)), rng.normal(50, 1, (10, 2))])


def expected_weights(prior: str, concentration: float, count: list[float]) -> np.ndarray:
    """E[w] by its definition, counts in falling order."""
    n = np.array(count)
    if prior == "dirichlet":
        return (concentration + n) / (concentration + n).sum()
    later = n.sum() - n.cumsum()
    share = (1 + n) / (1 + n + concentration + later)
    share[-1] = 1.0
    return share * np.concatenate([[1.0], (1 - share[:-1]).cumprod()])


@pytest.mark.parametrize("concentration", [None, 3.0])
@pytest.mark.parametrize("prior", ["process", "dirichlet"])
def test_a_fit_has_the_weights_of_the_prior_that_was_asked_for(prior, concentration):
    recipe = rv.BayesianGaussianMixture(components=4, weights=prior, concentration=concentration, tol=0)
    model = recipe.fit(two_blobs(), epochs=30, seed=0, progress=False, columns="real")
    found = np.sort(model.network.weights.mean().numpy())[::-1]
    wanted = expected_weights(prior, 0.25 if concentration is None else concentration, [30, 10, 0, 0])
    # members without rows overlap with the others by a tenth of a row; the other prior is four times as far away
    np.testing.assert_allclose(found, np.sort(wanted)[::-1], atol=3e-3, rtol=0)


def test_the_prior_is_a_process_unless_said_otherwise():
    recipe = rv.BayesianGaussianMixture(components=2)
    assert recipe.weights == "process"
    model = recipe.fit(two_blobs(), epochs=1, progress=False)
    assert isinstance(model.network.weights, StickBreakingWeights)


def test_a_dirichlet_is_that_of_torch():
    weights = DirichletWeights(4, 0.3)
    weights.maximise(COUNT)
    own, prior = Dirichlet(0.3 + COUNT), Dirichlet(torch.full_like(COUNT, 0.3))
    torch.testing.assert_close(weights.mean(), own.mean)
    torch.testing.assert_close(weights.log_prior(), -kl_divergence(own, prior))
    # E[log w] is the slope of the log normaliser
    a = (0.3 + COUNT).requires_grad_()
    (torch.lgamma(a).sum() - torch.lgamma(a.sum())).backward()
    torch.testing.assert_close(weights.log(), a.grad)


def test_sticks_are_the_betas_of_torch_broken_in_the_order_of_size():
    weights = StickBreakingWeights(4, 0.7)
    weights.maximise(COUNT)
    ordered = torch.tensor([40.0, 11.5, 3.0, 0.0], dtype=torch.float64)
    later = torch.tensor([14.5, 3.0, 0.0], dtype=torch.float64)
    sticks = Beta(1 + ordered[:-1], 0.7 + later)
    prior = Beta(torch.ones(3, dtype=torch.float64), torch.full((3,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(weights.log_prior(), -kl_divergence(sticks, prior).sum())
    of_members = [2, 0, 3, 1]  # the place of each member's stick
    mean = expected_weights("process", 0.7, ordered.tolist())
    np.testing.assert_allclose(weights.mean().numpy(), mean[of_members])
    log_taken = torch.digamma(1 + ordered[:-1]) - torch.digamma(1.7 + ordered[:-1] + later)
    log_left = torch.digamma(0.7 + later) - torch.digamma(1.7 + ordered[:-1] + later)
    log_w = torch.cat([log_taken, torch.zeros(1)]) + torch.cat([torch.zeros(1), log_left.cumsum(0)])
    torch.testing.assert_close(weights.log(), log_w[of_members])


def test_a_process_is_not_cut_off_where_it_begins():
    """Ten blobs: a concentration far above the components is refused for a process, and spreads a Dirichlet evenly."""
    with pytest.raises(
        InvalidOption, match=r"concentration=100000 expects far more than components=20: 100.0% of the prior"
    ):
        rv.BayesianGaussianMixture(components=20, concentration=1e5)
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal([6 * (k % 4), 6 * (k // 4)], 0.5, (80, 2)) for k in range(10)])
    for recipe in (
        rv.BayesianGaussianMixture(components=20, concentration=1e5, weights="dirichlet"),
        rv.BayesianGaussianMixture(components=20, concentration=10.0),
        rv.BayesianGaussianMixture(components=20),
    ):
        model = recipe.fit(X, seed=0, progress=False, columns="real")
        assert effective_components(model) >= 9
