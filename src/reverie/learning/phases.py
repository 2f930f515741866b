"""The two contracts of learning: `Learner`, one rule bound to one network, and `Phase`, a named stretch of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.rng import Noise

Metrics = dict[str, Tensor]
"""Name -> scalar tensor: this process's part of the global batch's mean, so that a sum over processes is the mean."""
State = dict[str, Any]
"""A nested value of tensors and JSON scalars."""


class Learner(ABC):
    """One learning rule bound to one network. The trainer calls these and asks nothing about the kind of rule."""

    network: nn.Module
    objective: str | None = None
    """The metric of `validate` that early stopping may watch (lower is better); None refuses early stopping."""
    validates: bool = False
    """`validate` says something about held-out rows."""
    per_pass: bool = False
    """The rule updates once per pass: a budget in steps is rounded up to whole passes."""
    averages: bool = True
    """A running average of this network's parameters makes sense."""
    casts: bool = False
    """The rule follows gradients of a network's loss, which `run.pace` computes in another precision, compiled, in parts."""
    trained: list[nn.Parameter] | None = None
    """The parameters of the network that this rule changes, None for all."""

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Data-dependent start, called once on a fresh phase. `batches()` gives whole global batches on every rank."""
        return

    @abstractmethod
    def step(self, batch: Batch) -> Metrics:
        """Learn from one batch."""

    def epoch_end(self) -> Metrics:
        """What happens once per pass; {} unless the rule updates there."""
        return {}

    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """The metrics of a held-out batch, without learning, on the noise given; {} if there is no objective."""
        return {}

    def monitors(self) -> Sequence[Any]:
        """What watches this rule (`findings.Monitor`s), fresh."""
        return ()

    def chains(self) -> Tensor | None:
        """This process's persistent chains as they stand, (chains, units); None for a rule without."""
        return None

    @property
    def finished(self) -> bool:
        """The rule has converged: the phase ends after this pass."""
        return False

    def averaged(self) -> nn.Module | None:
        """The network with averaged weights, for inference, or None."""
        return None

    @abstractmethod
    def state(self) -> State:
        """All that must be known to go on exactly, besides the network. Collective: every rank calls it."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Inverse of `state`, on a learner freshly made."""


@dataclass(frozen=True)
class Phase:
    """A named stretch of training. The learner is made when the phase starts: a later one may need trained weights."""

    name: str
    learner: Callable[[], Learner]
    share: float = 1.0
    batch_size: int | None = None
    batches: int | None = None
    """Into so many batches a pass is cut where `batch_size` is neither given here, nor by the user or the family."""
    transform: Callable[[Batch, Noise], Batch] | None = None
    shuffle: bool = True
    monitors: Callable[[], Sequence[Any]] | None = None
    """What watches this phase (`findings.Monitor`s) beside the monitors of its rule."""
    middle: bool = False
    """Batches hold the middle of what the codec's noise may make of a row (grey levels as they are), not draws."""


@dataclass
class Position:
    """Where training stands: phase, epoch within it, batches done in that epoch, updates done in the phase and in
    all, active seconds by the clock and of this process's CPU."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    done: bool = False
