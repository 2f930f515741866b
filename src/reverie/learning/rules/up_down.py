"""The up-down algorithm: contrastive wake-sleep for directed layers under a restricted machine (Hinton, Osindero & Teh 2006)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.contrastive import ContrastiveDivergence, shares
from reverie.learning.rules.descent import Descent
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import Diverging


class UpDown(Learner):
    """Wake: draw hidden states upwards and teach the generative weights to predict each layer from the one above; contrast
    the top machine with its chains. Sleep: draw a dream down from the chains and teach the recognition weights.

    The network has `untie()`, `up(x, noise)`, `wake(states, share)` and `sleep(h, share, noise)`, and its top machine
    with label units or without learns by `top`.
    """

    def __init__(self, network: nn.Module, descent: Descent, run: Run, top: ContrastiveDivergence) -> None:
        self.network, self._descent, self._run, self._top = network, descent, run, top
        self.trained = descent.parameters

    def monitors(self) -> list[Monitor]:
        return [Diverging()]

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        self.network.untie()  # type: ignore[operator]

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        network: Any = self.network
        run, x = self._run, batch.x.flatten(1)
        share = shares(batch, x, run)
        states = network.up(x, run.noise(batch.rows, x.dtype))
        with network.top.fixed_weights():
            gradients, metrics = self._top.contrast(states[-1], batch.y, batch.rows, share)
        dream = self._top.fantasy
        assert dream is not None
        h = dream[:, : states[-1].shape[1]]
        rows = self._top.count or batch.rows
        further = network.wake(states, share)
        further |= network.sleep(h, h.new_full((len(h),), 1 / rows), run.noise(rows, x.dtype))
        run.sum_all(list(further.values()))
        self._descent.apply(gradients | further)
        return metrics

    def state(self) -> State:
        return {"descent": self._descent.state(), "top": self._top.state()}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
        self._top.load_state(state["top"])
