"""Gaussians whose columns depend on one another: rows with missing cells, whatever the shape.

Missing cells are integrated out through the precision matrix L: with the missing cells m of a row at their conditional
mean, the Mahalanobis distance of the filled row is that of the observed cells, and Cov[x_m | x_o] = (L_mm)^-1
(Ghahramani & Jordan 1994).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.inference.pieces import CACHE_NUMBERS, in_parallel, piece_rows, slices
from reverie.probability.exponential_family import LOG_2PI, Sums, sum_tensors
from reverie.probability.gaussians.gaussian import Gaussians
from reverie.probability.gaussians.holes import Block, blocks
from reverie.probability.gaussians.matrices import cholesky, spd_inverse
from reverie.rng import Noise


class CorrelatedGaussians(Gaussians):
    """Shapes whose columns depend on one another: rows with missing cells need matrices of their own."""

    matrices = True

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
