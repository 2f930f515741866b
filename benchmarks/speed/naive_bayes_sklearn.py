"""NaiveBayes against scikit-learn on MNIST, 60,000 x 784: fit and predict of the 60,000 rows; share of equal predictions.

Run as a script it is one side: `naive_bayes_sklearn.py ours|sklearn bernoulli|gaussian FILE`, leaving its predictions in
FILE.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import data_root, in_process, paired, write

CASES = ("bernoulli", "gaussian")


def data(case: str) -> tuple[np.ndarray, np.ndarray]:
    found = np.load(data_root() / "mnist.npz")
    rows = found["x_train"].reshape(-1, 784)
    return (rows > 127 if case == "bernoulli" else rows.astype(np.float64)), found["y_train"].astype(int)


def ours(case: str, path: str) -> dict[str, Any]:
    import reverie as rv

    rows, label = data(case)
    # The peer's floor is 1e-9 of the largest variance too; its Bernoulli smoothing is Laplace's.
    recipe = rv.NaiveBayes(numeric="density" if case == "gaussian" else "exact", floor=1e-9, smoothing=1.0)
    cpu, wall = time.process_time(), time.perf_counter()
    model = recipe.fit(rows, label, progress=False)
    fitted = time.process_time() - cpu
    found = np.asarray(model.predict(rows))
    out = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "fit_cpu": fitted}
    np.save(path, found)
    return {**out, "accuracy": float((found == label).mean())}


def sklearn(case: str, path: str) -> dict[str, Any]:
    from sklearn.naive_bayes import BernoulliNB, GaussianNB

    rows, label = data(case)
    recipe = BernoulliNB(alpha=1.0, binarize=None) if case == "bernoulli" else GaussianNB()
    cpu, wall = time.process_time(), time.perf_counter()
    recipe.fit(rows, label)
    fitted = time.process_time() - cpu
    found = recipe.predict(rows)
    out = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "fit_cpu": fitted}
    np.save(path, found)
    return {**out, "accuracy": float((found == label).mean())}


def main(peer_python: str, blocks: int = 3, threads: int = 2) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            a, b = str(Path(folder) / "a.npy"), str(Path(folder) / "b.npy")
            found = paired(
                lambda case=case, a=a: in_process([sys.executable, __file__, "ours", case, a], threads),
                lambda case=case, b=b: in_process([peer_python, __file__, "sklearn", case, b], threads),
                blocks=blocks,
                warmup=False,
            )
            different = int((np.load(a) != np.load(b)).sum())
            rows.append({"case": f"naive Bayes, {case}, MNIST fit + predict", **found, "different": different})
    write("naive_bayes_sklearn", rows, note=f"{threads} threads; predictions that differ are counted in `different`.")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        side = {"ours": ours, "sklearn": sklearn}[sys.argv[1]]
        print(json.dumps(side(sys.argv[2], sys.argv[3])))
    else:
        main(str(Path(sys.argv[1])) if len(sys.argv) > 1 else sys.executable)
