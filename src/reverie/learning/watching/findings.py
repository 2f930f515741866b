"""What training notices about itself: a `Finding` says what, how much, against which threshold, and what to do. Monitors see numbers
and samples, and never change what is learned."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from reverie.data.space import Batch, Points
from reverie.learning.phases import Learner, Phase, Position, State
from reverie.learning.run import Run

EVERY = 10
"""Updates from one look at metrics and gradients to the next."""
_FIRST = 20
"""The first updates of a phase are all looked at: that is when a rate far too high shows."""
_SPREAD = 1.5
"""Samples are drawn and compared at updates that lie ever further apart, each so many times the one before: a few dozen times in
any run, and at the same updates whatever the machine, so that a resumed run finds what the whole one finds."""


@dataclass(frozen=True)
class Finding:
    """One thing noticed in training. `value` went beyond `threshold`; `basis` says what it is a figure of."""

    code: str
    severity: Literal["note", "warning", "error"]
    value: float
    threshold: float
    basis: str
    advice: str
    phase: str = ""
    step: int = 0

    def __str__(self) -> str:
        return f"{self.code} at step {self.step}: {self.basis} is {self.value:.3g} (threshold {self.threshold:.3g}). {self.advice}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Seen:
    """What monitors see: global means of metrics (of the step, or of the pass and its held-out rows), the largest norm of a
    player's gradient, how far the phase's budget is spent, the learner; `samples(n)` and `held_out(n)` as the network sees rows."""

    metrics: dict[str, float]
    progress: float
    step: int
    epoch: int
    learner: Learner
    gradient_norm: float | None = None
    samples: Callable[[int], Points] | None = None
    held_out: Callable[[int], Batch] | None = None


class Monitor(ABC):
    """Looks for one kind of failure. Its state is the attributes named in `kept`: JSON scalars, lists of them, and tensors."""

    code: ClassVar[str]
    kept: ClassVar[tuple[str, ...]] = ()

    def watch(self, network: nn.Module) -> Callable[[], None] | None:
        """Called before a step that will be seen; may hook into the network, and returns what takes the hooks away."""
        return None

    def step(self, seen: Seen) -> Finding | None:
        """After the first updates, and after every tenth."""
        return None

    def epoch(self, seen: Seen) -> Finding | None:
        """After every pass, with the means of the pass and of held-out rows."""
        return None

    def judge(self, seen: Seen) -> Finding | None:
        """Now and then, when samples may be drawn: at updates ever further apart."""
        return None

    def state(self) -> State:
        return {name: getattr(self, name) for name in self.kept}

    def load_state(self, state: State) -> None:
        for name in self.kept:
            setattr(self, name, state[name])


@dataclass
class Watch:
    """The monitors of a run's present phase, and what they have found so far in all of them. Each finds its thing once."""

    run: Run
    samples: Callable[[int], Points] | None = None
    held_out: Callable[[int], Batch] | None = None
    tell: Callable[[Finding], None] = lambda finding: None
    found: list[Finding] = field(default_factory=list)
    _monitors: list[Monitor] = field(default_factory=list)
    _phase: str = ""
    _loaded: dict[str, State] = field(default_factory=dict)
    _loaded_next: int = 1
    _next: int = 1
    _hooks: list[Callable[[], None]] = field(default_factory=list)

    def open(self, phase: Phase, learner: Learner) -> None:
        """Begin a phase, with the monitors of its rule and of its own; those of a state just loaded go on."""
        self._phase = phase.name
        self._monitors = [*learner.monitors(), *(phase.monitors() if phase.monitors else [])]
        for monitor in self._monitors:
            if monitor.code in self._loaded:
                monitor.load_state(self._loaded[monitor.code])
        self._next = self._loaded_next if self._loaded else 1
        self._loaded = {}

    def before(self, network: nn.Module, at: Position) -> bool:
        """Called before every step: will it be seen? Then it is hooked into, and notes the norm of its gradient."""
        step = at.step + 1
        self.run.observing = bool(self._monitors) and (step <= _FIRST or step % EVERY == 0)
        if not self.run.observing:
            return False
        self.run.gradient_norm = None
        if not self.run.pace.compile:
            self._hooks = [undo for monitor in self._monitors if (undo := monitor.watch(network)) is not None]
        return True

    def after(self, metrics: dict[str, Tensor], learner: Learner, at: Position) -> None:
        """Called after a step that is seen."""
        for undo in self._hooks:
            undo()
        self._hooks, self.run.observing = [], False
        names = list(metrics)
        values: list[float] = []
        if names:
            values = self.run.sum(torch.stack([metrics[name].detach().double() for name in names])).tolist()
        seen = self._seen(dict(zip(names, values, strict=True)), learner, at)
        norm = self.run.gradient_norm
        seen.gradient_norm = None if norm is None else float(norm)
        for monitor in self._monitors:
            self._note(monitor.step(seen), at)
        self._judge(seen, at)

    def epoch(self, means: dict[str, float], learner: Learner, at: Position) -> None:
        """Called after every pass."""
        seen = self._seen(means, learner, at)
        for monitor in self._monitors:
            self._note(monitor.epoch(seen), at)

    def _judge(self, seen: Seen, at: Position) -> None:
        """Let monitors compare samples, where their turn has come."""
        judges = [monitor for monitor in self._monitors if type(monitor).judge is not Monitor.judge]
        if not judges or self.samples is None or at.step < self._next:
            return
        self._next = int(max(at.step * _SPREAD, at.step + EVERY))
        for monitor in judges:
            self._note(monitor.judge(seen), at)

    def _seen(self, metrics: dict[str, float], learner: Learner, at: Position) -> Seen:
        return Seen(
            metrics, self.run.progress, at.step, at.epoch, learner, samples=self.samples, held_out=self.held_out
        )

    def _note(self, finding: Finding | None, at: Position) -> None:
        if finding is None or any((old.code, old.phase) == (finding.code, self._phase) for old in self.found):
            return
        placed = Finding(**{**asdict(finding), "phase": self._phase, "step": at.total})
        self.found.append(placed)
        self.tell(placed)

    def state(self) -> State:
        return {
            "found": [finding.to_json() for finding in self.found],
            "monitors": {monitor.code: monitor.state() for monitor in self._monitors},
            "next": self._next,
        }

    def load_state(self, state: State | None) -> None:
        if state is not None:  # a state from before runs were watched says nothing
            self.found = [Finding(**finding) for finding in state["found"]]
            self._loaded, self._loaded_next = state["monitors"], state["next"]
