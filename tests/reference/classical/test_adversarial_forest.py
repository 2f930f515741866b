"""Adversarial forests: densities integrate to one and have the shape of the formula, conditionals are ratios of densities, samples
have the moments of the density, and a planted dependence is learned."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import reverie as rv
from reverie.probability.trees import densities

FOREST = rv.AdversarialForest(trees=10, leaf=10)


def ring(n: int, seed: int = 0) -> np.ndarray:
    """Points about a circle: dependent, uncorrelated."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.column_stack([np.cos(angle), np.sin(angle)]) * 5 + 0.3 * rng.normal(size=(n, 2))


@pytest.fixture(scope="module")
def circle() -> rv.Model:
    return FOREST.fit(ring(1000), seed=0, columns="real")


def cuts(model: rv.Model, column: int) -> np.ndarray:
    network = model.network
    return model.codec.steps[column][2].decode(network.threshold[network.feature == column].numpy()[:, None])


def quadrature(low: float, high: float, count: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights between all neighbours of a line and of the density's steps."""
    edges = np.unique(np.concatenate([np.linspace(low, high, count), steps[(steps > low) & (steps < high)]]))
    nodes, weights = np.polynomial.legendre.leggauss(3)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()


def test_the_density_is_the_mean_over_trees_of_the_leaf_it_falls_into(circle):
    """Formula: 1/B sum_b pi_b prod_j p_b(x_j), worked out leaf by leaf with scipy."""
    from scipy import stats

    rows, network = ring(20, 1), circle.network
    x = torch.from_numpy((rows - circle.codec.affine[0]) / circle.codec.affine[1])
    leaves = network.nodes.leaves_of(x).numpy()
    low, high = (
        ends.numpy()
        for ends in network.nodes.boxes(torch.full((2,), -np.inf).double(), torch.full((2,), np.inf).double())
    )
    want = np.zeros(20)
    for i, j in np.ndindex(leaves.shape):
        leaf = leaves[i, j]
        product = float(network.share[leaf])
        for c in range(2):
            v, mean, sd = float(x[i, c]), float(network.mean[c, leaf]), float(network.sd[c, leaf])
            a, b, e = low[leaf, c], high[leaf, c], float(network.spread[c, leaf])
            assert a < v <= b
            narrow = stats.truncnorm.pdf(v, (a - mean) / sd, (b - mean) / sd, mean, sd)
            broad = stats.logistic.pdf(v) / (stats.logistic.cdf(b) - stats.logistic.cdf(a))
            product *= (1 - e) * narrow + e * broad
        want[i] += product
    np.testing.assert_allclose(circle.log_prob(rows), np.log(want) - np.log(circle.codec.affine[1]).sum(), rtol=1e-9)
    assert abs(float(network.share.sum()) - 1) < 1e-12


def test_one_and_two_columns_integrate_to_one(circle):
    (a, da), (b, db) = (quadrature(-60, 60, 2401, cuts(circle, j)) for j in (0, 1))
    for column, (points, weights) in enumerate([(a, da), (b, db)]):
        rows = np.full((len(points), 2), np.nan)
        rows[:, column] = points
        assert abs(np.exp(circle.log_prob(rows)) @ weights - 1) < 1e-4
    inside = quadrature(-8, 8, 81, cuts(circle, 0)), quadrature(-8, 8, 81, cuts(circle, 1))
    grid = np.stack(np.meshgrid(inside[0][0], inside[1][0], indexing="ij"), -1).reshape(-1, 2)
    total = np.exp(circle.log_prob(grid)) @ np.outer(inside[0][1], inside[1][1]).ravel()
    assert 0.98 < total < 1 + 1e-4


def test_draws_of_a_column_follow_the_ratio_of_densities(circle):
    """x_1 | x_0 = 3 by `sample(given=)`: the share of draws in each of 20 cells against p(x) / p(x_0), n = 4000; the best
    guess is their mean."""
    n, edges = 4000, np.linspace(-7, 7, 21)
    drawn = circle.sample(n, given={0: 3.0}, seed=0)
    assert (drawn[:, 0] == 3.0).all()
    points, weights = quadrature(-60, 60, 2401, np.concatenate([cuts(circle, 1), edges]))
    rows = np.column_stack([np.full(len(points), 3.0), points])
    density = np.exp(circle.log_prob(rows) - circle.log_prob(np.array([[3.0, np.nan]]))[0]) * weights
    assert abs(density.sum() - 1) < 1e-4
    want = np.array([density[(points > a) & (points < b)].sum() for a, b in itertools.pairwise(edges)])
    got = np.histogram(drawn[:, 1], edges)[0] / n
    assert (np.abs(got - want) < 4 * np.sqrt(want * (1 - want) / n) + 1e-3).all()
    guess = circle.impute(np.array([[3.0, np.nan]]))[0, 1]
    assert abs(guess - density @ points) < 1e-3
    assert abs(drawn[:, 1].mean() - guess) < 4 * drawn[:, 1].std() / np.sqrt(n)


def test_samples_have_the_moments_of_the_data_and_its_dependence(circle):
    """Radii of draws lie about 5 as those of the data do (a product of the columns has them from 0 to 7)."""
    drawn = circle.sample(4000, seed=0)
    assert np.abs(drawn.mean(0)).max() < 0.5
    assert np.abs(drawn.std(0) - ring(1000).std(0)).max() < 0.3
    radius = np.hypot(*drawn.T)
    assert abs(np.median(radius) - 5) < 0.2
    assert radius.std() < 0.9
    held_out = ring(1000, 7)
    alone = sum(circle.log_prob(np.where(np.arange(2) == j, held_out, np.nan)) for j in (0, 1))
    assert circle.log_prob(held_out).mean() > alone.mean() + 0.8


def test_no_number_is_impossible_and_tails_fall(circle):
    far = 10.0 ** np.arange(1, 300, 7)
    for rows in (np.column_stack([far, 0 * far]), np.column_stack([-far, -far])):
        nats = circle.log_prob(rows)
        assert np.isfinite(nats).all()
        assert (np.diff(nats) < 0).all()


def test_whole_numbers_and_levels_have_probabilities_that_sum_to_one():
    rng = np.random.default_rng(0)
    count = rng.poisson(2.0, 500)
    frame = pd.DataFrame(
        {"count": count, "kind": pd.Categorical(np.where(rng.random(500) < 0.9, count % 2, 2), categories=[0, 1, 2, 3])}
    )
    model = FOREST.fit(frame, seed=0, columns="real", rules=None)
    every = pd.DataFrame([(c, k) for c in range(200) for k in range(4)], columns=["count", "kind"])
    every["kind"] = every["kind"].astype(frame["kind"].dtype)
    nats = model.log_prob(every)
    assert np.isfinite(nats).all()  # kind 3 has no row
    assert abs(np.exp(nats).sum() - 1) < 1e-9
    best = model.impute(pd.DataFrame({"count": [2, 3], "kind": pd.Categorical([None, None], categories=[0, 1, 2, 3])}))
    assert list(best["kind"]) == [0, 1]


def test_holes_are_learned_around():
    """y = x^2 + noise with three of ten cells missing: a filled cell is nearer than the column's mean, and the log-density
    of rows held out is near that of a forest grown without holes."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 3000)
    rows = np.column_stack([x, x**2 + 0.1 * rng.normal(size=3000), np.sin(2 * x) + 0.1 * rng.normal(size=3000)])
    train, test = rows[:2000], rows[2000:]
    holes = np.where(rng.random(train.shape) < 0.3, np.nan, train)
    holed, whole = FOREST.fit(holes, seed=0), FOREST.fit(train, seed=0)
    assert holed.log_prob(test).mean() > whole.log_prob(test).mean() - 1.0
    gone = np.column_stack([test[:, 0], np.full(1000, np.nan), test[:, 2]])
    error = np.sqrt(np.square(holed.impute(gone) - test)[:, 1].mean())
    assert error < 0.5 * test[:, 1].std()


def test_weights_count_rows():
    """Rows of weight 0 are not there; a cluster of weight 3 has three times the mass."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"v": rng.normal(size=600) + 20 * (np.arange(600) % 2), "w": np.where(np.arange(600) % 2, 3.0, 1.0)}
    )
    model = FOREST.fit(rv.as_dataset(frame, roles={"w": "weight"}), seed=0)
    assert abs((model.sample(4000, seed=0)["v"] > 10).mean() - 0.75) < 0.03
    frame["w"] = (np.arange(600) % 2).astype(float)
    one = FOREST.fit(rv.as_dataset(frame, roles={"w": "weight"}), seed=0)
    assert (one.sample(2000, seed=0)["v"] > 10).mean() > 0.99


def test_more_rows_add_trees(circle):
    """Rows from elsewhere: half of the trees know them, so they get half of the mass."""
    later = rv.finetune(circle, ring(500, 5) + 30, seed=1)
    assert len(later.network.roots) == 20
    assert abs(float(later.network.share.sum()) - 1) < 1e-12
    assert abs((later.sample(2000, seed=0)[:, 0] > 15).mean() - 0.5) < 0.05
    old = ring(500, 9)
    assert abs((later.log_prob(old) - circle.log_prob(old)).mean() + np.log(2)) < 0.05


@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (-1.0, 0.5), (3.0, np.inf), (-np.inf, -4.0), (9.0, 9.5)])
def test_cut_densities_against_scipy(low, high):
    from scipy import integrate, stats

    a, b = torch.tensor([low]).double(), torch.tensor([high]).double()
    for law, mass, mean, draw in (
        (stats.norm, densities.log_normal_mass, densities.normal_mean, None),
        (stats.logistic, densities.log_logistic_mass, densities.logistic_mean, densities.draw_logistic),
    ):
        want = integrate.quad(law.pdf, low, high, epsabs=0)[0]
        assert abs(float(mass(a, b)[0]) - np.log(want)) < 1e-6
        middle = integrate.quad(lambda x, law=law: x * law.pdf(x), low, high, epsabs=1e-14)[0] / want
        assert abs(float(mean(a, b)[0]) - middle) < 1e-5
        if draw is not None:
            u = torch.linspace(0.05, 0.95, 7).double()
            drawn = draw(u, a.expand(7), b.expand(7)).numpy()
            got = [integrate.quad(law.pdf, low, x, epsabs=0)[0] / want for x in drawn]
            np.testing.assert_allclose(got, u.numpy(), atol=1e-6)
