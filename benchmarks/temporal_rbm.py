"""JSB chorales on the quarter-note grid: test nats per step of the temporal RBM beside independent keys and hidden Markov models.

`python temporal_rbm.py [--data FOLDER] [--epochs N] [--threads N]` with jsb_chorales_quarter.npz in FOLDER (default: the
variable REVERIE_DATA): 88 keys per step, the split of Boulanger-Lewandowski, Bengio & Vincent (2012). Exact where the hidden
units can be listed; else annealed on 1,000 random test steps, forwards and backwards. Settings were compared on the
validation part, whose figures stand beside.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, machine

import reverie as rv
from reverie.models import temporal_rbm
from reverie.rng import generator

Pieces = list[np.ndarray]
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


def estimated(name: str, model: rv.Model, data: dict[str, Pieces], **facts: Any) -> dict[str, Any]:
    """A row with annealed figures on 1,000 random test steps."""
    begin = time.process_time()
    row: dict[str, Any] = {"model": name, **facts, "training_cpu_seconds": model.info["cpu_seconds"]}
    row["test"] = temporal_rbm.estimate_log_prob(model, data["test"], frames=STEPS, chains=10, temperatures=200, seed=0)
    return {**row, "scoring_cpu_seconds": time.process_time() - begin}


def main() -> None:
    """Fit all, write results/temporal_rbm.json, print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("REVERIE_DATA", "../shared/data"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data, rows = chorales(arguments.data), []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    keep(independent(data))
    for states in (10, 50):
        chain = rv.HMM(states=states, smoothing=0.1).fit(data["train"], epochs=40, progress=False)
        keep(scored(f"HMM, {states} states", chain, data))
    shared: dict[str, Any] = {"lr": 0.5, "momentum": 0.9, "frames": 400, "sweeps": 5}
    for order, decay in ((1, 1e-4), (2, 1e-4), (8, 1e-4), (4, 1e-5), (4, 1e-4)):
        recipe = rv.TemporalRBM(hidden=10, order=order, weight_decay=decay, **shared)
        model = recipe.fit(data["train"], epochs=arguments.epochs, seed=0, progress=False)
        facts = {"epochs": arguments.epochs, "weight_decay": decay, **shared}
        keep(scored(f"temporal RBM, 10 hidden, order {order}", model, data, **facts))
    exact = np.concatenate(temporal_rbm.one_step_log_prob(model, data["test"]))
    chosen = torch.randperm(len(exact), generator=generator(0, "frames"))[:STEPS].numpy()
    keep({**estimated("the last one by annealing", model, data), "exact_of_these_steps": float(exact[chosen].mean())})
    recipe = rv.TemporalRBM(hidden=100, order=4, weight_decay=1e-4, **shared)
    model = recipe.fit(data["train"], epochs=arguments.epochs, seed=0, progress=False)
    keep(estimated("temporal RBM, 100 hidden, order 4", model, data, epochs=arguments.epochs, **shared))
    document = {"case": "temporal_rbm", "machine": machine(), "published_recalled": PUBLISHED, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "temporal_rbm.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
