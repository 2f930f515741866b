"""Helpers of the resume tests: run to the end, stop after a given update, compare everything that was saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from families import OPTIONS, rows_for, small_recipes
from reverie import serial, store
from reverie.errors import Interrupted
from reverie.learning.trainer import Trainer
from reverie.model.model import Model


def train_state(root: Path) -> dict[str, Any]:
    """The saved train state of a run, without its clocks."""
    state = serial.read(serial.latest(root), "train")[1]
    del state["at"]["seconds"], state["at"]["cpu_seconds"]
    return state


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The paths at which two train states differ, bit by bit."""
    (skeleton_a, tensors_a), (skeleton_b, tensors_b) = serial.split(a), serial.split(b)
    found = [key for key in skeleton_a if skeleton_a[key] != skeleton_b.get(key)]
    found += [name for name in tensors_a if name not in tensors_b or not torch.equal(tensors_a[name], tensors_b[name])]
    return found


@contextmanager
def stop_after(step: int) -> Iterator[None]:
    """Ask the loop to stop once `step` updates are done, as Ctrl-C does."""
    whole = Trainer._between_batches

    def between(self: Trainer, *, force: bool = False) -> None:
        if self.at.total == step:
            self.interrupted = True
        whole(self, force=force)

    Trainer._between_batches = between  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer._between_batches = whole  # type: ignore[method-assign]


def fit(family: str, out: Path, **changes: Any) -> Model:
    """A small run of a family into `out`."""
    return small_recipes()[family].fit(rows_for(family), out=str(out), **{**OPTIONS[family], **changes})


def stopped(family: str, out: Path, step: int, **changes: Any) -> None:
    """The same run, stopped after `step` updates."""
    try:
        with stop_after(step):
            fit(family, out, **changes)
    except Interrupted:
        return
    raise AssertionError(f"{family} was not stopped at {step}")


def resumed(family: str, out: Path, **changes: Any) -> Model:
    """Go on with a stopped run."""
    return store.resume(out, rows_for(family), **changes)
