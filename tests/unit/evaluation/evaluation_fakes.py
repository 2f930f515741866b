"""Small models that follow the contract of `reverie.model.model.Model`, for tests of the evaluation layer."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from reverie.data.dataset import Dataset, MemorySource
from reverie.data.forms.reading import infer
from reverie.errors import Unsupported


def as_dataset(X, y=None, name=""):
    """A Dataset of arrays or a DataFrame, with a name."""
    schema, table = infer(X, y)
    return Dataset(schema, MemorySource(table), name=name)


@dataclass
class FakeEstimator:
    family: str = "gmm"
    components: int = 8


@dataclass
class FakeModel:
    """`draw(n, rng)` gives X, or (X, y) if the schema has a condition; `density(X, y)` nats per row or None."""

    schema: Any
    draw: Any
    density: Any = None
    log_prob_kind: Any = "exact"
    measure: str = "Lebesgue"
    log_prob_info: Any = None
    estimator: Any = field(default_factory=FakeEstimator)
    history: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    info: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)

    @property
    def can(self):
        return frozenset({"sample"} | ({"log_prob"} if self.density is not None else set()))

    def sample(self, n, *, y=None, seed=None, return_y=False):
        self.calls.append((n, seed))
        made = self.draw(n, np.random.default_rng(seed))
        if self.schema.condition is None:
            return (made, None) if return_y else made
        return made if return_y else made[0]

    def log_prob(self, X, y=None):
        if self.density is None:
            raise Unsupported("no density")
        return np.asarray(self.density(X, y))


HISTORY = [
    {
        "epoch": e,
        "step": 10 * e,
        "phase": "fit",
        "loss": 3 * np.exp(-e / 8) + 1,
        "valid_loss": 3 * np.exp(-e / 8) + 1.1,
        "lr": 1e-3,
    }
    for e in range(30)
]


def normal_log_density(x, sd=1.0):
    x = np.asarray(x, dtype=float)
    return -0.5 * (x**2 / sd**2 + np.log(2 * np.pi * sd**2)).sum(axis=1)


def normal_data(n, d=3, seed=0):
    """Standard normals as a Dataset."""
    return as_dataset(np.random.default_rng(seed).normal(size=(n, d)))


def normal_model(dataset, d=3, sd=1.0, shift=0.0, **options):
    """The true model of `normal_data`, or a shifted or widened one."""
    return FakeModel(
        dataset.schema,
        lambda n, rng: rng.normal(size=(n, d)) * sd + shift,
        lambda X, y: normal_log_density(np.asarray(X) - shift, sd),
        **options,
    )


def people(n, seed=0, missing=0.1, rho=True):
    """A DataFrame of mixed columns with missing cells; with `rho` age and income go together."""
    rng = np.random.default_rng(seed)
    age = rng.gamma(9, 5, n).round()
    z = (age - 45) / 15 if rho else rng.normal(size=n)
    income = np.exp(10 + 0.4 * z + 0.3 * rng.normal(size=n))
    job = np.where(rng.random(n) < 1 / (1 + np.exp(-z)), "office", rng.choice(["farm", "shop"], n))
    return pd.DataFrame(
        {
            "age": age,
            "income": np.where(rng.random(n) < missing, np.nan, income),
            "job": pd.Categorical(job, categories=["farm", "office", "shop"]),
            "member": rng.random(n) < 0.3,
            "since": pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 3000, n), unit="D"),
        }
    )


def digits():
    """scikit-learn's 8 x 8 digits as (images uint8 (n, 8, 8) in steps of 15, labels)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images * 15).astype(np.uint8), bunch.target
