"""Contrastive divergence with closed-form gradients and persistent chains. Hinton (2002); Tieleman (2008)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.descent import Descent
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.run import Run
from reverie.rng import Noise


class HasStatistics(Protocol):
    """A network that contrastive divergence can train.

    `hidden_field(v)` is what acts on the hidden units; `statistics(v, weight, field)` sums sufficient statistics over rows;
    `gradient(positive, negative)` turns two sets of means (which it may use up) into the gradient of -log p for each
    parameter, and may move centring offsets; `chains(noise)` are hidden states to start from, and `advance(h, sweeps,
    noise)` runs them: the last (v, field of the hidden units), and the new h. `signs(v, field)` are the error of the
    mean-field round trip and the free energy of every row.
    """

    def hidden_field(self, v: Tensor) -> Tensor: ...
    def statistics(self, v: Tensor, weight: Tensor | None, field: Tensor | None = None) -> dict[str, Tensor]: ...
    def gradient(self, positive: dict[str, Tensor], negative: dict[str, Tensor]) -> dict[nn.Parameter, Tensor]: ...
    def up(self, v: Tensor, noise: Noise, field: Tensor | None = None) -> Tensor: ...
    def chains(self, noise: Noise) -> Tensor: ...
    def advance(self, h: Tensor, sweeps: int, noise: Noise) -> tuple[Tensor, Tensor, Tensor]: ...
    def signs(self, v: Tensor, field: Tensor) -> tuple[Tensor, Tensor]: ...
    def start(self, mean: Tensor, variance: Tensor) -> None: ...


_WATCHED = 10
"""Signs of life are computed for every tenth row: for all of them they would cost as much as half an update."""


class ContrastiveDivergence(Learner):
    """gradient = <statistics>_data - <statistics>_model, the model's estimated by `sweeps` of Gibbs sampling: from the
    batch (CD-k, `chains` = 0) or from `chains` persistent ones (PCD-k).

    The chains are counted over all processes, each of which runs rows rank::world of them; their number does not
    depend on the batch, so a ragged last batch cannot reset them. Their state is that of the hidden units: the visible
    ones are drawn anew from it, so an update takes five matrix products and no sixth.
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
        network: Any = self.network
        run, v = self._run, batch.x.flatten(1)
        field = network.hidden_field(v)
        if self._count == 0:
            rows, noise = batch.rows, run.noise(batch.rows, v.dtype)
            h = network.up(v, noise, field)
        else:
            rows, noise = self._count, run.noise(self._count, v.dtype)
            h = network.chains(noise) if self._chains is None else self._chains
        fantasy, fantasy_field, h = network.advance(h, self._sweeps, noise)
        if self._count:
            self._chains = h
        positive: dict[str, Tensor] = network.statistics(v, batch.weight, field)
        negative: dict[str, Tensor] = network.statistics(fantasy, None, fantasy_field)
        seen = torch.as_tensor(float(len(v)) if batch.weight is None else batch.weight.sum(), device=v.device)
        run.sum_all([*positive.values(), *negative.values(), seen])
        for value in positive.values():
            value.div_(seen)
        for value in negative.values():
            value.div_(rows)
        error, energy = network.signs(v[::_WATCHED], field[::_WATCHED])
        _, fantasy_energy = network.signs(fantasy[::_WATCHED], fantasy_field[::_WATCHED])
        self._descent.apply(network.gradient(positive, negative))
        return {
            "reconstruction": error.mean() / run.world,
            "free_energy_gap": (energy.mean() - fantasy_energy.mean()) / run.world,
        }

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """Reconstruction error and free energy of held-out rows. Z cancels from the free energy's difference to the
        training rows', which grows when the machine overfits; it is no objective by itself (Hinton 2012, section 6)."""
        v = batch.x.flatten(1)
        error, energy = self.network.signs(v, self.network.hidden_field(v))  # type: ignore[operator]
        return {"reconstruction": error.sum() / batch.rows, "free_energy": energy.sum() / batch.rows}

    def state(self) -> State:
        chains = None if self._chains is None else self._run.gather_rows(self._chains, self._count)
        return {"descent": self._descent.state(), "chains": chains}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
        chains = state["chains"]
        self._chains = None if chains is None else self._run.own_rows(chains.to(self._run.device))
