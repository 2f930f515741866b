"""Steps per second and loss after equal steps: plain steps of another checkout (--before) and of this one, and steps at the pace that
`speed="auto"` measures here and now. A B C C B A, each in a process of its own, on one and two threads."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
CASES = {"vae mlp": 200, "vae conv": 60, "gan mlp": 150, "gan conv": 24}
"""Steps of one timing."""
BATCH = 128


def rows() -> np.ndarray:
    """MNIST where it lies beside the checkout, else pictures of its size."""
    folder = Path(os.environ.get("REVERIE_DATA") or HERE.parent.parent / "shared" / "data")
    if (folder / "mnist.npz").exists():
        with np.load(folder / "mnist.npz") as data:
            return data["x_train"][:6400]
    rng = np.random.default_rng(0)
    return (rng.random((6400, 28, 28)) * 255).astype(np.uint8)


def recipe(case: str) -> Any:
    import reverie as rv

    family, network = case.split()
    if family == "vae":
        return rv.VAE(encoder="mlp", decoder="mlp") if network == "mlp" else rv.VAE()
    return rv.GAN(generator="mlp", discriminator="mlp") if network == "mlp" else rv.GAN()


def side(case: str, threads: int, seed: int, options: dict[str, Any]) -> None:
    """One timing, as JSON on the last line: seconds a step behind the first five, and the losses of the last fifth."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    steps, seen = CASES[case], []
    log = lambda record: seen.append(record) if record["event"] == "step" else None  # noqa: E731
    every = max(steps // 20, 1)
    model = recipe(case).fit(
        rows(), steps=steps, batch_size=BATCH, seed=seed, progress=False, log_steps=every, callbacks=(log,), **options
    )
    seconds = (seen[-1]["seconds"] - seen[0]["seconds"]) / (seen[-1]["step"] - seen[0]["step"])
    name = "loss" if case.startswith("vae") else "discriminator"
    print(json.dumps({"seconds_per_step": seconds, "loss": model.history[-1][name]}))


def choose(case: str, threads: int) -> None:
    """What `speed="auto"` chooses in a run of a million steps, as JSON on the last line."""
    import torch

    from reverie.data.sources.load import as_dataset
    from reverie.estimator import prepare
    from reverie.learning.run import Run
    from reverie.learning.training import Training
    from reverie.recording import Job

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    training = Training(steps=10**6, batch_size=BATCH, speed="auto", ema=0.995, progress=False)
    trainer, _ = prepare(
        Job(recipe(case), as_dataset(rows()), training, None, 0, None), Run(seed=0, device=torch.device("cpu"))
    )
    phase = trainer.phases[0]
    learner = trainer.open(phase)
    trainer.network.train()
    trainer.pacing.open(phase, learner, trainer.data.slots(BATCH), 10**6)
    print(json.dumps(trainer.pacing.history[-1]))


def ask(source: Path, *words: str) -> dict[str, Any]:
    """The JSON on the last line of this script run on the code of another checkout."""
    env = {**os.environ, "PYTHONPATH": str(source / "src")}
    done = subprocess.run([sys.executable, __file__, *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import RESULTS, machine

    out, now = [], HERE.parent
    for threads in asked.threads:
        for case in asked.cases:
            chosen = ask(now, "choose", case, str(threads))
            pace = chosen["chosen"]
            options = {"precision": pace["precision"]} | {
                name: "on" for name in ("compile", "channels_last") if pace[name]
            }
            sides = {"before": (asked.before, {}), "plain": (now, {}), "auto": (now, options)}
            times: dict[str, list[float]] = {name: [] for name in sides}
            losses: dict[str, dict[int, float]] = {name: {} for name in sides}
            for round_ in range(asked.rounds):
                for turn, name in enumerate([*sides, *reversed(sides)]):
                    seed = (2 * round_ + (turn >= len(sides))) % 3
                    found = ask(sides[name][0], "side", case, str(threads), str(seed), json.dumps(sides[name][1]))
                    times[name].append(found["seconds_per_step"])
                    losses[name][seed] = found["loss"]
            for name in sides:  # the third seed, for losses alone
                for seed in {0, 1, 2} - set(losses[name]):
                    words = ("side", case, str(threads), str(seed), json.dumps(sides[name][1]))
                    losses[name][seed] = ask(sides[name][0], *words)["loss"]
            rate = {name: 1 / float(np.median(values)) for name, values in times.items()}
            row = {
                "case": case,
                "threads": threads,
                "chosen": chosen,
                "steps_per_second": {name: round(value, 2) for name, value in rate.items()},
                "plain_over_before": round(rate["plain"] / rate["before"], 3),
                "auto_over_before": round(rate["auto"] / rate["before"], 3),
                "losses": losses,
            }
            out.append(row)
            print(json.dumps(row), flush=True)
    (RESULTS / "pace.json").write_text(json.dumps({"machine": machine(), "rows": out}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "side":
        side(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
    elif sys.argv[1] == "choose":
        choose(sys.argv[2], int(sys.argv[3]))
    else:
        main()
