"""Which `ColumnStep` a column gets, from what it is, what its values look like and what a family wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reverie.data.codec.maps import others
from reverie.data.codec.steps.grids import Grid, Mode, WarpedGrid
from reverie.data.codec.steps.levels import Bit, Constant, Count, Levels, OneHot, Symbol
from reverie.data.codec.steps.nested import Atoms, Lifted
from reverie.data.codec.steps.profiles import Profile, decimals, profile, spikes
from reverie.data.codec.steps.step import Affine, ColumnStep, Floats, Quantile, Warped
from reverie.data.codec.steps.supports import Support, choose_warp, find_support
from reverie.data.space import Wants
from reverie.errors import DataError, UnsupportedData

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema

_FIT_ROWS = 200_000
_FEW_ROWS = 4_000
_FEWEST, _MOST_DIGITS = 20, 6
_ROWS_PER_LEVEL = 20
"""Rows that a gridded column must have per distinct value for these to be categories."""


def hole_text(label: str, family: str) -> str:
    return f"column {label!r} has missing cells, which {family} does not take. Drop or fill them first"


def fit_step(schema: Schema, field: Field, label: str, values: NDArray[np.float64], wants: Wants) -> ColumnStep:
    """The step for one column, from its observed values."""
    if field.kind == "category":
        levels = len(field.categories or ())
        return Symbol(levels) if wants.symbols else OneHot(levels)
    if field.kind == "boolean":
        return Bit(values.size)
    if values.size == 0:
        raise DataError(f"column {label!r} has no value in any training row: drop it or give it the role ignore")
    if wants.discrete == "binary":
        if not np.isin(values, (0.0, 1.0)).all():
            raise UnsupportedData(
                f"{wants.family} has binary units: column {label!r} holds values other than 0 and 1"
                f"{wants.otherwise and '; '}{wants.otherwise}. Families that can: {others(schema, wants)}"
            )
        return Bit(values.size)
    whole = bool((values >= 0).all() and (values == np.round(values)).all())
    if wants.discrete == "counts" and whole and field.kind == "integer":
        return Count(values.size)
    if wants.discrete == "density":  # only whether values repeat matters: few of them tell
        few = profile(values[:: max(1, values.size // _FEW_ROWS)], integer=field.kind == "integer")
        return _continuous(field, label, values, wants, tied=few.kind != "continuous")
    found = _profile(values, integer=field.kind == "integer")
    if values.min() == values.max():
        if wants.mixed:
            return Constant(float(values[0]), values.size)
        raise UnsupportedData(
            f"column {label!r} is constant ({values[0]:g}): it has no density. Drop it or give it the role ignore. "
            f"Families that can: {others(schema, wants, 'category')}"
        )
    if found.kind == "continuous" or (found.kind == "levels" and not wants.density):
        return _continuous(field, label, values, wants)
    if found.kind == "atoms":
        atoms = np.array(found.values)
        rest = _continuous(field, label, values[~np.isin(values, atoms)], wants)
        return Atoms(atoms, rest) if wants.mixed else Lifted.fit(values, atoms, rest)
    if wants.levels:
        distinct = np.unique(values)
        if distinct.size <= min(wants.levels, values.size // _ROWS_PER_LEVEL):
            return Levels(distinct, values.size)
    piled = spikes(values) if wants.mixed else np.empty(0)
    if piled.size:
        remaining = values[~np.isin(values, piled)]
        return Atoms(piled, _grid(field, label, remaining, found, wants))
    return _grid(field, label, values, found, wants)


def _profile(values: NDArray[np.float64], *, integer: bool) -> Profile:
    """The column's profile from at most 200,000 values spread over it (cheap to sort), or from all of them when the
    rest does not follow the pattern of those."""
    stride = max(1, values.size // _FIT_ROWS)
    found = profile(values[::stride], integer=integer)
    if stride == 1 or found.kind in ("continuous", "levels"):
        return found
    k = (values - found.low) / found.step
    if found.kind == "grid" and np.abs(k - np.round(k)).max() <= 1e-3:
        return found
    return found if found.kind == "atoms" else profile(values, integer=integer)


def _support(field: Field, label: str, values: Floats, wants: Wants, step: float = 0.0) -> Support:
    """The support asked for, or found where the family lets columns have one."""
    if field.support is None and not wants.supports:
        return Support()
    return find_support(values, step=step, wish=field.support, label=label)


def _plain(field: Field, wants: Wants) -> bool:
    """The column stays linear: asked for, or one scale is all columns'."""
    return field.support == "real" or (wants.numbers == "centre" and field.support is None) or not wants.supports


def _continuous(
    field: Field, label: str, values: NDArray[np.float64], wants: Wants, *, tied: bool = False
) -> ColumnStep:
    support = Support() if tied else _support(field, label, values, wants)
    heavy = field.support == "heavy-tailed"
    warp = choose_warp(values, support, heavy=heavy, plain=tied or (_plain(field, wants) and not support.bounded))
    grain = _grain(values, dates=field.kind == "datetime")
    curved = warp.kind != "identity"
    basis = (support.low_basis, support.high_basis)
    closed = _closed(values, support, field, wants)
    warped = Warped(warp, values.size, basis, closed, grain) if curved else None
    if wants.numbers == "quantile":
        step = Quantile.fit(values, warped)
        if step.knots.size > 2:  # else the values are too tied to have quantiles
            return step
    if warped is not None:
        return warped
    if wants.numbers == "centre":
        return Affine(float(values.mean()), 1.0, tied, max(warp.limit * warp.sd, 1e3))
    return Affine(warp.mean, warp.sd, tied, warp.limit, grain, _one_sign(values, field, wants))


def _closed(values: Floats, support: Support, field: Field, wants: Wants) -> tuple[float | None, float | None]:
    """Ends at which decoded values stop: those of the support that values reach, and where it has none those of one sign."""
    least, most = _one_sign(values, field, wants)
    low, high = support.closed
    return (
        least if np.isinf(support.low) else low,
        most if np.isinf(support.high) else high,
    )


def _one_sign(values: Floats, field: Field, wants: Wants) -> tuple[float | None, float | None]:
    """Half-way from 0 to the nearest value of a column whose values have one sign."""
    if not wants.supports or field.support is not None:
        return None, None
    low, high = float(values.min()), float(values.max())
    return (low / 2 if low > 0 else None, high / 2 if high < 0 else None)


def _grain(values: Floats, *, dates: bool) -> float | None:
    """The longest of a day, an hour, a minute and a second of which all dates are multiples; of numbers, the decimal place that
    they are written to, where that is no further than the sixth and there are enough of them to tell."""
    if dates:
        lengths = (86_400.0, 3_600.0, 60.0, 1.0)
        return next((length for length in lengths if not np.remainder(values, length).any()), None)
    if values.size < _FEWEST:
        return None
    for digits in range(_MOST_DIGITS + 1):
        short = np.round(values, digits)
        if np.array_equal(short, values) or np.array_equal(short.astype(np.float32), values):
            return float(10.0**-digits)
    return None


def _grid(field: Field, label: str, values: NDArray[np.float64], found: Profile, wants: Wants) -> ColumnStep:
    levels = np.unique(values) if found.kind == "levels" else None
    low, step = (0.0, 1.0) if levels is not None else (found.low, found.step)
    k = np.searchsorted(levels, values).astype(np.float64) if levels is not None else (values - low) / step
    span = float(k.max() - k.min())
    if wants.dtype == "float32" and span > 2**22:
        raise UnsupportedData(
            f"column {label!r} holds {span + 1:.0f} distinct steps, more than float32 can tell apart. If it is an "
            "identifier give it the role id; otherwise rescale it or declare it kinds={...: 'number'}"
        )
    sd = 1 / step if wants.numbers == "centre" else float(k.std())
    mode: Mode = (
        "native"
        if wants.discrete in ("native", "counts")
        else "dequantise"
        if wants.discrete == "dequantise"
        else "round"
    )
    digits = None if levels is not None else decimals(low, step)
    if digits is not None:
        low, step = round(low, digits), round(step, digits)
    if levels is None and wants.discrete != "counts":
        support = _support(field, label, values, wants, step)
        heavy = field.support == "heavy-tailed"
        warp = choose_warp(values, support, step=step, heavy=heavy, plain=_plain(field, wants) and not support.bounded)
        if warp.kind != "identity":
            basis = (support.low_basis, support.high_basis)
            return WarpedGrid(low, step, warp, mode, values.size, basis, digits, _closed(values, support, field, wants))
    bounds: tuple[float | None, float | None] = (None, None)
    if mode == "round" or levels is not None:
        bounds = (float(k.min()), float(k.max()))
    elif mode == "native" and field.kind == "integer" and values.min() >= 0:
        bounds = (float(np.ceil(-low / step)), None)  # counts: nothing below 0
    elif levels is None:
        least, most = _one_sign(values, field, wants)
        bounds = (
            None if least is None else float(np.ceil((least - low) / step)),
            None if most is None else float(np.floor((most - low) / step)),
        )
    return Grid(low, step, float(k.mean()), sd, mode, levels, bounds, digits, values.size)
