"""`sample(n, given=...)`: the fixed cells come back as they are, and the others follow the exact conditional distribution."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import reverie as rv
from reverie.data.sources.load import as_dataset
from reverie.errors import InvalidOption, SchemaMismatch, Unsupported
from reverie.model.model import Model

SEEDS = range(20)
LEAST = 0.001 / 100
"""Of 20 seeds and at most 5 columns: a right sampler fails one in a thousand runs of this file's tests (Bonferroni)."""


@functools.cache
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 1500)
    frame = pd.DataFrame({"city": np.array(["Bonn", "Rome", "Oslo"])[group], "h": rng.normal(2.0 * group, 1.0)})
    frame["age"] = (rng.normal(40, 8, 1500) + 6 * group).round().astype(np.int32)
    frame["w"] = (2 * frame["h"] + rng.normal(size=1500)).astype(np.float32)
    frame["paid"] = rng.random(1500) < 0.2 + 0.25 * group
    return frame


@functools.cache
def fitted(family: str) -> Model:
    X = table()
    if family == "gmm":
        return rv.GaussianMixture(components=3).fit(X[["h", "w"]], seed=0)
    if family == "table_mixture":
        return rv.TableMixture(components=4).fit(X, seed=0)
    if family == "naive_bayes":
        return rv.NaiveBayes().fit(X.drop(columns="city"), X["city"], seed=0)
    if family == "labelled vae":
        return rv.VAE(latent=2).fit(X[["h", "w"]], X["city"], epochs=40, seed=0)
    return rv.VAE(latent=2).fit(X, epochs=3, seed=0)


def test_gmm_follows_the_closed_form() -> None:
    """w | h of a mixture of Gaussians is one of normals; its distribution function at the draws is uniform."""
    model = fitted("gmm")
    found = rv.models.mixture.parameters(model)
    weights, means, covs = (np.asarray(found[name]) for name in ("weights", "means", "covariances"))
    for seed in SEEDS:
        h = 3.0 + 0.1 * seed
        w = model.sample(400, given={"h": h}, seed=seed)["w"].to_numpy(dtype=float)
        posterior = weights * stats.norm.pdf(h, means[:, 0], np.sqrt(covs[:, 0, 0]))
        posterior /= posterior.sum()
        centre = means[:, 1] + covs[:, 1, 0] / covs[:, 0, 0] * (h - means[:, 0])
        spread = np.sqrt(covs[:, 1, 1] - covs[:, 1, 0] ** 2 / covs[:, 0, 0])
        u = (posterior * stats.norm.cdf((w[:, None] - centre) / spread)).sum(1)
        assert stats.kstest(u, "uniform").pvalue > LEAST


@pytest.mark.parametrize("family", ["table_mixture", "naive_bayes"])
def test_rows_given_a_yes_are_as_those_of_the_joint_that_have_it(family: str) -> None:
    """Two-sample tests, column by column, against the rows among free samples that happen to fit: an exact reference."""
    model = fitted(family)
    made, y = model.sample(6000, seed=99, return_y=True)
    made = made.assign(y=y) if y is not None else made
    fit = made[made["paid"]]
    for seed in SEEDS:
        drawn, y = model.sample(300, given={"paid": True}, seed=seed, return_y=True)
        assert bool(drawn["paid"].all())
        drawn = drawn.assign(y=y) if y is not None else drawn
        for name in fit.columns.drop("paid"):
            a, b = fit[name], drawn[name]
            if a.dtype.kind in "if":
                found = stats.ks_2samp(a.astype(float), b.astype(float)).pvalue
            else:
                counts = pd.concat([a.value_counts(), b.value_counts()], axis=1).fillna(0).to_numpy()
                found = stats.chi2_contingency(counts).pvalue
            assert found > LEAST, (name, seed)


@pytest.mark.parametrize("family", ["table_mixture", "vae"])
def test_fixed_cells_and_types_stay(family: str) -> None:
    model, X = fitted(family), table()
    given = {"city": ["Rome", "Oslo"] * 5, "age": 41, "w": np.float32(0.1)}
    made = model.sample(10, given=given, seed=1)
    assert made.dtypes.to_dict() == X.dtypes.to_dict()
    assert made["city"].tolist() == given["city"]
    assert (made["age"] == 41).all()
    assert (made["w"] == np.float32(0.1)).all()
    assert not made["h"].duplicated().any()
    pd.testing.assert_frame_equal(made.head(4), model.sample(4, given={**given, "city": given["city"][:4]}, seed=1))
    pd.testing.assert_frame_equal(model.sample(5, given=X.iloc[:1], seed=0).head(1), X.iloc[:1].reset_index(drop=True))


def test_a_class_is_drawn_given_the_rest() -> None:
    """Share of each class among 3000 rows given h: P(y | h), within 5 standard errors and what a bound lacks (0.05)."""
    model = fitted("labelled vae")
    _, y = model.sample(3000, given={"h": 2.0}, return_y=True, seed=0)
    share = (pd.Series(y) == "Rome").mean()
    exact = 1 / (1 + 2 * np.exp(-2.0))
    assert abs(share - exact) < 0.05 + 5 * np.sqrt(exact * (1 - exact) / 3000)
    rome = model.sample(500, given={"h": 2.0}, y="Rome", seed=0)
    assert (rome["h"] == 2.0).all()


def test_a_class_is_drawn_where_no_class_can_make_what_is_given() -> None:
    """Halves between the whole numbers of training: every class gives them density 0, and none is favoured by that."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"k": rng.integers(0, 9, 400).astype(float), "v": rng.normal(size=400)})
    model = rv.VAE(latent=2).fit(X, np.where(X["k"] > 4, "high", "low"), epochs=60, seed=0)
    for k, label in ((7.5, "high"), (1.5, "low")):
        _, y = model.sample(400, given={"k": k}, return_y=True, seed=0)
        assert (np.asarray(y) == label).mean() > 0.9


def test_what_is_given_does_not_depend_on_the_chunk() -> None:
    model = fitted("labelled vae")
    given = {"h": np.linspace(-1, 5, 900)}
    whole, y = model.sample(900, given=given, return_y=True, seed=5)
    model.chunk, before = 128, model.chunk
    cut, y_cut = model.sample(900, given=given, return_y=True, seed=5)
    model.chunk = before
    pd.testing.assert_frame_equal(whole, cut)
    assert list(y) == list(y_cut)


def test_columns_of_codes_and_machines_that_predict() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(3, 6, (300, 3))
    codes[:, 2] = codes[:, 0]
    mixture = rv.CategoricalMixture(components=3).fit(as_dataset(codes, kinds={"x": "category"}), epochs=200)
    made = mixture.sample(200, given={0: 4, -2: 5}, seed=0)
    assert (made[:, 0] == 4).all()
    assert (made[:, 1] == 5).all()
    assert set(np.unique(made[:, 2])) <= {3, 4, 5}
    with pytest.raises(SchemaMismatch, match="column 0"):
        mixture.sample(2, given={0: 9})
    bits = rng.random((60, 6)) < 0.5
    head = rv.finetune(rv.DBN(hidden=(4, 3)).fit(bits, epochs=2), bits, np.where(bits[:, 0], "a", "b"), epochs=2)
    made, y = head.sample(5, given={0: True}, return_y=True, seed=0)
    assert made[:, 0].all()
    assert y is None  # as without given: y is what it says of x, and no part of a sample


def test_arrays_go_by_number_and_machines_walk() -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((400, 5)) < 0.4
    bits[:, 1] = bits[:, 0]
    model = rv.RBM(hidden=6).fit(bits, epochs=500, seed=0)
    for value in (False, True):
        made = model.sample(300, given={0: value}, seed=0)
        assert made.dtype == bool
        assert (made[:, 0] == value).all()
        assert (made[:, 1] == value).mean() > 0.9


def test_what_cannot_be_given() -> None:
    model = fitted("table_mixture")
    for given, words in [
        ({"citi": "Rome"}, "did you mean 'city'"),
        ({"city": "Paris"}, "'Paris'"),
        ({"age": 4.5}, "whole numbers"),
        ({"age": "x"}, "holds text"),
        ({"age": [1, 2]}, "2 values where 3"),
        ({"h": np.inf}, "inf"),
        (7, "given is a int"),
        ([1], "given is a list"),
    ]:
        with pytest.raises(SchemaMismatch, match=words):
            model.sample(3, given=given)
    with pytest.raises(InvalidOption, match="length"):
        model.sample(3, given={"age": 4}, length=2)
    with pytest.raises(Unsupported, match="families that can"):
        rv.GAN().fit(table(), epochs=1).sample(3, given={"age": 4})
    pictures = rv.RBM(hidden=4).fit(np.random.default_rng(0).random((30, 4, 4)) < 0.5, epochs=1)
    with pytest.raises(Unsupported, match="impute"):
        pictures.sample(3, given={"x": 1})
