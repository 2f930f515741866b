"""EM with missing cells: it climbs, it equals EM on complete rows when nothing is missing, and it finds what is hidden."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from components import SHAPES
from reverie.models.classical.mixture import GaussianMixture, StudentMixture, TableMixture, parameters
from reverie.probability.exponential_family import Components
from reverie.probability.gaussians.shapes import gaussians
from reverie.probability.gaussians.student import StudentT
from reverie.probability.latent.mixture import Mixture, PointWeights


def network(members: Components, smoothing: float = 0.0) -> Mixture:
    return Mixture(members, PointWeights(members.size, smoothing=smoothing), torch.float64)


def begun(shape: str, size: int, x: Tensor, seen: Tensor | None, *, floor: float, prior: float, seed: int) -> Mixture:
    """A start with means at random rows and the columns' own variances."""
    d = x.shape[1]
    floors = torch.full((d,), floor)
    if shape == "student":
        members: Components = StudentT(size, d, floors, prior=prior)
    else:
        members = gaussians(shape, size, d, floors, rank=max(1, d // 2), prior=prior)
    made = network(members)
    members.begin(x, seen)
    filled = x if seen is None else torch.where(seen, x, 0.0)
    chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(x))[:size].copy())
    members.mean.copy_(filled[chosen])  # type: ignore[operator, union-attr]
    return made


def climb(made: Mixture, x: Tensor, seen: Tensor | None, steps: int, *, penalised: bool = True) -> list[float]:
    """The objective before each of `steps` EM steps."""
    curve = []
    for _ in range(steps):
        sums, log_p = made.components.expect(x, seen, made.weights.log())
        curve.append(float(log_p.sum() + (made.log_prior() if penalised else 0.0)))
        made.maximise(sums)
    return curve


def problem(seed: int) -> tuple[Tensor, Tensor | None, int]:
    """Random rows in clusters: 2 to 6 columns, 20 to 80 rows, 1 to 4 members, up to 60 % missing, or nothing."""
    rng = np.random.default_rng(seed)
    n, d, size = int(rng.integers(20, 80)), int(rng.integers(2, 7)), int(rng.integers(1, 5))
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 4 * rng.normal(size=(size, d))[rng.integers(0, size, n)]
    share = rng.choice([0.0, 0.1, 0.3, 0.6])
    seen = rng.random((n, d)) >= share
    seen[:4] = True  # every column has values
    return torch.from_numpy(x), torch.from_numpy(seen) if share else None, size


def worst_decrease(seed: int, *, floor: float, prior: float) -> float:
    """The largest loss in one of 12 steps, relative to the objective's size."""
    x, seen, size = problem(seed)
    shape = (*SHAPES, "student")[seed % 6]
    made = begun(shape, size, x, seen, floor=floor, prior=prior, seed=seed)
    curve = np.array(climb(made, x, seen, 12))
    return float(-(np.diff(curve) / np.abs(curve[1:]).clip(1)).min())


@pytest.mark.parametrize("block", [0, 1, *(pytest.param(block, marks=pytest.mark.slow) for block in range(2, 10))])
def test_em_never_loses_penalised_likelihood(block):
    """200 problems, 40 of them every time: shapes x holes x sizes, prior 2, no floor (Dempster et al. 1977, theorem 1)."""
    for seed in range(20 * block, 20 * (block + 1)):
        assert worst_decrease(seed, floor=0.0, prior=2.0) < 1e-9, seed


@pytest.mark.slow
def test_what_a_floor_costs():
    """With a floor and no prior the plain likelihood may fall: the floor is added after the M-step, as scikit-learn's
    reg_covar is, so a step ends beside its maximum, and more so the nearer variances are to the floor. Measured on the
    first 36 of the problems above, the worst step relative to the log-likelihood: none at a floor of 1e-6 of unit variances
    (below 1e-12, rounding), 3e-5 at 0.1."""
    small = max(worst_decrease(seed, floor=1e-6, prior=0.0) for seed in range(36))
    large = max(worst_decrease(seed, floor=0.1, prior=0.0) for seed in range(36))
    assert small < 1e-9
    assert 1e-6 < large < 1e-3


@pytest.mark.parametrize("shape", [*SHAPES, "student"])
def test_a_mask_without_holes_changes_nothing(shape):
    """20 steps with every cell marked as seen, against 20 without a mask: parameters to 1e-10."""
    x, _, _ = problem(4)
    a = begun(shape, 3, x, None, floor=1e-6, prior=1.0, seed=0)
    b = copy.deepcopy(a)
    climb(a, x, None, 20)
    climb(b, x, torch.ones_like(x, dtype=torch.bool), 20)
    for name, tensor in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[name], tensor, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("shape", [*SHAPES, pytest.param("student", marks=pytest.mark.slow)])
def test_rows_without_any_cell_change_nothing(shape):
    """They add their share to the weights, which stay, and the same to all figures; no NaN."""
    x, _, _ = problem(4)
    empty = torch.cat([x, torch.full((7, x.shape[1]), torch.nan)])
    seen = ~torch.isnan(empty)
    a = begun(shape, 2, x, None, floor=0.0, prior=0.0, seed=0)
    b = copy.deepcopy(a)
    climb(a, x, None, 100)
    climb(b, empty, seen, 130)
    nats = [float(torch.logsumexp(made.joint(x, None), 1).mean()) for made in (a, b)]
    assert abs(nats[0] - nats[1]) < 2e-3
    for name, tensor in a.state_dict().items():
        if shape != "low-rank" and tensor.is_floating_point() and not name.endswith("degrees"):
            assert bool(torch.isfinite(b.state_dict()[name]).all())
            scale = 1e-3 * float(tensor.abs().max())
            torch.testing.assert_close(b.state_dict()[name], tensor, rtol=0, atol=scale, msg=name)


def test_a_single_gaussian_with_holes_is_the_maximum_likelihood_estimate():
    """The observed-data likelihood, by scikit-learn-free numeric slopes: none at EM's fixed point."""
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal([1, -1, 2], [[2, 0.8, 0.3], [0.8, 1, -0.2], [0.3, -0.2, 0.5]], 300)
    X[rng.random(X.shape) < 0.3] = np.nan
    x, seen = torch.from_numpy(np.nan_to_num(X)), torch.from_numpy(~np.isnan(X))
    made = begun("full", 1, x, seen, floor=0.0, prior=0.0, seed=0)
    climb(made, x, seen, 400)
    members = made.components
    best = float(members.log_prob(x, seen).sum())
    for j in range(3):
        for sign in (-1, 1):
            members.mean[0, j] += sign * 1e-3
            assert float(members.log_prob(x, seen).sum()) < best
            members.mean[0, j] -= sign * 1e-3
    root = torch.linalg.cholesky(members.covariance)
    for i, j in ((0, 0), (1, 0), (2, 1), (2, 2)):
        for sign in (-1, 1):
            moved = root.clone()
            moved[0, i, j] += sign * 1e-3
            members.covariance.copy_(moved @ moved.transpose(1, 2))
            assert float(members.log_prob(x, seen).sum()) < best


# ---------------------------------------------------------------------- far from zero


def off_axis(n: int, offset: float, dtype: type, *, two: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows with sd 0.1 at `offset`, or half of them at 0 and half at `offset`; and the rows of the far cluster, as they
    were rounded, about the offset in float64."""
    rng = np.random.default_rng(seed)
    noise = 0.08 * rng.normal(size=(n, 1)) + 0.06 * rng.normal(size=(n, 3))  # one factor, so that rank 1 fits
    far = np.ones(n, bool) if not two else np.arange(n) % 2 == 0
    X = (noise + offset * far[:, None]).astype(dtype)
    return X, X[far].astype(np.float64) - offset


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 1e3), ("float64", 1e6)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("holes", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("two", [False, True])
def test_no_covariance_is_wrong_far_from_zero(dtype, offset, shape, holes, two):
    """sd 0.1 at an offset, alone and beside a cluster at 0 (whose mean and spread then rule the columns' scale): every
    variance of the far cluster within 1 % of that of its own rows (their spread about the offset, in float64)."""
    n = 6000 if dtype == "float64" else 400  # of more float32 numbers near 1000 too many repeat to call them continuous
    X, far = off_axis(n, offset, np.dtype(dtype), two=two)
    given = X.copy()
    if holes:
        given[np.random.default_rng(5).random(X.shape) < 0.1] = np.nan
    recipe = GaussianMixture(components=2 if two else 1, covariance=shape, rank=1, floor=0.0, dtype=dtype, tol=0)
    model = recipe.fit(given, epochs=60 if shape == "low-rank" else 25 if holes else 6, seed=0)
    found = parameters(model)
    k = int(found["means"][:, 0].argmax())
    # With a tenth of the cells missing, the variance of the rest differs from that of all: by sqrt(2 / 10 n), four times.
    tolerance = 4 * np.sqrt(0.2 / len(far)) if holes else 0.01
    own = np.cov(far.T, bias=True)
    got = {
        "full": lambda c: c[k],
        "low-rank": lambda c: c[k],
        "tied": lambda c: c,
        "diag": lambda c: np.diag(c[k]),
        "spherical": lambda c: np.eye(3) * c[k],
    }[shape](found["covariances"])
    if shape == "tied" and two:
        near = X[1::2].astype(np.float64)
        own = 0.5 * (own + np.cov(near.T, bias=True))
    want = np.diag(own) if shape != "spherical" else np.full(3, np.diag(own).mean())
    np.testing.assert_allclose(np.diag(got), want, rtol=tolerance)
    if shape in ("full", "tied", "low-rank"):
        np.testing.assert_allclose(got[0, 1], own[0, 1], rtol=3 * tolerance)
    np.testing.assert_allclose(found["means"][k] - offset, far.mean(0), atol=0.01 if holes else 1e-3)


# ---------------------------------------------------------------------- whole models


@pytest.mark.parametrize("shape", ["full", "tied"])
def test_structure_is_found_behind_holes(shape):
    """Half of all cells missing at random: means within 4 standard errors sd / sqrt(n share), of clear clusters."""
    rng = np.random.default_rng(0)
    n, means = 4000, np.array([[0.0, 0, 0], [8, -8, 8]])
    k = rng.integers(0, 2, n)
    cov = np.array([[1.0, 0.7, 0], [0.7, 1, 0.2], [0, 0.2, 1]])
    X = means[k] + rng.multivariate_normal(np.zeros(3), cov, n)
    X[rng.random(X.shape) < 0.5] = np.nan
    found = parameters(GaussianMixture(components=2, covariance=shape, tol=1e-7).fit(X, epochs=300, seed=0))
    order = found["means"][:, 0].argsort()
    assert (np.abs(found["means"][order] - means) < 4 / np.sqrt(n / 4)).all()
    got = found["covariances"] if shape == "tied" else found["covariances"][order[0]]
    # a covariance from pairs both seen: a quarter of a cluster's 2000 rows
    assert (np.abs(got - cov) < 4 * np.sqrt(2 / 500)).all()


def test_outliers_hardly_move_a_student_mixture():
    """5 % of the rows 50 sd away: the centre within 0.1 sd of the truth, where a Gaussian's moves by 2.5."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 2))
    X[:100] += 50
    student = StudentMixture(components=1).fit(X, epochs=100, columns="real")
    centre = student.network.components.mean[0].numpy() * X.std(0) + X.mean(0)
    assert np.abs(centre).max() < 0.1
    assert float(student.network.components.degrees[0]) < 3
    assert np.abs(parameters(GaussianMixture(components=1).fit(X, epochs=5, columns="real"))["means"]).min() > 2


def test_holes_in_mixed_tables_are_no_information():
    """Cells dropped at random from three separate groups: the group of a row is still found from what is left."""
    import pandas as pd

    rng = np.random.default_rng(0)
    n = 1500
    k = rng.integers(0, 3, n)
    frame = pd.DataFrame(
        {
            "v": rng.normal(size=n) + 6 * k,
            "c": np.array(["x", "y", "z"])[np.where(rng.random(n) < 0.9, k, rng.integers(0, 3, n))],
            "b": rng.random(n) < np.array([0.05, 0.5, 0.95])[k],
            "n": rng.poisson(3 + 20 * k),
        }
    )
    for name in frame.columns:
        frame[name] = frame[name].astype({"b": "boolean", "n": "Int64"}.get(name, frame[name].dtype))
        frame.loc[rng.random(n) < 0.3, name] = None
    model = TableMixture(components=3, restarts=3).fit(frame, seed=0)
    code = model.encode(frame)
    share = np.array([[(code[k == a].argmax(1) == b).mean() for b in range(3)] for a in range(3)])
    assert share.max(1).min() > 0.9
    assert len(set(share.argmax(1))) == 3
