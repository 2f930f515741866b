"""Gaussian mixture, learned by expectation-maximisation (Dempster, Laird & Rubin 1977), with missing cells.

p(x) = sum_k w_k N(x; mu_k, Sigma_k). Holes are integrated out exactly: rows are grouped by which cells they have, the
E-step uses the marginal of those cells, the M-step adds the conditional covariance of the rest (Ghahramani & Jordan 1994).
Everything is computed on centred columns, with float64 sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
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
from reverie.data.space import Batch, Space, Wants
from reverie.data.tables import TableCodec
from reverie.errors import DataError, InvalidOption, Unsupported
from reverie.estimator import Estimator
from reverie.inference.kmeans import kmeans
from reverie.learning.em import ExpectationMaximisation
from reverie.learning.phases import Phase
from reverie.learning.run import Run
from reverie.model import Model
from reverie.rng import Noise, generator

Covariance = Literal["full", "tied", "diag", "spherical"]

_CHUNK_NUMBERS = 2**19  # numbers of a chunk's (rows, K d) buffer: a few megabytes, within the last-level cache
_START_ROWS = 20_000
_EMPTY = 1e-3  # a component with fewer effective rows keeps its shape instead of dividing by nothing


@recipe
class GaussianMixture(Estimator):
    """Mixture of Gaussians for numeric tables and images."""

    family: ClassVar[str] = "gmm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 65536}

    components: int = Field(default=8, ge=1)
    """Number of Gaussians."""
    covariance: Covariance = "full"
    """Shape of the covariances: one full matrix each, one for all, one diagonal each, or one variance each."""
    floor: float | None = Field(default=None, ge=0)
    """Added to every variance, in squared data units; by default 1e-6 of each column's variance."""
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

    def build(self, space: Space) -> MixtureNetwork:
        scale = np.concatenate([np.array(block.scale) for block in space.blocks])
        floor = np.full(space.width, 1e-6) if self.floor is None else self.floor / scale**2
        if self.floor is None and self.covariance == "spherical":
            floor = np.full(space.width, -1.0)  # relative to the variance found at the start
        return MixtureNetwork(self.components, space.width, self.covariance, torch.from_numpy(floor), space.torch_dtype)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        def learner() -> ExpectationMaximisation:
            return ExpectationMaximisation(network, run, tol=self.tol, fresh=fresh)

        return [Phase("em", learner, shuffle=False)]


class MixtureNetwork(nn.Module):
    """Weights (K,), means (K, d) and covariances in their shape, as buffers: nothing here has a gradient."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    floor: Tensor
    likelihood = "exact"

    def __init__(self, components: int, width: int, covariance: str, floor: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.covariance, self.dtype, self.code_width = covariance, dtype, components
        k, d = components, width
        shapes = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
        eye = torch.eye(d, dtype=torch.float64)
        one = eye if covariance in ("full", "tied") else torch.ones((), dtype=torch.float64)
        self.register_buffer("weights", torch.full((k,), 1 / k, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(k, d, dtype=torch.float64))
        self.register_buffer("covariances", one.expand(shapes[covariance]).clone())
        self.register_buffer("floor", floor.double())

    # ------------------------------------------------------------------ densities

    def _precision_factors(self) -> tuple[Tensor, Tensor]:
        """(A, log det A): A such that |A (x - mu)|^2 is the Mahalanobis distance; (K, d, d) lower, or (K, d) diagonal."""
        if self.covariance in ("diag", "spherical"):
            a = self._variances().rsqrt()
            return a, a.log().sum(1)
        covariances = self.covariances if self.covariance == "full" else self.covariances[None]
        lower = _cholesky(covariances)
        eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
        a = torch.linalg.solve_triangular(lower, eye, upper=False)
        log_det = -lower.diagonal(dim1=1, dim2=2).log().sum(1)
        k = self.means.shape[0]
        return (a, log_det) if self.covariance == "full" else (a, log_det.expand(k))

    def component_log_prob(self, x: Tensor, factors: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """log w_k + log N(x; mu_k, Sigma_k) for complete rows, (n, K). `factors`, when many calls share them."""
        factor, log_det = factors or self._precision_factors()
        k, d = self.means.shape
        constant = self.weights.log() + log_det - 0.5 * d * math.log(2 * math.pi)
        a = factor.to(x.dtype)
        if a.ndim == 2:
            precision = a.square()
            means = self.means.to(x.dtype)
            # |A(x - mu)|^2 from one product of [x^2, x]; columns are centred, so nothing cancels badly.
            quadratic = (
                x.square() @ precision.t() - 2 * x @ (means * precision).t() + (means.square() * precision).sum(1)
            )
            distance = quadratic.clamp_min_(0)
        elif a.shape[0] == 1:  # tied: whiten once
            white, centres = x @ a[0].t(), self.means.to(x.dtype) @ a[0].t()
            distance = torch.cdist(white, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        else:
            stacked = a.reshape(k * d, d)
            offset = (a @ self.means.to(x.dtype)[:, :, None]).reshape(k * d)
            white = torch.addmm(-offset, x, stacked.t()).view(-1, k, d)
            distance = white.square_().sum(2)
        return distance.to(torch.float64).mul_(-0.5).add_(constant)

    def _marginal_log_prob(self, x: Tensor, columns: Tensor) -> Tensor:
        """The same for rows of which only `columns` are observed: (n, K)."""
        k, d = self.means.shape[0], len(columns)
        diff = x[:, None, columns].double() - self.means[None, :, columns]
        if self.covariance in ("diag", "spherical"):
            variances = self._variances()[:, columns]
            distance = (diff.square() / variances).sum(2)
            log_det = -0.5 * variances.log().sum(1)
        else:
            lower = _cholesky(self._full()[:, columns][:, :, columns])
            white = torch.linalg.solve_triangular(lower, diff.permute(1, 2, 0), upper=False)
            distance = white.square().sum(1).t()
            log_det = -lower.diagonal(dim1=1, dim2=2).log().sum(1)
        return self.weights.log() + log_det - 0.5 * d * math.log(2 * math.pi) - 0.5 * distance.expand(-1, k)

    def _variances(self) -> Tensor:
        return self.covariances if self.covariance == "diag" else self.covariances[:, None].expand_as(self.means)

    def _full(self) -> Tensor:
        """(K, d, d) covariances of the full or tied shape."""
        return self.covariances if self.covariance == "full" else self.covariances.expand(self.means.shape[0], -1, -1)

    def joint(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(x_observed, k), (n, K) float64."""
        factors = self._precision_factors()
        if observed is None:
            step = self._chunk_rows()
            return torch.cat([self.component_log_prob(x[i : i + step], factors) for i in range(0, len(x), step)])
        out = torch.empty(len(x), self.means.shape[0], dtype=torch.float64, device=x.device)
        for rows, columns, _ in _patterns(observed):
            if len(columns) == x.shape[1]:
                out[rows] = self.component_log_prob(x[rows], factors)
            else:
                out[rows] = self._marginal_log_prob(x[rows], columns)
        return out

    def _chunk_rows(self) -> int:
        return max(64, _CHUNK_NUMBERS // self.means.numel())

    # ------------------------------------------------------------------ learning

    def start(self, batches: Callable[[], Iterable[Batch]], seed: int) -> None:
        """k-means++ (Arthur & Vassilvitskii 2007) and a few Lloyd steps on up to 20,000 rows, then one M-step from the
        hard assignment. Holes take the column mean for this."""
        rows = _spread_rows(batches, _START_ROWS)
        k = self.means.shape[0]
        if len(rows) < k:
            raise DataError(f"components={k}: there are only {len(rows)} training rows; ask for at most as many")
        centres = kmeans(rows, k, generator(seed, "kmeans++"))
        labels = torch.cdist(rows, centres).argmin(1)
        if (self.floor < 0).any():
            self.floor.copy_((1e-6 * rows.var(0, unbiased=False).mean()).expand_as(self.floor))
        onehot = nn.functional.one_hot(labels, k).double()
        self.means.copy_(centres)
        self._spread(rows)
        self.maximise(self._sums(rows, onehot))

    def _spread(self, rows: Tensor) -> None:
        """Covariances of the whole data: what an empty component keeps."""
        variance = rows.var(0, unbiased=False) + self.floor
        shaped = {
            "full": lambda: torch.diag(variance).expand_as(self.covariances),
            "tied": lambda: torch.diag(variance),
            "diag": lambda: variance.expand_as(self.covariances),
            "spherical": lambda: variance.mean().expand_as(self.covariances),
        }[self.covariance]()
        self.covariances.copy_(shaped)

    def _sums(self, x: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Sufficient statistics of complete rows with responsibilities r (n, K): N_k, sum r x, sum r x x^T, in float64.

        Chunks keep the scaled copy of x in cache; products run in x's own type and are added up in float64.
        """
        k, d = self.means.shape
        sums = self._zeros(x.device)
        sums["count"] += r.sum(0)
        for i in range(0, len(x), max(256, _CHUNK_NUMBERS // d)):
            part, share = x[i : i + max(256, _CHUNK_NUMBERS // d)], r[i : i + max(256, _CHUNK_NUMBERS // d)]
            share = share.to(x.dtype)
            sums["first"] += (share.t() @ part).double()
            if self.covariance in ("diag", "spherical"):
                sums["second"] += (share.t() @ part.square()).double()
            elif self.covariance == "tied":
                total = share.sum(1, keepdim=True)
                sums["second"] += ((part * total).t() @ part).double()
            else:
                for j in range(k):
                    scaled = part * share[:, j : j + 1].sqrt()
                    sums["second"][j] += (scaled.t() @ scaled).double()
        return sums

    def _zeros(self, device: torch.device) -> dict[str, Tensor]:
        k, d = self.means.shape
        second = {"full": (k, d, d), "tied": (d, d)}.get(self.covariance, (k, d))
        shapes: dict[str, tuple[int, ...]] = {"count": (k,), "first": (k, d), "second": second}
        return {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}

    def statistics(self, batch: Batch) -> dict[str, Tensor]:
        """E-step on a batch: sums over rows, weighted where rows have weights."""
        factors = self._precision_factors()
        weight = torch.ones(len(batch.x), dtype=torch.float64) if batch.weight is None else batch.weight.double()
        weight = weight.to(batch.x.device)
        sums = self._zeros(batch.x.device)
        log_likelihood = torch.zeros((), dtype=torch.float64, device=batch.x.device)
        for x, columns, w in self._pieces(batch, weight):
            joint = self.component_log_prob(x, factors) if columns is None else self._marginal_log_prob(x, columns)
            log_p = torch.logsumexp(joint, 1, keepdim=True)
            log_likelihood += (log_p[:, 0] * w).sum()
            r = joint.sub_(log_p).exp_().mul_(w[:, None])
            part = self._sums(x, r) if columns is None else self._sums_with_holes(x, columns, r)
            for name, value in part.items():
                sums[name] += value
        return {**sums, "log_likelihood": log_likelihood, "rows": weight.sum()}

    def _pieces(self, batch: Batch, weight: Tensor) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """(rows, observed columns or None for all, weights): one pattern and at most a cache-sized chunk at a time."""
        step = self._chunk_rows()
        if batch.observed is None:
            for i in range(0, len(batch.x), step):
                yield batch.x[i : i + step], None, weight[i : i + step]
            return
        for rows, columns, _ in _patterns(batch.observed):
            whole = len(columns) == batch.x.shape[1]
            for i in range(0, len(rows), step):
                part = rows[i : i + step]
                yield batch.x[part], None if whole else columns, weight[part]

    def _sums_with_holes(self, x: Tensor, columns: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Expected sufficient statistics when only `columns` are observed (Ghahramani & Jordan 1994, eqs. 9-11)."""
        sums = self._zeros(x.device)
        sums["count"] += r.sum(0)
        filled, spread = self._conditional_moments(x.double(), columns)
        sums["first"] += torch.einsum("nk,nkd->kd", r, filled)
        if self.covariance in ("diag", "spherical"):
            sums["second"] += torch.einsum("nk,nkd->kd", r, filled.square()) + r.sum(0)[:, None] * spread
        else:
            second = torch.einsum("nk,nkd,nke->kde", r, filled, filled) + r.sum(0)[:, None, None] * spread
            sums["second"] += second if self.covariance == "full" else second.sum(0)
        return sums

    def _conditional_moments(self, x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | x_observed, k] (n, K, d), and Cov[x | x_observed, k], (K, d, d) or (K, d): zero where observed."""
        k, d = self.means.shape
        hidden = torch.ones(d, dtype=torch.bool, device=x.device)
        hidden[columns] = False
        missing = torch.nonzero(hidden)[:, 0]
        filled = self.means.expand(len(x), -1, -1).clone()
        filled[:, :, columns] = x[:, None, columns]
        if self.covariance in ("diag", "spherical"):
            return filled, self._variances() * hidden
        full = self._full()
        spread = torch.zeros(k, d, d, dtype=torch.float64, device=x.device)
        if len(missing):
            cross = full[:, missing][:, :, columns]
            gain = (
                torch.cholesky_solve(cross.transpose(1, 2), _cholesky(full[:, columns][:, :, columns]))
                if len(columns)
                else cross.transpose(1, 2)
            )
            diff = x[:, None, columns] - self.means[None, :, columns]
            filled[:, :, missing] += torch.einsum("nko,kom->nkm", diff, gain)
            rest = full[:, missing][:, :, missing] - cross @ gain
            spread[:, missing[:, None], missing[None, :]] = 0.5 * (rest + rest.transpose(1, 2))
        return filled, spread

    def maximise(self, sums: dict[str, Tensor]) -> None:
        """M-step: weights, means and covariances from the sums, plus the floor on every variance."""
        count = sums["count"]
        alive = count > _EMPTY
        safe = count.clamp_min(_EMPTY)
        means = torch.where(alive[:, None], sums["first"] / safe[:, None], self.means)
        if self.covariance == "tied":
            spread = sums["second"] - (means * count[:, None]).t() @ means
            covariances = _symmetric(spread / count.sum()) + torch.diag(self.floor)
        elif self.covariance == "full":
            second = sums["second"] / safe[:, None, None]
            covariances = _symmetric(second - means[:, :, None] * means[:, None, :]) + torch.diag(self.floor)
            covariances = torch.where(alive[:, None, None], covariances, self.covariances)
        else:
            variances = (sums["second"] / safe[:, None] - means.square()).clamp_min(0) + self.floor
            covariances = variances if self.covariance == "diag" else variances.mean(1)
            keep = alive[:, None] if self.covariance == "diag" else alive
            covariances = torch.where(keep, covariances, self.covariances)
        self.weights.copy_(safe / safe.sum())
        self.means.copy_(means)
        self.covariances.copy_(covariances)

    # ------------------------------------------------------------------ capabilities

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """log p(x_observed), (n,)."""
        return torch.logsumexp(self.joint(x, observed), 1)

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """Responsibilities p(k | x_observed), (n, K)."""
        return torch.softmax(self.joint(x, observed), 1)

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        """k ~ w, then x ~ N(mu_k, Sigma_k)."""
        k = noise.categorical(self.weights.log().expand(noise.rows, -1))
        return self._draw(k, noise).to(self.dtype)

    def _draw(self, k: Tensor, noise: Noise) -> Tensor:
        e = noise.normal(self.means.shape[1]).double()
        if self.covariance in ("diag", "spherical"):
            return self.means[k] + e * self._variances()[k].sqrt()
        lower = _cholesky(self.covariances if self.covariance == "full" else self.covariances[None])
        if len(lower) == 1:
            return self.means[k] + e @ lower[0].t()
        out = self.means[k].clone()
        for component in torch.unique(k).tolist():  # one product per component beats gathering (n, d, d)
            rows = torch.nonzero(k == component)[:, 0]
            out[rows] += e[rows] @ lower[component].t()
        return out

    def conditional(self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool) -> Tensor:
        """Missing cells from p(x_missing | x_observed), exactly: its mean, or a draw."""
        joint = self.joint(x, observed)
        k = noise.categorical(joint)
        e = noise.normal(x.shape[1]).double()
        out = x.clone()
        for rows, columns, pattern in _patterns(observed):
            if len(columns) == x.shape[1]:
                continue
            filled, spread = self._conditional_moments(x[rows].double(), columns)
            if mean:
                value = (torch.softmax(joint[rows], 1)[:, :, None] * filled).sum(1)
            else:
                own = k[rows]
                value = filled[torch.arange(len(rows)), own]
                missing = torch.nonzero(~pattern)[:, 0]
                if self.covariance in ("diag", "spherical"):
                    value = value + e[rows] * spread[own].sqrt()
                else:
                    lower = _cholesky(spread[:, missing][:, :, missing])
                    value[:, missing] += torch.einsum("nij,nj->ni", lower[own], e[rows][:, missing])
            out[rows] = torch.where(pattern, x[rows], value.to(x.dtype))
        return out


def _symmetric(matrices: Tensor) -> Tensor:
    return 0.5 * (matrices + matrices.transpose(-1, -2))


def _cholesky(matrices: Tensor) -> Tensor:
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
        lower, info = torch.linalg.cholesky_ex(matrices + (bad * scale * jitter)[:, None, None] * eye)
        jitter *= 10
    return lower


def _patterns(observed: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(row numbers, observed columns, pattern) for each distinct row of `observed`."""
    unique, inverse = torch.unique(observed, dim=0, return_inverse=True)
    order = torch.argsort(inverse, stable=True)
    ends = torch.bincount(inverse, minlength=len(unique)).cumsum(0).tolist()
    for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        yield order[start:stop], torch.nonzero(unique[number])[:, 0], unique[number]


def _spread_rows(batches: Callable[[], Iterable[Batch]], most: int) -> Tensor:
    """Up to `most` rows spread evenly over the data, float64, holes at the column mean (0 after centring)."""
    total = sum(len(batch.x) for batch in batches())
    stride = max(1, -(-total // most))
    parts, offset = [], 0
    for batch in batches():
        x = batch.x if batch.observed is None else batch.x * batch.observed
        parts.append(x[(-offset) % stride :: stride].double())
        offset += len(batch.x)
    return torch.cat(parts)


# ---------------------------------------------------------------------- functions of a Model


def _scales(codec: TableCodec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offset and scale of every column: data = offset + scale * model."""
    return codec.offsets(), np.concatenate([np.array(block.scale) for block in codec.space.blocks])


def parameters(model: Model) -> dict[str, NDArray[np.float64]]:
    """Weights (K,), means (K, d) and covariances of a numeric table's mixture, in data units."""
    network, codec = _parts(model)
    offset, scale = _scales(codec)
    covariances = network.covariances.cpu().numpy()
    if network.covariance in ("full", "tied"):
        covariances = covariances * np.outer(scale, scale)
    elif network.covariance == "diag":
        covariances = covariances * scale**2
    else:
        covariances = covariances * scale[0] ** 2
    return {
        "weights": network.weights.cpu().numpy().copy(),
        "means": offset + network.means.cpu().numpy() * scale,
        "covariances": covariances,
    }


def with_parameters(
    estimator: GaussianMixture, X: Any, *, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike
) -> Model:
    """A model with these parameters, in data units, for data like X: a start for `fit(X, start=...)`, or a mixture
    fitted elsewhere."""
    data = as_dataset(X)
    codec = fit_codec(data.schema, estimator.wants(data.schema), data)
    network = estimator.build(codec.space)
    model = Model(estimator, data.schema, codec, network, info={})
    _, table_codec = _parts(model)
    offset, scale = _scales(table_codec)
    w, m, c = (np.asarray(a, dtype=np.float64) for a in (weights, means, covariances))
    if network.covariance in ("full", "tied"):
        c = c / np.outer(scale, scale)
    elif network.covariance == "diag":
        c = c / scale**2
    else:
        c = c / scale[0] ** 2
    for name, value in (("weights", w), ("means", (m - offset) / scale), ("covariances", c)):
        buffer = getattr(network, name)
        if value.shape != tuple(buffer.shape) or not np.isfinite(value).all():
            raise InvalidOption(f"{name}: expected finite numbers of shape {tuple(buffer.shape)}, got {value.shape}")
        buffer.copy_(torch.from_numpy(value))
    if (w <= 0).any() or abs(w.sum() - 1) > 1e-6:
        raise InvalidOption("weights: expected positive numbers that sum to 1")
    if bool((network.floor < 0).any()):
        network.floor.fill_(0.0)
    return model


def _parts(model: Model) -> tuple[MixtureNetwork, TableCodec]:
    if not isinstance(model.network, MixtureNetwork) or not isinstance(model.codec, TableCodec):
        raise Unsupported("parameters in data units need a Gaussian mixture of a numeric table")
    return model.network, model.codec
