"""The pace of a training run: fixed by options, kept by a resumed run, or measured on its own next steps, which are then undone."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import nn

from reverie.data.batches import Batches, Order, Slot
from reverie.errors import InvalidOption
from reverie.learning import pace
from reverie.learning.budget import Budget
from reverie.learning.hooks import Sums
from reverie.learning.pace import Pace
from reverie.learning.phases import Learner, Phase, Position, State
from reverie.learning.recomputing import recompute
from reverie.learning.run import Run
from reverie.learning.training import Training


class Steps(Protocol):
    """What measuring needs of the trainer."""

    run_: Run
    network: nn.Module
    data: Batches
    training: Training
    budget: Budget
    at: Position
    sums: Sums

    def make(self, phase: Phase) -> Learner: ...
    def step(self, learner: Learner, phase: Phase, slot: Slot, order: Order, total: int | None) -> None: ...
    def report(self, record: dict[str, Any]) -> None: ...


class Pacing:
    """How the steps of `trainer` are computed. `history` says what was measured, and when."""

    def __init__(self, trainer: Steps) -> None:
        self._trainer = trainer
        self.history: list[dict[str, Any]] = []
        self.measuring = False
        self._resumed: Pace | None = None
        self._clock = pace.Stopwatch()

    def open(self, phase: Phase, learner: Learner, slots: list[Slot], total: int | None) -> Learner:
        """The learner with which a phase begins, or goes on."""
        trainer = self._trainer
        resumed, self._resumed = self._resumed, None
        if not learner.casts:
            if trainer.run_.pace != Pace():  # that of the phase before it
                trainer.run_.pace = Pace()
                trainer.run_.pace.apply(trainer.network)
            return learner
        fixed, free = pace.asked(trainer.training)
        if trainer.training.activation_checkpointing:
            recompute(trainer.network)
        fresh = trainer.at.step == 0 and trainer.at.batch == 0
        if free and fresh:
            return self.measure(phase, learner, slots, total)
        if fixed.compile and fresh:
            self._prove(fixed, _Trials(trainer, phase, learner, slots, total))
        # Only what was measured is taken from the state: one saved before the first step knows nothing of the options yet.
        chosen = resumed if free and resumed is not None else fixed
        trainer.run_.pace = chosen
        chosen.apply(trainer.network)
        if not chosen.channels_last:
            return learner
        state = copy.deepcopy(learner.state())  # its moments take the memory format of the weights
        learner = trainer.make(phase)
        learner.load_state(state)
        return learner

    def stale(self) -> bool:
        """Has the load of the machine changed so much that measuring again is worth it? Rank 0's clock decides."""
        trainer = self._trainer
        if not pace.asked(trainer.training)[1] or trainer.at.total % trainer.training.log_steps:
            return False
        return bool(trainer.run_.broadcast(self._clock.changed(trainer.at.total)))

    def measure(self, phase: Phase, learner: Learner, slots: list[Slot], total: int | None) -> Learner:
        """Choose the pace by real steps from here on, all of which are undone; the learner to go on with."""
        trainer, run = self._trainer, self._trainer.run_
        fixed, free = pace.asked(trainer.training)
        trials = _Trials(trainer, phase, learner, slots, total)
        self.measuring = True
        left = run.broadcast(trainer.budget.left(trainer.at, total, trials.run(fixed, 3)[0]))
        found = pace.measure(fixed, free, trials.run, trainer.network, run.device, left)
        learner = trials.undo(found.pace)
        self.measuring = False
        self._clock = pace.Stopwatch()
        self.history.append({"phase": phase.name, "step": trainer.at.total, **found.to_json()})
        trainer.report({"event": "pace", **self.history[-1]})
        return learner

    def _prove(self, fixed: Pace, trials: _Trials) -> None:
        """Compile now, so that what cannot be compiled is said before training has begun."""
        self.measuring = True
        try:
            trials.run(fixed, 1)
        except RuntimeError as problem:
            said = str(problem).strip().splitlines()[0]
            raise InvalidOption(
                f"compile: torch cannot compile this training here ({said}); leave compile out"
            ) from None
        finally:
            trials.undo(fixed)
            self.measuring = False

    def state(self) -> State:
        return {"pace": self._trainer.run_.pace.to_json(), "history": self.history}

    def load_state(self, state: State | None) -> None:
        """What a resumed run goes on with; a state from before there was a choice says nothing."""
        if state is not None:
            self._resumed, self.history = Pace(**state["pace"]), list(state["history"])


class _Trials:
    """Real steps from where training stands, which leave no trace."""

    def __init__(self, trainer: Steps, phase: Phase, learner: Learner, slots: list[Slot], total: int | None) -> None:
        self._trainer, self._phase, self._slots, self._total = trainer, phase, slots, total
        self._at, self._sums = trainer.at, trainer.sums
        self._saved = copy.deepcopy((dict(trainer.network.state_dict()), learner.state()))
        self._noise, self._torch = trainer.run_.generator.get_state(), torch.get_rng_state()
        self._order = trainer.data.order(phase.name, self._at.epoch, shuffle=phase.shuffle)

    def undo(self, chosen: Pace) -> Learner:
        """Back to where training stood, ready to go on at that pace with the learner returned."""
        trainer, (weights, learned) = self._trainer, self._saved
        trainer.network.load_state_dict(weights)
        for parameter in trainer.network.parameters():
            parameter.grad = None  # a trial that failed between two parts of a batch left one
        trainer.run_.generator.set_state(self._noise)
        torch.set_rng_state(self._torch)
        trainer.at, trainer.sums = self._at, self._sums
        trainer.run_.pace = chosen
        chosen.apply(trainer.network)
        learner = trainer.make(self._phase)
        learner.load_state(copy.deepcopy(learned))
        return learner

    def run(self, chosen: Pace, count: int) -> tuple[float, float]:
        """Seconds a step and the mean loss of `count` steps at that pace, behind one that warms up; rank 0's."""
        trainer, start = self._trainer, 0.0
        learner = self.undo(chosen)
        trainer.at, trainer.sums = Position(**asdict(self._at)), Sums()
        for number in range(count + 1):
            if number == 1:
                start = time.perf_counter()
            slot = self._slots[(self._at.batch + number) % len(self._slots)]
            trainer.step(learner, self._phase, slot, self._order, self._total)
        means = trainer.sums.means(trainer.run_)
        seconds = (time.perf_counter() - start) / count
        loss = means.get(learner.objective or "", sum(abs(value) for value in means.values()))
        both: tuple[float, float] = trainer.run_.broadcast((seconds, loss))
        trainer.at, trainer.sums = self._at, self._sums
        return both
