"""Quality on real data: what each family reaches, in how many CPU seconds, and beside what it is to be read.

`python quality.py ring8|vae|rbm|gan|bernoulli|classical [--data FOLDER] [--epochs N] [--threads N]`. MNIST comes from FOLDER/mnist.npz (default: the
variable REVERIE_DATA). Likelihoods of MNIST are of the test set binarised stochastically, once, with seed 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from harness import RESULTS, mnist, run_case

import reverie as rv
from reverie.metrics import count_modes
from reverie.nn.specs import MLP, ConvNet

RUNS = Path(__file__).resolve().parent.parent / "runs" / "quality"


def ring8(arguments: argparse.Namespace) -> dict[str, Any]:
    """Eight Gaussians on a circle, sigma 0.01, 2,500 training rows: modes held and share within 3 sigma, 3 seeds."""
    rows, angles = rv.load_data("ring8").X, 2 * np.pi * np.arange(8) / 8
    centres = np.stack([np.cos(angles), np.sin(angles)], 1)
    body = MLP(hidden=(64, 64, 64), activation="relu")
    out = []
    for loss in ("non_saturating", "minimax"):
        recipe = rv.GAN(latent=2, loss=loss, r1=0.03, lr=2e-3, generator=body, discriminator=body)
        for seed in (0, 1, 2):
            model = recipe.fit(rows, steps=8000, batch_size=128, seed=seed, progress=False)
            made = np.asarray(model.sample(5000, seed=seed))
            found = count_modes(made, centres, 0.01)
            shares = np.bincount(np.square(made[:, None] - centres).sum(2).argmin(1), minlength=8) / len(made)
            out.append({"loss": loss, "seed": seed, "cpu_seconds": model.info["cpu_seconds"], **asdict(found)})
            out[-1]["modes_with_a_quarter_of_their_share"] = int((shares >= 0.25 / 8).sum())
            print(json.dumps(out[-1]), flush=True)
    return {"runs": out, "training": "8,000 rounds of 128 rows"}


def vae(arguments: argparse.Namespace) -> dict[str, Any]:
    """VAE on MNIST binarised anew for every batch: test ELBO and IWAE-500."""
    data = mnist(arguments.data)
    recipe = rv.VAE(latent=40, pixels="binary")
    epochs = arguments.epochs or 50
    model = recipe.fit(data["x_train"], epochs=epochs, ema=0.999, progress=False, out=_out(f"vae-{epochs}"))
    elbo = np.mean([model.log_prob(data["x_test"], samples=1)], 0)
    print(f"{model.info['cpu_seconds']} CPU s, ELBO {-elbo.mean():.3f}", flush=True)
    iwae_100 = model.log_prob(data["x_test"], samples=100)
    part = 10_000 if arguments.full else 2_000
    iwae = model.log_prob(data["x_test"][:part], samples=500)
    _grid(model.sample(100, seed=0), "vae_mnist.png")
    return {
        "epochs": epochs,
        "cpu_seconds": model.info["cpu_seconds"],
        "negative_elbo": float(-elbo.mean()),
        "negative_elbo_se": float(elbo.std() / np.sqrt(len(elbo))),
        "iwae_100": float(-iwae_100.mean()),
        "iwae_100_se": float(iwae_100.std() / np.sqrt(len(iwae_100))),
        "iwae_500": float(-iwae.mean()),
        "iwae_rows": part,
        "negative_elbo_of_those_rows": float(-elbo[:part].mean()),
        "iwae_500_se": float(iwae.std() / np.sqrt(len(iwae))),
        "parameters": model.info["parameters"],
        "curve": [(record["epoch"], record["loss"]) for record in model.history],
    }


def rbm_mnist(arguments: argparse.Namespace) -> dict[str, Any]:
    """RBM with 500 hidden units on MNIST: test nats by AIS, with its reverse."""
    data = mnist(arguments.data)
    epochs = arguments.epochs or 70
    model = rv.RBM(hidden=500, lr=0.3).fit(data["x_train"], epochs=epochs, progress=False, out=_out(f"rbm-{epochs}"))
    print(f"{model.info['cpu_seconds']} CPU s of training", flush=True)
    train = model.log_prob(data["x_train"][:10_000])
    test = model.log_prob(data["x_test"])
    more = rv.log_partition(model, chains=200, temperatures=14_500, seed=1)
    _grid(model.sample(100, seed=0, mean=True), "rbm_mnist.png")
    return {
        "epochs": epochs,
        "cpu_seconds": model.info["cpu_seconds"],
        "test_nats": float(test.mean()),
        "test_nats_se": float(test.std() / np.sqrt(len(test))),
        "train_nats_10k": float(train.mean()),
        "partition": model.log_prob_info,
        "second_estimate": more,
    }


def gan(arguments: argparse.Namespace) -> dict[str, Any]:
    """Conditional GAN on MNIST: a grid of ten rows, one per class asked for, and what a classifier makes of it."""
    from sklearn.neural_network import MLPClassifier

    data = mnist(arguments.data)
    epochs = arguments.epochs or 10
    up = ConvNet(channels=(32, 64), hidden=0, activation="relu")
    down = ConvNet(channels=(24, 48, 96), kernel=4, hidden=0, activation="leaky_relu")
    recipe = rv.GAN(latent=64, generator=up, discriminator=down, r1=0.5, r1_every=8, lr=1e-3)
    model = recipe.fit(
        data["x_train"], data["y_train"], epochs=epochs, batch_size=64, progress=False, out=_out(f"gan-{epochs}")
    )
    labels = np.repeat(np.arange(10), 10)
    _grid(model.sample(100, y=labels, seed=0), "gan_mnist.png")
    judge = MLPClassifier((256,), max_iter=15, random_state=0)
    judge.fit(data["x_train"].reshape(60000, -1) / 255, data["y_train"])
    asked = np.repeat(np.arange(10), 200)
    made = np.asarray(model.sample(2000, y=asked, seed=1)).reshape(2000, -1) / 255
    agree = judge.predict(made) == asked
    return {
        "epochs": epochs,
        "cpu_seconds": model.info["cpu_seconds"],
        "classifier_test_accuracy": float(judge.score(data["x_test"].reshape(10000, -1) / 255, data["y_test"])),
        "class_as_asked": float(agree.mean()),
        "class_as_asked_by_class": [float(agree[asked == k].mean()) for k in range(10)],
    }


def bernoulli(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mixture of 500 Bernoullis on MNIST, bits drawn anew every pass and drawn once: test nats on bits drawn with seed 0."""
    data = mnist(arguments.data)
    flat = {part: data[f"x_{part}"].reshape(-1, 784) for part in ("train", "test")}

    def bits(part: str, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).random(flat[part].shape) * 255 < flat[part]

    out, test = [], bits("test", 0)
    for name, rows in (("anew every pass", data["x_train"]), ("once", bits("train", 1))):
        model = rv.BernoulliMixture(components=500).fit(rows, epochs=arguments.epochs or 60, progress=False)
        seen = test.reshape(data["x_test"].shape) * np.uint8(255) if name != "once" else test
        nats = np.asarray(model.log_prob(seen))
        out.append({"bits": name, "cpu_seconds": model.info["cpu_seconds"], "passes": len(model.history)})
        out[-1] |= {"test_nats": float(nats.mean()), "standard_error": float(nats.std() / len(nats) ** 0.5)}
        print(json.dumps(out[-1]), flush=True)
    return {"runs": out, "published": "-137.64 for 500 components"}


def classical(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the examples of naive Bayes, the tagger and the regimes print, on all their data."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    import adult_naive_bayes
    import occupancy_hmm
    import pos_tagging

    folder = Path(arguments.data).resolve()
    return {example.__name__: example.main(folder) for example in (adult_naive_bayes, occupancy_hmm, pos_tagging)}


def _out(name: str) -> str:
    number = 0
    while (RUNS / f"{name}-{number}").exists():
        number += 1
    return str(RUNS / f"{name}-{number}")


def _grid(images: Any, name: str) -> None:
    from reverie.data.pictures import grid_png

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_bytes(grid_png(images, 255, 10, scale=2))


CASES = {"ring8": ring8, "vae": vae, "rbm": rbm_mnist, "gan": gan, "bernoulli": bernoulli, "classical": classical}


if __name__ == "__main__":
    run_case("quality", CASES, __doc__ or "", full="IWAE-500 on all test rows instead of the first 2,000")
