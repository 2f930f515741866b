"""Sets of distributions with known parameters, and the textbook's formula for each: what the tests of components compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor

from reverie.data.space import Block
from reverie.probability.components.discrete import Bernoulli, Categorical, Poisson
from reverie.probability.components.grid import GridGaussian
from reverie.probability.components.grouped import Grouped
from reverie.probability.components.mixed import Mixed
from reverie.probability.components.symbols import Symbols
from reverie.probability.exponential_family import Components
from reverie.probability.gaussians.correlated import CorrelatedGaussians
from reverie.probability.gaussians.gaussian import Gaussians
from reverie.probability.gaussians.low_rank import LowRankGaussian
from reverie.probability.gaussians.shapes import gaussians
from reverie.probability.gaussians.student import StudentT

SHAPES = ("full", "tied", "diag", "spherical", "low-rank")
CORRELATED = ("full", "tied", "low-rank")
SIZE = 3

Formula = Callable[[np.ndarray, np.ndarray, int], float]
"""log p(the observed cells of x (d,) | k), from x, which cells are seen (d,), and k."""


@dataclass(frozen=True)
class Case:
    """A set of SIZE members, its formula, and the columns that can only be missing together."""

    members: Components
    formula: Formula
    together: tuple[tuple[int, ...], ...]

    def rows(self, n: int, seed: int = 0) -> Tensor:
        """Rows from all members in turn."""
        from reverie.rng import RowNoise

        noise = RowNoise(seed, n, dtype=torch.float64)
        return _on_the_grid(self.members, self.members.draw(torch.arange(n) % SIZE, noise))

    def mask(self, n: int, seed: int = 1, share: float = 0.35) -> Tensor:
        """Cells seen (n, d), some rows wholly missing and some complete."""
        rng = np.random.default_rng(seed)
        seen = np.ones((n, self.members.width), bool)
        for columns in self.together:
            seen[:, columns] = (rng.random(n) > share)[:, None]
        seen[0], seen[1] = False, True
        return torch.from_numpy(seen)

    def log_prob(self, x: Tensor, seen: Tensor) -> np.ndarray:
        """The formula for every row and member, (n, K)."""
        return np.array(
            [
                [self.formula(row, mask, k) if mask.any() else 0.0 for k in range(SIZE)]
                for row, mask in zip(x.numpy(), seen.numpy(), strict=True)
            ]
        )


def _on_the_grid(members: Components, x: Tensor) -> Tensor:
    """Draws of normals on a grid come as reals, which a codec rounds."""
    if isinstance(members, GridGaussian):
        step = torch.tensor([block.step[0] for block in members.blocks])
        return (x / step).round() * step
    if isinstance(members, Mixed):
        x = x.clone()
        for columns, part in members._pairs():
            x[:, columns] = _on_the_grid(part, x[:, columns])
    return x


def each(width: int) -> tuple[tuple[int, ...], ...]:
    return tuple((j,) for j in range(width))


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def gaussian_set(shape: str, d: int = 3, *, floor: float = 0.0, prior: float = 0.0, seed: int = 0) -> Gaussians:
    """Random means and covariances of one shape."""
    members = gaussians(shape, SIZE, d, torch.full((d,), floor), rank=min(2, d - 1) or 1, prior=prior)
    members.mean.copy_(2 * numbers(seed, SIZE, d))
    if isinstance(members, LowRankGaussian):
        members.loading.copy_(numbers(seed + 1, SIZE, d, members.rank))
        members.variance.copy_(0.2 + numbers(seed + 2, SIZE, d).square())
    elif hasattr(members, "covariance"):
        root = numbers(seed + 1, *members.covariance.shape)
        members.covariance.copy_(root @ root.transpose(-1, -2) + 0.3 * torch.eye(d))
    else:
        members.variance.copy_(0.3 + numbers(seed + 1, *members.variance.shape).square())  # type: ignore[operator]
    return members


def covariance_of(members: Any, k: int) -> np.ndarray:
    """Sigma_k (d, d) from the raw parameters."""
    d = members.width
    if isinstance(members, LowRankGaussian):
        w = members.loading[k].numpy()
        return w @ w.T + np.diag(members.variance[k].numpy())
    if isinstance(members, CorrelatedGaussians):
        return (members.covariance if members.covariance.ndim == 2 else members.covariance[k]).numpy()
    return np.diag(np.broadcast_to(members.variance[k].numpy(), d))


def gaussian_case(shape: str, d: int = 3, **options: Any) -> Case:
    members = gaussian_set(shape, d, **options)

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        mean, cov = members.mean[k].numpy()[seen], covariance_of(members, k)[np.ix_(seen, seen)]
        return float(stats.multivariate_normal(mean, cov).logpdf(x[seen]))

    return Case(members, formula, each(d))


def student_case(d: int = 3, **options: Any) -> Case:
    members = StudentT(SIZE, d, torch.zeros(d), **options)
    members.mean.copy_(2 * numbers(0, SIZE, d))
    root = numbers(1, SIZE, d, d)
    members.covariance.copy_(root @ root.transpose(1, 2) + 0.3 * torch.eye(d))
    members.degrees.copy_(torch.tensor([9.0, 12.5, 30.0]))

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        scale = members.covariance[k].numpy()[np.ix_(seen, seen)]
        law = stats.multivariate_t(members.mean[k].numpy()[seen], scale, float(members.degrees[k]))
        return float(law.logpdf(x[seen]))

    return Case(members, formula, each(d))


def bernoulli_case(d: int = 3, **options: Any) -> Case:
    members = Bernoulli(SIZE, d, **options)
    members.probability.copy_(numbers(0, SIZE, d).sigmoid())

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        return float(stats.bernoulli(members.probability[k].numpy()[seen]).logpmf(x[seen]).sum())

    return Case(members, formula, each(d))


def poisson_case(d: int = 2, **options: Any) -> Case:
    members = Poisson(SIZE, d, **options)
    members.rate.copy_(4 * numbers(0, SIZE, d).exp())

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        return float(stats.poisson(members.rate[k].numpy()[seen]).logpmf(x[seen]).sum())

    return Case(members, formula, each(d))


def categorical_case(widths: tuple[int, ...] = (3, 2), **options: Any) -> Case:
    members = Categorical(SIZE, widths, **options)
    parts = [torch.softmax(numbers(j, SIZE, w), 1) for j, w in enumerate(widths)]
    members.probability.copy_(torch.cat(parts, 1))
    ends = np.cumsum((0, *widths))
    fields = tuple(tuple(range(a, b)) for a, b in pairwise(ends))

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        p = members.probability[k].numpy()
        return float(sum(np.log(p[list(f)][x[list(f)].argmax()]) for f in fields if seen[f[0]]))

    return Case(members, formula, fields)


def symbol_case(levels: int = 5, **options: Any) -> Case:
    members = Symbols(SIZE, levels, **options)
    members.probability.copy_(torch.softmax(numbers(0, SIZE, levels), 1))

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        return float(np.log(float(members.probability[k, int(x[0])])))

    return Case(members, formula, each(1))


def grid_case(**options: Any) -> Case:
    """A grid without ends, one that begins at 0, and one with two ends."""
    step = torch.tensor([0.5, 1.0, 0.25])
    low, high = torch.tensor([-np.inf, 0.0, -1.0]), torch.tensor([np.inf, np.inf, 1.5])
    blocks = [
        Block("free", "integer", 0, 1, step=(0.5,)),
        Block("counts", "integer", 1, 1, step=(1.0,), low=0.0),
        Block("levels", "integer", 2, 1, step=(0.25,), low=-1.0, high=1.5),
    ]
    members = GridGaussian(SIZE, blocks, torch.zeros(3), **options)
    members.mean.copy_(numbers(0, SIZE, 3) + torch.tensor([0.0, 1.5, 0.0]))
    members.variance.copy_(0.2 + numbers(1, SIZE, 3).square())

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        total = 0.0
        for j in np.flatnonzero(seen):
            law = stats.norm(float(members.mean[k, j]), float(members.variance[k, j].sqrt()))
            half, lo, hi = float(step[j]) / 2, float(low[j]), float(high[j])
            above = 1.0 if x[j] > hi - half else law.cdf(x[j] + half)
            below = 0.0 if x[j] < lo + half else law.cdf(x[j] - half)
            total += np.log(above - below)
        return total

    return Case(members, formula, each(3))


def mixed_case() -> Case:
    """Four kinds of columns in an order of their own."""
    cases = [
        gaussian_case("full", 2),
        bernoulli_case(1),
        categorical_case((3,)),
        poisson_case(1),
        gaussian_case("diag", 2),
    ]
    order = torch.from_numpy(np.random.default_rng(5).permutation(sum(c.members.width for c in cases)))
    return _side_by_side(cases, order)


def mixed_unshared_case() -> Case:
    """Columns among which are grid points and symbols, which have no shared features."""
    cases = [grid_case(), symbol_case(), gaussian_case("low-rank", 2)]
    return _side_by_side(cases, torch.arange(sum(c.members.width for c in cases)))


def _side_by_side(cases: list[Case], order: Tensor) -> Case:
    widths = [case.members.width for case in cases]
    columns = [part.sort().values for part in torch.split(order, widths)]
    members = Mixed([(place, case.members) for place, case in zip(columns, cases, strict=True)])
    together = tuple(
        tuple(int(place[j]) for j in group)
        for place, case in zip(columns, cases, strict=True)
        for group in case.together
    )

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        total = 0.0
        for place, case in zip(columns, cases, strict=True):
            own = place.numpy()
            if seen[own].any():
                total += case.formula(x[own], seen[own], k)
        return total

    return Case(members, formula, together)


def grouped_case(shape: str = "full") -> Case:
    """Each member a mixture of two Gaussians."""

    def make(size: int) -> Gaussians:
        members = gaussians(shape, size, 2, torch.zeros(2))
        members.mean.copy_(2 * numbers(3, size, 2))
        root = numbers(4, size, 2, 2)
        members.covariance.copy_(root @ root.transpose(1, 2) + 0.3 * torch.eye(2))
        return members

    members = Grouped(SIZE, 2, make)
    members.weight.copy_(torch.softmax(numbers(6, SIZE, 2), 1))

    def formula(x: np.ndarray, seen: np.ndarray, k: int) -> float:
        inner: Any = members.inner
        parts = [
            stats.multivariate_normal(
                inner.mean[2 * k + m].numpy()[seen], covariance_of(inner, 2 * k + m)[np.ix_(seen, seen)]
            ).logpdf(x[seen])
            for m in range(2)
        ]
        return float(logsumexp(parts, b=members.weight[k].numpy()))

    return Case(members, formula, each(2))


CASES: dict[str, Callable[[], Case]] = {
    **{shape: partial(gaussian_case, shape) for shape in SHAPES},
    "student": student_case,
    "bernoulli": bernoulli_case,
    "poisson": poisson_case,
    "categorical": categorical_case,
    "symbols": symbol_case,
    "grid": grid_case,
    "mixed": mixed_case,
    "mixed unshared": mixed_unshared_case,
    "grouped": grouped_case,
}


def conditional(mean: np.ndarray, cov: np.ndarray, x: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the missing cells of a normal given the observed ones, by the textbook."""
    gain = cov[np.ix_(~seen, seen)] @ np.linalg.inv(cov[np.ix_(seen, seen)])
    return mean[~seen] + gain @ (x[seen] - mean[seen]), cov[np.ix_(~seen, ~seen)] - gain @ cov[np.ix_(seen, ~seen)]
