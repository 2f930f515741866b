"""Chains of Boltzmann machines against all states: every kernel's distribution, the same draws as a plain loop, swaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from boltzmann_kit import ising, numbers, p_value, sherrington_kirkpatrick, states
from reverie.inference import tempering
from reverie.inference.gibbs import Coloured, Gibbs, OneByOne, Plan, draw_into_buffer, gibbs
from reverie.inference.graphs import between, colours, complete, lattice, matrix
from reverie.models import boltzmann

KERNELS = {
    "gathered": (11, torch.stack([torch.arange(10), torch.arange(1, 11)])),
    "product": (8, between(0, 4, 8)),
    "one by one": (6, complete(6)),
}
"""Units and edges of a graph for each way of drawing."""
BURN_IN = 60
"""Sweeps from independent fair bits before the chains' states count."""


def sampler_of(kernel: str, scale: float = 0.9) -> Gibbs:
    n, edges = KERNELS[kernel]
    source = torch.Generator().manual_seed(7)
    weights = scale * torch.randn(edges.shape[1], generator=source)
    return gibbs(Plan(n, edges), weights, 0.5 * torch.randn(n, generator=source))


def scores(sampler: Gibbs) -> Tensor:
    """b . z + z W z / 2 of all states, (2^n,) float64."""
    plan, z = sampler.plan, states(sampler.plan.n)
    W = matrix(plan.n, plan.edges, sampler._weights.double())
    return z @ sampler._bias.double() + 0.5 * ((z @ W) * z).sum(1)


def chi_square(
    kernel: str, temperature: float, chains: int, *, clamped: bool, off: float = 1.0, seed: int = 0
) -> float:
    """The p-value of `chains` chains at the temperature times `off`; clamped: units 1 and 2 are held at 1 and 0."""
    sampler = sampler_of(kernel)
    n = sampler.plan.n
    source = torch.Generator().manual_seed(seed)
    z = (torch.rand(chains, n, generator=source) < 0.5).float()
    target, held = torch.softmax(scores(sampler) / temperature, 0), None
    if clamped:
        z[:, 1], z[:, 2] = 1, 0
        fits = (states(n)[:, 1] == 1) & (states(n)[:, 2] == 0)
        target = torch.where(fits, target, 0) / target[fits].sum()
        held = sampler.placed((torch.arange(n) == 1) | (torch.arange(n) == 2))
    state, draw = sampler.enter(z), draw_into_buffer(source, n, chains)
    for _ in range(BURN_IN):
        sampler.sweep(state, draw, 1 / (temperature * off), held=held)
    return p_value(numbers(sampler.leave(state)), target)


CASES = [(k, t, c) for k in KERNELS for t in (0.5, 1.0, 2.0) for c in (False, True)]


def test_the_kernels_are_what_they_are_called():
    assert isinstance(sampler_of("one by one"), OneByOne)
    for kernel, gathers in (("gathered", True), ("product", False)):
        sampler = sampler_of(kernel)
        assert isinstance(sampler, Coloured)
        assert all((block.near is not None) is gathers for block in sampler.plan.blocks)


@pytest.mark.parametrize(("kernel", "temperature", "clamped"), CASES)
def test_a_kernel_draws_from_the_distribution(kernel, temperature, clamped):
    assert chi_square(kernel, temperature, 50_000, clamped=clamped) > 1e-4


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_temperature_off_by_five_percent_is_seen(kernel):
    assert chi_square(kernel, 1.0, 200_000, clamped=False, off=1.05) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "temperature", "clamped"), CASES)
def test_a_million_chains(kernel, temperature, clamped):
    """After 60 sweeps from fair bits; at a temperature 5 % off the same test fails."""
    assert chi_square(kernel, temperature, 1_000_000, clamped=clamped, seed=1) > 1e-4
    assert chi_square(kernel, temperature, 1_000_000, clamped=clamped, seed=1, off=1.05) < 1e-4
    assert chi_square(kernel, temperature, 1_000_000, clamped=clamped, seed=1, off=0.95) < 1e-4


@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize(
    ("n", "edges"),
    [(70, complete(70)), (36, lattice(6, 6, periodic=True)), (20, between(0, 12, 20)), (6, torch.empty(2, 0).long())],
    ids=["one by one", "lattice", "restricted", "no edges"],
)
def test_a_sweep_is_that_of_a_plain_loop(n, edges, clamped):
    """Unit after unit in the plan's order with the same uniforms, each from p(z_i | all others); per-chain temperatures,
    a tilt, units that are not drawn, blocks of 32 and a rest."""
    source = torch.Generator().manual_seed(0)
    weights = torch.randn(edges.shape[1], generator=source, dtype=torch.float64) / 3
    bias = torch.randn(n, generator=source, dtype=torch.float64)
    units = torch.arange(2, n)
    sampler = gibbs(Plan(n, edges, units), weights, bias)
    z = (torch.rand(9, n, generator=source) < 0.5).double()
    beta = torch.linspace(0.3, 2.0, 9, dtype=torch.float64)
    tilt = torch.randn(n, generator=source, dtype=torch.float64)
    where = torch.rand(9, n, generator=source) < 0.3
    sheets = [torch.rand(n - 2, 9, generator=source, dtype=torch.float64) for _ in range(3)]
    state, W = sampler.enter(z), matrix(n, edges, weights)
    held = sampler.placed(where) if clamped else None
    for sheet in sheets:
        queue = iter(sheet)
        sampler.sweep(
            state,
            lambda k, queue=queue: torch.stack([next(queue) for _ in range(k)]),
            beta,
            held=held,
            tilt=sampler.placed(tilt),
        )
        for unit, uniform in zip(sampler.plan.order[: n - 2].tolist(), sheet, strict=True):
            chance = torch.sigmoid(beta * (bias[unit] + z @ W[unit]) + tilt[unit])
            new = (uniform < chance).double()
            z[:, unit] = torch.where(where[:, unit], z[:, unit], new) if clamped else new
        assert torch.equal(sampler.leave(state), z)
    torch.testing.assert_close(
        sampler.fields(state), (bias + z @ W).t()[sampler.plan.order[: n - 2]], rtol=1e-9, atol=1e-9
    )


def test_kept_fields_stay_right_for_many_flips():
    """Float32, 2,000 sweeps at a high temperature: about 100,000 flips of every chain."""
    n, source = 100, torch.Generator().manual_seed(0)
    edges = complete(n)
    sampler = gibbs(Plan(n, edges), torch.randn(edges.shape[1], generator=source) / 10, torch.zeros(n))
    assert isinstance(sampler, OneByOne)
    state = sampler.enter((torch.rand(20, n, generator=source) < 0.5).float())
    draw = draw_into_buffer(source, n, 20)
    for _ in range(2000):
        sampler.sweep(state, draw, 0.5)
    kept = state.field.clone()
    sampler.refresh(state)
    torch.testing.assert_close(kept, state.field, rtol=0, atol=1e-3)


def test_no_edge_joins_units_of_a_colour():
    source = torch.Generator().manual_seed(0)
    for n in (1, 2, 17, 60):
        for share in (0.0, 0.1, 0.5, 1.0):
            edges = complete(n)
            edges = edges[:, torch.rand(edges.shape[1], generator=source) < share]
            groups = colours(n, edges)
            colour = torch.empty(n, dtype=torch.long)
            for number, group in enumerate(groups):
                colour[group] = number
            assert sorted(torch.cat(groups).tolist()) == list(range(n))
            assert bool((colour[edges[0]] != colour[edges[1]]).all())
            degree = torch.bincount(edges.flatten(), minlength=n)
            assert len(groups) <= int(degree.max()) + 1
    for edges, n in ((lattice(5, 7, periodic=False), 35), (lattice(6, 8, periodic=True), 48), (between(0, 9, 13), 13)):
        assert len(colours(n, edges)) == 2


def test_swaps_keep_the_distribution_of_every_temperature():
    """30,000 ladders of three temperatures: the chain at each temperature, and pairs of neighbours jointly."""
    sampler = sampler_of("one by one", scale=1.5)
    betas, ladders, source = (
        torch.tensor([0.3, 0.8, 1.5], dtype=torch.float64),
        30_000,
        torch.Generator().manual_seed(0),
    )
    z = (torch.rand(3 * ladders, 6, generator=source) < 0.5).float()
    draw = draw_into_buffer(source, 6, 3 * ladders)
    *_, now = tempering.temper(sampler, sampler.enter(z), betas, 40, draw, source)
    assert sorted(now.at.flatten().tolist()) == list(range(3 * ladders))
    assert 0.2 < float(now.swap_rates.min()) < 0.95
    rows = sampler.leave(now.state)
    for level, beta in enumerate(betas):
        assert p_value(numbers(rows[now.at[level]]), torch.softmax(scores(sampler) * beta, 0)) > 1e-4
    first = [torch.softmax(scores(sampler) * beta, 0).view(8, 8).sum(1) for beta in betas]
    for a, b in ((0, 1), (1, 2)):  # three units of each: 64 joint states
        joint = torch.cat([rows[now.at[a]][:, :3], rows[now.at[b]][:, :3]], 1)
        assert p_value(numbers(joint), torch.outer(first[a], first[b]).flatten()) > 1e-4


def test_round_trips_are_counted():
    """Two temperatures so close that every swap is taken: a chain is hot, cold, hot ... one round trip every second swap."""
    sampler = sampler_of("gathered", scale=0.0)
    source = torch.Generator().manual_seed(0)
    state = sampler.enter(torch.zeros(2, 11))
    betas = torch.tensor([1.0, 1.0], dtype=torch.float64)
    found = [
        (float(now.trips), float(now.swap_rates[0]))
        for now in tempering.temper(sampler, state, betas, 9, draw_into_buffer(source, 11, 2), source)
    ]
    # pairs (0, 1) swap in rounds 1, 3, 5 ...: chain 1 comes to the hot end in round 1, returns there in round 5 and 9,
    # chain 0, hot before, has not been seen to leave; it comes to the hot end in round 3 and returns in round 7
    assert [trips for trips, _ in found] == [0, 0, 0, 0, 1, 1, 2, 2, 3]
    assert found[-1][1] == 1.0


@pytest.mark.parametrize("schedule", ["geometric", "linear", "array"])
def test_annealing_finds_ground_states(schedule):
    given = np.geomspace(4, 0.1, 300) if schedule == "array" else schedule
    model = ising(6, periodic=True)
    pattern = np.where(np.random.default_rng(0).random(36) < 0.5, -1, 1)
    planted = boltzmann.with_parameters(
        boltzmann.parameters(model)["W"] * np.outer(pattern, pattern), units="spin"
    )  # a ferromagnet in disguise: its ground states are the pattern and its opposite
    found = boltzmann.anneal(planted, schedule=given, sweeps=300, chains=30)
    assert found["energy"] == -72.0
    assert abs(float(found["state"] @ pattern)) == 36
    assert found["energies"].shape == (30,)
    assert (found["energies"] >= -72).all()


@pytest.mark.parametrize("seed", range(3))
def test_annealing_and_tempering_find_what_listing_finds(seed):
    model = sherrington_kirkpatrick(14, seed)
    lowest = boltzmann.landscape(model)["energies"].min()
    for found in (boltzmann.anneal(model, sweeps=200, chains=20), boltzmann.temper(model, sweeps=200, ladders=3)):
        assert abs(found["energy"] - lowest) < 1e-5
        W = boltzmann.parameters(model)["W"]
        assert abs(-0.5 * found["state"] @ W @ found["state"] - found["energy"]) < 1e-5


def test_tempered_energies_are_the_exact_ones():
    model = sherrington_kirkpatrick(10, 0)
    found = boltzmann.temper(model, temperatures=[0.3, 1.0, 2.0], ladders=200, sweeps=400)
    energies = boltzmann.landscape(model)["energies"]
    for temperature, mean in zip(found["temperatures"], found["mean_energies"], strict=True):
        chance = np.exp(-(energies - energies.min()) / temperature)
        assert abs(mean - energies @ chance / chance.sum()) < 0.03
    assert found["temperatures"].tolist() == [2.0, 1.0, 0.3]
    assert found["round_trips"] > 1


@pytest.mark.slow
def test_the_critical_lattice_has_the_exact_energy():
    """-sqrt(2) per spin in the infinite system (Onsager 1944), -1.43366 on a periodic 32 x 32 lattice (Kaufman 1949); 200
    chains, every tenth of 2,000 sweeps after as many: the standard error is about 0.001."""
    model = ising(32, periodic=True)
    sampler, source = model.network.sampler(), torch.Generator().manual_seed(0)
    state, draw = sampler.enter(torch.ones(200, 1024)), draw_into_buffer(source, 1024, 200)
    total, count = 0.0, 0
    with torch.inference_mode():
        for sweep in range(4000):
            sampler.sweep(state, draw)
            if sweep >= 2000 and sweep % 10 == 0:
                total += float((sampler.energy(state) - model.network.bits()[2]).mean())
                count += 1
    assert abs(total / count * model.network.temperature / 1024 + 1.43366) < 0.004


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_annealing_reaches_temperings_energy_on_spin_glasses(seed):
    model = sherrington_kirkpatrick(100, seed)
    best = boltzmann.temper(model, sweeps=3000)["energy"]
    assert boltzmann.anneal(model, sweeps=1000, seed=1)["energy"] <= 0.99 * best
