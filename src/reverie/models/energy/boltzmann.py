"""Boltzmann machine (Ackley, Hinton & Sejnowski 1985): visible and hidden units, connected as you like.

E(x) = -b . x - sum over edges of J_ij x_i x_j,   p(x) = exp(-E(x) / T) / Z,   p(v) = sum_h p(v, h).

Units are bits 0/1 or spins -1/+1. Learned by the difference of clamped and free-running statistics: the gradient of
log p(v) for J_ij is (E[x_i x_j | v] - E[x_i x_j]) / T. The first expectation is exact where hidden states can be listed, else
by mean-field or by sampling; the second comes from persistent chains, or for small machines from listing all states.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor, nn

from reverie.config import check_count, check_positive, check_seed, recipe
from reverie.data.codec.negotiate import fit_codec
from reverie.data.schema import Schema
from reverie.data.sources.load import as_dataset
from reverie.data.space import Space, Wants
from reverie.errors import InvalidOption, Unsupported
from reverie.estimator import Estimator
from reverie.inference import tempering
from reverie.inference.gibbs import draw_into_buffer
from reverie.inference.graphs import between, checked, complete, lattice
from reverie.inference.tempering import Schedule
from reverie.learning.phases import Phase
from reverie.learning.rules.boltzmann import ClampedMinusFree
from reverie.learning.rules.descent import Descent, ScheduleName
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.probability.machines.boltzmann import POSTERIOR_BITS, Posterior
from reverie.probability.machines.boltzmann_network import BoltzmannNetwork
from reverie.probability.machines.partition import EXACT_BITS
from reverie.rng import RowNoise, generator, stream

Graph = Literal["dense", "restricted", "semi-restricted", "lattice", "periodic lattice"]


@recipe
class BoltzmannMachine(Estimator):
    """Boltzmann machine on any graph, for yes/no columns and binarised images."""

    family: ClassVar[str] = "boltzmann_machine"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 50, "batch_size": 100, "ema": 0.999}

    hidden: int = Field(default=8, ge=0)
    """Hidden units; 0 for a machine of visible units alone."""
    graph: Graph | tuple[tuple[int, int], ...] = "dense"
    """Which units are connected: all with all; visible with hidden ones only; those and visible ones with each other; the
    visible ones with their neighbours on a grid (open or periodic), and with hidden ones if there are any; or pairs of
    unit numbers, visible units first."""
    height: int | None = Field(default=None, ge=1)
    """Rows of a lattice of a table's columns, which are numbered row by row; pictures have their own."""
    units: Literal["bernoulli", "spin"] = "bernoulli"
    """Values of the units in the energy: 0 and 1, or -1 and +1 (no and yes in the data)."""
    temperature: float = Field(default=1.0, gt=0)
    """T of exp(-E / T)."""
    posterior: Posterior | None = None
    """Hidden units given visible ones, in learning: "exact" (the default where at most 10 hidden units must be listed),
    "mean_field" (else), or "sampled"."""
    posterior_sweeps: int = Field(default=10, ge=1)
    """Gibbs sweeps of a sampled posterior."""
    gradient: Literal["sampled", "exact"] = "sampled"
    """Free-running statistics from persistent chains, or from all states: of at most 20 units beside a group without
    edges inside."""
    sweeps: int = Field(default=1, ge=1)
    """Gibbs sweeps of the chains per update."""
    chains: int = Field(default=200, ge=1)
    """Persistent chains."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate at its highest."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of the updates."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on the couplings."""
    schedule: ScheduleName = "linear"
    """How the learning rate falls over the budget."""
    centring: float = Field(default=0.01, ge=0, le=1)
    """Rate at which the centring offsets follow the data; 0 turns centring off."""
    pixels: Literal["binary", "threshold"] = "binary"
    """Grey levels become bits by a draw anew for every batch, or by a threshold at one half."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"boolean", "integer", "image"}),
            discrete="binary",
            images=self.pixels,
            missing="refuse",
            mixed=False,
            flat=True,
        )

    def build(self, space: Space) -> BoltzmannNetwork:
        network = BoltzmannNetwork(
            space.width,
            self.hidden,
            self._edges(space),
            spins=self.units == "spin",
            temperature=self.temperature,
            posterior=self.posterior,
            posterior_sweeps=self.posterior_sweeps,
            centring=self.centring,
            l2=self.weight_decay,
        )
        network.pictures = space.grid is not None
        if network.posterior == "exact" and not network.sums_hidden:
            raise InvalidOption(
                f"posterior='exact': of {self.hidden} hidden units {len(network.listed_hidden)} would have to be listed, "
                f"and at most {POSTERIOR_BITS} can; use mean_field or sampled, or connect fewer of them with each other"
            )
        if self.gradient == "exact" and not (network.listable and network.posterior == "exact"):
            raise InvalidOption(
                f"gradient='exact': {len(network.listed)} units would have to be listed (at most {EXACT_BITS} can) and the "
                f"posterior must be exact (here {network.posterior}); use gradient='sampled', or fewer units"
            )
        return network

    def _edges(self, space: Space) -> Tensor:
        """The graph's edges, (2, m), checked."""
        visible, n = space.width, space.width + self.hidden
        if not isinstance(self.graph, str):
            return checked(self.graph, n)
        if self.graph == "dense":
            return complete(n)
        if self.graph in ("restricted", "semi-restricted") and not self.hidden:
            raise InvalidOption(
                f"graph={self.graph!r}: there are no hidden units to connect with; set hidden, or use dense"
            )
        across = between(0, visible, n)
        if self.graph == "restricted":
            return across
        if self.graph == "semi-restricted":
            return torch.cat([complete(visible), across], 1)
        height, width = self._grid(space)
        periodic = self.graph == "periodic lattice"
        if periodic and min(height, width) < 3:
            raise InvalidOption(f"graph='periodic lattice': sides of at least 3 are needed, got {height} x {width}")
        return torch.cat([lattice(height, width, periodic=periodic), across], 1)

    def _grid(self, space: Space) -> tuple[int, int]:
        if self.height is None:
            if space.grid is None or space.grid[0] != 1:
                raise InvalidOption("height: a lattice needs the number of its rows, as in height=4")
            return space.grid[1:]
        if space.width % self.height:
            raise InvalidOption(f"height: {space.width} visible units do not fill a lattice of {self.height} rows")
        return self.height, space.width // self.height

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, BoltzmannNetwork)
        network.fresh = fresh

        def learner() -> ClampedMinusFree:
            descent = Descent(
                list(network.parameters()),
                run,
                optimizer="sgd",
                lr=self.lr,
                momentum=self.momentum,
                decay=self.schedule,
            )
            chains = self.chains if self.gradient == "sampled" else 0
            return ClampedMinusFree(network, descent, run, sweeps=self.sweeps, chains=chains)

        return [Phase("train", learner)]


# ---------------------------------------------------------------------- functions of a Model


def with_parameters(
    W: ArrayLike,
    b: ArrayLike | None = None,
    *,
    hidden: int = 0,
    units: Literal["bernoulli", "spin"] = "bernoulli",
    temperature: float = 1.0,
    X: Any = None,
) -> Model:
    """A machine with these couplings W (n, n), symmetric with zeros on its diagonal, and biases b (n,), by default 0; the
    last `hidden` units are hidden. Its graph is where W is not zero, or dense where most of W is not. X: data it is
    for; by default an array of booleans (no and yes: -1 and +1 of spins). Raises `InvalidOption`."""
    weights = _numbers("W", W, 2)
    n = len(weights)
    if weights.shape != (n, n) or n < 1:
        raise InvalidOption(f"W: expected a square matrix, got shape {weights.shape}")
    bias = np.zeros(n) if b is None else _numbers("b", b, 1)
    if bias.shape != (n,):
        raise InvalidOption(f"b: expected one number for each of the {n} units of W, got shape {bias.shape}")
    if not np.array_equal(weights, weights.T):
        raise InvalidOption("W: not symmetric, so no energy: give (W + W.T) / 2")
    if np.diag(weights).any():
        raise InvalidOption(
            "W: units are connected with themselves: set the diagonal to 0 (a bit's goes into b, halved)"
        )
    check_count(hidden, "hidden", least=0)
    if hidden >= n:
        raise InvalidOption(f"hidden: {hidden} of {n} units leave none visible")
    above = np.argwhere(np.triu(weights))
    graph: Any = "dense" if 4 * len(above) > n * (n - 1) else tuple((int(i), int(j)) for i, j in above)
    recipe = BoltzmannMachine(hidden=hidden, graph=graph, units=units, temperature=temperature)
    data = as_dataset(np.zeros((1, n - hidden), dtype=bool) if X is None else X)
    codec = fit_codec(data.schema, recipe.wants(data.schema), data)
    if codec.space.width != n - hidden:
        raise InvalidOption(f"X: {codec.space.width} columns, but W has {n - hidden} visible units")
    network = recipe.build(codec.space)
    with torch.no_grad():
        network.couplings.copy_(torch.from_numpy(weights[tuple(network.edges.numpy())]))
        network.bias.copy_(torch.from_numpy(bias))
    return Model(recipe, data.schema, codec, network, info={})


def parameters(model: Model) -> dict[str, NDArray[np.float64]]:
    """W (n, n), symmetric, and b (n,) of the energy -x W x / 2 - b . x, visible units first."""
    machine = _machine(model)
    i, j = machine.edges.cpu().numpy()
    W = np.zeros((machine.units, machine.units))
    W[i, j] = W[j, i] = machine.couplings.double().cpu().numpy()
    return {"W": W, "b": machine.bias.double().cpu().numpy()}


def landscape(model: Model) -> dict[str, NDArray[np.float64]]:
    """All states of a small machine: "states" (2^n, n) in the units' own values, visible units first and the last one
    changing fastest, their "energies" E and "probabilities", (2^n,) each."""
    machine = _machine(model)
    if machine.units > EXACT_BITS:
        raise Unsupported(f"a landscape lists all states of at most {EXACT_BITS} units; here are {machine.units}")
    places = torch.arange(machine.units - 1, -1, -1)
    z = ((torch.arange(2**machine.units)[:, None] >> places) & 1).double().to(machine.bias.device)
    with torch.inference_mode():
        energy = machine.state_energy(z)
    return {
        "states": machine.values(z).cpu().numpy(),
        "energies": (energy * machine.temperature).cpu().numpy(),
        "probabilities": torch.softmax(-energy, 0).cpu().numpy(),
    }


@torch.inference_mode()
def posterior(
    model: Model, X: Any, *, method: Posterior = "exact", draws: int = 100, sweeps: int = 20, seed: int = 0
) -> NDArray[np.float64]:
    """E[h | v] of every row in the units' own values, (n, hidden): by listing hidden states, by mean-field, or as the mean
    of `draws` chains of `sweeps` each with the visible units clamped. Raises `Unsupported` where there are too many to list."""
    machine = _machine(model)
    if method not in ("exact", "mean_field", "sampled"):
        raise InvalidOption(f"method: expected exact, mean_field or sampled, got {method!r}")
    if not machine.hidden:
        raise Unsupported("this machine has no hidden units, so no posterior")
    check_count(draws, "draws")
    check_count(sweeps, "sweeps")
    seed, parts = check_seed(seed), []
    for start, _, prepared in model.intake.prepared(X, None, model.chunk):

        def noise(name: str, rows: int = len(prepared), first: int = start) -> RowNoise:
            return RowNoise(stream(seed, name), rows, start=first, device=model.device, dtype=machine.bias.dtype)

        x = model.codec.noise(prepared.x, noise("binarise")).to(model.device)
        if method == "sampled":
            runs = [machine.hidden_means(x, method, noise(f"posterior {k}"), sweeps) for k in range(draws)]
            parts.append(torch.stack(runs).mean(0))
        else:
            parts.append(machine.hidden_means(x, method))
    return machine.values(torch.cat(parts)).double().cpu().numpy()


@torch.inference_mode()
def anneal(
    model: Model,
    *,
    schedule: Schedule | ArrayLike = "geometric",
    hot: float | None = None,
    cold: float | None = None,
    sweeps: int = 1000,
    chains: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Simulated annealing (Kirkpatrick, Gelatt & Vecchi 1983): `chains` runs of `sweeps` Gibbs sweeps whose temperature
    falls from `hot` to `cold` in equal ratios ("geometric"), equal steps ("linear"), or as an array says.

    "energies" (chains,) are the lowest E that each run met, "states" (chains, n) what it met there in the units' own values,
    visible ones first; "energy" and "state" the best of them; "temperatures" those used. By default hot is twice the
    largest field that a unit's neighbours typically make, cold 1/50 of it.
    """
    machine = _machine(model)
    if isinstance(schedule, str):
        check_count(sweeps, "sweeps", least=2)
        falling = _ladder(machine, schedule, hot, cold, sweeps)
    else:
        if hot is not None or cold is not None:
            raise InvalidOption("hot, cold: an array of temperatures says it all; leave them out")
        falling = _temperatures("schedule", schedule)
    check_count(chains, "chains")
    sampler, device, dtype = machine.sampler(), machine.bias.device, machine.bias.dtype
    source = generator(check_seed(seed), "anneal", device=device)
    z = torch.randint(0, 2, (chains, machine.units), generator=source, device=device).to(dtype)
    draw = draw_into_buffer(source, machine.units, chains, dtype)
    _, bits = tempering.anneal(sampler, sampler.enter(z), machine.temperature / falling, draw)
    energies = _energies(machine, bits)
    states = machine.values(bits).cpu().numpy()
    best = int(energies.argmin())
    return {
        "energy": float(energies[best]),
        "state": states[best],
        "energies": energies,
        "states": states,
        "temperatures": falling.numpy(),
    }


@torch.inference_mode()
def temper(
    model: Model,
    *,
    temperatures: ArrayLike | None = None,
    ladders: int = 10,
    sweeps: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Parallel tempering (Swendsen & Wang 1986; Geyer 1991): `ladders` sets of chains, one chain at every one of the
    `temperatures` (by default 16 in equal ratios as `anneal` takes them), a Gibbs sweep of each and swaps of neighbours in
    turn. Of the second half of the sweeps: "mean_energies" and "swap_rates" of (neighbouring) temperatures, "temperatures"
    from hot to cold, and "round_trips", how often a chain went from hot to cold and back, per ladder. "states"
    (ladders, n) are the coldest chains at the end, "energies" theirs; "energy" and "state" the lowest met on the way.
    """
    machine = _machine(model)
    for name, value, least in (("ladders", ladders, 1), ("sweeps", sweeps, 2)):
        check_count(value, name, least=least)
    if temperatures is None:
        falling = _ladder(machine, "geometric", None, None, 16)
    else:
        falling = torch.sort(_temperatures("temperatures", temperatures), descending=True).values
    if len(falling) < 2 or float(falling.diff().max()) == 0:
        raise InvalidOption("temperatures: parallel tempering needs at least two different ones")
    sampler, device, dtype = machine.sampler(), machine.bias.device, machine.bias.dtype
    count = len(falling) * ladders
    source = generator(check_seed(seed), "temper", device=device)
    z = torch.randint(0, 2, (count, machine.units), generator=source, device=device).to(dtype)
    draw, betas = draw_into_buffer(source, machine.units, count, dtype), machine.temperature / falling
    found = tempering.tempered(sampler, sampler.enter(z), betas, sweeps, draw, source)
    return {
        "energy": float(_energies(machine, found.best[None])[0]),
        "state": machine.values(found.best).cpu().numpy(),
        "energies": _energies(machine, found.coldest),
        "states": machine.values(found.coldest).cpu().numpy(),
        "temperatures": falling.numpy(),
        "mean_energies": (found.mean_energies - float(machine.bits()[2])).numpy() * machine.temperature,
        "swap_rates": found.swap_rates.cpu().numpy(),
        "round_trips": found.round_trips,
    }


def _machine(model: Model) -> BoltzmannNetwork:
    if not isinstance(model.network, BoltzmannNetwork):
        raise Unsupported(f"this needs a Boltzmann machine (boltzmann_machine), and the model is a {model.family}")
    return model.network


def _energies(machine: BoltzmannNetwork, bits: Tensor) -> NDArray[np.float64]:
    """E of rows of bits, in float64."""
    return machine.state_energy(bits.double()).cpu().numpy() * machine.temperature


def _ladder(machine: BoltzmannNetwork, schedule: Any, hot: float | None, cold: float | None, count: int) -> Tensor:
    """Temperatures of that schedule, with what was not given chosen by the size of the couplings."""
    if schedule not in ("geometric", "linear"):
        raise InvalidOption(f"schedule: expected geometric, linear or an array of temperatures, got {schedule!r}")
    hot = machine.heat() if hot is None else hot
    cold = hot / 50 if cold is None else cold
    for name, value in (("hot", hot), ("cold", cold)):
        check_positive(value, name)
    if cold >= hot:
        raise InvalidOption(f"cold: expected a temperature below hot={hot:g}, got {cold:g}")
    return tempering.temperatures(schedule, hot, cold, count)


def _temperatures(name: str, given: ArrayLike) -> Tensor:
    found = torch.from_numpy(_numbers(name, given, 1))
    if not len(found) or not bool((found > 0).all()):
        raise InvalidOption(f"{name}: expected temperatures above 0")
    return found


def _numbers(name: str, given: ArrayLike, axes: int) -> NDArray[np.float64]:
    """An array of finite numbers with so many axes."""
    try:
        found = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidOption(f"{name}: expected numbers, got {type(given).__name__}") from None
    if found.ndim != axes or not np.isfinite(found).all():
        raise InvalidOption(
            f"{name}: expected finite numbers in {axes} dimension{'s' * (axes > 1)}, got shape {found.shape}"
        )
    return found
