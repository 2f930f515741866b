"""Frechet, kernel, sliced and neighbour measures against closed forms."""

import math

import numpy as np
import pytest
import torch

from reverie.errors import DataError
from reverie.metrics import arrays as arrays_module
from reverie.metrics import (
    cubic_kernel,
    expected_coverage,
    frechet_distance,
    frechet_floor,
    frechet_from_moments,
    gaussian_kernel,
    kid,
    mmd2,
    moments,
    nearest,
    neighbourhood,
    sliced_wasserstein,
)
from reverie.metrics.kernel import _within


def test_frechet_closed_form():
    shift, zero = np.array([1.0, 2.0]), np.zeros(2)
    # sum over axes of (sd1 - sd2)^2 + |mu|^2 = (1-3)^2 + (2-1)^2 + 5
    assert frechet_from_moments(zero, np.diag([1.0, 4.0]), shift, np.diag([9.0, 1.0])) == pytest.approx(10, abs=1e-12)
    cov = np.array([[2.0, 0.7], [0.7, 1.0]])
    assert frechet_from_moments(zero, cov, shift, cov) == pytest.approx(5, abs=1e-12)


def test_frechet_of_a_set_with_itself_is_zero_even_for_fewer_rows_than_features():
    rng = np.random.default_rng(0)
    for n, d in ((200, 8), (20, 64), (3, 100)):
        x = rng.normal(size=(n, d)) + 1e3
        assert frechet_distance(x, x) < 1e-10 * d
    # A pure shift of a rank-deficient set: covariances are equal, so the distance is |mu|^2.
    x = rng.normal(size=(10, 40))
    assert frechet_distance(x, x + 0.5) == pytest.approx(40 * 0.25, rel=1e-9)


def test_frechet_of_sets_in_orthogonal_subspaces():
    rng = np.random.default_rng(12)
    x, y = np.zeros((30, 40)), np.zeros((30, 40))
    x[:, :20], y[:, 20:] = rng.normal(size=(30, 20)), rng.normal(size=(30, 20))
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]  # no axis-aligned zeros: they would hide rounding noise
    x, y = x @ turn, y @ turn
    # S1 S2 = 0: nothing of the covariances cancels. Roots of rounding noise would add some 1e-7.
    expected = x.var(axis=0, ddof=1).sum() + y.var(axis=0, ddof=1).sum() + ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, abs=1e-10)


def test_moments():
    x = np.random.default_rng(13).normal(size=(50, 3))
    mean, cov = moments(x)
    assert mean == pytest.approx(x.mean(axis=0))
    assert cov == pytest.approx(np.cov(x, rowvar=False))


def test_frechet_survives_a_large_offset_and_accepts_torch():
    x = np.random.default_rng(1).normal(size=(300, 5))
    y = np.random.default_rng(2).normal(size=(400, 5))
    plain = frechet_distance(x, y)
    # Offset 1e6: float64 keeps 1e-10 of the unit scale, second moments about the mean lose nothing more.
    assert frechet_distance(x + 1e6, y + 1e6) == pytest.approx(plain, rel=1e-6)
    assert frechet_distance(torch.from_numpy(x), torch.from_numpy(y)) == plain


@pytest.mark.parametrize(("d", "n", "expected"), [(16, 500, 0.336), (64, 1000, 2.208), (256, 2000, 16.704)])
def test_frechet_floor_identity(d, n, expected):
    assert frechet_floor(np.eye(d), n, n) == pytest.approx(expected, abs=5e-4)
    assert frechet_floor(np.eye(d), n, n) == pytest.approx(2 / n * d * (d + 5) / 4)


def test_frechet_floor_power_law_and_simulation():
    assert frechet_floor(np.diag(1 / np.arange(1.0, 65.0)), 2000, 2000) == pytest.approx(0.0480, abs=1e-4)
    rng = np.random.default_rng(3)
    values = [frechet_distance(rng.normal(size=(500, 16)), rng.normal(size=(500, 16))) for _ in range(30)]
    # sd of one value .026, so of the mean of 30 .005; the next order in 1/n adds about 3 %.
    assert np.mean(values) == pytest.approx(frechet_floor(np.eye(16), 500, 500), abs=0.025)


def cubic_population(d, m):
    return 3 * m / d + 3 * m**2 / d**2 + (m**3 + 6 * m**2 + (3 * d + 6) * m) / d**3


@pytest.mark.parametrize(("d", "shift", "expected"), [(8, 0.5, 1.11719), (32, 0.25, 0.20642), (4, 1.0, 9.625)])
def test_kid_population_value(d, shift, expected):
    assert cubic_population(d, d * shift**2) == pytest.approx(expected, abs=1e-5)
    rng = np.random.default_rng(4)
    runs = [kid(rng.normal(size=(400, d)), rng.normal(size=(300, d)) + shift) for _ in range(40)]
    values = np.array([run.value for run in runs])
    errors = np.array([run.standard_error for run in runs])
    # Unbiased: the mean of 40 runs lies within 4 standard errors of the population value.
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / math.sqrt(40)
    # The sd of 40 values has a relative error of 1/sqrt(80) = 11 %; 3 of those on either side.
    assert 0.7 < values.std(ddof=1) / np.sqrt((errors**2).mean()) < 1.4


def test_kid_is_centred_on_zero_with_a_right_error_for_equal_distributions():
    rng = np.random.default_rng(5)
    runs = [kid(rng.normal(size=(100, 6)), rng.normal(size=(140, 6))) for _ in range(400)]
    values = np.array([run.value for run in runs])
    errors = np.array([run.standard_error for run in runs])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / math.sqrt(400)
    assert (values < 0).any()  # a biased estimate never is
    # 400 values give the sd to 3.5 % (5 % as the law is skewed), 3 of those; plain errors fail in this degenerate case.
    assert 0.85 < values.std(ddof=1) / np.sqrt((errors**2).mean()) < 1.15


def test_the_spread_of_a_kernel_is_split_into_that_of_its_rows_and_the_rest():
    """Over pairs, Var k = 2 Var h + s; the sample variance of row means over n - 1 partners is Var h + s / (n - 1)."""
    x = np.random.default_rng(0).normal(size=(7, 2))
    pairs = np.array([[cubic_kernel(a[None], b[None])[0, 0] for b in x] for a in x])
    off = ~np.eye(7, dtype=bool)
    mean, rows, rest = _within(x, cubic_kernel)
    assert mean == pytest.approx(pairs[off].mean())
    np.testing.assert_allclose(rows, [pairs[i][off[i]].mean() for i in range(7)])
    assert rest > 0
    assert 2 * (rows.var(ddof=1) - rest / 6) + rest == pytest.approx(pairs[off].var())


def test_mmd_by_hand_and_with_the_gaussian_kernel():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(7, 3))
    kxx, kyy, kxy = (np.array([[(a @ b / 3 + 1) ** 3 for b in v] for a in u]) for u, v in ((x, x), (y, y), (x, y)))
    by_hand = (kxx.sum() - np.trace(kxx)) / (9 * 8) + (kyy.sum() - np.trace(kyy)) / (7 * 6) - 2 * kxy.mean()
    assert mmd2(x, y, cubic_kernel).value == pytest.approx(by_hand, rel=1e-12)
    s2, d, m = 5.0, 5, 5 * 0.25
    expected = 2 * (s2 / (s2 + 2)) ** (d / 2) * (1 - math.exp(-m / (2 * (s2 + 2))))
    assert expected == pytest.approx(0.07366, abs=1e-5)
    a, b = rng.normal(size=(1500, 5)), rng.normal(size=(1500, 5)) + 0.5
    got = mmd2(a, b, gaussian_kernel(math.sqrt(s2)))
    assert abs(got.value - expected) < 4 * got.standard_error
    assert got.standard_error < 0.005


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(83, 4)), rng.normal(size=(61, 4)) + 0.3
    whole = kid(x, y), neighbourhood(x, y), nearest(x, y, 3)[1].tolist()
    monkeypatch.setattr(arrays_module, "_BLOCK_CELLS", 500)
    assert kid(x, y).value == pytest.approx(whole[0].value, rel=1e-12)
    assert kid(x, y).standard_error == pytest.approx(whole[0].standard_error, rel=1e-9)
    assert neighbourhood(x, y) == whole[1]
    assert nearest(x, y, 3)[1].tolist() == whole[2]


def test_sliced_wasserstein():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(500, 6))
    mu = np.array([1.0, 0, 0, 2, 0, 0])
    # E (u.mu)^2 = |mu|^2 / d; its sd over directions is below |mu|^2 sqrt(2/d)/sqrt(d)..., 1 % at 20000 directions.
    value = sliced_wasserstein(x, x + mu, projections=20_000) ** 2
    assert value == pytest.approx(5 / 6, rel=0.03)
    # One dimension, unequal sizes: quantiles {0, 1} against {0, 0, 3}; pieces 1/3, 1/6, 1/6, 1/3 with gaps 0, 0, 1, 2.
    assert sliced_wasserstein([0.0, 1.0], [0.0, 0.0, 3.0]) == pytest.approx(math.sqrt(1.5))
    assert sliced_wasserstein(x[:, :1], np.repeat(x[:, :1], 3, axis=0)) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(x[:100], x[100:350]) == sliced_wasserstein(x[:100], x[100:350])


def test_neighbourhood_by_hand():
    got = neighbourhood([0.0, 1.0, 2.0, 10.0], [0.5, 1.5, 9.0, 30.0], k=1)
    assert (got.precision, got.recall, got.density, got.coverage) == (0.75, 1.0, 1.25, 1.0)
    constant = neighbourhood(np.ones((20, 3)) * 0.1, np.ones((20, 3)) * 0.1)
    assert (constant.precision, constant.recall, constant.coverage) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("n", "m", "k", "expected"),
    [(300, 300, 5, 0.96953), (300, 900, 5, 0.99906), (300, 300, 3, 0.87625), (50, 50, 1, 0.50505)],
)
def test_coverage_null(n, m, k, expected):
    assert expected_coverage(n, m, k) == pytest.approx(expected, abs=1e-5)


def test_coverage_and_density_of_a_perfect_sampler():
    rng = np.random.default_rng(9)
    runs = [neighbourhood(rng.normal(size=(150, 3)), rng.normal(size=(150, 3)), k=3) for _ in range(40)]
    coverage, density = ([getattr(run, name) for run in runs] for name in ("coverage", "density"))
    assert np.mean(coverage) == pytest.approx(expected_coverage(150, 150, 3), abs=4 * np.std(coverage) / math.sqrt(40))
    assert np.mean(density) == pytest.approx(1.0, abs=4 * np.std(density) / math.sqrt(40))


def test_neighbourhood_sees_a_dropped_mode_and_noise():
    rng = np.random.default_rng(10)
    real = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 50])
    half = neighbourhood(real, rng.normal(size=(400, 2)))
    assert half.precision > 0.9
    assert half.recall < 0.55
    assert half.coverage < 0.55
    wide = neighbourhood(real, rng.uniform(-200, 200, size=(400, 2)))
    assert wide.precision < 0.1
    assert wide.density < 0.1


def test_nearest_is_exact_and_leaves_itself_out():
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(40, 5)) + 100, rng.normal(size=(60, 5)) + 100
    y[17] = x[3]
    distance, index = nearest(x, y, 2)
    full = np.sqrt(((x[:, None] - y[None]) ** 2).sum(2))
    assert (distance[:, 0] == full.min(1)).all()
    assert distance[3, 0] == 0
    assert index[3, 0] == 17
    assert (nearest(x, x, 1, same=True)[1][:, 0] != np.arange(40)).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: kid(np.ones((9, 2)), np.ones((9, 3))),
        lambda: kid(np.array([[np.nan], [1.0], [1], [1]]), np.ones((9, 1))),
        lambda: neighbourhood(np.ones((5, 2)), np.ones((9, 2)), k=5),
        lambda: nearest(np.ones((5, 2)), np.ones((2, 2)), 3),
        lambda: frechet_distance(np.ones((1, 2)), np.ones((4, 2))),
        lambda: sliced_wasserstein(np.zeros((0, 2)), np.ones((4, 2))),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(DataError):
        call()
