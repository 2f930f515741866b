"""Memorisation, marginals, modes, intervals and floors."""

import math

import numpy as np
import pytest

from reverie.data.sources.toys import grid_centres, ring_centres
from reverie.errors import DataError
from reverie.metrics import (
    Column,
    association_error,
    association_pairs,
    associations,
    closest_pairs,
    count_modes,
    duplicate_rate,
    expected_high_quality,
    ks_statistic,
    marginal_distance,
    mean_error,
    median_error,
    nearer_to_train,
    real_floor,
    total_variation,
    verdict,
    wilson,
    z_score,
)


def test_nearer_to_train_is_calibrated():
    rng = np.random.default_rng(0)
    p, share, null = [], [], []
    for seed in range(120):
        train, held, fresh = (rng.normal(size=(40, 3)) for _ in range(3))
        got = nearer_to_train(fresh, train, held, permutations=99, seed=seed)
        p.append(got.p)
        share.append(got.share)
        null.append(got.null_sd)
    # Mean share 1/2 +- 4 errors; p uniform: share of p <= .2 is .2 +- 4 sqrt(.2 .8 / 120) = .146.
    assert np.mean(share) == pytest.approx(0.5, abs=4 * np.std(share) / math.sqrt(120))
    assert np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.146)
    # The permutation sd is the real one (120 values: 6.5 %, 3 of those), and exceeds the binomial .079.
    assert np.mean(null) == pytest.approx(np.std(share), rel=0.25)
    assert np.mean(null) > 0.5 / math.sqrt(40)


def test_nearer_to_train_sees_copies():
    rng = np.random.default_rng(1)
    train, held = rng.normal(size=(200, 10)), rng.normal(size=(200, 10))
    copies = nearer_to_train(train, train, held, permutations=199)
    assert copies.share == 1.0
    assert copies.p == 1 / 200
    assert nearer_to_train(held, train, held).share == 0.0
    some = np.concatenate([train[:60], rng.normal(size=(140, 10))])
    assert nearer_to_train(some, train, held).p < 0.01


def test_nearer_to_train_counts_ties_as_half():
    grid = np.array([[0.0], [1.0]])
    assert nearer_to_train(grid, grid, grid).share == 0.5
    # Halfway between a training and a held-out row is a tie as well.
    assert nearer_to_train([[0.5]], [[0.0]], [[1.0]]).share == 0.5
    with pytest.raises(DataError, match="equal size"):
        nearer_to_train(grid, grid, grid[:1])


def test_duplicates_and_pairs():
    train = np.array([[1.0, np.nan], [0.0, 2.0], [3.0, 4.0]])
    made = np.array([[1.0, np.nan], [-0.0, 2.0], [3.0, 4.1], [9.0, 9.0]])
    assert duplicate_rate(made, train) == 0.5
    assert duplicate_rate(np.array([[1, 2]], dtype=np.uint8), np.array([[1, 2], [2, 1]], dtype=np.uint8)) == 1.0
    pairs = closest_pairs([[0.0], [5.0], [10.2]], [[10.0], [1.0], [5.0]], count=2)
    assert pairs.generated.tolist() == [1, 2]
    assert pairs.train.tolist() == [2, 0]
    assert pairs.distance == pytest.approx([0, 0.2])


def test_ks_and_total_variation():
    assert ks_statistic([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert ks_statistic([1.0, 1.0, 2.0], [1.0, 2.0, 2.0]) == pytest.approx(1 / 3)
    # A quarter missing against none: the atom below all numbers.
    assert ks_statistic([np.nan, 1, 2, 3], [1, 2, 3, 1.0, 2, 3]) == pytest.approx(0.25)
    assert total_variation([0, 0, 1, 1], [0, 1, 2, 2], 3) == 0.5
    assert total_variation([-1, 0], [0, 0], 1) == 0.5
    assert marginal_distance(Column("a", np.array([0, 1]), 2), Column("a", np.array([1, 1]), 2)) == 0.5
    with pytest.raises(DataError):
        total_variation([3], [0], 3)


def test_associations():
    rng = np.random.default_rng(2)
    n = 4000
    z = rng.normal(size=(n, 2))
    x, y = z[:, 0], 0.6 * z[:, 0] + 0.8 * z[:, 1]
    code = (x > 0).astype(np.int64)
    noise = rng.integers(0, 3, n)
    holes = np.where(rng.random(n) < 0.2, np.nan, y)
    columns = [Column("x", x), Column("y", np.exp(y)), Column("c", code, 2), Column("n", noise, 3), Column("h", holes)]
    pairs = np.array([[0, 1], [2, 2], [2, 3], [0, 3], [0, 2], [0, 4]])
    got = associations(columns, pairs)
    # Spearman of a Gaussian pair is 6/pi asin(rho/2); error 1/sqrt(n) = .016, 3 of those.
    assert got[0] == pytest.approx(6 / math.pi * math.asin(0.3), abs=0.05)
    assert got[1] == pytest.approx(1.0, abs=1e-3)
    assert got[2] < 0.05  # bias-corrected: near 0 for independent columns
    assert got[3] < 0.05
    # Ranks of x are uniform; halves differ in mean by 1/2 of the range: eta^2 = (1/16) / (1/12) = 3/4.
    assert got[4] == pytest.approx(math.sqrt(0.75), abs=0.02)
    assert got[5] == pytest.approx(got[0], abs=0.03)
    assert association_error(columns, columns, pairs) == 0.0
    assert math.isnan(
        association_error([Column("k", np.ones(5))] * 2, [Column("k", np.ones(5))] * 2, np.array([[0, 1]]))
    )
    assert len(association_pairs(5)) == 10
    assert len(association_pairs(50, limit=30)) == 30
    shuffled = [columns[0], Column("y", rng.permutation(columns[1].values))]
    assert association_error(columns[:2], shuffled, np.array([[0, 1]])) == pytest.approx(got[0], abs=0.06)


def test_association_of_independent_categories_is_near_zero_at_small_n():
    rng = np.random.default_rng(6)
    pair = np.array([[0, 1]])
    values = []
    for _ in range(30):
        columns = [Column(name, rng.integers(0, 10, 200), 10) for name in "ab"]
        values.append(associations(columns, pair)[0])
    # Uncorrected V is sqrt(81 / 200 / 9) = .21 on average; corrected V^2 scatters around 0 with sd sqrt(162)/1800 = .007.
    assert np.mean(values) < 0.07


def test_modes():
    rng = np.random.default_rng(3)
    for centres, sd in ((ring_centres(), 0.01), (grid_centres(), 0.05)):
        mode = rng.integers(0, len(centres), 20_000)
        perfect = count_modes(centres[mode] + sd * rng.normal(size=(20_000, 2)), centres, sd)
        # sd of the share sqrt(.98889 .0111 / 20000) = 7e-4
        assert perfect.high_quality == pytest.approx(0.98889, abs=0.003)
        assert perfect.covered == perfect.hit == len(centres)
        assert perfect.tv < 0.03
    centres = ring_centres()
    poor = count_modes(np.concatenate([np.repeat(centres[:1], 93, axis=0), centres[1:]]), centres, 0.01)
    assert (poor.hit, poor.covered) == (8, 1)
    assert poor.tv == pytest.approx(0.93 - 1 / 8)


@pytest.mark.parametrize(("d", "expected"), [(1, 0.9973002), (2, 0.9888910), (3, 0.9707091), (4, 0.9389005)])
def test_expected_high_quality(d, expected):
    assert expected_high_quality(3.0, d) == pytest.approx(expected, abs=1e-7)


def test_intervals():
    low, high = wilson(850, 1000)
    assert ((low + high) / 2, (high - low) / 2) == pytest.approx((0.849, 0.022), abs=5e-4)
    low, high = wilson(0, 1000)
    assert low == 0.0
    assert high == pytest.approx(0.0038, abs=1e-4)
    got = mean_error([1.0, 2.0, 3.0])
    assert (got.value, got.standard_error) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert mean_error([0.0, -np.inf]).value == -math.inf
    # Median of a normal sample: error 1.2533 / sqrt(n).
    assert median_error(np.random.default_rng(4).normal(size=2000)).standard_error == pytest.approx(0.028, rel=0.3)
    with pytest.raises(DataError):
        wilson(3, 2)


def test_floor():
    x = np.random.default_rng(5).normal(size=400)
    calls = []

    def gap(a, b):
        calls.append((a, b))
        assert len(a) == len(b) == 100
        assert not set(a) & set(b)
        return {"gap": x[a].mean() - x[b].mean(), "bad": math.nan}

    floors = real_floor(gap, 400, 100, repeats=50)
    assert len(calls) == 50
    # sd of a difference of two means of 100: sqrt(2/100) = .141; 50 values give it to 10 %.
    assert floors["gap"].sd == pytest.approx(0.141, rel=0.35)
    assert abs(floors["gap"].mean) < 0.1
    assert math.isnan(floors["bad"].mean)
    with pytest.raises(DataError, match="needs 402 real rows"):
        real_floor(gap, 400, 201)


@pytest.mark.parametrize(
    ("value", "floor", "sd", "direction", "n", "words"),
    [
        (1.1, 1.0, 0.1, "down", 500, "indistinguishable at this n"),
        (3.0, 1.0, 0.1, "down", 500, "3.0x the floor"),
        (0.4, 0.8, 0.1, "up", 500, "50% of the floor"),
        (0.9, 0.8, 0.1, "up", 500, "indistinguishable at this n"),
        (0.5, 0.0, 0.1, "down", 500, "5 sd above the floor"),
        (0.1, 1.0, 0.1, "down", 500, "closer than real data: check for copies"),
        (1.5, 0.8, 0.1, "up", 500, "above real data"),
        (3.0, 1.0, 0.1, "down", 20, "n too small to rank"),
        (math.nan, 1.0, 0.1, "down", 500, "no verdict"),
    ],
)
def test_verdict(value, floor, sd, direction, n, words):
    assert verdict(value, floor, sd, direction, n) == words


def test_z_score():
    assert z_score(1.0, 0.5, 0.25, "down") == 2.0
    assert z_score(1.0, 0.5, 0.25, "up") == -2.0
    assert z_score(0.0, 0.0, 0.0, "down") == 0.0
    assert z_score(0.1, 0.0, 0.0, "down") == math.inf
