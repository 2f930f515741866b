"""Forests on tables: `forests.py PART [DATA]` writes into results/forests.json.

density    held-out nats and CPU seconds of the adversarial forest on 10,000 rows of casp (with noise of 0.01 standard deviations, so
           that no value repeats) or letter; `arf` the same of arfpy 0.1.1, run with the python of an environment that has it
impute     root mean squared error of imputing 20 % of the cells, missing at random, of letter or casp, as imputation.py measures it
picture    docs/images/adversarial_forest.png and unmasking_trees.png
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, data_root, machine

TREES, LEAF = 30, 5
"""Those of arfpy, for the comparison."""


def rows_of(name: str) -> np.ndarray:
    if name == "letter":
        return np.loadtxt(data_root() / "letter.csv.gz", delimiter=",", skiprows=1)
    rows = np.load(data_root() / "protein_casp.npz")["x_train"].astype(float)
    rows = (rows - rows.mean(0)) / rows.std(0)
    return rows + 0.01 * np.random.default_rng(0).normal(size=rows.shape)


def parts(name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = rows_of(name)
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order[:10_000]], rows[order[10_000:15_000]]


def density(name: str) -> dict[str, Any]:
    import reverie as rv

    train, test = parts(name)
    if name == "letter":
        train, test = train.astype(np.int64), test.astype(np.int64)
    out = []
    for options in ({"trees": TREES, "leaf": LEAF}, {}):
        start = time.process_time()
        model = rv.AdversarialForest(**options).fit(train, seed=0)
        fit = time.process_time() - start
        start = time.process_time()
        nats = model.log_prob(test)
        score = time.process_time() - start
        start = time.process_time()
        model.sample(len(test), seed=0)
        out.append(
            {
                "options": options,
                "fit_cpu": fit,
                "log_prob_cpu": score,
                "sample_cpu": time.process_time() - start,
                "nats": float(nats.mean()),
                "median": float(np.median(nats)),
                "leaves": len(model.network.share),
            }
        )
        print(json.dumps(out[-1]), flush=True)
    return {"runs": out}


def arf(name: str) -> dict[str, Any]:
    """arfpy has no density of its own: its leaves' truncated normals, widths at least 0.001 of the column's, on letter the mass of a
    value's cell."""
    import pandas as pd
    from arfpy import arf as peer
    from scipy.stats import norm

    train, test = parts(name)
    step = 1.0 if name == "letter" else 0.0
    columns = [f"v{j}" for j in range(train.shape[1])]
    np.random.seed(0)
    start = time.process_time()
    model = peer.arf(pd.DataFrame(train, columns=columns), num_trees=TREES, min_node_size=LEAF, verbose=False)
    found = model.forde()["cnt"]
    fit = time.process_time() - start
    ends = model.clf.apply(test)
    joint = np.full((len(test), TREES), -np.inf)
    for tree in range(TREES):
        own = found[found.tree == tree]
        tables = {
            k: own.pivot(index="nodeid", columns="variable", values=k)[columns] for k in ("mean", "sd", "min", "max")
        }
        share = model.bnds[model.bnds.tree == tree].drop_duplicates("nodeid").set_index("nodeid")["cvg"]
        for leaf in np.intersect1d(ends[:, tree], share.index):
            at = np.flatnonzero(ends[:, tree] == leaf)
            mean, sd, low, high = (tables[k].loc[leaf].to_numpy() for k in ("mean", "sd", "min", "max"))
            sd = np.maximum(np.nan_to_num(sd, nan=1.0), 1e-3 * train.std(0))
            whole = norm.cdf((high - mean) / sd) - norm.cdf((low - mean) / sd)
            x = test[at]
            if step:
                above, below = np.minimum(x + step / 2, high), np.maximum(x - step / 2, low)
                own_mass = norm.cdf((above - mean) / sd) - norm.cdf((below - mean) / sd)
                logs = np.log(np.maximum(own_mass, 1e-300))
            else:
                logs = norm.logpdf((x - mean) / sd) - np.log(sd)
            joint[at, tree] = np.log(share[leaf]) + (logs - np.log(whole)).sum(1)
    nats = np.logaddexp.reduce(joint, 1) - np.log(TREES)
    floored = float(np.maximum(nats, -100).mean())
    print(json.dumps({"fit_cpu": fit, "nats": floored}))
    return {"fit_cpu": fit, "nats_at_least_-100": floored, "median": float(np.median(nats)), "accuracy": model.acc}


def impute(name: str) -> dict[str, Any]:
    """20 % of the cells, missing at random, with the scaling and the mask 0 of imputation.py, beside the column's mean."""
    import imputation

    import reverie as rv

    rows = imputation.load(name)
    hidden = imputation.mask(rows, "mcar", 0)
    holes = np.where(hidden, np.nan, rows)
    out: dict[str, Any] = {"rmse_mean": imputation.rmse(np.where(hidden, np.nanmean(holes, 0), rows), rows, hidden)}
    for recipe in (rv.AdversarialForest(), rv.UnmaskingTrees()):
        start = time.process_time()
        model = recipe.fit(holes, seed=0)
        fit = time.process_time() - start
        start = time.process_time()
        error = imputation.rmse(model.impute(holes), rows, hidden)
        out[recipe.family] = {"rmse": error, "fit_cpu": fit, "impute_cpu": time.process_time() - start}
        print(json.dumps({recipe.family: out[recipe.family]}), flush=True)
    return out


def picture(name: str) -> dict[str, Any]:
    import matplotlib.pyplot as plt

    import reverie as rv

    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 3 * np.pi, 3000)
    rows = np.column_stack([angle * np.cos(angle), angle * np.sin(angle)]) + 0.4 * rng.normal(size=(3000, 2))
    for recipe in (rv.AdversarialForest(), rv.UnmaskingTrees()):
        model = recipe.fit(rows, seed=0)
        _panels(model, rows, plt.subplots(1, 3, figsize=(9, 3.1), sharex=True, sharey=True))
    return {}


def _panels(model: Any, rows: np.ndarray, canvas: Any) -> None:
    line = np.linspace(-12, 12, 240)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    drawn = model.sample(3000, seed=0)
    figure, axes = canvas
    axes[0].plot(*rows.T, ".", ms=1)
    axes[1].imshow(np.exp(model.log_prob(grid)).reshape(240, 240) ** 0.5, origin="lower", extent=(-12, 12, -12, 12))
    axes[2].plot(*drawn.T, ".", ms=1)
    for ax, title in zip(axes, ("rows", "density (root)", "samples"), strict=True):
        ax.set_title(title)
        ax.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(Path(__file__).parents[2] / "docs" / "images" / f"{model.family}.png", dpi=62)


def main(part: str, name: str) -> None:
    warnings.simplefilter("ignore")
    found = {"density": density, "arf": arf, "impute": impute, "picture": picture}[part](name)
    if part == "picture":
        return
    path = RESULTS / "forests.json"
    document = json.loads(path.read_text()) if path.exists() else {"name": "forests", "rows": []}
    document["rows"] = [r for r in document["rows"] if (r["part"], r["data"]) != (part, name)]
    document["rows"].append({"part": part, "data": name, **found, "machine": machine()})
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
