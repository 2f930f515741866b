"""When do mini-batches pay for a Bayesian mixture? CPU seconds to a bound within 0.02 nats a row of the one that whole passes end at.

`python bayesian_stepwise.py [MAX_ROWS]` writes results/bayesian_stepwise.json: full batches (to their end, and stopped after so
few passes) beside `stepwise=True` with batches of 2,000, for rising numbers of rows; both start alike and have the same seed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bayesian_sklearn import bound, data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, machine

import reverie as rv

NEAR = 0.02
PASSES = (1, 2, 3, 5, 8, 13, 21, 34)


def timed(recipe: rv.BayesianGaussianMixture, rows: Any, epochs: int, batch: int) -> tuple[float, float]:
    """CPU seconds of a fit, and the bound it reached."""
    begin = time.process_time()
    model = recipe.fit(rows, seed=0, epochs=epochs, batch_size=batch, progress=False)
    return time.process_time() - begin, bound(model, rows)


def main(most: int = 200_000) -> None:
    torch.set_num_threads(1)
    found = []
    for n, seed in (
        (2_000, 0),
        (10_000, 0),
        (50_000, 0),
        (50_000, 1),
        (100_000, 0),
        (100_000, 1),
        (200_000, 0),
        (200_000, 1),
    ):
        if n > most:
            continue
        rows, _ = data(seed, n)
        whole = rv.BayesianGaussianMixture(components=20)
        seconds, goal = timed(whole, rows, 200, 65536)
        row: dict[str, Any] = {
            "rows": n,
            "seed": seed,
            "full to its end, CPU s": round(seconds, 3),
            "bound": round(goal, 4),
        }
        for name, recipe, batch in (
            ("full", rv.BayesianGaussianMixture(components=20, tol=0), 65536),
            ("stepwise", rv.BayesianGaussianMixture(components=20, stepwise=True, tol=0), 2_000),
        ):
            for epochs in PASSES:
                seconds, reached = timed(recipe, rows, epochs, batch)
                row[f"{name}, passes"], row[f"{name}, CPU s"] = epochs, round(seconds, 3)
                row[f"{name}, bound"], row[f"{name}, reached"] = round(reached, 4), reached >= goal - NEAR
                if reached >= goal - NEAR:
                    break
        found.append(row)
        print(row, flush=True)
        document = {"near": NEAR, "rows": found, "machine": machine()}
        (RESULTS / "bayesian_stepwise.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
