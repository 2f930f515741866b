"""Stacks and machines on MNIST: bounds on test nats, classifiers, codes, completion, and what pre-training is for.

`python stacks.py CASE [--data FOLDER] [--epochs N] [--threads N] [--float32]`, with CASE one of CASES below. Likelihoods are of the test
set binarised stochastically, once, with seed 0; training images are binarised anew for every batch. Models are kept in runs/stacks, so
that a case goes on from what another one trained; products are bfloat16 unless --float32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, mnist, run_case

import reverie as rv

RUNS = Path(__file__).resolve().parents[2] / "runs" / "stacks"
Data = dict[str, np.ndarray]


def trained(name: str, recipe: Any, X: Any, y: Any = None, **options: Any) -> rv.Model:
    """The model of that name in runs/stacks, trained when it is not there yet; curves are printed as they come."""
    folder = RUNS / name
    if folder.exists():
        return rv.load(folder)

    def show(record: dict[str, Any]) -> None:
        if record.get("event") == "epoch" and record["epoch"] % 5 == 0:
            print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}), flush=True)

    fit = recipe.fit if isinstance(recipe, rv.Estimator) else lambda *a, **k: rv.finetune(recipe, *a, **k)
    model: rv.Model = fit(X, y, progress=False, callbacks=(show,), **options)
    model.save(folder)
    return model


def nats(model: rv.Model, data: Data, samples: int) -> dict[str, Any]:
    """The bound on test nats, the tighter one with `samples` draws, and both estimates of log Z."""
    z = rv.log_partition(model, chains=200, temperatures=20_000, seed=1, burn_in=1000)
    plain = model.log_prob(data["x_test"], **({"samples": 1} if model.family == "dbn" else {}))
    tight = model.log_prob(data["x_test"], samples=samples)
    info = model.log_prob_info
    assert info is not None
    shift = info["log_z"] - z["log_z"]  # the longer annealing's log Z takes the place of the cached one
    return {
        "cpu_seconds": model.info["cpu_seconds"],
        "bound": float(plain.mean() + shift),
        "bound_se": float(plain.std() / len(plain) ** 0.5),
        f"bound_of_{samples}_draws": float(tight.mean() + shift),
        "log_z": z,
        "cached_log_z": info,
        "epochs": len(model.history),
        "curve": [(r["phase"], r["epoch"], r.get("reconstruction")) for r in model.history],
    }


def products(arguments: argparse.Namespace) -> str:
    return "float32" if arguments.float32 else "bfloat16"


def dbn(arguments: argparse.Namespace) -> dict[str, Any]:
    """Deep belief network 500-2000."""
    data = mnist(arguments.data)
    recipe = rv.DBN(hidden=(500, 2000), lr=0.3, products=products(arguments))
    return nats(trained("dbn", recipe, data["x_train"], epochs=arguments.epochs or 120), data, 50)


def dbm(arguments: argparse.Namespace) -> dict[str, Any]:
    """Deep Boltzmann machine 500-1000."""
    data = mnist(arguments.data)
    recipe = rv.DBM(hidden=(500, 1000), lr=0.15, chains=200, passes=1, products=products(arguments))
    return nats(trained("dbm", recipe, data["x_train"], epochs=arguments.epochs or 150), data, 50)


def classifier(model: rv.Model, name: str, data: Data, **options: Any) -> dict[str, Any]:
    tuned = trained(name, model, data["x_train"], data["y_train"], **options)
    wrong = tuned.predict(data["x_test"]) != data["y_test"]
    return {
        "cpu_seconds_before": model.info["cpu_seconds"],
        "cpu_seconds": tuned.info["cpu_seconds"],
        "test_error_percent": float(100 * wrong.mean()),
        "options": options,
        "curve": [(r["epoch"], r["loss"], r["error"]) for r in tuned.history],
    }


def dbn_classifier(arguments: argparse.Namespace) -> dict[str, Any]:
    """Deep belief network 500-500-2000 unrolled into a classifier."""
    data = mnist(arguments.data)
    recipe = rv.DBN(hidden=(500, 500, 2000), products=products(arguments))
    model = trained("dbn-500-500-2000", recipe, data["x_train"], epochs=60)
    options = {"dropout": 0.2, "input_dropout": 0.2}
    return classifier(model, "dbn-classifier", data, epochs=arguments.epochs or 30, **options)


def dbm_classifier(arguments: argparse.Namespace) -> dict[str, Any]:
    """The deep Boltzmann machine of the case dbm unrolled into a classifier."""
    data = mnist(arguments.data)
    recipe = rv.DBM(hidden=(500, 1000), lr=0.15, chains=200, passes=1, products=products(arguments))
    model = trained("dbm", recipe, data["x_train"], epochs=150)
    options = {"dropout": 0.0, "input_dropout": 0.0, "adversarial": 4.0, "passes": 5}
    return classifier(model, "dbm-classifier", data, epochs=arguments.epochs or 80, **options)


def hybrid(arguments: argparse.Namespace) -> dict[str, Any]:
    """Classification RBM, the gradient partly of p(y | x) and partly of p(x, y)."""
    data = mnist(arguments.data)
    recipe = rv.RBM(hidden=1000, optimizer="adam", lr=0.004, discriminative=0.99, products=products(arguments))
    model = trained("hybrid", recipe, data["x_train"], data["y_train"], epochs=arguments.epochs or 20)
    wrong = model.predict(data["x_test"]) != data["y_test"]
    return {"cpu_seconds": model.info["cpu_seconds"], "test_error_percent": float(100 * wrong.mean())}


def autoencoder(arguments: argparse.Namespace) -> dict[str, Any]:
    """Autoencoder 784-1000-500-250-30, squared error per test image, beside 30 principal components."""
    data = mnist(arguments.data)
    recipe = rv.Autoencoder(
        hidden=(1000, 500, 250),
        code=30,
        error="squared",
        pretrain=0.2,
        fantasies=0.5,
        lr=2e-3,
        products=products(arguments),
    )
    model = trained("autoencoder", recipe, data["x_train"], epochs=arguments.epochs or 180)
    train, test = (data[f"x_{part}"].reshape(-1, 784) / 255 for part in ("train", "test"))
    with torch.inference_mode():
        x = torch.from_numpy(test).float()
        rebuilt = model.network.decode(model.network.encode(x, None, None), None)  # type: ignore[operator]
        error = float((rebuilt - x).square().sum(1).mean())
    mean = train.mean(0)
    _, vectors = np.linalg.eigh((train - mean).T @ (train - mean))
    axes = vectors[:, -30:]
    rest = test - mean
    principal = float(np.square(rest - rest @ axes @ axes.T).sum(1).mean())
    curve = [(r["epoch"], r.get("squared_error")) for r in model.history]
    return {
        "cpu_seconds": model.info["cpu_seconds"],
        "squared_error": error,
        "principal_components": principal,
        "curve": curve,
    }


def completion(arguments: argparse.Namespace) -> dict[str, Any]:
    """Lower halves of 1,000 test digits from their upper halves: log-loss per pixel of RBM, DBM and 100 Bernoullis."""
    data = mnist(arguments.data)
    upper = np.arange(28)[:, None] < 14
    bits = np.random.default_rng(0).random((1000, 28, 28)) * 255 < data["x_test"][:1000]
    holes = np.where(upper, bits * 255.0, np.nan)
    models = {
        "rbm": trained("rbm", rv.RBM(hidden=500, lr=0.3, products=products(arguments)), data["x_train"], epochs=70),
        "dbm": rv.load(RUNS / "dbm"),
        "mixture of 100 Bernoullis": trained(
            "mixture", rv.BernoulliMixture(components=100), data["x_train"], epochs=60
        ),
    }
    found: dict[str, Any] = {}
    pictures = [np.where(upper, bits * 255, 0)[:10], (bits * 255)[:10]]
    for name, model in models.items():
        filled = np.asarray(model.impute(holes), float) / 255
        p = np.where(bits, filled, 1 - filled)[:, 14:].clip(1e-3, 1)
        found[name] = {"log_loss": float(-np.log(p).mean()), "se": float(np.log(p).mean((1, 2)).std() / 1000**0.5)}
        pictures.append(filled[:10] * 255)
    from reverie.data.pictures import grid_png

    grid = np.concatenate(pictures).astype(np.uint8)
    (RESULTS / "stacks_completion.png").write_bytes(grid_png(grid, 255, 10, scale=2))
    return found


def depth(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sigmoid nets of 1 to 6 hidden layers of 300, from random weights and from a stack: test error after as many passes
    of plain gradient descent, and the first layer's gradient norm at the start."""
    data = mnist(arguments.data)
    from reverie.nn.unrolled import Unrolled

    rows: list[dict[str, Any]] = []
    x = torch.from_numpy(data["x_train"].reshape(-1, 784) / 255).float()
    t = torch.from_numpy(data["x_test"].reshape(-1, 784) / 255).float()
    y, truth = torch.from_numpy(data["y_train"].astype(np.int64)), torch.from_numpy(data["y_test"].astype(np.int64))
    recipe = rv.DBN(hidden=(300,) * 6, lr=0.1, products=products(arguments))
    stack: Any = trained("depth", recipe, data["x_train"], epochs=60).network
    for layers in range(1, 7):
        for start in ("random", "stack"):
            torch.manual_seed(0)
            net = Unrolled([784, *[300] * layers], 10)
            for layer in net.maps:
                torch.nn.init.normal_(layer.weight, std=0.05)
            if start == "stack":
                for number in range(layers):
                    net.begin_from(number, stack.machine(number).W, stack.machine(number).c)
            descent = torch.optim.SGD(net.parameters(), lr=0.1)
            norm = None
            for _ in range(arguments.epochs or 10):
                for index in torch.randperm(60_000).split(100):
                    loss = torch.nn.functional.cross_entropy(net(x[index]), y[index])
                    descent.zero_grad()
                    loss.backward()
                    norm = float(net.maps[0].weight.grad.norm()) if norm is None else norm
                    descent.step()
            with torch.inference_mode():
                error = float((net(t).argmax(1) != truth).float().mean())
            rows.append({"layers": layers, "start": start, "test_error": error, "first_gradient_norm": norm})
            print(json.dumps(rows[-1]), flush=True)
    draw_depth(rows)
    return {"rows": rows}


def draw_depth(rows: list[dict[str, Any]]) -> None:
    """Test error, and the first layer's gradient norm at the start, by depth: docs/images/depth.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    for start, colour in (("random", "tab:orange"), ("stack", "tab:blue")):
        chosen = [row for row in rows if row["start"] == start]
        layers = [row["layers"] for row in chosen]
        label = "from random weights" if start == "random" else "from a stack of machines"
        panels[0].semilogy(layers, [100 * row["test_error"] for row in chosen], "o-", color=colour, label=label)
        panels[1].semilogy(layers, [row["first_gradient_norm"] for row in chosen], "o-", color=colour)
    panels[0].set(xlabel="hidden layers of 300", ylabel="test error, %")
    panels[0].legend(frameon=False, fontsize=8)
    panels[1].set(xlabel="hidden layers of 300", ylabel="first layer's gradient norm")
    figure.savefig(RESULTS.parents[1] / "docs" / "images" / "depth.png", dpi=80)
    plt.close(figure)


CASES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "dbn": dbn,
    "dbn_classifier": dbn_classifier,
    "dbm": dbm,
    "dbm_classifier": dbm_classifier,
    "hybrid": hybrid,
    "autoencoder": autoencoder,
    "completion": completion,
    "depth": depth,
}


if __name__ == "__main__":
    run_case("stacks", CASES, __doc__ or "", float32="float32 products in training")
