"""What the contract tests know about each family (one line in KIT), and data of every form.

Adding a family: a row in the catalog and a line in KIT; it then gets the whole suite.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from reverie import catalog
from reverie.config import replace
from reverie.data.dataset import Dataset
from reverie.data.sources.load import as_dataset
from reverie.estimator import Estimator
from reverie.model.model import Model
from reverie.models.classical.adversarial_forest import AdversarialForest
from reverie.models.classical.bayesian_mixture import BayesianGaussianMixture
from reverie.models.classical.mixture import (
    BernoulliMixture,
    CategoricalMixture,
    GaussianMixture,
    PoissonMixture,
    StudentMixture,
    TableMixture,
)
from reverie.models.classical.naive_bayes import NaiveBayes
from reverie.models.classical.unmasking_trees import UnmaskingTrees
from reverie.models.deep.autoencoder import Autoencoder
from reverie.models.deep.gan import GAN
from reverie.models.deep.vae import VAE
from reverie.models.energy.boltzmann import BoltzmannMachine
from reverie.models.energy.dbm import DBM
from reverie.models.energy.dbn import DBN
from reverie.models.energy.hopfield import Hopfield
from reverie.models.energy.rbm import RBM
from reverie.nn.specs import MLP

SMALL = MLP(hidden=(12,))


@dataclass(frozen=True)
class Kit:
    """A quick recipe, its budget, changes of the recipe for pictures, and options that make `sample` short."""

    recipe: Estimator
    options: dict[str, Any]
    pictures: dict[str, Any] = field(default_factory=dict)
    quick_sample: dict[str, Any] = field(default_factory=dict)
    quick_score: dict[str, Any] = field(default_factory=dict)
    """Options that make `log_prob` short."""
    long_chains: bool = False
    """Samples come from long discrete chains: a rounding error may flip a state, so equality holds in law only."""
    phases: int = 1
    """Stretches of training that share the budget."""
    size: str | None = "latent"
    """The option that sets how large the network is."""
    seeded: bool = True
    """Another seed ends in another model; EM from a good start need not, and counting never does."""
    float64: bool = False
    """Samples are the same to 1e-10, whatever the chunk."""


def _em(recipe: Estimator, pictures: dict[str, Any] | None = None, **facts: Any) -> Kit:
    """A mixture's line."""
    return Kit(recipe, {"epochs": 3}, pictures or {}, size="components", seeded=False, float64=True, **facts)


KIT: dict[str, Kit] = {
    "gmm": _em(GaussianMixture(components=3, tol=0), {"covariance": "diag"}),
    "bayesian_gmm": _em(BayesianGaussianMixture(components=3, tol=0)),
    "student_mixture": _em(StudentMixture(components=3, tol=0)),
    "table_mixture": _em(TableMixture(components=3, tol=0)),
    "bernoulli_mixture": _em(BernoulliMixture(components=3, tol=0)),
    "categorical_mixture": _em(CategoricalMixture(components=3, tol=0)),
    "poisson_mixture": _em(PoissonMixture(components=3, tol=0)),
    "naive_bayes": Kit(NaiveBayes(), {"epochs": 1}, size=None, seeded=False, float64=True),
    "adversarial_forest": Kit(AdversarialForest(trees=8, leaf=20, rounds=2), {"epochs": 1}, size=None, float64=True),
    "unmasking_trees": Kit(
        UnmaskingTrees(depth=2, copies=2, trees=3, leaves=5), {"epochs": 1}, size=None, float64=True
    ),
    "rbm": Kit(
        RBM(hidden=6, chains=20, centring=0.05),
        {"epochs": 2},
        quick_sample={"sweeps": 3},
        long_chains=True,
        size="hidden",
    ),
    "dbn": Kit(
        DBN(hidden=(6, 5), chains=20), {"epochs": 4}, phases=2, quick_sample={"sweeps": 3}, long_chains=True, size=None
    ),
    "dbm": Kit(DBM(hidden=(6, 5), chains=20), {"epochs": 2}, quick_sample={"sweeps": 3}, long_chains=True, size=None),
    "autoencoder": Kit(Autoencoder(hidden=(12,), code=2), {"epochs": 4, "batch_size": 50}, size="code"),
    "boltzmann_machine": Kit(
        BoltzmannMachine(hidden=4, chains=20, centring=0.05),
        {"epochs": 2},
        {"graph": "restricted"},
        quick_sample={"sweeps": 3},
        long_chains=True,
        size=None,
    ),
    "hopfield": Kit(
        Hopfield(temperature=40.0),
        {"epochs": 1},
        quick_sample={"sweeps": 3},
        long_chains=True,
        size=None,
        seeded=False,
    ),
    "vae": Kit(
        VAE(latent=2, encoder=SMALL, decoder=SMALL),
        {"epochs": 4, "batch_size": 50, "ema": 0.9},
        quick_score={"samples": 3},
    ),
    "gan": Kit(GAN(latent=3, generator=SMALL, discriminator=SMALL), {"epochs": 2, "batch_size": 50, "ema": 0.9}),
}

SEQUENCES = {"sequence", "text"}

FAMILIES = [name for name, row in catalog.families().items() if not set(row.kinds) <= SEQUENCES]
"""The families of rows. Those of sequences alone take none of the forms below and keep promises of their own."""


@dataclass(frozen=True)
class Form:
    """One form of data: how it is made (n, seed), which field kinds it has, whether cells are missing."""

    make: Callable[[int, int], Any]
    kinds: frozenset[str]
    holes: bool = False
    binary: bool = False


def mixed_frame(n: int, seed: int, *, holes: float = 0.1) -> pd.DataFrame:
    """All scalar kinds, two clusters, missing cells in every column."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    size = rng.normal(size=n) * 2 + 10 * group
    frame = pd.DataFrame(
        {
            "size": size,
            "count": pd.array(rng.poisson(3 + 5 * group), dtype="Int64"),
            "colour": pd.Categorical(
                rng.choice(["red", "green", "blue"], n), categories=["red", "green", "blue", "grey"]
            ),
            "paid": pd.array(rng.random(n) < 0.3 + 0.4 * group, dtype="boolean"),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.uniform(0, 1000, n), unit="h"),
            "single": rng.normal(size=n).astype(np.float32),
        }
    )
    for name in frame.columns:
        if holes:
            frame.loc[rng.random(n) < holes, name] = None
    return frame


def float_table(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) * [1.0, 20.0, 0.1] + 4 * rng.integers(0, 2, size=(n, 1))


def holey_table(n: int, seed: int) -> np.ndarray:
    rows = float_table(n, seed)
    rows[np.random.default_rng(seed + 1).random(rows.shape) < 0.1] = np.nan
    return rows


def integer_table(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson([3.0, 20.0], size=(n, 2))


def code_frame(n: int, seed: int, *, holes: float = 0.1) -> pd.DataFrame:
    """Categories and bits alone, in three groups, with missing cells."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    grade = np.array(["low", "middle", "high"])[np.where(rng.random(n) < 0.8, group, rng.integers(0, 3, n))]
    frame = pd.DataFrame(
        {
            "grade": pd.Categorical(grade, categories=["low", "middle", "high"], ordered=True),
            "town": rng.choice(["Bonn", "Kyiv"], n),
            "paid": pd.array(rng.random(n) < 0.2 + 0.3 * group, dtype="boolean"),
        }
    )
    for name in frame.columns:
        frame.loc[rng.random(n) < holes, name] = None
    return frame


def bit_integers(n: int, seed: int) -> np.ndarray:
    return bool_table(n, seed).astype(np.int64)


def bool_table(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    prototypes = rng.random((3, 6)) < 0.5
    return prototypes[rng.integers(0, 3, n)] ^ (rng.random((n, 6)) < 0.1)


def grey_images(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shade = np.linspace(0, 200, 16)[None, :, None] * rng.random((n, 1, 1))
    return (shade + rng.integers(0, 50, (n, 16, 12))).astype(np.uint8)


def colour_images(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 200, (n, 1, 1, 3)) + rng.integers(0, 50, (n, 8, 8, 3))).astype(np.uint8)


FORMS: dict[str, Form] = {
    "mixed frame": Form(
        lambda n, seed: mixed_frame(n, seed),
        frozenset({"number", "integer", "category", "boolean", "datetime"}),
        holes=True,
    ),
    "float table": Form(float_table, frozenset({"number"})),
    "holey table": Form(holey_table, frozenset({"number"}), holes=True),
    "integer table": Form(integer_table, frozenset({"integer"})),
    "bit integers": Form(bit_integers, frozenset({"integer"}), binary=True),
    "bool table": Form(bool_table, frozenset({"boolean"}), binary=True),
    "code frame": Form(code_frame, frozenset({"category", "boolean"}), holes=True),
    "grey images": Form(grey_images, frozenset({"image"})),
    "colour images": Form(colour_images, frozenset({"image"})),
}

ROWS = 120


def takes(family: str, form: Form) -> bool:
    """Whether the family's declaration covers this form."""
    row = catalog.family(family)
    if not form.kinds <= set(row.kinds) or (form.holes and not row.holes):
        return False
    return not ("integer" in form.kinds and row.bits and not form.binary)


def recipe_for(family: str, form: Form) -> Estimator:
    kit = KIT[family]
    return replace(kit.recipe, **kit.pictures) if form.kinds == {"image"} else kit.recipe


def y_for(family: str, X: Any) -> np.ndarray | None:
    """Labels for a family that learns only with them, two of three rows "p" and the third "q"; None for the others."""
    if not catalog.family(family).needs_y or isinstance(X, Dataset) or not hasattr(X, "__len__"):
        return None
    return np.where(np.arange(len(X)) % 3 < 2, "p", "q")


def data_set(family: str, X: Any, **options: Any) -> Dataset:
    """X as a Dataset, with labels for a family that needs them."""
    return as_dataset(X, y_for(family, X), **options)


def learn(family: str, X: Any, y: Any = None, *, recipe: Estimator | None = None, **options: Any) -> Model:
    """The family's quick recipe (or another of its) trained on X, with labels where it needs them."""
    y = y_for(family, X) if y is None else y
    return (recipe or KIT[family].recipe).fit(X, y, **{**KIT[family].options, **options})


def fit_form(family: str, name: str, *, seed: int = 0, **options: Any) -> Model:
    form = FORMS[name]
    return learn(family, form.make(ROWS, 0), recipe=recipe_for(family, form), seed=seed, **options)


@functools.cache
def _fitted(family: str, name: str) -> Model:
    return fit_form(family, name)


def fitted(family: str, name: str) -> Model:
    """The model of that family on that form, trained once; a shallow copy, whose `chunk` may be changed."""
    return copy.copy(_fitted(family, name))


def forms_of(family: str) -> list[str]:
    return [name for name, form in FORMS.items() if takes(family, form)]


def pairs(condition: Callable[[str, str], bool] = lambda family, form: True) -> list[tuple[str, str]]:
    """(family, form) for everything a family takes."""
    return [(family, form) for family in FAMILIES for form in forms_of(family) if condition(family, form)]


def with_verb(verb: str) -> list[str]:
    return [family for family in FAMILIES if verb in catalog.family(family).can]


def first_form(family: str) -> str:
    return forms_of(family)[0]


def plain_form(family: str) -> str:
    """An array without holes that the family takes."""
    return next(name for name in ("float table", "bool table", "integer table") if takes(family, FORMS[name]))


def labelled_families() -> list[str]:
    return [family for family in FAMILIES if "labels" in catalog.family(family).conditions]


def conditional() -> list[str]:
    """Families that learn numbers with labels: those `labelled` is for."""
    return [family for family in labelled_families() if "number" in catalog.family(family).kinds]


def labelled(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers whose place depends on a text label, with unequal frequencies."""
    rng = np.random.default_rng(seed)
    y = rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
    shift = np.select([y == "a", y == "b"], [0.0, 3.0], -3.0)
    return rng.normal(size=(n, 2)) + shift[:, None], y


@functools.cache
def fitted_conditional(family: str) -> Model:
    return learn(family, *labelled(), seed=0)


def class_prior(model: Model) -> np.ndarray:
    """P(y) of the classes: the training frequencies, unless the model has a prior over them."""
    own = getattr(model.network, "class_log_prior", None)
    return model.codec.condition.frequencies if own is None else own().exp().numpy()


def draws(model: Model, count: int) -> dict[str, int]:
    """The option of `log_prob` that sets the number of latent draws, for families that have one."""
    return {"samples": count} if "samples" in inspect.signature(model.network.log_prob).parameters else {}


def same_form(a: Any, b: Any) -> None:
    """Columns, order and dtypes (or shape and dtype) agree."""
    assert type(a) is type(b)
    if isinstance(a, pd.DataFrame):
        assert list(a.columns) == list(b.columns)
        assert [str(t) for t in a.dtypes] == [str(t) for t in b.dtypes]
        for name in a.columns:
            if isinstance(a[name].dtype, pd.CategoricalDtype):
                assert list(a[name].cat.categories) == list(b[name].cat.categories)
    else:
        assert a.dtype == b.dtype
        assert a.shape[1:] == b.shape[1:]


def identical(a: Any, b: Any) -> bool:
    """Bitwise equality of two samples, NaN equal to NaN."""
    if isinstance(a, pd.DataFrame):
        return bool(a.equals(b))
    a, b = np.asarray(a), np.asarray(b)
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )


def numbers(sample: Any) -> np.ndarray:
    """Any sample as a float64 matrix (codes for categories, first letters for text, seconds for dates, NaN for missing)."""
    if not isinstance(sample, pd.DataFrame):
        return np.asarray(sample, dtype=np.float64).reshape(len(sample), -1)
    columns = []
    for name in sample.columns:
        column = sample[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            columns.append(column.cat.codes.to_numpy(dtype=float))
        elif pd.api.types.is_string_dtype(column.dtype):
            columns.append(column.map(lambda text: float(ord(text[0])), na_action="ignore").to_numpy(dtype=float))
        elif column.dtype.kind == "M":
            columns.append(column.astype("int64").to_numpy(dtype=float))
        else:
            columns.append(column.astype("Float64").to_numpy(dtype=float, na_value=np.nan))
    return np.column_stack(columns)


def state(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def network_options(family: str) -> list[str]:
    """Options of the recipe that take a user's module."""
    from reverie import config

    return [name for name, f in config.options(type(KIT[family].recipe)).items() if f.default == "auto"]


def module_shapes(family: str, option: str) -> tuple[int, int]:
    """(in, out) of the module that option stands for, on the continuous float table of three columns."""
    model = fitted(family, "float table")
    module = getattr(model.network, option)
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return linear[0].in_features, linear[-1].out_features


def table_columns(X: Any) -> int:
    return len(as_dataset(X).schema.data_fields)
