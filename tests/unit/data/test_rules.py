"""Rules: found where they hold and nowhere else, kept by every family that makes tables, undone without a trace."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import reverie as rv
from reverie.errors import DataError, InvalidOption

CITIES = {"Paris": "FR", "Lyon": "FR", "Rome": "IT", "Milan": "IT", "Bonn": "DE"}


def orders(seed: int = 0, n: int = 800) -> pd.DataFrame:
    """A shop: dates in order, a sum, a product, a unit in two spellings, a country per city, no tip in cash."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300 * 86_400, n), unit="s")
    city = rng.choice(list(CITIES), n, p=[0.3, 0.1, 0.3, 0.1, 0.2])
    net, tax = rng.poisson(5, n), rng.poisson(3, n)
    pay = rng.choice(["cash", "card", "app"], n)
    count, unit = rng.integers(1, 9, n), np.round(rng.lognormal(2, 0.6, n), 2)
    celsius = np.round(rng.normal(12, 8, n), 1)
    return pd.DataFrame(
        {
            "start": start,
            "end": start + pd.to_timedelta((rng.exponential(3, n) * 86_400).round() + 1, unit="s"),
            "city": city,
            "country": pd.Series(city).map(CITIES),
            "net": net,
            "tax": tax,
            "total": net + tax,
            "pay": pay,
            "tip": np.where(pay == "cash", 0, np.round(0.01 + rng.exponential(2, n), 2)),
            "count": count,
            "unit": unit,
            "price": np.round(count * unit, 2),
            "celsius": celsius,
            "fahrenheit": np.round(celsius * 1.8 + 32, 2),
        }
    )


TEXTS = {
    "start < end",
    "country by city",
    "total = net + tax",
    "price = count * unit",
    "fahrenheit = 1.8 celsius + 32",
    "tip given pay (cash: 0)",
}


def broken(rows: pd.DataFrame) -> dict[str, float]:
    """Share of rows that break each rule."""
    return {
        "order": float((rows.end <= rows.start).mean()),
        "country": float((rows.country != rows.city.map(CITIES)).mean()),
        "sum": float((rows.net + rows.tax != rows.total).mean()),
        "product": float((np.abs(rows["count"] * rows.unit - rows.price) > 0.005001).mean()),
        "unit": float((np.abs(rows.celsius * 1.8 + 32 - rows.fahrenheit) > 0.005001).mean()),
        "tip": float(((rows.pay == "cash") & (rows.tip != 0)).mean()),
    }


def texts(model: rv.Model) -> set[str]:
    return {rule.text for rule in model.rules}


FAMILIES = [
    pytest.param(rv.TableMixture(components=3), {}, id="table_mixture"),
    pytest.param(rv.VAE(latent=2), {"epochs": 3}, id="vae"),
    pytest.param(rv.GAN(latent=2), {"epochs": 3}, id="gan"),
]


@pytest.fixture(scope="module")
def mixture() -> rv.Model:
    return rv.TableMixture(components=3).fit(orders(), seed=0, progress=False)


@pytest.mark.parametrize(("recipe", "options"), FAMILIES)
def test_every_row_keeps_every_rule(recipe, options, tmp_path):
    data = orders()
    model = recipe.fit(data, seed=0, progress=False, **options)
    assert texts(model) == TEXTS
    made = model.sample(700, seed=1)
    assert set(broken(made).values()) == {0.0}
    assert list(made.dtypes) == list(data.dtypes)
    assert list(made.columns) == list(data.columns)
    assert (made.start == made.start.dt.round("s")).all()
    again = rv.load(model.save(tmp_path / "model"))
    assert texts(again) == TEXTS
    pd.testing.assert_frame_equal(again.sample(50, seed=1), made.head(50))


@pytest.mark.parametrize(("recipe", "options"), FAMILIES[:2])
def test_cells_filled_in_keep_the_rules_with_those_seen(recipe, options):
    data = orders(n=300)
    model = recipe.fit(orders(), seed=0, progress=False, **options)
    holes = data.mask(pd.DataFrame(np.random.default_rng(1).random(data.shape) < 0.3, columns=data.columns))
    for filled in (model.impute(holes), model.impute(holes, n_draws=1, seed=2)[0]):
        assert set(broken(filled).values()) == {0.0}
        for name in data:
            seen = holes[name].notna()
            pd.testing.assert_series_equal(filled[name][seen], holes[name][seen], check_dtype=False)


def test_a_cell_that_a_rule_gives_is_that_cell(mixture):
    """The one unknown of a sum, a product, a lookup or another unit is no guess."""
    data = orders(seed=3, n=40)
    for name in ("net", "total", "country", "price", "fahrenheit", "celsius"):
        holes = data.copy()
        holes[name] = {"i": pd.array([pd.NA] * 40, dtype="Int64"), "f": np.nan}.get(data[name].dtype.kind)
        filled = mixture.impute(holes)
        if name == "celsius":  # is rounded in Fahrenheit
            assert np.abs(filled[name] - data[name]).max() < 0.051
        else:
            assert (filled[name].astype(data[name].dtype) == data[name]).all(), name


def test_given_columns_that_follow_from_others_are_met(mixture):
    given = {
        "total": 9,
        "country": "IT",
        "end": pd.Timestamp("2024-05-05"),
        "tip": 3.0,
        "price": 20.0,
        "fahrenheit": 50.0,
    }
    made = mixture.sample(200, given=given, seed=0)
    assert set(broken(made).values()) == {0.0}
    for name, value in given.items():
        assert (made[name] == value).all()
    assert made.city.nunique() == 2
    assert made.net.nunique() > 3


def test_densities_leave_out_what_follows(mixture):
    """log p of all columns is log p of those that are free: the same model learned from them alone gives it."""
    data, later = orders(), orders(seed=5, n=50)
    free = ["city", "net", "tax", "count", "unit", "celsius"]
    alone = rv.TableMixture(components=1).fit(data[free], seed=0, progress=False)
    whole = rv.TableMixture(components=1).fit(data[[*free, "country", "total", "price", "fahrenheit"]], progress=False)
    columns = [*free, "country", "total", "price", "fahrenheit"]
    np.testing.assert_allclose(whole.log_prob(later[columns]), alone.log_prob(later[free]), rtol=1e-9)
    # a gap is a shear, a constant given a category a missing cell: neither changes the measure
    assert np.isfinite(mixture.log_prob(later)).all()


def test_a_row_that_breaks_a_rule_is_unlikely_and_the_column_is_named(mixture):
    data = orders(seed=7, n=30)
    usual = mixture.log_prob(data)
    for name, value in [("total", 99), ("country", "DE"), ("price", 1e6), ("tip", 5.0)]:
        wrong = data[data.pay == "cash"].copy() if name == "tip" else data[data.city == "Rome"].copy()
        rows = wrong.index
        wrong[name] = value
        found = mixture.log_prob(wrong)
        assert np.isfinite(found).all()
        assert (found < usual[rows] - math.log(800)).all(), name
        blame = mixture.anomaly_attribution(wrong)
        assert np.isfinite(blame.to_numpy()).all()
        assert (blame[name] > math.log(800) - 1e-6).all(), name


# ---------------------------------------------------------------------- what is no rule


def independent(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = int(rng.choice([60, 200, 2000]))
    return pd.DataFrame(
        {
            "normal": rng.normal(size=n),
            "amount": rng.lognormal(0, 1, n),
            "larger": rng.lognormal(2, 1, n),
            "count": rng.poisson(1.0, n),
            "small": rng.integers(0, 3, n),
            "more": rng.integers(0, 6, n),
            "flag": rng.random(n) < 0.03,
            "rare": rng.random(n) < 0.5,
            "word": rng.choice(list("abcdefgh"), n, p=np.arange(1, 9) / 36),
            "other": rng.choice(["x", "y"], n, p=[0.97, 0.03]),
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1000, n), unit="D"),
            "later": pd.Timestamp("2020-06-01") + pd.to_timedelta(rng.integers(0, 1000, n), unit="D"),
        }
    )


def test_no_rule_is_made_up():
    """50 tables of independent columns: a rule is by chance in one of a million of them, for each of five kinds."""
    found = [
        texts(rv.TableMixture(components=1).fit(independent(seed), epochs=1, progress=False)) for seed in range(50)
    ]
    assert [rules for rules in found if rules] == []


def test_what_nearly_holds_is_no_rule():
    data = orders()
    data.loc[5, "total"] += 1
    data.loc[6, "country"] = "FR" if data.country[6] != "FR" else "DE"
    data.loc[7, "end"] = data.start[7] - pd.Timedelta("1D")
    model = rv.TableMixture(components=1).fit(data, epochs=1, progress=False)
    lost = {"start < end", "country by city", "total = net + tax"}
    assert not texts(model) & lost
    assert texts(model) >= TEXTS - lost
    assert "net <= total and tax <= total" in texts(model)  # which is still so


def test_arrays_and_few_rows_have_no_rules():
    data = orders()
    assert not texts(rv.TableMixture(components=1).fit(data.head(30), epochs=1, progress=False))
    numbers = data[["net", "tax", "total"]].to_numpy()
    assert not texts(rv.TableMixture(components=1).fit(numbers, epochs=1, progress=False))


def test_chains_and_the_larger_of_two_bounds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 500))
    c = np.maximum(a, b) + rng.exponential(size=500)
    data = pd.DataFrame({"a": a, "b": b, "c": c, "d": c + rng.exponential(size=500)})
    model = rv.GaussianMixture(components=2).fit(data, progress=False, seed=0)
    assert texts(model) == {"a < c and b < c", "c < d"}
    made = model.sample(500, seed=0)
    assert (made.c > made[["a", "b"]].max(axis=1)).all()
    assert (made.d > made.c).all()
    later = model.sample(50, given={"d": -0.5}, seed=0)
    assert (later.c < -0.5).all()
    assert (later.c > later[["a", "b"]].max(axis=1)).all()


# ---------------------------------------------------------------------- what is asked for


def test_rules_can_be_asked_for_and_left_out():
    data = orders()
    fit = lambda rules: texts(rv.TableMixture(components=1).fit(data, epochs=1, progress=False, rules=rules))  # noqa: E731
    assert fit(None) == set()
    assert fit(["total = net + tax"]) == {"total = net + tax"}
    assert fit(["tax <= total", "net = total - tax"]) == {"tax <= total", "net = total - tax"} - {"tax <= total"} | {
        "tax <= total"
    }
    assert fit(["auto", "not country by city", "not tip given pay"]) == TEXTS - {
        "country by city",
        "tip given pay (cash: 0)",
    }
    assert fit(["auto", "count <= price"]) >= {"country by city"}
    handful = rv.TableMixture(components=1).fit(
        data.head(20), epochs=1, progress=False, rules=["end > start", "country by city"]
    )
    assert texts(handful) == {"start < end", "country by city"}


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (["strt < end"], InvalidOption, "no column 'strt', did you mean 'start'"),
        (["start < end < total"], InvalidOption, "no column 'end < total'|no rule"),
        (["end < start"], DataError, "does not hold in 800 of 800 rows, row 0 first"),
        (["total = net - tax"], DataError, "does not hold in"),
        (["price = count * unit * net"], InvalidOption, "two factors"),
        (["city by country"], DataError, "does not hold in"),
        (["start < total"], InvalidOption, "compares a date with a number"),
        (["city < country"], InvalidOption, "'city' holds no numbers"),
        (["total = total"], InvalidOption, "follows from itself"),
        (["total = net + tax", "total = 0 + net + tax"], InvalidOption, "both say what 'total' is"),
        (["total = net + tax", "net = total - tax"], InvalidOption, "follow from itself through the other rules"),
        (["something"], InvalidOption, "is no rule"),
        (["auto", "not net = tax"], InvalidOption, "takes out a rule that was not found"),
        ([3], InvalidOption, "expected texts, got 3"),
        (["total = 3"], InvalidOption, "names no column on the right"),
    ],
)
def test_rules_that_cannot_be(rules, error, message):
    with pytest.raises(error, match=message):
        rv.TableMixture(components=1).fit(orders(), progress=False, rules=rules)


def test_a_start_keeps_its_rules(mixture):
    with pytest.raises(InvalidOption, match="a start keeps the rules"):
        rv.TableMixture(components=3).fit(orders(), start=mixture, rules=None, progress=False)
    more = rv.TableMixture(components=3).fit(orders(seed=9), start=mixture, epochs=1, progress=False)
    assert texts(more) == TEXTS
