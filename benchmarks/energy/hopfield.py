"""Hopfield networks: how much Hebb's rule holds, and masked pictures recalled from a memory that keeps them all.

`python hopfield.py networks --units N --networks K` recalls in K networks of N spins and keeps what it finds;
`python hopfield.py capacity` puts all sizes together; `python hopfield.py masked [--data FOLDER]` is the other.

Capacity: started at a stored pattern, T = 0, asynchronous, until nothing moves. The load at which the median over
patterns and networks of the final overlap crosses 0.95 is that at which half of them end above it. In the theory of
Amit, Gutfreund & Sompolinsky (1985) retrieval ends where a stable state meets an unstable one: near such a point the median
threshold of finite systems is off by N^(-2/3), and single systems scatter by N^(-1/2) about it (Dembo & Montanari 2008,
for a threshold of that kind). The extrapolation takes the first; those with N^-1 and N^-1/2 stand beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, data_root, machine

import reverie as rv
from reverie.models import hopfield
from reverie.probability.machines.couplings import Couplings

LOADS = {
    500: (0.12, 0.13, 0.14, 0.145, 0.15, 0.155, 0.16, 0.165, 0.17, 0.18),
    1000: (0.13, 0.14, 0.145, 0.15, 0.155, 0.16, 0.165),
    2000: (0.135, 0.14, 0.1425, 0.145, 0.1475, 0.15, 0.155, 0.16),
    4000: (0.145, 0.15, 0.156),
}
STARTS = 128
LAWS = {"N^-2/3": 2 / 3, "N^-1": 1.0, "N^-1/2": 0.5}


def networks(arguments: argparse.Namespace) -> None:
    """The share of starts that end with an overlap above 0.95, by network and load; added to what is there."""
    size, path = arguments.units, _part(arguments.units)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"units": size, "networks": []}
    begin = time.process_time()
    for _ in range(arguments.networks):
        number = len(found["networks"])
        source = torch.Generator().manual_seed(1000 * size + number)
        most = round(max(LOADS[size]) * size)
        patterns = (torch.rand(most, size, generator=source) < 0.5).double()
        shares, medians, settled = [], [], []
        for load in LOADS[size]:
            network = Couplings(size, "hebb", 0.2)
            network.store(patterns[: round(load * size)], None)
            network.settle()
            trace = network.recall(patterns[:STARTS], None, sweeps=2000, update=None, seed=number)
            overlap = network.overlap(trace.x, patterns[:STARTS])[: round(load * size)]
            shares.append(float((overlap > 0.95).double().mean()))
            medians.append(float(overlap.median()))
            settled.append(float(trace.converged.double().mean()))
        found["networks"].append({"shares": shares, "medians": medians, "settled": settled})
    found["cpu_seconds"] = found.get("cpu_seconds", 0.0) + time.process_time() - begin
    path.write_text(json.dumps(found) + "\n")
    print(size, len(found["networks"]), np.mean([one["shares"] for one in found["networks"]], 0).round(3), flush=True)


def capacity(arguments: argparse.Namespace) -> dict[str, Any]:
    """Thresholds of all sizes and their limit, with intervals from drawing the networks anew 4,000 times."""
    rng = np.random.default_rng(0)
    sizes, draws, rows = [], [], []
    for size, loads in LOADS.items():
        if not _part(size).exists():
            continue
        found = json.loads(_part(size).read_text())
        shares = np.array([one["shares"] for one in found["networks"]])
        again = shares[rng.integers(0, len(shares), (4000, len(shares)))].mean(1)
        middle = crossing(np.array(loads), shares.mean(0))
        draw = np.array([crossing(np.array(loads), share) for share in again])
        draw = middle + (draw - middle) * np.sqrt(
            len(shares) / (len(shares) - 1)
        )  # few networks understate their scatter
        sizes.append(size)
        draws.append(draw)
        rows.append(
            {
                "units": size,
                "networks": len(shares),
                "starts_each": STARTS,
                "load": middle,
                "interval": np.percentile(draw, [2.5, 97.5]).tolist(),
                "loads": loads,
                "share_above_0.95": shares.mean(0).tolist(),
                "settled": float(np.mean([one["settled"] for one in found["networks"]])),
                "cpu_seconds": found["cpu_seconds"],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    spread = np.array([draw.std() for draw in draws])
    limits = {}
    for law, power in LAWS.items():
        design = np.stack([np.ones(len(sizes)), np.array(sizes, float) ** -power], 1) / spread[:, None]
        solve = np.linalg.pinv(design)
        value = solve @ (np.array([row["load"] for row in rows]) / spread)
        samples = (np.stack(draws, 1) / spread) @ solve.T
        misfit = float(np.square(design @ value - np.array([row["load"] for row in rows]) / spread).sum())
        limits[law] = {
            "load": float(value[0]),
            "interval": np.percentile(samples[:, 0], [2.5, 97.5]).tolist(),
            "slope": float(value[1]),
            "chi_square": misfit,
            "degrees": len(sizes) - 2,
        }
        print(law, json.dumps(limits[law]), flush=True)
    return {"sizes": rows, "limit": limits, "theory": 0.138}


def crossing(loads: np.ndarray, shares: np.ndarray) -> float:
    """Where the share falls through one half, on straight lines between the loads."""
    below = int(np.argmax(shares < 0.5))
    if below == 0:
        return float("nan")
    high, low = shares[below - 1], shares[below]
    return float(loads[below - 1] + (loads[below] - loads[below - 1]) * (high - 0.5) / (high - low))


def masked(arguments: argparse.Namespace) -> dict[str, Any]:
    """10,000 MNIST training images in a dense memory, pixels hidden at random: which come back."""
    with np.load(Path(arguments.data) / "mnist.npz", allow_pickle=False) as file:
        images = file["x_train"][:10_000]
    begin = time.process_time()
    model = rv.Hopfield(memory="dense", temperature=arguments.temperature).fit(images, seed=0, progress=False)
    stored = time.process_time() - begin
    rows = []
    for share in (0.5, 0.75, 0.9, 0.95, 0.98):
        rng = np.random.default_rng(0)
        cues = images[: arguments.cues]
        seen = rng.random(images.shape)[: len(cues)] >= share
        begin = time.process_time()
        found = hopfield.recall(model, cues, observed=seen)
        seconds = time.process_time() - begin
        same = (found.patterns == cues).all((1, 2))
        near = nearest(found.patterns, images) == np.arange(len(cues))
        rows.append(
            {
                "masked": share,
                "cues": len(cues),
                "every_pixel_right": float(same.mean()),
                "nearest_is_the_right_one": float(near.mean()),
                "converged": float(found.converged.mean()),
                "cpu_seconds": seconds,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return {
        "images": len(images),
        "temperature": hopfield.parameters(model)["temperature"],
        "cpu_seconds_storing": stored,
        "recall": rows,
    }


def nearest(rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The number of the stored image nearest to each row."""
    a, b = (part.reshape(len(part), -1).astype(np.float32) for part in (rows, images))
    squares = np.square(b).sum(1)
    return np.concatenate([(squares - 2 * a[i : i + 1000] @ b.T).argmin(1) for i in range(0, len(a), 1000)])


def _part(size: int) -> Path:
    return RESULTS / f"hopfield_networks_{size}.json"


def main() -> None:
    """Run one part; the results are written beside the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["networks", "capacity", "masked"])
    parser.add_argument("--units", type=int, choices=list(LOADS), default=500)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--temperature", type=float, help="of the masked images' memory; by default from the data")
    parser.add_argument("--cues", type=int, default=10_000, help="how many masked images to show")
    parser.add_argument("--data", default=os.environ.get("REVERIE_DATA", str(data_root())))
    arguments = parser.parse_args()
    if arguments.name == "networks":
        networks(arguments)
        return
    found = capacity(arguments) if arguments.name == "capacity" else masked(arguments)
    document = {"machine": machine(), "threads": torch.get_num_threads(), **found}
    suffix = "" if arguments.temperature is None else f"_{arguments.temperature:g}"
    (RESULTS / f"hopfield_{arguments.name}{suffix}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
