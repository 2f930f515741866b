"""The learning-rate range test (Smith 2017, section 3.3): a few steps at rates that rise from far too small to far too large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from reverie.errors import InvalidOption
from reverie.learning.hooks import Sums
from reverie.learning.phases import Phase
from reverie.learning.trainer import Trainer

_SMOOTH = 0.9
_FIRST = 10
"""Steps, at rates too small to matter, that tell where the loss begins and how much it differs between batches."""
_RISEN = 10.0
"""The probe ends when the smoothed loss lies so many of these differences above where it began."""


@dataclass(frozen=True)
class LRRange:
    """`losses` (smoothed) at `rates`; `suggestion`: the rate at which the loss fell most steeply, `highest`: the one at which it
    was lowest, beyond which training becomes unstable."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float
    highest: float

    def __repr__(self) -> str:
        low, high = self.rates[0], self.rates[-1]
        return f"LRRange(suggestion={self.suggestion:.2g}, highest={self.highest:.2g}, probed {low:.2g} to {high:.2g})"

    def to_json(self) -> dict[str, Any]:
        return {
            "rates": list(self.rates),
            "losses": list(self.losses),
            "suggestion": self.suggestion,
            "highest": self.highest,
        }


def probe(trainer: Trainer, lr: float, low: float, high: float, steps: int) -> LRRange:
    """Train the first phase of a fresh `trainer` for up to `steps` updates at rates from `low` to `high`, each higher by the same
    factor; `lr` is the recipe's own. The network is spoilt. Raises `InvalidOption` where there is no loss to follow."""
    phase: Phase = trainer.phases[0]
    learner = trainer.open(phase)
    if not learner.casts or learner.objective is None:
        raise InvalidOption(
            f"lr_range: phase {phase.name!r} has no loss that falls as training succeeds; compare runs with other rates"
        )
    trainer.network.train()
    slots = trainer.data.slots(trainer.budget.batch_size(phase))
    rates, losses, raw, smooth = [], [], [], 0.0
    for step in range(steps):
        epoch, number = divmod(step, len(slots))
        order = trainer.data.order(phase.name, epoch, shuffle=phase.shuffle)
        rate = low * (high / low) ** (step / max(steps - 1, 1))
        trainer.run_.lr_scale, trainer.sums = rate / lr, Sums()
        trainer.step(learner, phase, slots[number], order, steps)
        loss = trainer.sums.means(trainer.run_)[learner.objective]
        raw.append(loss)
        smooth = _SMOOTH * smooth + (1 - _SMOOTH) * loss
        even = smooth / (1 - _SMOOTH ** (step + 1))
        if not math.isfinite(even):
            break
        rates.append(rate)
        losses.append(even)
        first = raw[:_FIRST]
        if step > _FIRST and even > fmean(first) + _RISEN * pstdev(first):
            break
    if not losses:
        raise InvalidOption(f"lr_range: the loss is not finite at a rate of {low:g} already: give a smaller low")
    lowest = losses.index(min(losses))
    # The smoothed loss lags behind and its early part is noise: look for the steepest fall behind the first steps,
    # over a tenth of the range.
    width = max(steps // 10, 2)
    falls = [losses[i + width] - losses[i] for i in range(max(lowest - width, 0) + 1) if i + width < len(losses)]
    steepest = rates[falls.index(min(falls)) + width // 2] if falls and min(falls) < 0 else rates[lowest] / 10
    return LRRange(tuple(rates), tuple(losses), steepest, rates[lowest])
