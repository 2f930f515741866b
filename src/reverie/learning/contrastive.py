"""Contrastive divergence with closed-form gradients and persistent chains. Hinton (2002); Tieleman (2008)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.descent import Descent
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.run import Run
from reverie.rng import Noise


class HasStatistics(Protocol):
    """A network that contrastive divergence can train.

    `statistics(v, weight)` sums sufficient statistics over rows; `gradient(positive, negative)` turns two sets of means into
    the gradient of -log p for each parameter (and may move centring offsets); `gibbs(v, sweeps, noise)` runs chains.
    """

    def statistics(self, v: Tensor, weight: Tensor | None) -> dict[str, Tensor]: ...
    def gradient(self, positive: dict[str, Tensor], negative: dict[str, Tensor]) -> dict[nn.Parameter, Tensor]: ...
    def gibbs(self, v: Tensor, sweeps: int, noise: Noise) -> Tensor: ...
    def fantasy(self, noise: Noise) -> Tensor: ...
    def start(self, mean: Tensor, variance: Tensor) -> None: ...


class ContrastiveDivergence(Learner):
    """gradient = <statistics>_data - <statistics>_model, the model's estimated by `sweeps` of Gibbs sampling: from the
    batch (CD-k, `chains` = 0) or from `chains` persistent ones (PCD-k).

    The chains are counted over all processes, each of which runs rows rank::world of them; their number does not
    depend on the batch, so a ragged last batch cannot reset them.
    """

    validates = True

    def __init__(self, network: nn.Module, descent: Descent, run: Run, *, sweeps: int, chains: int) -> None:
        self.network, self._descent, self._run = network, descent, run
        self._sweeps, self._count = sweeps, chains
        self._chains: Tensor | None = None

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        sums: list[Tensor] = []
        for batch in batches():
            v = batch.x.flatten(1).double()
            weight = torch.ones(len(v), 1) if batch.weight is None else batch.weight[:, None].double()
            weighted = v * weight.to(v.device)
            sums.append(
                torch.stack([weighted.sum(0), (weighted * v).sum(0), weight.sum().to(v.device).expand(v.shape[1])])
            )
        first, second, count = torch.stack(sums).sum(0)
        mean = first / count
        self.network.start(mean, (second / count - mean.square()).clamp_min(0))  # type: ignore[operator]

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        network, run = self.network, self._run
        v = batch.x.flatten(1)
        if self._count == 0:
            model, rows = network.gibbs(v, self._sweeps, run.noise(batch.rows, v.dtype)), batch.rows  # type: ignore[operator]
        else:
            noise = run.noise(self._count, v.dtype)
            if self._chains is None:
                self._chains = network.fantasy(noise)  # type: ignore[operator]
            model, rows = network.gibbs(self._chains, self._sweeps, noise), self._count  # type: ignore[operator]
            self._chains = model
        positive: dict[str, Tensor] = network.statistics(v, batch.weight)  # type: ignore[operator]
        negative: dict[str, Tensor] = network.statistics(model, None)  # type: ignore[operator]
        seen = torch.as_tensor(float(len(v)) if batch.weight is None else batch.weight.sum(), device=v.device)
        run.sum_all([*positive.values(), *negative.values(), seen])
        positive = {name: value / seen.to(value.dtype) for name, value in positive.items()}
        negative = {name: value / rows for name, value in negative.items()}
        self._descent.apply(network.gradient(positive, negative))  # type: ignore[operator]
        # The mean-field reconstruction error is a sign of life, not an objective.
        error = (network.reconstruction(v) - v).square_().sum() / batch.rows  # type: ignore[operator]
        gap = (positive["free_energy"] - negative["free_energy"]) / run.world
        return {"reconstruction": error, "free_energy_gap": gap}

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """Reconstruction error and free energy of held-out rows. Z cancels from the free energy's difference to the
        training rows', which grows when the machine overfits; it is no objective by itself (Hinton 2012, section 6)."""
        v = batch.x.flatten(1)
        error = (self.network.reconstruction(v) - v).square().sum() / batch.rows  # type: ignore[operator]
        return {"reconstruction": error, "free_energy": self.network.free_energy(v).sum() / batch.rows}  # type: ignore[operator]

    def state(self) -> State:
        chains = None if self._chains is None else self._run.gather_rows(self._chains, self._count)
        return {"descent": self._descent.state(), "chains": chains}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
        chains = state["chains"]
        self._chains = None if chains is None else self._run.own_rows(chains.to(self._run.device))
