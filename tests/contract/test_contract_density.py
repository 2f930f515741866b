"""Densities and probabilities are ones: exact kinds sum or integrate to 1; lower bounds to no more.

An importance-weighted bound has E exp(bound) = p(x) for every number of draws (Burda et al. 2016), so its total over
the whole space has expectation exactly 1: the totals over ten seeds must average 1 within 4 standard errors, from both
sides. Quadrature is a Riemann sum over +-12 sd of the column, whose error for these smooth densities is below 1e-4.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from contract_kit import KIT, draws, learn, with_verb

from reverie import catalog
from reverie.config import replace

SCORERS = with_verb("log_prob")
SEEDS = range(10)


def check_total(model, rows, *, cell: float | np.ndarray = 1.0, tolerance: float = 1e-3, least: float = 0.0) -> None:
    """sum over rows of exp(log_prob) * cell, against 1, as the kind of likelihood promises."""
    kind, cells = model.log_prob_kind, np.broadcast_to(cell, len(rows))
    if kind == "exact":
        total = np.exp(model.log_prob(rows)) @ cells
        assert abs(total - 1) <= tolerance, total
    elif draws(model, 8):
        totals = np.array([np.exp(model.log_prob(rows, seed=seed, samples=8)) @ cells for seed in SEEDS])
        error = totals.std(ddof=1) / np.sqrt(len(totals))
        assert error < 0.05, "too few draws for a test that says anything"
        assert abs(totals.mean() - 1) <= 4 * error + tolerance, (totals.mean(), error)
    else:
        assert kind == "lower bound"
        total = np.exp(model.log_prob(rows)) @ cells
        assert least <= total <= 1 + tolerance, total


def fit(family: str, X, **changes):
    return learn(family, X, recipe=replace(KIT[family].recipe, **changes), seed=0, epochs=8)


def line(low: float, high: float, count: int) -> tuple[np.ndarray, float]:
    grid = np.linspace(low, high, count)
    return grid, float(grid[1] - grid[0])


def breaks(model, column: int) -> np.ndarray:
    """Where the density of a column of numbers has steps: at the cuts of a forest's trees, and of its bins."""
    network = model.network
    if not hasattr(network, "threshold"):
        return np.empty(0)
    cuts = network.threshold[network.feature == column].numpy()
    if hasattr(network, "edges"):
        cuts = np.concatenate([cuts, network.edges[column][network.edges[column].isfinite()].numpy()])
    return model.codec.steps[column][2].decode(cuts[:, None])


def cells(low: float, high: float, count: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and their weights for an integral from low to high: a line of points, or where the density has steps four
    Gauss-Legendre points between any two neighbours of steps and line."""
    if not len(steps):
        grid, step = line(low, high, count)
        return grid, np.full(count, step)
    edges = np.unique(np.concatenate([np.linspace(low, high, count), steps[(steps > low) & (steps < high)]]))
    nodes, weights = np.polynomial.legendre.leggauss(4)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()


def bumps(n: int = 300, d: int = 1) -> np.ndarray:
    rng = np.random.default_rng(3)
    return 100 + 5 * rng.normal(size=(n, d)) + 20 * rng.integers(0, 2, (n, 1))


def takes(*kinds: str):
    return [family for family in SCORERS if set(kinds) <= set(catalog.family(family).kinds)]


@pytest.mark.parametrize("family", takes("number"))
@pytest.mark.parametrize("numbers", ["standardise", "quantile"])
def test_one_number(family, numbers):
    recipe = KIT[family].recipe
    if numbers == "quantile" and not hasattr(recipe, "numbers"):
        pytest.skip(f"{family} has no quantile map")
    model = fit(family, bumps(), **({"numbers": numbers} if hasattr(recipe, "numbers") else {}))
    # The quantile map has a kink, and the density a step, at each knot: no cell of the sum may hold one inside.
    knots = model.codec.steps[0][2].knots if numbers == "quantile" else []
    edges = np.unique(np.concatenate([np.linspace(-100, 320, 4001), knots]))
    check_total(model, 0.5 * (edges[1:] + edges[:-1])[:, None], cell=np.diff(edges))


@pytest.mark.parametrize("family", takes("number"))
@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_two_numbers(family, covariance):
    recipe = KIT[family].recipe
    if covariance != "full" and not hasattr(recipe, "covariance"):
        pytest.skip(f"{family} has no covariance option")
    model = fit(
        family, bumps(d=2) * [1.0, 0.01], **({"covariance": covariance} if hasattr(recipe, "covariance") else {})
    )
    # A spherical Gaussian is as wide in the small column as in the large one.
    wide = covariance == "spherical"
    steps = [breaks(model, 0), breaks(model, 1)]
    count = 41 if len(steps[0]) else 161
    a, da = cells(10, 210, count, steps[0])
    b, db = cells(-99, 101, count, steps[1]) if wide else cells(0, 2.2, count, steps[1])
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2)
    check_total(model, grid, cell=np.outer(da, db).ravel(), tolerance=2e-3 if wide else 1e-3)


@pytest.mark.parametrize("family", [f for f in takes("number") if catalog.family(f).holes])
def test_a_missing_column_is_integrated_out(family):
    data = bumps(d=2)
    data[np.random.default_rng(0).random(data.shape) < 0.15] = np.nan
    model = fit(family, data)
    for seen in (0, 1):
        grid, step = cells(-20, 250, 1001, breaks(model, seen))
        rows = np.full((len(grid), 2), np.nan)
        rows[:, seen] = grid
        check_total(model, rows, cell=step)
    nothing = model.log_prob(np.full((3, 2), np.nan))
    if model.log_prob_kind == "exact":
        np.testing.assert_allclose(nothing, 0, atol=1e-9)


@pytest.mark.parametrize("family", [f for f in takes("number") if catalog.family(f).likelihood == "exact"])
def test_the_marginal_is_the_integral_of_the_joint(family):
    """p(x1) from a row with a hole equals the quadrature of p(x1, x2) over x2."""
    model = fit(family, bumps(d=2))
    grid, step = cells(-20, 250, 2001, breaks(model, 1))
    for value in (95.0, 110.0):
        joint = model.log_prob(np.column_stack([np.full_like(grid, value), grid]))
        marginal = model.log_prob(np.array([[value, np.nan]]))[0]
        assert abs(np.log(np.exp(joint) @ step) - marginal) < 1e-6


def gridded(kind: str) -> list[str]:
    return [f for f in takes(kind) if not catalog.family(f).bits]


@pytest.mark.parametrize("family", gridded("integer"))
def test_one_integer(family):
    data = np.random.default_rng(0).poisson(6.0, (300, 1))
    model = fit(family, data)
    # A dequantised Gaussian loses some mass to Jensen's gap, but not a quarter. What is left to numbers never seen comes on top:
    # two shares of one in n + 2 at most.
    check_total(model, np.arange(-60, 120)[:, None], least=0.75, tolerance=1e-3 + 2 / 302)


@pytest.mark.parametrize("family", gridded("number"))
def test_tenths_are_a_grid_and_no_density(family):
    """Values in steps of 0.1 have probabilities: none is above 1, and they sum to at most 1."""
    data = np.round(np.random.default_rng(0).normal(0, 0.3, (400, 1)), 1)
    model = fit(family, data)
    assert model.measure == "counting"
    grid = np.round(np.arange(-40, 41) * 0.1, 1)[:, None]
    assert (model.log_prob(grid) <= 0).all()
    check_total(model, grid, least=0.75, tolerance=1e-3 + 2 / 402)
    between, beside = model.log_prob(np.array([[0.05], [0.0]]))
    assert -20 < between < beside - 4


@pytest.mark.parametrize("dequantisation", [1, 2, 8, 64])
def test_dequantisation_offsets_keep_a_lower_bound(dequantisation):
    data = np.random.default_rng(0).poisson([2.0, 5.0], (300, 2))
    model = fit("gmm", data)
    grid = np.stack(np.meshgrid(np.arange(-30, 60), np.arange(-30, 60)), -1).reshape(-1, 2)
    total = np.exp(model.log_prob(grid, dequantisation=dequantisation)).sum()
    # One offset is a Riemann sum with the true density, not a bound; it is off by little for wide components.
    assert 0.6 < total <= 1 + (0.02 if dequantisation < 8 else 1e-3)


def product(*columns) -> list[tuple]:
    return list(itertools.product(*columns))


@pytest.mark.parametrize("family", takes("category", "number"))
def test_categories_and_bits_and_a_constant(family):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "c": pd.Categorical(rng.choice(["x", "y", "z"], 200, p=[0.6, 0.3, 0.1])),
            "b": rng.random(200) < 0.3,
            "k": np.full(200, 7.5),
        }
    )
    model = fit(family, frame)
    rows = pd.DataFrame(product(["x", "y", "z"], [False, True], [7.5]), columns=["c", "b", "k"])
    rows["c"] = rows["c"].astype(frame["c"].dtype)
    check_total(model, rows)
    usual = model.log_prob(rows, **draws(model, 64)).max()
    for other in (7.6, -1e300):  # a constant column has one value: another is unexpected, and not impossible
        rows["k"] = other
        odd = model.log_prob(rows, **draws(model, 64))
        assert np.isfinite(odd).all()
        assert odd.max() < usual - (np.log(200) if other > 0 else 100)


@pytest.mark.parametrize("family", takes("category", "number"))
def test_a_mixed_row(family):
    """category x bit x number with holes somewhere: sum over codes, quadrature over the number."""
    rng = np.random.default_rng(0)
    c = rng.choice(["x", "y"], 300)
    frame = pd.DataFrame({"c": c, "b": rng.random(300) < 0.5, "v": rng.normal(size=300) + 3 * (c == "x")})
    frame.loc[:20, "v"] = np.nan
    model = fit(family, frame)
    grid, step = line(-15, 20, 701)
    rows = pd.DataFrame(product(["x", "y"], [False, True], grid), columns=["c", "b", "v"])
    check_total(model, rows, cell=step)
    holes = pd.DataFrame(product(["x", "y"], [False, True], [np.nan]), columns=["c", "b", "v"])
    check_total(model, holes)


@pytest.mark.parametrize("family", takes("category", "number"))
def test_a_number_with_atoms(family):
    """Half zeros, half continuous: the atom's probability plus the integral of the rest is 1."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(400) < 0.5, 0.0, rng.gamma(2.0, size=400))
    model = fit(family, pd.DataFrame({"v": values}))
    assert model.measure == "atoms + Lebesgue"
    grid, step = line(-30, 40, 4001)
    grid = grid[grid != 0]
    totals = []
    for seed in SEEDS:
        rest = np.exp(model.log_prob(pd.DataFrame({"v": grid}), seed=seed, **draws(model, 8))).sum() * step
        atom = np.exp(model.log_prob(pd.DataFrame({"v": [0.0]}), seed=seed, **draws(model, 64)))[0]
        totals.append(rest + atom)
    error = np.std(totals, ddof=1) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - 1) <= 4 * error + 1e-3


@pytest.mark.parametrize("family", takes("boolean"))
def test_all_bit_rows(family):
    rng = np.random.default_rng(0)
    data = (rng.random((200, 5)) < 0.3) ^ (rng.random((200, 1)) < 0.4)
    model = fit(family, data)
    check_total(model, np.array(product(*[[False, True]] * 5)))


@pytest.mark.parametrize("family", [f for f in takes("image") if "pixels" in dir(KIT[f].recipe)])
@pytest.mark.parametrize("kind", ["bool", "grey"])
def test_two_by_two_pictures(family, kind):
    """All 16 pictures of bits, and, for families that cut grey levels to bits, all 16 of black and white levels."""
    rng = np.random.default_rng(0)
    bits = rng.random((200, 2, 2)) < 0.4
    every = np.array(product(*[[False, True]] * 4)).reshape(16, 2, 2)
    if kind == "bool":
        check_total(fit(family, bits), every)
    else:
        pixels = KIT[family].recipe.pixels
        if pixels not in ("native", "binary", "threshold"):
            pytest.skip(f"{family} does not cut grey levels to bits")
        model = fit(family, (bits * 255).astype(np.uint8), pixels="threshold")
        assert model.measure == "counting (pixels binarised at one half)"
        check_total(model, (every * 255).astype(np.uint8))


@pytest.mark.parametrize("family", [f for f in takes("image") if "pixels" in dir(KIT[f].recipe)])
def test_grey_levels_of_one_pixel(family):
    """A picture of a single grey pixel: 256 probabilities."""
    rng = np.random.default_rng(0)
    data = rng.normal(120, 40, (300, 1, 1)).clip(0, 255).astype(np.uint8)
    recipe = KIT[family].recipe
    if recipe.pixels not in ("native", "dequantise"):
        pytest.skip(f"{family} has no likelihood of grey levels")
    every = np.arange(256, dtype=np.uint8).reshape(256, 1, 1)
    check_total(fit(family, data), every, least=0.9)
    if recipe.pixels == "dequantise":
        check_total(fit(family, data, pixels="logit"), every, least=0.5)


@pytest.mark.parametrize("family", SCORERS)
def test_scores_are_the_log_prob_in_other_words(family):
    from contract_kit import FORMS, fitted, forms_of

    name = forms_of(family)[0]
    model, data = fitted(family, name), FORMS[name].make(12, 5)
    nats = model.log_prob(data)
    assert nats.shape == (12,)
    assert nats.dtype == np.float64
    np.testing.assert_array_equal(model.score_samples(data), nats)
    np.testing.assert_array_equal(model.anomaly_score(data), -nats)
    cells = np.prod(np.asarray(data).shape[1:])
    np.testing.assert_allclose(model.bits_per_dim(data), -nats / np.log(2) / cells)
    np.testing.assert_array_equal(model.log_prob(data), nats)  # the same call, the same bits
