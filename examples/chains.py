"""Do chains mix? Energies, autocorrelations and ranks of Gibbs chains of three machines. Run me: python examples/chains.py

Needs no files. A machine of small digits mixes; one of 4 x 4 bars and stripes does not, and if it learned from such chains
it is wrong besides: its chains drop into a few deep valleys.
"""

import itertools
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

import reverie as rv


def bars_and_stripes(side: int) -> np.ndarray:
    """All pictures whose rows, or whose columns, are each of one colour."""
    lines = np.array(list(itertools.product([False, True], repeat=side)))
    rows = np.repeat(lines, side, 1)
    columns = np.tile(lines, side)[1:-1]  # all dark and all bright are among the rows already
    return np.concatenate([rows, columns])


def ranks(energies: np.ndarray) -> np.ndarray:
    """Share of every chain's draws in each tenth of all chains' energies, (chains, 10): a tenth each where chains agree."""
    tenth = np.digitize(energies, np.quantile(energies, np.linspace(0.1, 0.9, 9)))
    return np.stack([np.bincount(chain, minlength=10) / len(chain) for chain in tenth])


def draw(picture: Path, found: dict[str, dict[str, np.ndarray]]) -> None:
    """A row of panels for each machine."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(found), 3, figsize=(9, 2.1 * len(found)), layout="constrained", squeeze=False)
    for line, (name, what) in zip(panels, found.items(), strict=True):
        energies = what["energies"]
        line[0].plot(energies[:3, :300].T, lw=0.7)
        line[0].set(ylabel=name)
        lags = min(100, energies.shape[1] // 4)
        line[1].plot(what["autocorrelation"][:lags], color="k")
        line[1].axhline(0, color="0.7", lw=0.5)
        line[1].set(ylim=(-0.1, 1.05))
        line[2].plot(ranks(energies[:4, energies.shape[1] // 2 :]).T, lw=0.8)
        line[2].axhline(0.1, color="k", lw=0.8)
        line[2].set(ylim=(0, None), ylabel=f"R-hat {what['r_hat']:.2f}\n{what['effective_draws']:.0f} effective draws")
    heads = "energies of three chains", "autocorrelation of the energy", "draws of every chain"
    for column, (head, foot) in enumerate(zip(heads, ("sweep", "lag", "tenth of all energies"), strict=True)):
        panels[0][column].set_title(head, fontsize=10)
        panels[-1][column].set_xlabel(foot)
    figure.savefig(picture, dpi=64)
    Image.open(picture).quantize(32).save(picture, optimize=True)  # a quarter of the bytes


def main(quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print R-hat and effective draws of the three machines; `quick` makes few passes and sweeps."""
    lines = np.tile(bars_and_stripes(4), (20, 1))
    budget = {"epochs": 500 if quick else 1000, "batch_size": 100, "ema": 0.99, "progress": False}
    machines = {
        "small digits": rv.RBM(hidden=64).fit(
            rv.load_data("digits", y=False), epochs=30 if quick else 300, progress=False
        ),
        "bars and stripes": rv.RBM(hidden=16, chains=100, lr=0.3).fit(lines, **budget),
        "the same, learned\nfrom tempered chains": rv.RBM(hidden=16, chains=100, replicas=10, lr=0.3).fit(
            lines, **budget
        ),
    }
    found = {}
    for name, model in machines.items():
        found[name] = rv.mixing(model, chains=20, sweeps=200 if quick else 2000, seed=0, traces=True)
        label = name.replace("\n", " ")
        print(f"{label}: R-hat {found[name]['r_hat']:.2f}, {found[name]['effective_draws']:.0f} effective draws")
    if picture is not None:
        draw(picture, found)
    return {name.replace("\n", " "): what["r_hat"] for name, what in found.items()}


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
