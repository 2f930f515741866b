"""Digits whose upper half is missing, completed by mixtures; needs no files. Run me: python examples/mixture_digits.py"""

import time
from pathlib import Path

import matplotlib
import numpy as np

import reverie as rv


def draw(picture: Path, rows: list[np.ndarray], names: list[str]) -> None:
    """Ten digits of every kind, one kind a row."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(rows), 10, figsize=(6, 0.65 * len(rows)), layout="constrained")
    for line, images, name in zip(panels, rows, names, strict=True):
        for panel, image in zip(line, images, strict=False):
            panel.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(picture, dpi=80)


def main(quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print the root mean squared error of the missing pixels; `quick` makes few passes."""
    digits = rv.load_data("digits", y=False)
    train, test = digits.train.X / 16.0, digits.test.X / 16.0  # grey from 0 to 1, so that NaN can be a hole
    holes = test.copy()
    holes[:, :4] = np.nan
    recipes = {
        "1 Gaussian": rv.GaussianMixture(components=1, covariance="low-rank", rank=6),
        "10 low-rank": rv.GaussianMixture(components=10, covariance="low-rank", rank=6),
        "60 diagonal": rv.GaussianMixture(components=60, covariance="diag"),
        "60 Bernoulli": rv.BernoulliMixture(components=60),
    }
    found = {"mean pixel": float(np.sqrt(((train.mean(0) - test)[:, :4] ** 2).mean()))}
    guesses, drawn = [test, holes], []
    for name, recipe in recipes.items():
        begin = time.process_time()
        model = recipe.fit(train, epochs=5 if quick else 100, seed=0)
        guess = model.impute(holes)  # the conditional mean
        found[name] = float(np.sqrt(((guess - test)[:, :4] ** 2).mean()))
        guesses.append(guess)
        drawn.append(name)
        print(f"{name}: RMSE {found[name]:.4f}, {model.log_prob_kind}, {time.process_time() - begin:.1f} CPU s")
        assert np.array_equal(guess[:, 4:], test[:, 4:])  # what was seen comes back untouched
        if name == "10 low-rank":
            once = model.impute(holes, n_draws=2, seed=0)
            guesses += once
            drawn += ["a draw", "another"]
    print(f"mean pixel: RMSE {found['mean pixel']:.4f}")
    if picture is not None:
        draw(picture, guesses, ["test digits", "what is seen", *drawn])
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
