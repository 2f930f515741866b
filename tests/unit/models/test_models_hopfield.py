"""What users of Hopfield networks meet: forms of data, masks, capacity, parameters, going on, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import reverie as rv
from reverie.errors import InvalidOption, Unsupported, UnsupportedData
from reverie.models import hopfield

RULES = ["hebb", "covariance", "pseudo_inverse", "storkey"]
EVERY = [*RULES, "dense", "attention"]


def bits(rows: int = 6, columns: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns)) < 0.5


def rows_for(memory: str, rows: int = 30, seed: int = 0) -> np.ndarray:
    return bits(rows, 40, seed) if memory in RULES else np.random.default_rng(seed).normal(size=(rows, 5))


def stored(memory: str, X: np.ndarray, **options) -> rv.Model:
    return rv.Hopfield(memory=memory).fit(X, progress=False, **options)


@pytest.mark.parametrize("memory", RULES)
def test_patterns_come_back_from_flipped_and_from_missing_bits(memory):
    X, rng = bits(), np.random.default_rng(1)
    model = stored(memory, X)
    flipped = hopfield.recall(model, X ^ (rng.random(X.shape) < 0.1))
    np.testing.assert_array_equal(flipped.patterns, X)
    assert flipped.patterns.dtype == bool
    assert flipped.energies.shape[0] == len(X)
    hidden = rng.random(X.shape) < 0.5
    np.testing.assert_array_equal(hopfield.recall(model, ~X ^ ~hidden, observed=~hidden).patterns, X)
    holes = np.where(hidden, np.nan, X)
    np.testing.assert_array_equal(hopfield.recall(model, holes).patterns, X)
    np.testing.assert_array_equal(model.impute(holes), X)
    one = hidden[0]  # the same mask for all rows
    np.testing.assert_array_equal(hopfield.recall(model, X, observed=~one).patterns, X)


def test_a_frame_comes_back_as_a_frame():
    frame = pd.DataFrame(bits(4, 12), columns=[f"q{j}" for j in range(12)])
    found = hopfield.recall(stored("pseudo_inverse", frame), frame)
    pd.testing.assert_frame_equal(found.patterns, frame)


def test_pictures_are_cut_at_one_half_and_keep_their_channels():
    rng = np.random.default_rng(0)
    shades = rng.choice([0, 60, 200, 255], (3, 6, 7, 3)).astype(np.uint8)
    model = stored("pseudo_inverse", shades)
    want = np.where(shades > 127, 255, 0)
    seen = rng.random(shades.shape) < 0.6
    noisy = np.where(seen, shades, rng.integers(0, 256, shades.shape)).astype(np.uint8)
    found = hopfield.recall(model, noisy, observed=seen)
    assert found.patterns.dtype == np.uint8
    np.testing.assert_array_equal(found.patterns, want)
    grey = stored("dense", shades)
    np.testing.assert_array_equal(hopfield.recall(grey, noisy, observed=seen).patterns, shades)


def test_rows_seen_in_full_do_not_depend_on_the_others():
    """A cue without holes may change everywhere, also beside one with holes, and in whatever chunk."""
    for memory, X in (("hebb", bits()), ("dense", np.random.default_rng(0).normal(size=(6, 80)))):
        cue = X.astype(float)
        cue[0, :9] = 1 - cue[0, :9]
        cue[1, :40] = np.nan
        model = stored(memory, X)
        alone, both = hopfield.recall(model, cue[:1]), hopfield.recall(model, cue)
        model.chunk = 1
        cut = hopfield.recall(model, cue)
        np.testing.assert_allclose(np.asarray(both.patterns)[0], np.asarray(alone.patterns)[0], atol=1e-9)
        np.testing.assert_allclose(both.patterns, cut.patterns, atol=1e-9)
        np.testing.assert_allclose(both.patterns, X, atol=1e-6)


@pytest.mark.parametrize("memory", EVERY)
def test_going_on_adds_patterns_and_passes_do_not_repeat_them(memory):
    X = rows_for(memory)
    whole = stored(memory, X, batch_size=7, epochs=3)
    assert len(whole.history) == 1
    assert whole.history[0]["stored"] == 30
    first = stored(memory, X[:18], batch_size=9)
    both = rv.finetune(first, X[18:])
    assert int(first.network.stored) == 18
    assert int(both.network.stored) == 30
    if memory in RULES:
        for name in ("J", "theta"):
            torch.testing.assert_close(getattr(whole.network, name), getattr(both.network, name), atol=1e-12, rtol=0)
    else:  # the scale of the columns is that of the first rows
        np.testing.assert_allclose(hopfield.parameters(both)["patterns"], X, atol=1e-9)
        assert float(both.network.T) != float(first.network.T)


@pytest.mark.parametrize("memory", ["storkey", "dense"])  # what depends most on the order, of either kind
def test_two_processes_store_what_one_does(memory):
    X = rows_for(memory, 31)
    one, two = stored(memory, X, batch_size=10), stored(memory, X, batch_size=10, devices=2)
    for (name, a), b in zip(one.network.state_dict().items(), two.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("memory", EVERY)
def test_stopped_and_resumed_stores_nothing_twice(memory, tmp_path):
    X = rows_for(memory)

    class Halt(Exception):
        pass

    def halt(record):
        if record.get("event") == "step" and record["step"] == 2:
            raise Halt

    options = {"batch_size": 7, "log_steps": 1}
    whole = stored(memory, X, **options)
    with pytest.raises(Halt):
        stored(memory, X, out=str(tmp_path / "run"), callbacks=(halt,), **options)
    half = rv.load(tmp_path / "run")
    with pytest.raises(Unsupported, match="nothing stored yet"):
        hopfield.recall(half, X)
    with pytest.raises(Unsupported, match="can't sample: nothing is stored yet; fit it for a pass"):
        half.sample(2)
    again = rv.resume(tmp_path / "run", X)
    for (name, a), b in zip(whole.network.state_dict().items(), again.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    loaded = rv.load(tmp_path / "run")
    np.testing.assert_array_equal(hopfield.recall(loaded, X).patterns, hopfield.recall(whole, X).patterns)


def test_capacity_reports_what_was_counted():
    X = bits(8, 100)
    model = stored("hebb", X)
    found = hopfield.capacity(model, X, damaged=0.07, seed=1)
    assert (found.patterns, found.units, found.load) == (8, 100, 0.08)
    s = 2.0 * X - 1
    assert found.fixed == ((s * (s @ hopfield.parameters(model)["couplings"])) > 0).all(1).mean()
    assert found.overlap_mean == pytest.approx((s * (2.0 * hopfield.recall(model, X, seed=1).patterns - 1)).mean())
    assert found.theory["few errors"] == pytest.approx(13.8)
    wiped = hopfield.capacity(model, X, damaged=1.0)  # every bit flipped: the mirror image, an attractor too
    assert wiped.cue_overlap_mean == pytest.approx(-found.overlap_mean)
    rows = rows_for("dense")
    dense = rv.Hopfield(memory="dense", temperature=0.01).fit(rows, progress=False)
    kept = hopfield.capacity(dense, rows, damaged=0.2)  # one of five columns hidden
    assert kept.overlap_median > 0.999
    assert kept.cue_overlap_median > 0.99
    assert kept.theory == {}
    blurred = hopfield.capacity(rv.Hopfield(memory="dense", temperature=10.0).fit(rows, progress=False), rows)
    assert blurred.fixed == blurred.recalled == 0


def test_the_default_temperature_is_written_down():
    model = stored("hebb", bits())
    assert model.info["resolved"]["temperature"] == hopfield.parameters(model)["temperature"] == 0.2
    assert model.estimator.temperature is None
    dense = stored("dense", rows_for("dense"))
    found = hopfield.parameters(dense)
    assert found["beta"] == pytest.approx(1 / found["temperature"])
    fixed = rv.Hopfield(memory="dense", temperature=0.3).fit(rows_for("dense"), progress=False)
    assert hopfield.parameters(fixed)["temperature"] == pytest.approx(0.3)
    np.testing.assert_allclose(found["patterns"], rows_for("dense"))


def test_what_is_refused():
    X, model = bits(), stored("hebb", bits())
    dense = stored("dense", rows_for("dense"))
    gmm = rv.GaussianMixture(components=1).fit(rows_for("dense"), progress=False)
    for error, message, call in [
        (Unsupported, "log_prob: log Z is a sum over 2\\^80 states, listed up to 20 units; use energy", lambda: model.log_prob(X)),
        (Unsupported, "needs a hopfield model, got gmm", lambda: hopfield.recall(gmm, X)),
        (InvalidOption, "sweeps: expected a whole number of at least 1, got 0", lambda: hopfield.recall(model, X, sweeps=0)),
        (InvalidOption, "sweeps: expected a whole number", lambda: model.sample(1, sweeps=1.5)),
        (InvalidOption, "update: expected asynchronous or synchronous, got 'all'", lambda: hopfield.recall(model, X, update="all")),
        (InvalidOption, "update: a memory of whole patterns moves all columns at once", lambda: hopfield.recall(dense, rows_for("dense"), update="synchronous")),
        (InvalidOption, "observed: expected booleans.*got int64", lambda: hopfield.recall(model, X, observed=X.astype(np.int64))),
        (InvalidOption, r"observed: expected shape \(80,\) or \(6, 80\), got \(5, 80\)", lambda: hopfield.recall(model, X, observed=X[:5])),
        (InvalidOption, "damaged: expected a share from 0 to 1, got 2", lambda: hopfield.capacity(model, X, damaged=2)),
        (InvalidOption, "seed: expected a whole number", lambda: hopfield.recall(model, X, seed="a")),
        (InvalidOption, "temperature.*greater than 0", lambda: rv.Hopfield(temperature=0.0)),
        (InvalidOption, "memory: .*'hebb'", lambda: rv.Hopfield(memory="hebbian")),
        (InvalidOption, "ema: phase 'store' has no gradient steps", lambda: stored("hebb", X, ema=0.9)),
        (InvalidOption, "validation: phase 'store' has no loss", lambda: stored("hebb", X, validation=0.5)),
        (InvalidOption, "other shapes than this recipe's \\(memory\\)", lambda: rv.Hopfield(memory="storkey").fit(X, start=model)),
        (UnsupportedData, "missing cells, which hopfield does not take", lambda: stored("dense", np.where(np.eye(30, 5) > 0, np.nan, rows_for("dense")))),
        (UnsupportedData, "hopfield cannot learn from 'x' \\(number\\)", lambda: stored("hebb", rows_for("dense"))),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call()


def test_couplings_that_overflow_are_said():
    from reverie.probability.machines.couplings import Couplings

    network = Couplings(4, "storkey", 0.2)
    network.J.fill_(float("inf"))
    with pytest.raises(InvalidOption, match=r"memory='storkey': the couplings overflowed.*pseudo_inverse"):
        network.settle()
