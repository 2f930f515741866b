"""The Gaussian mixture against scikit-learn, against numbers far from zero, and against closed forms for missing cells."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

from reverie.data.forms.reading import read_table
from reverie.data.space import Batch
from reverie.errors import InvalidOption
from reverie.models.classical.mixture import GaussianMixture, parameters, with_parameters
from reverie.probability.latent.mixture import spread_rows

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
    total = model.log_prob(X) - model.codec.prepare(read_table(model.schema, X)).log_det.numpy()
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
        ({"covariances": -np.stack([np.eye(3)] * 3)}, "positive variances in every direction"),
        ({"covariances": np.stack([np.eye(3) + np.eye(3, k=1)] * 3)}, "symmetric matrices"),
        ({"means": [[0, 0, 0], [1, 1]]}, "means: expected an array of numbers"),
    ],
)
def test_wrong_parameters(changes, message):
    X = clusters()
    with pytest.raises(InvalidOption, match=message):
        with_parameters(GaussianMixture(components=3), X, **{**start_values(X, "full"), **changes})


# ---------------------------------------------------------------------- ways of learning


def clear(n: int = 3000, seed: int = 0) -> np.ndarray:
    """Three clusters 8 sd apart."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) + 8 * np.array([[0, 0], [1, 0], [0, 1]])[rng.integers(0, 3, n)]


@pytest.mark.parametrize("covariance", [*SHAPES, "low-rank"])
def test_stepwise_reaches_batch(covariance):
    """A few passes with an update per batch, within 0.02 nats of batch EM run to its end."""
    X = clear()
    options = {"covariance": covariance, "components": 3, "rank": 1}
    batch = GaussianMixture(**options).fit(X, epochs=200, seed=0)
    step = GaussianMixture(stepwise=True, tol=0, **options).fit(X, epochs=8, batch_size=100, seed=0)
    assert abs(step.log_prob(X).mean() - batch.log_prob(X).mean()) < 0.02


def test_stepwise_learns_what_its_start_did_not_know():
    """From a start at one cluster's centre, in one pass: the batches' statistics move it, not the start alone."""
    X = clear()
    recipe = GaussianMixture(components=3, stepwise=True, tol=0)
    X0 = X[np.abs(X).max(1) < 3][:300]
    start = recipe.fit(X0 + np.random.default_rng(0).normal(size=X0.shape), epochs=1, batch_size=50)
    later = recipe.fit(X, start=start, epochs=10, batch_size=100)
    assert later.log_prob(X).mean() > start.log_prob(X).mean() + 1


@pytest.mark.parametrize("covariance", [*SHAPES, "low-rank"])
@pytest.mark.parametrize("holes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_memory_counts_for_the_rows_seen_before(covariance, holes):
    """fit(A), then fit(B, start, memory=len(A)): near fit(A + B), where fit(B, start) forgets A. Of clear clusters, whose
    shares differ between A and B: their weights to 0.01 and the mean density to 0.02 nats."""
    X = clear(3000)
    side = X[:, 0] > 4
    A, B = np.concatenate([X[side], X[~side][:300]]), X[~side][300:]
    if holes:
        for rows in (A, B):
            rows[np.random.default_rng(1).random(rows.shape) < 0.1] = np.nan
    options = {"components": 3, "covariance": covariance, "rank": 1, "tol": 0}
    first = GaussianMixture(restarts=5, **options).fit(A, epochs=30, seed=1, columns="real")
    both = GaussianMixture(**options).fit(np.concatenate([A, B]), epochs=30, start=first)
    kept = GaussianMixture(memory=len(A), **options).fit(B, start=first, epochs=30)
    lost = GaussianMixture(**options).fit(B, start=first, epochs=30)
    every = np.concatenate([A, B])
    want = both.log_prob(every).mean()
    assert abs(kept.log_prob(every).mean() - want) < 0.02
    assert lost.log_prob(every).mean() < want - 0.2
    weights = [np.sort(parameters(model)["weights"]) for model in (kept, both)]
    np.testing.assert_allclose(*weights, atol=0.01)


@pytest.mark.parametrize("covariance", SHAPES)
def test_memory_of_one_component_is_exact(covariance):
    """Mean and covariance of A and B together, after any number of passes over B: what is remembered moves along."""
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(300, 2)), rng.normal(size=(500, 2)) * 2 + 5
    options = {"components": 1, "covariance": covariance, "floor": 0.0, "tol": 0}
    first = GaussianMixture(**options).fit(A, epochs=1)
    whole = parameters(GaussianMixture(**options).fit(np.concatenate([A, B]), start=first, epochs=1))
    for epochs in (1, 2, 5):
        found = parameters(GaussianMixture(memory=300, **options).fit(B, start=first, epochs=epochs))
        np.testing.assert_allclose(found["means"], whole["means"], rtol=1e-9)
        np.testing.assert_allclose(found["covariances"], whole["covariances"], rtol=1e-9)


def test_dead_components_are_rescued():
    """Two of three components far from all rows get rows again, and fit better than the one that had them all."""
    X = clear()
    recipe = GaussianMixture(components=3, tol=0)
    far = with_parameters(
        recipe,
        X,
        weights=[1 / 3] * 3,
        means=[[3.0, 3.0], [4000.0, 4000.0], [-4000.0, 4000.0]],
        covariances=np.stack([np.eye(2) * 20] * 3),
    )
    model = recipe.fit(X, start=far, epochs=60)
    found = parameters(model)
    assert found["weights"].min() > 0.05
    assert np.abs(found["means"]).max() < 20
    assert model.log_prob(X).mean() > GaussianMixture(components=1).fit(X, epochs=2).log_prob(X).mean() + 0.3


@pytest.mark.parametrize("size", [2, 3])
def test_a_rescue_leaves_what_members_share(size):
    """As many components as columns once mixed up buffers of (K, ...) with buffers of (d, ...)."""
    from reverie.probability.components.discrete import Poisson
    from reverie.probability.gaussians.shapes import gaussians

    floor = 0.1 + torch.arange(float(size))
    for shape in (*SHAPES, "low-rank"):
        members = gaussians(shape, size, size, floor, rank=1)
        members.overall.copy_(1 + torch.arange(float(size)))
        tied = members.covariance.clone() if shape == "tied" else None
        members.mean.copy_(torch.arange(float(size))[:, None].expand(-1, size))
        members.split(0, 1)
        assert torch.equal(members.floor, floor.double())
        assert torch.equal(members.overall, 1 + torch.arange(float(size)).double())
        assert tied is None or torch.equal(members.covariance, tied)
        assert abs(float(members.mean[0, 0] + members.mean[1, 0])) < 1e-9  # apart, around what member 0 had
    counts = Poisson(size, size)
    counts.overall.copy_(1 + torch.arange(float(size)))
    counts.split(0, 1)
    assert torch.equal(counts.overall, 1 + torch.arange(float(size)).double())


def test_more_starts_are_never_worse_on_their_rows():
    """After one pass, starts=1, 3 and 10 on the very rows the starts are judged on."""
    rng = np.random.default_rng(0)
    for seed in range(8):
        X = rng.normal(size=(200, 3)) + 3 * rng.normal(size=(12, 3))[rng.integers(0, 12, 200)]
        values = []
        for restarts in (1, 3, 10):
            recipe = GaussianMixture(components=8, covariance="diag", floor=1e-2, restarts=restarts, tol=0)
            steps = 6 if restarts == 1 else 1  # each of several starts has had five steps already
            values.append(recipe.fit(X, epochs=steps, seed=seed).history[-1]["log_likelihood"])
        assert values[0] <= values[1] + 1e-9
        assert values[1] <= values[2] + 1e-9


@pytest.mark.parametrize("covariance", [*SHAPES, "low-rank"])
@pytest.mark.parametrize("holes", [False, True])
def test_weights_are_repeated_rows(covariance, holes):
    """Rows with weights 0 to 3 from one start, against the rows repeated so often: parameters to 1e-9."""
    import pandas as pd

    from reverie.data.sources.load import as_dataset

    X = clear(200)
    if holes:
        X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    counts = np.random.default_rng(2).integers(0, 4, len(X))
    frame = pd.DataFrame(X, columns=["a", "b"])
    recipe = GaussianMixture(components=3, covariance=covariance, rank=1, tol=0)

    def weighted(w: np.ndarray) -> object:
        return as_dataset(frame.assign(w=w.astype(float)), roles={"w": "weight"})

    start = recipe.fit(weighted(np.ones(200)), epochs=2, seed=0)
    one = recipe.fit(weighted(counts), start=start, epochs=5)
    repeated = frame.iloc[np.repeat(np.arange(200), counts)].assign(w=np.ones(counts.sum()))
    two = recipe.fit(as_dataset(repeated, roles={"w": "weight"}), start=start, epochs=5)
    for name, value in parameters(one).items():
        np.testing.assert_allclose(value, parameters(two)[name], rtol=1e-9, atol=1e-9)


def test_a_few_labels_name_the_components():
    """One label in fifty: clusters get their classes' names, and more rows right than a classifier of the few."""
    import pandas as pd

    from reverie.models.classical.naive_bayes import NaiveBayes

    rng = np.random.default_rng(0)
    k = rng.integers(0, 3, 1500)
    angle = rng.normal(size=1500) * 3
    X = np.column_stack([angle + 6 * k, angle - 6 * k]) + rng.normal(size=(1500, 2))  # long, slanted clusters
    y = np.array(["left", "middle", "right"])[k]
    some = pd.Series(y).where(np.arange(1500) % 100 == 0)
    mixture = GaussianMixture(components=3).fit(X, some, seed=0)
    assert (mixture.predict(X) == y).mean() > 0.97
    few = some.notna().to_numpy()
    assert (mixture.predict(X) == y).mean() > (NaiveBayes().fit(X[few], y[few]).predict(X) == y).mean() + 0.02
    assert abs(mixture.sample(500, y="right", seed=0)[:, 0].mean() - X[k == 2, 0].mean()) < 1


def test_more_components_than_classes():
    """Two classes and a third cluster that nobody named: it gets a component of its own, and no class."""
    import pandas as pd

    X = clear(900)
    y = pd.Series(np.where(X[:, 0] > 4, "b", "a")).where((np.arange(900) % 10 == 0) & (X[:, 1] < 4))
    model = GaussianMixture(components=3).fit(X, y, seed=0, columns="real")
    assert model.classes == ("a", "b")
    unnamed = X[:, 1] > 4
    assert (model.encode(X[unnamed])[:, 2] > 0.99).mean() > 0.99
    assert (model.predict(X[~unnamed]) == np.where(X[~unnamed, 0] > 4, "b", "a")).mean() > 0.99
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)


# ---------------------------------------------------------------------- what makes a row abnormal


def test_anomaly_attribution_of_a_gaussian():
    """-log p(x_j | the other columns), from the conditional normal of one full Gaussian; 0 where the cell is missing."""
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.multivariate_normal([1, -2, 5], A, 500), columns=["a", "b", "c"])
    model = GaussianMixture(components=1, floor=0.0).fit(frame, epochs=2)
    found = parameters(model)
    mean, cov = found["means"][0], found["covariances"][0]
    rows = frame.head(20).copy()
    rows.loc[3, "a"] = 40.0
    rows.loc[5, "b"] = np.nan
    got = model.anomaly_attribution(rows)
    assert list(got.columns) == ["a", "b", "c"]
    for row in range(20):
        x = rows.iloc[row].to_numpy()
        for j in range(3):
            if np.isnan(x[j]):
                assert abs(got.iloc[row, j]) < 1e-12
                continue
            rest = np.array([i for i in range(3) if i != j and not np.isnan(x[i])])
            gain = cov[j, rest] @ np.linalg.inv(cov[np.ix_(rest, rest)])
            centre, variance = mean[j] + gain @ (x[rest] - mean[rest]), cov[j, j] - gain @ cov[rest, j]
            want = 0.5 * ((x[j] - centre) ** 2 / variance + math.log(2 * math.pi * variance))
            assert abs(got.iloc[row, j] - want) < 1e-8
    assert got.iloc[3].idxmax() == "a"
    as_array = GaussianMixture(components=1, floor=0.0).fit(frame.to_numpy(), epochs=2)
    np.testing.assert_allclose(as_array.anomaly_attribution(rows.to_numpy()), got.to_numpy(), atol=1e-8)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical", "low-rank"])
def test_the_unit_of_the_data_does_not_matter(covariance, scale):
    """Floors are relative: rows in another unit give the same mixture, densities shifted by d log scale."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) * [1.0, 2.0, 0.5] + 6 * rng.integers(0, 2, (200, 1))
    recipe = GaussianMixture(components=2, covariance=covariance, rank=1)
    fits = [recipe.fit(rows, epochs=20, seed=0, progress=False) for rows in (X, scale * X)]
    np.testing.assert_allclose(fits[1].log_prob(scale * X), fits[0].log_prob(X) - 3 * np.log(scale), atol=1e-3)


def test_rows_for_the_start_are_spread_evenly_over_all_batches():
    rows = torch.arange(100.0)[:, None]
    holes = torch.ones(100, 1, dtype=torch.bool)
    holes[8] = False
    for size in (7, 30, 100):
        batches = [Batch(x=rows[i : i + size], y=rows[i : i + size], rows=100) for i in range(0, 100, size)]
        x, observed, y = spread_rows(lambda batches=batches: batches, 30)
        assert x[:, 0].tolist() == y[:, 0].tolist() == list(range(0, 100, 4))
        assert observed is None
        batches = [dataclasses.replace(b, observed=holes[b.x[:, 0].long()], y=None) for b in batches]
        x, observed, y = spread_rows(lambda batches=batches: batches, 30)
        assert observed[:, 0].tolist() == [i != 8 for i in range(0, 100, 4)]
        assert y is None


def test_nothing_given_is_a_sample_as_ever():
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = GaussianMixture(components=2).fit(X, epochs=2, seed=0)
    for nothing in ({}, None):
        np.testing.assert_array_equal(model.sample(5, seed=3, given=nothing), model.sample(5, seed=3))


def test_rows_without_their_labels_count_as_rows_without_labels():
    """Sums of a batch in which no label is known are those of a batch without labels, whatever labels the model has."""
    rng = np.random.default_rng(0)
    X, y = np.concatenate([rng.normal(size=(60, 2)), rng.normal(3, 1, size=(60, 2))]), np.repeat(["a", "b"], 60)
    network = GaussianMixture(components=2).fit(X, y, epochs=3, progress=False).network
    batch = Batch(x=torch.from_numpy(X), rows=len(X))
    want = network.statistics(batch)
    found = network.statistics(dataclasses.replace(batch, y=torch.zeros(len(X), 2)))
    assert set(found) == set(want)
    for name, value in want.items():
        torch.testing.assert_close(found[name], value)
