"""Small digits recalled from damaged ones, by couplings and by whole patterns. Run me: python examples/hopfield_digits.py

Needs no files. Ten digits, one of each class, as bits in Hopfield networks of 64 spins; all training digits, grey, in a
memory that keeps them as they are.
"""

from pathlib import Path

import matplotlib
import numpy as np

import reverie as rv
from reverie.models import hopfield

RULES = ("hebb", "covariance", "storkey", "pseudo_inverse")
FLIPPED = 0.1


def draw(picture: Path, rows: dict[str, np.ndarray], traces: dict[str, np.ndarray]) -> None:
    """Ten pictures of every kind, one kind a row; on the right the mean energy, sweep by sweep."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8.5, 0.55 * len(rows)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.3, 1))
    for line, (name, images) in zip(left.subplots(len(rows), 10), rows.items(), strict=True):
        for panel, image in zip(line, images, strict=False):
            panel.imshow(image, cmap="gray_r", vmin=0, vmax=16)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    axes = right.subplots()
    for name, energies in traces.items():
        axes.plot(energies.mean(0) - energies[:, -1].mean(), marker="o", markersize=3, label=name)
    axes.set(xlabel="sweep", ylabel="energy above the last", xticks=range(5), xlim=(-0.2, 4.2))
    axes.legend(fontsize=7)
    figure.savefig(picture, dpi=80)


def main(picture: Path | None = None) -> dict[str, float]:
    """Print which share of damaged digits comes back, by memory."""
    digits = rv.load_data("digits")
    train, labels = digits.train.X, np.asarray(digits.train.y)
    rng = np.random.default_rng(0)
    ten = train[[int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]]
    bits = ten > 8
    damaged = bits ^ (rng.random(bits.shape) < FLIPPED)
    rows, traces, found = {"stored bits": 16 * bits, "one in ten flipped": 16 * damaged}, {}, {}
    for rule in RULES:
        model = rv.Hopfield(memory=rule).fit(bits, progress=False)
        back = hopfield.recall(model, damaged)
        found[rule] = float((back.patterns == bits).all((1, 2)).mean())
        rows[rule], traces[rule] = 16 * back.patterns, np.pad(back.energies, ((0, 0), (0, 9)), mode="edge")[:, :9]
    seen = rng.random(train.shape) < 0.5
    model = rv.Hopfield(memory="dense").fit(digits.without_y().train, progress=False)
    back = hopfield.recall(model, train, observed=seen)
    found["dense, every pixel right"] = float((back.patterns == train).all((1, 2)).mean())
    found["dense, nearest is the right one"] = float((nearest(back.patterns, train) == np.arange(len(train))).mean())
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    if picture is not None:
        rows |= {"half seen": np.where(seen, train, 0)[:10], "dense": back.patterns[:10]}
        draw(picture, rows, traces)
    return found


def nearest(rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The number of the image nearest to each row."""
    a, b = (part.reshape(len(part), -1).astype(float) for part in (rows, images))
    return np.asarray((np.square(b).sum(1) - 2 * a @ b.T).argmin(1))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
