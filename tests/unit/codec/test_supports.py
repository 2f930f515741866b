"""Supports: what is found, maps against scipy and quadrature, and nothing outside them that is impossible or made."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats

import reverie as rv
from reverie.data.codec.steps.supports import Support, choose_warp, find_support
from reverie.data.warps import Warp
from reverie.errors import DataError, InvalidOption

WARPS = {
    "identity": Warp(mean=0.3, sd=2.0, limit=5.0),
    "asinh": Warp("asinh", centre=1.0, scale=0.5, mean=0.2, sd=1.3, limit=1e3),
    "log": Warp("log", low=2.0, mean=1.0, sd=0.7, limit=1e3),
    "log mirrored": Warp("log", high=-1.0, mirrored=True, mean=-1.0, sd=0.7, limit=1e3),
    "softplus": Warp("softplus", low=0.0, scale=0.4, mean=1.0, sd=0.8, limit=1e3),
    "softplus mirrored": Warp("softplus", high=3.0, scale=0.4, mirrored=True, mean=-1.0, sd=0.8, limit=1e3),
    "probit": Warp("probit", -1.0, 4.0, mean=0.1, sd=1.1, limit=1e3),
    "logit": Warp("logit", 10.0, 11.0, mean=-0.3, sd=1.7, limit=1e3),
}


def inner(warp: Warp) -> tuple[float, float]:
    """An interval that holds all but 1e-9 of a standard normal in model units."""
    ends = warp.inverse(torch.tensor([-6.2, 6.2], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


# ---------------------------------------------------------------------- maps


@pytest.mark.parametrize("name", WARPS)
def test_a_normal_behind_a_map_integrates_to_one_on_its_support(name):
    warp = WARPS[name]

    def density(v: float) -> float:
        at = torch.tensor([v], dtype=torch.float64)
        return float(torch.exp(-0.5 * warp.forward(at).square() + warp.log_slope(at))) / math.sqrt(2 * math.pi)

    low, high = inner(warp)
    middle = float(warp.inverse(torch.zeros(1, dtype=torch.float64)))
    total = sum(integrate.quad(density, *ends, limit=400)[0] for ends in ((low, middle), (middle, high)))
    assert abs(total - 1) < 1e-6


@pytest.mark.parametrize("name", WARPS)
def test_a_map_goes_both_ways_and_its_slope_is_its_derivative(name):
    warp = WARPS[name]
    x = torch.linspace(-6, 6, 201, dtype=torch.float64)
    v = warp.inverse(x)
    assert (v.diff() > 0).all()
    assert ((v > warp.low) & (v < warp.high)).all()
    # 1e-12 of the data is up to 1e-4 model units where the support ends
    torch.testing.assert_close(warp.forward(v)[60:141], x[60:141], atol=1e-8, rtol=0)
    at = v[60:141].clone().requires_grad_()
    (slope,) = torch.autograd.grad(warp.forward(at).sum(), at)
    torch.testing.assert_close(warp.log_slope(v[60:141]), slope.log(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", WARPS)
def test_huge_numbers_stay_finite_and_in_order(name):
    warp = WARPS[name]
    v = torch.tensor([-1e300, -1e30, -1e3, 0.0, 2.5, 1e3, 1e30, 1e300], dtype=torch.float64)
    x = warp.forward(v)
    assert torch.isfinite(x.float()).all()
    assert (x.diff() >= 0).all()
    assert torch.isfinite(warp.log_slope(v)).all()


def test_cells_of_a_grid_fill_the_line():
    """Edges of neighbours meet, those at the ends of the support are open, so a normal's masses sum to 1."""
    for warp, points in [
        (Warp("log", low=-0.5, mean=1.0, sd=0.8, limit=1e3), np.arange(0, 4000.0)),
        (Warp("probit", 0.5, 5.5, mean=0.1, sd=0.9, limit=1e3), np.arange(1, 6.0)),
        (Warp("softplus", low=-0.5, scale=0.7, mean=2.0, sd=1.5, limit=1e3), np.arange(0, 60.0)),
    ]:
        x = warp.forward(torch.from_numpy(points)).float().double()  # as a network has them
        lower, upper = warp.edges(x, 1.0, 0.0)
        torch.testing.assert_close(upper[:-1], lower[1:], atol=1e-12, rtol=0)
        assert lower[0] == -math.inf
        mass = torch.special.ndtr(upper) - torch.special.ndtr(lower)
        assert abs(float(mass.sum()) - 1) < 1e-9


# ---------------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (lambda r, n: r.normal(size=n), None, None),
        (lambda r, n: r.normal(50, 2, n), None, None),
        (lambda r, n: r.standard_t(3, n), None, None),
        (lambda r, n: np.where(r.random(n) < 0.5, r.normal(5, 0.2, n), r.normal(9, 0.2, n)), None, None),
        (lambda r, n: r.lognormal(3, 1, n), 0.0, None),
        (lambda r, n: -r.lognormal(3, 1, n), None, 0.0),
        (lambda r, n: r.random(n), 0.0, 1.0),
        (lambda r, n: 100 * r.beta(0.8, 0.9, n), 0.0, 100.0),
        (lambda r, n: r.uniform(3, 8, n), 3.0, 8.0),
        (lambda r, n: 100 * r.beta(30, 1.5, n), None, 100.0),  # falls to nothing at a round end, but never goes beyond
        (lambda r, n: r.exponential(size=n) + 7, 7.0, None),
    ],
)
@pytest.mark.parametrize("n", [1000, 4000])
def test_ends_are_found_where_values_stop(make, low, high, n):
    """Ends by sign exactly; those that values press against to a few gaps, 20 ranges / n."""
    values = make(np.random.default_rng(n), n)
    found = find_support(values)
    for end, wanted in ((found.low, low), (found.high, high)):
        assert math.isfinite(end) == (wanted is not None)
        if wanted is not None:
            assert abs(end - wanted) <= 20 * np.ptp(values) / n * (wanted not in (0.0, 1.0, 100.0))
    assert found.low < values.min()
    assert found.high > values.max()


@pytest.mark.parametrize(
    "law", [stats.norm(), stats.laplace(), stats.t(3), stats.gumbel_r(), stats.triang(0.5, 4.2, 1.7)]
)
@pytest.mark.parametrize("n", [300, 3000])
def test_no_end_is_made_up(law, n):
    """300 columns whose densities fall to nothing; one false end in 4,000 is expected of a straight fall, the worst case."""
    found = [find_support(law.rvs(n, random_state=seed)) for seed in range(300)]
    assert sum(support.bounded for support in found) == 0


def test_a_grid_ends_at_the_edges_of_cells():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, 1000).astype(float)
    assert find_support(counts, step=1.0).low == -0.5
    stars = rng.integers(1, 6, 1000).astype(float)
    found = find_support(stars, step=1.0)
    assert (found.low, found.high, found.low_basis) == (0.5, 5.5, "first level")
    ages = np.clip(rng.normal(30, 15, 2000), 18, 95).round()
    found = find_support(ages, step=1.0)
    assert (found.low, found.low_basis[:11]) == (17.5, "pressed, 99")


def test_the_map_is_the_one_of_the_law():
    rng = np.random.default_rng(0)
    for values, kind in [
        (rng.normal(size=3000), "identity"),
        (rng.lognormal(2, 1.2, 3000), "log"),
        (rng.random(3000), "probit"),
        (stats.logistic.cdf(rng.normal(0, 2, 3000)), "logit"),
        (np.sinh(rng.normal(0, 2.5, 3000)), "asinh"),
        (np.log1p(np.exp(rng.normal(1.5, 2, 3000))), "softplus"),
    ]:
        assert choose_warp(values, find_support(values)).kind == kind, kind


# ---------------------------------------------------------------------- models


def test_densities_are_scipys_where_the_law_is_known():
    """One component behind the map that was chosen: maximum likelihood of a lognormal, and of a normal behind the probit."""
    rng = np.random.default_rng(1)
    amounts = rng.lognormal(1, 0.7, 2000)
    model = rv.GaussianMixture(components=1, floor=0.0).fit(pd.DataFrame({"v": amounts}), epochs=2, progress=False)
    logs = np.log(amounts)
    later = rng.lognormal(1, 0.7, 50)
    wanted = stats.lognorm(s=logs.std(), scale=math.exp(logs.mean())).logpdf(later)
    np.testing.assert_allclose(model.log_prob(pd.DataFrame({"v": later})), wanted, atol=1e-6)


@pytest.mark.parametrize("recipe", [rv.GaussianMixture(components=3), rv.TableMixture(components=3)])
def test_two_columns_integrate_to_one_on_their_support(recipe):
    """A quadrature in two dimensions: a positive column and a share."""
    rng = np.random.default_rng(0)
    share = rng.random(600)
    X = np.column_stack([rng.gamma(2.0, 1 + 3 * share), share])
    model = recipe.fit(X, epochs=20, progress=False)
    # even in the logarithm and in the probit, where the density has no poles
    u, v = np.linspace(-11, 5, 321), np.linspace(-6, 6, 241)
    a, b = np.exp(u), stats.norm.cdf(v)
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2)
    weight = (a * (u[1] - u[0]))[:, None] * (stats.norm.pdf(v) * (v[1] - v[0]))[None]
    assert abs(np.exp(model.log_prob(grid)) @ weight.ravel() - 1) < 2e-3


FRAME_ROWS = 1000


def frame(seed: int = 0, n: int = FRAME_ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": rng.lognormal(3, 1, n),
            "cents": np.round(rng.lognormal(3, 1.5, n), 2),
            "share": rng.random(n),
            "children": rng.poisson(1.3, n),
            "stars": rng.integers(1, 6, n),
            "rain": np.where(rng.random(n) < 0.4, 0.0, rng.gamma(1.5, size=n)),
            "change": rng.standard_t(2, n),
        }
    )


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (rv.GaussianMixture(components=3), {}),
        (rv.BayesianGaussianMixture(components=3), {}),
        (rv.TableMixture(components=3), {}),
        (rv.TableMixture(components=3, numbers="quantile"), {}),
        (rv.VAE(latent=2), {"epochs": 3}),
        (rv.GAN(latent=2), {"epochs": 3}),
        (rv.GAN(latent=2, numbers="quantile"), {"epochs": 3}),
    ],
    ids=lambda value: value.family + getattr(value, "numbers", "") if not isinstance(value, dict) else "",
)
def test_samples_never_leave_the_support(recipe, options):
    model = recipe.fit(frame(), seed=0, progress=False, **options)
    s = model.sample(3000, seed=1)
    assert (s[["amount", "cents", "share"]] > 0).all().all()
    assert (s.share < 1).all()
    assert (s[["children", "rain"]] >= 0).all().all()
    assert s.stars.between(1, 5).all()
    np.testing.assert_allclose(s.cents, s.cents.round(2), rtol=1e-12)
    assert (s.rain == 0).mean() == pytest.approx(0.4, abs=0.25)  # an atom comes back as itself
    assert s.change.min() < 0 < s.change.max()


@pytest.mark.parametrize(
    ("recipe", "options"),
    [(rv.GaussianMixture(components=3), {}), (rv.TableMixture(components=3), {}), (rv.VAE(latent=2), {"epochs": 2})],
    ids=lambda value: getattr(value, "family", ""),
)
def test_no_value_is_impossible_and_far_ones_are_the_less_likely(recipe, options):
    model = recipe.fit(frame(), seed=0, progress=False, **options)
    fresh = frame(seed=1, n=300)
    assert np.isfinite(model.log_prob(fresh)).all()
    for column, values in {
        "amount": [20.0, 1e3, 1e6, 1e30, 1e300],
        "cents": [20.0, 1e4, 1e6, 1e9, 1e12],
        "children": [1, 50, 1000, 10**6, 10**9],
        "share": [0.5, 1.0, 1.5, 100.0, 1e300],
        "change": [0.0, 1e3, 1e6, 1e30, 1e300],
    }.items():
        rows = frame().iloc[[0] * 5].copy()
        rows[column] = np.array(values, dtype=rows[column].dtype)
        found = model.log_prob(rows)
        assert np.isfinite(found).all(), column
        assert (np.diff(found) < 1e-6).all(), (column, found)
        assert np.isfinite(model.anomaly_attribution(rows).to_numpy()).all()
    rows = frame().iloc[:3].copy()
    rows["cents"], rows["stars"] = [0.123, -5.0, 0.0], [9, 0, -3]
    assert np.isfinite(model.log_prob(rows)).all()
    assert np.isfinite(model.anomaly_attribution(rows).to_numpy()).all()


def test_a_heavy_tail_does_not_change_the_sign():
    """Far from 0 with heavy tails on both sides: the map knows no end, and samples stop half-way to it all the same."""
    rng = np.random.default_rng(0)
    values = 2000 + 20 * rng.standard_t(2, 3000).clip(-15, 60)
    for data in (values, np.round(values).astype(int)):
        model = rv.GaussianMixture(components=2).fit(pd.DataFrame({"co2": data}), seed=0, progress=False)
        (step,) = [step for *_, step in model.codec.steps]
        assert step.warp.kind == "asinh"
        assert step.decode(np.array([[-60.0]]))[0] == pytest.approx(data.min() / 2, abs=0.5)


def test_fresh_amounts_in_cents_are_likely_ones():
    """1,400 amounts, some of them frequent: later ones have not been seen, and are as likely as their neighbours."""
    rng = np.random.default_rng(0)

    def amounts(n: int) -> pd.DataFrame:
        usual = rng.choice([9.99, 19.99, 100.0, 2500.0], n)
        return pd.DataFrame({"amount": np.where(rng.random(n) < 0.3, usual, np.round(rng.lognormal(3, 1.5, n), 2))})

    train, later = amounts(1400), amounts(1000)
    for recipe in (rv.GaussianMixture(components=5), rv.TableMixture(components=5)):
        model = recipe.fit(train, seed=0, progress=False)
        assert np.isfinite(model.log_prob(later)).all()
        assert model.log_prob(later).mean() > model.log_prob(train).mean() - 0.3


# ---------------------------------------------------------------------- what is asked for


def test_supports_can_be_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(3, 1, 400).clip(0.1), "b": rng.normal(size=400)})
    plain = rv.GaussianMixture(components=1).fit(X, columns="real", progress=False)
    assert {step.kind for *_, step in plain.codec.steps} == {"affine"}
    model = rv.GaussianMixture(components=1).fit(X, columns={"a": "positive", "b": (-20, 20)}, progress=False)
    for known in (model, rv.load(model.save(tmp_path / "model"))):
        low, high = known.codec.steps[1][2].warp.low, known.codec.steps[1][2].warp.high
        assert low == pytest.approx(-20)
        assert high == pytest.approx(20)
        assert known.schema.field("b").support == (-20, 20)
    heavy = rv.GaussianMixture(components=1).fit(X, columns={"b": "heavy-tailed"}, progress=False)
    assert heavy.codec.steps[1][2].warp.kind == "asinh"


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"c": "positive"}, InvalidOption, "no column 'c'"),
        ({"a": "postive"}, InvalidOption, "expected real, positive.*got 'postive'"),
        ({"a": (2, 1)}, InvalidOption, "low < high"),
        ({"a": (None, None)}, InvalidOption, "low < high"),
        ({"a": (0, math.nan)}, InvalidOption, "low < high"),
        ({"a": (0, 1, 2)}, InvalidOption, "a range"),
        ({"word": "positive"}, InvalidOption, "'word' is of kind category"),
        ({"a": "positive"}, DataError, "'a' is to be positive, but has the value -"),
        ({"a": (0, 1)}, DataError, "within"),
        ("positive", DataError, "to be positive"),
        (3, InvalidOption, "expected a mapping"),
    ],
)
def test_supports_that_cannot_be(columns, error, message):
    X = pd.DataFrame({"a": np.random.default_rng(0).normal(size=100), "word": ["x", "y"] * 50})
    with pytest.raises(error, match=message):
        rv.TableMixture(components=2).fit(X, columns=columns, progress=False)


def test_parameters_in_data_units_name_the_way_out():
    from reverie.models import mixture

    model = rv.GaussianMixture(components=1).fit(np.random.default_rng(0).lognormal(size=(200, 1)), progress=False)
    with pytest.raises(DataError, match=r"columns=\{'x': 'real'\}"):
        mixture.parameters(model)


def test_no_conclusions_from_a_handful_of_rows():
    assert find_support(np.array([1.0, 2.0, 3.0])) == Support()
