"""Gaussians with a full covariance matrix each, or one that all share: complete rows from the features x and x x^T."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.inference.pieces import in_parallel, piece_rows, slices
from reverie.probability.exponential_family import EMPTY, LOG_2PI, Move, Sums, keep_if_empty, sum_tensors
from reverie.probability.features import SharedFeatures
from reverie.probability.gaussians.correlated import CorrelatedGaussians
from reverie.probability.gaussians.matrices import cholesky, symmetric, whitening

_MOST_SQUARES = 96
"""Columns up to which x x^T is written out as features."""


class FeaturedGaussians(SharedFeatures, CorrelatedGaussians):
    """Shapes whose complete rows have shared features, used while they lose no digits."""

    _sums_apart = CorrelatedGaussians.sums
    _expect_apart = CorrelatedGaussians.expect

    def _log_prob_apart(self, x: Tensor, observed: Tensor | None) -> Tensor:
        return CorrelatedGaussians.log_prob(self, x, observed)

    def complete(self, holes: bool) -> bool:
        return not holes

    def fused(self, x: Tensor, observed: Tensor | None) -> bool:
        return observed is None and self.safe(x.dtype)


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
        total = symmetric(moved["second"]) + self.prior * torch.diag(self.overall)
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
        total = symmetric(moved["second"]) + self.prior * torch.diag(self.overall)
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
