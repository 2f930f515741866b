"""GaussianMixture against scikit-learn: whole fit of 20 iterations minus a fit of none, from the same start.

Run as a script it is one side of the pair: `gmm_sklearn.py ours|sklearn CASE ITERATIONS`, printing its own timing.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

CASES: dict[str, dict[str, Any]] = {
    "full-f64": {"n": 100_000, "d": 32, "k": 20, "covariance": "full", "dtype": "float64"},
    "full-f32": {"n": 100_000, "d": 32, "k": 20, "covariance": "full", "dtype": "float32"},
    "diag-f64": {"n": 1_000_000, "d": 8, "k": 8, "covariance": "diag", "dtype": "float64"},
}


def data(case: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Overlapping clusters, and a start: random rows, the data's covariance."""
    rng = np.random.default_rng(0)
    k, d = case["k"], case["d"]
    rows = rng.normal(size=(case["n"], d)) + 2 * rng.normal(size=(k, d))[rng.integers(0, k, case["n"])]
    rows = rows.astype(case["dtype"])
    covariance = np.cov(rows[:10_000].astype(np.float64).T)
    shaped = np.repeat(covariance[None], k, 0) if case["covariance"] == "full" else np.tile(np.diag(covariance), (k, 1))
    means = rows[rng.choice(len(rows), k, replace=False)].astype(np.float64)
    return rows, {"weights": np.full(k, 1 / k), "means": means, "covariances": shaped}


def ours(case: dict[str, Any], iterations: int) -> dict[str, Any]:
    import reverie as rv
    from reverie.models import mixture

    rows, start = data(case)
    recipe = rv.GaussianMixture(
        components=case["k"], covariance=case["covariance"], tol=0.0, floor=1e-6, dtype=case["dtype"]
    )
    begin = mixture.with_parameters(recipe, rows, **start)
    cpu, wall = time.process_time(), time.perf_counter()
    model = recipe.fit(rows, start=begin, epochs=iterations, progress=False)
    out = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {**out, "log_likelihood": float(model.log_prob(rows[:5000]).mean())}


def sklearn(case: dict[str, Any], iterations: int) -> dict[str, Any]:
    from sklearn.mixture import GaussianMixture

    rows, start = data(case)
    inverse = np.linalg.inv(start["covariances"]) if case["covariance"] == "full" else 1 / start["covariances"]
    recipe = GaussianMixture(
        case["k"],
        covariance_type=case["covariance"],
        tol=0.0,
        max_iter=max(iterations, 1),
        weights_init=start["weights"],
        means_init=start["means"].astype(rows.dtype),
        precisions_init=inverse.astype(rows.dtype),
    )
    warnings.simplefilter("ignore")
    cpu, wall = time.process_time(), time.perf_counter()
    recipe.fit(rows)
    out = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {**out, "log_likelihood": float(recipe.score_samples(rows[:5000]).mean())}


def limit(case: dict[str, Any], _iterations: int) -> dict[str, Any]:
    """Seconds that one iteration's two products, eta T(x) and R T(x)^T, would take at this machine's best rate for large
    square ones."""
    import torch

    d, k = case["d"], case["k"]
    features = d * (d + 1) // 2 + d if case["covariance"] == "full" else 2 * d
    a = torch.randn(2048, 2048, dtype=getattr(torch, case["dtype"]))
    best = 1e9
    for _ in range(10):
        wall = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - wall)
    rate = 2 * 2048**3 / best
    seconds = 4 * k * features * case["n"] / rate
    return {"cpu": seconds * torch.get_num_threads(), "wall": seconds, "gigaflops": rate / 1e9}


def main(peer_python: str, blocks: int = 3, threads: int = 2) -> None:
    """Both sides in their own processes; per-iteration time is (20 iterations - 1) / 19 for either."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import Timing, in_process, paired, write

    rows = []
    for name in CASES:

        def side(python: str, which: str, case: str = name) -> Timing:
            many = in_process([python, __file__, which, case, "20"], threads)
            one = in_process([python, __file__, which, case, "1"], threads)
            return Timing((many.cpu - one.cpu) / 19, (many.wall - one.wall) / 19, many.extra)

        found = paired(
            lambda: side(sys.executable, "ours"), lambda: side(peer_python, "sklearn"), blocks=blocks, warmup=False
        )
        bound = in_process([sys.executable, __file__, "limit", name, "0"], threads)
        found |= {"limit_wall": bound.wall, "times_limit": found["wall_a"] / bound.wall, **bound.extra}
        print(name, {key: found[key] for key in ("ratio_wall", "ratio_cpu", "times_limit", "gigaflops")}, flush=True)
        rows.append({"case": f"GMM {name}, per iteration", **found})
    write("gmm_sklearn", rows, note=f"{threads} threads; (fit of 20 iterations - fit of 1) / 19, same start and floor.")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        sides = {"ours": ours, "sklearn": sklearn, "limit": limit}
        print(json.dumps(sides[sys.argv[1]](CASES[sys.argv[2]], int(sys.argv[3]))))
    else:
        main(str(Path(sys.argv[1])) if len(sys.argv) > 1 else sys.executable)
