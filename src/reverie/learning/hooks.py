"""What the trainer keeps: hooks to the outside, early stopping, running sums of metrics, and an ear for Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from reverie.learning.phases import Metrics, Position, State
from reverie.learning.run import Run


@dataclass
class Hooks:
    """What the loop calls on the first process: `save(state, position)` returns the checkpoint's folder; `log` takes
    each record; `snapshot` may draw samples from the network given; `progress` shows a line."""

    save: Callable[[State, Position], str | None] | None = None
    log: Callable[[dict[str, Any]], None] = lambda record: None
    snapshot: Callable[[nn.Module, Position], None] | None = None
    progress: Callable[[dict[str, Any]], None] = lambda record: None


@dataclass
class Stopping:
    """Early stopping: the best objective so far and the weights that had it."""

    best: float = math.inf
    best_epoch: int = -1
    waited: int = 0
    weights: State | None = None


@dataclass
class Sums:
    """Running sums of the epoch's metrics, weighted by rows, on the device."""

    rows: int = 0
    values: Metrics = field(default_factory=dict)

    def add(self, metrics: Metrics, rows: int) -> None:
        self.rows += rows
        for name, value in metrics.items():
            if name in self.values:
                self.values[name].add_(value, alpha=rows)
            else:
                self.values[name] = value.detach().clone().mul_(rows)

    def means(self, run: Run) -> dict[str, float]:
        """Global means over the rows so far; a collective."""
        if not self.values:
            return {}
        stacked = torch.stack([value.double() for value in self.values.values()])
        return dict(zip(self.values, (run.sum(stacked) / max(self.rows, 1)).tolist(), strict=True))


class Stoppable(Protocol):
    """What can be asked to stop."""

    interrupted: bool


@contextmanager
def interrupts(trainer: Stoppable) -> Iterator[None]:
    """Ctrl-C asks the loop to stop between batches; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.interrupted = True

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
