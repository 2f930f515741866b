"""Column steps: what a column is taken for, decode(prepare(v)) == v, and log-determinants against numerical derivatives."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from reverie.data.codec.steps.grids import Grid
from reverie.data.codec.steps.levels import Bit, Constant, Count, OneHot
from reverie.data.codec.steps.nested import Atoms, Flagged, step_from_json
from reverie.data.codec.steps.profiles import Profile, decimals, profile
from reverie.data.codec.steps.step import Affine, ColumnStep, Quantile

RNG = np.random.default_rng(0)
NORMALS = RNG.normal(size=500)


# ---------------------------------------------------------------------- profile


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (NORMALS, "continuous"),
        (NORMALS * 1e9 + 1e12, "continuous"),
        (NORMALS.astype(np.float32).astype(float), "continuous"),
        (RNG.permutation(1000).astype(float), "continuous"),  # whole but unique: no ties, so a density is safe
        (RNG.integers(0, 30, 500).astype(float), "grid"),
        (RNG.integers(0, 30, 500) * 0.1, "grid"),
        ((RNG.integers(0, 30, 500) * 0.1).astype(np.float32).astype(float), "grid"),
        (np.round(NORMALS, 2), "grid"),
        (20 + np.round(NORMALS, 1).astype(np.float32).astype(float), "grid"),
        (RNG.integers(0, 300, 500) * 0.25 + 17.125, "grid"),
        (RNG.integers(0, 30, 500) / 7, "grid"),
        (RNG.choice([0.0, 1.0, math.e, math.pi], 500), "levels"),
        (RNG.choice(NORMALS[:100], 500), "levels"),
        (2.0 ** RNG.integers(0, 40, 500), "levels"),  # multiples of 1, but more steps than can be told apart
        (np.where(RNG.random(500) < 0.4, 0.0, NORMALS), "atoms"),
        (np.clip(NORMALS, -1, 1), "atoms"),
        (np.clip(NORMALS, -1, 1).astype(np.float32).astype(float), "atoms"),
        (np.full(50, 3.25), "constant"),
        (np.array([5.0]), "constant"),
        (np.array([1.0, 2.0]), "continuous"),
    ],
)
def test_profile(values, kind):
    assert profile(values).kind == kind


def test_profile_details():
    found = profile(RNG.integers(3, 33, 2000) * 0.1)
    assert found.step == pytest.approx(0.1, rel=1e-6)
    assert found.low == pytest.approx(0.3)
    assert profile(RNG.choice([0.0, 0.5, 0.75, 1.5], 100)).step == pytest.approx(0.25)  # the step is no observed gap
    assert profile(np.array([4.0, 4.0, 9.0]), integer=True) == Profile("grid", 4.0, 1.0)
    assert profile(np.clip(NORMALS, -1, 1)).values == (-1.0, 1.0)
    assert len(profile(RNG.choice([0.0, 1.0, math.e], 90)).values) == 3
    # Ties are measurement as long as later values are likely to be new ones; a few values over and over are a pattern.
    assert profile(np.concatenate([NORMALS, NORMALS[:200]])).kind == "continuous"
    assert profile(np.concatenate([NORMALS, *[NORMALS[:480]] * 2])).kind == "levels"


def test_a_grid_far_from_zero_in_float32_is_not_a_made_up_one():
    """Near 1e7 float32 has steps of 1: those are rounding, and a step much finer than rounding must not be invented."""
    values = (1e7 + RNG.integers(0, 50, 500) * 0.1).astype(np.float32).astype(float)
    found = profile(values)
    assert found.kind in ("grid", "levels")
    assert found.kind == "levels" or found.step >= 0.5


# ---------------------------------------------------------------------- the maps

LEVELS = np.array([0.0, 1.0, math.e, 10.0])
STEPS: dict[str, tuple[ColumnStep, np.ndarray]] = {
    "affine": (Affine(1e6, 0.1), 1e6 + 0.1 * NORMALS),
    "quantile": (Quantile.fit(np.exp(2 * NORMALS)), np.exp(2 * NORMALS[:50])),
    "quantile beyond": (Quantile.fit(NORMALS), np.array([-50.0, -4.0, 4.0, 80.0])),
    "grid native": (Grid(-3.0, 1.0, 4.0, 2.5, "native"), np.arange(-3.0, 30)),
    "grid dequantise": (Grid(0.3, 0.1, 7.0, 3.0, "dequantise"), 0.3 + 0.1 * np.arange(40)),
    "grid round": (Grid(0.0, 0.25, 3.0, 2.0, "round", bounds=(0.0, 9.0)), 0.25 * np.arange(10)),
    "levels": (Grid(0.0, 1.0, 1.5, 1.1, "native", LEVELS, (0.0, 3.0)), LEVELS),
    "levels dequantise": (Grid(0.0, 1.0, 1.5, 1.1, "dequantise", LEVELS, (0.0, 3.0)), LEVELS),
    "one-hot": (OneHot(4), np.arange(4.0)),
    "bit": (Bit(), np.array([0.0, 1.0])),
    "atoms": (Atoms(np.array([-1.0, 1.0]), Affine(0.0, 0.5)), np.array([-1.0, 1.0, 0.3, -0.999, 7.0])),
    "atoms of quantiles": (Atoms(np.array([0.0]), Quantile.fit(NORMALS)), np.array([0.0, 0.5, -0.2])),
    "constant": (Constant(7.5), np.array([7.5, 7.5])),
    "flagged": (Flagged(Affine(2.0, 3.0)), np.array([np.nan, 1.0, -4.0])),
    "flagged one-hot": (Flagged(OneHot(3)), np.array([np.nan, 2.0, 0.0])),
}


@pytest.mark.parametrize("name", STEPS)
def test_decode_inverts_prepare(name):
    step, values = STEPS[name]
    x, seen = step.prepare(values)
    assert x.shape == seen.shape == (len(values), step.width)
    assert x.dtype == np.float64
    assert seen.dtype == bool
    assert np.isfinite(x).all()
    scale = np.nanmax(np.abs(values))
    np.testing.assert_allclose(step.decode(x), values, rtol=1e-9, atol=1e-12 * scale)
    blocks = step.blocks("c")
    assert sum(block.width for block in blocks) == step.width
    # The maps are the same after JSON.
    again = step_from_json(json.loads(json.dumps(step.to_json())))
    np.testing.assert_array_equal(again.prepare(values)[0], x)
    np.testing.assert_array_equal(again.log_det(values), step.log_det(values))
    assert again.measure == step.measure


@pytest.mark.parametrize("name", [name for name in STEPS if not name.startswith("flagged")])
def test_missing_cells_are_unobserved_zeros_without_log_det(name):
    step, values = STEPS[name]
    with_hole = np.concatenate([[np.nan], values])
    x, seen = step.prepare(with_hole)
    assert not seen[0].any()
    assert (x[0] == 0).all()
    assert step.log_det(with_hole)[0] == 0
    np.testing.assert_array_equal(x[1:], step.prepare(values)[0])


@pytest.mark.parametrize("name", ["affine", "quantile", "quantile beyond"])
def test_log_det_is_the_derivative(name):
    step, values = STEPS[name]
    h = 1e-6 * np.maximum(np.abs(values - np.mean(values)), 0.01) if name != "affine" else np.full(len(values), 0.01)
    if isinstance(step, Quantile):  # piecewise linear: stay off the knots
        gap = np.abs(values[:, None] - step.knots).min(1)
        values, h = values[gap > 4 * h], h[gap > 4 * h]
    slope = (step.prepare(values + h)[0][:, 0] - step.prepare(values - h)[0][:, 0]) / (2 * h)
    np.testing.assert_allclose(step.log_det(values), np.log(slope), atol=2e-4)


def test_log_det_of_atoms_is_that_of_the_rest():
    step = Atoms(np.array([0.0]), Affine(1.0, 4.0))
    np.testing.assert_allclose(step.log_det(np.array([0.0, 2.0, np.nan])), [0.0, -math.log(4.0), 0.0])
    x, seen = step.prepare(np.array([0.0, 2.0]))
    assert seen.tolist() == [[True, True, False], [True, True, True]]  # an atom's continuous part is not observed
    assert x.tolist() == [[1, 0, 0], [0, 1, 0.25]]


def test_quantiles_are_normal_scores_and_increase():
    values = np.exp(3 * RNG.normal(size=5000))
    step = Quantile.fit(values)
    x = step.prepare(values)[0][:, 0]
    # normal scores of 5000 values: mean and sd of a standard normal but for the 256 knots' coarseness
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.05
    order = np.sort(values)
    assert (np.diff(step.prepare(order)[0][:, 0]) >= 0).all()
    z = np.linspace(-6, 6, 1001)[:, None]
    assert (np.diff(step.decode(z)) > 0).all()


def test_off_the_grid_is_unexpected_and_the_less_likely_the_further_away():
    """One in rows + 2 for a value between others; less beyond the ends of what has ends."""
    rare = -math.log(102)
    grid = dataclasses.replace(STEPS["grid native"][0], rows=100)
    np.testing.assert_allclose(grid.log_det(np.array([2.0, 2.5, np.nan])), [0.0, rare, 0.0])
    levels = dataclasses.replace(STEPS["levels"][0], rows=100)
    near, far, further = levels.log_det(np.array([2.7, 11.0, 1e300]))
    assert levels.log_det(np.array([math.e]))[0] == 0
    assert near == pytest.approx(rare)
    assert near > far > further > -2000
    bit = Bit(100).log_det(np.array([0.0, 1.0, 0.5, 2.0, -9.0]))
    np.testing.assert_allclose(bit, [0, 0, rare, rare - 2 * math.log(2), rare - 2 * math.log(10)])
    assert Constant(7.5, 100).log_det(np.array([7.5]))[0] == 0
    assert (
        rare > Constant(7.5, 100).log_det(np.array([7.4]))[0] > Constant(7.5, 100).log_det(np.array([-1e9]))[0] > -2000
    )
    count = Count(100).log_det(np.array([0.0, 3.0, 2.5, -4.0]))
    np.testing.assert_allclose(count, [0, 0, rare, rare - 2 * math.log(5)])


def test_dequantised_cells_tile_the_line():
    """x = (k + u - 1/2 - mean) / sd: the noise is as wide as the spacing, and log cell width is the log-determinant."""
    step = STEPS["grid dequantise"][0]
    x = step.prepare(STEPS["grid dequantise"][1])[0][:, 0]
    np.testing.assert_allclose(np.diff(x), step.dequantise_step)
    np.testing.assert_allclose(step.log_det(np.array([0.5])), math.log(step.dequantise_step))
    for u in (1e-6, 0.499, 0.999):
        noised = x + (u - 0.5) * step.dequantise_step
        np.testing.assert_allclose(step.decode(noised[:, None]), STEPS["grid dequantise"][1])


def test_decoding_what_a_network_may_say():
    assert STEPS["grid round"][0].decode(np.array([[-99.0], [99.0], [0.05]])).tolist() == [0.0, 2.25, 0.75]
    assert STEPS["levels"][0].decode(np.array([[-99.0], [99.0]])).tolist() == [0.0, 10.0]
    assert OneHot(3).decode(np.array([[0.2, 0.5, 0.3]])).tolist() == [1.0]
    assert Bit().decode(np.array([[0.49], [0.51]])).tolist() == [0.0, 1.0]
    flagged = Flagged(Affine(2.0, 3.0))
    np.testing.assert_array_equal(flagged.decode(np.array([[0.6, 1.0], [0.4, 1.0]])), [np.nan, 5.0])


def test_unknown_step():
    with pytest.raises(ValueError, match="unknown column step 'spline'"):
        step_from_json({"kind": "spline"})


@pytest.mark.parametrize(("step", "digits"), [(0.1, 1), (1.0, 0), (0.0025, 4), (1 / 15, None), (1 / 3, None)])
def test_decimals_are_found_where_there_are_some(step, digits):
    """Tenths through float32 too; fifteenths have none, and must not come back rounded to seven digits."""
    assert decimals(0.0, step) == digits
    assert decimals(0.0, float(np.float32(step))) == digits
    values = np.arange(16) * step
    whole = step_from_json(Grid(0.0, step, 4.0, 3.0, "round", bounds=(0.0, 15.0), decimals=digits).to_json())
    np.testing.assert_allclose(whole.decode(whole.prepare(values)[0]), values, rtol=0, atol=1e-14)
