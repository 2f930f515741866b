"""The Boltzmann machine's learning rule: clamped minus free-running statistics. Ackley, Hinton & Sejnowski (1985)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.contrastive import moments, shares
from reverie.learning.rules.descent import Descent
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import ChainsStuck, Diverging, NothingLearned, Overfitting
from reverie.rng import Noise


class ClampedMinusFree(Learner):
    """gradient of log p = E[x_i x_j | visible units clamped] - E[x_i x_j]. The free-running phase is that of `chains`
    persistent chains, which go on by `sweeps` per update (Tieleman 2008), or with `chains` = 0 that of all states, listed;
    then -log p is known and is the objective.

    Chains are counted over all processes, each of which runs rows rank::world of them.

    The network has `start(mean)`; `clamped(v, share, noise)`, the positive phase's moments and the hidden units' means or
    draws; `own_moments()` and `free_energy(v)`, or `fantasy(noise)`, `advance(z, sweeps, noise)` and `moments_of(z, share)`
    of the negative one; `gradient(positive, negative, total)`; `pseudo_log_prob(v, h)` and `state_energy(z)` as signs of
    life.
    """

    validates = True

    def __init__(self, network: nn.Module, descent: Descent, run: Run, *, sweeps: int, chains: int) -> None:
        self.network, self._descent, self._run = network, descent, run
        self._sweeps, self._count = sweeps, chains
        self.objective = None if chains else "loss"
        self._chains: Tensor | None = None

    def monitors(self) -> list[Monitor]:
        return [Diverging(), NothingLearned(), Overfitting(), ChainsStuck()]

    def chains(self) -> Tensor | None:
        return self._chains

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        network: Any = self.network
        network.start(moments((batch.x.flatten(1), batch.weight) for batch in batches())[0])

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        x = batch.x.flatten(1)
        share = shares(batch, x, self._run)
        gradients, metrics = (self._sampled if self._count else self._listed)(batch, x, share)
        self._descent.apply(gradients)
        return metrics

    def _listed(self, batch: Batch, x: Tensor, share: Tensor) -> tuple[dict[nn.Parameter, Tensor], Metrics]:
        """The exact gradient, found in float64, and the exact -log p."""
        network: Any = self.network
        v, share = x.double(), share.double()
        positive, _ = network.clamped(v, share, lambda: self._run.noise(batch.rows, x.dtype))
        negative, log_z = network.own_moments()
        if self._run.world > 1:  # every process found the same whole: it counts once
            negative = type(negative)(*(part / self._run.world for part in vars(negative).values()))
        loss = share @ (network.free_energy(v) + log_z)
        return network.gradient(positive, negative, self._run.sum_all), {"loss": loss}

    def _sampled(self, batch: Batch, x: Tensor, share: Tensor) -> tuple[dict[nn.Parameter, Tensor], Metrics]:
        """The gradient with the chains' moments, and signs of life."""
        network: Any = self.network
        run = self._run
        positive, h = network.clamped(x, share, lambda: run.noise(batch.rows, x.dtype))
        noise = run.noise(self._count, x.dtype)
        chains = network.fantasy(noise) if self._chains is None else self._chains
        self._chains = chains = network.advance(chains, self._sweeps, noise)
        negative = network.moments_of(chains, share.new_full((len(chains),), 1 / self._count))
        data = network.state_energy(torch.cat([x, h], 1))
        metrics = {
            "pseudo_log_prob": share @ network.pseudo_log_prob(x, h),
            "energy_gap": share @ data - network.state_energy(chains).sum() / self._count,
        }
        return network.gradient(positive, negative, run.sum_all), metrics

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """-log p of held-out rows where it is exact, else their pseudo-likelihood, which is no objective by itself."""
        network: Any = self.network
        x = batch.x.flatten(1)
        if not self._count:
            return {"loss": (network.free_energy(x.double()) + network.own_moments()[1]).sum() / batch.rows}
        _, h = network.clamped(x, x.new_full((len(x),), 1 / batch.rows), lambda: noise)
        return {"pseudo_log_prob": network.pseudo_log_prob(x, h).sum() / batch.rows}

    def state(self) -> State:
        chains = None if self._chains is None else self._run.gather_rows(self._chains, self._count)
        return {"descent": self._descent.state(), "chains": chains}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
        chains = state["chains"]
        self._chains = None if chains is None else self._run.own_rows(chains.to(self._run.device))
