"""Contrastive divergence for machines over ragged rows, such as users' ratings. Hinton (2002); Salakhutdinov et al. (2007)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.contrastive import shares
from reverie.learning.rules.descent import Descent
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import Diverging, Overfitting
from reverie.rng import Noise


class RaggedDivergence(Learner):
    """gradient = <dE>_data - <dE>_chain + `decay` W, the chain started from the data and run for `sweeps` sweeps: those of
    the budget's first part, then of its second, and so on, (1, 3, 5) say.

    The machine (a part of the network) has: `start(batches)`; `contrast(x, share, sweeps, noise, total)`, the gradient of
    -sum share * log p of the rows by parameter, and -log p(v | h) of every step, on the first sweep (a machine may take 0
    sweeps for a gradient without a chain); `decayed()`, the parameters that shrink, by how much of `decay`; and
    `held_out(x)`, -log p(v_i | the row's other steps) of every step, which is the objective.

    Rows are those of this process, rank::world of the global batch. All sums over rows are sums over processes too.
    """

    objective = "loss"
    validates = True

    def __init__(
        self, network: nn.Module, machine: Any, descent: Descent, run: Run, *, sweeps: tuple[int, ...], decay: float
    ) -> None:
        self.network, self._machine, self._descent, self._run = network, machine, descent, run
        self._sweeps, self._decay = sweeps, decay
        self.trained = descent.parameters

    def monitors(self) -> list[Monitor]:
        return [Diverging(), Overfitting()]

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        self._machine.start(batches())

    @property
    def sweeps(self) -> int:
        """Sweeps per update at this point of the budget."""
        return self._sweeps[min(int(self._run.progress * len(self._sweeps)), len(self._sweeps) - 1)]

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        run, x = self._run, batch.x
        share = shares(batch, x, run)
        noise = run.noise(batch.rows, x.dtype)
        gradients, error = self._machine.contrast(batch.x, share, self.sweeps, noise, run.sum_all)
        if self._decay:
            for parameter, share in self._machine.decayed().items():
                gradients[parameter] = gradients[parameter].add(parameter, alpha=self._decay * share)
        self._descent.apply(gradients)
        return {"reconstruction": self._per_step(batch, error)}

    def _per_step(self, batch: Batch, values: Tensor) -> Tensor:
        """This process's part of the weighted mean over all processes' steps."""
        share = shares(batch, batch.x, self._run).to(values)
        weight = torch.repeat_interleave(share, batch.x.lengths.to(values.device))
        return weight @ values / self._run.sum(weight.sum())

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """`loss`: mean -log p(v_i | the row's other steps) of held-out rows, in nats per step, exactly."""
        return {"loss": self._per_step(batch, self._machine.held_out(batch.x))}

    def state(self) -> State:
        return {"descent": self._descent.state()}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
