"""Storing: one pass in which a memory is handed every row once. No gradient, no objective, nothing to repeat."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.run import Run


class CanStore(Protocol):
    """A network that stores. `store(rows, weight)` takes (n, width) rows in order with how strongly each counts (n,), or
    None for 1; `settle()` ends the pass; `stored` counts the rows of the passes that have ended."""

    stored: Tensor

    def store(self, rows: Tensor, weight: Tensor | None) -> None: ...
    def settle(self) -> None: ...


class Storing(Learner):
    """Hands the global batches to the network, whole and in order, on every process: all then hold the same memory, that
    of a single process, bit by bit. What has been stored lies in the network, so it is saved and resumed with it."""

    per_pass = True
    averages = False

    def __init__(self, network: nn.Module, run: Run) -> None:
        self.network, self._run = network, run
        self._done = False

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        rows = self._run.gather_rows(batch.x.flatten(1), batch.rows)
        weight = None if batch.weight is None else self._run.gather_rows(batch.weight, batch.rows)
        self.network.store(rows, weight)  # type: ignore[operator]
        return {}

    @torch.no_grad()
    def epoch_end(self) -> Metrics:
        self.network.settle()  # type: ignore[operator]
        self._done = True
        stored: Tensor = self.network.stored  # type: ignore[assignment]
        return {"stored": stored.double() / self._run.world}

    @property
    def finished(self) -> bool:
        """After one pass: a second one would store everything twice."""
        return self._done

    def state(self) -> State:
        return {"done": self._done}

    def load_state(self, state: State) -> None:
        self._done = bool(state["done"])
