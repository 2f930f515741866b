"""Descent on one loss with one optimizer: the rule of VAEs, flows, autoregressive and diffusion networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.descent import Descent
from reverie.learning.run import Run
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


def global_mean(values: Tensor, batch: Batch, run: Run, counts: Tensor | None = None) -> Tensor:
    """This process's part of the (weighted) mean over the global batch of per-row values (n,), or over all `counts` (n,) parts
    of them that they are sums of."""
    if counts is not None:
        weight = torch.ones_like(values) if batch.weight is None else batch.weight.to(values.dtype)
        return (values * weight).sum() / run.sum((weight * counts.to(values.dtype)).sum()).clamp_min(1e-12)
    if batch.weight is None:
        return values.sum() / batch.rows
    weight = batch.weight.to(values.dtype)
    return (values * weight).sum() / run.sum(weight.sum())


class Gradient(Learner):
    """minimise mean_rows loss(row) with one `Descent`; `start` sets what depends on the data before the first step."""

    objective = "loss"
    validates = True

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

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        if self._start is not None:
            self._start(batches)

    def step(self, batch: Batch) -> Metrics:
        noise = self._run.noise(batch.rows, batch.x.dtype)
        rows = self.network.loss(batch, noise, self._run.progress)  # type: ignore[operator]
        means = self._means(rows, batch)
        self._descent.minimise(means["loss"])
        if self._follow is not None:
            with torch.no_grad():
                self._follow(batch, self._run.sum_all)
        return {name: value.detach() for name, value in means.items()}

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        rows = self.network.loss(batch, noise, 1.0)  # type: ignore[operator]
        return self._means(rows, batch)

    def _means(self, rows: dict[str, Tensor], batch: Batch) -> Metrics:
        counts = None if self._counts is None else self._counts(batch)
        return {name: global_mean(values, batch, self._run, counts) for name, values in rows.items()}

    def state(self) -> State:
        return {"descent": self._descent.state()}

    def load_state(self, state: State) -> None:
        self._descent.load_state(state["descent"])
