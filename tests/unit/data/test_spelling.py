"""Numbers and dates that come as text: recognised, learned as such, and written back as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import reverie as rv
from reverie.data.forms.spelling import Spelling, spelling_of
from reverie.errors import SchemaMismatch

RNG = np.random.default_rng(0)
AMOUNTS = np.round(RNG.lognormal(6, 1.5, 200), 2)


def german(value: float) -> str:
    return f"{value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        ([f"{v:.2f}" for v in AMOUNTS], AMOUNTS),
        ([f"{v}" for v in AMOUNTS], AMOUNTS),
        ([f"-{v:.1f}" for v in AMOUNTS], -np.array([float(f"{v:.1f}") for v in AMOUNTS])),
        ([f"${v:,.2f}" for v in AMOUNTS], AMOUNTS),
        ([f"{german(v)} €" for v in AMOUNTS], AMOUNTS),
        ([f"EUR {v:.2f}" for v in AMOUNTS], AMOUNTS),
        ([f"{v:,.0f}".replace(",", " ") for v in AMOUNTS * 1000], np.round(AMOUNTS * 1000)),
        ([f"{v:,.0f}" for v in AMOUNTS * 10], np.array([float(f"{v:.0f}") for v in AMOUNTS * 10])),
        ([f"{v:g}%" for v in np.round(AMOUNTS % 100, 1)], np.round(AMOUNTS % 100, 1)),
        ([str(v) for v in RNG.permutation(200)], None),
    ],
)
def test_numbers_are_read_and_written_back(texts, values):
    series = pd.Series(texts)
    found = spelling_of(series)
    assert found is not None
    assert Spelling.unpack(found.pack()) == found
    read = found.read(series).to_numpy()
    np.testing.assert_allclose(read, series.astype(float) if values is None else values, rtol=1e-12)
    assert found.write(read, np.zeros(200, bool)) == texts


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y", "%Y-%m-%d %H:%M:%S", "%m/%d/%Y", "%d %b %Y"])
def test_dates_are_read_and_written_back(form):
    dates = pd.Series(pd.Timestamp("2024-01-25") + pd.to_timedelta(RNG.integers(0, 900, 200), unit="D"))
    texts = dates.dt.strftime(form)
    found = spelling_of(texts)
    assert found is not None
    assert found.format == form
    assert (found.read(texts) == dates).all()
    nanoseconds = dates.astype("datetime64[ns]").astype(np.int64).to_numpy()
    assert found.write(nanoseconds, np.zeros(200, bool)) == texts.tolist()


@pytest.mark.parametrize(
    "texts",
    [
        ["1", "2", "3"] * 40,  # grades
        [f"{k:05d}" for k in range(1000, 1200)],  # codes that begin with 0
        [f"A{k}" for k in range(200)],
        ["yes", "no"] * 50,
        [f"{k}.{k}.{k}" for k in range(100)],
        [f"1,{k}" if k % 2 else f"1.{k}" for k in range(100)],  # two decimal points
        [f"${k}.5" if k % 2 else f"€{k}.5" for k in range(100)],  # two currencies
        [f"{k}.5" for k in range(10)],  # too few to tell
        [f"{k}.5" if k % 10 else "unknown" for k in range(200)],  # every tenth is something else
        ["2024-13-45"] * 100,
        ["Monday", "Tuesday"] * 60,
    ],
)
def test_what_is_no_number_stays_a_text(texts):
    assert spelling_of(pd.Series(texts)) is None


def table(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    amount = np.round(rng.lognormal(4, 1, n), 2)
    day = pd.Timestamp("2024-01-05") + pd.to_timedelta(rng.integers(0, 400, n), unit="D")
    return pd.DataFrame(
        {
            "charges": [" " if row % 40 == 0 else f"{value:.2f}" for row, value in enumerate(amount)],
            "price": [f"${value:,.2f}" for value in np.round(rng.lognormal(6, 1, n), 2)],
            "day": pd.Series(day).dt.strftime("%d.%m.%Y"),
            "plan": rng.choice(["1", "2"], n),
        }
    )


@pytest.mark.parametrize("recipe", [rv.TableMixture(components=2), rv.GAN(latent=2), rv.VAE(latent=2)])
def test_tables_come_back_as_they_were_spelled(recipe, tmp_path):
    data = table()
    model = recipe.fit(data, progress=False, seed=0, **({} if "ixture" in type(recipe).__name__ else {"epochs": 2}))
    assert [model.schema.field(name).kind for name in data] == ["number", "number", "datetime", "category"]
    assert any(
        "'charges' (numbers, 8 cells without one), 'price' (numbers), 'day' (dates)" in w for w in model.warnings
    )
    made = model.sample(200, seed=0)
    assert list(made.dtypes) == list(data.dtypes)
    assert made.price.str.fullmatch(r"\$\d{1,3}(,\d{3})*\.\d\d").all()
    assert made.charges.str.fullmatch(r"\d+\.\d\d| ").all()
    assert pd.to_datetime(made.day, format="%d.%m.%Y").notna().all()
    again = rv.load(model.save(tmp_path / "model"))
    pd.testing.assert_frame_equal(again.sample(20, seed=0), made.head(20))
    if "impute" in model.can:
        filled = model.impute(data)
        assert filled.charges.str.fullmatch(r"\d+\.\d\d").all()
        assert (filled.charges == data.charges)[data.charges != " "].all()
        given = model.sample(3, given={"price": "$12.50", "day": "01.02.2024"}, seed=0)
        assert given.price.tolist() == ["$12.50"] * 3
        assert given.day.tolist() == ["01.02.2024"] * 3
    if "log_prob" in model.can:
        assert np.isfinite(model.log_prob(data)).all()
        numbers = data.assign(
            price=model.codec.schema.field("price") and [float(v[1:].replace(",", "")) for v in data.price]
        )
        np.testing.assert_allclose(model.log_prob(numbers, seed=0), model.log_prob(data, seed=0))
        with pytest.raises(SchemaMismatch, match=r"column 'price', row 0: 'dear' is no number"):
            model.log_prob(data.assign(price="dear"))


def test_the_way_out():
    data = rv.as_dataset(table(), kinds={"price": "category", "charges": "category", "day": "category"})
    assert {field.kind for field in data.schema.fields} == {"category"}
    assert not any("written back as text" in warning for warning in data.warnings)
