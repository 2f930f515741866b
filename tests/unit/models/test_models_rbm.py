"""The restricted machine's tempered chains, in training."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.errors import InvalidOption
from reverie.learning.rules.ladder import Ladder


def bars_and_stripes(side: int) -> np.ndarray:
    """All pictures whose rows, or whose columns, are each of one colour."""
    pictures = set()
    for bits in itertools.product([False, True], repeat=side):
        rows = np.tile(bits, (side, 1))
        pictures |= {tuple(rows.flatten()), tuple(rows.T.flatten())}
    return np.array(sorted(pictures))


def test_tempered_chains_learn_what_plain_ones_lose():
    """4 x 4 bars and stripes, 30 far apart: of two seeds the exact KL was 0.036 and 0.043 nats with ten copies, 4.0 and 3.0
    without."""
    data = bars_and_stripes(4)
    recipe = rv.RBM(hidden=16, chains=100, replicas=10, lr=0.3)
    model = recipe.fit(np.tile(data, (20, 1)), epochs=1000, batch_size=100, ema=0.99, seed=0, progress=False)
    assert model.log_prob_info is None or model.log_prob_info["method"] == "exact"
    assert -math.log(len(data)) - model.log_prob(data).mean() < 0.1
    assert model.history[-1]["lowest_swap_rate"] > 0.4


def test_copies_are_of_persistent_chains():
    with pytest.raises(InvalidOption, match="give chains"):
        rv.RBM(chains=0, replicas=2)


def test_momentum_is_of_plain_descent():
    with pytest.raises(InvalidOption, match="momentum: adam has its own"):
        rv.RBM(optimizer="adam", momentum=0.5).fit(np.eye(4, dtype=bool), epochs=1, progress=False)


def test_adam_learns_classes_where_plain_descent_crawls():
    """Which of two halves has more ones, in 30 passes: of what the classifier could gain on the share of the larger class,
    adam gains most and plain descent of the default rate little."""
    rng = np.random.default_rng(0)
    bits = rng.random((2000, 16)) < 0.5
    names = np.where(bits[:, :8].sum(1) > bits[:, 8:].sum(1), "left", "right")
    right = {}
    for optimizer, lr in (("sgd", 0.2), ("adam", 0.01)):
        recipe = rv.RBM(hidden=16, discriminative=1.0, optimizer=optimizer, lr=lr)
        model = recipe.fit(bits[:1500], names[:1500], epochs=30, seed=0, progress=False)
        right[optimizer] = float((model.predict(bits[1500:]) == names[1500:]).mean())
    assert right["adam"] > 0.93
    assert right["adam"] > right["sgd"]


def test_temperatures_are_read_off_at_equal_steps_of_the_rejection_rates():
    ladder = Ladder(5, torch.device("cpu"))
    rates, betas = np.array([0.1, 0.4, 0.2, 0.1]), np.array([0.0, 0.2, 0.3, 0.7, 1.0])
    ladder.load_state({"betas": torch.tensor(betas), "rejected": torch.tensor(rates), "round": 0})
    ladder._place()
    barrier = np.concatenate([[0.0], rates.cumsum()])
    np.testing.assert_allclose(ladder.state()["betas"], np.interp(np.linspace(0, 0.8, 5), barrier, betas))
    np.testing.assert_allclose(ladder.state()["rejected"], 0.2)


def test_grey_pictures_are_binarised_once_for_a_likelihood():
    """From the seed: offsets in cells, which `dequantisation` counts, are of no concern to them."""
    X = np.random.default_rng(0).integers(0, 256, (40, 3, 3), dtype=np.uint8)
    model = rv.RBM(hidden=4).fit(X, epochs=1, seed=0, progress=False)
    once = model.log_prob(X, seed=1)
    np.testing.assert_array_equal(model.log_prob(X, seed=1, dequantisation=1), once)
    assert np.abs(model.log_prob(X, seed=2) - once).max() > 0.01
