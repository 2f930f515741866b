"""A machine with 64 hidden bits on small digits: fantasies, filters, halves filled in. Run me: python examples/rbm_digits.py

Needs no files. Grey levels become bits by a draw anew for every batch.
"""

import time
from pathlib import Path

import matplotlib
import numpy as np

import reverie as rv


def draw(picture: Path, rows: dict[str, np.ndarray]) -> None:
    """Twelve pictures of every kind, one kind a row; filters by their own range."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(rows), 12, figsize=(7, 0.65 * len(rows)), layout="constrained")
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        reach = np.abs(images).max()
        low, colours = (-reach, "RdBu_r") if images.min() < 0 else (0, "gray_r")
        for panel, image in zip(line, images, strict=False):
            panel.imshow(image, cmap=colours, vmin=low, vmax=reach)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(picture, dpi=80)


def main(quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print test nats beside independent pixels, and the error of the filled-in halves; `quick` makes few passes."""
    digits = rv.load_data("digits", y=False)
    train, test = digits.train.X, digits.test.X
    begin = time.process_time()
    model = rv.RBM(hidden=64).fit(digits.train, epochs=30 if quick else 300, seed=0, progress=False)
    print(f"{time.process_time() - begin:.1f} CPU s")
    z = rv.log_partition(model, temperatures=1000 if quick else 10_000)
    print(f"log Z {z['log_z']:.2f} +- {z['standard_error']:.2f}, backwards {z['log_z_reverse']:.2f}")
    grey, share = (
        test.reshape(len(test), -1) / 16.0,
        (train.reshape(len(train), -1) / 16.0).mean(0).clip(1e-3, 1 - 1e-3),
    )
    bits = (np.random.default_rng(0).random(test.shape) < test / 16.0) * np.uint8(16)
    on = bits.reshape(len(test), -1) > 0
    found = {
        "nats, machine": float(model.log_prob(bits).mean()),
        "nats, independent pixels": float(np.where(on, np.log(share), np.log1p(-share)).sum(1).mean()),
        "gap of log Z": float(z["gap"]),
    }
    upper = np.ones(test.shape[1:], bool)
    upper[4:] = False
    filled = complete(model, bits, upper)
    found["error, machine"] = float(np.sqrt((((filled / 16.0 - test / 16.0)[:, 4:]) ** 2).mean()))
    found["error, mean pixel"] = float(np.sqrt(((share[None, 32:] - grey[:, 32:]) ** 2).mean()))
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    if picture is not None:
        filters = model.network.W.detach().numpy().T.reshape(-1, 8, 8)
        order = np.argsort(-np.square(filters).sum((1, 2)))
        seen = np.where(upper, bits, 0)
        fantasies = np.asarray(model.sample(12, seed=1, sweeps=2000))
        rows = {
            "test bits": bits,
            "what is seen": seen,
            "filled in": filled,
            "fantasies": fantasies,
            "filters": filters[order],
        }
        draw(picture, rows)
    return found


def complete(model: rv.Model, bits: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Pictures whose pixels outside `seen` are filled in with their mean under clamped Gibbs sampling."""
    holes = np.where(seen, bits.astype(float), np.nan)
    return np.asarray(model.impute(holes))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
