"""Sets of K multivariate Student t distributions: Gaussians whose covariance each row scales by its own 1 / u.

x | u, k ~ N(mean_k, scale_k / u), u ~ Gamma(nu_k / 2, nu_k / 2). EM over k and u (Peel & McLachlan 2000): outlying rows
get a small E[u], so they hardly move means and scales; nu_k is learned from E[log u] - E[u].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reverie.probability.exponential_family import EMPTY, Components, Move, Sums, keep_if_empty
from reverie.probability.gaussians.correlated import CorrelatedGaussians
from reverie.probability.gaussians.full import FullGaussian
from reverie.probability.gaussians.holes import Block
from reverie.probability.gaussians.matrices import spd_inverse, symmetric
from reverie.rng import Noise

_DEGREES = (0.5, 200.0)
"""Bounds of the degrees of freedom: heavier tails than Cauchy's help nobody, lighter ones are Gaussian."""


class StudentT(FullGaussian):
    """Full scale matrices (`covariance`) and degrees of freedom nu (K,). The floor is added to the scales."""

    own = ("mean", "covariance", "degrees")
    degrees: Tensor
    expect = Components.expect

    def __init__(self, size: int, width: int, floor: Tensor, *, prior: float = 0.0, learn_degrees: bool = True) -> None:
        super().__init__(size, width, floor, prior=prior)
        self.learn_degrees = learn_degrees
        self.register_buffer("degrees", torch.full((size,), 10.0, dtype=torch.float64))

    def complete(self, holes: bool) -> bool:
        return False  # the features are those of the normals inside

    def _distance(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mahalanobis distance of the observed cells (n, K), log det of their scale (n or 1, K), how many (n or 1, 1)."""
        precision, log_det = self._precision()
        if observed is None:
            log_normal = FullGaussian.log_prob(self, x)
            width = torch.full((1, 1), float(self.width), dtype=torch.float64, device=x.device)
            return -2 * log_normal - log_det - self.width * math.log(2 * math.pi), log_det[None], width
        log_normal = self._log_prob_holes(x, observed)
        log_det_rows = torch.empty_like(log_normal)
        for block in self._blocks(observed):
            rows = block.rows[block.valid]
            log_det_rows[rows] = self._log_det_seen(block, precision, log_det)[block.valid]
        width = observed.sum(1, keepdim=True).double()
        return -2 * log_normal - log_det_rows - width * math.log(2 * math.pi), log_det_rows, width

    def _log_det_seen(self, block: Block, precision: Tensor, log_det: Tensor) -> Tensor:
        """log det of the observed cells' scale, (P, R, K)."""
        total = log_det[:, None]
        if block.missing.shape[1]:
            _, missing = spd_inverse(precision[:, block.missing[:, :, None], block.missing[:, None, :]])
            total = total + missing
        return total.t()[:, None, :].expand(-1, block.rows.shape[1], -1).expand(*block.rows.shape, self.size)

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        distance, log_det, width = self._distance(x, observed)
        nu = self.degrees
        constant = torch.lgamma(0.5 * (nu + width)) - torch.lgamma(0.5 * nu) - 0.5 * width * torch.log(nu * math.pi)
        return constant - 0.5 * log_det - 0.5 * (nu + width) * torch.log1p(distance.clamp_min(0) / nu)

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        distance, _, width = self._distance(x, observed)
        half = 0.5 * (self.degrees + width)
        rate = 0.5 * (self.degrees + distance.clamp_min(0))
        u = half / rate
        if observed is None:
            found = FullGaussian.sums(self, x, None, r * u)
        else:
            found = self._expect_holes(x, observed, r=r * u, spread_r=r)[0]
        log_u = torch.digamma(half) - torch.log(rate)
        return {**found, "scaled": found["count"], "count": r.sum(0), "log_less_u": (r * (log_u - u)).sum(0)}

    def maximise(self, sums: Sums) -> Move:
        """Means from sum r u x / sum r u, scales from sum r u e e^T / sum r (Peel & McLachlan 2000, eqs. 29-31)."""
        scaled = {**sums, "count": sums["scaled"]}
        delta = self._delta(scaled)
        moved = self._moved(scaled, delta)
        total = symmetric(moved["second"]) + self.prior * torch.diag(self.overall)
        count = sums["count"]
        new = total / (count + self.prior).clamp_min(EMPTY)[:, None, None] + torch.diag(self.floor)
        self.mean.add_(delta)
        self.covariance.copy_(keep_if_empty(count, new, self.covariance))
        if self.learn_degrees:
            target = sums["log_less_u"] / count.clamp_min(EMPTY)
            self.degrees.copy_(keep_if_empty(count, _solve_degrees(target), self.degrees))

        def move(older: Sums) -> Sums:
            found = self._moved({**older, "count": older["scaled"]}, delta)
            return {**older, "first": found["first"], "second": found["second"]}

        return move

    def implied(self, count: Tensor) -> Sums:
        found = super().implied(count)
        half = 0.5 * self.degrees
        less = count * (torch.digamma(half) - torch.log(half) - 1)
        return {**found, "scaled": count, "log_less_u": less}

    def free_parameters(self) -> int:
        return super().free_parameters() + (self.size if self.learn_degrees else 0)

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        centred = super().draw(k, noise) - self.mean[k]
        return self.mean[k] + centred / _gamma(self.degrees[k], noise)[:, None].sqrt()

    def draw_given(self, x: Tensor, observed: Tensor, k: Tensor, noise: Noise) -> Tensor:
        """x_m | x_o is again Student t: nu + |o| degrees, the scale times (nu + distance) / (nu + |o|)."""
        distance, _, width = self._distance(x, observed)
        own = k[:, None]
        degrees = (self.degrees + width).gather(1, own)[:, 0]
        stretch = (self.degrees + distance.clamp_min(0)).gather(1, own)[:, 0] / degrees
        mean = self.mean_given(x, observed, torch.nn.functional.one_hot(k, self.size).double())
        draw = CorrelatedGaussians.draw_given(self, x, observed, k, noise)
        factor = (stretch / _gamma(degrees, noise)).sqrt()
        return torch.where(observed, x.double(), mean + (draw - mean) * factor[:, None])


def _gamma(degrees: Tensor, noise: Noise) -> Tensor:
    """u ~ Gamma(nu / 2, rate nu / 2), (n,), from a fixed number of draws per row.

    Marsaglia & Tsang (2000), with the first accepted of 16 proposals; with nu >= 1/2 raised by 1, all 16 fail with
    probability below 1e-20.
    """
    shape = 0.5 * degrees
    raised = shape + 1
    d = (raised - 1 / 3)[:, None]
    normal = noise.normal(16).double()
    uniform = noise.uniform(17).double().clamp_min(1e-300)
    v = (1 + normal / (3 * d.sqrt())).pow(3)
    safe = v.clamp_min(1e-300)
    ok = (v > 0) & (uniform[:, :16].log() < 0.5 * normal.square() + d - d * v + d * safe.log())
    first = ok.double().argmax(1, keepdim=True)
    drawn = (d * v).gather(1, first)[:, 0] * uniform[:, 16].pow(1 / shape)
    return drawn.clamp_min(1e-300) / shape


def _solve_degrees(target: Tensor) -> Tensor:
    """nu with log(nu / 2) - digamma(nu / 2) + 1 + target = 0, by bisection on the log scale within bounds.

    The function falls from above to below as nu grows; at a bound the bound is the maximiser.
    """
    low = torch.full_like(target, math.log(_DEGREES[0]))
    high = torch.full_like(target, math.log(_DEGREES[1]))
    for _ in range(60):
        middle = 0.5 * (low + high)
        half = 0.5 * middle.exp()
        above = torch.log(half) - torch.digamma(half) + 1 + target > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (0.5 * (low + high)).exp()
