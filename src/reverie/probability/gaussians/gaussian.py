"""Sets of K Gaussians over the same columns: what all five shapes of covariance share, and the two without correlations.

Moments are kept about the means, in float64. Densities and statistics come from shared features (x, x^2) where no digits
are lost, and from differences to each mean where they would be.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from reverie.errors import InvalidOption
from reverie.inference.pieces import in_parallel, piece_rows, slices
from reverie.probability.exponential_family import EMPTY, LOG_2PI, Components, Move, Sums, keep_if_empty, sum_tensors
from reverie.probability.features import SharedFeatures
from reverie.probability.gaussians.parameters import numbers
from reverie.rng import Noise

_LOST = {torch.float64: 1e-9, torch.float32: 3e-3}
"""Largest rounding error of a log-density, in nats, that the shared features may cause."""
_TINY = 1e-30
"""Least variance, above the square of rounding: without a floor a constant column still has its one value as likeliest."""


class Gaussians(Components):
    """What all shapes share: means, the floor, the prior, and how statistics are read about the means.

    floor (width,) is added to every variance. prior: this many pseudo-rows with the columns' overall variance
    (inverse Wishart or inverse gamma with its mode there) pull every covariance towards diag(overall).
    """

    own: tuple[str, ...] = ("mean",)
    matrices = False
    """Covariances in their own shape are matrices."""
    mean: Tensor
    floor: Tensor
    overall: Tensor

    def __init__(self, size: int, width: int, floor: Tensor, *, prior: float = 0.0) -> None:
        super().__init__()
        self.size, self.width, self.prior = size, width, prior
        self.register_buffer("mean", torch.zeros(size, width, dtype=torch.float64))
        self.register_buffer("floor", floor.double())
        self.register_buffer("overall", torch.ones(width, dtype=torch.float64))

    @abstractmethod
    def covariances(self) -> Tensor:
        """(K, d, d) in full, whatever the shape."""

    @abstractmethod
    def _spread(self, variance: Tensor) -> None:
        """Covariances diag(variance) for every member."""

    @abstractmethod
    def _shaped(self) -> Tensor:
        """The covariances in their own shape; a buffer, or for low rank what it stands for."""

    def _unit(self, scale: NDArray[np.float64]) -> Any:
        """Squared data units per squared model unit, in the shape of the covariances."""
        return np.outer(scale, scale)

    def in_units(self, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """Covariances in data units: (K, d, d), tied (d, d), diag (K, d), spherical (K,). scale (d,) is data units per
        model unit."""
        shaped = self._shaped().cpu().numpy()
        return np.asarray(shaped * self._unit(scale))

    def set_in_units(
        self,
        offset: NDArray[np.float64],
        scale: NDArray[np.float64],
        means: ArrayLike,
        covariances: ArrayLike,
    ) -> None:
        """Take means (K, d) and covariances (in this shape) given in data units, data = offset + scale * model."""
        own = self._shaped()
        centres = numbers("means", means, tuple(self.mean.shape))
        spreads = numbers("covariances", covariances, tuple(own.shape))
        if self.matrices and not np.allclose(spreads, spreads.swapaxes(-1, -2)):
            raise InvalidOption("covariances: expected symmetric matrices")
        if ((np.linalg.eigvalsh(spreads) if self.matrices else spreads) <= 0).any():
            raise InvalidOption("covariances: expected positive variances in every direction")
        self.mean.copy_(torch.from_numpy((centres - offset) / scale))
        own.copy_(torch.from_numpy(spreads / self._unit(scale)))
        if bool((self.floor < 0).any()):
            self.floor.fill_(0.0)

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        mean, variance = _column_moments(rows, observed)
        self.mean.copy_(mean.expand_as(self.mean))
        self.overall.copy_(variance)
        if bool((self.floor < 0).any()):
            self.floor.copy_(-self.floor * variance.mean())
        self._spread(variance + self.floor)

    def means(self) -> Tensor:
        return self.mean

    def _part(self, source: int, target: int) -> None:
        step = 0.5 * self.covariances()[source].diagonal().sqrt()
        self.mean[source] -= step
        self.mean[target] += step

    def _delta(self, sums: Sums) -> Tensor:
        """The new means less the old ones."""
        seen = sums.get("seen", sums["count"][:, None])
        step = sums["first"] / seen.clamp_min(EMPTY)
        return keep_if_empty(sums["count"], torch.where(seen > EMPTY, step, 0.0), torch.zeros_like(step))

    def _cancels(self, size_of_terms: Tensor, dtype: torch.dtype) -> bool:
        """Would terms of this size, which cancel, leave more rounding than allowed?"""
        worst = float(size_of_terms.max()) * torch.finfo(dtype).eps
        return not worst < _LOST.get(dtype, 0.0)


class DiagonalGaussian(SharedFeatures, Gaussians):
    """One variance per member and column."""

    own = ("mean", "variance")
    variance: Tensor

    def __init__(self, size: int, width: int, floor: Tensor, *, prior: float = 0.0) -> None:
        super().__init__(size, width, floor, prior=prior)
        self.register_buffer("variance", torch.ones(self._variance_shape(), dtype=torch.float64))

    def _variance_shape(self) -> tuple[int, ...]:
        return (self.size, self.width)

    def variances(self) -> Tensor:
        return self.variance

    def _shaped(self) -> Tensor:
        return self.variance

    def _unit(self, scale: NDArray[np.float64]) -> Any:
        return scale**2

    def covariances(self) -> Tensor:
        return torch.diag_embed(self.variances())

    def _spread(self, variance: Tensor) -> None:
        self.variance.copy_(variance.expand_as(self.variance))

    def feature_count(self, holes: bool) -> int:
        return self.width * (3 if holes else 2)

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        d = self.width
        out[d : 2 * d] = x
        torch.mul(out[d : 2 * d], out[d : 2 * d], out=out[:d])
        if observed is not None:
            out[2 * d :] = observed

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        variance = self.variances()
        constant = -0.5 * (self.mean.square() / variance + variance.log() + LOG_2PI)
        eta = torch.cat([-0.5 / variance, self.mean / variance], 1)
        if holes:
            return torch.cat([eta, constant], 1), torch.zeros_like(constant[:, 0])
        return eta, constant.sum(1)

    def safe(self, dtype: torch.dtype) -> bool:
        return not self._cancels((self.mean.square() / self.variances()).sum(1), dtype)

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        d, mean = self.width, self.mean
        seen = product[:, 2 * d :] if holes else count[:, None].expand(-1, d)
        second, first = product[:, :d], product[:, d : 2 * d]
        return {
            "seen": seen.clone(),
            "first": first - seen * mean,
            "second": second - 2 * mean * first + seen * mean.square(),
        }

    def _log_prob_apart(self, x: Tensor, observed: Tensor | None) -> Tensor:
        variance = self.variances()
        half = -0.5 * (variance.log() + LOG_2PI)
        out = torch.empty(len(x), self.size, dtype=torch.float64, device=x.device)

        def work(part: Sequence[slice]) -> None:
            for rows in part:
                cells = torch.nan_to_num(x[rows].double())
                seen = None if observed is None else observed[rows].double()
                for k in range(self.size):
                    square = (cells - self.mean[k]).square_()
                    if seen is not None:
                        square *= seen
                    constant = half[k].sum() if seen is None else seen @ half[k]
                    out[rows, k] = constant - 0.5 * (square @ (1 / variance[k]))

        in_parallel(work, slices(len(x), piece_rows(2 * self.width)), x.device)
        return out

    def _sums_apart(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        first, second = torch.empty_like(self.mean), torch.empty_like(self.mean)
        for k in range(self.size):
            difference = torch.nan_to_num(x).double() - self.mean[k]
            if observed is not None:
                difference *= observed
            first[k] = r[:, k] @ difference
            second[k] = r[:, k] @ difference.square_()
        count = r.sum(0)
        seen = count[:, None].expand_as(first).clone() if observed is None else r.t() @ observed.double()
        return {"count": count, "seen": seen, "first": first, "second": second}

    def maximise(self, sums: Sums) -> Move:
        delta = self._delta(sums)
        moved = self._moved(sums, delta)
        self.mean.add_(delta)
        self._set_variance(moved["second"], moved["seen"], moved["count"])
        return lambda older: self._moved(older, delta)

    def _moved(self, sums: Sums, delta: Tensor) -> Sums:
        """The sums about means that lie `delta` further."""
        first = sums["first"] - sums["seen"] * delta
        second = sums["second"] - 2 * delta * sums["first"] + sums["seen"] * delta.square()
        return {**sums, "first": first, "second": second}

    def implied(self, count: Tensor) -> Sums:
        seen = count[:, None].expand(-1, self.width).clone()
        second = seen * (self.variances() - self.floor).clamp_min(0)
        return {"count": count, "seen": seen, "first": torch.zeros_like(seen), "second": second}

    def _set_variance(self, second: Tensor, seen: Tensor, count: Tensor) -> None:
        a = self.prior
        new = (second.clamp_min(0) + a * self.overall) / (seen + a).clamp_min(EMPTY) + self.floor
        new = new.clamp_min(_TINY)
        new = torch.where(seen > EMPTY, new, self.variance)
        self.variance.copy_(keep_if_empty(count, new, self.variance))

    def free_parameters(self) -> int:
        return self.mean.numel() + self.variance.numel()

    def log_prior(self) -> Tensor:
        variance = self.variances()
        return -0.5 * self.prior * (variance.log() + self.overall / variance).sum()

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        return self.mean[k] + noise.normal(self.width).double() * self.variances()[k].sqrt()


class SphericalGaussian(DiagonalGaussian):
    """One variance per member, the same for all columns."""

    def _variance_shape(self) -> tuple[int, ...]:
        return (self.size,)

    def _unit(self, scale: NDArray[np.float64]) -> Any:
        return scale[0] ** 2

    def variances(self) -> Tensor:
        return self.variance[:, None].expand(-1, self.width)

    def _spread(self, variance: Tensor) -> None:
        self.variance.copy_(variance.mean().expand_as(self.variance))

    def _set_variance(self, second: Tensor, seen: Tensor, count: Tensor) -> None:
        a = self.prior
        total = (seen.sum(1) + a * self.width).clamp_min(EMPTY)
        new = ((second.clamp_min(0).sum(1) + a * self.overall.sum()) / total + self.floor.mean()).clamp_min(_TINY)
        self.variance.copy_(keep_if_empty(count, new, self.variance))


def _column_moments(rows: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of every column's observed cells, (width,) each, in two passes; 0 where there are none."""

    def summed(about: Tensor | None) -> Tensor:
        def work(part: Sequence[slice]) -> Tensor:
            sums = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
            for piece in part:
                cells = rows[piece].double() if about is None else (rows[piece].double() - about).square_()
                sums += (cells if observed is None else torch.where(observed[piece], cells, 0.0)).sum(0)
            return sums

        pieces = slices(len(rows), piece_rows(2 * rows.shape[1]))
        return sum_tensors(in_parallel(work, pieces, rows.device))

    count = torch.full_like(rows[0], len(rows), dtype=torch.float64) if observed is None else observed.sum(0).double()
    mean = summed(None) / count.clamp_min(1)
    return mean, summed(mean) / count.clamp_min(1)
