"""Naive Bayes against scikit-learn's Gaussian, Bernoulli and categorical ones, and against Bayes' rule by hand; learning in
parts, from weights, holes and rows without a label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import reverie as rv
from reverie.data.sources.load import as_dataset
from reverie.errors import SchemaMismatch
from reverie.models.classical.naive_bayes import NaiveBayes


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target


# ---------------------------------------------------------------------- scikit-learn


@pytest.mark.parametrize("floor", [1e-9, 1e-3])
@pytest.mark.parametrize("prior", ["frequency", "uniform"])
def test_gaussian_nb(digits, floor, prior):
    """numeric="density" and the same floor (scikit-learn's var_smoothing): equal probabilities to 1e-8."""
    from sklearn.naive_bayes import GaussianNB

    X, y = digits
    train, test = slice(0, 1200), slice(1200, None)
    priors = None if prior == "frequency" else np.full(10, 0.1)
    peer = GaussianNB(var_smoothing=floor, priors=priors).fit(X[train], y[train])
    model = NaiveBayes(numeric="density", floor=floor, prior=prior).fit(X[train], y[train])
    np.testing.assert_allclose(model.predict_proba(X[test]), peer.predict_proba(X[test]), atol=1e-8)
    np.testing.assert_array_equal(model.predict(X[test]), peer.predict(X[test]))
    assert "log_prob" not in model.can  # grey levels repeat


@pytest.mark.parametrize("alpha", [1.0, 0.1])
def test_bernoulli_nb(digits, alpha):
    from sklearn.naive_bayes import BernoulliNB

    X, y = digits[0] > 7, digits[1]
    peer = BernoulliNB(alpha=alpha).fit(X[:1200], y[:1200])
    model = NaiveBayes(smoothing=alpha).fit(X[:1200], y[:1200])
    np.testing.assert_allclose(model.predict_proba(X[1200:]), peer.predict_proba(X[1200:]), atol=1e-8)


@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_categorical_nb(alpha):
    """Categories of several sizes, one of which no row has: it keeps its pseudo-count, as with min_categories."""
    from sklearn.naive_bayes import CategoricalNB

    rng = np.random.default_rng(0)
    n = 400
    y = rng.integers(0, 3, n)
    codes = np.column_stack([(y + (rng.random(n) < 0.3)) % 3, rng.integers(0, 5, n), rng.integers(0, 2, n)])
    levels = [list("xyz"), list("abcdef"), ["no", "yes"]]
    frame = pd.DataFrame({f"c{j}": pd.Categorical.from_codes(codes[:, j], levels[j]) for j in range(3)})
    peer = CategoricalNB(alpha=alpha, min_categories=[3, 6, 2]).fit(codes[:300], y[:300])
    model = NaiveBayes(smoothing=alpha).fit(frame.head(300), y[:300])
    codes[-1, 1] = 5
    frame.loc[n - 1, "c1"] = "f"
    np.testing.assert_allclose(model.predict_proba(frame.tail(100)), peer.predict_proba(codes[300:]), atol=1e-8)


def test_unseen_categories_are_missing_cells():
    """To score and to predict; not to fill, since they would come back as if observed."""
    frame, y = table(300)
    model = NaiveBayes().fit(frame, y)
    odd = frame.head(5).assign(c=["pink", "x", "pink", "y", "z"])
    hidden = frame.head(5).assign(c=pd.Categorical([None, "x", None, "y", "z"], list("xyz")))
    np.testing.assert_array_equal(model.predict_proba(odd), model.predict_proba(hidden))
    np.testing.assert_array_equal(model.log_prob(odd), model.log_prob(hidden))
    with pytest.raises(SchemaMismatch, match=r"c.*pink"):
        model.impute(odd)
    with pytest.raises(SchemaMismatch, match=r"other"):
        model.log_prob(frame.head(2), y=["other", "low"])


# ---------------------------------------------------------------------- by hand


def table(n: int, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    """A number, a count, a category and a bit, all of which depend on one of three classes."""
    rng = np.random.default_rng(seed)
    k = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    frame = pd.DataFrame(
        {
            "v": rng.normal(size=n) + 1.5 * k,
            "n": rng.poisson(2 + 2 * k),
            "c": pd.Categorical(
                np.array(list("xyz"))[np.where(rng.random(n) < 0.6, k, rng.integers(0, 3, n))], list("xyz")
            ),
            "b": pd.array(rng.random(n) < 0.2 + 0.3 * k, dtype="boolean"),
        }
    )
    return frame, pd.Series(np.array(["low", "mid", "top"])[k])


def test_bayes_rule_by_hand():
    """P(y | x) of a mixed table from counts, means and variances written out; integers as Poisson counts."""
    from scipy import stats

    frame, y = table(500)
    model = NaiveBayes(integers="poisson", smoothing=2.0, floor=0.0).fit(frame, y)
    test, _ = table(50, seed=1)
    joint = np.zeros((50, 3))
    for k, name in enumerate(model.classes):
        own = frame[y == name]
        joint[:, k] = np.log(len(own) / 500)
        joint[:, k] += stats.norm(own["v"].mean(), own["v"].std(ddof=0)).logpdf(test["v"])
        overall = (frame["n"].sum() + 0.5) / 501
        joint[:, k] += stats.poisson((own["n"].sum() + 2 * overall) / (len(own) + 2)).logpmf(test["n"])
        share = (own["c"].value_counts() + 2.0) / (len(own) + 6)
        joint[:, k] += np.log(share[test["c"]].to_numpy())
        p = (own["b"].sum() + 2) / (len(own) + 4)
        joint[:, k] += np.where(test["b"], np.log(p), np.log(1 - p))
    want = np.exp(joint - np.logaddexp.reduce(joint, 1)[:, None])
    np.testing.assert_allclose(model.predict_proba(test), want, atol=1e-10)
    np.testing.assert_allclose(model.log_prob(test), np.logaddexp.reduce(joint, 1), atol=1e-9)
    np.testing.assert_allclose(model.log_prob(test, y="mid"), joint[:, 1] - np.log((y == "mid").mean()), atol=1e-9)


@pytest.mark.parametrize("integers", ["levels", "normal", "poisson"])
def test_missing_cells_drop_out_of_the_product(integers):
    """log P(y | x) with holes: the columns' own evidence, log p(x_j | y) of rows that have column j alone, adds up."""
    frame, y = table(400)
    model = NaiveBayes(integers=integers).fit(frame, y)
    test, _ = table(30, seed=2)
    dtypes = {"v": "float64", "n": "Int64", "c": frame["c"].dtype, "b": "boolean"}

    def blank(rows: pd.DataFrame, *names: str) -> pd.DataFrame:
        return rows.assign(**{name: pd.Series([None] * len(rows), dtype=dtypes[name]) for name in names})

    alone = {}
    for name in frame.columns:
        only = blank(test, *frame.columns.drop(name))
        alone[name] = np.log(model.predict_proba(only)) - np.log(model.codec.condition.frequencies)
    holes = test.copy()
    holes.loc[::2, "v"] = np.nan
    holes.loc[::3, "c"] = None
    total = np.log(model.codec.condition.frequencies) + sum(
        np.where(holes[name].isna().to_numpy()[:, None], 0.0, value) for name, value in alone.items()
    )
    want = np.exp(total - np.logaddexp.reduce(total, 1)[:, None])
    np.testing.assert_allclose(model.predict_proba(holes), want, atol=1e-9)
    nothing = model.predict_proba(blank(test, *frame.columns))
    np.testing.assert_allclose(nothing, np.tile(model.codec.condition.frequencies, (30, 1)), atol=1e-12)


def test_priors():
    frame, y = table(300)
    frequency, uniform = NaiveBayes().fit(frame, y), NaiveBayes(prior="uniform").fit(frame, y)
    p = frequency.predict_proba(frame) / y.value_counts(normalize=True)[list(frequency.classes)].to_numpy()
    np.testing.assert_allclose(uniform.predict_proba(frame), p / p.sum(1, keepdims=True), atol=1e-10)
    nats = np.column_stack([uniform.log_prob(frame, y=name) for name in uniform.classes])
    np.testing.assert_allclose(uniform.log_prob(frame), np.logaddexp.reduce(nats, 1) - np.log(3), atol=1e-9)


def test_a_column_constant_within_a_class_without_a_floor():
    """Its one value is all but certain there, and any other all but impossible; no NaN."""
    rng = np.random.default_rng(0)
    y = np.where(np.arange(80) % 2, "p", "q")
    X = np.column_stack([np.where(y == "p", 0.0, rng.normal(size=80)), rng.normal(size=80), np.ones(80)])
    model = NaiveBayes(numeric="density", floor=0.0).fit(X, y)
    proba = model.predict_proba(X)
    assert np.isfinite(proba).all()
    np.testing.assert_array_equal(model.predict(X), y)


# ---------------------------------------------------------------------- in parts


def states(model: Any) -> dict[str, torch.Tensor]:
    return {name: t for name, t in model.network.state_dict().items() if not name.startswith("memory")}


def same(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    for name, tensor in states(a).items():
        torch.testing.assert_close(states(b)[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", ["plain", "holes", "weights"])
def test_learning_in_parts_is_learning_at_once(kind):
    """fit(A), then B and C with start=: the parameters of fit(A + B + C) to 1e-12, in the codec of A."""
    frame, y = table(600)
    if kind == "holes":
        rng = np.random.default_rng(3)
        frame["n"] = frame["n"].astype("Int64")
        for name in frame.columns:
            frame.loc[rng.random(600) < 0.2, name] = None
    data = frame.assign(y=y, w=np.random.default_rng(4).integers(1, 5, 600) / 2 if kind == "weights" else np.ones(600))
    roles = {"y": "condition", "w": "weight"}

    def rows(first: int, last: int) -> Any:
        return as_dataset(data.iloc[first:last].copy(), roles=roles)

    recipe = NaiveBayes(integers="poisson", floor=1e-3, smoothing=0.0)
    first = recipe.fit(rows(0, 200))
    parts = recipe.fit(rows(200, 350), start=first)
    parts = recipe.fit(rows(350, 600), start=parts)
    # The same codec (scales, levels) for all rows: start from a model of A that has seen no rows.
    empty = recipe.fit(rows(0, 200), epochs=0)
    whole = recipe.fit(rows(0, 600), start=empty)
    same(parts, whole)
    assert len(parts.history) == 1
    with pytest.raises(AssertionError):
        same(first, whole)


def test_memory_survives_saving(tmp_path):
    frame, y = table(300)
    recipe = NaiveBayes()
    first = recipe.fit(frame.head(150), y.head(150))
    loaded = rv.load(first.save(tmp_path / "m"))
    a = recipe.fit(frame.tail(150), y.tail(150), start=first)
    same(a, recipe.fit(frame.tail(150), y.tail(150), start=loaded), 0.0)


def test_weights_are_repeated_rows():
    frame, y = table(200)
    counts = np.random.default_rng(0).integers(0, 4, 200)
    weighted = as_dataset(frame.assign(y=y, w=counts.astype(float)), roles={"y": "condition", "w": "weight"})
    recipe = NaiveBayes(integers="poisson")
    start = recipe.fit(frame, y, epochs=0)
    rows = np.repeat(np.arange(200), counts)
    plain = recipe.fit(frame.iloc[rows].reset_index(drop=True), y.iloc[rows].reset_index(drop=True), start=start)
    unit = as_dataset(frame.assign(y=y, w=1.0), roles={"y": "condition", "w": "weight"})
    same(recipe.fit(weighted, start=recipe.fit(unit, epochs=0)), plain, 1e-10)


# ---------------------------------------------------------------------- rows without a label


def test_unlabelled_rows_help(digits):
    """40 labelled digits and 1360 without (Nigam et al. 2000): more right on the rest than from the 40 alone."""
    X, y = digits[0] > 7, digits[1]
    order = np.random.default_rng(1).permutation(len(X))
    X, y = X[order], y[order].astype(str)
    partial = pd.Series(y[:1400]).where(np.arange(1400) < 40)
    few = NaiveBayes().fit(X[:40], y[:40])
    many = NaiveBayes(tol=1e-5).fit(X[:1400], partial)
    score = [(model.predict(X[1400:]) == y[1400:]).mean() for model in (few, many)]
    assert score[1] > score[0] + 0.05, score
    curve = [record["log_likelihood"] for record in many.history]
    assert curve[-1] > curve[0]
    assert len(curve) > 3


def test_em_with_partial_labels_climbs():
    """sum log p(x, y) of labelled rows + sum log p(x) of the others, plus the log prior, never falls."""
    frame, y = table(300)
    partial = y.where(np.arange(300) % 5 == 0)
    model = NaiveBayes(tol=0, floor=0.0, integers="poisson").fit(frame, partial, epochs=40)
    curve = np.array([record["penalised"] for record in model.history])
    assert len(curve) == 40
    assert (np.diff(curve) > -1e-10).all()


def test_all_labels_are_counted_in_one_pass():
    frame, y = table(300)
    model = NaiveBayes().fit(frame, y)
    assert len(model.history) == 1
    same(model, NaiveBayes().fit(frame, y, batch_size=64), 1e-10)
    assert "epoch 1" in model.summary()
