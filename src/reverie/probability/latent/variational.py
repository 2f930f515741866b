"""Variational Gaussians and weights: posteriors over the parameters instead of points (Bishop 2006, section 10.2).

q(mean_k, precision_k) = N(mean_k | m_k, (beta_k L)^-1) Wishart(L | W_k, nu_k). The sums of EM are all that the posteriors
need, so a running average of them is stochastic variational inference (Hoffman et al. 2013).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reverie.probability.exponential_family import Move, Sums
from reverie.probability.gaussians.full import FullGaussian
from reverie.probability.gaussians.matrices import symmetric
from reverie.probability.gaussians.student import StudentT
from reverie.probability.latent.mixture import Weights

_LOG_2 = math.log(2)


class VariationalGaussian(FullGaussian):
    """`mean` holds m, `covariance` the inverse of nu W: the plug-in Gaussians of the E-step, whose log-densities
    `correction` turns into expectations.

    The prior: the data's mean with `mean_rows` (beta_0) pseudo-rows, and `share` of the data's covariance (d, d) with
    `covariance_rows` (nu_0) of them; `begin` sets both.
    """

    needs_rows = False
    beta: Tensor
    nu: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(self, size: int, width: int, *, mean_rows: float, covariance_rows: float, share: float) -> None:
        super().__init__(size, width, torch.zeros(width))
        self.mean_rows, self.covariance_rows, self.share = mean_rows, max(covariance_rows, width), share
        self.register_buffer("beta", torch.full((size,), mean_rows, dtype=torch.float64))
        self.register_buffer("nu", torch.full((size,), self.covariance_rows, dtype=torch.float64))
        self.register_buffer("scale", torch.eye(width, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(width, dtype=torch.float64))

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        super().begin(rows, observed)
        filled = rows.double() if observed is None else torch.where(observed, rows.double(), self.mean[0])
        spread = filled - self.mean[0]
        covariance = spread.t() @ spread / max(len(rows), 1)
        floor = 1e-6 * covariance.diagonal().mean()
        self.scale.copy_(self.share * covariance + floor * torch.eye(self.width).to(covariance))
        self.centre.copy_(self.mean[0])
        self.covariance.copy_(self.scale.expand_as(self.covariance))

    def correction(self) -> Tensor:
        """E[log N(x | k)] - log N(x | m, (nu W)^-1), (K,): Bishop (2006), eqs. 10.64 and 10.65."""
        d = self.width
        return 0.5 * (_digamma_d(0.5 * self.nu, d) + d * (_LOG_2 - self.nu.log())) - 0.5 * d / self.beta

    def maximise(self, sums: Sums) -> Move:
        """The posteriors from the sums: Bishop (2006), eqs. 10.60-10.63."""
        count = sums["count"]
        beta, nu = self.mean_rows + count, self.covariance_rows + count
        # The new mean, measured from the old: (beta_0 (m_0 - m) + sum r (x - m)) / beta.
        back = self.centre - self.mean
        delta = (self.mean_rows * back + sums["first"]) / beta[:, None]
        moved = self._moved(sums, delta)
        gap = back - delta  # m_0 less the new mean
        inverse = self.covariance_rows * self.scale + moved["second"]
        inverse = inverse + self.mean_rows * gap[:, :, None] * gap[:, None, :]
        self.mean.add_(delta)
        self.beta.copy_(beta)
        self.nu.copy_(nu)
        self.covariance.copy_(symmetric(inverse) / nu[:, None, None])
        return lambda older: self._moved(older, delta)

    def implied(self, count: Tensor) -> Sums:
        """Sums of `count` rows with these means and covariances."""
        second = count[:, None, None] * self.covariance
        return {"count": count, "first": torch.zeros_like(self.mean), "second": second}

    def log_prior(self) -> Tensor:
        """Minus the divergence of the posteriors from the prior, in nats."""
        d, nu, nu0, beta, beta0 = self.width, self.nu, self.covariance_rows, self.beta, self.mean_rows
        precision, log_det = self._precision()  # nu W and -log det(nu W)
        gap = self.mean - self.centre
        distance = ((gap[:, None, :] @ precision) @ gap[:, :, None])[:, 0, 0]
        means = 0.5 * (d * (beta / beta0).log() + d * beta0 / beta - d + beta0 * distance)
        log_det_w = -log_det - d * nu.log()
        log_det_w0 = -torch.linalg.slogdet(nu0 * self.scale)[1]
        trace = (nu0 * self.scale * precision).sum((1, 2)) / nu
        wishart: Tensor = (
            0.5 * nu0 * (log_det_w0 - log_det_w)
            + 0.5 * nu * (trace - d)
            + torch.special.multigammaln(torch.tensor(0.5 * nu0, dtype=torch.float64, device=nu.device), d)
            - torch.special.multigammaln(0.5 * nu, d)
            + 0.5 * (nu - nu0) * _digamma_d(0.5 * nu, d)
        )
        divergence: Tensor = (means + wishart).sum()
        return -divergence

    def predictive(self) -> StudentT:
        """p(x | k, data): Student t with nu + 1 - d degrees and scale (1 + beta) / (beta (nu + 1 - d)) W^-1."""
        degrees = self.nu + 1 - self.width
        out = StudentT(self.size, self.width, torch.zeros(self.width), learn_degrees=False).to(self.mean.device)
        out.mean.copy_(self.mean)
        out.covariance.copy_(self.covariance * (self.nu * (1 + self.beta) / (self.beta * degrees))[:, None, None])
        out.degrees.copy_(degrees)
        return out

    def merged(self, sums: Sums, pairs: list[tuple[int, int]]) -> Sums:
        """The sums with each pair's second member added to its first, the second then without rows."""
        count, first, second = (sums[name].clone() for name in ("count", "first", "second"))
        for a, b in pairs:
            gap = self.mean[b] - self.mean[a]
            cross = first[b][:, None] * gap
            second[a] += second[b] + cross + cross.t() + count[b] * gap[:, None] * gap
            first[a] += first[b] + count[b] * gap
            count[a] += count[b]
            count[b], first[b], second[b] = 0.0, 0.0, 0.0
        return {**sums, "count": count, "first": first, "second": second}

    def log_evidence(self, count: Tensor, first: Tensor, second: Tensor, mean: Tensor) -> Tensor:
        """log p(rows) of members with these sums about `mean`, the rows certainly theirs, (...,); constants of the
        rows alone left out. What merging two members would gain or lose."""
        d, nu0, beta0 = self.width, self.covariance_rows, self.mean_rows
        beta, nu = beta0 + count, nu0 + count
        back = self.centre - mean
        delta = (beta0 * back + first) / beta[..., None]
        gap = back - delta
        cross = first[..., :, None] * delta[..., None, :]
        inverse = nu0 * self.scale + second - cross - cross.transpose(-1, -2)
        inverse = inverse + count[..., None, None] * delta[..., :, None] * delta[..., None, :]
        inverse = inverse + beta0 * gap[..., :, None] * gap[..., None, :]
        log_det0 = torch.linalg.slogdet(nu0 * self.scale)[1]
        log_det = torch.linalg.slogdet(inverse)[1]
        half = torch.tensor(0.5 * nu0, dtype=torch.float64, device=nu.device)
        found: Tensor = (
            0.5 * (nu0 * log_det0 - nu * log_det)
            + torch.special.multigammaln(0.5 * nu, d)
            - torch.special.multigammaln(half, d)
            + 0.5 * d * (beta0 / beta).log()
            - 0.5 * d * count * math.log(math.pi)
        )
        return found

    def merging(self, sums: Sums, most: int) -> Sums | None:
        """The sums with up to `most` pairs of members merged, those whose rows together are the likeliest; None when no
        two members are better off as one. The bound decides afterwards: this score leaves the assignments' entropy out."""
        count, first, second = sums["count"], sums["first"], sums["second"]
        alive = torch.nonzero(count > 1e-3)[:, 0]
        a, b = alive[torch.triu_indices(len(alive), len(alive), offset=1, device=alive.device)]
        if not len(a) or most < 1:
            return None
        gap = self.mean[b] - self.mean[a]
        cross = first[b][:, :, None] * gap[:, None, :]
        square = count[b][:, None, None] * gap[:, :, None] * gap[:, None, :]
        together = second[a] + second[b] + cross + cross.transpose(1, 2) + square
        joined = self.log_evidence(
            count[a] + count[b], first[a] + first[b] + count[b][:, None] * gap, together, self.mean[a]
        )
        own = self.log_evidence(count, first, second, self.mean)
        gain = joined - own[a] - own[b]
        chosen: list[tuple[int, int]] = []
        used: set[int] = set()
        for pair in gain.argsort(descending=True).tolist():
            if len(chosen) == most or float(gain[pair]) <= 0:
                break
            ends = int(a[pair]), int(b[pair])
            if used.isdisjoint(ends):
                chosen.append(ends)
                used.update(ends)
        return self.merged(sums, chosen) if chosen else None


class DirichletWeights(Weights):
    """q(w) = Dirichlet(a_0 + N): with a_0 < 1 members that are not needed lose their rows."""

    concentration: Tensor

    def __init__(self, size: int, prior: float) -> None:
        super().__init__()
        self.prior = prior
        self.register_buffer("concentration", torch.full((size,), prior, dtype=torch.float64))

    def log(self) -> Tensor:
        return torch.digamma(self.concentration) - torch.digamma(self.concentration.sum())

    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum()

    def maximise(self, count: Tensor) -> None:
        self.concentration.copy_(self.prior + count)

    def log_prior(self) -> Tensor:
        a, b = self.concentration, torch.full_like(self.concentration, self.prior)
        divergence = torch.lgamma(a.sum()) - torch.lgamma(a).sum() - torch.lgamma(b.sum()) + torch.lgamma(b).sum()
        return -(divergence + ((a - b) * self.log()).sum())


class StickBreakingWeights(Weights):
    """q(v_k) = Beta(1 + N_k, g + sum of later N): a truncated Dirichlet process (Blei & Jordan 2006). Sticks are broken in
    the order of size, which bounds the evidence best (Kurihara et al. 2007)."""

    first: Tensor
    rest: Tensor
    order: Tensor

    def __init__(self, size: int, prior: float) -> None:
        super().__init__()
        self.prior = prior
        self.register_buffer("first", torch.ones(size, dtype=torch.float64))
        self.register_buffer("rest", torch.full((size,), prior, dtype=torch.float64))
        self.register_buffer("order", torch.arange(size))

    def _place(self, sorted_values: Tensor) -> Tensor:
        """Values in stick order -> in the members' order."""
        return torch.empty_like(sorted_values).scatter_(0, self.order, sorted_values)

    def log(self) -> Tensor:
        both = torch.digamma(self.first + self.rest)
        taken, left = torch.digamma(self.first) - both, torch.digamma(self.rest) - both
        taken[-1] = 0.0  # the last member takes what is left
        return self._place(taken + left.cumsum(0) - left)

    def mean(self) -> Tensor:
        share = self.first / (self.first + self.rest)
        share[-1] = 1.0
        left = torch.cat([torch.ones_like(share[:1]), (1 - share[:-1]).cumprod(0)])
        return self._place(share * left)

    def maximise(self, count: Tensor) -> None:
        ordered, order = count.sort(descending=True, stable=True)
        self.order.copy_(order)
        self.first.copy_(1 + ordered)
        self.rest.copy_(self.prior + ordered.sum() - ordered.cumsum(0))

    def log_prior(self) -> Tensor:
        a, b = self.first[:-1], self.rest[:-1]
        both = torch.digamma(a + b)
        divergence = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b) - math.log(self.prior)
        divergence = divergence + (a - 1) * (torch.digamma(a) - both) + (b - self.prior) * (torch.digamma(b) - both)
        return -divergence.sum()


def _digamma_d(half: Tensor, d: int) -> Tensor:
    """sum_i digamma(half + (1 - i) / 2), i = 1 .. d: the multivariate digamma function."""
    steps = 0.5 * torch.arange(d, dtype=torch.float64, device=half.device)
    return torch.digamma(half[:, None] - steps).sum(1)
