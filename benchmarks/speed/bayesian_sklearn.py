"""BayesianGaussianMixture against scikit-learn's: 50 components on 8 clusters, n = 50,000, d = 16. Time to the end of
either fit, clusters found, adjusted Rand index; and with the peer's prior, both posteriors judged by the same bound.

`bayesian_sklearn.py small` fits 100 rows: test nats of the posterior predictive, of the same posterior's plug-in, and of
an EM mixture with its number of components by BIC, into results/bayesian_small.json.

Run as a script it is one side: `bayesian_sklearn.py ours|stepwise|sklearn SEED FILE`, printing its timing; the peer leaves
its posterior in FILE, which the first side reads with `bound FILE`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

N, WIDTH, CLUSTERS, MOST = 50_000, 16, 8, 50
PEER_SHARE = 1 / WIDTH
"""The peer's prior: its covariance_prior is the inverse scale W^-1 itself, the expected covariance times d degrees."""


def data(seed: int, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Eight clusters with full covariances of their own, some of which touch."""
    rng = np.random.default_rng(seed)
    means = 3 * rng.normal(size=(CLUSTERS, WIDTH))
    roots = 0.4 * rng.normal(size=(CLUSTERS, WIDTH, WIDTH)) + np.eye(WIDTH)
    label = rng.integers(0, CLUSTERS, n)
    return means[label] + np.einsum("nij,nj->ni", roots[label], rng.normal(size=(n, WIDTH))), label


def ours(seed: int, stepwise: bool = False, share: float = 0.5) -> dict[str, Any]:
    import reverie as rv
    from reverie.models.classical.bayesian_mixture import effective_components

    rows, label = data(seed)
    recipe = rv.BayesianGaussianMixture(components=MOST, stepwise=stepwise, share=share)
    cpu, wall = time.process_time(), time.perf_counter()
    model = recipe.fit(rows, seed=seed, progress=False, batch_size=2000 if stepwise else 65536)
    out: dict[str, Any] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    found = model.encode(rows).argmax(1)
    return {
        **out,
        "bound": bound(model, rows),
        "ari": rand_index(label, found),
        "found": effective_components(model),
        "passes": len(model.history),
    }


def bound(model: Any, rows: np.ndarray) -> float:
    """The evidence lower bound per row at the model's posterior, in model units (columns standardised)."""
    from reverie.data.space import Batch

    prepared = [part for _, _, part in model.intake.prepared(rows, None, 65536)]
    sums = [model.network.statistics(Batch(x=part.x, rows=len(part)))["log_likelihood"] for part in prepared]
    return float((sum(sums) + model.network.log_prior()) / len(rows))


def peer_bound(seed: int, path: str) -> dict[str, Any]:
    """The same bound at the peer's posterior, put into a model of ours."""
    import torch

    import reverie as rv

    rows, _ = data(seed)
    model = rv.BayesianGaussianMixture(components=MOST, share=PEER_SHARE).fit(rows, epochs=1, progress=False)
    network, found = model.network, np.load(path)
    members, law = network.components, network.weights
    offset, scale = model.codec.affine
    members.mean.copy_(torch.from_numpy((found["means"] - offset) / scale))
    members.covariance.copy_(torch.from_numpy(found["covariances"] / np.outer(scale, scale)))
    members.beta.copy_(torch.from_numpy(found["mean_precision"]))
    members.nu.copy_(torch.from_numpy(found["degrees"]))
    law.order.copy_(torch.arange(MOST))
    law.first.copy_(torch.from_numpy(found["a"]))
    law.rest.copy_(torch.from_numpy(found["b"]))
    return {"cpu": 0.0, "wall": 0.0, "bound": bound(model, rows)}


def sklearn(seed: int, path: str) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score
    from sklearn.mixture import BayesianGaussianMixture

    rows, label = data(seed)
    recipe = BayesianGaussianMixture(
        n_components=MOST, weight_concentration_prior_type="dirichlet_process", max_iter=1000, random_state=seed
    )
    warnings.simplefilter("ignore")
    cpu, wall = time.process_time(), time.perf_counter()
    recipe.fit(rows)
    out = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    a, b = recipe.weight_concentration_
    np.savez(
        path, means=recipe.means_, covariances=recipe.covariances_, a=a, b=b,
        mean_precision=recipe.mean_precision_, degrees=recipe.degrees_of_freedom_,
    )  # fmt: skip
    ari = float(adjusted_rand_score(label, recipe.predict(rows)))
    return {**out, "ari": ari, "found": int((recipe.weights_ >= 0.01).sum()), "passes": int(recipe.n_iter_)}


def small(seed: int) -> dict[str, Any]:
    """Test nats on 5,000 rows after 100."""
    import reverie as rv
    from reverie.models import mixture

    rows, _ = data(seed, 5100)
    train, test = rows[:100], rows[100:]
    model = rv.BayesianGaussianMixture(components=20).fit(train, seed=seed, progress=False)
    out = {"seed": seed, "predictive": float(model.log_prob(test).mean())}
    members = model.network.components
    members.predictive = lambda: members  # the members at the posterior's means, in place of integrating over it
    out["plug_in"] = float(model.log_prob(test).mean())
    best, _ = mixture.select(rv.GaussianMixture(), train, components=range(1, 11), seed=seed, progress=False)
    out |= {"em": float(best.log_prob(test).mean()), "em_components": best.estimator.components}
    regular, _ = mixture.select(
        rv.GaussianMixture(prior=1.0), train, components=range(1, 11), seed=seed, progress=False
    )
    return out | {"em_prior": float(regular.log_prob(test).mean())}


def main_small(seeds: int = 20) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import RESULTS, machine

    rows = []
    for seed in range(seeds):
        rows.append(small(seed))
        print(json.dumps(rows[-1]), flush=True)
    wins = {other: sum(r["predictive"] > r[other] for r in rows) for other in ("plug_in", "em", "em_prior")}
    document = {"name": "bayesian_small", "machine": machine(), "wins": wins, "rows": rows}
    (RESULTS / "bayesian_small.json").write_text(json.dumps(document, indent=1) + "\n")
    print(wins)


def rand_index(a: np.ndarray, b: np.ndarray) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a, b))


def main(peer_python: str, seeds: int = 20, peer_seeds: int = 3, threads: int = 2) -> None:
    """Ours on every seed, the peer on the first few, alternating."""
    from harness import RESULTS, in_process, machine

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            row: dict[str, Any] = {"seed": seed}
            for which in ("ours", "stepwise", "ours_peer_prior", "stepwise_peer_prior")[
                : 4 if seed < peer_seeds else 2
            ]:
                found = in_process([sys.executable, __file__, which, str(seed), "-"], threads)
                row[which] = {"cpu": found.cpu, "wall": found.wall, **found.extra}
            if seed < peer_seeds:
                path = str(Path(folder) / f"{seed}.npz")
                found = in_process([peer_python, __file__, "sklearn", str(seed), path], threads)
                judged = in_process([sys.executable, __file__, "bound", str(seed), path], threads)
                row["sklearn"] = {"cpu": found.cpu, "wall": found.wall, **found.extra, **judged.extra}
            rows.append(row)
            print(json.dumps(row), flush=True)

    note = f"{threads} threads; time to the end of the fit; bound per row in standardised units at either posterior"
    document = {"name": "bayesian_sklearn", "note": note, "machine": machine(), "rows": rows}
    (RESULTS / "bayesian_sklearn.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        which, seed, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
        side = {
            "ours": lambda: ours(seed),
            "stepwise": lambda: ours(seed, stepwise=True),
            "ours_peer_prior": lambda: ours(seed, share=PEER_SHARE),
            "stepwise_peer_prior": lambda: ours(seed, stepwise=True, share=PEER_SHARE),
            "sklearn": lambda: sklearn(seed, path),
            "bound": lambda: peer_bound(seed, path),
        }[which]
        print(json.dumps(side()))
    elif sys.argv[1:] == ["small"]:
        main_small()
    else:
        main(str(Path(sys.argv[1])) if len(sys.argv) > 1 else sys.executable)
