"""What each of two processes does in the tests of several processes; rank 0 writes its findings as JSON."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import runs
import torch

import families
from families import OPTIONS, STACK_ROW, rows_for, small_recipes
from reverie import catalog
from reverie.learning.run import start_processes, stop_processes

STOPS = {
    "gmm": (3, 5, 7),
    "table_mixture": (7,),
    "naive_bayes": (7,),
    "adversarial_forest": (3,),
    "unmasking_trees": (3,),
    "rbm": (3, 5, 7),
    "tempered rbm": (3, 5, 7),
    "temporal_rbm": (3, 5, 7),
    "dbn": (4, 9, 14, 18),
    "dbm": (3, 8, 13),
    "autoencoder": (3, 8, 13),
    "boltzmann_machine": (3, 5, 7),
    "vae": (3, 5, 7),
    "gan": (3, 5, 7),
    "stack": (4, 10, 13),
}
"""Updates after which the two-process runs are stopped: inside an epoch, at its end, in the next (or second phase)."""


def work(scratch: str) -> None:
    """Fit every family on two processes, stopped and resumed, and save weights and differences."""
    root = Path(scratch)
    catalog.register(STACK_ROW)
    assert families.STACK_ROW is STACK_ROW
    rank, world = start_processes("cpu")
    findings = {}
    for family, recipe in small_recipes().items():
        whole = runs.fit(family, root / family / "whole")
        if rank == 0:
            torch.save(whole.network.state_dict(), root / f"{family}.pt")
            want = runs.train_state(root / family / "whole")
        for step in STOPS[family]:
            out = root / family / f"stopped-{step}"
            runs.stopped(family, out, step)
            runs.resumed(family, out)
            if rank == 0:
                findings[f"{family} stopped at {step}"] = runs.differences(want, runs.train_state(out))
        # 201 rows, batch 100, two processes: the tail of one row would leave rank 1 with nothing.
        recipe.fit(rows_for(family, 201), **OPTIONS[family])
    if rank == 0:
        (root / "findings.json").write_text(json.dumps({"world": world, "differences": findings}))
    stop_processes()


def leave_something_late() -> None:
    """Work that ends well, and leaves what aborts its process when the C library is told that it ends."""
    library = ctypes.CDLL(None)
    library.__cxa_atexit(library.abort, None, None)
