"""Contrastive divergence for machines whose biases depend on the steps before. Taylor, Hinton & Roweis (2006)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from reverie.data.space import Batch, Ragged
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.descent import Descent
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import Diverging, Overfitting
from reverie.probability.machines.conditional import Conditional
from reverie.probability.machines.restricted import Side
from reverie.rng import Chosen, Noise, StreamNoise


class ConditionalDivergence(Learner):
    """CD-k on steps: gradient = <statistics>_data - <statistics>_chains, with chains of `sweeps` of Gibbs sampling that start
    at the step itself and keep its window.

    There are no persistent chains: a chain that goes on from update to update samples one distribution, and here every
    step has its own. A batch of sequences is cut at random into parts of about `frames` steps, each good for an update;
    the parts and their noise are those of the global batch, of which every process computes its own steps.
    """

    validates = True

    def __init__(self, network: Conditional, descent: Descent, run: Run, *, sweeps: int, frames: int) -> None:
        self.network: Conditional = network
        self._descent, self._run, self._sweeps, self._frames = descent, run, sweeps, frames
        self.objective = "loss" if network.listed is not None else None

    def monitors(self) -> list[Monitor]:
        return [Diverging(), Overfitting()]

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        found = [self.network.moments(batch.x, _step_weights(batch, torch.float64)) for batch in batches()]
        self.network.start(*(torch.stack(parts).sum(0) for parts in zip(*found, strict=True)))

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        net, run = self.network, self._run
        weights = _step_weights(batch, batch.x.dtype)
        totals: dict[str, Tensor] = {}
        parts = 0
        for steps, noise in self._parts(batch):
            weight = weights[steps]
            share = weight / run.sum(weight.sum())
            u = net.windows(batch.x, steps)
            for name, value in self.contrast(net.frames(batch.x.values[steps], u), u, share, noise).items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value
            parts += 1
        return {name: value / parts for name, value in totals.items()}

    def contrast(self, v: Tensor, u: Tensor, share: Tensor, noise: Noise) -> Metrics:
        """One update from steps v with windows u: signs of life."""
        net, machine = self.network, self.network.machine
        shifts = net.shifts(u)
        field = net.hidden_field(v, shifts)
        h = machine.odd.sample(field, noise)
        fantasy = machine.even.sample(net.visible_field(h, shifts), noise)
        fantasy, _ = net.gibbs(fantasy, self._sweeps - 1, shifts, noise)
        other = net.hidden_field(fantasy, shifts)
        data, own = Side(v, machine.odd.mean(field), share), Side(fantasy, machine.odd.mean(other), share)
        gap = net.free_energy(v, shifts, field) - net.free_energy(fantasy, shifts, other)
        error = self._error(v, field, shifts)
        self._descent.apply(net.gradient(data, own, u, self._run.sum_all))
        return {"reconstruction": share @ error, "free_energy_gap": share @ gap}

    def _error(self, v: Tensor, field: Tensor, shifts: tuple[Tensor, Tensor]) -> Tensor:
        """Squared error of the mean-field round trip v -> h -> v, (n,)."""
        machine = self.network.machine
        back = machine.even.mean(self.network.visible_field(machine.odd.mean(field), shifts))
        return (back - v).square().sum(1)

    def _parts(self, batch: Batch) -> Iterator[tuple[Tensor, Noise]]:
        """(which of this process's steps, their noise) for every update of a batch: all steps of the global batch in
        random order, cut into parts of nearly the same size."""
        run, x = self._run, batch.x
        lengths = run.gather_rows(x.lengths, batch.rows)
        starts = (lengths.cumsum(0) - lengths)[run.rank :: run.world]
        row, place = x.places
        mine = starts[row] + place
        total = int(lengths.sum())
        where = mine.new_full((total,), -1)
        where[mine] = torch.arange(len(mine), device=mine.device)
        order = torch.randperm(total, generator=run.generator, device=run.generator.device)
        for part in torch.tensor_split(order, max(1, round(total / self._frames))):
            local = where[part.to(where.device)]
            own = torch.nonzero(local >= 0)[:, 0]
            yield local[own].to(x.device), Chosen(StreamNoise(run.generator, len(part), dtype=x.dtype), own)

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """Reconstruction error per step; and where log Z can be listed the loss, -log p of a sequence in nats (of model
        units), which takes as long as `log_prob` does."""
        net, x = self.network, batch.x
        u = net.windows(x)
        shifts, v = net.shifts(u), net.frames(x.values, u)
        error = self._error(v, net.hidden_field(v, shifts), shifts)
        steps = self._run.sum(error.new_tensor(float(len(error))))
        found = {"reconstruction": error.sum() / steps}
        if self.objective:
            found["loss"] = -net.precise().sequence_log_prob(x.to(torch.float64)).sum() / batch.rows
        return found

    def state(self) -> State:
        return {"descent": self._descent.state()}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])


def _step_weights(batch: Batch, dtype: torch.dtype) -> Tensor:
    """The weight of its sequence for every step, (N,)."""
    x: Ragged = batch.x
    if batch.weight is None:
        return torch.ones(len(x.values), dtype=dtype, device=x.device)
    return torch.repeat_interleave(batch.weight.to(dtype), x.lengths.to(batch.weight.device)).to(x.device)
