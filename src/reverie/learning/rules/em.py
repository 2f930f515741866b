"""Expectation-maximisation: sum sufficient statistics, then maximise. Dempster, Laird & Rubin (1977).

Batch: one update per pass over the data. Stepwise: one per batch, on a running average of the statistics with steps
(t + 2)^-decay (Cappé & Moulines 2009, eq. 9; Liang & Klein 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.errors import InvalidOption
from reverie.inference.pieces import own_threads
from reverie.learning.phases import Learner, Metrics, Phase, State
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import LikelihoodFell, Overfitting
from reverie.rng import Noise

Sums = dict[str, Tensor]


class HasStatistics(Protocol):
    """A network that EM can train. Statistics are sums over rows in float64, with "log_likelihood" and "rows" (their
    weight) among them, and "hidden" (the weight of rows with something hidden) where that may be less than all;
    `maximise` sets the parameters, and may return the function that re-reads older sums from the new ones."""

    def start(self, batches: Callable[[], Iterable[Batch]], seed: int) -> None: ...
    def statistics(self, batch: Batch) -> Sums: ...
    def maximise(self, sums: Sums) -> Callable[[Sums], Sums] | None: ...


class HasMore(HasStatistics, Protocol):
    """What a network may also have. `log_likelihood` (rows,) scores held-out rows; `log_prior` counts in the objective;
    `implied(rows)` are sums that would give the present parameters back, which memory and stepwise EM need; `rows` says
    what a batch counts for, where that is not its examples;
    `remembered()` those they came from, where the family keeps them; `propose` gives other sums worth a try; `rescue`
    gives members without rows a new start and says whether there were any."""

    def log_likelihood(self, batch: Batch) -> Tensor: ...
    def log_prior(self) -> Tensor: ...
    def implied(self, rows: float) -> Sums: ...
    def rows(self, batch: Batch) -> float: ...
    def remembered(self) -> Sums: ...
    def propose(self, sums: Sums, most: int) -> Sums | None: ...
    def rescue(self, sums: Sums) -> bool: ...


_DECAY = 0.65
"""Stepwise EM's steps fall as (t + 2)^-0.65: Cappé & Moulines (2009) ask for an exponent in (1/2, 1]."""
_PATIENCE = 3
_RESCUES = 10
_PROPOSALS = 64
"""Changes to try at once at first; fewer after each failure."""
_DICTS = ("_carried", "_running", "_pending", "_kept", "_running_kept")
_SCALARS = ("_total", "_step", "_best", "_waited", "_hidden", "_rescues", "_most", "_tried", "_asked", "_before")
_TALLIES = ("log_likelihood", "rows", "hidden")


class ExpectationMaximisation(Learner):
    """Stops when three passes in a row have not lifted the objective (mean log-likelihood, plus the log prior per row)
    `tol` nats above its best (dequantised data draw new noise each pass, so one pass may lose by chance), or at once
    when nothing is hidden. `fresh` is False when the network already holds a start; `memory` then counts that start as
    so many rows seen before (which stepwise EM forgets slowly). decay None is batch EM."""

    objective = "loss"
    validates = True
    averages = False

    def __init__(
        self,
        network: nn.Module,
        run: Run,
        *,
        tol: float,
        fresh: bool = True,
        decay: float | None = None,
        memory: float = 0.0,
    ) -> None:
        self.network, self._run, self._tol, self._fresh = network, run, tol, fresh
        self._decay, self._memory = decay, 0.0 if fresh else memory
        self.per_pass = decay is None
        self._sums: Sums = {}
        self._carried: Sums = {}
        self._running: Sums = {}
        self._total, self._step = 0.0, 0
        self._best, self._waited, self._hidden = -math.inf, 0, 1.0
        self._rescues = _RESCUES
        self._most = _PROPOSALS
        self._tried = False
        self._asked = False
        self._pending: Sums = {}
        self._kept: Sums = {}
        self._running_kept: Sums = {}
        self._before, self._steady = -math.inf, True
        self.fell: float | None = None
        """By how much the last pass lowered the objective, over its size; None where more than EM has changed it."""

    def monitors(self) -> list[Monitor]:
        return [LikelihoodFell(), Overfitting()]

    @torch.no_grad()
    @own_threads()
    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        if self._fresh:
            self.network.start(batches, self._run.seed)  # type: ignore[operator]
        elif self.per_pass:
            self._carried = self._ask("remembered", {})
            if self._memory and not self._carried:
                self._carried = self.network.implied(self._memory)  # type: ignore[operator]
        if self._decay is not None:
            self._total = self._memory + sum(self._ask("rows", None, batch) or _rows(batch) for batch in batches())
            self._running = self.network.implied(self._total)  # type: ignore[operator]

    @torch.no_grad()
    @own_threads()
    def step(self, batch: Batch) -> Metrics:
        if self._pending:
            self._try()
        self._steady &= batch.key is not None
        found: Sums = self.network.statistics(batch)  # type: ignore[operator]
        if self._decay is not None:
            self._run.sum_all(list(found.values()))
            self._blend(found, self._decay)
            found = {name: found[name] / self._run.world for name in _TALLIES if name in found}
        for name, value in found.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        return {}

    def _blend(self, found: Sums, decay: float) -> None:
        """One stepwise update: the running sums, of the size of the whole data, move towards this batch's."""
        rate = (self._step + 2) ** -decay
        self._step += 1
        scale = (self._total / found["rows"].clamp_min(1e-300)).item()
        moved = {name: value + rate * (found[name] * scale - value) for name, value in self._running.items()}
        self._running = self._maximise(moved)(moved)

    def _maximise(self, sums: Sums) -> Callable[[Sums], Sums]:
        move = self.network.maximise(sums)  # type: ignore[operator]
        return _same if move is None else move

    def _ask(self, method: str, default: Any, *arguments: Any) -> Any:
        """What the network's own method says, or `default` for a family without it."""
        found = getattr(self.network, method, None)
        return default if found is None else found(*arguments)

    @torch.no_grad()
    @own_threads()
    def epoch_end(self) -> Metrics:
        self._run.sum_all(list(self._sums.values()))
        sums, self._sums = self._sums, {}
        rows = sums["rows"]
        self._hidden = float(sums.get("hidden", rows))
        prior = self._ask("log_prior", torch.zeros_like(rows))
        mean, penalty = sums["log_likelihood"] / rows, prior / rows
        value = float(mean + penalty)
        plain = self.per_pass and self._steady and not self._carried
        self.fell = None
        if plain and not self._tried and self._before > -math.inf:
            self.fell = (self._before - value) / max(abs(value), 1.0)
        kept = self._judge(value)
        if kept:  # after a trial that failed the pass before it is what the next one must reach
            self._before = value if plain else -math.inf
        self._steady = True
        if kept and self.per_pass:
            total = {name: value + sums[name] for name, value in self._carried.items()} or sums
            move = self._maximise(total)
            self._carried = move(self._carried) if self._carried else {}
            # With a memory no member is dead for having no rows in this pass: those remembered are its own.
            if self._rescues and not self._carried and self._ask("rescue", False, sums):
                self._rescues -= 1
                self._before = -math.inf
            current = move(sums)
        else:
            current = self._running
        self._waited = 0 if value > self._best + self._tol else self._waited + 1
        self._best = max(self._best, value) if self._waited == 0 else self._best
        if kept:
            if self._waited >= _PATIENCE and not self._asked:
                self._most, self._asked = 1, True  # once more before the end: early changes fail while much still moves
            self._propose(current)
        world = self._run.world
        if self._hidden == 0:  # the parameters came from counting; no density was computed on the way
            return {}
        metrics = {"log_likelihood": mean / world}
        return metrics if float(prior) == 0 else {**metrics, "penalised": (mean + penalty) / world}

    def _propose(self, sums: Sums) -> None:
        """Ask the network for something better than `sums`, to be tried in the next pass."""
        proposal = self._ask("propose", None, sums, self._most) if self._most and not self._carried else None
        self._pending = proposal or {}
        if proposal is None:
            self._most = 0

    def _try(self) -> None:
        """Put the proposal in place of what there is; the end of this pass decides."""
        self._kept = {name: value.clone() for name, value in self.network.state_dict().items()}
        self._running_kept = self._running
        moved = self._maximise(self._pending)(self._pending)
        self._running = moved if self._running else {}
        self._pending, self._tried = {}, True

    def _judge(self, value: float) -> bool:
        """After a trial: keep it if the objective rose, else put back what was before. False when it was put back."""
        if not self._tried:
            return True
        self._tried = False
        if value > self._best:
            self._asked = False
            return True
        self.network.load_state_dict(self._kept)
        self._running, self._most = self._running_kept, self._most // 4
        return False

    @torch.no_grad()
    @own_threads()
    def validate(self, batch: Batch, noise: Noise) -> Metrics:
        if not hasattr(self.network, "log_likelihood"):
            return {"loss": -self.network.statistics(batch)["log_likelihood"] / batch.rows}  # type: ignore[operator]
        log_p = self.network.log_likelihood(batch)  # type: ignore[operator]
        return {"loss": -(log_p.sum() if batch.weight is None else log_p @ batch.weight.double()) / batch.rows}

    @property
    def finished(self) -> bool:
        still = self._waited >= _PATIENCE and self._asked and not self._tried and not self._pending
        return self._hidden == 0 or (self._tol > 0 and still)

    def state(self) -> State:
        sums = {name: self._run.gather_ranks(value) for name, value in self._sums.items()}
        return {
            "sums": sums,
            "dicts": {name: getattr(self, name) for name in _DICTS},
            "scalars": {name: getattr(self, name) for name in _SCALARS},
        }

    def load_state(self, state: State) -> None:
        rank, device = self._run.rank, self._run.device
        self._sums = {name: value[rank].to(device).clone() for name, value in state["sums"].items()}
        for name in _DICTS:
            setattr(self, name, {key: value.to(device).clone() for key, value in state["dicts"][name].items()})
        for name in _SCALARS:
            setattr(self, name, state["scalars"].get(name, getattr(self, name)))


def em_phases(
    network: nn.Module,
    run: Run,
    *,
    fresh: bool,
    tol: float,
    stepwise: bool = False,
    memory: float = 0.0,
    name: str = "em",
) -> list[Phase]:
    """The one phase of families that learn by EM. Raises `InvalidOption` for a memory without a start to remember."""
    if memory and fresh:
        raise InvalidOption(
            "memory: it says how much a start counts for; give one, fit(X, start=model), or leave it at 0"
        )

    def learner() -> ExpectationMaximisation:
        decay = _DECAY if stepwise else None
        return ExpectationMaximisation(network, run, tol=tol, fresh=fresh, decay=decay, memory=memory)

    return [Phase(name, learner, shuffle=stepwise)]


def _rows(batch: Batch) -> float:
    return float(len(batch.x) if batch.weight is None else batch.weight.sum())


def _same(sums: Sums) -> Sums:
    """The re-reading of sums that do not depend on the parameters."""
    return sums
