"""Does all of it hold on a GPU? In a few minutes, on a bare machine with a CUDA build of torch and this checkout:

    PYTHONPATH=src python tools/gpu_check.py

Every family on every form of data it takes is trained on the device, moved, saved and loaded across, and compared with itself on the
CPU: log-probabilities to 1e-4 (families of float64 to 1e-9), samples from the same seed cell by cell. Then a run killed on the device
goes on on it and on the CPU, bfloat16 and compiled steps learn, memory stays flat over epochs, and steps per second stand beside the
CPU's. Without a GPU the checks run on the pretended device of tests/elsewhere.py (timings and memory are left out). Writes JSON to
benchmarks/results/gpu_check.json (or --out) as it goes; exits with 1 when a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "contract"), str(ROOT / "tests" / "unit" / "learning")]

import contract_kit as ck  # noqa: E402
import numpy as np  # noqa: E402
import runs  # noqa: E402
import torch  # noqa: E402

import devices  # noqa: E402
import reverie as rv  # noqa: E402
from elsewhere import elsewhere  # noqa: E402
from families import OPTIONS, rows_for, small_recipes  # noqa: E402
from reverie.errors import Interrupted  # noqa: E402

DOUBLE = [name for name, kit in ck.KIT.items() if kit.float64]


class Check:
    """Runs named checks within a time limit and writes down what each gave."""

    def __init__(self, out: Path, limit: float, about: dict[str, Any]) -> None:
        self.out, self.limit, self.start = out, limit, time.perf_counter()
        self.found: dict[str, Any] = {**about, "checks": {}}

    def run(self, name: str, check: Callable[[], Any]) -> None:
        """One check: its result is True, or False with figures, or what it raised."""
        begun = time.perf_counter()
        if begun - self.start > self.limit:
            entry: dict[str, Any] = {"ok": None, "note": "not run: out of time"}
        else:
            try:
                ok, figures = check()
                entry = {"ok": bool(ok), **figures}
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}:{place.lineno}"
                entry = {"ok": False, "error": f"{type(error).__name__}: {error}"[:400], "where": where}
            entry["seconds"] = round(time.perf_counter() - begun, 2)
        self.found["checks"][name] = entry
        if entry["ok"] is False:
            print(f"FAILED {name}: {entry}", flush=True)
        self.write()

    def write(self) -> None:
        entries = self.found["checks"].values()
        self.found["passed"] = sum(entry["ok"] is True for entry in entries)
        self.found["failed"] = sum(entry["ok"] is False for entry in entries)
        self.found["not_run"] = sum(entry["ok"] is None for entry in entries)
        self.found["seconds"] = round(time.perf_counter() - self.start, 1)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.found, indent=1) + "\n")


def agrees(family: str, form: str, scratch: Path) -> tuple[bool, dict[str, Any]]:
    """Trained on the device, by way of a file to the CPU, and the other way round: the same figures."""
    there = devices.fit(family, form, "cuda")
    here = devices.saved_and_loaded(there, scratch / f"{family}-{form}".replace(" ", "-"), "cpu")
    found = devices.differences(here, there, family, form)
    bound = 1e-9 if family in DOUBLE else 1e-4
    chains = form and ck.KIT[family].long_chains  # one rounded threshold turns a chain elsewhere: equal in law only
    ok = all(value <= bound for name, value in found.items() if name not in ("sample", "impute"))
    ok &= chains or all(value <= 0.01 for name, value in found.items() if name in ("sample", "impute"))
    back = here.to("cuda")
    ok &= back.device.type == "cuda" and bool(set(found) or not here.can)
    return ok, {"differences": found}


def resumes(family: str, scratch: Path) -> tuple[bool, dict[str, Any]]:
    """Stopped on the device: on it the run ends bit for bit as the whole one, on the CPU it ends."""
    recipe, data, options = small_recipes()[family], rows_for(family, 150), {**OPTIONS[family], "epochs": 2}
    recipe.fit(data, out=str(scratch / "whole"), device="cuda", **options)
    for name, device in (("same", "cuda"), ("moved", "cpu")):
        with contextlib.suppress(Interrupted), runs.stop_after(2):
            recipe.fit(data, out=str(scratch / name), device="cuda", **options)
        rv.resume(scratch / name, data, device=device)
    differs = runs.differences(runs.train_state(scratch / "whole"), runs.train_state(scratch / "same"))
    return not differs, {"differs": differs[:5]}


def pictures(n: int = 2048) -> np.ndarray:
    rng = np.random.default_rng(0)
    shade = np.linspace(0, 200, 28)[None, :, None] * rng.random((n, 1, 1))
    return (shade + rng.integers(0, 50, (n, 28, 28))).astype(np.uint8)


def paced(**options: Any) -> tuple[bool, dict[str, Any]]:
    """Steps of another kind learn what plain ones learn, to a twentieth of what there was to win."""
    X = pictures()
    plain = rv.VAE().fit(X, epochs=3, device="cuda")
    other = rv.VAE().fit(X, epochs=3, device="cuda", **options)
    won = plain.history[0]["loss"] - plain.history[-1]["loss"]
    apart = abs(other.history[-1]["loss"] - plain.history[-1]["loss"])
    return apart < 0.05 * abs(won) + 0.01 * abs(plain.history[-1]["loss"]), {
        "plain": plain.history[-1]["loss"], "other": other.history[-1]["loss"], "pace": other.info.get("pace"),
    }  # fmt: skip


def flat_memory() -> tuple[bool, dict[str, Any]]:
    """The device's memory after one epoch and after twenty, the training data included."""
    seen = []
    for epochs in (1, 20):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        rv.GAN().fit(pictures(512), epochs=epochs, device="cuda")
        seen.append(torch.cuda.max_memory_allocated())
    return seen[1] < 1.02 * seen[0] + 2**20, {"bytes": seen}


def speed(recipe: Any, batch: int) -> tuple[bool, dict[str, Any]]:
    """Steps per second on the device, and on the CPU beside it."""
    X, rates = pictures(), {}
    for device, steps in (("cuda", 200), ("cpu", 20)):
        recipe.fit(X, steps=5, batch_size=batch, device=device)  # warms up
        model = recipe.fit(X, steps=steps, batch_size=batch, device=device)
        rates[device] = round(steps / model.info["seconds"], 2)
    return True, {"steps_per_second": rates}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_check.json")
    parser.add_argument("--seconds", type=float, default=330, help="no check begins after so many")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    real = torch.cuda.is_available()
    about = {
        "device": torch.cuda.get_device_name() if real else "pretended (no CUDA device here)",
        "torch": torch.__version__, "python": platform.python_version(), "numpy": np.__version__,
    }  # fmt: skip
    check = Check(asked.out, asked.seconds, about)
    with tempfile.TemporaryDirectory() as folder, contextlib.nullcontext() if real else elsewhere():
        scratch = Path(folder)
        for family in ("gmm", "rbm", "dbm", "vae", "gan"):
            check.run(f"resume {family}", lambda family=family: resumes(family, scratch / f"resume-{family}"))
        if real:
            check.run("bfloat16", lambda: paced(precision="bfloat16"))
            check.run("channels last", lambda: paced(channels_last="on"))
            check.run("compiled", lambda: paced(compile="on"))
            check.run("flat memory", flat_memory)
            mlp = rv.VAE(encoder="mlp", decoder="mlp")
            for name, recipe in (("vae mlp", mlp), ("vae conv", rv.VAE()), ("gan conv", rv.GAN())):
                check.run(f"speed {name}", lambda recipe=recipe: speed(recipe, 256))
        first = dict(reversed(devices.cases()))
        order = sorted(devices.cases(), key=lambda case: first[case[0]] != case[1])  # every family once, then the rest
        for family, form in order:
            check.run(f"{family}: {form or 'its own'}", lambda a=family, b=form: agrees(a, b, scratch))
    found = check.found
    print(f"{found['device']}: {found['passed']} passed, {found['failed']} failed, {found['not_run']} not run "
          f"in {found['seconds']} s -> {asked.out}")  # fmt: skip
    return int(found["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
