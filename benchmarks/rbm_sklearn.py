"""RBM against scikit-learn's BernoulliRBM: 784 visible bits, 500 hidden, batches of 100, as many persistent chains, one
sweep per update, float32. Time per update is (a fit of 3 passes - a fit of 1) / 2 / 600 on 60,000 MNIST digits as bits.

Run as a script it is one side of the pair: `rbm_sklearn.py ours|sklearn PASSES`, printing its own timing.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from harness import Timing, data_root, in_process, paired, write

VISIBLE, HIDDEN, BATCH, ROWS = 784, 500, 100, 60_000


def bits() -> np.ndarray:
    return np.load(data_root() / "mnist.npz")["x_train"].reshape(-1, VISIBLE) > 127


def ours(passes: int) -> dict[str, Any]:
    import reverie as rv

    rows = bits()
    recipe = rv.RBM(hidden=HIDDEN, chains=BATCH, sweeps=1, lr=0.05, schedule="constant")
    cpu, wall = time.process_time(), time.perf_counter()
    recipe.fit(rows, epochs=passes, batch_size=BATCH, ema=0.0, progress=False)
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def sklearn(passes: int) -> dict[str, Any]:
    from sklearn.neural_network import BernoulliRBM

    rows = bits().astype(np.float32)
    warnings.simplefilter("ignore")
    recipe = BernoulliRBM(HIDDEN, learning_rate=0.05, batch_size=BATCH, n_iter=passes, random_state=0)
    cpu, wall = time.process_time(), time.perf_counter()
    recipe.fit(rows)
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def limit(_passes: int) -> dict[str, Any]:
    """Seconds that an update's five products (two up, one down, two of statistics) would take at the machine's best
    rate, and its uniform numbers and sigmoids by themselves."""
    import torch

    def best(work: Any) -> float:
        found = 1e9
        for _ in range(20):
            wall = time.perf_counter()
            work()
            found = min(found, time.perf_counter() - wall)
        return found

    a = torch.randn(2048, 2048)
    rate = 2 * 2048**3 / best(lambda: torch.mm(a, a))
    h, v = torch.randn(BATCH, HIDDEN), torch.randn(BATCH, VISIBLE)
    products = 5 * 2 * BATCH * VISIBLE * HIDDEN / rate
    numbers = best(lambda: (torch.rand(BATCH, HIDDEN), torch.rand(BATCH, VISIBLE)))
    sigmoids = best(lambda: (torch.sigmoid(h), torch.sigmoid(h), torch.sigmoid(v)))
    parts = {"products": products, "uniform_numbers": numbers, "sigmoids": sigmoids}
    return {"cpu": sum(parts.values()), "wall": sum(parts.values()), **parts}


def main(peer_python: str, blocks: int = 2) -> None:
    rows = []
    for threads in (1, 2):

        def side(python: str, which: str, threads: int = threads) -> Timing:
            many = in_process([python, __file__, which, "3"], threads)
            one = in_process([python, __file__, which, "1"], threads)
            updates = 2 * ROWS / BATCH
            return Timing((many.cpu - one.cpu) / updates, (many.wall - one.wall) / updates, many.extra)

        found = paired(
            lambda side=side: side(sys.executable, "ours"),
            lambda side=side: side(peer_python, "sklearn"),
            blocks=blocks,
            warmup=False,
        )
        bound = in_process([sys.executable, __file__, "limit", "0"], threads)
        found |= {"limit": bound.wall, "times_limit": found["wall_a"] / bound.wall, **bound.extra}
        rows.append({"case": f"RBM update, {threads} threads", **found})
        print(rows[-1]["case"], found["ratio_wall"], found["ratio_cpu"], found["times_limit"], flush=True)
    write("rbm_sklearn", rows, note="per update, (fit of 3 passes - fit of 1) / 1200; batch 100, 100 chains, float32.")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        passes = int(sys.argv[2])
        side = {
            "ours": lambda: ours(passes),
            "sklearn": lambda: sklearn(passes),
            "limit": lambda: limit(passes),
        }[sys.argv[1]]
        print(json.dumps(side()))
    else:
        main(str(Path(sys.argv[1])) if len(sys.argv) > 1 else sys.executable)
