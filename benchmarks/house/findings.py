"""Do findings come when they should, and only then? Healthy runs of every family, planted failures, and what watching costs."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, machine
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_moons

import reverie as rv
from reverie.errors import Diverged
from reverie.learning.watching.findings import Watch
from reverie.nn.specs import MLP

warnings.simplefilter("ignore")
DIGITS = load_digits()


def bits(seed: int) -> np.ndarray:
    """Digits as bits, 1,000 of them, drawn anew for every seed."""
    rng = np.random.default_rng(seed)
    return DIGITS.images[rng.permutation(1797)[:1000]] > 7.5


def greys(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (DIGITS.images[rng.permutation(1797)[:1000]] * 15).astype(np.uint8)


def rows(seed: int) -> np.ndarray:
    """Iris, moons or breast cancer, resampled."""
    rng = np.random.default_rng(seed)
    which = seed % 3
    if which == 0:
        X = load_iris().data
    elif which == 1:
        X = make_moons(1000, noise=0.1, random_state=seed)[0]
    else:
        X = load_breast_cancer().data[:, :10]
    X = X[rng.permutation(len(X))]
    return X + rng.normal(size=X.shape) * 1e-3 * X.std(0)


def opposites(seed: int) -> np.ndarray:
    """Rows around a pattern of 64 bits and around its opposite, which no chain of Gibbs sampling crosses between."""
    rng = np.random.default_rng(seed)
    pattern = rng.random(64) < 0.5
    return pattern ^ (rng.random((1000, 1)) < 0.5) ^ (rng.random((1000, 64)) < 0.02)


def labelled(seed: int) -> Any:
    """Breast cancer with its diagnosis."""
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    return rv.as_dataset(X[order], y[order])


def tunes(seed: int) -> list[np.ndarray]:
    """Sequences of a two-state chain with noise."""
    rng = np.random.default_rng(seed)
    out = []
    for length in rng.integers(20, 60, 40).tolist():
        state = np.cumsum(rng.random(length) < 0.1) % 2
        out.append(np.stack([state * 3.0, -2.0 * state], 1) + rng.normal(size=(length, 2)))
    return out


def ratings(seed: int) -> Any:
    import pandas as pd

    rng = np.random.default_rng(seed)
    taste, kind = rng.normal(size=(120, 2)), rng.normal(size=(40, 2))
    user, item = np.nonzero(rng.random((120, 40)) < 0.3)
    stars = np.clip(np.round(3 + (taste[user] * kind[item]).sum(1) + rng.normal(0, 0.5, len(user))), 1, 5).astype(int)
    frame = pd.DataFrame({"user": user, "item": [f"i{number}" for number in item], "rating": stars})
    return rv.sequences(frame, by="user", kinds={"item": "category", "rating": "category"})


HEALTHY: dict[str, tuple[Callable[[int], Any], Callable[[int], Any], dict[str, Any]]] = {
    "gmm": (lambda s: rv.GaussianMixture(components=3), rows, {}),
    "bayesian_gmm": (lambda s: rv.BayesianGaussianMixture(components=6), rows, {}),
    "table_mixture": (lambda s: rv.TableMixture(components=3), rows, {}),
    "hmm": (lambda s: rv.HMM(states=2), tunes, {}),
    "naive_bayes": (lambda s: rv.NaiveBayes(), labelled, {}),
    "rbm": (lambda s: rv.RBM(hidden=64), bits, {"epochs": 40}),
    "dbn": (lambda s: rv.DBN(hidden=(64, 32)), bits, {"epochs": 40}),
    "dbm": (lambda s: rv.DBM(hidden=(64, 32)), bits, {"epochs": 40}),
    "boltzmann_machine": (lambda s: rv.BoltzmannMachine(), bits, {"epochs": 20}),
    "temporal_rbm": (lambda s: rv.TemporalRBM(hidden=16), tunes, {"epochs": 30}),
    "rating_rbm": (lambda s: rv.RatingRBM(), ratings, {"epochs": 20}),
    "hopfield": (lambda s: rv.Hopfield(), lambda s: bits(s)[:30], {}),
    "autoencoder": (lambda s: rv.Autoencoder(), greys, {"epochs": 30}),
    "vae": (lambda s: rv.VAE(), rows, {"epochs": 60}),
    "vae pictures": (lambda s: rv.VAE(), greys, {"epochs": 25}),
    "vae held out": (lambda s: rv.VAE(), greys, {"epochs": 25, "validation": 0.2}),
    "gan": (lambda s: rv.GAN(), rows, {"epochs": 300}),
    "gan pictures": (lambda s: rv.GAN(), greys, {"epochs": 40}),
}

SMALL = MLP(hidden=(64, 64), activation="relu")


def drowned(seed: int) -> Any:
    """A network whose rectified units a rate far too high pushes below zero for good."""
    return rv.VAE(encoder=SMALL, decoder=SMALL, lr=0.3, optimizer="adam", schedule="constant", warmup=0.0)


PLANTED: dict[str, tuple[str, Callable[[int], Any], Callable[[int], Any], dict[str, Any]]] = {
    "rate far too high": (
        "training.diverging",
        lambda s: rv.VAE(lr=0.1 * 2 ** (s % 4), schedule="constant", warmup=0.0),
        lambda s: greys(s) if s % 2 else rows(s),
        {"epochs": 40},
    ),
    "rate too low": ("training.nothing_learned", lambda s: rv.VAE(lr=1e-9), greys, {"epochs": 60}),
    "gan at rate too low": ("training.nothing_learned", lambda s: rv.GAN(lr=1e-9), rows, {"epochs": 300}),
    "sixty rows, five hundred passes": (
        "training.overfitting",
        lambda s: rv.VAE(),
        lambda s: greys(s)[:80],
        {"epochs": 400, "validation": 0.25, "ema": 0.0, "batch_size": 20},
    ),
    "rectified units drowned": ("network.dead_units", drowned, greys, {"epochs": 40}),
    "two modes far apart": ("chains.not_mixing", lambda s: rv.RBM(hidden=32), opposites, {"epochs": 60}),
}


def broken_em(seed: int) -> list[Any]:
    """EM whose means are set a little wrong in every step."""
    from reverie.probability.latent.mixture import Mixture

    whole = Mixture.maximise

    def maximise(self: Any, sums: Any) -> Any:
        move = whole(self, sums)
        with torch.no_grad():
            self.components.mean += 0.2 * torch.randn(
                self.components.mean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
        return move

    Mixture.maximise = maximise  # type: ignore[method-assign]
    try:
        return rv.GaussianMixture(components=3).fit(rows(seed + seed // 2), epochs=20, seed=seed).findings
    finally:
        Mixture.maximise = whole  # type: ignore[method-assign]


def findings(recipe: Any, X: Any, seed: int, options: dict[str, Any]) -> list[Any]:
    """What a run found, also one that diverged."""
    try:
        return list(recipe.fit(X, seed=seed, progress=False, **options).findings)
    except Diverged as error:
        return [] if error.model is None else list(error.model.findings)


def healthy(name: str, runs: int) -> dict[str, Any]:
    make, data, options = HEALTHY[name]
    start, found = time.perf_counter(), []
    for seed in range(runs):
        found += [f"seed {seed}: {finding}" for finding in findings(make(seed), data(seed), seed, options)]
    return {"runs": runs, "findings": found, "seconds": round(time.perf_counter() - start, 1)}


def planted(name: str, runs: int) -> dict[str, Any]:
    if name == "em set wrong":
        code, all_found = "em.decreased", [broken_em(seed) for seed in range(runs)]
    else:
        code, make, data, options = PLANTED[name]
        all_found = [findings(make(seed), data(seed), seed, options) for seed in range(runs)]
    caught = sum(any(finding.code == code for finding in found) for found in all_found)
    others = sorted({finding.code for found in all_found for finding in found} - {code})
    return {"code": code, "runs": runs, "caught": caught, "also": others}


def cost(name: str, repeats: int = 7) -> dict[str, Any]:
    """Seconds of the same run watched and not, in turn: the median ratio."""
    make, data, options = HEALTHY[name]
    X, ratios = data(1), []
    opened = Watch.open

    def blind(self: Watch, phase: Any, learner: Any) -> None:
        opened(self, phase, learner)
        self._monitors = []

    def timed(watching: bool) -> float:
        Watch.open = opened if watching else blind  # type: ignore[method-assign]
        try:
            return float(make(0).fit(X, seed=0, progress=False, **options).info["cpu_seconds"])
        finally:
            Watch.open = opened  # type: ignore[method-assign]

    timed(True)
    for _ in range(repeats):
        a, b, c, d = timed(False), timed(True), timed(True), timed(False)
        ratios.append((b + c) / (a + d))
    return {"median": float(np.median(ratios)), "ratios": [round(r, 4) for r in ratios]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["healthy", "planted", "cost", "all"])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--dry", action="store_true", help="print, but write no results")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    out: dict[str, Any] = {}
    for what, names, run in (
        ("healthy", HEALTHY, lambda name: healthy(name, asked.runs)),
        ("planted", [*PLANTED, "em set wrong"], lambda name: planted(name, asked.runs)),
        ("cost", ["rbm", "vae", "vae pictures", "gan", "gan pictures", "gmm"], cost),
    ):
        if asked.what in (what, "all"):
            out[what] = {}
            for name in names:
                if asked.only and name not in asked.only:
                    continue
                out[what][name] = run(name)
                print(what, name, out[what][name], flush=True)
    if not asked.dry:
        path = RESULTS / "findings.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, "machine": machine(), **out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
