"""Where the values of a numeric column can lie, and the map from there onto the real line under which one normal describes
values held out best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from reverie.data.codec.steps.step import Floats
from reverie.data.warps import Warp
from reverie.data.wishes import SupportWish
from reverie.errors import DataError

_LEAST = 20
"""Rows below which nothing is concluded from the values."""
_PRESSED = 3.5
"""Standard errors by which values must crowd against an end: by chance once in 4,000 times."""
_FAR = 1.5
"""An end so many times further below the lowest value than that is below the lowest tenth bends nothing: of normal values,
five standard deviations below their mean."""
_GAIN = 0.05
"""Nats per value that a map must gain, beside two standard errors, where the support does not ask for one."""
_HEAVY = 5.5
"""Middle 99 % of a column's values over its middle half, from which on its tails are heavy: 3.8 of normal values, 6.6 of a
Laplace distribution's."""
_FEW_LEVELS, _LEAST_OF_LEVEL, _SHARE_OF_LEVEL = 20, 10, 0.02
"""A grid of fewer steps ends at a level that has so many rows, and such a share of them."""
_EXPECTED = 7.0
_ROUND_ENDS = (0.0, 1.0, 100.0)
_ROWS = 20_000
_FURTHEST = 1e3
"""Standard units beyond which model space is logarithmic."""


@dataclass(frozen=True)
class Support:
    """The open interval (low, high), and what says so: "wish", "sign" (all values have one), "pressed" (values crowd
    against the end, with the confidence that it is one), or "" for an end at infinity. Where values lie on an end, the
    interval begins a little before it, and what falls between becomes the end: `closed`."""

    low: float = -math.inf
    high: float = math.inf
    low_basis: str = ""
    high_basis: str = ""
    closed: tuple[float | None, float | None] = (None, None)

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) or math.isfinite(self.high)


def find_support(values: Floats, *, step: float = 0.0, wish: SupportWish | None = None, label: str = "") -> Support:
    """The support of a column from its observed values: on a grid of that `step`, or of any numbers where it is 0."""
    half = step / 2
    low, high = float(values.min()), float(values.max())
    if wish is not None:
        return _wished(wish, low, high, half, label)
    if values.size < _LEAST or low == high:
        return Support()
    at_low, low_sure = _end(np.sort(values), step)
    at_high, high_sure = _end(np.sort(-values), step)
    at_high = -at_high
    found = Support()
    few = bool(step) and (high - low) / step < _FEW_LEVELS
    if few and (values == low).sum() >= max(_LEAST_OF_LEVEL, _SHARE_OF_LEVEL * values.size):
        found = replace(found, low=low - half, low_basis="first level")
    elif low_sure >= _PRESSED:
        end = _round_end(at_low, low, sign=1) if not step else low - half
        found = replace(found, low=end, low_basis=f"pressed, {_confidence(low_sure)}")
    elif _near_zero(low, float(np.quantile(values, 0.1)), step):
        end = -half if low < half else min(half, low - half) if step else 0.0
        found = replace(found, low=end if step else _below(end, low, values), low_basis="sign")
    if few and (values == high).sum() >= max(_LEAST_OF_LEVEL, _SHARE_OF_LEVEL * values.size):
        found = replace(found, high=high + half, high_basis="last level")
    elif high_sure >= _PRESSED:
        end = -_round_end(-at_high, -high, sign=-1) if not step else high + half
        found = replace(found, high=end, high_basis=f"pressed, {_confidence(high_sure)}")
    elif _near_zero(-high, -float(np.quantile(values, 0.9)), step):
        end = half if -high < half else -min(half, -high - half) if step else 0.0
        found = replace(found, high=end if step else -_below(-end, -high, -values), high_basis="sign")
    found = _with_round_ends(found, values, half)
    return found if step else _closed(found, values)


def _with_round_ends(support: Support, values: Floats, half: float) -> Support:
    """1 or 100 as an end where values come near and never go beyond, though a normal of their mean and spread would have had at
    least `_EXPECTED` of them there (seeing none has then probability exp(-7) at most)."""
    mean, sd = float(values.mean()), float(values.std())
    low, high = float(values.min()), float(values.max())
    for end in _ROUND_ENDS[1:]:
        above = values.size * 0.5 * math.erfc((end - mean) / sd / math.sqrt(2))
        if not math.isfinite(support.high) and high <= end <= high + 0.1 * sd and above > _EXPECTED:
            support = replace(support, high=end + half if half else _beyond(end, high, sd), high_basis="round")
        if not math.isfinite(support.low) and low - 0.1 * sd <= end <= low and values.size - above > _EXPECTED:
            support = replace(support, low=end - half if half else -_beyond(-end, -low, sd), low_basis="round")
    return support


def _beyond(end: float, extreme: float, sd: float) -> float:
    """The end, or a little beyond where a value lies on it."""
    return end if extreme < end else end + 0.01 * sd


def _closed(support: Support, values: Floats) -> Support:
    """Ends at 0 or another round number that values reach belong to the support."""
    low = next((end for end in _ROUND_ENDS if support.low < end == values.min()), None)
    high = next((end for end in _ROUND_ENDS if support.high > end == values.max()), None)
    return replace(support, closed=(low, high))


def _near_zero(low: float, tenth: float, step: float) -> bool:
    """Are all values of one sign, and the lowest near enough to 0 for it to bend the column?"""
    return low == 0 or 0 < low < _FAR * max(tenth - low, step)


def _confidence(errors: float) -> str:
    return f"{min(0.5 * math.erfc(-errors / math.sqrt(2)), 0.99999):.3%}"


def _wished(wish: SupportWish, low: float, high: float, half: float, label: str) -> Support:
    ends: dict[str, tuple[float | None, float | None]] = {
        "real": (None, None),
        "heavy-tailed": (None, None),
        "positive": (0.0, None),
        "non-negative": (0.0, None),
        "negative": (None, 0.0),
    }
    least, most = ends[wish] if isinstance(wish, str) else wish
    strict = isinstance(wish, str) and wish in ("positive", "negative")
    for value, out in ((low, least is not None and (low < least or (strict and low == least))),
                       (high, most is not None and (high > most or (strict and high == most)))):  # fmt: skip
        if out:
            raise DataError(
                f"column {label!r} is to be {wish if isinstance(wish, str) else f'within {wish}'}, but has the value {value:g}: "
                "widen the range, or mend the cell"
            )
    # On a grid the end is the edge of the last cell; a range includes its ends.
    inner = half if strict else -half
    start = -math.inf if least is None else least + inner if half else least - (0.0 if strict else _hair(least, high))
    stop = math.inf if most is None else most - inner if half else most + (0.0 if strict else _hair(most, low))
    return Support(start, stop, "wish" if least is not None else "", "wish" if most is not None else "")


def _hair(end: float, other: float) -> float:
    """So little that it matters to nobody, and an end that is included lies inside."""
    return 1e-9 * max(abs(end), abs(other), 1e-300)


def _below(end: float, low: float, values: Floats) -> float:
    """The end, or a little before it where values lie on it: a hundredth of the way to the middle of the others."""
    if low > end:
        return end
    above = values[values > end]
    return end - (0.01 * float(np.median(above) - end) if above.size else _hair(end, 1.0))


def _end(ordered: Floats, step: float) -> tuple[float, float]:
    """Where the lower end of these sorted values seems to be, and how sure it is that there is one, in standard errors.

    Of the values in two neighbouring stretches of equal width, a tenth of all (a quarter of few), c0 lie in the outer one. A density that falls to
    nothing there, no faster than in a straight line, has a third of them in it at most; one that breaks off has more.
    """
    most = min(max(ordered.size // 10, min(ordered.size // 4, 250)), 1000)
    if most < _LEAST:
        return float(ordered[0]), 0.0
    if step:
        width = step * max(math.ceil((ordered[most - 1] - ordered[0] + step) / step / 2), 1)
        first = float(ordered[0]) - step / 2
    else:
        width, first = float(ordered[most - 1] - ordered[0]) / 2, float(ordered[0])
    if width <= 0:
        return float(ordered[0]), 0.0
    c0 = float((ordered < first + width).sum())
    both = float((ordered <= first + 2 * width).sum())
    sure = (c0 - both / 3) / math.sqrt(2 / 9 * both)
    return float(ordered[0]) if step else float(ordered[0]) - width / c0, sure


def _round_end(end: float, extreme: float, *, sign: int) -> float:
    """The end itself, or 0, 1 or 100 where that is as near (`sign` -1: of values whose sign was turned)."""
    gap = extreme - end
    near = [sign * known for known in _ROUND_ENDS if extreme - 4 * gap <= sign * known <= extreme]
    if not near:
        return end
    known = max(near)
    return known if known < extreme else known - gap


def choose_warp(
    values: Floats, support: Support, *, step: float = 0.0, heavy: bool = False, plain: bool = False
) -> Warp:
    """The map of this support under which a normal gives values held out their largest likelihood, in standard units.

    A map other than the identity must gain where the support does not need one (`heavy`: asked for); `plain` takes the identity.
    """
    sample = values[:: max(1, values.size // _ROWS)]
    ranked: list[tuple[float, Warp]] = []
    if plain or (not support.bounded and not heavy and values.size < _LEAST):
        best = Warp()
    else:
        base: Floats | None = None
        for warp in _candidates(sample, support, heavy):
            scores = _held_out(warp, sample, step)
            if warp.kind == "identity":
                base = scores
                ranked.append((float(scores.mean()) if not heavy else -math.inf, warp))
                continue
            score = float(scores.mean())
            if base is not None and not heavy:
                gain = scores - base
                if gain.mean() < max(_GAIN, 2 * gain.std() / math.sqrt(gain.size)):
                    continue
            ranked.append((score, warp))
        best = max(ranked, key=lambda pair: pair[0] if math.isfinite(pair[0]) else -1e300)[1]
    return standardised(best, values)


def standardised(warp: Warp, values: Floats) -> Warp:
    """The map with the mean and spread of these values, straight as far out as they reach and twice that."""
    raw = _raw(warp, values)
    sd = float(raw.std())
    sd = sd if sd > 0 and math.isfinite(sd) else 1.0
    mean = float(raw.mean())
    reach = float(np.abs((raw - mean) / sd).max())
    return replace(warp, mean=mean, sd=sd, limit=max(_FURTHEST, 2 * reach))


def _candidates(values: Floats, support: Support, heavy: bool) -> Iterator[Warp]:
    low, high = support.low, support.high
    if not support.bounded:
        yield Warp()
        outer, inner = np.diff(np.quantile(values, [0.005, 0.995]))[0], _spread(values)
        if not heavy and outer < _HEAVY * inner:
            return
        middle, spread = float(np.median(values)), _spread(values)
        for share in (1.0, 0.1):
            yield Warp("asinh", centre=middle, scale=share * spread)
    elif math.isfinite(low) and math.isfinite(high):
        yield Warp("probit", low, high)
        yield Warp("logit", low, high)
    else:
        mirrored = not math.isfinite(low)
        typical = float(np.median(high - values if mirrored else values - low))
        yield Warp("log", low, high, mirrored=mirrored)
        for share in (1.0, 0.3, 0.1, 0.03):
            yield Warp("softplus", low, high, scale=share * typical, mirrored=mirrored)


def _spread(values: Floats) -> float:
    quarters = np.quantile(values, [0.25, 0.75])
    found = float(quarters[1] - quarters[0])
    return found if found > 0 else float(values.std())


def _raw(warp: Warp, values: Floats) -> Floats:
    return replace(warp, mean=0.0, sd=1.0, limit=math.inf).forward(torch.from_numpy(values.copy())).numpy()


def _held_out(warp: Warp, values: Floats, step: float) -> Floats:
    """(n,) log-likelihood of every value in data units under the normal, after the map, of the half it does not belong to."""
    out = np.empty(values.size)
    for first in (0, 1):
        train, test = values[1 - first :: 2], values[first::2]
        raw = _raw(warp, train)
        sd = float(raw.std())
        fitted = replace(warp, mean=float(raw.mean()), sd=sd if sd > 0 else 1.0)
        v = torch.from_numpy(test.copy())
        x = fitted.forward(v)
        if step:
            lower, upper = fitted.edges(x, step, float(test[0]))
            found = _log_mass(lower, upper)
        else:
            found = -0.5 * x.square() - 0.5 * math.log(2 * math.pi) + fitted.log_slope(v)
        out[first::2] = found.numpy()
    return out


def _log_mass(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    flip = a + b > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    top: torch.Tensor = torch.special.log_ndtr(b)
    return top + torch.log1p(-torch.exp((torch.special.log_ndtr(a) - top).clamp_max(-1e-12)))
