"""A Boltzmann machine learns the 14 bars and stripes of 3 x 3 bits, exactly. Run me: python examples/bars_and_stripes.py

Needs no files. KL is over all states: 9 visible and 4 hidden bits have 8,192 of them.
"""

import itertools
import math
import time
from pathlib import Path

import matplotlib
import numpy as np

import reverie as rv
from reverie.models import boltzmann


def bars_and_stripes() -> np.ndarray:
    """The pictures whose rows, or whose columns, are all alike, (14, 9)."""
    lines = np.array(list(itertools.product([False, True], repeat=3)))
    return np.unique(np.concatenate([np.repeat(lines, 3, 1), np.tile(lines, (1, 3))]), axis=0)


def draw(picture: Path, model: rv.Model) -> None:
    """The landscape of three spins that want to differ, and sixteen fantasies of the machine."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = boltzmann.landscape(boltzmann.with_parameters(np.eye(3) - 1, units="spin"))
    names = ["".join("+" if value > 0 else "−" for value in state) for state in found["states"]]
    figure = plt.figure(figsize=(7.5, 2.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[3, 2])
    panel = left.subplots()
    panel.bar(names, found["energies"], color="tab:blue")
    panel.set(ylabel="energy", xlabel="state of three spins that want to differ")
    beside = panel.twinx()
    beside.plot(names, found["probabilities"], "o", color="tab:orange")
    beside.set(ylabel="probability at T = 1", ylim=(0, None))
    for cell, image in zip(right.subplots(4, 4).flat, np.asarray(model.sample(16, seed=0)), strict=True):
        cell.imshow(image.reshape(3, 3), cmap="gray_r", vmin=0, vmax=1)
        cell.set(xticks=[], yticks=[])
    figure.savefig(picture, dpi=80)


def main(quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print KL in nats of exact gradients and of persistent chains; `quick` takes fewer steps."""
    rows = bars_and_stripes()
    recipes = {
        "exact gradient": (
            rv.BoltzmannMachine(hidden=4, gradient="exact", lr=1.0, momentum=0.9, centring=0.05),
            {"steps": 200 if quick else 500, "ema": 0.0},
        ),
        "persistent chains": (
            rv.BoltzmannMachine(hidden=4, chains=500, lr=0.3, momentum=0.5),
            {"steps": 300 if quick else 6000, "ema": 0.99},
        ),
    }
    found = {}
    for name, (recipe, options) in recipes.items():
        begin = time.process_time()
        model = recipe.fit(rows, seed=0, batch_size=14, progress=False, **options)
        found[name] = float(-math.log(len(rows)) - model.log_prob(rows).mean())
        print(f"{name}: KL {found[name]:.4f} nats, {time.process_time() - begin:.1f} CPU s")
        if picture is not None and name == "exact gradient":
            draw(picture, model)
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
