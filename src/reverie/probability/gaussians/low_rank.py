"""Gaussians whose covariance is of low rank plus a diagonal: mixtures of factor analysers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Never

import torch
from torch import Tensor

from reverie.errors import Unsupported
from reverie.inference.pieces import in_parallel, piece_rows, slices
from reverie.probability.exponential_family import EMPTY, LOG_2PI, Move, Sums, keep_if_empty, sum_tensors
from reverie.probability.gaussians.correlated import CorrelatedGaussians
from reverie.probability.gaussians.matrices import cholesky, symmetric
from reverie.rng import Noise


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

    def set_in_units(self, *_: object) -> Never:
        raise Unsupported("parameters are set in full, tied, diag and spherical shape, not low-rank")

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
        loading = torch.linalg.solve(symmetric(moment), cross.transpose(1, 2)).transpose(1, 2)
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
