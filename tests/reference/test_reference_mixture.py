"""The Gaussian mixture against scikit-learn, against numbers far from zero, and against closed forms for missing cells."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from reverie.errors import InvalidOption
from reverie.models.mixture import GaussianMixture, parameters, with_parameters

SHAPES = ("full", "tied", "diag", "spherical")


def clusters(n: int = 400, d: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
        + 3 * rng.integers(0, 3, (n, 1)) * np.array([1.0, -1.0, 0.5])[:d]
    )


def start_values(X: np.ndarray, covariance: str, k: int = 3) -> dict[str, np.ndarray]:
    d = X.shape[1]
    spread = np.cov(X.T)
    covariances = {
        "full": np.stack([spread * (1 + 0.1 * j) for j in range(k)]),
        "tied": spread,
        "diag": np.stack([np.diag(spread) * (1 + 0.1 * j) for j in range(k)]),
        "spherical": np.trace(spread) / d * (1 + 0.1 * np.arange(k)),
    }[covariance]
    return {"weights": np.array([0.5, 0.3, 0.2]), "means": X[[3, 100, 250]].copy(), "covariances": covariances}


@pytest.mark.parametrize("covariance", SHAPES)
@pytest.mark.parametrize("epochs", [0, 1, 20])
def test_scikit_learn_agrees_per_sample(covariance, epochs):
    """The same start, the same number of EM steps, no floor: log-densities equal to 1e-8, parameters to 1e-7."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Peer

    X = clusters()
    begin = start_values(X, covariance)
    recipe = GaussianMixture(components=3, covariance=covariance, floor=0.0, tol=0)
    start = with_parameters(recipe, X, **begin)
    model = recipe.fit(X, start=start, epochs=epochs) if epochs else start
    precisions = np.linalg.inv(begin["covariances"]) if covariance in ("full", "tied") else 1 / begin["covariances"]
    peer = Peer(
        3, covariance_type=covariance, tol=0, reg_covar=0, max_iter=max(epochs, 1),
        weights_init=begin["weights"], means_init=begin["means"], precisions_init=precisions,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer.fit(X)
    if epochs == 0:  # the peer cannot be asked for no steps: put its start back
        from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

        peer.weights_, peer.means_, peer.covariances_ = begin["weights"], begin["means"], begin["covariances"]
        peer.precisions_cholesky_ = _compute_precision_cholesky(begin["covariances"], covariance)
    new = clusters(50, seed=9)
    np.testing.assert_allclose(model.log_prob(X), peer.score_samples(X), atol=1e-8)
    np.testing.assert_allclose(model.log_prob(new), peer.score_samples(new), atol=1e-8)
    np.testing.assert_allclose(model.encode(new), peer.predict_proba(new), atol=1e-8)
    found = parameters(model)
    np.testing.assert_allclose(found["weights"], peer.weights_, rtol=1e-7)
    np.testing.assert_allclose(found["means"], peer.means_, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found["covariances"], peer.covariances_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("covariance", SHAPES)
@pytest.mark.parametrize("components", [1, 2])
def test_far_from_zero(covariance, components):
    """N(1e6, 0.1^2): the variance within 1 % of 0.01 (its sampling error is sqrt(2 / n) = 0.7 %, so it is compared with
    the sample's own, computed after exact centring, to 0.1 %); the same data near 0 give the same densities."""
    n = 40_000
    noise = 0.1 * np.random.default_rng(0).normal(size=(n, 2))
    X = 1e6 + noise
    exact = X - 1e6  # exact in float64
    recipe = GaussianMixture(components=components, covariance=covariance)
    model, near = recipe.fit(X, epochs=5, seed=0), recipe.fit(exact, epochs=5, seed=0)
    np.testing.assert_allclose(model.log_prob(X[:100]), near.log_prob(exact[:100]), atol=1e-4)
    if components == 1:
        found = parameters(model)
        np.testing.assert_allclose(found["means"][0], 1e6, atol=4 * 0.1 / math.sqrt(n))
        variance = {
            "full": lambda c: np.diag(c[0]),
            "tied": np.diag,
            "diag": lambda c: c[0],
            "spherical": lambda c: c[[0, 0]],
        }[covariance](found["covariances"])
        own = exact.var(0) if covariance != "spherical" else np.full(2, exact.var(0).mean())
        np.testing.assert_allclose(variance, own, rtol=1e-3)
        np.testing.assert_allclose(variance, 0.01, rtol=0.03)
    sample = model.sample(20_000, seed=0)
    # sd of a variance estimate from 20000 draws: sqrt(2 / 20000) = 1 %; 4 of them
    np.testing.assert_allclose((sample - 1e6).var(0), 0.01, rtol=0.045)


@pytest.mark.parametrize("covariance", SHAPES)
@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("batch_size", [None, 64])
def test_em_never_loses_likelihood(covariance, holes, batch_size):
    """Without a floor EM's log-likelihood rises at every pass, holes or not (Dempster et al. 1977, theorem 1)."""
    X = clusters(300)
    X[np.random.default_rng(1).random(X.shape) < holes] = np.nan
    recipe = GaussianMixture(components=3, covariance=covariance, floor=0.0, tol=0)
    model = recipe.fit(X, epochs=40, batch_size=batch_size or 65536, seed=2)
    curve = np.array([record["log_likelihood"] for record in model.history])
    assert len(curve) == 40
    assert (np.diff(curve) > -1e-10).all()
    assert curve[-1] > curve[0] + 1e-3
    # The history holds the mean log-likelihood in model space; log_prob of the data is that plus the log-determinant.
    further = recipe.fit(X, start=model, epochs=1, batch_size=batch_size or 65536)
    total = model.log_prob(X) - model.codec.prepare(model.schema.read(X)).log_det.numpy()
    assert abs(further.history[0]["log_likelihood"] - total.mean()) < 1e-9


def test_the_fixed_point_of_em_is_a_maximum():
    """With one component and no holes, one pass gives the sample's mean and covariance."""
    X = clusters(200)
    found = parameters(GaussianMixture(components=1, floor=0.0).fit(X, epochs=2))
    np.testing.assert_allclose(found["means"][0], X.mean(0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found["covariances"][0], np.cov(X.T, bias=True), rtol=1e-9)


# ---------------------------------------------------------------------- missing cells

MEANS = np.array([[0.0, 10.0, -1.0], [4.0, 0.0, 2.0]])
WEIGHTS = np.array([0.35, 0.65])
A = np.array([[1.0, 0.6, -0.3], [0.6, 2.0, 0.4], [-0.3, 0.4, 0.8]])
COVARIANCES = np.stack([A, np.diag([0.5, 1.5, 3.0]) + 0.2])


def normal(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    diff = np.atleast_1d(x - mean)
    cov = np.atleast_2d(cov)
    return float(
        np.exp(-0.5 * diff @ np.linalg.solve(cov, diff)) / math.sqrt((2 * math.pi) ** len(diff) * np.linalg.det(cov))
    )


def conditional(row: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """p(x_observed), and mean and covariance of x_missing | x_observed, for the mixture above; by the textbook."""
    seen = ~np.isnan(row)
    weights, means, covs = [], [], []
    for w, mean, cov in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        oo, mo, mm = cov[np.ix_(seen, seen)], cov[np.ix_(~seen, seen)], cov[np.ix_(~seen, ~seen)]
        weights.append(w * normal(row[seen], mean[seen], oo))
        gain = mo @ np.linalg.inv(oo)
        means.append(mean[~seen] + gain @ (row[seen] - mean[seen]))
        covs.append(mm - gain @ mo.T)
    share = np.array(weights) / sum(weights)
    mean = sum(s * m for s, m in zip(share, means, strict=True))
    second = sum(s * (c + np.outer(m, m)) for s, m, c in zip(share, means, covs, strict=True))
    return sum(weights), mean, second - np.outer(mean, mean)


@pytest.fixture(scope="module")
def known():
    X = np.random.default_rng(0).normal(size=(200, 3)) * [3, 5, 2] + [2, 4, 1]
    recipe = GaussianMixture(components=2, floor=0.0)
    return with_parameters(recipe, X, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)


ROWS = [
    np.array([1.0, np.nan, 0.5]),
    np.array([np.nan, 3.0, np.nan]),
    np.array([3.0, 1.0, np.nan]),
    np.array([2.0, 5.0, 0.0]),
]


@pytest.mark.parametrize("row", ROWS)
def test_log_prob_and_mean_with_holes(known, row):
    density, mean, _ = conditional(row)
    np.testing.assert_allclose(known.log_prob(row[None]), math.log(density), rtol=1e-10)
    np.testing.assert_allclose(known.impute(row[None])[0, np.isnan(row)], mean, rtol=1e-9)
    np.testing.assert_array_equal(known.impute(row[None])[0, ~np.isnan(row)], row[~np.isnan(row)])


@pytest.mark.parametrize("row", ROWS[:3])
def test_draws_with_holes(known, row):
    """20000 completions of one row: mean within 4 sd / sqrt(n), covariance within 4 sqrt((c_ii c_jj k) / n), where
    k = 3 bounds the fourth moment of these two-component conditionals."""
    n = 20_000
    _, mean, cov = conditional(row)
    filled = known.impute(np.repeat(row[None], n, 0), n_draws=1, seed=4)[0][:, np.isnan(row)]
    assert (np.abs(filled.mean(0) - mean) < 4 * np.sqrt(np.diag(cov) / n)).all()
    spread = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert (np.abs(np.cov(filled.T).reshape(cov.shape) - cov) < 4 * spread * math.sqrt(3 / n)).all()


@pytest.mark.parametrize("covariance", SHAPES)
def test_parameters_there_and_back(covariance):
    X = clusters()
    begin = start_values(X, covariance)
    found = parameters(with_parameters(GaussianMixture(components=3, covariance=covariance), X, **begin))
    for name, value in begin.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [0.5, 0.5]}, r"weights: expected finite numbers of shape \(3,\), got \(2,\)"),
        ({"weights": [0.5, 0.6, 0.2]}, "positive numbers that sum to 1"),
        ({"weights": [1.5, -0.6, 0.1]}, "positive numbers that sum to 1"),
        ({"means": np.full((3, 3), np.nan)}, "means: expected finite"),
        ({"covariances": np.eye(3)}, r"covariances: expected finite numbers of shape \(3, 3, 3\)"),
    ],
)
def test_wrong_parameters(changes, message):
    X = clusters()
    with pytest.raises(InvalidOption, match=message):
        with_parameters(GaussianMixture(components=3), X, **{**start_values(X, "full"), **changes})
