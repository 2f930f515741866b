"""Expectation-maximisation: sum sufficient statistics over a pass, then maximise. Dempster, Laird & Rubin (1977)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.run import Run
from reverie.rng import Noise


class HasStatistics(Protocol):
    """A network that EM can train. Statistics are sums over rows in float64, with "log_likelihood" and "rows" among
    them; `maximise` sets the parameters from the sums over the whole data."""

    def start(self, batches: Callable[[], Iterable[Batch]], seed: int) -> None: ...
    def statistics(self, batch: Batch) -> dict[str, Tensor]: ...
    def maximise(self, sums: dict[str, Tensor]) -> None: ...


_PATIENCE = 3


class ExpectationMaximisation(Learner):
    """One update per pass. Stops when three passes in a row have not lifted the mean log-likelihood `tol` nats per example
    above its best (dequantised data draw new noise each pass, so one pass may lose by chance); `fresh` is False when
    the network already holds a start."""

    objective = "loss"
    validates = True
    per_pass = True
    averages = False

    def __init__(self, network: nn.Module, run: Run, *, tol: float, fresh: bool = True) -> None:
        self.network, self._run, self._tol, self._fresh = network, run, tol, fresh
        self._sums: dict[str, Tensor] = {}
        self._best = -math.inf
        self._waited = 0

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        if self._fresh:
            self.network.start(batches, self._run.seed)  # type: ignore[operator]

    @torch.no_grad()
    def step(self, batch: Batch) -> Metrics:
        for name, value in self.network.statistics(batch).items():  # type: ignore[operator]
            if name in self._sums:
                self._sums[name] += value
            else:
                self._sums[name] = value
        return {}

    @torch.no_grad()
    def epoch_end(self) -> Metrics:
        self._run.sum_all(list(self._sums.values()))
        mean = self._sums["log_likelihood"] / self._sums["rows"]
        self.network.maximise(self._sums)  # type: ignore[operator]
        self._sums = {}
        value = float(mean)
        self._waited = 0 if value > self._best + self._tol else self._waited + 1
        self._best = max(self._best, value) if self._waited == 0 else self._best
        return {"log_likelihood": mean / self._run.world}

    @torch.no_grad()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        sums = self.network.statistics(batch)  # type: ignore[operator]
        return {"loss": -sums["log_likelihood"] / batch.rows}

    @property
    def finished(self) -> bool:
        return self._tol > 0 and self._waited >= _PATIENCE

    def state(self) -> State:
        sums = {name: self._run.gather_ranks(value) for name, value in self._sums.items()}
        return {"sums": sums, "best": self._best, "waited": self._waited}

    def load_state(self, state: State) -> None:
        rank, device = self._run.rank, self._run.device
        self._sums = {name: value[rank].to(device).clone() for name, value in state["sums"].items()}
        self._best, self._waited = state["best"], state["waited"]
