"""Mixtures learned by expectation-maximisation (Dempster, Laird & Rubin 1977), with missing cells.

p(x) = sum_k w_k p(x | k). Holes are integrated out exactly, in learning too (Ghahramani & Jordan 1994). Everything is
computed on centred columns, with float64 sums.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe
from reverie.data.codec import fit_codec
from reverie.data.dataset import as_dataset
from reverie.data.schema import Schema
from reverie.data.space import Space, Wants
from reverie.data.tables import TableCodec
from reverie.errors import InvalidOption, Unsupported
from reverie.estimator import Estimator
from reverie.learning.em import ExpectationMaximisation
from reverie.learning.phases import Phase
from reverie.learning.run import Run
from reverie.model import Model
from reverie.probability.gaussian import DiagonalGaussian, FullGaussian, Gaussians, TiedGaussian, gaussians
from reverie.probability.mixture import Mixture, PointWeights

Covariance = Literal["full", "tied", "diag", "spherical", "low-rank"]


@recipe
class GaussianMixture(Estimator):
    """Mixture of Gaussians for numeric tables and images."""

    family: ClassVar[str] = "gmm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 65536}

    components: int = Field(default=8, ge=1)
    """Number of Gaussians."""
    covariance: Covariance = "full"
    """Shape of the covariances: one full matrix each, one for all, one diagonal each, one variance each, or a few
    factors plus a diagonal each."""
    rank: int = Field(default=2, ge=1)
    """Factors of each low-rank covariance."""
    floor: float | None = Field(default=None, ge=0)
    """Added to every variance, in squared data units; by default 1e-6 of each column's variance."""
    prior: float = Field(default=0.0, ge=0)
    """Pseudo-rows with the data's own variances that pull every covariance towards them; a component that explains
    few rows needs some."""
    restarts: int = Field(default=1, ge=1)
    """Starts to try on a sample of the rows; the likeliest goes on."""
    tol: float = Field(default=1e-4, ge=0)
    """Stop when three passes gain less than this together, in nats per example; 0 uses the whole budget."""
    pixels: Literal["dequantise", "logit"] = "dequantise"
    """Grey levels get uniform noise, and with logit are then mapped to the real line."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of the data and of densities; sums are float64 either way."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "datetime", "image"}),
            # One variance for all columns means nothing once columns are scaled apart.
            numbers="centre" if self.covariance == "spherical" else "standardise",
            discrete="dequantise",
            images=self.pixels,
            missing="mask",
            mixed=False,
            flat=True,
            dtype=self.dtype,
        )

    def build(self, space: Space) -> Mixture:
        scale = np.concatenate([np.array(block.scale) for block in space.blocks])
        floor = np.full(space.width, 1e-6) if self.floor is None else self.floor / scale**2
        if self.floor is None and self.covariance == "spherical":
            floor = np.full(space.width, -1e-6)  # relative to the variance found at the start
        if self.covariance == "low-rank" and self.rank >= space.width:
            raise InvalidOption(f"rank={self.rank}: must be below the number of columns, {space.width}")
        members = gaussians(
            self.covariance,
            self.components,
            space.width,
            torch.from_numpy(floor),
            rank=self.rank,
            prior=self.prior,
        )
        return Mixture(members, PointWeights(self.components), space.torch_dtype, restarts=self.restarts)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        def learner() -> ExpectationMaximisation:
            return ExpectationMaximisation(network, run, tol=self.tol, fresh=fresh)

        return [Phase("em", learner, shuffle=False)]


# ---------------------------------------------------------------------- functions of a Model


def _scales(codec: TableCodec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offset and scale of every column: data = offset + scale * model."""
    return codec.offsets(), np.concatenate([np.array(block.scale) for block in codec.space.blocks])


def parameters(model: Model) -> dict[str, NDArray[np.float64]]:
    """Weights (K,), means (K, d) and covariances of a numeric table's mixture, in data units.

    Covariances are (K, d, d) for full and low-rank, (d, d) tied, (K, d) diag, (K,) spherical.
    """
    network, members, codec = _parts(model)
    offset, scale = _scales(codec)
    shape = model.estimator.covariance
    if shape in ("full", "low-rank"):
        covariances = members.covariances().cpu().numpy() * np.outer(scale, scale)
    elif shape == "tied":
        covariances = members.covariances()[0].cpu().numpy() * np.outer(scale, scale)
    else:
        covariances = _spread(members).cpu().numpy() * (scale**2 if shape == "diag" else scale[0] ** 2)
    return {
        "weights": network.weights.mean().cpu().numpy().copy(),
        "means": offset + members.mean.cpu().numpy() * scale,
        "covariances": covariances,
    }


def with_parameters(
    estimator: GaussianMixture, X: Any, *, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike
) -> Model:
    """A model with these parameters, in data units, for data like X: a start for `fit(X, start=...)`, or a mixture
    fitted elsewhere."""
    if estimator.covariance == "low-rank":
        raise Unsupported("with_parameters takes covariances in full, tied, diag and spherical shape, not low-rank")
    data = as_dataset(X)
    codec = fit_codec(data.schema, estimator.wants(data.schema), data)
    network = estimator.build(codec.space)
    model = Model(estimator, data.schema, codec, network, info={})
    _, members, table_codec = _parts(model)
    offset, scale = _scales(table_codec)
    w, m, c = (np.asarray(a, dtype=np.float64) for a in (weights, means, covariances))
    if estimator.covariance in ("full", "tied"):
        c = c / np.outer(scale, scale)
    else:
        c = c / (scale**2 if estimator.covariance == "diag" else scale[0] ** 2)
    targets = (network.weights.mean(), members.mean, _spread(members))
    for name, value, buffer in zip(
        ("weights", "means", "covariances"), (w, (m - offset) / scale, c), targets, strict=True
    ):
        if value.shape != tuple(buffer.shape) or not np.isfinite(value).all():
            raise InvalidOption(f"{name}: expected finite numbers of shape {tuple(buffer.shape)}, got {value.shape}")
        buffer.copy_(torch.from_numpy(value))
    if (w <= 0).any() or abs(w.sum() - 1) > 1e-6:
        raise InvalidOption("weights: expected positive numbers that sum to 1")
    if bool((members.floor < 0).any()):
        members.floor.fill_(0.0)
    return model


def _spread(members: Gaussians) -> Tensor:
    """The buffer that holds the covariances."""
    if isinstance(members, FullGaussian | TiedGaussian):
        return members.covariance
    assert isinstance(members, DiagonalGaussian)
    return members.variance


def _parts(model: Model) -> tuple[Mixture, Gaussians, TableCodec]:
    network, codec = model.network, model.codec
    if (
        not isinstance(network, Mixture)
        or not isinstance(network.components, Gaussians)
        or not isinstance(codec, TableCodec)
    ):
        raise Unsupported("parameters in data units need a Gaussian mixture of a numeric table")
    return network, network.components, codec
