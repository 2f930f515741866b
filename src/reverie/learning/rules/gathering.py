"""Gathering: one pass in which all rows come together, and a network that learns from them at its end, all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, Phase, State
from reverie.learning.run import Run


class LearnsAtOnce(Protocol):
    """A network that learns from whole data: `learn` gets all rows as one batch and a seed, and returns metrics."""

    def learn(self, batch: Batch, seed: int) -> Metrics: ...


class Gathering(Learner):
    """Keeps the global batches, whole and in order, on every process: all then learn the same, bit by bit. The rows kept so
    far are part of its state, so a killed run goes on in the middle of the pass."""

    per_pass = True
    averages = False

    def __init__(self, network: nn.Module, run: Run) -> None:
        self.network, self._run = network, run
        self._kept: list[dict[str, Tensor]] = []
        self._done = False

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        own = {
            "x": batch.x,
            "observed": torch.ones_like(batch.x, dtype=torch.bool) if batch.observed is None else batch.observed,
            "y": batch.y,
            "weight": batch.weight,
        }
        gathered = {n: self._run.gather_rows(rows, batch.rows) for n, rows in own.items() if rows is not None}
        self._kept.append({name: rows.cpu() for name, rows in gathered.items()})
        return {}

    @torch.no_grad()
    def epoch_end(self) -> Metrics:
        rows = {name: torch.cat([part[name] for part in self._kept]) for name in self._kept[0]}
        self._kept = []
        whole = bool(rows["observed"].all())
        batch = Batch(
            x=rows["x"],
            observed=None if whole else rows["observed"],
            y=rows.get("y"),
            weight=rows.get("weight"),
            rows=len(rows["x"]),
        )
        found: Metrics = self.network.learn(batch, self._run.seed)  # type: ignore[operator]
        self._done = True
        return {name: value / self._run.world for name, value in found.items()}

    @property
    def finished(self) -> bool:
        """After one pass: there is nothing that a second one would add."""
        return self._done

    def state(self) -> State:
        return {"done": self._done, "kept": self._kept}

    def load_state(self, state: State) -> None:
        self._done, self._kept = bool(state["done"]), list(state["kept"])


def gathering_phases(network: nn.Module, run: Run, name: str) -> list[Phase]:
    """The one phase of a network that learns from all rows at once."""
    learner: Callable[[], Learner] = lambda: Gathering(network, run)  # noqa: E731
    return [Phase(name, learner, shuffle=False)]
