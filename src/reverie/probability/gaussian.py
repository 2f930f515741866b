"""Sets of K Gaussians over the same columns, with five shapes of covariance.

Densities and statistics of complete rows come from shared features (x, x^2 or x x^T) where no digits are lost, and from
differences to each mean where they would be. Moments are kept about the means, in float64. Missing cells are integrated
out through the precision matrix L: with the missing cells m of a row at their conditional mean, the Mahalanobis distance
of the filled row is that of the observed cells, and Cov[x_m | x_o] = (L_mm)^-1 (Ghahramani & Jordan 1994).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.errors import DataError, InvalidOption, Unsupported
from reverie.probability.exponential_family import (
    EMPTY,
    LOG_2PI,
    Components,
    Move,
    SharedFeatures,
    Sums,
    keep_if_empty,
    sum_tensors,
)
from reverie.probability.holes import Block, blocks, spd_inverse
from reverie.probability.pieces import CACHE_NUMBERS, in_parallel, piece_rows, slices
from reverie.rng import Noise

_LOST = {torch.float64: 1e-9, torch.float32: 3e-3}
"""Largest rounding error of a log-density, in nats, that the shared features may cause."""
_TINY = 1e-30
"""Least variance, above the square of rounding: without a floor a constant column still has its one value as likeliest."""
_MOST_SQUARES = 96
"""Columns up to which x x^T is written out as features."""


class Gaussians(Components):
    """What all shapes share: means, the floor, the prior, and how statistics are read about the means.

    floor (width,) is added to every variance. prior: this many pseudo-rows with the columns' overall variance
    (inverse Wishart or inverse gamma with its mode there) pull every covariance towards diag(overall).
    """

    own: tuple[str, ...] = ("mean",)
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
        means: NDArray[np.float64],
        covariances: NDArray[np.float64],
    ) -> None:
        """Take means (K, d) and covariances (in this shape) given in data units, data = offset + scale * model."""
        own = self._shaped()
        if isinstance(self, LowRankGaussian):
            raise Unsupported("parameters are set in full, tied, diag and spherical shape, not low-rank")
        for name, value, like in (("means", means, self.mean), ("covariances", covariances, own)):
            if value.shape != tuple(like.shape) or not np.isfinite(value).all():
                raise InvalidOption(f"{name}: expected finite numbers of shape {tuple(like.shape)}, got {value.shape}")
        matrices = isinstance(self, CorrelatedGaussians)
        if matrices and not np.allclose(covariances, covariances.swapaxes(-1, -2)):
            raise InvalidOption("covariances: expected symmetric matrices")
        if ((np.linalg.eigvalsh(covariances) if matrices else covariances) <= 0).any():
            raise InvalidOption("covariances: expected positive variances in every direction")
        self.mean.copy_(torch.from_numpy((means - offset) / scale))
        own.copy_(torch.from_numpy(covariances / self._unit(scale)))
        if bool((self.floor < 0).any()):
            self.floor.fill_(0.0)

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        seen = torch.ones_like(rows, dtype=torch.float64) if observed is None else observed.double()
        total = seen.sum(0).clamp_min(1)
        filled = torch.nan_to_num(rows.double()) * seen
        mean = filled.sum(0) / total
        variance = ((filled - mean) * seen).square().sum(0) / total
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


class DiagonalGaussian(Gaussians, SharedFeatures):
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

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if self.safe(x.dtype):
            return super().log_prob(x, observed)
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

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        if self.safe(x.dtype):
            return super().sums(x, observed, r)
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


class CorrelatedGaussians(Gaussians):
    """Shapes whose columns depend on one another: rows with missing cells need matrices of their own."""

    @abstractmethod
    def _precision(self) -> tuple[Tensor, Tensor]:
        """(precision (K, d, d), log determinants of the covariances (K,))."""

    @abstractmethod
    def _from_moments(self, count: Tensor, first: Tensor, second: Tensor) -> Sums:
        """The sums of this shape from N (K,), sum r e (K, d) and sum r e e^T (K, d, d), e = x - mean."""

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self._log_prob_whole(x) if observed is None else self._log_prob_holes(x, observed)

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        return self._sums_whole(x, r) if observed is None else self._expect_holes(x, observed, r=r)[0]

    def expect(
        self,
        x: Tensor,
        observed: Tensor | None,
        log_weights: Tensor,
        weight: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        if observed is None:
            return super().expect(x, None, log_weights, weight, given)
        return self._expect_holes(x, observed, log_weights=log_weights, weight=weight, given=given)

    @abstractmethod
    def _log_prob_whole(self, x: Tensor) -> Tensor:
        """log p(x | k) of complete rows from differences to the means, (n, K)."""

    @abstractmethod
    def _sums_whole(self, x: Tensor, r: Tensor) -> Sums:
        """`sums` of complete rows from differences to the means."""

    # ------------------------------------------------------------------ missing cells

    def _blocks(self, observed: Tensor) -> list[Block]:
        rows = max(16, CACHE_NUMBERS // (self.size * self.width))
        return list(blocks(observed, rows, max(CACHE_NUMBERS // self.size, 1)))

    def _log_prob_holes(self, x: Tensor, observed: Tensor) -> Tensor:
        precision, log_det = self._precision()
        out = torch.empty(len(x), self.size, dtype=torch.float64, device=x.device)

        def work(part: Sequence[Block]) -> None:
            for block in part:
                log_p, _, _ = self._fill(x, block, precision, log_det)
                out[block.rows[block.valid]] = log_p.permute(1, 2, 0)[block.valid]

        in_parallel(work, self._blocks(observed), x.device)
        return out

    def _fill(self, x: Tensor, block: Block, precision: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For a block's rows: log p(x_o | k) (K, P, R); E[x | x_o, k] - mean (K, P, R, d); Cov[x_m | x_o, k]
        (K, P, m, m)."""
        (k, d), (p, r) = self.mean.shape, block.rows.shape
        seen = block.seen[:, None, :]
        cells = torch.nan_to_num(x[block.rows].double())
        e = (cells[None] - self.mean[:, None, None, :]) * seen
        g = torch.bmm(e.view(k, p * r, d), precision).view(k, p, r, d)
        distance = (e * g).sum(-1)
        m = block.missing.shape[1]
        spread = torch.zeros(k, p, 0, 0, dtype=torch.float64, device=x.device)
        if m:
            place = block.missing[None, :, None, :].expand(k, p, r, m)
            g_missing = g.gather(3, place)
            spread, log_det_missing = spd_inverse(precision[:, block.missing[:, :, None], block.missing[:, None, :]])
            filled = -(g_missing @ spread)
            distance = distance + (g_missing * filled).sum(-1)
            e.scatter_(3, place, filled)
            log_det_rows = (log_det[:, None] + log_det_missing)[:, :, None]
        else:
            log_det_rows = log_det[:, None, None]
        return -0.5 * (distance + log_det_rows + (d - m) * LOG_2PI), e, spread

    def _expect_holes(
        self,
        x: Tensor,
        observed: Tensor,
        *,
        log_weights: Tensor | None = None,
        weight: Tensor | None = None,
        given: Tensor | None = None,
        r: Tensor | None = None,
        spread_r: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        """E-step and sums in one sweep over the blocks; with `r` the responsibilities are given (and with `spread_r`
        those that weigh the covariances of what is missing)."""
        precision, log_det = self._precision()
        k, d = self.mean.shape
        log_p = torch.zeros(len(x), dtype=torch.float64, device=x.device)

        def work(part: Sequence[Block]) -> tuple[Tensor, Tensor, Tensor]:
            count = torch.zeros(k, dtype=torch.float64, device=x.device)
            first = torch.zeros(k, d, dtype=torch.float64, device=x.device)
            second = torch.zeros(k, d, d, dtype=torch.float64, device=x.device)
            for block in part:
                joint, e, spread = self._fill(x, block, precision, log_det)
                if r is None:
                    assert log_weights is not None
                    joint += log_weights[:, None, None]
                    if given is not None:
                        joint += given[block.rows].permute(2, 0, 1)
                    total = torch.logsumexp(joint, 0)
                    log_p[block.rows[block.valid]] = total[block.valid]
                    share = joint.sub_(total).exp_()
                    share *= block.valid if weight is None else block.valid * weight[block.rows]
                else:
                    share = r[block.rows].permute(2, 0, 1) * block.valid
                count += share.sum((1, 2))
                scaled = e * share[..., None]
                first += scaled.sum((1, 2))
                second += torch.bmm(scaled.view(k, -1, d).transpose(1, 2), e.view(k, -1, d))
                if spread.shape[-1]:
                    cell = block.missing[:, :, None] * d + block.missing[:, None, :]
                    if spread_r is not None:
                        share = spread_r[block.rows].permute(2, 0, 1) * block.valid
                    weighted = spread * share.sum(2)[..., None, None]
                    second.view(k, d * d).index_add_(1, cell.flatten(), weighted.reshape(k, -1))
            return count, first, second

        parts = in_parallel(work, self._blocks(observed), x.device)
        count, first, second = (sum_tensors([part[number] for part in parts]) for number in range(3))
        return self._from_moments(count, first, second), log_p

    def mean_given(self, x: Tensor, observed: Tensor, r: Tensor) -> Tensor:
        precision, log_det = self._precision()
        out = x.double().clone()
        for block in self._blocks(observed):
            _, e, _ = self._fill(x, block, precision, log_det)
            share = r[block.rows].permute(2, 0, 1)
            value = ((e + self.mean[:, None, None, :]) * share[..., None]).sum(0)
            out[block.rows[block.valid]] = value[block.valid]
        return torch.where(observed, x.double(), out)

    def draw_given(self, x: Tensor, observed: Tensor, k: Tensor, noise: Noise) -> Tensor:
        normal = noise.normal(self.width).double()
        precision, _ = self._precision()
        out = x.double().clone()
        missed = (~observed).sum(1)
        for m in torch.unique(missed[missed > 0]).tolist():
            chosen = torch.nonzero(missed == m)[:, 0]
            for part in slices(len(chosen), piece_rows(self.width**2, least=16)):
                rows = chosen[part]
                hidden = torch.nonzero(~observed[rows])[:, 1].view(len(rows), m)
                own = k[rows]
                e = torch.where(observed[rows], x[rows].double() - self.mean[own], 0.0)
                wide = precision[own[:, None], hidden]  # (rows, m, d)
                spread, _ = spd_inverse(wide.gather(2, hidden[:, None, :].expand(-1, m, -1)))
                mean = self.mean[own].gather(1, hidden) - (spread @ (wide @ e[:, :, None]))[:, :, 0]
                root = cholesky(spread)
                draw = mean + (root @ normal[rows].gather(1, hidden)[:, :, None])[:, :, 0]
                out[rows[:, None], hidden] = draw
        return out

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        normal = noise.normal(self.width).double()
        lower = self._roots()
        if len(lower) == 1:
            return self.mean[k] + normal @ lower[0].t()
        out = self.mean[k].clone()
        for member in torch.unique(k).tolist():  # one product per member beats gathering (n, d, d)
            rows = torch.nonzero(k == member)[:, 0]
            out[rows] += normal[rows] @ lower[member].t()
        return out

    def _roots(self) -> Tensor:
        """Lower Cholesky factors, (K, d, d), or (1, d, d) when all members share one."""
        return cholesky(self.covariances())


class FeaturedGaussians(CorrelatedGaussians, SharedFeatures):
    """Shapes whose complete rows have shared features, used while they lose no digits."""

    def complete(self, holes: bool) -> bool:
        return not holes

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        if observed is None and self.safe(x.dtype):
            return SharedFeatures.log_prob(self, x)
        return CorrelatedGaussians.log_prob(self, x, observed)

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        if observed is None and self.safe(x.dtype):
            return SharedFeatures.sums(self, x, None, r)
        return CorrelatedGaussians.sums(self, x, observed, r)

    def expect(
        self,
        x: Tensor,
        observed: Tensor | None,
        log_weights: Tensor,
        weight: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        if observed is None:
            return SharedFeatures.expect(self, x, None, log_weights, weight, given)
        return CorrelatedGaussians.expect(self, x, observed, log_weights, weight, given)


class FullGaussian(FeaturedGaussians):
    """One full covariance matrix per member."""

    own: tuple[str, ...] = ("mean", "covariance")
    covariance: Tensor
    upper: Tensor

    def __init__(self, size: int, width: int, floor: Tensor, *, prior: float = 0.0) -> None:
        super().__init__(size, width, floor, prior=prior)
        eye = torch.eye(width, dtype=torch.float64)
        self.register_buffer("covariance", eye.expand(size, -1, -1).clone())
        self.register_buffer("upper", torch.triu_indices(width, width), persistent=False)

    def covariances(self) -> Tensor:
        return self.covariance

    def _shaped(self) -> Tensor:
        return self.covariance

    def _spread(self, variance: Tensor) -> None:
        self.covariance.copy_(torch.diag(variance).expand_as(self.covariance))

    def _whitening(self) -> tuple[Tensor, Tensor]:
        """(A, log det Sigma): A lower triangular with A^T A the precision."""
        return whitening(self.covariance)

    def _precision(self) -> tuple[Tensor, Tensor]:
        a, log_det = self._whitening()
        return a.transpose(1, 2) @ a, log_det

    def feature_count(self, holes: bool) -> int:
        return self.width * (self.width + 1) // 2 + self.width

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        d = self.width
        rows = out[d * (d + 1) // 2 :]
        rows.copy_(x)
        start = 0
        for i in range(d):
            torch.mul(rows[i], rows[i:], out=out[start : start + d - i])
            start += d - i

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        precision, log_det = self._precision()
        linear = (precision @ self.mean[:, :, None])[:, :, 0]
        constant = -0.5 * ((linear * self.mean).sum(1) + log_det + self.width * LOG_2PI)
        i, j = self.upper
        squares = precision[:, i, j] * torch.where(i == j, -0.5, -1.0)
        return torch.cat([squares, linear], 1), constant

    def safe(self, dtype: torch.dtype) -> bool:
        if self.width > _MOST_SQUARES:
            return False
        precision, _ = self._precision()
        size = self.mean.abs()
        terms = (precision.abs() @ size[:, :, None])[:, :, 0]
        return not self._cancels((terms * size).sum(1), dtype)

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        d, mean = self.width, self.mean
        i, j = self.upper
        second = torch.empty(self.size, d, d, dtype=torch.float64, device=product.device)
        second[:, i, j] = product[:, : len(i)]
        second[:, j, i] = product[:, : len(i)]
        first = product[:, len(i) :]
        cross = first[:, :, None] * mean[:, None, :]
        about = second - cross - cross.transpose(1, 2) + count[:, None, None] * mean[:, :, None] * mean[:, None, :]
        return {"first": first - count[:, None] * mean, "second": about}

    def _from_moments(self, count: Tensor, first: Tensor, second: Tensor) -> Sums:
        return {"count": count, "first": first, "second": second}

    def _log_prob_whole(self, x: Tensor) -> Tensor:
        a, log_det = self._whitening()
        k, d = self.mean.shape
        offset = (a @ self.mean[:, :, None]).reshape(k * d).to(x.dtype)
        stacked = a.reshape(k * d, d).t().to(x.dtype)
        out = torch.empty(len(x), k, dtype=torch.float64, device=x.device)

        def work(part: Sequence[slice]) -> None:
            for rows in part:
                white = torch.addmm(-offset, x[rows], stacked).view(-1, k, d)
                out[rows] = white.square_().sum(2)

        in_parallel(work, slices(len(x), piece_rows(k * d, least=64)), x.device)
        return out.add_(log_det + d * LOG_2PI).mul_(-0.5)

    def _sums_whole(self, x: Tensor, r: Tensor) -> Sums:
        def work(part: Sequence[slice]) -> tuple[Tensor, Tensor]:
            first, second = torch.zeros_like(self.mean), torch.zeros_like(self.covariance)
            mean = self.mean.to(x.dtype)
            for rows in part:
                share = r[rows].to(x.dtype)
                for k in range(self.size):
                    difference = x[rows] - mean[k]
                    first[k] += share[:, k] @ difference
                    difference *= share[:, k : k + 1].sqrt()
                    second[k] += difference.t() @ difference
            return first, second

        parts = in_parallel(work, slices(len(x), piece_rows(self.width)), x.device)
        first, second = (sum_tensors([part[number] for part in parts]) for number in range(2))
        return {"count": r.sum(0), "first": first, "second": second}

    def maximise(self, sums: Sums) -> Move:
        delta, count = self._delta(sums), sums["count"]
        moved = self._moved(sums, delta)
        total = _symmetric(moved["second"]) + self.prior * torch.diag(self.overall)
        new = total / (count + self.prior).clamp_min(EMPTY)[:, None, None] + torch.diag(self.floor)
        self.mean.add_(delta)
        self.covariance.copy_(keep_if_empty(count, new, self.covariance))
        return lambda older: self._moved(older, delta)

    def _moved(self, sums: Sums, delta: Tensor) -> Sums:
        """The sums about means that lie `delta` further."""
        count = sums["count"]
        cross = sums["first"][:, :, None] * delta[:, None, :]
        square = delta[:, :, None] * delta[:, None, :]
        second = sums["second"] - cross - cross.transpose(1, 2) + count[:, None, None] * square
        return {**sums, "first": sums["first"] - count[:, None] * delta, "second": second}

    def implied(self, count: Tensor) -> Sums:
        second = count[:, None, None] * (self.covariance - torch.diag(self.floor))
        return {"count": count, "first": torch.zeros_like(self.mean), "second": second}

    def free_parameters(self) -> int:
        return self.size * (self.width + self.width * (self.width + 1) // 2)

    def log_prior(self) -> Tensor:
        precision, log_det = self._precision()
        trace = (precision.diagonal(dim1=1, dim2=2) * self.overall).sum(1)
        return -0.5 * self.prior * (log_det + trace).sum()


class TiedGaussian(FeaturedGaussians):
    """One covariance matrix that all members share."""

    covariance: Tensor

    def __init__(self, size: int, width: int, floor: Tensor, *, prior: float = 0.0) -> None:
        super().__init__(size, width, floor, prior=prior)
        self.register_buffer("covariance", torch.eye(width, dtype=torch.float64))

    def covariances(self) -> Tensor:
        return self.covariance.expand(self.size, -1, -1)

    def _shaped(self) -> Tensor:
        return self.covariance

    def _spread(self, variance: Tensor) -> None:
        self.covariance.copy_(torch.diag(variance))

    def _whitening(self) -> tuple[Tensor, Tensor]:
        a, log_det = whitening(self.covariance[None])
        return a[0], log_det[0]

    def _precision(self) -> tuple[Tensor, Tensor]:
        a, log_det = self._whitening()
        return (a.t() @ a).expand(self.size, -1, -1), log_det.expand(self.size)

    def complete(self, holes: bool) -> bool:
        return False  # sum w x x^T is no sum of the members'

    def feature_count(self, holes: bool) -> int:
        return self.width

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        out.copy_(x)

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        precision, log_det = self._precision()
        linear = self.mean @ precision[0]
        return linear, -0.5 * ((linear * self.mean).sum(1) + log_det + self.width * LOG_2PI)

    def base(self, x: Tensor, observed: Tensor | None) -> Tensor | None:
        a, _ = self._whitening()
        return (a.to(x.dtype) @ x).square_().sum(0).double().mul_(-0.5)

    def safe(self, dtype: torch.dtype) -> bool:
        a, _ = self._whitening()
        return not self._cancels((self.mean @ a.t()).square().sum(1), dtype)

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        return {"first": product - count[:, None] * self.mean}

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        found = super().sums(x, observed, r)
        if "second" not in found:
            found["second"] = self._second(x, r.sum(1), found)
        return found

    def expect(
        self,
        x: Tensor,
        observed: Tensor | None,
        log_weights: Tensor,
        weight: Tensor | None = None,
        given: Tensor | None = None,
    ) -> tuple[Sums, Tensor]:
        found, log_p = super().expect(x, observed, log_weights, weight, given)
        if "second" not in found:
            found["second"] = self._second(x, weight, found)
        return found, log_p

    def _second(self, x: Tensor, weight: Tensor | None, found: Sums) -> Tensor:
        """sum r e e^T over all members, from sum w x x^T, which does not depend on the responsibilities."""

        def work(part: Sequence[slice]) -> Tensor:
            total = torch.zeros_like(self.covariance)
            for rows in part:
                left = x[rows] if weight is None else x[rows] * weight[rows, None].to(x.dtype)
                total += left.t() @ x[rows]
            return total

        second = sum_tensors(in_parallel(work, slices(len(x), piece_rows(self.width)), x.device))
        cross = found["first"].t() @ self.mean
        return second - cross - cross.t() - (self.mean * found["count"][:, None]).t() @ self.mean

    def _from_moments(self, count: Tensor, first: Tensor, second: Tensor) -> Sums:
        return {"count": count, "first": first, "second": second.sum(0)}

    def _log_prob_whole(self, x: Tensor) -> Tensor:
        a, log_det = self._whitening()
        white, centres = x.double() @ a.t(), self.mean @ a.t()
        distance = torch.cdist(white, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        return distance.add_(log_det + self.width * LOG_2PI).mul_(-0.5)

    def _sums_whole(self, x: Tensor, r: Tensor) -> Sums:
        first, second = torch.zeros_like(self.mean), torch.zeros_like(self.covariance)
        for k in range(self.size):
            difference = x.double() - self.mean[k]
            first[k] = r[:, k] @ difference
            difference *= r[:, k : k + 1].sqrt()
            second += difference.t() @ difference
        return {"count": r.sum(0), "first": first, "second": second}

    def maximise(self, sums: Sums) -> Move:
        delta, count = self._delta(sums), sums["count"]
        moved = self._moved(sums, delta)
        total = _symmetric(moved["second"]) + self.prior * torch.diag(self.overall)
        self.mean.add_(delta)
        self.covariance.copy_(total / (count.sum() + self.prior).clamp_min(EMPTY) + torch.diag(self.floor))
        return lambda older: self._moved(older, delta)

    def _moved(self, sums: Sums, delta: Tensor) -> Sums:
        """The sums about means that lie `delta` further."""
        count = sums["count"][:, None]
        cross = sums["first"].t() @ delta
        second = sums["second"] - cross - cross.t() + (delta * count).t() @ delta
        return {**sums, "first": sums["first"] - count * delta, "second": second}

    def implied(self, count: Tensor) -> Sums:
        second = count.sum() * (self.covariance - torch.diag(self.floor))
        return {"count": count, "first": torch.zeros_like(self.mean), "second": second}

    def free_parameters(self) -> int:
        return self.size * self.width + self.width * (self.width + 1) // 2

    def log_prior(self) -> Tensor:
        precision, log_det = self._precision()
        return -0.5 * self.prior * (log_det[0] + (precision[0].diagonal() * self.overall).sum())

    def _roots(self) -> Tensor:
        return cholesky(self.covariance[None])


class LowRankGaussian(CorrelatedGaussians):
    """Sigma_k = W_k W_k^T + diag(psi_k) with W (d, q): a mixture of factor analysers (Ghahramani & Hinton 1996)."""

    own = ("mean", "loading", "variance")
    waves: Tensor
    loading: Tensor
    variance: Tensor

    def __init__(self, size: int, width: int, rank: int, floor: Tensor, *, prior: float = 0.0) -> None:
        super().__init__(size, width, floor, prior=prior)
        self.rank = rank
        # Distinct columns: equal ones would stay equal for ever.
        waves = torch.arange(1, rank + 1)[None] * (torch.arange(width)[:, None] + 0.5) * (math.pi / width)
        self.register_buffer("waves", torch.cos(waves).double(), persistent=False)
        self.register_buffer("loading", 0.5 * self.waves.expand(size, -1, -1).clone())
        self.register_buffer("variance", torch.ones(size, width, dtype=torch.float64))

    def _shaped(self) -> Tensor:
        return self.covariances()

    def covariances(self) -> Tensor:
        return self.loading @ self.loading.transpose(1, 2) + torch.diag_embed(self.variance)

    def _spread(self, variance: Tensor) -> None:
        """Half of the variance (d,) or (K, d) to the factors, in directions that differ."""
        half = 0.5 * variance.expand_as(self.variance)
        self.variance.copy_(half)
        waves = self.waves / self.waves.square().sum(1, keepdim=True).clamp_min(1e-300).sqrt()
        self.loading.copy_(waves * half.sqrt()[:, :, None])

    def settle(self) -> bool:
        """Loadings of the size of all rows' spread would all but vanish in a member that is much narrower, and EM leaves
        zero slowly."""
        self._spread(self.covariances().diagonal(dim1=1, dim2=2).clone())
        return True

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(G, log det Sigma): G (K, q, d) with E[z | x] = G (x - mean), and Woodbury's determinant."""
        scaled = self.loading / self.variance[:, :, None]
        inner = torch.eye(self.rank, dtype=torch.float64, device=scaled.device) + self.loading.transpose(1, 2) @ scaled
        lower = cholesky(inner)
        gain = torch.cholesky_solve(scaled.transpose(1, 2), lower)
        log_det = self.variance.log().sum(1) + 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
        return gain, log_det

    def _precision(self) -> tuple[Tensor, Tensor]:
        gain, log_det = self._factors()
        scaled = self.loading / self.variance[:, :, None]
        return torch.diag_embed(1 / self.variance) - scaled @ gain, log_det

    def _log_prob_whole(self, x: Tensor) -> Tensor:
        gain, log_det = self._factors()
        inner = self.loading / self.variance[:, :, None]
        out = torch.empty(len(x), self.size, dtype=torch.float64, device=x.device)

        def work(part: Sequence[slice]) -> None:
            for rows in part:
                for k in range(self.size):
                    e = x[rows].double() - self.mean[k]
                    explained = ((e @ inner[k]) * (e @ gain[k].t())).sum(1)
                    out[rows, k] = (e.square_() / self.variance[k]).sum(1) - explained

        in_parallel(work, slices(len(x), piece_rows(self.width)), x.device)
        return out.add_(log_det + self.width * LOG_2PI).mul_(-0.5)

    def _sums_whole(self, x: Tensor, r: Tensor) -> Sums:
        gain, _ = self._factors()

        def work(part: Sequence[slice]) -> tuple[Tensor, Tensor, Tensor]:
            first, second = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
            cross = torch.zeros_like(self.loading)
            for rows in part:
                for k in range(self.size):
                    e = x[rows].double() - self.mean[k]
                    scaled = e * r[rows, k : k + 1]
                    first[k] += scaled.sum(0)
                    second[k] += (scaled * e).sum(0)
                    cross[k] += scaled.t() @ (e @ gain[k].t())
            return first, second, cross

        parts = in_parallel(work, slices(len(x), piece_rows(self.width)), x.device)
        first, second, cross = (sum_tensors([part[number] for part in parts]) for number in range(3))
        return {"count": r.sum(0), "first": first, "second": second, "cross": cross}

    def _from_moments(self, count: Tensor, first: Tensor, second: Tensor) -> Sums:
        gain, _ = self._factors()
        cross = second @ gain.transpose(1, 2)
        return {"count": count, "first": first, "second": second.diagonal(dim1=1, dim2=2).clone(), "cross": cross}

    def maximise(self, sums: Sums) -> Move:
        """One EM step of factor analysis about the new means: W = C (N (I - G W) + G C)^-1 with C = sum r e E[z]^T."""
        gain, _ = self._factors()
        delta, count = self._delta(sums), sums["count"]
        moved = self._moved(sums, delta, gain)
        cross, safe = moved["cross"], count.clamp_min(EMPTY)
        eye = torch.eye(self.rank, dtype=torch.float64, device=gain.device)
        moment = safe[:, None, None] * (eye - gain @ self.loading) + gain @ cross
        loading = torch.linalg.solve(_symmetric(moment), cross.transpose(1, 2)).transpose(1, 2)
        rest = (moved["second"] - (loading * cross).sum(2)).clamp_min(0) + self.prior * self.overall
        variance = rest / (safe[:, None] + self.prior) + self.floor
        self.mean.add_(delta)
        self.loading.copy_(keep_if_empty(count, loading, self.loading))
        self.variance.copy_(keep_if_empty(count, variance, self.variance))
        return lambda older: self._moved(older, delta, gain)

    def _moved(self, sums: Sums, delta: Tensor, gain: Tensor) -> Sums:
        """The sums about means that lie `delta` further, E[z] still read with `gain`."""
        count, first = sums["count"][:, None], sums["first"]
        shift = (gain @ delta[:, :, None])[:, :, 0]
        image = (gain @ first[:, :, None])[:, :, 0]
        cross = sums["cross"] - delta[:, :, None] * image[:, None, :]
        cross = cross - (first - count * delta)[:, :, None] * shift[:, None, :]
        second = sums["second"] - 2 * delta * first + count * delta.square()
        return {**sums, "first": first - count * delta, "second": second, "cross": cross}

    def implied(self, count: Tensor) -> Sums:
        second = count[:, None] * (self.covariances().diagonal(dim1=1, dim2=2) - self.floor)
        cross = count[:, None, None] * self.loading  # Sigma G^T = W
        return {"count": count, "first": torch.zeros_like(self.mean), "second": second, "cross": cross}

    def free_parameters(self) -> int:
        """Loadings count up to a rotation of the factors."""
        return self.size * (self.width * (self.rank + 2) - self.rank * (self.rank - 1) // 2)

    def log_prior(self) -> Tensor:
        return -0.5 * self.prior * (self.variance.log() + self.overall / self.variance).sum()

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        z = noise.normal(self.rank).double()
        return (
            self.mean[k]
            + (self.loading[k] @ z[:, :, None])[:, :, 0]
            + noise.normal(self.width).double() * self.variance[k].sqrt()
        )


def gaussians(shape: str, size: int, width: int, floor: Tensor, *, rank: int = 1, prior: float = 0.0) -> Gaussians:
    """The set of that shape: full, tied, diag, spherical or low-rank."""
    if shape == "low-rank":
        return LowRankGaussian(size, width, rank, floor, prior=prior)
    kinds: dict[str, type[Gaussians]] = {
        "full": FullGaussian,
        "tied": TiedGaussian,
        "diag": DiagonalGaussian,
        "spherical": SphericalGaussian,
    }
    return kinds[shape](size, width, floor, prior=prior)


def whitening(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """(A, log det) of (K, d, d) matrices: A lower triangular with A^T A the inverse."""
    lower = cholesky(covariances)
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    a = torch.linalg.solve_triangular(lower, eye, upper=False)
    return a, 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)


def cholesky(matrices: Tensor) -> Tensor:
    """Batched Cholesky factors; only matrices that fail get jitter, ten times more each try."""
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(matrices)
    jitter = 1e-12
    while bool((info > 0).any()):
        if jitter > 1e-2:
            raise DataError("a covariance is not positive definite: raise floor, or use fewer components")
        scale = matrices.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)
        bad = (info > 0).to(matrices.dtype)
        eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
        lower, info = torch.linalg.cholesky_ex(matrices + (bad * scale * jitter)[..., None, None] * eye)
        jitter *= 10
    return lower


def _symmetric(matrices: Tensor) -> Tensor:
    return 0.5 * (matrices + matrices.transpose(-1, -2))
