"""JSB chorales on the quarter-note grid: test nats per step of the temporal RBM beside independent keys and hidden Markov models.

`python temporal_rbm.py small|large [--data FOLDER] [--epochs N] [--threads N]` with jsb_chorales_quarter.npz in FOLDER (default: the
variable REVERIE_DATA): 88 keys per step, the split of Boulanger-Lewandowski, Bengio & Vincent (2012). Exact where the hidden
units can be listed; else annealed on 1,000 random test steps, forwards and backwards. Settings were compared on the
validation part, whose figures stand beside.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, machine

import reverie as rv
from reverie.models import temporal_rbm
from reverie.rng import generator

Pieces = list[np.ndarray]
SHARED: dict[str, Any] = {"lr": 0.5, "momentum": 0.9, "frames": 400, "sweeps": 5}
STEPS = 1000
"""Random test steps for an annealed figure."""
PUBLISHED = {"RBM alone": -7.27, "RTRBM": -6.35, "RNN-RBM": -6.27}
"""Test nats per step of Boulanger-Lewandowski et al. (2012), recalled from memory and not read again."""


def chorales(folder: str) -> dict[str, Pieces]:
    """Piano rolls (steps, 88) of bits, by part."""
    out = {}
    with np.load(Path(folder) / "jsb_chorales_quarter.npz", allow_pickle=False) as file:
        for part in ("train", "valid", "test"):
            sizes, notes = file[f"{part}_step_sizes"].astype(int), file[f"{part}_notes"].astype(int)
            roll = np.zeros((len(sizes), 88), bool)
            roll[np.repeat(np.arange(len(sizes)), sizes), notes - 21] = True
            out[part] = np.split(roll, file[f"{part}_piece_offsets"][1:-1])
    return out


def independent(data: dict[str, Pieces]) -> dict[str, Any]:
    """Every key by its rate in training, of one count more."""
    known = np.concatenate(data["train"])
    rate = (known.sum(0) + 0.5) / (len(known) + 1)
    found = {part: np.where(np.concatenate(data[part]), np.log(rate), np.log1p(-rate)) for part in ("valid", "test")}
    return {"model": "independent keys", **{part: float(nats.sum(1).mean()) for part, nats in found.items()}}


def per_step(model: rv.Model, pieces: Pieces) -> tuple[float, float]:
    """Nats per step, all steps alike, and its standard error over pieces."""
    nats, steps = model.log_prob(pieces), np.array([len(piece) for piece in pieces])
    mean = nats.sum() / steps.sum()
    return float(mean), float((nats - mean * steps).std() * np.sqrt(len(steps)) / steps.sum())


def scored(name: str, model: rv.Model, data: dict[str, Pieces], **facts: Any) -> dict[str, Any]:
    """A row with exact figures."""
    begin = time.process_time()
    row: dict[str, Any] = {"model": name, **facts, "training_cpu_seconds": model.info["cpu_seconds"]}
    for part in ("valid", "test"):
        row[part], row[f"{part}_se"] = per_step(model, data[part])
    return {**row, "scoring_cpu_seconds": time.process_time() - begin}


def estimated(
    name: str, model: rv.Model, data: dict[str, Pieces], *, chains: int, temperatures: int, **facts: Any
) -> dict[str, Any]:
    """A row with annealed figures on 1,000 random test steps."""
    begin = time.process_time()
    row: dict[str, Any] = {"model": name, **facts, "training_cpu_seconds": model.info["cpu_seconds"]}
    row |= {"chains": chains, "temperatures": temperatures}
    row["test"] = temporal_rbm.estimate_log_prob(
        model, data["test"], frames=STEPS, chains=chains, temperatures=temperatures
    )
    return {**row, "scoring_cpu_seconds": time.process_time() - begin}


def small(data: dict[str, Pieces], epochs: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """Machines whose likelihood is exact, and what they are to be read beside."""
    keep(independent(data))
    for states in (10, 50):
        chain = rv.HMM(states=states, smoothing=0.1).fit(data["train"], epochs=40, progress=False)
        keep(scored(f"HMM, {states} states", chain, data))
    for order, decay in ((1, 1e-4), (2, 1e-4), (8, 1e-4), (4, 1e-5), (4, 1e-4)):
        recipe = rv.TemporalRBM(hidden=10, order=order, weight_decay=decay, **SHARED)
        model = recipe.fit(data["train"], epochs=epochs, seed=0, progress=False)
        keep(
            scored(f"temporal RBM, 10 hidden, order {order}", model, data, epochs=epochs, weight_decay=decay, **SHARED)
        )
    exact = np.concatenate(temporal_rbm.one_step_log_prob(model, data["test"]))
    row = estimated("the last one by annealing", model, data, chains=10, temperatures=200)
    keep({**row, "exact_of_these_steps": float(exact[chosen(len(exact))].mean())})


def large(data: dict[str, Pieces], epochs: int, keep: Callable[[dict[str, Any]], None]) -> None:
    """A machine of 100 hidden units, annealed; and on the same steps one of 10, exactly, which says how far these steps
    are from the others."""
    for hidden in (10, 100):
        recipe = rv.TemporalRBM(hidden=hidden, order=2, **SHARED)
        model = recipe.fit(data["train"], epochs=epochs, seed=0, progress=False)
        name = f"temporal RBM, {hidden} hidden, order 2"
        if hidden == 10:
            exact = np.concatenate(temporal_rbm.one_step_log_prob(model, data["test"]))
            here = float(exact[chosen(len(exact))].mean())
            keep({"model": name, "test": float(exact.mean()), "exact_of_these_steps": here})
        else:
            keep(estimated(name, model, data, chains=5, temperatures=1000, epochs=epochs, **SHARED))


def chosen(steps: int) -> np.ndarray:
    """The steps that `estimate_log_prob` draws with seed 0."""
    return np.asarray(torch.randperm(steps, generator=generator(0, "frames"))[:STEPS])


def main() -> None:
    """Fit the machines of a case, write results/temporal_rbm_CASE.json, print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("small", "large"))
    parser.add_argument("--data", default=os.environ.get("REVERIE_DATA", "../shared/data"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    (small if arguments.case == "small" else large)(chorales(arguments.data), arguments.epochs, keep)
    document = {"case": arguments.case, "machine": machine(), "published_recalled": PUBLISHED, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"temporal_rbm_{arguments.case}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
