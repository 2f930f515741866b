"""The families, as a torch-free table of strings: where each lives, what it can do, which data it takes.

Reading this file imports no model. A package outside registers a `Family` through the entry point group
`reverie.families`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from reverie.errors import InvalidOption, did_you_mean


@dataclass(frozen=True)
class Family:
    """One row: `path` is "module:Class"; `can` the verbs of `Model` it supports; `kinds` the field kinds it learns
    from; `conditions` the kinds of `y` it takes; `functions` its own verbs, as functions in its file."""

    name: str
    path: str
    title: str
    summary: str
    can: tuple[str, ...]
    kinds: tuple[str, ...]
    conditions: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    likelihood: str = "none"
    holes: bool = False
    """It learns from rows with missing cells."""
    needs_y: bool = False
    """It learns only with y, in one of its `conditions`."""
    bits: bool = False
    """Whole numbers must be 0 or 1."""
    machine: bool = False
    """It has an energy and a partition function: `log_partition` and `mixing` take its models."""

    @property
    def uses_labels(self) -> bool:
        """Labels that come with the data are learned from unasked. A mixture's components are its own to find: classes
        that shall name them are given on purpose."""
        return bool(self.conditions) and (self.needs_y or "predict" not in self.can)

    @property
    def module(self) -> str:
        return self.path.split(":")[0]

    @property
    def class_name(self) -> str:
        return self.path.split(":")[1]


def _classical(
    name: str,
    place: str,
    title: str,
    summary: str,
    kinds: tuple[str, ...],
    functions: tuple[str, ...] = (),
    *,
    conditions: tuple[str, ...] = ("labels",),
    needs_y: bool = False,
    bits: bool = False,
) -> Family:
    """A family with a class per row or step, observed or hidden: all have the same verbs and live with holes."""
    return Family(
        name=name,
        path=f"reverie.models.{place}",
        title=title,
        summary=summary,
        can=("sample", "log_prob", "encode", "impute", "predict", "predict_proba"),
        kinds=kinds,
        conditions=conditions,
        functions=functions,
        likelihood="exact",
        holes=True,
        needs_y=needs_y,
        bits=bits,
    )


_BUILT_IN = (
    _classical(
        "gmm",
        "classical.mixture:GaussianMixture",
        "Gaussian mixture",
        "density as a weighted sum of Gaussians, learned by EM; exact with missing cells",
        ("number", "integer", "datetime", "image"),
        (
            "mixture.with_parameters",
            "mixture.parameters",
            "mixture.criteria",
            "mixture.select",
            "mixture.update",
            "mixture.conditional_log_prob",
        ),
    ),
    _classical(
        "bayesian_gmm",
        "classical.bayesian_mixture:BayesianGaussianMixture",
        "Bayesian Gaussian mixture",
        "variational mixture that finds how many components the data need; posterior predictive densities",
        ("number", "integer", "datetime"),
        ("bayesian_mixture.effective_components",),
    ),
    _classical(
        "student_mixture",
        "classical.mixture:StudentMixture",
        "Student mixture",
        "Gaussian mixture with heavy tails, learned: robust to outliers",
        ("number", "integer", "datetime"),
    ),
    _classical(
        "table_mixture",
        "classical.mixture:TableMixture",
        "Table mixture",
        "mixed columns, independent within a component; exact with missing cells",
        ("number", "integer", "category", "boolean", "datetime"),
    ),
    _classical(
        "bernoulli_mixture",
        "classical.mixture:BernoulliMixture",
        "Bernoulli mixture",
        "prototypes of bits: binary tables and black and white pictures",
        ("boolean", "integer", "image"),
        bits=True,
    ),
    _classical(
        "categorical_mixture",
        "classical.mixture:CategoricalMixture",
        "Categorical mixture",
        "latent classes of categories",
        ("category", "boolean"),
    ),
    _classical(
        "poisson_mixture",
        "classical.mixture:PoissonMixture",
        "Poisson mixture",
        "latent classes of counts",
        ("integer",),
    ),
    _classical(
        "naive_bayes",
        "classical.naive_bayes:NaiveBayes",
        "Naive Bayes",
        "columns independent given the class: P(y | x), p(x | y) and p(x) from one pass of counting",
        ("number", "integer", "category", "boolean", "datetime", "image"),
        ("naive_bayes.joint_log_prob",),
        needs_y=True,
    ),
    Family(
        name="adversarial_forest",
        path="reverie.models.classical.adversarial_forest:AdversarialForest",
        title="Adversarial random forest",
        summary="tables of mixed columns from the leaves of trees that cannot tell rows from made ones; exact with missing cells",
        can=("sample", "log_prob", "impute", "predict", "predict_proba"),
        kinds=("number", "integer", "category", "boolean", "datetime"),
        conditions=("labels",),
        likelihood="exact",
        holes=True,
    ),
    Family(
        name="unmasking_trees",
        path="reverie.models.classical.unmasking_trees:UnmaskingTrees",
        title="Unmasking trees",
        summary="every column of a mixed table given any others, by boosted trees: fills cells, draws rows column by column",
        can=("sample", "log_prob", "impute"),
        kinds=("number", "integer", "category", "boolean", "datetime"),
        likelihood="exact or estimate",
        holes=True,
    ),
    _classical(
        "hmm",
        "classical.hmm:HMM",
        "Hidden Markov model",
        "sequences of numbers, counts, symbols or mixed columns, with a hidden state per step",
        ("sequence", "text"),
        (
            "hmm.viterbi",
            "hmm.sample_paths",
            "hmm.forecast",
            "hmm.one_step_log_prob",
            "hmm.parameters",
            "hmm.with_parameters",
        ),
        conditions=("steps",),
    ),
    Family(
        name="rbm",
        path="reverie.models.energy.rbm:RBM",
        title="Restricted Boltzmann machine",
        summary="two layers of units, bits unless asked otherwise, learned by (persistent) contrastive divergence",
        can=("sample", "log_prob", "encode", "decode", "reconstruct", "impute", "energy", "predict", "predict_proba"),
        kinds=("boolean", "integer", "image"),
        functions=("rbm.pseudo_log_likelihood",),
        conditions=("labels",),
        likelihood="exact or estimate",
        bits=True,
        holes=True,
        machine=True,
    ),
    Family(
        name="temporal_rbm",
        path="reverie.models.energy.temporal_rbm:TemporalRBM",
        title="Temporal restricted Boltzmann machine",
        summary="sequences of bits, categories or numbers: a restricted machine per step whose biases depend on the past",
        can=("sample", "log_prob", "encode"),
        kinds=("sequence",),
        functions=(
            "temporal_rbm.forecast",
            "temporal_rbm.one_step_log_prob",
            "temporal_rbm.estimate_log_prob",
        ),
        likelihood="exact",
    ),
    Family(
        name="rating_rbm",
        path="reverie.models.energy.rating_rbm:RatingRBM",
        title="Rating RBM",
        summary="collaborative filtering: one machine per user over the items this user rated, weights shared by all",
        can=("sample", "log_prob", "impute", "energy"),
        kinds=("sequence",),
        functions=(
            "rating_rbm.predict_ratings",
            "rating_rbm.rating_probabilities",
            "rating_rbm.recommend",
            "rating_rbm.levels",
        ),
        likelihood="exact",
    ),
    Family(
        name="dbn",
        path="reverie.models.energy.dbn:DBN",
        title="Deep belief network",
        summary="directed layers under a restricted machine, learned layer by layer; also unrolled into a classifier",
        can=("sample", "log_prob", "encode", "decode", "reconstruct", "impute", "predict", "predict_proba"),
        kinds=("boolean", "integer", "image"),
        conditions=("labels",),
        likelihood="lower bound or estimate",
        bits=True,
        machine=True,
    ),
    Family(
        name="dbm",
        path="reverie.models.energy.dbm:DBM",
        title="Deep Boltzmann machine",
        summary="layers of hidden units, undirected throughout, learned together; also unrolled into a classifier",
        can=("sample", "log_prob", "encode", "decode", "reconstruct", "impute", "predict", "predict_proba"),
        kinds=("boolean", "integer", "image"),
        conditions=("labels",),
        likelihood="lower bound or estimate",
        bits=True,
        machine=True,
    ),
    Family(
        name="autoencoder",
        path="reverie.models.deep.autoencoder:Autoencoder",
        title="Deep autoencoder",
        summary="a code of few numbers and back, plain, denoising or contractive, from random weights or from machines",
        can=("sample", "encode", "decode", "reconstruct", "interpolate"),
        kinds=("number", "integer", "category", "boolean", "datetime", "image"),
        holes=True,
    ),
    Family(
        name="boltzmann_machine",
        path="reverie.models.energy.boltzmann:BoltzmannMachine",
        title="Boltzmann machine",
        summary="bits or spins on any graph, visible and hidden, learned by clamped minus free-running statistics",
        can=("sample", "log_prob", "encode", "impute", "energy"),
        kinds=("boolean", "integer", "image"),
        functions=(
            "boltzmann.with_parameters",
            "boltzmann.parameters",
            "boltzmann.landscape",
            "boltzmann.posterior",
            "boltzmann.anneal",
            "boltzmann.temper",
        ),
        likelihood="exact, lower bound or estimate",
        bits=True,
        machine=True,
    ),
    Family(
        name="hopfield",
        path="reverie.models.energy.hopfield:Hopfield",
        title="Hopfield network",
        summary="associative memory: recalls whole patterns from damaged ones; bits, or numbers and pictures kept whole",
        can=("sample", "log_prob", "impute", "energy"),
        kinds=("boolean", "integer", "image"),
        functions=("hopfield.recall", "hopfield.capacity", "hopfield.parameters"),
        likelihood="exact",
        bits=True,
    ),
    Family(
        name="vae",
        path="reverie.models.deep.vae:VAE",
        title="Variational autoencoder",
        summary="latent variable network trained on the evidence lower bound; any mix of columns, or images",
        can=("sample", "log_prob", "encode", "decode", "reconstruct", "interpolate", "impute"),
        kinds=("number", "integer", "category", "boolean", "datetime", "image"),
        conditions=("labels", "vector", "columns"),
        likelihood="lower bound",
        holes=True,
    ),
    Family(
        name="gan",
        path="reverie.models.deep.gan:GAN",
        title="Generative adversarial network",
        summary="generator against discriminator; samples only, no likelihood",
        can=("sample", "decode"),
        kinds=("number", "integer", "category", "boolean", "datetime", "image"),
        conditions=("labels", "vector", "columns"),
        holes=True,
    ),
)


@functools.cache
def families() -> dict[str, Family]:
    """Name -> row, the built-in families first, then those registered by installed packages."""
    rows = {row.name: row for row in _BUILT_IN}
    from importlib.metadata import entry_points

    for point in entry_points(group="reverie.families"):
        row = point.load()
        if isinstance(row, Family) and row.name not in rows:
            rows[row.name] = row
    return rows


def family(name: str) -> Family:
    """The row of that name. Raises `InvalidOption` with the closest name."""
    rows = families()
    if name not in rows:
        raise InvalidOption(
            f"no family is called {name!r}{did_you_mean(name, rows) or '.'} Families: {', '.join(rows)}"
        )
    return rows[name]


def register(row: Family) -> None:
    """Add a family for this process (tests, notebooks). Packages use the entry point instead."""
    families()[row.name] = row


def who_can(verb: str) -> str:
    """The families that have this verb, as text for an error message."""
    return ", ".join(name for name, row in families().items() if verb in row.can) or "none in this version"


def who_takes(
    kinds: set[str] | frozenset[str],
    *,
    condition: str | None = None,
    verb: str | None = None,
    holes: bool = False,
    but: str | None = None,
) -> str:
    """The families that learn from all these field kinds (and take such a condition, have the verb, take missing cells),
    as text for an error message; `but` is the family that has just refused. Families that need y are left out without a
    condition, those of bits for whole numbers."""
    fit = [
        name
        for name, row in families().items()
        if kinds <= set(row.kinds)
        and (not row.needs_y if condition is None else condition in row.conditions)
        and (verb is None or verb in row.can)
        and (row.holes or not holes)
        and not (row.bits and "integer" in kinds)
        and name != but
    ]
    return ", ".join(fit) or "none in this version"
