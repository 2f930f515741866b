"""The four families on real files, read as a user would; skipped with a reason where the files are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import reverie as rv


def test_mnist_keeps_its_split_and_each_family_learns_it(real_data: Path) -> None:
    digits = rv.load_data("mnist", root=str(real_data), y=False)
    assert (len(digits.train), len(digits.test)) == (60_000, 10_000)
    rows = digits.train.view(np.arange(1000))
    for recipe, options in (
        (rv.GaussianMixture(components=2, covariance="diag"), {"epochs": 3}),
        (rv.RBM(hidden=12), {"epochs": 2}),
        (rv.VAE(latent=4, pixels="binary"), {"epochs": 1}),
        (rv.GAN(latent=4), {"epochs": 1}),
    ):
        model = recipe.fit(rows, **options)
        images = model.sample(3, seed=0)
        assert images.shape == (3, 28, 28)
        assert images.dtype == np.uint8


def test_adult_with_holes_comes_back_as_it_was(real_data: Path) -> None:
    """15 columns, "?" = missing: the VAE learns from the holes, fills them, and knows the incomes apart."""
    adult = rv.load_data(str(real_data / "adult_train.csv.gz"), y="income", missing=("?",), max_rows=3000)
    model = rv.VAE(latent=6).fit(adult.train, epochs=3)
    frame = adult.train.X.head(200)
    assert frame.isna().to_numpy().any()
    made = model.sample(50, y=">50K", seed=0)
    assert list(made.columns) == list(frame.columns)
    assert (made.dtypes == adult.train.X.dtypes).all()
    assert (made["age"] >= 0).all()
    filled = model.impute(frame, y=list(adult.train.y[:200]))
    assert not filled.isna().to_numpy().any()
    seen = ~frame.isna()
    pd.testing.assert_frame_equal(filled.where(seen), frame.where(seen))
    assert np.isfinite(model.log_prob(adult.test)).all()


def test_casp_likelihood_is_that_of_scikit_learn(real_data: Path) -> None:
    """Ten real columns of very different scales, jittered in the ninth digit so that none is gridded: held-out nats of
    a one-component mixture equal a Gaussian's closed form, computed apart."""
    with np.load(real_data / "protein_casp.npz") as file:
        train, test = file["x_train"].astype(np.float64), file["x_test"].astype(np.float64)
    jitter = np.random.default_rng(0)
    train, test = (rows * jitter.uniform(1 - 1e-9, 1 + 1e-9, rows.shape) for rows in (train, test))
    model = rv.GaussianMixture(components=1, floor=0.0).fit(train, epochs=2, columns="real")
    assert model.log_prob_kind == "exact"
    mean, covariance = train.mean(0), np.cov(train.T, bias=True)
    diff = test - mean
    distance = (diff * np.linalg.solve(covariance, diff.T).T).sum(1)
    closed = -0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert np.abs(model.log_prob(test) - closed).max() < 1e-6
