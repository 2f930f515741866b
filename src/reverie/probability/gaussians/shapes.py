"""The five shapes of covariance by name."""

from __future__ import annotations

from torch import Tensor

from reverie.probability.gaussians.full import FullGaussian, TiedGaussian
from reverie.probability.gaussians.gaussian import DiagonalGaussian, Gaussians, SphericalGaussian
from reverie.probability.gaussians.low_rank import LowRankGaussian


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
