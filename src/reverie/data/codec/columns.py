"""Scalar columns side by side in model space: which `ColumnStep` each gets, and the map of all of them. Tables have one
row per example, sequences one per step."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.codec.levels import Bit, Constant, Count, Levels, OneHot, Symbol
from reverie.data.codec.maps import others
from reverie.data.codec.nested import Atoms, Flagged, step_from_json
from reverie.data.codec.profiles import Profile, decimals, profile, spikes
from reverie.data.codec.steps import Affine, ColumnStep, Grid, Quantile
from reverie.data.space import Block, Wants, blocks_in_order
from reverie.errors import DataError, UnsupportedData

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema

_FIT_ROWS = 200_000
_FEW_ROWS = 4_000
_LEAST_RUN = 4
_TURNED = 64
_ROWS_PER_LEVEL = 20
"""Rows that a gridded column must have per distinct value for these to be categories."""
_NAT = np.iinfo(np.int64).min

Placed = list[tuple[str, int | None, ColumnStep]]
"""(field, position in an array block or None, its step), in the order of model space."""
Floats = NDArray[np.float64]


class Columns:
    """Fitted steps side by side: `blocks` over `width` columns of model space, of which `noisy` are dequantised."""

    def __init__(self, steps: Placed) -> None:
        self.steps = steps
        placed: list[Block] = []
        for name, position, step in steps:
            placed += step.blocks(name if position is None else f"{name}[{position}]")
        self.blocks = blocks_in_order(placed)
        sizes = np.concatenate([[0], np.cumsum([step.width for *_, step in steps])]).astype(int)
        self._starts: list[int] = [int(s) for s in sizes[:-1]]
        self.width = int(sizes[-1])
        entries = list(zip(self._starts, steps, strict=True))
        self._runs = _runs(entries)
        inside = {column for run in self._runs for column in range(run.columns.start, run.columns.stop)}
        self._singles = [entry for entry in entries if entry[0] not in inside]
        noisy = [(s, step.dequantise_step) for s, (*_, step) in zip(self._starts, steps, strict=True)]
        self.noisy = torch.tensor([s for s, width in noisy if width], dtype=torch.long)
        self.noise_steps = torch.tensor([width for _, width in noisy if width], dtype=torch.float64)

    @classmethod
    def fit(
        cls, schema: Schema, wants: Wants, fields: list[Field], values: Mapping[str, Floats]
    ) -> tuple[Columns, bool]:
        """A step for every column of `fields` from its `values` (N,) or (N, d), and whether any cell is missing.

        Raises `UnsupportedData` for what the family cannot take, naming the families that can.
        """
        steps: Placed = []
        holes = False
        for field in fields:
            for position, column in _each(field, values[field.name]):
                label = field.name if position is None else f"{field.name}[{position}]"
                has_holes = bool(np.isnan(column).any())
                if has_holes and wants.missing == "refuse":
                    can = others(schema, wants, verb="impute", holes=True)
                    raise UnsupportedData(f"{hole_text(label, wants.family)}, or use a family that imputes: {can}")
                holes |= has_holes
                step = fit_step(schema, field, label, column[~np.isnan(column)], wants)
                if has_holes and wants.missing == "flag":
                    step = Flagged(step)
                steps.append((field.name, position, step))
        return cls(steps), holes

    @property
    def measure(self) -> str:
        counts = Counter(step.measure for *_, step in self.steps)
        if len(counts) == 1:
            return next(iter(counts))
        return " x ".join(f"{count} {name}" for name, count in sorted(counts.items()))

    def prepare(
        self, columns: Mapping[str, Floats], n: int, *, refuses: str | None
    ) -> tuple[Floats, NDArray[np.bool_], Floats]:
        """(n, ...) data columns -> model columns (n, width), which of them are observed, and log |d model / d data| (n,).

        `refuses` names a family that takes no missing cells (`UnsupportedData`).
        """
        x, log_det = np.zeros((n, self.width)), np.zeros(n)
        observed = np.ones((n, self.width), bool)
        for run in self._runs:
            block = columns[run.name][:, run.positions]
            gaps = np.isnan(block)
            if gaps.any():
                if refuses:
                    raise UnsupportedData(hole_text(run.name, refuses))
                observed[:, run.columns] = ~gaps
            log_det += run.fill(block, gaps, x[:, run.columns])
        for start, (name, position, step) in self._singles:
            values = columns[name] if position is None else columns[name][:, position]
            if refuses and not isinstance(step, Flagged) and np.isnan(values).any():
                raise UnsupportedData(hole_text(name, refuses))
            cells, seen = step.prepare(values)
            x[:, start : start + step.width] = cells
            observed[:, start : start + step.width] = seen
            log_det += step.log_det(values)
        return x, observed, log_det

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        """x (n, width) with uniform noise inside the cells of the noisy columns, from u (n, noisy columns) in [0, 1)."""
        steps, noisy = self.noise_steps.to(x.device, x.dtype), self.noisy.to(x.device)
        return x.index_add(1, noisy, (u.to(x.device, x.dtype) - 0.5) * steps)

    def decode(self, x: Tensor, fields: list[Field], *, means: bool = False) -> dict[str, Floats]:
        """Model columns (n, width) -> the data columns of `fields`, (n,) or (n, d); with `means` numbers may lie between
        the points of their grid."""
        model = x.detach().to("cpu", torch.float64).numpy()
        between = {field.name for field in fields if means and field.kind == "number"}
        parts: dict[str, list[Floats]] = {}
        for start, (name, _, step) in zip(self._starts, self.steps, strict=True):
            cells = model[:, start : start + step.width]
            parts.setdefault(name, []).append(step.expected(cells) if name in between else step.decode(cells))
        return {f.name: np.stack(parts[f.name], axis=1) if f.shape else parts[f.name][0] for f in fields}

    def offsets(self) -> Floats:
        """Where the origin of model space lies in data units, per model column; for affine and gridded columns."""
        out = []
        for *_, step in self.steps:
            if isinstance(step, Affine):
                out.append(step.mean)
            elif isinstance(step, Grid) and step.values is None:
                out.append(step.low + step.step * step.mean)
            else:
                raise DataError("these columns are not all affine images of model space")
        return np.array(out)

    def to_json(self) -> list[Any]:
        return [[name, position, step.to_json()] for name, position, step in self.steps]

    @classmethod
    def from_json(cls, data: list[Any]) -> Columns:
        return cls([(name, position, step_from_json(step)) for name, position, step in data])


@dataclass
class _Run:
    """Neighbouring positions of one array block whose steps are alike and simple: mapped as a matrix."""

    name: str
    positions: slice
    columns: slice
    mean: Floats | None
    """Of affine steps, with `sd`; None for bits."""
    sd: Floats | None

    def fill(self, block: Floats, gaps: NDArray[np.bool_], out: Floats) -> Floats:
        """Write the model columns of `block` (n, w), and return log |d model / d data| (n,)."""
        some = bool(gaps.any())
        if self.mean is None or self.sd is None:
            off = (block != 0) & (block != 1)
            out[:] = np.where(gaps, 0.0, block) if some else block
            return np.where((off & ~gaps).any(1), -np.inf, 0.0)
        np.subtract(block, self.mean, out=out)
        out /= self.sd
        logs = np.log(self.sd)
        if not some:
            return np.full(len(block), -logs.sum())
        out[gaps] = 0.0
        return np.asarray(-((~gaps).astype(np.float64) @ logs))


def _runs(entries: list[tuple[int, tuple[str, int | None, ColumnStep]]]) -> list[_Run]:
    """The runs of at least four simple steps alike."""
    out: list[_Run] = []

    def key(entry: tuple[int, tuple[str, int | None, ColumnStep]]) -> tuple[object, ...]:
        start, (name, position, step) = entry
        simple = position is not None and isinstance(step, Affine | Bit)
        return (name, type(step), start - (position or 0)) if simple else (start,)

    for _, group in itertools.groupby(entries, key):
        found = list(group)
        if len(found) < _LEAST_RUN:
            continue
        start, (name, position, _) = found[0]
        assert position is not None
        affine = [step for _, (_, _, step) in found if isinstance(step, Affine)]
        out.append(
            _Run(
                name,
                slice(position, position + len(found)),
                slice(start, start + len(found)),
                np.array([step.mean for step in affine]) if affine else None,
                np.array([step.sd for step in affine]) if affine else None,
            )
        )
    return out


def _each(field: Field, values: Floats) -> Iterator[tuple[int | None, Floats]]:
    """(position, column) for the columns of a field, contiguous: a few are turned at a time, as strides are slow."""
    if not field.shape:
        yield None, values
        return
    for first in range(0, values.shape[1], _TURNED):
        for offset, column in enumerate(np.ascontiguousarray(values[:, first : first + _TURNED].T)):
            yield first + offset, column


def hole_text(label: str, family: str) -> str:
    return f"column {label!r} has missing cells, which {family} does not take. Drop or fill them first"


def fit_step(schema: Schema, field: Field, label: str, values: NDArray[np.float64], wants: Wants) -> ColumnStep:
    """The step for one column, from its observed values."""
    if field.kind == "category":
        levels = len(field.categories or ())
        return Symbol(levels) if wants.symbols else OneHot(levels)
    if field.kind == "boolean":
        return Bit()
    if values.size == 0:
        raise DataError(f"column {label!r} has no value in any training row: drop it or give it the role ignore")
    if wants.discrete == "binary":
        if not np.isin(values, (0.0, 1.0)).all():
            raise UnsupportedData(
                f"{wants.family} has binary units: column {label!r} holds values other than 0 and 1"
                f"{wants.otherwise and '; '}{wants.otherwise}. Families that can: {others(schema, wants)}"
            )
        return Bit()
    whole = bool((values >= 0).all() and (values == np.round(values)).all())
    if wants.discrete == "counts" and whole and field.kind == "integer":
        return Count()
    if wants.discrete == "density":  # only whether values repeat matters: few of them tell
        few = profile(values[:: max(1, values.size // _FEW_ROWS)], integer=field.kind == "integer")
        return _continuous(values, wants, tied=few.kind != "continuous")
    found = _profile(values, integer=field.kind == "integer")
    if values.min() == values.max():
        if wants.mixed:
            return Constant(float(values[0]))
        raise UnsupportedData(
            f"column {label!r} is constant ({values[0]:g}): it has no density. Drop it or give it the role ignore. "
            f"Families that can: {others(schema, wants, 'category')}"
        )
    if found.kind == "continuous" or (found.kind == "levels" and not wants.density):
        return _continuous(values, wants)
    if found.kind == "atoms":
        atoms = np.array(found.values)
        rest = _continuous(values[~np.isin(values, atoms)], wants)
        if not wants.mixed:
            raise UnsupportedData(
                f"column {label!r} repeats the value {atoms[0]:g} and is otherwise continuous: {wants.family} has no "
                f"density for that. Families that can: {others(schema, wants, 'category')}"
            )
        return Atoms(atoms, rest)
    if wants.levels:
        distinct = np.unique(values)
        if distinct.size <= min(wants.levels, values.size // _ROWS_PER_LEVEL):
            return Levels(distinct)
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


def _continuous(values: NDArray[np.float64], wants: Wants, *, tied: bool = False) -> ColumnStep:
    if wants.numbers == "quantile":
        step = Quantile.fit(values)
        if step.knots.size > 2:  # else the values are too tied to have quantiles
            return step
    sd = 1.0 if wants.numbers == "centre" else float(values.std())
    return Affine(float(values.mean()), sd if sd > 0 else 1.0, tied)


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
    mode: Literal["native", "dequantise", "round"]
    mode = (
        "native"
        if wants.discrete in ("native", "counts")
        else "dequantise"
        if wants.discrete == "dequantise"
        else "round"
    )
    bounds: tuple[float | None, float | None] = (None, None)
    if mode == "round" or levels is not None:
        bounds = (float(k.min()), float(k.max()))
    elif mode == "native" and field.kind == "integer" and values.min() >= 0:
        bounds = (float(np.ceil(-low / step)), None)  # counts: nothing below 0
    digits = None if levels is not None else decimals(low, step)
    if digits is not None:
        low, step = round(low, digits), round(step, digits)
    return Grid(low, step, float(k.mean()), sd, mode, levels, bounds, digits)


def to_float(field: Field, values: NDArray[Any]) -> NDArray[np.float64]:
    """A table column as float64 with NaN for missing; datetimes become seconds since 1970."""
    if field.kind in ("boolean", "category"):
        numbers: Floats = values.astype(np.float64)
        gaps = values < 0
        if gaps.any():
            numbers[gaps] = np.nan
        return numbers
    if field.kind == "datetime":
        return np.where(values == _NAT, np.nan, values.astype(np.float64) / 1e9)
    return values.astype(np.float64, copy=False)


def from_float(field: Field, values: NDArray[np.float64]) -> NDArray[Any]:
    """Inverse of `to_float`."""
    holes = np.isnan(values)
    if field.kind in ("boolean", "category"):
        return np.where(holes, -1, np.nan_to_num(values)).astype(np.int8 if field.kind == "boolean" else np.int64)
    if field.kind == "datetime":
        return np.where(holes, _NAT, np.round(np.nan_to_num(values) * 1e6).astype(np.int64) * 1000)
    if field.kind == "integer":
        return np.round(values)
    return values
