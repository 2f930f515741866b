"""The Boltzmann machine's figures: exact log Z, learning bars and stripes, spin glasses, and Gibbs sweeps beside peers.

`python boltzmann.py learning|glasses|energies|speed [--peers PYTHON]`. Peers are thrml and dwave-pytorch-plugin in an
environment of their own (peers_boltzmann.txt), by default .peers; every run is on one thread. Writes results/boltzmann_CASE.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, in_process, machine, paired

import reverie as rv
from reverie.models import boltzmann

SIDE = str(Path(__file__).parent / "boltzmann_side.py")


def bars_and_stripes() -> np.ndarray:
    """The 14 pictures of 3 x 3 bits whose rows, or whose columns, are all alike, (14, 9)."""
    lines = np.array(list(itertools.product([False, True], repeat=3)))
    pictures = np.concatenate([np.repeat(lines, 3, 1), np.tile(lines, (1, 3))])
    return np.unique(pictures, axis=0)


def learning(arguments: argparse.Namespace) -> dict[str, Any]:
    """KL from the 14 bars and stripes to the machine, by listing all states, 20 seeds of two recipes."""
    data = bars_and_stripes()
    recipes = {
        "exact gradient, 500 steps": (
            rv.BoltzmannMachine(hidden=4, gradient="exact", lr=1.0, momentum=0.9, centring=0.05),
            {"steps": 500, "ema": 0.0},
        ),
        "exact gradient, restricted, 8 hidden, 1,500 steps": (
            rv.BoltzmannMachine(hidden=8, graph="restricted", gradient="exact", lr=0.7, momentum=0.9, centring=0.05),
            {"steps": 1500, "ema": 0.0},
        ),
        "persistent chains, 6,000 steps": (
            rv.BoltzmannMachine(hidden=4, chains=500, lr=0.3, momentum=0.5),
            {"steps": 6000, "ema": 0.99},
        ),
    }
    out = []
    for name, (recipe, options) in recipes.items():
        values, seconds = [], []
        for seed in range(20):
            begin = time.process_time()
            model = recipe.fit(data, seed=seed, batch_size=14, progress=False, **options)
            seconds.append(time.process_time() - begin)
            values.append(float(-math.log(len(data)) - model.log_prob(data).mean()))
        row = {"recipe": name, "kl": values, "largest": max(values), "cpu_seconds_each": float(np.median(seconds))}
        out.append(row | {"at_most_0.05": sum(value <= 0.05 for value in values)})
        print(json.dumps(out[-1]), flush=True)
    return {
        "runs": out,
        "model": "9 visible and 4 hidden bits, all connected unless said otherwise, batches of all 14 rows",
    }


def glasses(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sherrington-Kirkpatrick, 100 spins, 10 instances: annealing's lowest energy beside parallel tempering's."""
    out = []
    for seed in range(10):
        J = np.triu(np.random.default_rng(seed).normal(size=(100, 100)) / 10, 1)
        model = boltzmann.with_parameters(J + J.T, units="spin")
        begin = time.process_time()
        annealed = boltzmann.anneal(model, chains=100, sweeps=1000, seed=seed)
        middle = time.process_time()
        tempered = boltzmann.temper(model, ladders=10, sweeps=5000, seed=seed)
        row = {"annealed": annealed["energy"], "tempered": tempered["energy"]}
        row |= {"ratio": annealed["energy"] / tempered["energy"], "round_trips": tempered["round_trips"]}
        row |= {"lowest_swap_rate": float(tempered["swap_rates"].min()), "cpu_annealed": middle - begin}
        row |= {"median_of_runs_ratio": float(np.median(annealed["energies"]) / tempered["energy"])}
        out.append(row | {"cpu_tempered": time.process_time() - middle})
        print(json.dumps(out[-1]), flush=True)
    settings = "anneal: 100 chains x 1,000 sweeps, geometric; temper: 16 temperatures x 10 ladders x 5,000 sweeps"
    return {"runs": out, "settings": settings, "lowest_ratio": min(row["ratio"] for row in out)}


def kaufman(side: int, coupling: float) -> float:
    """log Z of the periodic square lattice of side x side spins (Kaufman 1949, eq. 37)."""
    gamma = [2 * coupling + math.log(math.tanh(coupling))]
    ch = math.cosh(2 * coupling) ** 2 / math.sinh(2 * coupling)
    gamma += [math.acosh(ch - math.cos(math.pi * r / side)) for r in range(1, 2 * side)]
    odd, even = gamma[1::2], gamma[::2]
    logs = [
        sum(math.log(2 * math.cosh(side * g / 2)) for g in odd),
        sum(math.log(2 * math.sinh(side * g / 2)) for g in odd),
        sum(math.log(2 * math.cosh(side * g / 2)) for g in even),
    ]
    value = float(np.logaddexp.reduce(logs))
    sign, last = math.copysign(1, gamma[0]), [math.log(abs(2 * math.sinh(side * g / 2)) or 1e-300) for g in even]
    value += math.log1p(sign * math.exp(sum(last) - value))
    return value - math.log(2) + side**2 / 2 * math.log(2 * math.sinh(2 * coupling))


def exact_energy(side: int) -> float:
    """Energy per spin of the periodic lattice at the critical temperature: -d log Z / dK / spins, by a central difference."""
    critical, h = 0.5 * math.log(1 + math.sqrt(2)), 1e-4
    return -(kaufman(side, critical + h) - kaufman(side, critical - h)) / (2 * h) / side**2


def energies(arguments: argparse.Namespace) -> dict[str, Any]:
    """Energy per spin of 1,000 chains after 2,000 sweeps from all spins up on the critical 32 x 32 lattice."""
    want = exact_energy(32)
    assert abs(kaufman(4, 0.5 * math.log(1 + math.sqrt(2))) - 15.5219154588) < 1e-9
    found: dict[str, Any] = {"exact": want, "infinite_lattice": -math.sqrt(2)}
    for side in ("reverie", "thrml", "dwave"):
        run = in_process([*_python(side, arguments), SIDE, side, "lattice", "--sweeps", "500", "--rounds", "3"], 1)
        found[side] = {
            "energy_per_spin": run.extra["energy_per_spin"],
            "less_exact": run.extra["energy_per_spin"] - want,
        }
        found[side]["peak_memory_mb"] = run.extra["peak_memory_mb"]
        print(side, found[side], flush=True)
    return found


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sweeps of 1,000 chains, blocks A B B A, ours against each peer."""
    rows = []
    for case, other, sweeps, theirs in (
        ("lattice", "thrml", 100, 100),
        ("lattice", "dwave", 100, 25),
        ("dense", "dwave", 50, 3),
    ):

        def run(side: str, count: int, case: str = case) -> Any:
            timing = in_process([*_python(side, arguments), SIDE, side, case, "--sweeps", str(count)], 1)
            timing.cpu, timing.wall = timing.cpu / count, timing.wall / count
            return timing

        found = paired(lambda: run("reverie", sweeps), lambda: run(other, theirs), blocks=3, warmup=False)  # noqa: B023
        rows.append({"case": f"{case} beside {other}", **found})
        rows[-1] |= {"sweeps_per_second": 1 / found["cpu_a"], "of_the_other": 1 / found["cpu_b"]}
        print(json.dumps(rows[-1]), flush=True)
    note = "seconds are per sweep of 1,000 chains; lattice: 32 x 32 critical Ising; dense: 200 spins, Sherrington-Kirkpatrick"
    more = "thrml on the dense case compiles one kernel per spin and had not finished after 100 seconds"
    return {"rows": rows, "note": note, "left_out": more}


def _python(side: str, arguments: argparse.Namespace) -> list[str]:
    return [sys.executable if side == "reverie" else arguments.peers]


CASES = {"learning": learning, "glasses": glasses, "energies": energies, "speed": speed}


def main() -> None:
    """Run one case and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--peers", default=".peers/bin/python")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document = {"case": arguments.case, "machine": machine(), **CASES[arguments.case](arguments)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"boltzmann_{arguments.case}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
