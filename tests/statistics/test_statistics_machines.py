"""Chains of restricted and deep machines against sums over all their states: every pair of units, temperatures, clamps, and
tempered chains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from boltzmann_kit import p_value
from reverie.learning.rules.ladder import Ladder
from reverie.probability.machines.deep import DeepMachine
from reverie.probability.machines.restricted import Restricted
from reverie.probability.machines.units import Bernoulli, Categorical, Gaussian, ReLU, SideBySide, Spin, Units
from reverie.rng import StreamNoise, generator

KINDS = ("bernoulli", "spin", "categorical", "gaussian", "relu")
BURN_IN = 40
"""Block Gibbs sweeps from independent units before the chains' states count."""
CELLS = 240
"""Of a number's axis. The midpoint rule errs by (cell / spread)^2 / 24 of a bin's mass, 2e-4 here: a million chains see
1e-2."""


class Axis:
    """One unit: its listed values (s, columns), or midpoints of cells of a number's range, -U of each, and in which of the
    bins that a test tells apart each lies (s,)."""

    def __init__(self, layer: Units) -> None:
        self.columns = getattr(layer, "levels", None) if isinstance(layer, Categorical) else 1
        self.number = layer.levels is None
        if not self.number:
            kind = Categorical(1, layer.levels) if isinstance(layer, Categorical) else type(layer)(1)
            self.values = kind.states(0, layer.levels)
            self.own = torch.zeros(len(self.values), dtype=torch.float64)
            self.bins = torch.arange(len(self.values))
            return
        low = 0.0 if isinstance(layer, ReLU) else -9.0
        step = (9.0 - low) / CELLS
        self.values = (low + step * (torch.arange(CELLS, dtype=torch.float64) + 0.5))[:, None]
        spread = float(layer.variance[0]) if isinstance(layer, Gaussian) else 1.0
        self.own = -0.5 * self.values[:, 0].square() / spread
        self.edges = low + step * torch.tensor([round((edge - low) / step) for edge in (0.15, 0.6, 1.4)])
        self.bins = torch.bucketize(self.values[:, 0], self.edges.double())

    @property
    def count(self) -> int:
        return int(self.bins.max()) + 1

    def digits(self, x: Tensor) -> Tensor:
        """The bins of drawn values (n, columns), (n,)."""
        if self.number:
            return torch.bucketize(x[:, 0].contiguous(), self.edges.to(x.dtype))
        return (x @ self.values.t().to(x.dtype) - 0.5 * self.values.square().sum(1).to(x.dtype)).argmax(1)


class Group:
    """The units of a layer together: all combinations of their values (S, width), -U, and bins (S,)."""

    def __init__(self, layer: Units) -> None:
        parts = layer.layers if isinstance(layer, SideBySide) else [layer]
        self.axes = [axis for part in parts for axis in [Axis(part)] * part.count]
        grids = torch.cartesian_prod(*(torch.arange(len(axis.values)) for axis in self.axes)).view(-1, layer.count)
        picked = list(zip(self.axes, grids.t(), strict=True))
        self.values = torch.cat([axis.values[index] for axis, index in picked], 1)
        self.own = torch.stack([axis.own[index] for axis, index in picked]).sum(0)
        self.codes = self._codes([axis.bins[index] for axis, index in picked])
        self.count = 1
        for axis in self.axes:
            self.count *= axis.count

    def _codes(self, digits: list[Tensor]) -> Tensor:
        codes = torch.zeros_like(digits[0])
        for axis, digit in zip(self.axes, digits, strict=True):
            codes = codes * axis.count + digit
        return codes

    def numbers(self, x: Tensor) -> Tensor:
        """The bins of drawn rows (n, width), (n,)."""
        parts = torch.split(x, [axis.columns for axis in self.axes], 1)
        return self._codes([axis.digits(part) for axis, part in zip(self.axes, parts, strict=True)])


def layer_of(kind: str, numbers: int, others: int) -> Units:
    """That kind of units: so many of numbers, so many of others (two softmax units of three levels)."""
    if kind == "mixed":
        return SideBySide([Bernoulli(1), Categorical(1, 3), Gaussian(1)])
    if kind == "categorical":
        return Categorical(2, 3)
    if kind in ("gaussian", "relu"):
        return Gaussian(numbers) if kind == "gaussian" else ReLU(numbers)
    return Bernoulli(others) if kind == "bernoulli" else Spin(others)


def restricted(visible: str, hidden: str) -> Restricted:
    """Two visible numbers or three others, one hidden number or two others; strong couplings but between numbers."""
    source = generator(3, visible, hidden)
    machine = Restricted(layer_of(visible, 2, 3), layer_of(hidden, 1, 2))
    numbers = sum(kind in ("gaussian", "relu", "mixed") for kind in (visible, hidden))
    # half the coupling where chains would stay where they start
    slow = hidden == "spin" and visible not in ("bernoulli", "relu")
    scale = (1.0, 0.7, 0.45)[numbers] / (1 + slow)
    with torch.no_grad():
        for parameter, size in ((machine.W, scale), (machine.b, 0.5), (machine.c, 0.5)):
            parameter.copy_(size * torch.randn(parameter.shape, generator=source).clamp(-1.5, 1.5))
        for part in machine.modules():
            if isinstance(part, Gaussian):
                part.log_variance.fill_(-0.3)
    return machine.requires_grad_(False)


def joint(machine: Restricted, groups: tuple[Group, Group], temperature: float) -> Tensor:
    """p(v, h) ~ exp(-E / T) of all combinations, (S_v, S_h) float64."""
    v, h = groups
    W, b, c = (parameter.double() for parameter in (machine.W, machine.b, machine.c))
    scores = v.values @ W @ h.values.t() + (v.values @ b + v.own)[:, None] + (h.values @ c + h.own)
    scores = scores.div_(temperature)
    p = scores.sub_(scores.max()).exp_()
    return p.div_(p.sum())


def chances(machine: Restricted, groups: tuple[Group, Group], temperature: float, held: Tensor | None) -> Tensor:
    """Probabilities of all pairs of bins; with `held` given that the visible rows are among those."""
    v, h = groups
    p = joint(machine, groups, temperature)
    if held is not None:
        p[~held] = 0
        p /= p.sum()
    by_row = torch.zeros(v.count, len(h.values), dtype=torch.float64).index_add_(0, v.codes, p)
    return torch.zeros(v.count, h.count, dtype=torch.float64).index_add_(1, h.codes, by_row).flatten()


def drawn(
    machine: Restricted, groups: tuple[Group, Group], temperature: float, chains: int, seed: int, value: Tensor | None
) -> Tensor:
    """Pairs of bins that chains came to; `value` holds the first visible unit."""
    noise = StreamNoise(generator(seed, "chains"), chains)
    v, clamped = machine.fantasy(noise), None
    if value is not None:
        first = torch.arange(v.shape[1]) < len(value)
        row = torch.cat([value, torch.zeros(v.shape[1] - len(value), dtype=torch.float64)]).to(v.dtype)
        clamped = (first, row)
        v = torch.where(first, row, v)
    v = machine.gibbs(v, BURN_IN, noise, temperature=temperature, clamped=clamped)
    h = machine.odd.sample_at(machine.odd_field(v), noise, temperature)
    return groups[0].numbers(v) * groups[1].count + groups[1].numbers(h)


def fit(visible: str, hidden: str, temperature: float, chains: int, *, clamped: bool, off: float = 1.0) -> float:
    """The p-value of chains at the temperature times `off`; clamped: the first visible unit keeps one value."""
    machine = restricted(visible, hidden)
    groups = Group(machine.visible), Group(machine.hidden)
    value = held = None
    if clamped:
        axis = groups[0].axes[0]
        value = axis.values[CELLS // 2 if axis.number else 1]
        held = (groups[0].values[:, : len(value)] == value).all(1)
    chance = chances(machine, groups, temperature, held)
    return p_value(drawn(machine, groups, temperature * off, chains, 1, value), chance)


PAIRS = [(visible, hidden) for visible in (*KINDS, "mixed") for hidden in KINDS]
CASES = [(temperature, clamped) for temperature in (0.5, 1.0, 2.0) for clamped in (False, True)]


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_the_burn_in_is_long_enough(pair):
    """The second eigenvalue of a sweep, to the power of the sweeps, is the share of the start that remains: with less than
    1e-3 a million chains' chi-square moves by 1e6 * 1e-3^2 = 1 or so."""
    machine = restricted(*pair)
    p = joint(machine, (Group(machine.visible), Group(machine.hidden)), 0.5)
    sweep = (p / p.sum(0)).t() @ (p / p.sum(1, keepdim=True).clamp_min(1e-300))
    assert torch.linalg.eigvals(sweep).abs().sort().values[-2] ** BURN_IN < 1e-3


@pytest.mark.parametrize(("number", "pair"), list(enumerate(PAIRS)), ids=[f"{v} {h}" for v, h in PAIRS])
def test_a_restricted_machine_draws_from_its_distribution(number, pair):
    """Every pair of units, the temperatures and clamps in turn."""
    temperature, clamped = CASES[number % len(CASES)]
    assert fit(*pair, temperature, 40_000, clamped=clamped) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "clamped"), CASES)
@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_a_million_restricted_machines(pair, temperature, clamped):
    """After 40 sweeps from independent units; at a temperature 5 % off a fifth of the chains fail the same test."""
    assert fit(*pair, temperature, 1_000_000, clamped=clamped) > 1e-4
    assert fit(*pair, temperature, 200_000, clamped=clamped, off=1.05) < 1e-4


# ---------------------------------------------------------------------- deep machines


def deep(units: type[Bernoulli] | type[Spin]) -> DeepMachine:
    """Three visible units and three hidden layers of two."""
    source = generator(5, "deep")
    machine = DeepMachine([Bernoulli(3), units(2), units(2), units(2)])
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source).clamp(-1.5, 1.5))
    return machine.requires_grad_(False)


def deep_fit(
    units: type[Bernoulli] | type[Spin], temperature: float, chains: int, *, clamped: bool, off: float = 1.0
) -> float:
    """The same for all 2^9 states of a deep machine; clamped: the first visible unit and one of the second hidden layer,
    both among the even units."""
    machine = deep(units)
    groups = [Group(layer) for layer in machine.layers]
    grid = torch.cartesian_prod(*(torch.arange(len(group.values)) for group in groups))
    layers = [group.values[index] for group, index in zip(groups, grid.t(), strict=True)]
    scores = sum(x @ b.double() for x, b in zip(layers, machine.b, strict=True))
    for W, low, high in zip(machine.W, layers, layers[1:], strict=False):
        scores = scores + ((low @ W.double()) * high).sum(1)
    held = None
    if clamped:
        fits = (layers[0][:, 0] == 1) & (layers[2][:, 1] == 1)
        scores = torch.where(fits, scores, -torch.inf)
        where = torch.tensor([True, False, False, False, True])
        held = (where, where.float())
    noise = StreamNoise(generator(2, "deep chains"), chains)
    even = machine.fantasy(noise)
    even = even if held is None else torch.where(held[0], held[1], even)
    even = machine.gibbs(even, 2 * BURN_IN, noise, temperature=temperature * off, clamped=held)
    odd = machine.odd.sample_at(machine.odd_field(even), noise, temperature * off)
    codes = torch.zeros(chains, dtype=torch.long)
    for group, x in zip(groups, machine.split(even, odd), strict=True):
        codes = codes * len(group.values) + group.numbers(x)
    return p_value(codes, torch.softmax(scores / temperature, 0))


@pytest.mark.parametrize("units", [Bernoulli, Spin])
@pytest.mark.parametrize(("temperature", "clamped"), CASES)
def test_a_deep_machine_draws_from_its_distribution(units, temperature, clamped):
    assert deep_fit(units, temperature, 40_000, clamped=clamped) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("units", [Bernoulli, Spin])
@pytest.mark.parametrize(("temperature", "clamped"), CASES)
def test_a_million_deep_machines(units, temperature, clamped):
    """After 80 sweeps from independent units; at a temperature 5 % off a fifth of the chains fail the same test."""
    assert deep_fit(units, temperature, 1_000_000, clamped=clamped) > 1e-4
    assert deep_fit(units, temperature, 200_000, clamped=clamped, off=1.05) < 1e-4


# ---------------------------------------------------------------------- tempered chains


def two_modes(width: int = 12) -> Restricted:
    """All ones or all zeros, nine times as often: Gibbs sampling all but never crosses over."""
    machine = Restricted(width, 2).double()
    with torch.no_grad():
        machine.W.fill_(6.0)
        machine.b.fill_(-6.0)
        machine.c.fill_(-3.0 * width)
        states = machine.visible.states(0, 2**width)
        free = torch.softmax(-machine.even_energy(states), 0)
        ones = float(free[states.sum(1) > width / 2].sum())
        tilt = torch.log(torch.tensor(9 * ones / (1 - ones))) / width
        machine.b.sub_(tilt)
    return machine.requires_grad_(False)


def tempered(machine: Restricted, copies: int, rounds: int, chains: int) -> tuple[Tensor, Ladder]:
    """Visible states of `chains` chains that all start from ones."""
    source, ladder = generator(0, "tempered"), Ladder(copies, torch.device("cpu"))
    h = torch.ones(chains * copies, machine.hidden.width, dtype=torch.float64)
    for _ in range(rounds):
        own = StreamNoise(source, chains, dtype=torch.float64)
        noise = ladder.noise(own)
        v = ladder.even(machine, h, noise)
        field = machine.odd_field(v)
        h = ladder.odd(machine, field, noise)
        if copies > 1:
            order = ladder.exchange(machine, v, h, field, own, lambda sums: sums)
            v, h = v[order], h[order]
    return ladder.cold(v), ladder


def test_tempered_chains_cross_over():
    """2,000 chains from the rare mode, where a tenth of them belongs (within 5 standard errors); without copies
    all but a few are still there."""
    machine = two_modes()
    stuck, _ = tempered(machine, 1, 300, 2000)
    moved, ladder = tempered(machine, 8, 300, 2000)
    assert float((stuck.mean(1) > 0.5).double().mean()) > 0.9
    assert abs(float((moved.mean(1) > 0.5).double().mean()) - 0.1) < 5 * (0.09 / 2000) ** 0.5
    states = machine.visible.states(0, 2**12)
    codes = (moved.long() << torch.arange(12)).sum(1)
    assert p_value(codes, torch.softmax(-machine.even_energy(states), 0)) > 1e-4
    assert ladder.lowest_rate > 0.2
