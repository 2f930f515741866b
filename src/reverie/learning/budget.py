"""How much training there is: updates or minutes, shared among phases."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from reverie.data.batches import Batches
from reverie.learning.phases import Learner, Phase, Position
from reverie.learning.run import Run
from reverie.learning.training import Training


class Budget:
    """Epochs, steps or minutes of `training`, dealt to `phases` by their shares. `seconds` says how long training has been."""

    def __init__(
        self, training: Training, phases: list[Phase], data: Batches, run: Run, seconds: Callable[[], float]
    ) -> None:
        self._training, self._phases, self._data, self._run, self._seconds = training, phases, data, run, seconds

    def batch_size(self, phase: Phase) -> int | None:
        size = phase.batch_size or self._training.batch_size
        return math.ceil(self._data.n / phase.batches) if size is None and phase.batches else size

    def share(self, number: int) -> float:
        """The share of a phase, of all phases together 1."""
        return self._phases[number].share / sum(phase.share for phase in self._phases)

    def steps(self, number: int, slots: int, learner: Learner) -> int | None:
        """Updates that a phase may make, with so many batches a pass; None for a budget in minutes."""
        training, share = self._training, self.share(number)
        if training.minutes is not None:
            return None
        if training.steps is not None:
            steps = max(1, round(training.steps * share))
            return math.ceil(steps / slots) * slots if learner.per_pass else steps
        assert training.epochs is not None
        return max(round(training.epochs * share), min(training.epochs, 1)) * slots

    def spent(self, at: Position, total: int | None) -> bool:
        """Has the present phase used up its part? Collective where the budget is in minutes."""
        if total is not None:
            return at.step >= total
        # Ranks' clocks differ; rank 0 decides.
        return bool(self._run.broadcast(self._seconds() >= self._until(at.phase + 1)))

    def progress(self, at: Position, total: int | None) -> float:
        """The fraction of the phase's part that is used up; with minutes it is looked up once a pass."""
        if total is not None:
            return at.step / total
        if at.batch == 0 or self._run.progress == 0:
            before, until = self._until(at.phase), self._until(at.phase + 1)
            return float(self._run.broadcast(min(max((self._seconds() - before) / (until - before), 0.0), 1.0)))
        return self._run.progress

    def left(self, at: Position, total: int | None, seconds_per_step: float) -> float:
        """The updates that remain in the present phase, by the clock where the budget is in minutes."""
        if total is not None:
            return float(total - at.step)
        return max(self._until(at.phase + 1) - self._seconds(), 0.0) / max(seconds_per_step, 1e-9)

    def _until(self, phases: int) -> float:
        """Seconds of training by which so many phases are over."""
        assert self._training.minutes is not None
        return sum(self.share(number) for number in range(phases)) * self._training.minutes * 60

    def plan(self) -> list[dict[str, Any]]:
        """The split by phases, for dry runs."""
        rows = []
        for number, phase in enumerate(self._phases):
            slots = self._data.slots(self.batch_size(phase))
            row: dict[str, Any] = {"phase": phase.name, "share": self.share(number), "batches_per_epoch": len(slots)}
            total = self.steps(number, len(slots), phase.learner())
            row["minutes"] = None if total is not None else (self._training.minutes or 0.0) * self.share(number)
            row["steps"], row["epochs"] = total, None if total is None else total / len(slots)
            rows.append(row)
        return rows
