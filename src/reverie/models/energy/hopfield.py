"""Hopfield networks: associative memories that recall a stored pattern from a damaged one, by going down an energy.

Of spins s_i = -1, +1, the bits of the data (Hopfield 1982), with couplings J from one of four rules
(`probability.couplings`):

E(s) = -1/2 s.J s - theta.s,   recall: s_i <- sign(J s + theta)_i,   p(s) = exp(-E(s) / T) / Z.

Or of numbers and pictures (Krotov & Hopfield 2016; Demircigil et al. 2017; Ramsauer et al. 2021), with the patterns kept
as they are (`probability.patterns`):

E(x) = -T log sum_i exp(similarity(x, x_i) / T) + ...,   recall: x <- sum_i softmax_i(similarity / T) x_i,

where p(x) = exp(-E(x) / T) / Z is a mixture of normals, so that densities, samples and conditionals are exact.

Every energy that a Model shows is E / T, in nats, so that p = exp(-energy) / Z; E itself is T times that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from reverie.config import check_count, check_seed, recipe, replace
from reverie.data.forms.reading import restore_table
from reverie.data.schema import Schema
from reverie.data.space import Space, Wants
from reverie.data.table import Table
from reverie.errors import InvalidOption, Unsupported
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.storing import Storing
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.machines.couplings import Couplings, Update
from reverie.probability.machines.patterns import Patterns
from reverie.rng import LatticeNoise, RowNoise, stream

_COLD = 0.2
"""Temperature of spins unless told: below the critical 1 of few patterns (Amit, Gutfreund & Sompolinsky 1985)."""
_SPARSE = 0.1
"""Patterns whose rarer value is rarer than this meet the theory of sparse ones."""

Network: TypeAlias = Couplings | Patterns


@recipe
class Hopfield(Estimator):
    """Associative memory, for yes/no columns and black and white pictures, or numbers and pictures as they are."""

    family: ClassVar[str] = "hopfield"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 1, "batch_size": 4096}

    memory: Literal["hebb", "covariance", "pseudo_inverse", "storkey", "dense", "attention"] = "hebb"
    """How patterns are stored. Bits, pictures cut at one half: hebb (the sum of outer products), covariance (the same
    less the mean pattern, for bits that are mostly off or on), pseudo_inverse (the projection on the patterns' span, for
    correlated ones) or storkey (one after the other, more than hebb). Numbers and grey pictures: dense (all are kept, and
    compared by distance) or attention (likewise, by the scalar product, in standardised columns)."""
    temperature: float | None = Field(default=None, gt=0)
    """T in p = exp(-E / T) / Z: how wide samples and draws stray from what is stored; 1 / beta of the dense memories, in
    squared standard deviations. By default 0.2 for bits, where couplings are such that 1 is the most at which memories
    last; for numbers the T of the highest likelihood with one row left out."""

    def wants(self, schema: Schema) -> Wants:
        if self.memory in ("dense", "attention"):
            return Wants(
                family=self.family,
                kinds=frozenset({"number", "integer", "datetime", "image"}),
                discrete="dequantise",
                images="dequantise",
                missing="refuse",
                mixed=False,
                flat=True,
                dtype="float64",
            )
        return Wants(
            family=self.family,
            kinds=frozenset({"boolean", "integer", "image"}),
            discrete="binary",
            images="threshold",
            missing="refuse",
            mixed=False,
            flat=True,
            dtype="float64",
        )

    def resolve(self, space: Space) -> Self:
        if self.temperature is None and self.memory not in ("dense", "attention"):
            return replace(self, temperature=_COLD)
        return self

    def build(self, space: Space) -> Network:
        if self.memory == "dense" or self.memory == "attention":
            return Patterns(space.width, self.memory, self.temperature, space.torch_dtype)
        return Couplings(space.width, self.memory, self.temperature or _COLD)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        """One pass, in the data's order, which is what storkey learns by; a start's memories stay."""
        return [Phase("store", lambda: Storing(network, run), shuffle=False)]


# ---------------------------------------------------------------------- recall


@dataclass(frozen=True)
class Recalled:
    """`patterns` in the form of the data; `energies` E / T before and after every sweep made (n, sweeps + 1), a row's
    last one repeated once it has settled; `converged` (n,), whether it did."""

    patterns: Any
    energies: NDArray[np.float64]
    converged: NDArray[np.bool_]


def recall(
    model: Model,
    X: Any,
    *,
    observed: Any = None,
    sweeps: int = 100,
    update: Update | None = None,
    seed: int = 0,
) -> Recalled:
    """What the memory makes of the cues X (n, ...), going down the energy until nothing moves or `sweeps` are done.

    observed: (n, ...) or the same for all (...), True where a cue is seen and stays as it is; the other cells, and those
    missing in X, are not looked at. A cue that is seen in full may change everywhere. update: spins move one after the
    other in random order (`asynchronous`, the default: the energy never rises) or all at once (`synchronous`: may end in
    a cycle of two); `seed` is of the order. Pictures shown to a memory of bits are cut at one half, and come back so.
    """
    network, seed = _network(model), check_seed(seed)
    check_count(sweeps, "sweeps")
    if update not in (None, "asynchronous", "synchronous"):
        raise InvalidOption(f"update: expected asynchronous or synchronous, got {update!r}")
    tables = list(model.intake.tables(X, None, model.chunk, filling=True))
    mask = None if observed is None else _mask(model, observed, sum(raw.n for _, raw in tables))
    out, energies, converged = [], [], []
    for start, raw in tables:
        x, seen = _cues(model, raw)
        if mask is not None:
            own = mask[start : start + len(x)].to(x.device)
            seen = own if seen is None else seen & own
        with torch.inference_mode():
            trace = network.recall(x, seen, sweeps=sweeps, update=update, seed=seed)
        out.append(model.codec.decode(trace.x))
        energies.append(trace.energies.double().cpu().numpy())
        converged.append(trace.converged.cpu().numpy())
    length = max(part.shape[1] for part in energies)
    traces = [np.pad(part, ((0, 0), (0, length - part.shape[1])), mode="edge") for part in energies]
    return Recalled(restore_table(model.schema, Table.concat(out)), np.concatenate(traces), np.concatenate(converged))


def _cues(model: Model, raw: Table) -> tuple[Tensor, Tensor | None]:
    """Rows as the network sees them, in the middle of their cells where they lie on a grid, and which cells are seen."""
    prepared = model.intake.prepare(raw, False, holes=True)
    x: Tensor = model.codec.noise(prepared.x, LatticeNoise(len(prepared), 0, 1)).to(model.device)
    return x, None if prepared.observed is None else prepared.observed.to(model.device)


def _mask(model: Model, observed: Any, rows: int) -> Tensor:
    """`observed` as (rows, width) in the order of model space."""
    seen = np.asarray(observed)
    if seen.dtype != bool:
        raise InvalidOption(f"observed: expected booleans, True where a cell is seen, got {seen.dtype}")
    field = model.schema.data_fields[0]
    shape = field.shape if field.kind == "image" else (model.codec.space.width,)
    if seen.shape not in (shape, (rows, *shape)):
        raise InvalidOption(f"observed: expected shape {shape} or {(rows, *shape)}, got {seen.shape}")
    seen = np.broadcast_to(seen, (rows, *shape))
    flat = np.moveaxis(seen, 3, 1) if len(shape) == 3 else seen
    return torch.from_numpy(flat.reshape(rows, -1).copy())


# ---------------------------------------------------------------------- capacity


@dataclass(frozen=True)
class Capacity:
    """How well a memory holds what it was given: `patterns` stored in `units`, `load` their ratio; of the rows asked about
    the share `fixed` that no update moves; the overlap (bits: mean of s_i s'_i; numbers: cosine, in standardised columns)
    of a row with what is recalled from itself, and from a cue of which the share `damaged` is flipped (bits) or hidden
    (numbers); `recalled`, the share of those cues that give the row back exactly (numbers: to 0.001 standard deviations).
    `theory`: how many random patterns the rule holds in so many units as they grow, by name of the criterion."""

    patterns: int
    units: int
    load: float
    fixed: float
    overlap_mean: float
    overlap_median: float
    damaged: float
    cue_overlap_mean: float
    cue_overlap_median: float
    recalled: float
    theory: dict[str, float]


def capacity(model: Model, X: Any, *, damaged: float = 0.1, sweeps: int = 100, seed: int = 0) -> Capacity:
    """Measure the memory on patterns it was given, X (n, ...), by recall from each and from a damaged copy of each."""
    network, seed = _network(model), check_seed(seed)
    check_count(sweeps, "sweeps")
    if isinstance(damaged, bool) or not isinstance(damaged, int | float) or not 0 <= damaged <= 1:
        raise InvalidOption(f"damaged: expected a share from 0 to 1, got {damaged!r}")
    parts: list[list[Tensor]] = []
    for start, raw in model.intake.tables(X, None, model.chunk):
        x, _ = _cues(model, raw)
        noise = RowNoise(stream(seed, "damage"), len(x), start=start, device=x.device, dtype=x.dtype)
        hit = noise.uniform(x.shape[1]).argsort(1).argsort(1) < round(damaged * x.shape[1])
        with torch.inference_mode():
            whole = network.recall(x, None, sweeps=sweeps, update=None, seed=seed).x
            cue, seen = network.damage(x, hit)
            back = network.recall(cue, seen, sweeps=sweeps, update=None, seed=seed).x
            same = (back - x).abs().amax(1) <= network.exact
            parts.append([network.fixed(x), network.overlap(whole, x), network.overlap(back, x), same])
    fixed, whole, back, same = (torch.cat(column).double().cpu() for column in zip(*parts, strict=True))
    patterns, units = int(network.stored), model.codec.space.width
    return Capacity(
        patterns=patterns,
        units=units,
        load=patterns / units,
        fixed=float(fixed.mean()),
        overlap_mean=float(whole.mean()),
        overlap_median=float(whole.median()),
        damaged=float(damaged),
        cue_overlap_mean=float(back.mean()),
        cue_overlap_median=float(back.median()),
        recalled=float(same.mean()),
        theory=_theory(network),
    )


def _theory(network: Network) -> dict[str, float]:
    """Patterns held by criterion: few errors (Amit, Gutfreund & Sompolinsky 1985), none in any (McEliece et al. 1987),
    sparse ones (Tsodyks & Feigelman 1988), linear independence, Storkey & Valabregue (1999). Of memories that keep all
    patterns none: theirs grows exponentially with the units (Demircigil et al. 2017; Ramsauer et al. 2021, theorem 3)."""
    if isinstance(network, Patterns):
        return {}
    n = network.units
    logarithm = math.log(n) if n > 1 else math.nan
    if network.rule == "storkey":
        return {"no error": n / math.sqrt(2 * logarithm)}
    if network.rule == "pseudo_inverse":
        return {"linearly independent": n - 1}
    active = float((0.5 - 0.5 * (network.total / network.weight).abs()).mean())
    if network.rule == "covariance" and 0 < active < _SPARSE:
        return {"sparse": n / (2 * active * -math.log(active))}
    return {"few errors": 0.138 * n, "no error": n / (4 * logarithm)}


def parameters(model: Model) -> dict[str, Any]:
    """Of a memory of bits: `couplings` (N, N) and `thresholds` (N,) between spins -1 and +1, in the order of columns or
    pixels, and `temperature`. Else: `patterns` in the form of the data, `weights` (P,), `temperature` in squared standard
    deviations and `beta`, its inverse."""
    network = _network(model)
    if isinstance(network, Couplings):
        found = {"couplings": network.J, "thresholds": network.theta}
        return {name: value.cpu().numpy().copy() for name, value in found.items()} | {
            "temperature": network.temperature
        }
    return {
        "patterns": restore_table(model.schema, model.codec.decode(network.patterns)),
        "weights": network.weight.cpu().numpy().copy(),
        "temperature": float(network.T),
        "beta": 1 / float(network.T),
    }


def _network(model: Model) -> Network:
    """The memory of a hopfield model that has stored something."""
    if not isinstance(model.network, Couplings | Patterns):
        raise Unsupported(f"this needs a hopfield model, got {model.family}")
    if not int(model.network.stored):
        raise Unsupported("this hopfield has nothing stored yet; fit it for a pass")
    return model.network
