"""Bayesian Gaussian mixture, learned by variational inference: it finds how many components the data need.

q(z) q(weights) prod_k q(mean_k, precision_k) raises a lower bound of log p(data) (Attias 2000; Bishop 2006, section 10.2).
Weights have a Dirichlet process (stick-breaking; Blei & Jordan 2006) or a finite Dirichlet prior; components without rows
cost nothing. Pairs that explain the data better as one are merged, when the bound agrees (Hughes & Sudderth 2013).
Densities are posterior predictive: a mixture of Student t distributions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import nn

from reverie.config import recipe
from reverie.data.schema import Schema
from reverie.data.space import Space, Wants
from reverie.errors import InvalidOption, Unsupported
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.em import em_phases
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.latent.mixture import Mixture, Weights
from reverie.probability.latent.variational import DirichletWeights, StickBreakingWeights, VariationalGaussian

_MOST_LEFT = 0.9


@recipe
class BayesianGaussianMixture(Estimator):
    """Gaussian mixture with a posterior over its parameters; chooses the number of components."""

    family: ClassVar[str] = "bayesian_gmm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 300, "batch_size": 65536}

    components: int = Field(default=20, ge=1)
    """Most components there may be."""
    weights: Literal["process", "dirichlet"] = "process"
    """Prior of the weights: a Dirichlet process cut off at `components`, or a Dirichlet."""
    concentration: float | None = Field(default=None, gt=0)
    """How many components the prior expects: of the process, or of the Dirichlet per component; by default
    1 / components."""
    mean_rows: float = Field(default=1.0, gt=0)
    """Pseudo-rows behind the prior of every mean, which is the data's mean."""
    covariance_rows: float | None = Field(default=None, gt=0)
    """Pseudo-rows behind the prior of every covariance, at least as many as there are columns, the default."""
    share: float = Field(default=0.5, gt=0)
    """The prior's covariance as a share of the data's own: a component is narrower than all rows together. (At 100 rows
    of five data sets a half predicted new rows better than the whole, by 0.1 to 0.9 nats.)"""
    restarts: int = Field(default=1, ge=1)
    """Starts to try on a sample of the rows; the one with the best bound goes on."""
    stepwise: bool = False
    """Update after every batch (stochastic variational inference, Hoffman et al. 2013) instead of every pass. For streams:
    otherwise whole passes are as fast and surer, but for some sets of 50,000 rows or more whose components touch."""
    tol: float = Field(default=1e-4, ge=0)
    """Stop when three passes lift the bound by less than this together, in nats per example; 0 uses the whole budget."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of the data and of densities; sums are float64 either way."""

    def __post_init__(self) -> None:
        """A process cut off at K components leaves E[prod_k (1 - v_k)] = (c / (1 + c))^(K - 1) of the prior to the last one."""
        if self.weights == "process" and self.concentration is not None and self.components > 1:
            left = (self.concentration / (1 + self.concentration)) ** (self.components - 1)
            if left > _MOST_LEFT:
                raise InvalidOption(
                    f"concentration={self.concentration:g} expects far more than components={self.components}: {left:.1%} of the "
                    "prior weight would fall to the last component, where the process is cut off. Ask for more components, a "
                    "smaller concentration, or weights='dirichlet', where a large one makes components alike in size"
                )

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "integer", "datetime"}),
            discrete="dequantise",
            missing="mask",
            conditions=frozenset({"labels"}),
            partial=True,
            mixed=False,
            dtype=self.dtype,
        )

    def build(self, space: Space) -> Mixture:
        prior = 1 / self.components if self.concentration is None else self.concentration
        process = self.weights == "process"
        law: Weights = (StickBreakingWeights if process else DirichletWeights)(self.components, prior)
        members = VariationalGaussian(
            self.components,
            space.width,
            mean_rows=self.mean_rows,
            covariance_rows=self.covariance_rows or space.width,
            share=self.share,
        )
        classes = space.condition.width if space.condition else 0
        return Mixture(
            members, law, space.torch_dtype, classes=classes, restarts=self.restarts, remembers=not self.stepwise
        )

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return em_phases(network, run, fresh=fresh, tol=self.tol, stepwise=self.stepwise, name="variational")


def effective_components(model: Model, *, least: float = 0.01) -> int:
    """How many components have an expected weight of at least `least`."""
    if not isinstance(model.network, Mixture):
        raise Unsupported(f"this needs a mixture, not a {model.family}")
    return int(np.sum(model.network.weights.mean().cpu().numpy() >= least))
