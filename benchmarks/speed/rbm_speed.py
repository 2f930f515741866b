"""Speed of the RBM: 784 visible bits, 500 hidden, batches of 100, as many persistent chains, one sweep per update.

An update, against scikit-learn's BernoulliRBM (both as (a fit of 3 passes - a fit of 1) / 2 / 600, on 60,000 MNIST digits as
bits) and against rbms (its `fit_batch_pcd` and optimiser's step, batches cut beforehand); and annealed importance sampling
against rbms, per temperature of one direction, 100 chains. float32 throughout, and ours with bfloat16 products beside it.

Run as a script with a side's name it is that side alone, printing its own timing: `rbm_speed.py SIDE`.
`rbm_speed.py [PEER_PYTHON]` runs the pairs; the peers need benchmarks/peers.txt.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Timing, data_root, in_process, paired, write

VISIBLE, HIDDEN, BATCH, ROWS = 784, 500, 100, 60_000
UPDATES = ROWS // BATCH
TEMPERATURES = (200, 1200)


def bits() -> np.ndarray:
    return np.load(data_root() / "mnist.npz")["x_train"].reshape(-1, VISIBLE) > 127


def each(work: Callable[[int], Any], few: int, many: int) -> dict[str, float]:
    """CPU and wall seconds of one more unit of work: (of `many` - of `few`) / (many - few)."""
    clocks = []
    for count in (few, many):
        cpu, wall = time.process_time(), time.perf_counter()
        work(count)
        clocks.append((time.process_time() - cpu, time.perf_counter() - wall))
    (cpu_few, wall_few), (cpu_many, wall_many) = clocks
    return {"cpu": (cpu_many - cpu_few) / (many - few), "wall": (wall_many - wall_few) / (many - few)}


def per_update(fit: Callable[[int], Any]) -> dict[str, float]:
    return {name: value / UPDATES for name, value in each(fit, 1, 3).items()}


def ours(products: str = "float32") -> dict[str, float]:
    import reverie as rv

    rows = bits()
    recipe: Any = rv.RBM(hidden=HIDDEN, chains=BATCH, lr=0.05, schedule="constant", products=products)  # type: ignore[arg-type]
    return per_update(lambda passes: recipe.fit(rows, epochs=passes, batch_size=BATCH, ema=0.0, progress=False))


def sklearn() -> dict[str, float]:
    from sklearn.neural_network import BernoulliRBM

    rows = bits().astype(np.float32)
    warnings.simplefilter("ignore")

    def fit(passes: int) -> None:
        BernoulliRBM(HIDDEN, learning_rate=0.05, batch_size=BATCH, n_iter=passes, random_state=0).fit(rows)

    return per_update(fit)


def rbms() -> dict[str, float]:
    import torch
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.training.pcd import fit_batch_pcd

    rows = torch.from_numpy(bits().astype(np.float32))
    parts = [(part, torch.ones(len(part), 1)) for part in rows.split(BATCH)]

    def fit(passes: int) -> None:
        machine = BBRBM(1e-2 * torch.randn(VISIBLE, HIDDEN), torch.zeros(VISIBLE), torch.zeros(HIDDEN))
        for parameter in machine.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser = torch.optim.SGD(machine.parameters(), lr=0.05, maximize=True)
        chains = machine.init_chains(BATCH)
        with torch.no_grad():
            for _ in range(passes):
                for part in parts:
                    optimiser.zero_grad(set_to_none=False)
                    chains, _ = fit_batch_pcd(part, chains, machine, gibbs_steps=1, beta=1.0)
                    optimiser.step()

    return per_update(fit)


def ours_ais() -> dict[str, float]:
    import torch

    from reverie.probability.machines.restricted import Restricted

    torch.manual_seed(0)
    machine = Restricted(VISIBLE, HIDDEN).requires_grad_(False)
    machine.W.mul_(5)
    once = each(lambda count: machine.annealed_log_partition(chains=100, temperatures=count), *TEMPERATURES)
    return {name: value / 2 for name, value in once.items()}  # there and back


def rbms_ais() -> dict[str, float]:
    import torch
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.partition_function.ais import compute_partition_function_ais

    torch.manual_seed(0)
    machine = BBRBM(5e-2 * torch.randn(VISIBLE, HIDDEN), torch.zeros(VISIBLE), torch.zeros(HIDDEN))
    return each(lambda count: compute_partition_function_ais(100, count, machine), *TEMPERATURES)


def limit() -> dict[str, float]:
    """Seconds that an update's three products (data and chains up together, chains down, the statistics of both) take by
    themselves in either format, and its uniform numbers and sigmoids."""
    import torch

    def best(work: Callable[[], Any]) -> float:
        found = 1e9
        for _ in range(50):
            wall = time.perf_counter()
            work()
            found = min(found, time.perf_counter() - wall)
        return found

    v, h, W = torch.rand(2 * BATCH, VISIBLE), torch.rand(2 * BATCH, HIDDEN), torch.randn(VISIBLE, HIDDEN)
    short = [part.bfloat16() for part in (v, h, W)]

    def three(v: Any, h: Any, W: Any) -> Callable[[], Any]:
        return lambda: (torch.mm(v, W), torch.mm(h[:BATCH], W.t()), torch.mm(v.t(), h))

    found = {"products_float32": best(three(v, h, W)), "products_bfloat16": best(three(*short))}
    found["uniform_numbers"] = best(lambda: (torch.rand(BATCH, HIDDEN), torch.rand(BATCH, VISIBLE)))
    found["sigmoids"] = best(lambda: (torch.sigmoid(h), torch.sigmoid(v[:BATCH])))
    return {"cpu": 0.0, "wall": 0.0, **found}


SIDES: dict[str, Callable[[], dict[str, float]]] = {
    "ours": ours,
    "ours_bfloat16": lambda: ours("bfloat16"),
    "sklearn": sklearn,
    "rbms": rbms,
    "ours_ais": ours_ais,
    "rbms_ais": rbms_ais,
    "limit": limit,
}
PAIRS = [
    ("ours", "sklearn"),
    ("ours_bfloat16", "sklearn"),
    ("ours", "rbms"),
    ("ours_bfloat16", "rbms"),
    ("ours_ais", "rbms_ais"),
]


def main(peer_python: str, blocks: int = 3, all_threads: tuple[int, ...] = (1, 2)) -> None:
    rows = []
    for threads in all_threads:
        bound = in_process([sys.executable, __file__, "limit"], threads).extra
        for mine, theirs in PAIRS:

            def side(python: str, which: str, threads: int = threads) -> Timing:
                return in_process([python, __file__, which], threads)

            found = paired(
                lambda side=side, mine=mine: side(sys.executable, mine),
                lambda side=side, theirs=theirs: side(peer_python, theirs),
                blocks=blocks,
                warmup=False,
            )
            if "ais" not in mine:
                products = bound["products_bfloat16" if "bfloat16" in mine else "products_float32"]
                floor = products + bound["uniform_numbers"] + bound["sigmoids"]
                found |= {"limits": bound, "times_limit": found["wall_a"] / floor}
            rows.append({"case": f"{mine} against {theirs}, {threads} threads", **found})
            print(rows[-1]["case"], found["ratio_wall"], found["ratio_cpu"], found.get("times_limit"), flush=True)
    write("rbm_speed", rows, note="Seconds per update, and per temperature of annealing; batch 100, 100 chains.")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in SIDES:
        print(json.dumps(SIDES[sys.argv[1]]()))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else sys.executable)
