"""The monitors of learning rules: divergence ahead, nothing learned, overfitting, dead units, EM that falls, chains that do not mix."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np
from torch import Tensor, nn

from reverie.data.space import Points, Ragged
from reverie.learning.watching.findings import Finding, Monitor, Seen
from reverie.metrics.sliced import sliced_wasserstein

_MOST = 400
"""Figures that a monitor keeps; beyond, every second one goes."""


class Diverging(Monitor):
    """Divergence ahead: gradients far beyond what they were, or a loss that has lost twice what training had won (or half of
    where it began), while all numbers are still finite."""

    code = "training.diverging"
    kept = ("norms", "losses")
    _GRADIENT, _LOST, _LEAST = 300.0, 2.0, 8

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.losses: list[float] = []

    def step(self, seen: Seen) -> Finding | None:
        objective = seen.learner.objective
        loss = seen.metrics.get(objective) if objective else None
        if loss is not None:
            self.losses = _thinned([*self.losses, loss])
        if seen.gradient_norm is not None:
            self.norms = _thinned([*self.norms, seen.gradient_norm])
        return self._gradients() or self._loss()

    def _gradients(self) -> Finding | None:
        if len(self.norms) < self._LEAST:
            return None
        usual, now = median(self.norms[:-3]), min(self.norms[-3:])
        if not now > self._GRADIENT * max(usual, 1e-12):
            return None
        return Finding(
            self.code,
            "error",
            now / max(usual, 1e-12),
            self._GRADIENT,
            "the gradient's norm over its median so far",
            "Lower the learning rate, or bound the gradient with clip=1.0; look for extreme values in the data.",
        )

    def _loss(self) -> Finding | None:
        if len(self.losses) < self._LEAST:
            return None
        first, now = self.losses[0], min(self.losses[-3:])
        best = min(first, *(median(self.losses[i : i + 3]) for i in range(len(self.losses) - 2)))
        won = max(first - best, 0.5 * abs(first), 0.5)  # losses near 0 say nothing of their scale: half a nat is none
        lost = (now - best) / won
        if not lost > self._LOST:
            return None
        return Finding(
            self.code,
            "error",
            lost,
            self._LOST,
            "what the loss has lost since its best, over all that it had won",
            "Lower the learning rate (lr_range shows which are stable), or lengthen the warm-up.",
        )


class NothingLearned(Monitor):
    """Half of the budget is spent and the loss is where it began, within the noise of batches; without a loss, samples are as
    far from held-out rows as they were."""

    code = "training.nothing_learned"
    kept = ("losses", "passes", "distance")
    _Z, _LEAST, _PASSES, _CLOSER, _ROWS = 2.0, 20, 8, 0.95, 256

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.passes: list[float] = []
        self.distance: float | None = None

    def step(self, seen: Seen) -> Finding | None:
        objective = seen.learner.objective
        if not objective or objective not in seen.metrics:
            return None
        self.losses = _thinned([*self.losses, seen.metrics[objective]])
        few = len(self.passes) < self._PASSES
        return (
            self._fallen(self.losses, "batches")
            if few and len(self.losses) >= self._LEAST and seen.progress >= 0.5
            else None
        )

    def epoch(self, seen: Seen) -> Finding | None:
        objective = seen.learner.objective
        if not objective or objective not in seen.metrics:
            return None
        self.passes = _thinned([*self.passes, seen.metrics[objective]])
        enough = len(self.passes) >= self._PASSES and seen.progress >= 0.5
        return self._fallen(self.passes, "passes") if enough else None

    def _fallen(self, losses: list[float], between: str) -> Finding | None:
        size = len(losses) // 4
        first, last = losses[:size], losses[-size:]
        error = math.sqrt((pstdev(first) ** 2 + pstdev(last) ** 2) / size)
        z = (fmean(first) - fmean(last)) / max(error, 1e-9 * abs(fmean(first)), 1e-300)
        if not z < self._Z:
            return None
        return Finding(
            self.code,
            "warning",
            z,
            self._Z,
            f"how far the loss has fallen, in standard errors between {between}",
            "Raise the learning rate (lr_range suggests one), check that the data hold what shall be learned, and that y is "
            "not shuffled.",
        )

    def judge(self, seen: Seen) -> Finding | None:
        if seen.learner.objective or seen.samples is None or seen.held_out is None:
            return None
        if self.distance is not None and (seen.progress < 0.75 or self.distance == math.inf):
            return None
        ours, real = _matrix(seen.samples(self._ROWS)), _matrix(seen.held_out(self._ROWS).x)
        if ours is None or real is None or len(real) < 50 or not np.isfinite(ours).all():
            return None
        distance = sliced_wasserstein(ours, real, projections=64)
        if self.distance is None:
            self.distance = distance if seen.progress < 0.05 else math.inf
            return None
        share = distance / max(self.distance, 1e-12)
        if not share > self._CLOSER:
            return None
        return Finding(
            self.code,
            "warning",
            share,
            self._CLOSER,
            "the sliced Wasserstein distance of samples to held-out rows, over what it was at the start",
            "Raise the learning rate; look at samples of checkpoints to see whether anything moves.",
        )


class Overfitting(Monitor):
    """The loss of held-out rows has risen for some passes, by a good part of what it had fallen, while that of training rows
    still falls. Needs validation rows."""

    code = "training.overfitting"
    kept = ("train", "held")
    _LOST, _PASSES = 0.1, 3

    def __init__(self) -> None:
        self.train: list[float] = []
        self.held: list[float] = []

    def epoch(self, seen: Seen) -> Finding | None:
        objective = seen.learner.objective
        held = seen.metrics.get(f"validation.{objective}")
        if objective is None or held is None:
            return None
        own = seen.metrics.get(objective, -seen.metrics.get("log_likelihood", math.nan))
        self.train.append(own)
        self.held.append(held)
        best = self.held.index(min(self.held))
        waited = len(self.held) - 1 - best
        if waited < max(self._PASSES, len(self.held) // 10) or not self.train[-1] < self.train[best]:
            return None
        steps = [abs(b - a) for a, b in zip(self.held[best:], self.held[best + 1 :], strict=False)]
        won = max(self.held[0] - self.held[best], 1e-9 * abs(held))
        lost = (min(self.held[-2:]) - self.held[best]) / won
        if not (lost > self._LOST and min(self.held[-2:]) - self.held[best] > 3 * median(steps) / math.sqrt(waited)):
            return None
        return Finding(
            self.code,
            "warning",
            lost,
            self._LOST,
            f"what the loss of held-out rows has lost since pass {best + 1}, over what it had won before",
            "Stop early (patience=5 keeps the best weights), or use a smaller network, weight decay, or more data.",
        )


class DeadUnits(Monitor):
    """Rectified units that no row of several batches turned on: they pass no gradient and stay as they are."""

    code = "network.dead_units"
    kept = ("dead", "looks")
    _SHARE, _LOOKS, _WIDTH = 0.5, 3, 8

    def __init__(self) -> None:
        self.dead: dict[str, list[int]] = {}
        """For every layer, in how many looks in a row each of its units was off."""
        self.looks = 0
        self._on: dict[str, Tensor] = {}

    def watch(self, network: nn.Module) -> Callable[[], None] | None:
        self._on = {}
        handles = []
        for name, module in network.named_modules():
            if isinstance(module, nn.ReLU):
                handles.append(module.register_forward_hook(lambda m, i, out, name=name: self._look(name, out)))
        if not handles:
            return None

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    def _look(self, name: str, out: Any) -> None:
        if isinstance(out, Tensor) and out.ndim >= 2 and out.shape[1] >= self._WIDTH:
            on = (out.detach().transpose(0, 1).flatten(1) > 0).any(1)
            self._on[name] = on if name not in self._on else self._on[name] | on

    def step(self, seen: Seen) -> Finding | None:
        if not self._on:
            return None
        self.looks += 1
        for name, on in self._on.items():
            before = self.dead.get(name, [0] * len(on))
            self.dead[name] = [0 if alive else count + 1 for alive, count in zip(on.tolist(), before, strict=True)]
        self._on = {}
        if self.looks < self._LOOKS:
            return None
        shares = {name: fmean(count >= self._LOOKS for count in counts) for name, counts in self.dead.items()}
        worst = max(shares, key=lambda name: shares[name])
        if not shares[worst] > self._SHARE:
            return None
        return Finding(
            self.code,
            "warning",
            shares[worst],
            self._SHARE,
            f"the share of units of {worst} that no row has turned on in the last {self._LOOKS} batches seen",
            "Lower the learning rate, or use leaky_relu, gelu or silu, whose gradient never vanishes.",
        )


class LikelihoodFell(Monitor):
    """EM that lowers its own objective, which it cannot by its theory: a mistake in a family's statistics or a loss of digits.
    Only passes count that nothing but EM has changed: no trial, no rescued member, no fresh noise."""

    code = "em.decreased"
    _TOLERANCE = 1e-7

    def epoch(self, seen: Seen) -> Finding | None:
        fell = getattr(seen.learner, "fell", None)
        if fell is None or not fell > self._TOLERANCE:
            return None
        return Finding(
            self.code,
            "warning",
            fell,
            self._TOLERANCE,
            "by how much a pass lowered the objective, over its size",
            "Compute in float64, scale columns of very different sizes, and raise the prior of covariances.",
        )


class ChainsStuck(Monitor):
    """Persistent chains that hardly move from one pass to the next, by the correlation of their units between the two: what
    they say of the model is then about where they started."""

    code = "chains.not_mixing"
    kept = ("before", "highs")
    _HIGH, _PASSES, _LAG = 0.5, 3, 50

    def __init__(self) -> None:
        self.before: Tensor | None = None
        self.highs: list[float] = []

    def step(self, seen: Seen) -> Finding | None:
        now = seen.learner.chains()
        if now is None or len(now) < 2 or seen.step % self._LAG:
            return None
        before, self.before = self.before, now.detach().clone()
        if before is None or before.shape != now.shape:
            return None
        a, b = before - before.mean(0), now - now.mean(0)
        spread = float((a.square().sum() * b.square().sum()).sqrt())
        self.highs = [*self.highs[-self._PASSES + 1 :], float((a * b).sum()) / spread if spread > 0 else 1.0]
        if len(self.highs) < self._PASSES or not min(self.highs) > self._HIGH:
            return None
        return Finding(
            self.code,
            "warning",
            min(self.highs),
            self._HIGH,
            f"the correlation of the chains' units with themselves {self._LAG} updates before",
            "Temper the chains (replicas=10), take more sweeps, or lower the learning rate and decay the weights; read "
            "log_partition and mixing before you trust a likelihood.",
        )


def _thinned(values: list[float]) -> list[float]:
    """The list itself, or every second of its figures (and the last) once it has grown long."""
    if len(values) <= _MOST:
        return values
    return [*values[:-1:2], values[-1]]


def _matrix(points: Points) -> Any:
    """Rows of numbers for comparing; None for sequences."""
    return None if isinstance(points, Ragged) else points.detach().flatten(1).double().cpu().numpy()


def gradient_monitors() -> list[Monitor]:
    """Those of a rule that follows the gradient of a loss."""
    return [Diverging(), NothingLearned(), Overfitting(), DeadUnits()]
