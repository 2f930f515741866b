"""Mixtures learned by expectation-maximisation (Dempster, Laird & Rubin 1977), with missing cells.

p(x) = sum_k w_k p(x | k). Holes are integrated out exactly, in learning too (Ghahramani & Jordan 1994). Everything is
computed on centred columns, with float64 sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor, nn

from reverie.config import recipe, replace
from reverie.data.codec.negotiate import fit_codec
from reverie.data.codec.tables import TableCodec
from reverie.data.forms.reading import restore_table
from reverie.data.schema import Schema
from reverie.data.sources.load import as_dataset
from reverie.data.space import Space, Wants
from reverie.data.table import Table
from reverie.errors import InvalidOption, Unsupported, UnsupportedData
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.em import em_phases
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.components.columns import column_set
from reverie.probability.components.discrete import Bernoulli, Poisson
from reverie.probability.exponential_family import Components
from reverie.probability.gaussians.gaussian import Gaussians
from reverie.probability.gaussians.parameters import probabilities
from reverie.probability.gaussians.shapes import gaussians
from reverie.probability.gaussians.student import StudentT
from reverie.probability.latent.mixture import Mixture, PointWeights

Covariance = Literal["full", "tied", "diag", "spherical", "low-rank"]


@recipe
class MixtureRecipe(Estimator):
    """What all mixtures share. y, where some rows have it, names their component; classes take the first ones."""

    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 65536}

    components: int = Field(default=8, ge=1)
    """Number of components."""
    weight_prior: float = Field(default=0.0, ge=0)
    """Pseudo-rows of every component: a Dirichlet(1 + weight_prior) prior on the weights."""
    restarts: int = Field(default=1, ge=1)
    """Starts to try on a sample of the rows; the likeliest goes on."""
    stepwise: bool = False
    """Update after every batch instead of every pass (stepwise EM): for data that a few passes should do for."""
    memory: float = Field(default=0.0, ge=0)
    """With fit(X, start=model): how many rows the start counts for, as a prior made of what it has seen."""
    tol: float = Field(default=1e-4, ge=0)
    """Stop when three passes gain less than this together, in nats per example; 0 uses the whole budget."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of the data and of densities; sums are float64 either way."""

    def network(self, members: Components, space: Space) -> Mixture:
        """The mixture of these components, its first ones named by the classes of y if there are any."""
        classes = space.condition.width if space.condition else 0
        weights = PointWeights(self.components, smoothing=self.weight_prior)
        return Mixture(members, weights, space.torch_dtype, classes=classes, restarts=self.restarts)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return em_phases(network, run, fresh=fresh, tol=self.tol, stepwise=self.stepwise, memory=self.memory)

    def _wants(self, *kinds: str, **options: Any) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset(kinds),
            missing="mask",
            conditions=frozenset({"labels"}),
            partial=True,
            flat=True,
            dtype=self.dtype,
            **options,
        )


@recipe
class GaussianMixture(MixtureRecipe):
    """Mixture of Gaussians for numeric tables and images."""

    family: ClassVar[str] = "gmm"

    covariance: Covariance = "full"
    """Shape of the covariances: one full matrix each, one for all, one diagonal each, one variance each, or a few
    factors plus a diagonal each."""
    rank: int = Field(default=2, ge=1)
    """Factors of each low-rank covariance."""
    floor: float | None = Field(default=None, ge=0)
    """Added to every variance, in squared data units; by default 1e-6 of each column's variance."""
    prior: float = Field(default=0.0, ge=0)
    """Pseudo-rows with the data's own variances that pull every covariance towards them."""
    pixels: Literal["dequantise", "logit"] = "dequantise"
    """Grey levels get uniform noise, and with logit are then mapped to the real line."""

    def wants(self, schema: Schema) -> Wants:
        return self._wants(
            "number", "integer", "datetime", "image",
            # One variance for all columns means nothing once columns are scaled apart.
            numbers="centre" if self.covariance == "spherical" else "standardise",
            discrete="dequantise",
            images=self.pixels,
            mixed=False,
        )  # fmt: skip

    def build(self, space: Space) -> Mixture:
        floor = _floor(self.floor, space)
        if self.floor is None and self.covariance == "spherical":
            floor = torch.full((space.width,), -1e-6)  # relative to the variance found at the start
        if self.covariance == "low-rank" and self.rank >= space.width:
            raise InvalidOption(f"rank={self.rank}: must be below the number of columns, {space.width}")
        members = gaussians(self.covariance, self.components, space.width, floor, rank=self.rank, prior=self.prior)
        return self.network(members, space)


@recipe
class StudentMixture(MixtureRecipe):
    """Mixture of Student t distributions: rows far from every centre hardly move it. Peel & McLachlan (2000)."""

    family: ClassVar[str] = "student_mixture"

    floor: float | None = Field(default=None, ge=0)
    """Added to the diagonal of every scale matrix, in squared data units; by default 1e-6 of each column's variance."""
    prior: float = Field(default=0.0, ge=0)
    """Pseudo-rows with the data's own variances that pull every scale matrix towards them."""
    degrees: float | None = Field(default=None, ge=0.5, le=200)
    """Degrees of freedom of every component; by default each component's are learned."""

    def wants(self, schema: Schema) -> Wants:
        return self._wants("number", "integer", "datetime", discrete="dequantise", mixed=False)

    def build(self, space: Space) -> Mixture:
        floor = _floor(self.floor, space)
        members = StudentT(self.components, space.width, floor, prior=self.prior, learn_degrees=self.degrees is None)
        if self.degrees is not None:
            members.degrees.fill_(self.degrees)
        return self.network(members, space)


@recipe
class TableMixture(MixtureRecipe):
    """Mixture over tables of mixed columns, which are independent within a component (latent class analysis)."""

    family: ClassVar[str] = "table_mixture"

    smoothing: float = Field(default=0.5, ge=0)
    """Pseudo-count of every category and bit value in each component, and of the overall rate for counts."""
    prior: float = Field(default=1.0, ge=0)
    """Pseudo-rows with the data's own variance for every numeric column of each component."""
    floor: float = Field(default=1e-6, ge=0)
    """Added to every variance, as a share of the column's."""
    integers: Literal["normal", "poisson"] = "normal"
    """Whole numbers: the mass of a normal in each cell, or Poisson counts (from 0 on)."""
    numbers: Literal["standardise", "quantile"] = "standardise"
    """Continuous columns as they are, or mapped to a normal shape first."""

    def wants(self, schema: Schema) -> Wants:
        return self._wants(
            "number", "integer", "category", "boolean", "datetime",
            numbers=self.numbers,
            discrete="counts" if self.integers == "poisson" else "native",
        )  # fmt: skip

    def build(self, space: Space) -> Mixture:
        floor = torch.full((space.width,), self.floor, dtype=torch.float64)
        members = column_set(space, self.components, floor=floor, smoothing=self.smoothing, prior=self.prior)
        return self.network(members, space)


@recipe
class BernoulliMixture(MixtureRecipe):
    """Mixture of independent bits: binary tables and black and white pictures."""

    family: ClassVar[str] = "bernoulli_mixture"

    smoothing: float = Field(default=0.1, ge=0)
    """Pseudo-count of 0 and of 1 in every column of each component."""
    pixels: Literal["binary", "threshold"] = "binary"
    """Pictures: bits drawn with each pixel's grey as probability, anew every pass, or cut at half grey."""

    def wants(self, schema: Schema) -> Wants:
        return self._wants("boolean", "integer", "image", discrete="binary", images=self.pixels)

    def build(self, space: Space) -> Mixture:
        return self.network(Bernoulli(self.components, space.width, smoothing=self.smoothing), space)


@recipe
class CategoricalMixture(MixtureRecipe):
    """Mixture of independent categories: latent class analysis (Lazarsfeld 1950; Goodman 1974)."""

    family: ClassVar[str] = "categorical_mixture"

    smoothing: float = Field(default=0.1, ge=0)
    """Pseudo-count of every category in each component."""

    def wants(self, schema: Schema) -> Wants:
        return self._wants("category", "boolean")

    def build(self, space: Space) -> Mixture:
        floor = torch.zeros(space.width, dtype=torch.float64)
        members = column_set(space, self.components, floor=floor, smoothing=self.smoothing, prior=0.0)
        return self.network(members, space)


@recipe
class PoissonMixture(MixtureRecipe):
    """Mixture of independent Poisson counts."""

    family: ClassVar[str] = "poisson_mixture"

    smoothing: float = Field(default=0.1, ge=0)
    """Pseudo-rows of the overall rate in every column of each component."""

    def wants(self, schema: Schema) -> Wants:
        return self._wants("integer", discrete="counts")

    def build(self, space: Space) -> Mixture:
        wrong = [block.name for block in space.blocks if block.kind != "count"]
        if wrong:
            raise UnsupportedData(
                f"column {wrong[0]!r} holds numbers below 0, which are no counts: leave it out, or use table_mixture"
            )
        return self.network(Poisson(self.components, space.width, smoothing=self.smoothing), space)


def _floor(floor: float | None, space: Space) -> Tensor:
    """The floor of each model column's variance: in squared data units, or 1e-6 of the column's own."""
    if floor is None:
        return torch.full((space.width,), 1e-6, dtype=torch.float64)
    return torch.from_numpy(floor / space.scales**2)


# ---------------------------------------------------------------------- functions of a Model


def parameters(model: Model) -> dict[str, NDArray[np.float64]]:
    """Weights (K,), means (K, d) and covariances of a numeric table's mixture, in data units.

    Covariances are (K, d, d) for full and low-rank, (d, d) tied, (K, d) diag, (K,) spherical.
    """
    network, members, codec = _parts(model)
    offset, scale = codec.affine
    return {
        "weights": network.weights.mean().cpu().numpy().copy(),
        "means": offset + members.mean.cpu().numpy() * scale,
        "covariances": members.in_units(scale),
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
    _, members, table_codec = _parts(model)
    offset, scale = table_codec.affine
    given = probabilities("weights", weights, (estimator.components,), zeros=False)
    network.weights.mean().copy_(torch.from_numpy(given))
    members.set_in_units(offset, scale, means, covariances)
    return model


def criteria(model: Model, X: Any) -> dict[str, float]:
    """What a mixture (or any model with counted parameters) costs on X: `bic` = -2 log L + p log n (Schwarz 1978),
    `aic` = -2 log L + 2 p, and for mixtures `icl` = bic + 2 x entropy of the memberships (Biernacki et al. 2000). Lower
    is better; `parameters` is p."""
    if not isinstance(model.network, Mixture):
        raise Unsupported(f"information criteria here are for mixtures, not for {model.family}")
    log_p = model.log_prob(X)
    shares = model.encode(X)
    p, n = model.network.free_parameters(), len(log_p)
    bic = -2 * float(log_p.sum()) + p * math.log(n)
    entropy = -float((shares * np.log(np.maximum(shares, 1e-300))).sum())
    aic = -2 * float(log_p.sum()) + 2 * p
    return {"bic": bic, "aic": aic, "icl": bic + 2 * entropy, "parameters": float(p), "log_prob": float(log_p.mean())}


def select(
    estimator: MixtureRecipe,
    X: Any,
    y: Any = None,
    *,
    components: Sequence[int] = (1, 2, 4, 8, 16),
    criterion: Literal["bic", "aic", "icl"] = "bic",
    **options: Any,
) -> tuple[Model, list[dict[str, float]]]:
    """Fit with each number of components and keep the best by the criterion: (model, one row of criteria per number).

    options go to `fit`. Stops early when the criterion has got worse three times in a row.
    """
    if not components:
        raise InvalidOption("components: give at least one number to try")
    best: Model | None = None
    rows: list[dict[str, float]] = []
    worse = 0
    for number in sorted(components):
        model = replace(estimator, components=number).fit(X, y, **options)
        row = {"components": float(number), **criteria(model, X)}
        better = best is None or row[criterion] < min(earlier[criterion] for earlier in rows)
        best, worse = (model, 0) if better else (best, worse + 1)
        rows.append(row)
        if worse == 3:
            break
    assert best is not None
    return best, rows


def update(model: Model, X: Any, y: Any = None, *, rows: float | None = None, **options: Any) -> Model:
    """Learn from new data with what the model has seen as the prior: it counts for `rows` rows (by default those it was
    trained on). Returns a new model; a Bayesian mixture uses its posterior as the prior instead, exactly."""
    seen = float(model.info.get("rows_seen", model.info["data"]["rows"]))
    if isinstance(model.network, Mixture) and model.network.memory is not None:
        return model.estimator.fit(X, y, start=model, **options)  # type: ignore[no-any-return]
    if not isinstance(model.estimator, MixtureRecipe):
        raise Unsupported(
            f"update is for mixtures and naive Bayes; for {model.family} see its option memory, or finetune"
        )
    counts = seen if rows is None else rows
    new = replace(model.estimator, memory=counts).fit(X, y, start=model, **options)
    new.info["rows_seen"] = seen + new.info["data"]["rows"]
    return new


def conditional_log_prob(model: Model, X: Any, given: Sequence[str | int]) -> NDArray[np.float64]:
    """log p(the other columns | the columns `given`), (n,), exactly: log p(x) - log p(x_given).

    Columns are names of a DataFrame's, or numbers of an array's.
    """
    table = Table.concat([table for _, table in model.intake.tables(X, None, model.chunk)])
    fields = {field.name: field for field in model.schema.data_fields}
    cells = [(name, position) for name, field in fields.items() for position in range(max(field.width, 1))]
    frame = model.schema.container == "dataframe"
    names = [name if frame else position for name, position in cells]
    for column in given:
        if column not in names:
            raise InvalidOption(f"given: no column {column!r}; columns: {', '.join(str(name) for name in names[:20])}")
    for (name, position), label in zip(cells, names, strict=True):
        if label not in given:
            table = table.with_columns({name: fields[name].hidden(table[name], position)})
    return np.asarray(model.log_prob(X) - model.log_prob(restore_table(model.schema, table)))


def _parts(model: Model) -> tuple[Mixture, Gaussians, TableCodec]:
    network, codec = model.network, model.codec
    if (
        not isinstance(network, Mixture)
        or not isinstance(network.components, Gaussians)
        or not isinstance(codec, TableCodec)
    ):
        raise Unsupported("parameters in data units need a Gaussian mixture of a numeric table")
    return network, network.components, codec
