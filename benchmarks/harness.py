"""Paired timings: blocks A B B A in one run, medians and ratios, A against A as the noise; JSON and a Markdown table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass
class Timing:
    """One run of one side: CPU and wall seconds, and anything else the run wants to report."""

    cpu: float
    wall: float
    extra: dict[str, Any]


def timed(work: Callable[[], dict[str, Any] | None]) -> Timing:
    """Run `work` once in this process and time it."""
    cpu, wall = time.process_time(), time.perf_counter()
    extra = work() or {}
    return Timing(time.process_time() - cpu, time.perf_counter() - wall, extra)


def in_process(command: list[str], threads: int) -> Timing:
    """Run a command that times its own work and prints one JSON line with `cpu`, `wall` and more."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    env["OPENBLAS_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Timing(found.pop("cpu"), found.pop("wall"), found)


def paired(a: Callable[[], Timing], b: Callable[[], Timing], *, blocks: int = 4, warmup: bool = True) -> dict[str, Any]:
    """A B B A blocks. `ratio` is the median over blocks of (A1 + A2) / (B1 + B2) in CPU seconds; `noise` is the median
    of |A1 / A2 - 1|, what the same side differs by within a block; `a_over_a` compares half the A runs with the other
    half."""
    if warmup:
        a()
        b()
    runs: list[tuple[Timing, Timing, Timing, Timing]] = []
    for _ in range(blocks):
        first, second, third, fourth = a(), b(), b(), a()
        runs.append((first, second, third, fourth))
    ratios = [(r[0].cpu + r[3].cpu) / (r[1].cpu + r[2].cpu) for r in runs]
    walls = [(r[0].wall + r[3].wall) / (r[1].wall + r[2].wall) for r in runs]
    ours, theirs = [t for r in runs for t in (r[0], r[3])], [t for r in runs for t in (r[1], r[2])]
    even = sum(t.cpu for t in ours[::2]) + sum(t.cpu for t in theirs[::2])
    odd = sum(t.cpu for t in ours[1::2]) + sum(t.cpu for t in theirs[1::2])
    return {
        "ratio_cpu": statistics.median(ratios),
        "ratios_cpu": [round(r, 4) for r in ratios],
        "ratio_wall": statistics.median(walls),
        "a_over_a": statistics.median([r[0].cpu / r[3].cpu for r in runs]),
        "b_over_b": statistics.median([r[1].cpu / r[2].cpu for r in runs]),
        "first_over_second": even / odd,
        "cpu_a": statistics.median(t.cpu for t in ours),
        "cpu_b": statistics.median(t.cpu for t in theirs),
        "wall_a": statistics.median(t.wall for t in ours),
        "wall_b": statistics.median(t.wall for t in theirs),
        "extra_a": ours[-1].extra,
        "extra_b": theirs[-1].extra,
        "blocks": blocks,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    model = "unknown"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        model = platform.processor()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    versions = {}
    for name in ("reverie", "torch", "numpy", "scikit-learn"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def run_case(
    script: str, cases: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]], about: str, **flags: str
) -> None:
    """Command line of a script of cases: run one and write results/SCRIPT_CASE.json. `flags` are further switches, each with
    its help; long lists stay out of what is printed."""
    import torch

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=cases)
    parser.add_argument("--data", default=str(data_root()))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=1)
    for flag, meaning in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=meaning)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = cases[arguments.case](arguments)
    options = {name: value for name, value in vars(arguments).items() if name != "data"}
    document = {"case": arguments.case, "options": options, **found, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{script}_{arguments.case}.json").write_text(json.dumps(document, indent=1, default=str) + "\n")
    print(json.dumps({k: v for k, v in document.items() if k != "machine" and not isinstance(v, list)}, default=str))


def write(name: str, rows: list[dict[str, Any]], *, note: str = "") -> None:
    """Write results/NAME.json and print a Markdown table."""
    RESULTS.mkdir(exist_ok=True)
    document = {"name": name, "note": note, "machine": machine(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    table = to_markdown(rows)
    (RESULTS / f"{name}.md").write_text(f"# {name}\n\n{note}\n\n{table}\n")
    print(f"## {name}\n\n{table}\n")


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """case | ours CPU s | other CPU s | ratio | wall ratio | A/A | B/B."""
    head = "| case | ours (CPU s) | other (CPU s) | ratio CPU | ratio wall | A/A | B/B |\n|---|---|---|---|---|---|---|"
    lines = [
        f"| {r['case']} | {r['cpu_a']:.3f} | {r['cpu_b']:.3f} | **{r['ratio_cpu']:.3f}** | {r['ratio_wall']:.3f} "
        f"| {r['a_over_a']:.3f} | {r['b_over_b']:.3f} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def mnist(folder: str | Path) -> dict[str, Any]:
    """The four arrays of mnist.npz."""
    import numpy as np

    with np.load(Path(folder) / "mnist.npz", allow_pickle=False) as file:
        return {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}


def data_root() -> Path:
    """The folder of benchmark data: REVERIE_DATA, or shared/data beside the checkout."""
    return Path(os.environ.get("REVERIE_DATA", Path(__file__).parents[2] / "shared" / "data"))
