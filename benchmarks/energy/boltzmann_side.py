"""One side of the Gibbs benchmark, in a process of its own: `boltzmann_side.py reverie|thrml|dwave lattice|dense --sweeps N`.

Prints one line of JSON: CPU and wall seconds of the timed sweeps, the mean energy per spin of the last states, peak memory.
Every side runs 1,000 chains of block Gibbs sampling of the same spins from all spins up, on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from typing import Any

SIDE, CHAINS, GLASS = 32, 1000, 200
CRITICAL = 2 / math.log(1 + math.sqrt(2))


def couplings(case: str) -> tuple[int, list[tuple[int, int]], list[float], float]:
    """Units, edges, their J, and the temperature."""
    if case == "lattice":
        n = SIDE * SIDE
        right = [(i, i - i % SIDE + (i + 1) % SIDE) for i in range(n)]
        down = [(i, (i + SIDE) % n) for i in range(n)]
        return n, right + down, [1.0] * (2 * n), CRITICAL
    import random

    source = random.Random(0)
    edges = [(i, j) for i in range(GLASS) for j in range(i + 1, GLASS)]
    return GLASS, edges, [source.gauss(0, 1) / math.sqrt(GLASS) for _ in edges], 1.0


def two_colours(unit: int) -> int:
    """The colour of a lattice's unit."""
    return (unit // SIDE + unit % SIDE) % 2


Run = Callable[[int], None]


def reverie(case: str, chains: int) -> tuple[Run, Callable[[], float]]:
    """Our chains."""
    import torch

    from reverie.inference.gibbs import Plan, bits_of_spins, draw_into_buffer, gibbs

    n, pairs, J, temperature = couplings(case)
    edges = torch.tensor(pairs).t().contiguous()
    weights, bias, constant = bits_of_spins(edges, torch.tensor(J), torch.zeros(n))
    sampler = gibbs(Plan(n, edges), weights, bias)
    state = sampler.enter(torch.ones(chains, n))
    draw = draw_into_buffer(torch.Generator().manual_seed(0), n, chains)

    def run(sweeps: int) -> None:
        for _ in range(sweeps):
            sampler.sweep(state, draw, 1 / temperature)

    return run, lambda: float((sampler.energy(state) - constant).mean()) / n


def dwave(case: str, chains: int) -> tuple[Run, Callable[[], float]]:
    """BlockSampler of dwave-pytorch-plugin, whose energy is h.s + s J s."""
    import torch
    from dwave.plugins.torch.models import GraphRestrictedBoltzmannMachine
    from dwave.plugins.torch.samplers.block_spin_sampler import BlockSampler

    n, pairs, J, temperature = couplings(case)
    machine = GraphRestrictedBoltzmannMachine(
        range(n), pairs, linear=dict.fromkeys(range(n), 0.0), quadratic=dict(zip(pairs, (-j for j in J), strict=True))
    )
    colour = two_colours if case == "lattice" else lambda unit: unit
    sampler = BlockSampler(machine, colour, chains, [1 / temperature], "Gibbs", torch.ones(chains, n), seed=0)

    def run(sweeps: int) -> None:
        beta = torch.tensor(1 / temperature)
        for _ in range(sweeps):
            sampler._step(beta)

    def energy() -> float:
        with torch.no_grad():
            x = sampler._x
            i, j = torch.tensor(pairs).t()
            return -float((x[:, i] * x[:, j] * torch.tensor(J)).sum(1).mean()) / n

    return run, energy


def thrml(case: str, chains: int) -> tuple[Run, Callable[[], float]]:
    """Two-colour block Gibbs of thrml, all sweeps of a call in one compiled scan over batched chains."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from thrml import Block, SpinNode
    from thrml.block_sampling import _run_blocks
    from thrml.models import IsingEBM, IsingSamplingProgram

    n, pairs, J, temperature = couplings(case)
    nodes = [SpinNode() for _ in range(n)]
    model = IsingEBM(
        nodes, [(nodes[i], nodes[j]) for i, j in pairs], jnp.zeros(n), jnp.array(J), jnp.array(1 / temperature)
    )
    groups = (
        [[i for i in range(n) if two_colours(i) == c] for c in (0, 1)] if case == "lattice" else [[i] for i in range(n)]
    )
    program = IsingSamplingProgram(model, [Block([nodes[i] for i in group]) for group in groups], [])
    state: Any = [jnp.ones((chains, len(group)), dtype=bool) for group in groups]
    key = jax.random.key(0)

    @eqx.filter_jit
    def advance(keys: Any, states: Any, sweeps: int) -> Any:
        start = [sampler.init() for sampler in program.samplers]
        return jax.vmap(lambda k, s: _run_blocks(k, program, s, [], sweeps, start)[0])(keys, states)

    def run(sweeps: int) -> None:
        nonlocal state, key
        key, use = jax.random.split(key)
        state = jax.block_until_ready(advance(jax.random.split(use, chains), state, sweeps))

    def energy() -> float:
        import numpy as np

        x = np.empty((chains, n))
        for group, part in zip(groups, state, strict=True):
            x[:, group] = 2.0 * np.asarray(part) - 1
        i, j = np.array(pairs).T
        return -float((x[:, i] * x[:, j] * np.array(J)).sum(1).mean()) / n

    return run, energy


def main() -> None:
    """Warm up with as many sweeps as are timed (thrml compiles for a number of sweeps), then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["reverie", "thrml", "dwave"])
    parser.add_argument("case", choices=["lattice", "dense"])
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1, help="how often to run the sweeps before those that are timed")
    parser.add_argument("--chains", type=int, default=CHAINS)
    arguments = parser.parse_args()
    if arguments.side != "thrml":
        import torch

        torch.set_num_threads(1)
    run, energy = globals()[arguments.side](arguments.case, arguments.chains)
    for _ in range(arguments.rounds):
        run(arguments.sweeps)
    cpu, wall = time.process_time(), time.perf_counter()
    run(arguments.sweeps)
    found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "energy_per_spin": energy()}
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["sweeps"] = arguments.sweeps
    print(json.dumps(found))


if __name__ == "__main__":
    main()
