"""Descent on one loss with one optimizer: the rule of VAEs, flows, autoregressive and diffusion networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.descent import Descent
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import gradient_monitors
from reverie.rng import Noise


class HasLoss(Protocol):
    """A network that `Gradient` can train: per-row losses (n,), the one called "loss" is minimised."""

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]: ...


class Follows(HasLoss, Protocol):
    """A network that also keeps account of what training made of its batches: `follow` is called after each, with the sum
    over processes."""

    def follow(self, batch: Batch, total: Callable[[Sequence[Tensor]], None]) -> None: ...


class Counts(HasLoss, Protocol):
    """A network whose losses are sums over parts of a row, `counts(batch)` (n,) of them: the tokens predicted in a window,
    say. Means are then per part, whichever rows the parts are in."""

    def counts(self, batch: Batch) -> Tensor: ...


def shared(batch: Batch, run: Run, counts: Tensor | None = None) -> Tensor | float:
    """What sums over the global batch are divided by to be means: its rows, or their weights, or with `counts` (n,) all the
    parts that the rows' values are sums of. A collective where it depends on the rows."""
    if counts is None and batch.weight is None:
        return batch.rows
    each = batch.weight if counts is None else counts if batch.weight is None else batch.weight * counts
    assert each is not None
    return run.sum(each.to(torch.float32 if each.dtype != torch.float64 else each.dtype).sum()).clamp_min(1e-12)


def part_of_mean(values: Tensor, batch: Batch, total: Tensor | float) -> Tensor:
    """These rows' part (n,) of the (weighted) mean over the global batch, of which `total` is what `shared` gave."""
    values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    return (values if batch.weight is None else values * batch.weight.to(values.dtype)).sum() / total


def in_parts(batch: Batch, run: Run) -> Iterator[tuple[Batch, int]]:
    """The batch in `run.accumulation` parts with the rows that each has over all processes. Every process has a row of every
    part, and the noise drawn for a part is that of its rows: with parts of eights, those of 1, 2, 4 or 8 processes are the
    same ones."""
    unit = math.lcm(8, run.world)
    unit = unit if batch.rows >= unit * run.accumulation else run.world
    rounds = batch.rows // unit
    count = min(run.accumulation, rounds)
    if count == 1:
        yield batch, batch.rows
        return
    edges = [rounds * part // count * unit for part in range(count)]
    for start, stop in zip(edges, [*edges[1:], batch.rows], strict=True):
        own = slice(start // run.world, None if stop == batch.rows else stop // run.world)
        yield batch.part(own), stop - start


def descend(
    descent: Descent,
    loss: Callable[[Batch, Noise], dict[str, Tensor]],
    batch: Batch,
    run: Run,
    counts: Tensor | None = None,
) -> Metrics:
    """One step down the mean of per-row losses called "loss", in parts and precision as the run says; the means of all."""
    total, metrics = shared(batch, run, counts), Metrics()
    for part, rows in in_parts(batch, run):
        noise = run.noise(rows, part.x.dtype)
        with run.pace.casting(run.device):
            values = loss(part, noise)
        means = {name: part_of_mean(value, part, total) for name, value in values.items()}
        descent.add(means["loss"])
        for name, value in means.items():
            metrics[name] = value.detach() if name not in metrics else metrics[name] + value.detach()
    descent.step()
    return metrics


class Gradient(Learner):
    """minimise mean_rows loss(row) with one `Descent`; `start` sets what depends on the data before the first step."""

    objective = "loss"
    validates = True
    casts = True

    def __init__(
        self,
        network: nn.Module,
        descent: Descent,
        run: Run,
        *,
        start: Callable[[Callable[[], Iterable[Batch]]], None] | None = None,
    ) -> None:
        self.network, self._descent, self._run, self._start = network, descent, run, start
        self.trained = descent.parameters
        self._follow = getattr(network, "follow", None)
        self._counts = getattr(network, "counts", None)

    def monitors(self) -> list[Monitor]:
        return gradient_monitors()

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        if self._start is not None:
            self._start(batches)

    def step(self, batch: Batch) -> Metrics:
        counts = None if self._counts is None else self._counts(batch)
        means = descend(self._descent, self._loss, batch, self._run, counts)
        if self._follow is not None:
            with torch.no_grad():
                self._follow(batch, self._run.sum_all)
        return means

    def _loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        rows: dict[str, Tensor] = self.network.loss(batch, noise, self._run.progress)  # type: ignore[operator]
        return rows

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        rows = self.network.loss(batch, noise, 1.0)  # type: ignore[operator]
        total = shared(batch, self._run, None if self._counts is None else self._counts(batch))
        return {name: part_of_mean(values, batch, total) for name, values in rows.items()}

    def state(self) -> State:
        return {"descent": self._descent.state()}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
