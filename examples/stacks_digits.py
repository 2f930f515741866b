"""Stacks on small digits: a deep belief network, a deep Boltzmann machine, an autoencoder plain, denoising and with fantasies.
Run me: python examples/stacks_digits.py

Needs no files. Prints bounds on test nats, errors of codes and of classifiers, and draws what each dreams.
"""

import time
from pathlib import Path

import matplotlib
import numpy as np

import reverie as rv


def draw(picture: Path, rows: dict[str, np.ndarray]) -> None:
    """Twelve pictures of every kind, one kind a row."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(rows), 12, figsize=(7, 0.65 * len(rows)), layout="constrained")
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for panel, image in zip(line, images, strict=False):
            panel.imshow(image, cmap="gray_r", vmin=0, vmax=16)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(picture, dpi=80)
    plt.close(figure)


def bits_of(images: np.ndarray) -> np.ndarray:
    """Black and white pictures drawn from the grey levels, once."""
    return (np.random.default_rng(0).random(images.shape) < images / 16.0) * np.uint8(16)


def principal(train: np.ndarray, test: np.ndarray, code: int) -> float:
    """Squared error per picture of as many principal components."""
    flat, rows = train.reshape(len(train), -1) / 16.0, test.reshape(len(test), -1) / 16.0
    mean = flat.mean(0)
    axes = np.linalg.svd(flat - mean, full_matrices=False)[2][:code]
    return float(np.square(rows - mean - (rows - mean) @ axes.T @ axes).sum(1).mean())


def main(quick: bool = False, pictures: Path | None = None) -> dict[str, float]:
    """Print what each stack reaches; `quick` makes few passes, `pictures` is a folder for one picture of each."""
    digits, labelled = rv.load_data("digits", y=False), rv.load_data("digits")
    test, truth = digits.test.X, labelled.test.y
    bits = bits_of(test)
    passes = 1 if quick else 4
    found: dict[str, float] = {}
    dreams: dict[str, np.ndarray] = {}
    for name, recipe, epochs in (
        ("dbn", rv.DBN(hidden=(64, 128)), 150 * passes),
        ("dbm", rv.DBM(hidden=(64, 64), lr=0.2), 100 * passes),
    ):
        begin = time.process_time()
        model = recipe.fit(digits.train, epochs=epochs, seed=0, progress=False)
        found[f"{name}, bound on test nats"] = float(model.log_prob(bits, samples=20).mean())
        print(f"{name}: {time.process_time() - begin:.1f} CPU s, {model.log_prob_info}")
        tuned = rv.finetune(
            model, labelled.train, epochs=20 * passes, seed=0, finetune_lr=5e-3, dropout=0.2, progress=False
        )
        found[f"{name}, error of its classifier"] = float((tuned.predict(test) != truth).mean())
        holes = np.where(np.arange(8)[:, None] < 4, bits.astype(float), np.nan)
        dreams[name] = np.asarray(model.sample(12, seed=1, sweeps=1000))
        if pictures is not None:
            filled = np.asarray(model.impute(holes[:12]))
            seen = np.where(np.isnan(holes), 0, holes)[:12]
            rows = {"test bits": bits, "what is seen": seen, "filled in": filled, "fantasies": dreams[name]}
            draw(pictures / f"{name}_digits.png", rows)
    rows = {"test digits": test}
    for name, options in (("plain", {}), ("denoising", {"corruption": 0.1}), ("with fantasies", {"fantasies": 0.5})):
        recipe = rv.Autoencoder(hidden=(128, 64), code=8, error="squared", lr=3e-3, activation="silu", **options)
        model = recipe.fit(digits.train, epochs=40 * passes, batch_size=50, seed=0, progress=False)
        rebuilt = np.asarray(model.reconstruct(test))
        found[f"autoencoder, {name}, squared error"] = float(np.square(rebuilt / 16.0 - test / 16.0).sum((1, 2)).mean())
        rows[name] = rebuilt
    found["8 principal components, squared error"] = principal(digits.train.X, test, 8)
    if pictures is not None:
        rows["decoded draws"] = np.asarray(model.sample(12, seed=1))
        draw(pictures / "autoencoder_digits.png", rows)
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
