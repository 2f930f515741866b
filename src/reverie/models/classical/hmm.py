"""Hidden Markov model: p(x, z) = pi(z_1) prod_t A(z_{t-1}, z_t) p(x_t | z_t), learned by Baum-Welch (Baum et al. 1970).

Steps may hold any columns: numbers, grid points, counts, bits, symbols, or several together. What is missing in a step is
integrated out, a step missing altogether says nothing; sequences may have any lengths. Labels per step, where there are
some, name states and take part as known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor, nn

from reverie import catalog
from reverie.config import check_seed, recipe
from reverie.data.codec.negotiate import fit_codec
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.forms.reading import restore_table
from reverie.data.schema import Schema
from reverie.data.sources.load import as_dataset
from reverie.data.space import Ragged, Space, Wants
from reverie.data.table import Table
from reverie.errors import InvalidOption, Unsupported, UnsupportedData
from reverie.estimator import Estimator
from reverie.inference import message_passing as mp
from reverie.learning.phases import Phase
from reverie.learning.rules.em import em_phases
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.components.columns import column_set
from reverie.probability.components.grouped import Grouped
from reverie.probability.exponential_family import Components
from reverie.probability.gaussians.gaussian import Gaussians
from reverie.probability.gaussians.parameters import probabilities
from reverie.probability.latent.chain import Chain
from reverie.probability.step_noise import StepNoise
from reverie.rng import LatticeNoise, RowNoise, stream

_STATES = 4


@recipe
class HMM(Estimator):
    """Hidden Markov model over sequences of numbers, counts, symbols or mixed columns."""

    family: ClassVar[str] = "hmm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 4096}

    states: Annotated[int, Field(ge=1)] | None = None
    """Number of hidden states; with labels per step the first ones are the classes. By default as many as there are
    classes, or as `allowed` has, else 4."""
    covariance: Literal["full", "tied", "diag", "spherical", "low-rank"] = "diag"
    """Shape of each state's covariance over the numeric columns."""
    rank: int = Field(default=2, ge=1)
    """Factors of each low-rank covariance."""
    mixture: int = Field(default=1, ge=1)
    """Components of every state's own mixture; 1 for a plain emission."""
    integers: Literal["normal", "poisson"] = "normal"
    """Whole numbers: normal (the mass of a normal in each cell, or noise within the cell where columns are correlated),
    or Poisson counts."""
    topology: Literal["any", "left-to-right", "cyclic"] = "any"
    """Which moves there are: all; to the same and the next state, from the first on; the same and going round."""
    allowed: tuple[tuple[bool, ...], ...] | None = None
    """Which moves there are, as a matrix from row to column, in place of a topology."""
    transition_prior: float = Field(default=0.0, ge=0)
    """Pseudo-count of every allowed move and first state."""
    sticky: float = Field(default=0.0, ge=0)
    """Further pseudo-count of staying in each state."""
    smoothing: float = Field(default=0.01, ge=0)
    """Pseudo-count of every symbol, category and bit value in each state, and of the overall rate for counts."""
    prior: float = Field(default=0.0, ge=0)
    """Pseudo-steps with the data's own variances that pull every covariance towards them."""
    floor: float | None = Field(default=None, ge=0)
    """Added to every variance, in squared data units; by default 1e-6 of each column's variance."""
    restarts: int = Field(default=1, ge=1)
    """Starts to try on a part of the sequences; the likeliest goes on."""
    stepwise: bool = False
    """Update after every batch instead of every pass (stepwise EM)."""
    memory: float = Field(default=0.0, ge=0)
    """With fit(X, start=model): how many steps the start counts for, as a prior made of what it has seen."""
    tol: float = Field(default=1e-4, ge=0)
    """Stop when three passes gain less than this together, in nats per step; 0 uses the whole budget."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision of the data and of densities; sums are float64 either way."""

    def __post_init__(self) -> None:
        if self.allowed is not None:
            size = self.states or len(self.allowed)
            if len(self.allowed) != size or any(len(row) != size for row in self.allowed):
                raise InvalidOption(f"allowed: expected a {size} x {size} matrix of True and False")
            mask = np.array(self.allowed, dtype=bool)
            if not mask.any(1).all():
                raise InvalidOption(
                    f"allowed: state {int(np.argmin(mask.any(1)))} has no move; allow it to stay at least"
                )
            if self.topology != "any":
                raise InvalidOption("allowed: give it or a topology, not both")

    def wants(self, schema: Schema) -> Wants:
        flat = [field for field in schema.data_fields if field.kind not in ("sequence", "text")]
        if flat and schema.container != "long":
            raise UnsupportedData(
                f"hmm learns from sequences, and {flat[0].name!r} holds one {flat[0].kind} per row: give a list of arrays "
                "(T, d), [X] for a single one; for a DataFrame of steps give reverie.sequences(df, by=..., time=...). "
                f"Families that can: {catalog.who_takes({field.kind for field in flat}, but='hmm')}"
            )
        # Columns that are correlated given the state need reals; else grid points keep a probability of their own.
        discrete = "native" if self.covariance == "diag" else "dequantise"
        return Wants(
            family=self.family,
            kinds=frozenset({"sequence", "text"}),
            numbers="centre" if self.covariance == "spherical" else "standardise",
            discrete="counts" if self.integers == "poisson" else discrete,  # type: ignore[arg-type]
            missing="mask",
            symbols=True,
            unseen="missing",
            conditions=frozenset({"steps"}),
            partial=True,
            dtype=self.dtype,
        )

    def resolve(self, space: Space) -> Self:
        if self.states is not None:
            return self
        classes = space.condition.width if space.condition else 0
        return replace(self, states=len(self.allowed or ()) or classes or _STATES)

    def build(self, space: Space) -> Chain:
        assert self.states is not None  # resolved
        floor = torch.full((space.width,), 1e-6, dtype=torch.float64)
        for block in space.spans("real"):
            if self.floor is not None:
                scale = torch.tensor(block.scale, dtype=torch.float64)
                floor[block.start : block.stop] = self.floor / scale.square()
            elif self.covariance == "spherical":
                floor[block.start : block.stop] = -1e-6  # relative to the variance found at the start

        def members(count: int) -> Components:
            return column_set(
                space,
                count,
                floor=floor,
                smoothing=self.smoothing,
                prior=self.prior,
                covariance=self.covariance,
                rank=self.rank,
            )

        classes = space.condition.width if space.condition else 0
        if classes > self.states:
            raise InvalidOption(f"states={self.states}: y has {classes} classes; ask for at least as many states")
        emission = Grouped(self.states, self.mixture, members) if self.mixture > 1 else members(self.states)
        return Chain(
            emission,
            self._mask(self.states),
            space.torch_dtype,
            classes=classes,
            prior=self.transition_prior,
            sticky=self.sticky,
            first_only=self.topology == "left-to-right",
            symbols=tuple(block.start for block in space.spans("symbol")),
            restarts=self.restarts,
        )

    def _mask(self, states: int) -> Tensor:
        if self.allowed is not None:
            return torch.tensor(self.allowed)
        if self.topology == "any":
            return torch.ones(states, states, dtype=torch.bool)
        ahead = torch.eye(states).roll(1, 1).bool()
        if self.topology == "left-to-right":
            ahead[-1] = False
        return torch.eye(states).bool() | ahead

    def inherit(self, network: nn.Module, trained: nn.Module) -> bool:
        """The weights, but not how the start did its sums."""
        assert isinstance(network, Chain)
        own = network.compiled.clone()
        fits = super().inherit(network, trained)
        network.compiled.copy_(own)
        return fits

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return em_phases(network, run, fresh=fresh, tol=self.tol, stepwise=self.stepwise, memory=self.memory)


# ---------------------------------------------------------------------- functions of a Model


def _chain(model: Model) -> Chain:
    if not isinstance(model.network, Chain):
        raise Unsupported(f"this needs a hidden Markov model, not a {model.family}")
    return model.network


def _names(model: Model) -> list[Any]:
    """A name for every state: its class, or its number."""
    network = _chain(model)
    return [*model.classes, *range(len(model.classes), network.emission.size)]


def _log_emissions(model: Model, X: Any) -> Iterable[tuple[Table, Ragged, Tensor]]:
    """(table, x, log p(x_t | z_t)) for chunks of X."""
    network = _chain(model)
    for _, table, prepared in model.intake.prepared(X, None, model.chunk):
        x = model.codec.noise(prepared.x, LatticeNoise(len(prepared), 0, 1)).to(model.device)
        observed = None if prepared.observed is None else prepared.observed.to(model.device)
        yield table, x, network.log_emission(x, observed, None)


@torch.no_grad()
def viterbi(model: Model, X: Any) -> Any:
    """The likeliest path of states z* = argmax p(z | x) of every sequence (Viterbi 1967).

    States are numbers, or the class names where labels per step were given in training (then in the form y had).
    """
    network = _chain(model)
    tables, codes = [], []
    for table, x, log_b in _log_emissions(model, X):
        found = mp.viterbi(log_b, network.layout(x), network.initial, network.transition)
        tables.append(table)
        codes.append(found.states.cpu().numpy())
    joined = np.concatenate(codes)
    if network.classes == network.emission.size:
        return model.intake.step_labels(tables, joined)
    return model.intake.steps(tables, joined)


@torch.no_grad()
def sample_paths(model: Model, X: Any, *, n_draws: int = 1, seed: int = 0) -> list[Any]:
    """`n_draws` paths of states drawn from p(z | x) for every sequence, by filtering forwards and drawing backwards."""
    network, seed = _chain(model), check_seed(seed)
    out = []
    for draw in range(n_draws):
        tables, codes, start = [], [], 0
        for table, x, log_b in _log_emissions(model, X):
            noise = RowNoise(stream(seed, f"paths {draw}"), len(x), start=start, device=model.device)
            start += len(x)
            steps = Ragged(x.values, x.lengths, max(network.longest(x.lengths), x.longest))
            uniforms = StepNoise(noise, steps).uniform().double()
            path = mp.sample_paths(log_b, network.layout(x), network.initial, network.transition, uniforms)
            tables.append(table)
            codes.append(path.cpu().numpy())
        out.append(model.intake.steps(tables, np.concatenate(codes)))
    return out


@torch.no_grad()
def one_step_log_prob(model: Model, X: Any) -> Any:
    """log p(x_t | x_1 .. x_{t-1}) of every step in nats, in the data's own units: how surprising each step was given the
    past. An array per sequence, which sums to its `log_prob`, or one for the rows of a long DataFrame. Dequantised
    columns are taken at the middle of their cells."""
    network, codec = _chain(model), model.codec
    assert isinstance(codec, SequenceCodec)
    tables, parts = [], []
    for table, x, log_b in _log_emissions(model, X):
        found = mp.filter_forward(log_b, network.layout(x), network.initial, network.transition)
        tables.append(table)
        parts.append(found.log_normaliser.cpu().numpy() + codec.step_log_det(table))
    return model.intake.steps(tables, np.concatenate(parts))


@torch.no_grad()
def forecast(model: Model, X: Any, steps: int, *, n_draws: int = 1, seed: int = 0) -> list[Any]:
    """`n_draws` continuations of `steps` steps after the end of every sequence, drawn from p(x_{T+1..T+steps} | x_1..T).

    Each is in the form of the training data: a list of arrays, texts, or a long DataFrame whose sequences and times are
    numbered as in samples.
    """
    network, seed = _chain(model), check_seed(seed)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidOption(f"steps: expected a whole number of at least 1, got {steps!r}")
    ends = []
    for _, x, log_b in _log_emissions(model, X):
        alpha = mp.filter_forward(log_b, network.layout(x), network.initial, network.transition).alpha
        ends.append(mp.predictive(alpha[x.lengths.cumsum(0) - 1], network.transition).double())
    nexts = torch.cat(ends)
    out = []
    for draw in range(n_draws):
        noise = RowNoise(stream(seed, f"forecast {draw}"), len(nexts), device=model.device)
        uniform = noise.uniform(steps).double()
        state = _choose(nexts, uniform[:, 0])
        path = [state]
        for step in range(1, steps):
            path.append(_choose(network.transition[path[-1]], uniform[:, step]))
        lengths = torch.full((len(nexts),), steps)
        places = Ragged(torch.zeros(len(nexts) * steps, 0), lengths, steps)
        values = network.emission.draw(torch.stack(path, 1).flatten(), StepNoise(noise, places))
        table = model.codec.decode(Ragged(values.to(network.dtype), lengths, steps))
        out.append(restore_table(model.schema, table))
    return out


def _choose(probability: Tensor, uniform: Tensor) -> Tensor:
    """(n,) indices drawn from rows (n, K)."""
    cumulative = probability.cumsum(1)
    return (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(1).clamp_(max=probability.shape[1] - 1)


def parameters(model: Model) -> dict[str, Any]:
    """`states` (their names), `initial` (K,), `transition` (K, K), `means` (K, d) in data units, NaN for columns that are
    not numbers; and where all columns are continuous and emissions plain, `covariances`, shaped as for a mixture."""
    network = _chain(model)
    out: dict[str, Any] = {
        "states": _names(model),
        "initial": network.initial.cpu().numpy().copy(),
        "transition": network.transition.cpu().numpy().copy(),
        "means": _means(model, network),
    }
    if isinstance(network.emission, Gaussians):
        _, scale = _affine(model)
        out["covariances"] = network.emission.in_units(scale)
    return out


def with_parameters(
    estimator: HMM,
    X: Any,
    *,
    initial: ArrayLike,
    transition: ArrayLike,
    means: ArrayLike,
    covariances: ArrayLike,
) -> Model:
    """A model with these parameters, in data units, for sequences of continuous columns like X: a start for
    `fit(X, start=...)`, or a chain fitted elsewhere."""
    data = as_dataset(X)
    codec = fit_codec(data.schema, estimator.wants(data.schema), data)
    network = estimator.build(codec.space)
    model = Model(estimator, data.schema, codec, network, info={})
    if not isinstance(network.emission, Gaussians):
        raise Unsupported("with_parameters needs plain Gaussian emissions: continuous columns, mixture=1")
    for name, value, buffer in (("initial", initial, network.initial), ("transition", transition, network.transition)):
        buffer.copy_(torch.from_numpy(probabilities(name, value, tuple(buffer.shape), zeros=True)))
    offset, scale = _affine(model)
    network.emission.set_in_units(offset, scale, means, covariances)
    return model


def _affine(model: Model) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert isinstance(model.codec, SequenceCodec)
    return model.codec.affine


def _means(model: Model, network: Chain) -> NDArray[np.float64]:
    """Each state's mean step in data units, NaN where a column is no number."""
    means = Ragged(network.emission.means().to(network.dtype), torch.full((network.emission.size,), 1))
    table = model.codec.decode(means)
    columns = []
    for field in model.schema.data_fields:
        kind = field.one_step.kind if field.kind == "sequence" else "text"
        width = max(field.width, 1)
        if kind in ("number", "integer", "boolean"):
            columns.append(
                np.concatenate([np.asarray(cell, dtype=np.float64).reshape(1, width) for cell in table[field.name]])
            )
        else:
            columns.append(np.full((network.emission.size, width), np.nan))
    return np.concatenate(columns, 1)
