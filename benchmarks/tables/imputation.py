"""Imputation by a Gaussian mixture fitted on the holes, K chosen by BIC: RMSE on min-max scaled columns beside the mean
and scikit-learn's IterativeImputer (default, and with ExtraTrees); coverage of the 90 % intervals of its draws.

`imputation.py [letter|casp] [ours|peers|coverage]` runs one part; without arguments all of them, one after the other.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, data_root, machine

CHOICES = {"letter": (20, 40, 60, 80, 100), "casp": (40, 60, 80, 100, 120, 150)}
MASKS = 5
PRIORS = (0.0, 0.5)
"""Pseudo-rows of the columns' own variances behind every covariance: without them many components fit too tightly."""
KEPT = {"letter": 40, "casp": 100}
"""Components for the coverage: what BIC chose most often."""


def load(name: str) -> np.ndarray:
    """The whole table, every column scaled to [0, 1]."""
    if name == "letter":
        rows = np.loadtxt(data_root() / "letter.csv.gz", delimiter=",", skiprows=1)
    else:
        found = np.load(data_root() / "protein_casp.npz")
        rows = found["x_train"].astype(float)
    return (rows - rows.min(0)) / (rows.max(0) - rows.min(0))


def mask(rows: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """True where a cell is hidden. mcar: each with chance 0.2. mar: columns of the second half, the likelier the larger
    the row's mean of the first half, 0.2 over all. block: a run of neighbouring columns in 60 % of the rows."""
    rng = np.random.default_rng(seed)
    n, d = rows.shape
    if kind == "mcar":
        return rng.random(rows.shape) < 0.2
    hidden = np.zeros(rows.shape, bool)
    if kind == "mar":
        score = rows[:, : d // 2].mean(1)
        chance = 0.8 / (1 + np.exp(-8 * (score - np.median(score)) / score.std() / 4))
        hidden[:, d // 2 :] = rng.random((n, d - d // 2)) < chance[:, None]
        return hidden
    width = max(2, d // 3)
    start = rng.integers(0, d - width + 1, n)
    columns = np.arange(d)
    inside = (columns >= start[:, None]) & (columns < start[:, None] + width)
    return inside & (rng.random(n) < 0.6)[:, None]


def rmse(filled: np.ndarray, rows: np.ndarray, hidden: np.ndarray) -> float:
    return float(np.sqrt(((filled - rows)[hidden] ** 2).mean()))


def ours(name: str) -> dict[str, Any]:
    import reverie as rv
    from reverie.models import mixture

    rows = load(name)
    out: list[dict[str, Any]] = []
    for seed in range(MASKS):
        hidden = mask(rows, "mcar", seed)
        holes = np.where(hidden, np.nan, rows)
        cpu = time.process_time()
        model, tried = mixture.select(
            rv.GaussianMixture(tol=1e-3), holes, components=CHOICES[name], epochs=80, progress=False
        )
        fit = time.process_time() - cpu
        filled = model.impute(holes)
        out.append(
            {
                "mask": seed,
                "components": model.estimator.components,
                "rmse": rmse(filled, rows, hidden),
                "rmse_mean": rmse(np.where(hidden, np.nanmean(holes, 0), rows), rows, hidden),
                "cpu": fit,
                "bic": [[row["components"], row["bic"]] for row in tried],
            }
        )
        print(json.dumps(out[-1]), flush=True)
    return {"part": "ours", "data": name, "masks": out, "rmse": float(np.mean([o["rmse"] for o in out]))}


def peers(name: str) -> dict[str, Any]:
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    warnings.simplefilter("ignore")
    rows = load(name)
    out = []
    for seed in range(2):
        hidden = mask(rows, "mcar", seed)
        holes = np.where(hidden, np.nan, rows)
        row: dict[str, Any] = {"mask": seed}
        trees = ExtraTreesRegressor(n_estimators=10, random_state=0, n_jobs=1)
        for label, imputer in (("iterative", IterativeImputer(random_state=0)), ("trees", None)):
            cpu = time.process_time()
            chosen = imputer or IterativeImputer(trees, random_state=0, max_iter=5)
            row[label] = rmse(chosen.fit_transform(holes), rows, hidden)
            row[f"{label}_cpu"] = time.process_time() - cpu
        out.append(row)
        print(json.dumps(row), flush=True)
    return {"part": "peers", "data": name, "masks": out}


def covered(draws: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Share of the truth (m,) inside the 5 %-95 % range of draws (200, m): with both ends, and with the share of a grid
    point's own mass that the range takes (columns on a grid put mass on the ends; 0.9 is right for the second only)."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    below = (draws < truth - 1e-9).mean(0)
    mass = (np.abs(draws - truth) <= 1e-9).mean(0)
    taken = np.minimum(below + mass, 0.95) - np.maximum(below, 0.05)
    exact = np.where(
        mass > 0, np.clip(taken, 0, None) / np.where(mass > 0, mass, 1.0), (below >= 0.05) & (below <= 0.95)
    )
    return {
        "coverage": float(exact.mean()),
        "with_both_ends": float(((truth >= low - 1e-9) & (truth <= high + 1e-9)).mean()),
        "width": float((high - low).mean()),
    }


def coverage(name: str) -> dict[str, Any]:
    """Share of hidden cells that the 90 % intervals of 200 draws cover, on 2,000 rows."""
    import reverie as rv

    rows = load(name)
    out = []
    part = slice(0, 2000)
    for kind, prior in product(("mcar", "mar", "block"), PRIORS):
        hidden = mask(rows, kind, 0)
        holes = np.where(hidden, np.nan, rows)
        model = rv.GaussianMixture(components=KEPT[name], tol=1e-3, prior=prior).fit(holes, epochs=80, progress=False)
        cells = hidden[part]
        draws, truth = np.stack(model.impute(holes[part], n_draws=200, seed=1))[:, cells], rows[part][cells]
        error = rmse(model.impute(holes), rows, hidden)
        out.append({"mask": kind, "prior": prior, **covered(draws, truth), "rmse": error, "cells": int(cells.sum())})
        print(json.dumps(out[-1]), flush=True)
    return {"part": "coverage", "data": name, "masks": out}


def main(parts: list[tuple[str, str]]) -> None:
    """Run the parts and write each into results/imputation.json."""
    path = RESULTS / "imputation.json"
    for name, part in parts:
        found = {"ours": ours, "peers": peers, "coverage": coverage}[part](name)
        document = json.loads(path.read_text()) if path.exists() else {"name": "imputation", "rows": []}
        document["machine"] = machine()
        document["rows"] = [r for r in document["rows"] if (r["data"], r["part"]) != (name, part)] + [found]
        path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main([(sys.argv[1], sys.argv[2])])
    else:
        main([(name, part) for part in ("ours", "peers", "coverage") for name in ("letter", "casp")])
