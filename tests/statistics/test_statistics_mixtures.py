"""Draws of every set of distributions follow it, whole and given some cells, at 4 standard errors per figure.

With a few hundred figures at 4 standard errors one test in a hundred would fail for some seed; the seeds are fixed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from components import (
    CASES,
    CORRELATED,
    SIZE,
    bernoulli_case,
    categorical_case,
    conditional,
    covariance_of,
    gaussian_case,
    grid_case,
    grouped_case,
    poisson_case,
    student_case,
    symbol_case,
)
from reverie.models.classical.mixture import TableMixture
from reverie.rng import RowNoise

N = 20_000


def draws(members: Any, k: int, n: int = N, seed: int = 0) -> np.ndarray:
    return members.draw(torch.full((n,), k), RowNoise(seed, n, dtype=torch.float64)).numpy()


def check_moments(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> None:
    """Mean and covariance; the error of a covariance through the draws' own fourth moments."""
    n = len(x)
    assert (np.abs(x.mean(0) - mean) < 4 * np.sqrt(np.diag(cov) / n)).all()
    centred = x - mean
    products = centred[:, :, None] * centred[:, None, :]
    assert (np.abs(products.mean(0) - cov) < 4 * products.std(0) / math.sqrt(n)).all()


def check_shares(x: np.ndarray, p: np.ndarray) -> None:
    """Column means of 0/1 draws."""
    assert (np.abs(x.mean(0) - p) < 4 * np.sqrt(p * (1 - p) / len(x)) + 1e-12).all()


@pytest.mark.parametrize("shape", ["full", "tied", "diag", "spherical", "low-rank", "student"])
@pytest.mark.parametrize("k", range(SIZE))
def test_gaussian_draws(shape, k):
    members: Any = (student_case() if shape == "student" else gaussian_case(shape)).members
    cov = covariance_of(members, k)
    if shape == "student":
        nu = float(members.degrees[k])
        cov = cov * nu / (nu - 2)
    check_moments(draws(members, k), members.mean[k].numpy(), cov)


@pytest.mark.parametrize("nu", [0.6, 1.0, 3.0, 50.0])
def test_student_draws_have_their_tails(nu):
    """The share of draws beyond quantiles of the t distribution, moments or none."""
    from scipy import stats

    members: Any = student_case(1).members
    members.degrees.fill_(nu)
    x = draws(members, 1)[:, 0]
    z = (x - float(members.mean[1, 0])) / float(members.covariance[1, 0, 0].sqrt())
    for p in (0.001, 0.05, 0.3, 0.5, 0.9, 0.999):
        assert abs((z < stats.t(nu).ppf(p)).mean() - p) < 4 * math.sqrt(p * (1 - p) / N)


@pytest.mark.parametrize("k", range(SIZE))
def test_discrete_draws(k):
    members: Any = bernoulli_case().members
    check_shares(draws(members, k), members.probability[k].numpy())
    members = categorical_case().members
    x = draws(members, k)
    assert (x[:, :3].sum(1) == 1).all()
    assert (x[:, 3:].sum(1) == 1).all()
    check_shares(x, members.probability[k].numpy())
    members = symbol_case().members
    check_shares(np.eye(5)[draws(members, k)[:, 0].astype(int)], members.probability[k].numpy())


@pytest.mark.parametrize("rate", [0.01, 3.0, 80.0, 900.0, 20_000.0])
def test_poisson_draws(rate):
    """Mean and variance are the rate; a fourth moment of 3 r^2 + r. Large rates go by a normal's quantiles."""
    members: Any = poisson_case().members
    members.rate[1] = torch.tensor([rate, 2 * rate])
    x = draws(members, 1)
    assert (x == np.round(x)).all()
    assert (x >= 0).all()
    for column, r in zip(x.T, (rate, 2 * rate), strict=True):
        assert abs(column.mean() - r) < 4 * math.sqrt(r / N)
        assert abs(column.var() - r) < 4 * math.sqrt((2 * r * r + r) / N)
    from scipy import stats

    for p in (0.02, 0.5, 0.97):
        at = stats.poisson(rate).ppf(p)
        share = stats.poisson(rate).cdf(at)
        assert abs((x[:, 0] <= at).mean() - share) < 4 * math.sqrt(share * (1 - share) / N) + 1e-3 * (rate > 500)


@pytest.mark.parametrize("k", range(SIZE))
def test_grid_draws_round_to_the_grids_probabilities(k):
    """The codec rounds; draws beyond an end stand at it."""
    members: Any = grid_case().members
    step = np.array([block.step[0] for block in members.blocks])
    x = np.round(draws(members, k) / step) * step
    for j, points in enumerate((np.arange(-8, 8.5, 0.5), np.arange(0, 12.0), np.arange(-1, 1.75, 0.25))):
        rows = torch.zeros(len(points), 3, dtype=torch.float64)
        rows[:, j] = torch.from_numpy(points)
        only = torch.zeros(len(points), 3, dtype=torch.bool)
        only[:, j] = True
        p = members.log_prob(rows, only).exp()[:, k].numpy()
        check_shares((x[:, j, None] == points).astype(float), p)


def test_mixed_and_grouped_draws():
    case = CASES["mixed"]()
    members: Any = case.members
    for k in range(SIZE):
        x = draws(members, k)
        assert (np.abs(x.mean(0) - members.means()[k].numpy()) < 4 * x.std(0) / math.sqrt(N)).all()
    grouped: Any = grouped_case().members
    for k in range(SIZE):
        x = draws(grouped, k)
        w, mu = grouped.weight[k].numpy(), grouped.inner.mean[2 * k : 2 * k + 2].numpy()
        mean = w @ mu
        inner = [covariance_of(grouped.inner, 2 * k + m) + np.outer(mu[m], mu[m]) for m in range(2)]
        check_moments(x, mean, w[0] * inner[0] + w[1] * inner[1] - np.outer(mean, mean))
        np.testing.assert_allclose(grouped.means()[k], mean, atol=1e-12)


def test_members_are_drawn_as_asked():
    """One call with all members mixed up gives each its own law."""
    members: Any = gaussian_case("full").members
    k = torch.arange(N) % SIZE
    x = members.draw(k, RowNoise(3, N, dtype=torch.float64)).numpy()
    for member in range(SIZE):
        check_moments(x[k.numpy() == member], members.mean[member].numpy(), covariance_of(members, member))


# ---------------------------------------------------------------------- given some cells


def given(members: Any, row: np.ndarray, seen: np.ndarray, k: int, seed: int = 2) -> np.ndarray:
    """N completions of one row by one member, the missing cells alone; the others must come back as they were."""
    x = torch.from_numpy(np.where(seen, row, np.nan)).expand(N, -1)
    mask = torch.from_numpy(seen).expand(N, -1)
    filled = members.draw_given(x, mask, torch.full((N,), k), RowNoise(seed, N, dtype=torch.float64)).numpy()
    np.testing.assert_array_equal(filled[:, seen], np.broadcast_to(row[seen], (N, seen.sum())))
    return filled[:, ~seen]


MASKS = [np.array([True, False, True, False]), np.array([False, False, True, False]), np.zeros(4, bool)]


@pytest.mark.parametrize("shape", ["full", "tied", "diag", "spherical", "low-rank", "student"])
@pytest.mark.parametrize("mask", range(3))
def test_completions_by_one_member(shape, mask):
    """Conditional normals; for Student's t with nu + |o| degrees and a scale that grows with the distance observed."""
    case = student_case(4) if shape == "student" else gaussian_case(shape, 4)
    members: Any = case.members
    seen, k = MASKS[mask], 2
    row = case.rows(5).numpy()[4]
    mu, cov = members.mean[k].numpy(), covariance_of(members, k)
    mean, spread = conditional(mu, cov, row, seen)
    if shape == "student":
        nu, e = float(members.degrees[k]), row[seen] - mu[seen]
        distance = e @ np.linalg.inv(cov[np.ix_(seen, seen)]) @ e if seen.any() else 0.0
        degrees = nu + seen.sum()
        spread = spread * (nu + distance) / degrees * degrees / (degrees - 2)
    check_moments(given(members, row, seen, k), mean, spread)


@pytest.mark.parametrize("shape", CORRELATED)
def test_completions_with_many_patterns_at_once(shape):
    """Each row has its own pattern and member: standardised by their conditional law, the missing cells are standard
    normal."""
    case = gaussian_case(shape, 4)
    members: Any = case.members
    n = 1500
    x, seen = case.rows(n, seed=3), case.mask(n)
    k = torch.arange(n) % SIZE
    filled = members.draw_given(x, seen, k, RowNoise(0, n, dtype=torch.float64)).numpy()
    found = []
    for row in range(n):
        own = seen[row].numpy()
        if own.all():
            continue
        member = int(k[row])
        mean, cov = conditional(members.mean[member].numpy(), covariance_of(members, member), x[row].numpy(), own)
        found += list(np.linalg.solve(np.linalg.cholesky(cov), filled[row, ~own] - mean))
    z = np.array(found)
    assert len(z) > 1500
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / len(z))


def test_completions_of_a_grouped_member_choose_its_part():
    """p(part | x_o) first, then the part's conditional: mean and covariance of that two-part mixture."""
    members: Any = grouped_case().members
    k, row, seen = 1, np.array([0.7, 0.0]), np.array([True, False])
    laws = [
        conditional(members.inner.mean[2 * k + m].numpy(), covariance_of(members.inner, 2 * k + m), row, seen)
        for m in range(2)
    ]
    joint = members._joint(torch.from_numpy(row[None]), torch.from_numpy(seen[None]))[0, k]
    w = torch.softmax(joint, 0).numpy()
    mean = w[0] * laws[0][0] + w[1] * laws[1][0]
    second = sum(w[m] * (laws[m][1] + np.outer(laws[m][0], laws[m][0])) for m in range(2))
    check_moments(given(members, row, seen, k), mean, second - np.outer(mean, mean))
    r = torch.nn.functional.one_hot(torch.tensor([k]), SIZE).double()
    found = members.mean_given(torch.from_numpy(row[None]), torch.from_numpy(seen[None]), r)
    np.testing.assert_allclose(found[0, 1], mean[0], atol=1e-8)


def test_completions_of_independent_columns():
    """What is missing of bits, categories and symbols comes from the member, whatever is seen."""
    members: Any = bernoulli_case().members
    seen = np.array([True, False, False])
    check_shares(given(members, np.array([1.0, 0, 0]), seen, 1), members.probability[1].numpy()[1:])
    members = categorical_case().members
    seen = np.array([True, True, True, False, False])
    check_shares(given(members, np.array([0, 1.0, 0, 0, 0]), seen, 2), members.probability[2].numpy()[3:])
    members = symbol_case().members
    found = given(members, np.array([0.0]), np.array([False]), 0)
    check_shares(np.eye(5)[found[:, 0].astype(int)], members.probability[0].numpy())


# ---------------------------------------------------------------------- whole models


def test_a_table_mixture_draws_and_fills_what_it_scores():
    """Two categories and a bit: the shares of all 12 rows, and of the missing cells given the others, against log_prob."""
    import pandas as pd

    rng = np.random.default_rng(0)
    k = rng.integers(0, 2, 600)
    frame = pd.DataFrame(
        {
            "a": np.array(["x", "y", "z"])[np.where(rng.random(600) < 0.7, 2 * k, rng.integers(0, 3, 600))],
            "b": np.array(["u", "v"])[(rng.random(600) < 0.2 + 0.6 * k).astype(int)],
            "c": rng.random(600) < 0.8 - 0.5 * k,
        }
    )
    model = TableMixture(components=2).fit(frame, seed=0)
    every = pd.DataFrame([(a, b, c) for a in "xyz" for b in "uv" for c in (False, True)], columns=["a", "b", "c"])
    every["c"] = every["c"].astype(frame["c"].dtype)
    p = np.exp(model.log_prob(every))
    np.testing.assert_allclose(p.sum(), 1, atol=1e-9)
    sample = model.sample(N, seed=1)
    key = {tuple(row): number for number, row in enumerate(every.itertuples(index=False))}
    found = np.array([key[tuple(row)] for row in sample.itertuples(index=False)])
    check_shares(np.eye(12)[found], p)
    holes = pd.DataFrame({"a": [None] * N, "b": ["v"] * N, "c": pd.array([None] * N, dtype="boolean")})
    filled = model.impute(holes, n_draws=1, seed=3)[0]
    want = np.where(every["b"] == "v", p, 0) / p[every["b"] == "v"].sum()
    found = np.array([key[tuple(row)] for row in filled.itertuples(index=False)])
    check_shares(np.eye(12)[found], want)
