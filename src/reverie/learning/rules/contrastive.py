"""Contrastive divergence with closed-form gradients and persistent chains, tempered or not. Hinton (2002); Tieleman (2008);
Desjardins et al. (2010)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reverie.data.space import Batch, Ragged
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.descent import Descent
from reverie.learning.rules.ladder import Ladder
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import ChainsStuck, Diverging, Overfitting
from reverie.probability.machines.restricted import Side
from reverie.rng import Noise

_WATCHED = 10
"""Signs of life are computed for every tenth row: for all of them they would cost as much as half an update."""
_FILL = 10
"""Clamped Gibbs sweeps from independent units that draw the missing cells of a row for each update."""


def moments(parts: Iterable[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
    """Mean and variance of every column, (width,) float64 each, of rows (n, width) and their weights (n,), by cell
    (n, width), or None, part by part."""
    sums: list[Tensor] = []
    for rows, weights in parts:
        v = rows.double()
        weight = torch.ones_like(v[:, 0]) if weights is None else weights.to(v)
        weight = weight if weight.ndim == 2 else weight[:, None].expand_as(v)
        weighted = v * weight
        sums.append(torch.stack([weighted.sum(0), (weighted * v).sum(0), weight.sum(0)]))
    first, second, count = torch.stack(sums).sum(0)
    count = count.clamp_min(1e-12)
    mean = first / count
    return mean, (second / count - mean.square()).clamp_min(0)


def shares(batch: Batch, x: Tensor | Ragged, run: Run) -> Tensor:
    """What each of this process's rows counts for, (n,): their weights, which sum to 1 over all processes."""
    weight = torch.ones(len(x), dtype=x.dtype, device=x.device) if batch.weight is None else batch.weight.to(x.dtype)
    return weight / run.sum(weight.sum())


class ContrastiveDivergence(Learner):
    """gradient = <statistics>_data - <statistics>_model, the model's estimated by `sweeps` of Gibbs sampling: from the
    batch (CD-k, `chains` = 0) or from `chains` persistent ones (PCD-k), with `replicas` > 1 tempered copies of each, which
    exchange states (`Ladder`); the coldest ones count. `discriminative` is the share of the gradient that is of log p(y | x)
    instead (Larochelle & Bengio 2008).

    The chains are counted over all processes, each of which runs rows rank::world of them; their number does not depend on
    the batch, so a ragged last batch cannot reset them. Their state is that of the odd units: the even ones are drawn anew
    from it, so data and chains go up together and an update takes three matrix products.

    The machine (the whole network, or a part of it) is `Bipartite`, with

    - `rows(x, y)`: the observed even units of rows of data; `start(mean, variance)`: what it takes from their moments;
    - `clamp(x, y, noise)`: even states of such rows, with what is hidden among them inferred; `fill(x, y, observed, noise,
      sweeps)`: the same with cells missing; `hold_odd(odd, y)`: odd means with what is known put in;
    - `gradient(positive, negative, total)`: that of -log p from both expectations;
    - `signs(even, field)`: the error of a mean-field round trip and the free energy of every row;
    - with label units `discriminate(x, y, share, total)`: the gradient of -log p(y | x).
    """

    validates = True

    def __init__(
        self,
        network: nn.Module,
        descent: Descent,
        run: Run,
        *,
        sweeps: int,
        chains: int,
        replicas: int = 1,
        discriminative: float = 0.0,
        machine: Any = None,
    ) -> None:
        self.network, self._descent, self._run = network, descent, run
        self._machine: Any = network if machine is None else machine
        self.trained = descent.parameters
        self._sweeps, self.count, self._discriminative = sweeps, chains, discriminative
        self.objective = "loss" if discriminative else None
        self._ladder = Ladder(replicas, run.device)
        self._chains: Tensor | None = None
        """Odd units of persistent chains, (chains x replicas, odd width)."""
        self.fantasy: Tensor | None = None

    def monitors(self) -> list[Monitor]:
        return [Diverging(), Overfitting(), ChainsStuck()]

    def chains(self) -> Tensor | None:
        return self.fantasy if self.count else None

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        machine = self._machine

        def rows_and_weights(batch: Batch) -> tuple[Tensor, Tensor | None]:
            """Rows, and their weights: by cell where cells are missing."""
            x, y = batch.x.flatten(1), batch.y
            if batch.observed is None:
                return machine.rows(x, y), batch.weight
            seen = batch.observed.flatten(1).to(x.dtype)
            cells = machine.rows(seen, None if y is None else torch.ones_like(y))
            return machine.rows(x, y), cells if batch.weight is None else cells * batch.weight[:, None].to(cells)

        machine.start(*moments(rows_and_weights(batch) for batch in batches()))

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        x = batch.x.flatten(1)
        share = shares(batch, x, self._run)
        gradients: dict[nn.Parameter, Tensor] = {}
        metrics: Metrics = {}
        if self._discriminative < 1:
            with self._machine.fixed_weights():
                gradients, metrics = self.contrast(x, batch.y, batch.rows, share, batch.observed)
        if self._discriminative:
            assert batch.y is not None
            y = batch.y.to(x.dtype)
            if batch.observed is not None:
                noise = self._run.noise(batch.rows, x.dtype)
                x = self._machine.fill(x, batch.y, batch.observed, noise, _FILL)[:, : x.shape[1]]
            further, loss = self._machine.discriminate(x, y, share, self._run.sum_all)
            for parameter, gradient in further.items():
                own = gradients.get(parameter)
                more = self._discriminative * gradient
                gradients[parameter] = more if own is None else own.mul_(1 - self._discriminative).add_(more)
            metrics["loss"] = share @ loss
        self._descent.apply(gradients)
        return metrics

    def contrast(
        self, x: Tensor, y: Tensor | None, rows: int, share: Tensor, observed: Tensor | None = None
    ) -> tuple[dict[nn.Parameter, Tensor], Metrics]:
        """The gradient of -log p and signs of life, from this process's rows x of a global batch of `rows`; `fantasy` is
        then what the chains came to."""
        machine = self._machine
        run, n = self._run, len(x)
        if observed is None:
            v = machine.clamp(x, y, lambda: run.noise(rows, x.dtype))
        else:
            v = machine.fill(x, y, observed, run.noise(rows, x.dtype), _FILL)
        count, ladder = self.count or rows, self._ladder
        chain_noise = run.noise(count, x.dtype)
        noise = ladder.noise(chain_noise)
        h = self._chains
        if h is None:
            h = machine.chains(noise) if self.count else machine.up(v, noise)
        for _ in range(self._sweeps - 1):
            h = ladder.odd(machine, machine.odd_field(ladder.even(machine, h, noise)), noise)
        even = ladder.even(machine, h, noise)
        field = machine.odd_field(torch.cat([v, even]))
        if self.count:
            h = ladder.odd(machine, field[n:], noise)
            if ladder.copies > 1:
                order = ladder.exchange(machine, even, h, field[n:], chain_noise, run.sum)
                even, h = even[order], h[order]
                field = torch.cat([field[:n], ladder.cold(field[n:][order])])
            self._chains = h
        fantasy = self.fantasy = ladder.cold(even)
        means = machine.odd.mean(field)
        positive = Side(v, machine.hold_odd(means[:n], y), share)
        negative = Side(fantasy, means[n:], share.new_full((len(fantasy),), 1 / count))
        gradients = machine.gradient(positive, negative, run.sum_all)
        error, energy = machine.signs(v[::_WATCHED], field[:n:_WATCHED])
        fantasy_energy = machine.even_energy(fantasy[::_WATCHED], field[n::_WATCHED])
        metrics = {
            "reconstruction": self._mean(error),
            "free_energy_gap": self._mean(energy) - self._mean(fantasy_energy),
        }
        if ladder.copies > 1:
            metrics["lowest_swap_rate"] = error.new_tensor(ladder.lowest_rate / run.world)
        return gradients, metrics

    def _mean(self, values: Tensor) -> Tensor:
        """This process's part of the mean over all processes' values, of which it may have none."""
        return values.sum() / max(len(values), 1) / self._run.world

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        """Reconstruction error and free energy of held-out rows. Z cancels from the free energy's difference to the
        training rows', which grows when the machine overfits; it is no objective by itself (Hinton 2012, section 6)."""
        machine = self._machine
        x = batch.x.flatten(1)
        if batch.observed is None:
            v = machine.clamp(x, batch.y, lambda: noise)
        else:
            v = machine.fill(x, batch.y, batch.observed, noise, _FILL)
        error, energy = machine.signs(v, machine.odd_field(v))
        found = {"reconstruction": error.sum() / batch.rows, "free_energy": energy.sum() / batch.rows}
        if self._discriminative:
            assert batch.y is not None
            share = torch.full((len(x),), 1 / batch.rows, dtype=x.dtype, device=x.device)
            found["loss"] = share @ machine.discriminate(x, batch.y.to(x.dtype), share, lambda _: None)[1]
        return found

    def state(self) -> State:
        chains = self._chains
        if chains is not None:  # a chain's copies stay together on its process
            chains = self._run.gather_rows(chains.view(-1, self._ladder.copies, chains.shape[1]), self.count).flatten(
                0, 1
            )
        return {"descent": self._descent.state(), "chains": chains, "ladder": self._ladder.state()}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
        self._ladder.load_state(state["ladder"])
        chains = state["chains"]
        if chains is not None:
            copies = chains.to(self._run.device).view(self.count, -1, chains.shape[1])
            chains = self._run.own_rows(copies).flatten(0, 1)
        self._chains = chains
