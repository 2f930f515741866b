"""What a numeric column looks like, from its values: continuous, gridded, with atoms, constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reverie.data.codec.steps.step import Floats

_TIED = 0.05
"""A column with a larger share of repeated values has ties, on which a density would reach unbounded likelihood."""
_FRESH = 0.05
_ATOM_SHARE, _MOST_ATOMS, _MOST_STEPS = 0.02, 32, 2**22
_SPIKE_SHARE, _MOST_SPIKES, _FEW_LEVELS = 0.2, 4, 20


@dataclass(frozen=True)
class Profile:
    """What a numeric column looks like: "continuous"; "grid" (low + k step); "levels" (repeated values without a
    regular step); "atoms" (some values repeated, the rest continuous); "constant"."""

    kind: Literal["continuous", "grid", "levels", "atoms", "constant"]
    low: float = 0.0
    step: float = 1.0
    values: tuple[float, ...] = ()


def profile(values: Floats, *, integer: bool = False) -> Profile:
    """Classify the observed values (n,) of one column."""
    unique, counts = np.unique(values, return_counts=True)
    if integer:
        return Profile("grid", float(unique[0]), 1.0)
    if unique.size == 1:
        return Profile("constant", float(unique[0]), 1.0, (float(unique[0]),))
    if 1 - unique.size / values.size <= _TIED:
        return Profile("continuous")
    step = _grid_step(unique)
    if step is not None:
        return Profile("grid", float(unique[0]), step)
    atoms = unique[counts >= max(5, math.ceil(_ATOM_SHARE * values.size))]
    atoms = atoms if atoms.size <= _MOST_ATOMS else atoms[:0]
    other = counts[~np.isin(unique, atoms)]
    # The share of later values that training never had is about that of values it had once (Good 1953): where it is large, a
    # list of the values seen describes nothing, however often some repeat.
    if other.size and (other == 1).sum() > _FRESH * other.sum():
        return Profile("atoms", values=tuple(float(v) for v in atoms)) if atoms.size else Profile("continuous")
    return Profile("levels", values=tuple(float(v) for v in unique))


def _grid_step(unique: Floats) -> float | None:
    """The largest step of which all gaps are multiples (to rounding), or None."""
    gaps = np.diff(unique)
    smallest, span = float(gaps.min()), float(unique[-1] - unique[0])
    # Values sit off the grid by the rounding of the type that they came through.
    for kind in (np.float64, np.float32):
        slack = 4 * float(np.finfo(kind).eps) * max(abs(float(unique[0])), abs(float(unique[-1])))
        found = _step_within(unique, smallest, span, slack)
        if found is not None:
            return found
    return None


def _step_within(unique: Floats, smallest: float, span: float, slack: float) -> float | None:
    """The largest step that all values keep to within `slack`, or None."""
    for divisor in range(1, 21):
        step = smallest / divisor
        if span / step > _MOST_STEPS or slack > 0.1 * step:
            return None
        k = np.round((unique - unique[0]) / step)
        step = span / float(k[-1])
        if np.abs(unique[0] + k * step - unique).max() <= max(slack, 1e-9 * step):
            return step
    return None


def decimals(low: float, step: float) -> int | None:
    """The fewest digits after the point that write both numbers, to one millionth of the step; None where the step then
    has more than four digits of its own (thirds are no decimals)."""
    for digits in range(11):
        if step * 10**digits >= 10**4:
            return None
        if max(abs(round(low, digits) - low), abs(round(step, digits) - step)) <= 1e-6 * step:
            return digits
    return None


def spikes(values: Floats) -> Floats:
    """Values of a gridded column that hold at least a fifth of its rows each, when the rest spreads over more than 20
    levels (a cost that is mostly 0): a smooth likelihood would smear them. Empty when there are none."""
    unique, counts = np.unique(values, return_counts=True)
    found: Floats = unique[counts >= _SPIKE_SHARE * values.size]
    enough = 0 < found.size <= _MOST_SPIKES and unique.size - found.size > _FEW_LEVELS
    return found if enough else np.empty(0)
