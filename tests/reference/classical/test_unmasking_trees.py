"""Unmasking trees: arrays score as scikit-learn does, densities integrate to one, draws follow the density, best guesses are means,
and a planted dependence is learned in both directions."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import reverie as rv
from reverie.probability.trees.bisection import bisect
from reverie.probability.trees.boosted import Boosted, Collected

TREES = rv.UnmaskingTrees(trees=20, depth=3, leaves=8)


def parabola(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, n)
    return np.column_stack([x, x**2 + 0.2 * rng.normal(size=n)])


@pytest.fixture(scope="module")
def model() -> rv.Model:
    return TREES.fit(parabola(1500), seed=0, columns="real")


@pytest.mark.parametrize("classes", [2, 4])
def test_arrays_score_as_scikit_learn_does(classes):
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 4))
    label = (rows[:, 0] * 2 + rng.normal(size=600) > np.arange(-1, classes - 2)[:, None]).sum(0)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    machine = HistGradientBoostingClassifier(max_iter=10).fit(rows, label)
    collected = Collected()
    collected.constant(0.5)
    collected.fitted(machine, None if classes == 2 else np.arange(classes), 1 if classes == 2 else classes)
    boosted = Boosted(**collected.tensors())
    x = torch.from_numpy(rows)
    bounds = boosted.first.tolist()
    found = torch.stack([boosted.score(1 + k, x, bounds) for k in range(1 if classes == 2 else classes)], 1).numpy()
    np.testing.assert_allclose(found.squeeze(), machine.decision_function(rows), rtol=1e-9, atol=1e-12)
    assert (boosted.score(0, x, bounds) == 0.5).all()


def test_bins_hold_as_many_rows_each_and_cells_are_whole(model):
    variable = model.network.variables.all[0]
    values = np.random.default_rng(0).normal(size=1600)
    bins = bisect(variable, values, np.ones(1600), 3)
    assert (bins.count == 200).all()
    assert (np.diff(bins.edges) > 0).all()
    few = TREES.fit(np.random.default_rng(0).poisson(0.7, (300, 1)), seed=0)
    edges = few.codec.steps[0][2].decode(few.network.edges[0, 1:-1].numpy()[:, None] - 1e-6)
    assert set(edges) <= set(range(10))
    total = np.exp(few.log_prob(np.arange(200)[:, None])).sum()
    assert abs(total - 1) < 1e-9


def test_two_columns_integrate_to_one(model):
    network, (offset, scale) = model.network, model.codec.affine
    nodes, weights = np.polynomial.legendre.leggauss(3)
    parts = []
    for j in (0, 1):
        inner = torch.cat([network.edges[j, 1:-1], network.threshold[network.feature == j]]).numpy()
        edges = np.unique(np.concatenate([np.linspace(-5, 6, 45), offset[j] + scale[j] * inner]))
        half = 0.5 * np.diff(edges)[:, None]
        parts.append(((edges[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()))
    grid = np.stack(np.meshgrid(parts[0][0], parts[1][0], indexing="ij"), -1).reshape(-1, 2)
    total = np.exp(model.log_prob(grid)) @ np.outer(parts[0][1], parts[1][1]).ravel()
    assert abs(total - 1) < 2e-3


def test_draws_follow_the_density(model):
    """Shares of 4000 draws of x_0 in 15 cells against the density of the first column; the second given the first by moments."""
    n, edges = 4000, np.linspace(-2.5, 2.5, 16)
    drawn = model.sample(n, seed=0)
    points = np.linspace(-2.5, 2.5, 3001)[:-1] + 2.5 / 3000
    density = np.exp(model.log_prob(np.column_stack([points, np.full(3000, np.nan)]))) * (5 / 3000)
    want = np.array([density[(points > a) & (points < b)].sum() for a, b in itertools.pairwise(edges)])
    got = np.histogram(drawn[:, 0], edges)[0] / n
    assert (np.abs(got - want) < 4 * np.sqrt(want * (1 - want) / n) + 2e-3).all()
    assert np.median(np.abs(drawn[:, 1] - drawn[:, 0] ** 2)) < 0.3


def test_the_best_guess_is_the_mean_of_the_draws(model):
    holes = np.array([[1.5, np.nan], [0.0, np.nan], [np.nan, 3.0]])
    guess, draws = model.impute(holes), np.stack(model.impute(holes, n_draws=2000, seed=0))
    gone = np.isnan(holes)
    error = draws.std(0)[gone] / np.sqrt(2000)
    assert (np.abs(draws.mean(0)[gone] - guess[gone]) < 4.5 * error).all()
    assert abs(guess[0, 1] - 2.25) < 0.3
    assert abs(guess[1, 1]) < 0.3
    both = draws[:, 2, 0]
    assert 0.3 < (both > 0).mean() < 0.7  # two roots of x^2 = 3: draws are near either
    assert np.median(np.abs(np.abs(both) - np.sqrt(3))) < 0.2


def test_no_number_is_impossible(model):
    far = 10.0 ** np.arange(1, 300, 13)
    for sign in (1, -1):
        nats = model.log_prob(sign * np.column_stack([far, far]))
        assert np.isfinite(nats).all()
        assert (np.diff(nats) < 0).all()


def test_categories_depend_on_numbers_and_back():
    rng = np.random.default_rng(0)
    size = rng.normal(size=1500)
    kind = np.where(size > 0.7, "big", np.where(size < -0.7, "small", "middle"))
    frame = pd.DataFrame({"size": size, "kind": pd.Categorical(kind), "up": size > 0})
    model = TREES.fit(frame, seed=0, rules=None)
    holes = frame.head(3).copy()
    holes["size"] = [2.0, -2.0, 0.1]
    holes["kind"] = pd.Categorical([None] * 3, categories=frame["kind"].cat.categories)
    assert list(model.impute(holes)["kind"]) == ["big", "small", "middle"]
    drawn = model.sample(600, given={"kind": "big"}, seed=0)
    assert (drawn["size"] > 0.6).mean() > 0.9
    assert drawn["up"].mean() > 0.95


def test_values_kept_apart_leave_no_number_behind():
    """Half of v is exactly 0; w says whether it is. Draws keep that."""
    rng = np.random.default_rng(0)
    zero = rng.random(1500) < 0.5
    frame = pd.DataFrame(
        {"v": np.where(zero, 0.0, rng.gamma(3.0, size=1500) + 1), "w": rng.normal(size=1500) + 6 * zero}
    )
    drawn = TREES.fit(frame, seed=0).sample(1000, seed=0)
    assert abs((drawn["v"] == 0).mean() - 0.5) < 0.06
    assert np.mean((drawn["w"] > 3) == (drawn["v"] == 0)) > 0.93
