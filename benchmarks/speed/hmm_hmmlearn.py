"""HMM against hmmlearn's compiled "scaling" implementation: one EM iteration, as a whole fit of 12 less a fit of 2, over
10, from the same start; log-likelihoods after the same number of iterations beside it.

Run as a script it is one side of the pair: `hmm_hmmlearn.py ours|hmmlearn CASE ITERATIONS`, printing its own timing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CASES: dict[str, dict[str, Any]] = {
    "100 x 200, K=8": {"n": 100, "low": 200, "high": 200, "k": 8},
    "200 x 500, K=32": {"n": 200, "low": 500, "high": 500, "k": 32},
    "ragged 100 of 50-950, K=8": {"n": 100, "low": 50, "high": 950, "k": 8},
    "ragged 100 of 50-950, K=32": {"n": 100, "low": 50, "high": 950, "k": 32},
    "1 x 100,000, K=4": {"n": 1, "low": 100_000, "high": 100_000, "k": 4},
    "1 x 100,000, K=32": {"n": 1, "low": 100_000, "high": 100_000, "k": 32},
    "full, 100 x 200, K=8": {"n": 100, "low": 200, "high": 200, "k": 8, "covariance": "full"},
    "full, 200 x 500, K=32": {"n": 200, "low": 500, "high": 500, "k": 32, "covariance": "full"},
}
WIDTH = 16


def data(case: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Sequences from a chain that stays where it is nine times in ten, with overlapping emissions; a start nearby."""
    rng = np.random.default_rng(0)
    k = case["k"]
    lengths = rng.integers(case["low"], case["high"] + 1, case["n"])
    transition = np.full((k, k), 0.1 / (k - 1)) + (0.9 - 0.1 / (k - 1)) * np.eye(k)
    centres = 1.5 * rng.normal(size=(k, WIDTH))
    cumulative = transition.cumsum(1)
    sequences = []
    for length in lengths:
        u, states = rng.random(length), np.zeros(length, dtype=int)
        states[0] = rng.integers(k)
        for t in range(1, length):
            states[t] = min(np.searchsorted(cumulative[states[t - 1]], u[t]), k - 1)
        sequences.append(centres[states] + rng.normal(size=(length, WIDTH)))
    spread = np.concatenate(sequences)[:10_000].var(0)
    full = case.get("covariance") == "full"
    return sequences, {
        "initial": np.full(k, 1 / k),
        "transition": np.full((k, k), 0.2 / k) + 0.8 * np.eye(k),
        "means": centres + 0.5 * rng.normal(size=centres.shape),
        "covariances": np.tile(np.diag(spread), (k, 1, 1)) if full else np.tile(spread, (k, 1)),
    }


def ours(case: dict[str, Any], iterations: int) -> dict[str, Any]:
    import reverie as rv
    from reverie.models import hmm

    sequences, start = data(case)
    recipe = rv.HMM(states=case["k"], covariance=case.get("covariance", "diag"), tol=0.0, floor=0.0)
    begin = hmm.with_parameters(recipe, sequences, **start)
    recipe.fit(sequences[:2], start=begin, epochs=1, progress=False)  # compiled loops are loaded here, if at all
    cpu, wall = time.process_time(), time.perf_counter()
    model = recipe.fit(sequences, start=begin, epochs=iterations, progress=False)
    out = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {**out, "log_likelihood": float(model.log_prob(sequences).sum())}


def hmmlearn(case: dict[str, Any], iterations: int) -> dict[str, Any]:
    from hmmlearn.hmm import GaussianHMM

    sequences, start = data(case)
    shape = case.get("covariance", "diag")
    model = GaussianHMM(
        case["k"], covariance_type=shape, implementation="scaling", tol=-np.inf, n_iter=iterations, init_params="",
        min_covar=0.0, covars_prior=0.0, covars_weight=0.0 if shape == "diag" else -(WIDTH + 1.0),
    )  # fmt: skip
    model.startprob_, model.transmat_, model.means_ = start["initial"], start["transition"], start["means"]
    model.covars_ = start["covariances"]
    rows, lengths = np.concatenate(sequences), [len(s) for s in sequences]
    cpu, wall = time.process_time(), time.perf_counter()
    model.fit(rows, lengths)
    out = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {**out, "log_likelihood": float(model.score(rows, lengths))}


def main(
    peer_python: str,
    blocks: int = 3,
    threads: int = 2,
    cases: tuple[str, ...] = tuple(CASES),
    name: str = "hmm_hmmlearn",
    iterations: int = 10,
) -> None:
    """Both sides in their own processes; per-iteration time is (N + 2 iterations - 2) / N for either."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import Timing, in_process, paired, write

    rows = []
    for which in cases:

        def side(python: str, who: str, case: str = which) -> Timing:
            many = in_process([python, __file__, who, case, str(iterations + 2)], threads)
            few = in_process([python, __file__, who, case, "2"], threads)
            return Timing((many.cpu - few.cpu) / iterations, (many.wall - few.wall) / iterations, many.extra)

        found = paired(
            lambda: side(sys.executable, "ours"), lambda: side(peer_python, "hmmlearn"), blocks=blocks, warmup=False
        )
        rows.append({"case": f"HMM {which}, D={WIDTH}, per iteration", **found})
    write(
        name,
        rows,
        note=f"{threads} threads; (fit of {iterations + 2} iterations - fit of 2) / {iterations}, same start, no floor.",
    )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        sides = {"ours": ours, "hmmlearn": hmmlearn}
        print(json.dumps(sides[sys.argv[1]](CASES[sys.argv[2]], int(sys.argv[3]))))
    else:
        main(str(Path(sys.argv[1])) if len(sys.argv) > 1 else sys.executable)
