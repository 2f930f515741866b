"""Conditional restricted Boltzmann machine for sequences (Taylor, Hinton & Roweis 2006): every step is a restricted machine
whose biases depend on the `order` steps before it.

p(v_1 .. v_T) = prod_t p(v_t | u_t),   p(v, h | u) = exp(-E(v, h | u)) / Z(u),
E(v, h | u) = U(v) + U(h) - (b + u A).v - (c + u B).h - v W h,

with u the last `order` frames and, for each, whether it would lie before the start (`probability.conditional`). Steps may
hold bits, categories and numbers. Learned by contrastive divergence; persistent chains make no sense here, for a chain would
have to sample another distribution at every step. Z(u) is another number for every window: the likelihood is exact where a
layer has at most 12 bits, and estimated on some steps by `estimate_log_prob` otherwise.

There is no `impute`: a hole in the middle depends on the steps after it too, through their own Z(u), which Gibbs sampling of
one step given the past leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from reverie import catalog
from reverie.config import check_count, check_seed, recipe
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.forms.reading import restore_table
from reverie.data.schema import Schema
from reverie.data.space import Ragged, Space, Wants
from reverie.data.table import Table
from reverie.errors import InvalidOption, Unsupported, UnsupportedData
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.conditional import ConditionalDivergence
from reverie.learning.rules.descent import Descent, ScheduleName
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.machines.conditional import LISTED_BITS, Conditional
from reverie.probability.machines.restricted import Penalties
from reverie.probability.machines.units import units, units_of
from reverie.rng import LatticeNoise, Noise, RowNoise, generator, stream


@recipe
class TemporalRBM(Estimator):
    """Conditional restricted Boltzmann machine over sequences of bits, categories, numbers or mixed columns."""

    family: ClassVar[str] = "temporal_rbm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 100, "batch_size": 64}

    hidden: int = Field(default=64, ge=1)
    """Hidden units; with at most 12 (bits or spins) the likelihood is exact."""
    order: int = Field(default=3, ge=1)
    """How many steps back the biases see."""
    units: Literal["bernoulli", "spin", "relu", "gaussian"] = "bernoulli"
    """What the hidden units are: bits, spins, numbers from 0 on, or numbers."""
    visible: Literal["mixed", "binary"] = "mixed"
    """What the visible units are: bits for yes/no columns, softmax units for categories and Gaussian ones of learned
    variance for numbers; or bits alone, for whole numbers that are all 0 or 1."""
    sweeps: int = Field(default=1, ge=1)
    """Gibbs sweeps per update (the k of CD-k), from the step itself: there are no persistent chains."""
    frames: int = Field(default=100, ge=1)
    """Steps per update, about: a batch of sequences is cut into so many parts, in random order."""
    lr: float = Field(default=0.05, gt=0)
    """Learning rate at its highest."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of the updates."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """L2 penalty on the weights, those from the past among them."""
    schedule: ScheduleName = "linear"
    """How the learning rate falls over the budget."""
    centring: float = Field(default=0.01, ge=0, le=1)
    """Rate at which the centring offsets follow the data; 0 turns centring off."""

    def wants(self, schema: Schema) -> Wants:
        flat = [field for field in schema.data_fields if field.kind != "sequence"]
        if flat and schema.container != "long":
            can = catalog.who_takes({field.kind for field in flat}, but=self.family)
            raise UnsupportedData(
                f"temporal_rbm learns from sequences, and {flat[0].name!r} holds one {flat[0].kind} per row: give a list of "
                "arrays (T, d), [X] for a single one; for a DataFrame of steps give reverie.sequences(df, by=..., "
                f"time=...). Families that can: {can}"
            )
        bits = self.visible == "binary"
        return Wants(
            family=self.family,
            kinds=frozenset({"sequence", "boolean", "integer"} if bits else {"sequence"}),
            discrete="binary" if bits else "dequantise",
            missing="refuse",
            mixed=False,
        )

    def build(self, space: Space) -> TemporalNetwork:
        real = torch.zeros(space.width, dtype=torch.bool)
        for block in space.spans("real"):
            real[block.start : block.stop] = True
        return TemporalNetwork(
            units_of(space),
            units(self.units, self.hidden, learn_variance=False),
            order=self.order,
            real=real,
            centring=self.centring,
            penalties=Penalties(self.weight_decay),
        )

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, TemporalNetwork)
        network.machine.fresh = fresh

        def learner() -> ConditionalDivergence:
            descent = Descent(
                list(network.parameters()),
                run,
                optimizer="sgd",
                lr=self.lr,
                momentum=self.momentum,
                decay=self.schedule,
            )
            return ConditionalDivergence(network, descent, run, sweeps=self.sweeps, frames=self.frames)

        return [Phase("train", learner)]


class TemporalNetwork(Conditional):
    """The machine and what a Model asks of it."""

    likelihood = "exact"

    def limits(self, space: Space) -> dict[str, str]:
        """log Z of every step can be listed for small layers only."""
        if self.listed is not None:
            return {}
        return {
            "log_prob": f"log Z is another number for every step, and both layers have more than {LISTED_BITS} bits, too "
            f"many to list each time; fit with hidden={LISTED_BITS} or fewer bits, or use temporal_rbm.estimate_log_prob"
        }

    def log_prob(self, x: Ragged, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """sum_t log p(v_t | u_t) of every sequence, exactly, (n,) nats."""
        return self.precise().sequence_log_prob(x.to(torch.float64))

    def encode(self, x: Ragged, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """E[h_t | v_t, u_t] of every step, for bits p(h = 1 | v, u), (N, hidden)."""
        u = self.windows(x)
        return self.machine.odd.mean(self.hidden_field(self.frames(x.values, u), self.shifts(u)))

    def sample(
        self, noise: Noise, y: Tensor | None, *, lengths: Tensor, sweeps: int = 30, mean: bool = False
    ) -> Ragged:
        """Step after step, each from a chain of `sweeps` of Gibbs sampling given the steps drawn so far; with mean=True
        numbers are their mean given the step's hidden units, without the noise of their own (bits and categories are
        drawn in either case)."""
        check_count(sweeps, "sweeps")
        width = self.machine.visible.width
        frames = torch.zeros(noise.rows, self.order, width, dtype=self.A.dtype, device=self.A.device)
        before = torch.ones(noise.rows, self.order, dtype=torch.bool, device=self.A.device)
        longest = int(lengths.max())
        drawn = self.roll(frames, before, longest, noise, sweeps=sweeps, mean=mean)
        within = torch.arange(longest)[None] < lengths[:, None].cpu()
        return Ragged(drawn[within.to(drawn.device)], lengths.to(drawn.device))


# ---------------------------------------------------------------------- functions of a Model


def _network(model: Model) -> TemporalNetwork:
    if not isinstance(model.network, TemporalNetwork):
        raise Unsupported(f"this needs a temporal_rbm, not a {model.family}")
    return model.network


def _steps(model: Model, X: Any) -> Iterator[tuple[Table, Ragged]]:
    """(table, x) for chunks of X, dequantised columns in the middle of their cells."""
    for _, table, prepared in model.intake.prepared(X, None, model.chunk):
        yield table, model.codec.noise(prepared.x, LatticeNoise(len(prepared), 0, 1)).to(model.device)


@torch.no_grad()
def forecast(
    model: Model, X: Any, steps: int, *, n_draws: int = 1, seed: int = 0, sweeps: int = 30, mean: bool = False
) -> list[Any]:
    """`n_draws` continuations of `steps` steps after the end of every sequence, drawn as `sample` draws them.

    Each is in the form of the training data: a list of arrays, or a long DataFrame whose sequences and times are numbered
    as in samples. `sweeps` and `mean` are those of `sample`.
    """
    network, seed = _network(model), check_seed(seed)
    for value, name in ((steps, "steps"), (n_draws, "n_draws"), (sweeps, "sweeps")):
        check_count(value, name)
    ends = [network.ends(x) for _, x in _steps(model, X)]
    frames, before = (torch.cat(parts) for parts in zip(*ends, strict=True))
    out = []
    for draw in range(n_draws):
        tables = []
        for start in range(0, len(frames), model.chunk):
            part = slice(start, start + model.chunk)
            rows = len(frames[part])
            noise = RowNoise(
                stream(seed, f"forecast {draw}"), rows, start=start, device=model.device, dtype=frames.dtype
            )
            drawn = network.roll(frames[part], before[part], steps, noise, sweeps=sweeps, mean=mean)
            lengths = torch.full((rows,), steps, device=model.device)
            tables.append(model.codec.decode(Ragged(drawn.flatten(0, 1), lengths, steps)))
        out.append(restore_table(model.schema, Table.concat(tables)))
    return out


@torch.no_grad()
def one_step_log_prob(model: Model, X: Any) -> Any:
    """log p(x_t | the steps before) of every step in nats, in the data's own units: how surprising each step was.

    An array per sequence, which sums to its `log_prob`, or one for the rows of a long DataFrame. Dequantised columns are
    taken at the middle of their cells. Raises `Unsupported` where log Z cannot be listed.
    """
    network, codec = _network(model), model.codec
    assert isinstance(codec, SequenceCodec)
    reason = network.limits(codec.space).get("log_prob")
    if reason:
        raise Unsupported(f"one_step_log_prob: {reason}")
    precise = network.precise()
    tables, parts = [], []
    for table, x in _steps(model, X):
        tables.append(table)
        parts.append(precise.step_log_prob(x.to(torch.float64)).cpu().numpy() + codec.step_log_det(table))
    return model.intake.steps(tables, np.concatenate(parts))


@torch.no_grad()
def estimate_log_prob(
    model: Model,
    X: Any,
    *,
    frames: int = 200,
    chains: int = 50,
    temperatures: int = 1000,
    burn_in: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """The mean of log p(x_t | the steps before) over `frames` steps drawn at random from X, by annealed importance sampling
    of their log Z, for machines whose likelihood cannot be listed.

    `nats` per step, by annealing forwards, errs high on average, and `nats_reverse`, backwards from chains of `burn_in`
    sweeps, errs low if these have mixed: `gap` is the first less the second, and an estimate whose gap is large says
    little. `standard_error` is that of the mean over the steps drawn, as if they were independent; `annealing_error`
    that of the chains.
    """
    network, codec, seed = _network(model), model.codec, check_seed(seed)
    assert isinstance(codec, SequenceCodec)
    for value, name in ((frames, "frames"), (temperatures, "temperatures"), (burn_in, "burn_in")):
        check_count(value, name)
    check_count(chains, "chains", least=2)
    precise = network.precise()
    windows, energies = [], []
    for table, x in _steps(model, X):
        x = x.to(torch.float64)
        u = precise.windows(x)
        energy = precise.free_energy(precise.frames(x.values, u), precise.shifts(u)) - precise.log_det(u)
        windows.append(u.to(network.A.dtype))
        energies.append(energy - torch.from_numpy(codec.step_log_det(table)).to(energy))
    u, energy = torch.cat(windows), torch.cat(energies)
    chosen = torch.randperm(len(u), generator=generator(seed, "frames"))[:frames].to(u.device)
    if len(chosen) < 2:
        raise InvalidOption("frames: an estimate of a mean needs two steps at least")
    noise = RowNoise(stream(seed, "ais"), len(chosen) * chains, device=u.device, dtype=u.dtype)
    found = network.annealed(u[chosen], noise, chains=chains, temperatures=temperatures, burn_in=burn_in)
    forward, reverse = -energy[chosen] - found.log_z, -energy[chosen] - found.reverse
    n = len(chosen)
    return {
        "nats": float(forward.mean()),
        "standard_error": float(forward.std() / n**0.5),
        "annealing_error": float(found.error.norm() / n),
        "nats_reverse": float(reverse.mean()),
        "gap": float(forward.mean() - reverse.mean()),
        "frames": float(n),
    }
