"""A learner around a learner that keeps a running average of the weights, for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.rng import Noise


class Averaged(Learner):
    """theta_bar <- theta_bar + (1 - d_t)(theta - theta_bar), d_t = min(decay, (1 + t) / (10 + t)); buffers are copied.

    The warm-up keeps the average from remembering the initial weights in short runs. Parameters that the rule does not
    train stay as they are.
    """

    def __init__(self, learner: Learner, decay: float) -> None:
        self.network, self._learner, self._decay, self._steps = learner.network, learner, decay, 0
        self.objective, self.per_pass, self.validates = learner.objective, learner.per_pass, learner.validates
        self.trained, self.casts = learner.trained, learner.casts
        self._average = copy.deepcopy(learner.network).requires_grad_(False)
        self._pairs()

    def _pairs(self) -> None:
        pairs = zip(self._average.parameters(), self.network.parameters(), strict=True)
        trained = None if self._learner.trained is None else {id(p) for p in self._learner.trained}
        pairs_trained = [pair for pair in pairs if trained is None or id(pair[1]) in trained]
        self._ours: list[Tensor] = [ours for ours, _ in pairs_trained]
        self._theirs: list[Tensor] = [theirs for _, theirs in pairs_trained]
        self._buffers = list(zip(self._average.buffers(), self.network.buffers(), strict=True))

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        self._learner.begin(batches)
        self._average.load_state_dict(self.network.state_dict())

    def step(self, batch: Batch) -> Metrics:
        metrics = self._learner.step(batch)
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)
            for ours, theirs in self._buffers:
                ours.copy_(theirs)
        return metrics

    def monitors(self) -> Sequence[Any]:
        return self._learner.monitors()

    def chains(self) -> Tensor | None:
        return self._learner.chains()

    def epoch_end(self) -> Metrics:
        return self._learner.epoch_end()

    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """The wrapped rule's metrics with the averaged weights in place."""
        own = [p.detach().clone() for p in self._theirs]
        with torch.no_grad():
            torch._foreach_copy_(self._theirs, self._ours)
        try:
            return self._learner.validate(batch, noise)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._theirs, own)

    @property
    def finished(self) -> bool:
        return self._learner.finished

    def averaged(self) -> nn.Module:
        return self._average

    def state(self) -> State:
        return {"learner": self._learner.state(), "average": dict(self._average.state_dict()), "steps": self._steps}

    def load_state(self, state: State) -> None:
        self._learner.load_state(state["learner"])
        self._average.load_state_dict(state["average"])
        self._steps = state["steps"]
