"""`reverie doctor`: is this installation sound? Versions, device, folders, extras, and a two-second trial."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from reverie.cli.app import FAILED, OK
from reverie.cli.flags import JSON, QUIET, parse
from reverie.cli.screen import Screen, table

_NEEDS = (
    "torch",
    "numpy",
    "scikit-learn",
    "pandas",
    "pillow",
    "matplotlib",
    "safetensors",
    "pydantic",
    "rich",
    "tyro",
    "jinja2",
)
_EXTRAS = {"parquet": ("pyarrow",), "yaml": ("yaml",), "hub": ("huggingface_hub", "datasets")}


@dataclass(frozen=True)
class Check:
    """One thing looked at: fine, worth knowing, or broken."""

    name: str
    state: Literal["ok", "note", "broken"]
    detail: str


def run(argv: list[str], screen: Screen) -> int:
    """Exit code 1 when something is broken."""
    parse([QUIET, JSON], argv, prog="reverie doctor", description="Check this installation.")
    checks = [*_guarded("packages", _packages), *_guarded("device", _device)]
    checks += [*_guarded("folders", _folders), *_extras()]
    checks += _guarded("trial", _trial)
    broken = [check.name for check in checks if check.state == "broken"]
    document = {"ok": not broken, "checks": [asdict(check) for check in checks]}
    verdict = f"broken: {', '.join(broken)}" if broken else "all is well"
    screen.result(
        document,
        table(["", "", ""], [[c.name, c.state, c.detail] for c in checks]).split("\n", 2)[2] + f"\n\n{verdict}",
    )
    return FAILED if broken else OK


def _guarded(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    try:
        return look()
    except Exception as error:  # whatever is broken must not stop the doctor
        return [Check(name, "broken", f"{type(error).__name__}: {error}".splitlines()[0])]


def _packages() -> list[Check]:
    from reverie._version import __version__

    out = [
        Check("reverie", "ok", __version__),
        Check("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
    ]
    for name in _NEEDS:
        try:
            out.append(Check(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            out.append(Check(name, "broken", "not installed: pip install reverie"))
    return out


def _device() -> list[Check]:
    import torch

    from reverie.learning.run import pick_device

    device = pick_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    return [Check("device", "ok", f"{device} ({name})"), Check("threads", "ok", threads)]


def _folders() -> list[Check]:
    runs = Path("runs") if Path("runs").exists() else Path()
    out = []
    for name, folder in (("runs folder", runs.resolve()), ("temporary folder", Path(tempfile.gettempdir()))):
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
            out.append(Check(name, "ok", f"{folder} can be written"))
        except OSError as error:
            out.append(Check(name, "broken", f"{folder} cannot be written: {error.strerror or error}"))
    return out


def _extras() -> list[Check]:
    out = []
    for extra, modules in _EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        hint = f"not installed: pip install reverie[{extra}]"
        out.append(Check(f"extra {extra}", "note" if absent else "ok", hint if absent else ", ".join(modules)))
    return out


def _trial() -> list[Check]:
    """Train two small models, draw from them, save one and load it again: the same samples must come back."""
    import numpy as np

    from reverie import store

    start = time.perf_counter()
    rows = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 3.0]
    mixture = store.recipe_class("gmm")(components=2).fit(rows, epochs=5, progress=False)  # type: ignore[call-arg]
    store.recipe_class("vae")(latent=2).fit(rows, steps=20, progress=False)  # type: ignore[call-arg]
    with tempfile.TemporaryDirectory() as folder:
        again = store.load(mixture.save(Path(folder) / "model"))
    same = np.array_equal(mixture.sample(10, seed=0), again.sample(10, seed=0))
    finite = bool(np.isfinite(mixture.log_prob(rows)).all())
    if not (same and finite):
        return [
            Check(
                "trial", "broken", "a saved and loaded model gave other samples" if finite else "log_prob is not finite"
            )
        ]
    return [Check("trial", "ok", f"fit, sample, save and load in {time.perf_counter() - start:.1f} s")]
