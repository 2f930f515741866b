"""How many clusters? Maximum likelihood with BIC, and a Bayesian mixture; needs no files.

Run me: python examples/bayesian_blobs.py
"""

import time
from pathlib import Path

import matplotlib
import numpy as np

import reverie as rv
from reverie.models import bayesian_mixture, mixture

CENTRES = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 4.5], [-4.0, 2.0], [-2.5, -3.5]])


def blobs(rows: int, seed: int) -> np.ndarray:
    """`rows` points of five round Gaussians of unequal sizes."""
    rng = np.random.default_rng(seed)
    which = rng.choice(5, rows, p=[0.35, 0.25, 0.2, 0.15, 0.05])
    return CENTRES[which] + rng.normal(size=(rows, 2)) * np.array([0.8, 0.6, 0.7, 0.5, 0.4])[which, None]


def draw(picture: Path, points: np.ndarray, models: dict[str, rv.Model]) -> None:
    """Points coloured by their likeliest component."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(models), figsize=(7, 2.4), sharey=True, layout="constrained")
    for panel, (name, model) in zip(panels, models.items(), strict=True):
        _, colour = np.unique(model.encode(points).argmax(1), return_inverse=True)
        panel.scatter(*points.T, c=colour, cmap="tab20", s=3, lw=0)
        panel.set_title(name, fontsize=8)
    figure.savefig(picture, dpi=70)


def main(quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print how many components each way finds and what it says of fresh points, in nats."""
    train, test, found = blobs(600, 0), blobs(20_000, 1), {}
    begin = time.process_time()
    twenty = rv.GaussianMixture(components=20).fit(train, seed=0)
    tried = (3, 4, 5, 6) if quick else (1, 2, 3, 4, 5, 6, 8, 10)
    chosen, table = mixture.select(rv.GaussianMixture(restarts=3), train, components=tried, seed=0)
    for row in table:
        print(f"{row['components']:3.0f} components: BIC {row['bic']:.1f}, ICL {row['icl']:.1f}")
    print(f"{time.process_time() - begin:.1f} CPU s")
    begin = time.process_time()
    bayes = rv.BayesianGaussianMixture(components=20).fit(train, seed=0)
    print(f"Bayesian: {time.process_time() - begin:.1f} CPU s")
    models = {"EM, 20 components": twenty, "EM, best BIC": chosen, "Bayesian, at most 20": bayes}
    for name, model in models.items():
        number, nats = bayesian_mixture.effective_components(model), model.log_prob(test).mean()
        found |= {f"components, {name}": float(number), f"nats, {name}": float(nats)}
        print(f"{name}: {number} components of weight 0.01 or more, {nats:.4f} nats per fresh point")
    if picture is not None:
        draw(picture, train, models)
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
