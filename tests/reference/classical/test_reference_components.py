"""Every set of distributions against the textbook: densities, sums, maximisation, conditionals, with missing cells."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from components import (
    CASES,
    CORRELATED,
    SHAPES,
    SIZE,
    bernoulli_case,
    categorical_case,
    conditional,
    covariance_of,
    gaussian_case,
    gaussian_set,
    grid_case,
    numbers,
    poisson_case,
    student_case,
    symbol_case,
)
from reverie.probability.components.mixed import Mixed
from reverie.probability.exponential_family import Components, Sums
from reverie.probability.gaussians.gaussian import Gaussians
from reverie.probability.gaussians.low_rank import LowRankGaussian
from reverie.probability.gaussians.matrices import spd_inverse, symmetric
from reverie.probability.gaussians.student import StudentT

N = 60


def shares(n: int = N, seed: int = 7) -> Tensor:
    """Responsibilities times weights, (n, K): positive, and not summing to 1."""
    r = torch.softmax(numbers(seed, n, SIZE), 1)
    return r * (0.5 + numbers(seed + 1, n, 1).square())


def same_sums(a: Sums, b: Sums, tolerance: float = 1e-9) -> None:
    assert a.keys() == b.keys()
    for name in a:
        scale = float(b[name].abs().max()) + 1e-12
        torch.testing.assert_close(
            a[name], b[name], rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def both_ways(members: Components, monkeypatch: pytest.MonkeyPatch, call: Any) -> tuple[Any, Any]:
    """The result through shared features, and through differences to each mean."""
    assert members.safe(torch.float64)
    first = call()
    for part in members.modules():
        if isinstance(part, Mixed | Gaussians):  # bits and counts have features only, and lose nothing by them
            monkeypatch.setattr(part, "safe", lambda dtype: False)
    return first, call()


# ---------------------------------------------------------------------- densities


@pytest.mark.parametrize("name", CASES)
def test_log_densities_are_the_formulas(name):
    """Complete rows, and the marginals of rows with missing cells (whose content must not matter)."""
    case = CASES[name]()
    x = case.rows(N)
    np.testing.assert_allclose(
        case.members.log_prob(x), case.log_prob(x, torch.ones_like(x, dtype=torch.bool)), atol=1e-9
    )
    seen = case.mask(N)
    for hidden in (0.0, torch.nan):
        found = case.members.log_prob(torch.where(seen, x, hidden), seen)
        np.testing.assert_allclose(found, case.log_prob(x, seen), atol=1e-9)
    whole = torch.ones_like(seen)
    np.testing.assert_allclose(case.members.log_prob(x, whole), case.members.log_prob(x), atol=1e-9)


@pytest.mark.parametrize("name", [*SHAPES, "mixed", "poisson", "bernoulli"])
def test_float32_rows_lose_little(name):
    """Rows in float32 cost a thousandth of a nat at most; the formulas are computed for the rounded rows."""
    case = CASES[name]()
    x = case.rows(N).float()
    seen = case.mask(N)
    every = torch.ones_like(seen)
    np.testing.assert_allclose(case.members.log_prob(x), case.log_prob(x.double(), every), atol=1e-3)
    np.testing.assert_allclose(case.members.log_prob(x, seen), case.log_prob(x.double(), seen), atol=1e-3)


def supports() -> dict[str, tuple[Components, np.ndarray]]:
    """Discrete sets and all the rows there are (but for a tail below 1e-9)."""
    three = np.eye(3)
    two = np.eye(2)
    grid = grid_case()
    return {
        "bernoulli": (bernoulli_case().members, np.array(list(itertools.product([0, 1], repeat=3)))),
        "categorical": (categorical_case().members, np.array([[*a, *b] for a in three for b in two])),
        "symbols": (symbol_case().members, np.arange(5)[:, None]),
        "poisson": (poisson_case().members, np.array(list(itertools.product(range(120), repeat=2)))),
        "grid": (
            grid.members,
            np.array(list(itertools.product(np.arange(-15, 15.5, 0.5), np.arange(0, 16), np.arange(-1, 1.75, 0.25)))),
        ),
    }


@pytest.mark.parametrize("name", supports())
def test_probabilities_sum_to_one(name):
    members, rows = supports()[name]
    total = members.log_prob(torch.from_numpy(rows).double()).exp().sum(0)
    np.testing.assert_allclose(total, 1, atol=1e-9)


@pytest.mark.parametrize("name", [*SHAPES, "student"])
@pytest.mark.parametrize("d", [1, 2])
def test_densities_integrate_to_one(name, d):
    """Over the plane folded to a square by x = 3 tan(u) (midpoints); and over the one column seen of two. Scales are
    about 1 and 600 points a side resolve them to 1e-4."""
    if name == "low-rank" and d == 1:
        return
    case = student_case(d) if name == "student" else gaussian_case(name, d)
    side = 600
    u = (np.arange(side) + 0.5) / side * np.pi - np.pi / 2
    line, cell = 3 * np.tan(u), 3 / np.cos(u) ** 2 * np.pi / side
    rows = np.stack(np.meshgrid(*[line] * d, indexing="ij"), -1).reshape(-1, d)
    cells = np.prod(np.stack(np.meshgrid(*[cell] * d, indexing="ij"), -1).reshape(-1, d), 1)
    density = case.members.log_prob(torch.from_numpy(rows)).exp().numpy()
    np.testing.assert_allclose(cells @ density, 1, atol=1e-4)
    for seen in range(d):
        rows = np.full((side, d), np.nan)
        rows[:, seen] = line
        marginal = case.members.log_prob(torch.from_numpy(rows), torch.from_numpy(~np.isnan(rows))).exp().numpy()
        np.testing.assert_allclose(cell @ marginal, 1, atol=1e-4)


@pytest.mark.parametrize("shape", CORRELATED)
def test_conditional_densities_are_differences(shape):
    """log p(x_a | x_b) = log p(x) - log p(x_b), against the conditional normal."""
    case = gaussian_case(shape, 4)
    x = case.rows(20)
    for seen in ([True, False, True, False], [False, False, True, False], [True, True, False, True]):
        mask = torch.tensor(seen).expand(20, 4)
        found = case.members.log_prob(x) - case.members.log_prob(x, mask)
        for row, k in itertools.product(range(20), range(SIZE)):
            own = np.array(seen)
            mean, cov = conditional(case.members.mean[k].numpy(), covariance_of(case.members, k), x[row].numpy(), own)
            want = stats.multivariate_normal(mean, cov).logpdf(x[row].numpy()[~own])
            assert abs(float(found[row, k]) - want) < 1e-8


# ---------------------------------------------------------------------- sums


@pytest.mark.parametrize("name", ["full", "tied", "diag", "spherical", "mixed"])
@pytest.mark.parametrize("holes", [False, True])
def test_sums_two_ways(name, holes, monkeypatch):
    """Through the shared features, and through differences to the means: the same to 1e-9."""
    case = CASES[name]()
    x, r = case.rows(N), shares()
    seen = case.mask(N) if holes else None
    a, b = both_ways(case.members, monkeypatch, lambda: case.members.sums(x, seen, r))
    same_sums(a, b)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_the_e_step_is_densities_then_sums(name, holes, known):
    """`expect` in one sweep: r = w p(x | k) / sum, weighted; with some members known."""
    case = CASES[name]()
    x = case.rows(N)
    seen = case.mask(N) if holes else None
    log_weights = torch.log_softmax(numbers(3, SIZE), 0)
    weight = 0.5 + numbers(4, N).square()
    given = None
    if known:
        given = torch.zeros(N, SIZE, dtype=torch.float64)
        given[::3] = torch.tensor([-torch.inf, 0.0, -torch.inf])
    found, log_p = case.members.expect(x, seen, log_weights, weight, given)
    joint = case.members.log_prob(x, seen) + log_weights + (0 if given is None else given)
    torch.testing.assert_close(log_p, torch.logsumexp(joint, 1), rtol=0, atol=1e-9)
    same_sums(found, case.members.sums(x, seen, torch.softmax(joint, 1) * weight[:, None]))
    torch.testing.assert_close(found["count"].sum(), weight.sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_complete_rows_are_moments_about_the_means(shape):
    case = gaussian_case(shape)
    members: Any = case.members
    x, r = case.rows(N), shares()
    found = members.sums(x, None, r)
    for k in range(SIZE):
        e = (x - members.mean[k]).numpy()
        w = r[:, k].numpy()
        np.testing.assert_allclose(found["count"][k], w.sum(), rtol=1e-12)
        np.testing.assert_allclose(found["first"][k], w @ e, atol=1e-9)
        second = (e * w[:, None]).T @ e
        if shape == "full":
            np.testing.assert_allclose(found["second"][k], second, atol=1e-9)
        elif shape != "tied":
            np.testing.assert_allclose(found["second"][k], np.diag(second), atol=1e-9)
    if shape == "tied":
        e = (x[:, None] - members.mean).numpy()
        np.testing.assert_allclose(found["second"], np.einsum("nk,nki,nkj->ij", r.numpy(), e, e), atol=1e-9)


@pytest.mark.parametrize("shape", ["full", "tied", "diag", "spherical"])
def test_sums_with_holes_are_expected_moments(shape):
    """Missing cells at their conditional mean, plus the conditional covariance (Ghahramani & Jordan 1994)."""
    case = gaussian_case(shape)
    members: Any = case.members
    x, r, seen = case.rows(N), shares(), case.mask(N)
    found = members.sums(x, seen, r)
    second = np.zeros((SIZE, 3, 3))
    first = np.zeros((SIZE, 3))
    for row, k in itertools.product(range(N), range(SIZE)):
        mask, cov = seen[row].numpy(), covariance_of(members, k)
        mean, spread = conditional(members.mean[k].numpy(), cov, x[row].numpy(), mask)
        e = x[row].numpy() - members.mean[k].numpy()
        e[~mask] = mean - members.mean[k].numpy()[~mask]
        wide = np.zeros((3, 3))
        wide[np.ix_(~mask, ~mask)] = spread
        first[k] += float(r[row, k]) * e
        second[k] += float(r[row, k]) * (np.outer(e, e) + wide)
    np.testing.assert_allclose(found["first"], first, atol=1e-9)
    if shape == "full":
        np.testing.assert_allclose(found["second"], second, atol=1e-9)
    elif shape == "tied":
        np.testing.assert_allclose(found["second"], second.sum(0), atol=1e-9)
    else:  # independent columns: what is missing is left out of sum and count alike, to the same maximum
        np.testing.assert_allclose(found["seen"], (r.t() @ seen.double()).numpy(), atol=1e-9)


def test_sums_of_student_with_holes():
    """E[u] = (nu + |o|) / (nu + distance of what is seen) weighs the moments; the conditional covariance, which u scales
    back, counts with r alone."""
    case = student_case()
    members: Any = case.members
    x, r, seen = case.rows(N), shares(), case.mask(N)
    found = members.sums(x, seen, r)
    first, second, scaled = np.zeros((SIZE, 3)), np.zeros((SIZE, 3, 3)), np.zeros(SIZE)
    for row, k in itertools.product(range(N), range(SIZE)):
        mask, cov, nu = seen[row].numpy(), covariance_of(members, k), float(members.degrees[k])
        mean, spread = conditional(members.mean[k].numpy(), cov, x[row].numpy(), mask)
        e = x[row].numpy() - members.mean[k].numpy()
        distance = e[mask] @ np.linalg.solve(cov[np.ix_(mask, mask)], e[mask]) if mask.any() else 0.0
        u = (nu + mask.sum()) / (nu + distance)
        e[~mask] = mean - members.mean[k].numpy()[~mask]
        wide = np.zeros((3, 3))
        wide[np.ix_(~mask, ~mask)] = spread
        scaled[k] += float(r[row, k]) * u
        first[k] += float(r[row, k]) * u * e
        second[k] += float(r[row, k]) * (u * np.outer(e, e) + wide)
    np.testing.assert_allclose(found["scaled"], scaled, atol=1e-9)
    np.testing.assert_allclose(found["first"], first, atol=1e-9)
    np.testing.assert_allclose(found["second"], second, atol=1e-9)


# ---------------------------------------------------------------------- maximisation


def weighted(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = w @ x / w.sum()
    return mean, ((x - mean) * w[:, None]).T @ (x - mean) / w.sum()


@pytest.mark.parametrize("shape", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize(("floor", "prior"), [(0.0, 0.0), (0.1, 0.0), (0.05, 4.0)])
def test_maximising_gives_weighted_moments(shape, floor, prior):
    """Sigma = (N S + a diag(overall)) / (N + a) + floor, S the weighted covariance; pooled as the shape says."""
    case = gaussian_case(shape, floor=floor, prior=prior)
    members: Any = case.members
    x, r = case.rows(N), shares()
    overall = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    members.overall.copy_(overall)
    members.maximise(members.sums(x, None, r))
    moments = [weighted(x.numpy(), r[:, k].numpy()) for k in range(SIZE)]
    count = r.sum(0).numpy()
    extra = np.diag(overall.numpy())
    for k, (mean, cov) in enumerate(moments):
        np.testing.assert_allclose(members.mean[k], mean, atol=1e-10)
        if shape == "tied":
            cov = sum(n * c for n, (_, c) in zip(count, moments, strict=True))
            want = (cov + prior * extra) / (count.sum() + prior)
        else:
            want = (count[k] * cov + prior * extra) / (count[k] + prior)
        if shape == "diag":
            want = np.diag(np.diag(want))
        if shape == "spherical":
            want = np.eye(3) * np.trace(want) / 3
        np.testing.assert_allclose(covariance_of(members, k), want + floor * np.eye(3), atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
def test_maximising_counts(smoothing):
    """Relative frequencies, with pseudo-counts: bits 2 a, levels a each, counts a rows of the overall rate."""
    r, seen = shares(), None
    bits, levels = bernoulli_case(smoothing=smoothing), categorical_case(smoothing=smoothing)
    counts, codes = poisson_case(smoothing=smoothing), symbol_case(smoothing=smoothing)
    total = r.sum(0)[:, None]
    x = bits.rows(N)
    bits.members.maximise(bits.members.sums(x, seen, r))
    torch.testing.assert_close(bits.members.probability, (r.t() @ x + smoothing) / (total + 2 * smoothing))
    x = levels.rows(N)
    levels.members.maximise(levels.members.sums(x, seen, r))
    width = torch.tensor([3.0, 3, 3, 2, 2], dtype=torch.float64)
    torch.testing.assert_close(levels.members.probability, (r.t() @ x + smoothing) / (total + width * smoothing))
    x = counts.rows(N)
    counts.members.overall.copy_(torch.tensor([2.0, 5.0]))
    counts.members.maximise(counts.members.sums(x, seen, r))
    want = (r.t() @ x + smoothing * counts.members.overall) / (total + smoothing)
    torch.testing.assert_close(counts.members.rate, want)
    x = codes.rows(N)
    codes.members.maximise(codes.members.sums(x, seen, r))
    one_hot = torch.nn.functional.one_hot(x[:, 0].long(), 5).double()
    torch.testing.assert_close(codes.members.probability, (r.t() @ one_hot + smoothing) / (total + 5 * smoothing))


@pytest.mark.parametrize("name", ["diag", "bernoulli", "poisson", "categorical", "symbols"])
def test_maximising_with_holes_uses_the_rows_that_have_the_cell(name):
    case = CASES[name]()
    members: Any = case.members
    x, r, seen = case.rows(N), shares(), case.mask(N)
    members.maximise(members.sums(torch.where(seen, x, torch.nan), seen, r))
    value = torch.nn.functional.one_hot(x[:, 0].long(), 5).double() if name == "symbols" else x
    mask = seen.double().expand_as(value)
    want = (r.t() @ (value * mask)) / (r.t() @ mask)
    torch.testing.assert_close(
        members.mean if name == "diag" else members.means() if name != "symbols" else members.probability, want
    )


def iterate(members: Components, x: Tensor, r: Tensor, steps: int) -> None:
    for _ in range(steps):
        members.maximise(members.sums(x, None, r))


def test_the_grid_is_fitted_by_maximum_likelihood():
    """EM's fixed point against a direct maximisation of sum r log P(cell), per member and column."""
    case = grid_case()
    members: Any = case.members
    x, r = case.rows(400), shares(400)
    iterate(members, x, r, 400)
    for k, j in itertools.product(range(SIZE), range(3)):
        step, low, high = members.blocks[j].step[0], float(members.low[j]), float(members.high[j])
        values, where = np.unique(x[:, j].numpy(), return_inverse=True)
        w = np.bincount(where, r[:, k].numpy())
        upper = np.where(values > high - step / 2, np.inf, values + step / 2)
        lower = np.where(values < low + step / 2, -np.inf, values - step / 2)

        def loss(p, w=w, upper=upper, lower=lower):
            law = stats.norm(p[0], np.exp(p[1]))
            return -w @ np.log(law.cdf(upper) - law.cdf(lower))

        start = [float(members.mean[k, j]) + 0.05, 0.5 * float(members.variance[k, j].log()) + 0.05]
        best = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
        np.testing.assert_allclose(members.mean[k, j], best.x[0], atol=1e-3)
        np.testing.assert_allclose(members.variance[k, j].sqrt(), np.exp(best.x[1]), rtol=2e-3)


def test_student_distributions_are_fitted_by_maximum_likelihood():
    """At EM's fixed point the weighted log-likelihood has no slope in means, scales or degrees."""
    case = student_case()
    members = case.members
    assert isinstance(members, StudentT)
    x, r = case.rows(600), shares(600)
    iterate(members, x, r, 300)
    assert bool(((members.degrees > 1) & (members.degrees < 199)).any())

    def value() -> Tensor:
        return (members.log_prob(x) * r).sum(0)

    best = value()
    for buffer, size in ((members.mean, 1e-3), (members.degrees, 1e-2)):
        for index in np.ndindex(*buffer.shape):
            if buffer is members.degrees and not 1 < float(buffer[index]) < 199:
                continue
            kept = float(buffer[index])
            for sign in (-1, 1):
                buffer[index] = kept + sign * size
                assert bool((value() <= best + 1e-6).all()), index
            buffer[index] = kept
    for k, scale in itertools.product(range(SIZE), (0.99, 1.01)):
        kept = members.covariance[k].clone()
        members.covariance[k] *= scale
        assert float(value()[k]) < float(best[k])
        members.covariance[k] = kept


def test_low_rank_is_factor_analysis():
    """One member, iterated until it moves no more: scikit-learn's FactorAnalysis to 1e-5 nats per row."""
    from sklearn.decomposition import FactorAnalysis

    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 8)) + rng.normal(size=(500, 8)) + 3
    members = LowRankGaussian(1, 8, 2, torch.zeros(8))
    x = torch.from_numpy(X)
    members.begin(x, None)
    iterate(members, x, torch.ones(500, 1, dtype=torch.float64), 600)
    peer = FactorAnalysis(2, tol=1e-7, max_iter=5000, svd_method="lapack").fit(X)
    assert abs(float(members.log_prob(x).mean()) - peer.score(X)) < 1e-5
    np.testing.assert_allclose(members.covariances()[0], peer.get_covariance(), atol=1e-2)


def parameters(members: Components) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in members.state_dict().items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_implied_sums_give_the_parameters_back(name, floor):
    """maximise(implied(count)) changes nothing, for any counts; floors, which every M-step adds, are taken off first."""
    case = gaussian_case(name, floor=floor) if name in SHAPES else CASES[name]()
    members = case.members
    before = parameters(members)
    count = torch.tensor([3.0, 40.0, 1e6], dtype=torch.float64)
    sums = members.implied(count)
    torch.testing.assert_close(sums["count"], count)
    members.maximise(sums)
    for tensor, old in zip(parameters(members).values(), before.values(), strict=True):
        torch.testing.assert_close(tensor, old, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["full", "tied", "diag", "spherical", "bernoulli", "poisson", "categorical", "symbols", "mixed"]
)
def test_the_move_rereads_older_sums(name):
    """Sums of rows A about old means, re-read after learning from rows B, are those about the new means."""
    case = CASES[name]()
    members = case.members
    a, b = case.rows(N, seed=1), case.rows(N, seed=2) * 1.0
    older = members.sums(a, None, shares(seed=1))
    move = members.maximise(members.sums(b, None, shares(seed=2)))
    same_sums(move(older), members.sums(a, None, shares(seed=1)))


def test_the_move_of_low_rank_keeps_its_gain():
    """Moments move; sum r e E[z]^T is still read with the gain G of the E-step it came from."""
    case = gaussian_case("low-rank")
    members: Any = case.members
    a, b, r = case.rows(N, seed=1), case.rows(N, seed=2), shares(seed=1)
    gain, _ = members._factors()
    older = members.sums(a, None, r)
    found = members.maximise(members.sums(b, None, shares(seed=2)))(older)
    fresh = members.sums(a, None, r)
    for name in ("count", "first", "second"):
        torch.testing.assert_close(found[name], fresh[name], rtol=1e-9, atol=1e-9)
    e = a[:, None] - members.mean
    want = torch.einsum("nk,nki,nkj,kqj->kiq", r, e, e, gain)
    torch.testing.assert_close(found["cross"], want, rtol=1e-9, atol=1e-9)


def test_the_move_of_student_keeps_its_scales():
    """u of each row is still that of its E-step."""
    case = student_case()
    members: Any = case.members
    a, b, r = case.rows(N, seed=1), case.rows(N, seed=2), shares(seed=1)
    distance, _, width = members._distance(a, None)
    u = (members.degrees + width) / (members.degrees + distance)
    older = members.sums(a, None, r)
    found = members.maximise(members.sums(b, None, shares(seed=2)))(older)
    e = a[:, None] - members.mean
    torch.testing.assert_close(found["count"], r.sum(0))
    torch.testing.assert_close(found["scaled"], (r * u).sum(0))
    torch.testing.assert_close(found["first"], torch.einsum("nk,nki->ki", r * u, e))
    torch.testing.assert_close(found["second"], torch.einsum("nk,nki,nkj->kij", r * u, e, e))


@pytest.mark.parametrize("name", CASES)
def test_members_without_rows_keep_their_parameters(name):
    case = CASES[name]()
    members = case.members
    x, r = case.rows(N), shares()
    r[:, 1] = 0.0
    before = members.means()[1].clone()
    kept = members.log_prob(x)[:, 1].clone()
    members.maximise(members.sums(x, None, r))
    assert all(bool(torch.isfinite(t).all()) for t in parameters(members).values() if t.is_floating_point())
    torch.testing.assert_close(members.means()[1], before)
    if name not in ("tied", "mixed unshared", "grouped"):  # a shared covariance moves with the others
        torch.testing.assert_close(members.log_prob(x)[:, 1], kept, rtol=1e-9, atol=1e-9)


def test_halves_are_swapped_and_inverses_are_inverses():
    for m in (1, 2, 4, 6):  # small ones are swept, large ones are LAPACK's
        root = numbers(m, 5, m, m)
        torch.testing.assert_close(symmetric(root), 0.5 * (root + root.transpose(1, 2)))
        matrices = root @ root.transpose(1, 2) + torch.eye(m)
        inverse, log_det = spd_inverse(matrices.clone())
        torch.testing.assert_close(inverse, torch.linalg.inv(matrices))
        torch.testing.assert_close(log_det, torch.logdet(matrices))


PARAMETERS = {  # of a set of 3, counted by hand
    "full": 3 * 3 + 3 * 6,
    "tied": 3 * 3 + 6,
    "diag": 3 * 3 + 3 * 3,
    "spherical": 3 * 3 + 3,
    "low-rank": 3 * 3 + 3 * 3 + 3 * (3 * 2 - 1),  # means, variances, two factors up to a rotation
    "student": 3 * 3 + 3 * 6,
    "bernoulli": 3 * 3,
    "poisson": 3 * 2,
    "categorical": 3 * (2 + 1),
    "symbols": 3 * 4,
    "grid": 3 * 3 + 3 * 3,
    "mixed": 3 * (2 + 3) + 3 * 1 + 3 * 2 + 3 * 1 + 3 * (2 + 2),
    "mixed unshared": (3 * 3 + 3 * 3) + 3 * 4 + 3 * (2 + 2 + 2),
    "grouped": 6 * (2 + 3) + 3 * 1,
}


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_counted_as_by_hand(name):
    members = CASES[name]().members
    learned = 3 if name == "student" and members.learn_degrees else 0
    assert members.free_parameters() == PARAMETERS[name] + learned


@pytest.mark.parametrize("name", CASES)
def test_split_members_differ(name):
    case = CASES[name]()
    members = case.members
    members.split(0, 2)
    x = case.rows(N)
    log_p = members.log_prob(x)
    assert bool(torch.isfinite(log_p).all())
    assert float((log_p[:, 0] - log_p[:, 2]).abs().max()) > 0.01


@pytest.mark.parametrize("name", CASES)
def test_members_begin_as_all_rows_together(name):
    """Finite everywhere, the same rows' density above that of the random start, holes or none."""
    for holes in (False, True):
        case = CASES[name]()
        x = case.rows(N)
        seen = case.mask(N) if holes else None
        case.members.begin(x, seen)
        log_p = case.members.log_prob(x, seen)
        assert bool(torch.isfinite(log_p).all())
        if name not in ("grouped", "low-rank", "student", "mixed unshared"):  # whose members keep what they differ in
            np.testing.assert_allclose(log_p[:, 0], log_p[:, 1], atol=1e-9)


# ---------------------------------------------------------------------- conditionals


@pytest.mark.parametrize("shape", SHAPES)
def test_conditional_means(shape):
    """E[x_m | x_o] of a mixture of Gaussians with given responsibilities."""
    case = gaussian_case(shape, 4)
    members: Any = case.members
    assert isinstance(members, Gaussians)
    x, seen = case.rows(N), case.mask(N)
    r = torch.softmax(numbers(5, N, SIZE), 1)
    found = members.mean_given(torch.where(seen, x, torch.nan), seen, r).numpy()
    for row in range(N):
        mask, want = seen[row].numpy(), 0.0
        for k in range(SIZE):
            mean, _ = conditional(members.mean[k].numpy(), covariance_of(members, k), x[row].numpy(), mask)
            want += float(r[row, k]) * mean
        np.testing.assert_allclose(found[row, ~mask], want, atol=1e-8)
        np.testing.assert_array_equal(found[row, mask], x[row].numpy()[mask])


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "categorical", "mixed"])
def test_conditional_means_of_independent_columns(name):
    case = CASES[name]()
    x, seen = case.rows(N), case.mask(N)
    r = torch.softmax(numbers(5, N, SIZE), 1)
    found = case.members.mean_given(x, seen, r)
    free = (
        torch.cat([c for c, part in case.members._pairs() if not hasattr(part, "covariance")])
        if name == "mixed"
        else slice(None)
    )
    want = torch.where(seen, x, r @ case.members.means())
    torch.testing.assert_close(found[:, free], want[:, free])


def test_spherical_low_rank_and_full_agree_where_they_are_the_same():
    """One covariance in four shapes: the same densities, whole and with holes."""
    base = gaussian_set("spherical")
    x, seen = gaussian_case("spherical").rows(N), gaussian_case("spherical").mask(N)
    for shape in ("full", "diag", "low-rank"):
        other: Any = gaussian_set(shape)
        other.mean.copy_(base.mean)
        if shape == "full":
            other.covariance.copy_(base.covariances())
        else:
            other.variance.copy_(base.variance[:, None].expand(-1, 3))
            if shape == "low-rank":
                other.loading.zero_()
        for mask in (None, seen):
            torch.testing.assert_close(other.log_prob(x, mask), base.log_prob(x, mask), rtol=1e-9, atol=1e-9)
