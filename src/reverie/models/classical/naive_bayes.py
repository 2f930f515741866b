"""Naive Bayes on mixed tables: p(x, y) = p(y) prod_j p(x_j | y), one model for P(y | x), p(x | y) and p(x).

Numbers are normal given the class, grid points (integers) the masses of a normal's cells or Poisson counts, bits
Bernoulli, categories categorical; repeated values of a continuous column are kept apart as categories. A missing cell is
left out of the product, in learning and in use. Rows without a label take part through EM (Nigam et al. 2000).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from reverie.config import recipe
from reverie.data.schema import Schema
from reverie.data.space import Discrete, Space, Wants
from reverie.errors import Unsupported, UnsupportedData
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.em import em_phases
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.components.columns import column_set
from reverie.probability.latent.mixture import Mixture, PointWeights, UniformWeights, Weights

_MOST_LEVELS = 256


@recipe
class NaiveBayes(Estimator):
    """Columns independent given the class; classifies, scores and samples."""

    family: ClassVar[str] = "naive_bayes"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 50, "batch_size": 65536}

    prior: Literal["frequency", "uniform"] = "frequency"
    """P(y): the classes' training frequencies, or the same for all."""
    smoothing: float = Field(default=1.0, ge=0)
    """Pseudo-count of every category and bit value (Laplace's is 1), and of the overall rate for counts."""
    floor: float = Field(default=1e-9, ge=0)
    """Added to every variance, as a share of the largest column variance."""
    integers: Literal["levels", "normal", "poisson"] = "levels"
    """Whole numbers and other gridded columns. levels: a category each where there are at most 256 and rows enough to
    count them, else normal. normal: the mass of a normal in each cell. poisson: counts from 0 on."""
    numeric: Literal["exact", "density"] = "exact"
    """exact: gridded columns are given probabilities, so that log_prob is one. density: every number meets a normal
    density as it is, the usual Gaussian naive Bayes: faster, classifies, but has no log_prob where values repeat."""
    pixels: Literal["threshold", "binary"] = "threshold"
    """Pictures: bits cut at half grey, or drawn with each pixel's grey as probability."""
    tol: float = Field(default=1e-4, ge=0)
    """With unlabelled rows: stop when three passes gain less than this together, in nats per example."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of the data and of densities; sums are float64 either way."""

    def wants(self, schema: Schema) -> Wants:
        if not schema.conditions:
            raise UnsupportedData(
                "naive_bayes needs y, the class of each row: fit(X, y). Without classes use a mixture"
            )
        if schema.condition is not None and schema.condition.one_step.kind == "number":
            raise UnsupportedData(
                f"naive_bayes needs classes as y, and {schema.condition.name!r} holds numbers: cut them into classes (as "
                "pandas.cut does), or declare them with kinds={...: 'category'}"
            )
        discrete: Discrete = "counts" if self.integers == "poisson" else "native"
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "category", "boolean", "datetime", "image"}),
            discrete="density" if self.numeric == "density" else discrete,
            images=self.pixels,
            missing="mask",
            conditions=frozenset({"labels"}),
            flat=True,
            partial=True,
            unseen="missing",
            levels=_MOST_LEVELS if self.integers == "levels" else 0,
            dtype=self.dtype,
        )

    def build(self, space: Space) -> Mixture:
        assert space.condition is not None
        classes = space.condition.width
        members = column_set(space, classes, floor=floors(space, self.floor), smoothing=self.smoothing, prior=0.0)
        weights: Weights = UniformWeights(classes) if self.prior == "uniform" else PointWeights(classes)
        return Mixture(members, weights, space.torch_dtype, classes=classes, remembers=True)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return em_phases(network, run, fresh=fresh, tol=self.tol, name="count")


@torch.no_grad()
def joint_log_prob(model: Model, X: Any) -> NDArray[np.float64]:
    """log p(x, y = c) for every class, (n, classes), in nats and the data's own units; its log-sum over classes is
    `log_prob(X)`, its softmax `predict_proba(X)`."""
    if not isinstance(model.network, Mixture) or not model.classes:
        raise Unsupported(f"this needs a model with classes, such as naive_bayes, not {model.family} without y")
    own = np.stack([model.log_prob(X, np.array([label] * _rows(model, X))) for label in model.classes], axis=1)
    return np.asarray(own + model.network.class_log_prior().cpu().numpy())


def _rows(model: Model, X: Any) -> int:
    return sum(table.n for _, table in model.intake.tables(X, None, model.chunk))


def floors(space: Space, share: float) -> torch.Tensor:
    """`share` of the largest column variance, in the model units of each column, (width,)."""
    out = torch.full((space.width,), share, dtype=torch.float64)
    scales = [scale for block in space.spans("real") for scale in block.scale]
    if scales:
        columns = [column for block in space.spans("real") for column in range(block.start, block.stop)]
        squared = torch.tensor(scales, dtype=torch.float64).square()
        out[columns] = share * squared.max() / squared
    return out
