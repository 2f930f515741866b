"""Scalar columns side by side in model space: which `ColumnStep` each gets, and the map of all of them. Tables have one
row per example, sequences one per step."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.codec.maps import others
from reverie.data.codec.steps.fitting import fit_step, hole_text
from reverie.data.codec.steps.grids import Grid
from reverie.data.codec.steps.levels import Bit
from reverie.data.codec.steps.nested import Flagged, step_from_json
from reverie.data.codec.steps.step import Affine, ColumnStep, unexpected
from reverie.data.space import Block, Wants, blocks_in_order
from reverie.errors import DataError, UnsupportedData

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema

_LEAST_RUN = 4
_TURNED = 64
_MOST = 1e15
"""The largest number of model space: its square is one of float32."""
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
        noisy = [
            entry
            for entry in zip(self._starts, (step for *_, step in steps), strict=True)
            if entry[1].own_noise or entry[1].dequantise_step
        ]
        self.noisy = torch.tensor([start for start, _ in noisy], dtype=torch.long)
        self.noise_steps = torch.tensor([step.dequantise_step for _, step in noisy], dtype=torch.float64)
        self._noised = [(start, number, step) for number, (start, step) in enumerate(noisy) if step.own_noise]

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
        return np.clip(x, -_MOST, _MOST, out=x), observed, log_det

    def dequantise(self, x: Tensor, u: Tensor) -> Tensor:
        """x (n, width) with uniform noise inside the cells of the noisy columns, from u (n, noisy columns) in [0, 1)."""
        steps, noisy = self.noise_steps.to(x.device, x.dtype), self.noisy.to(x.device)
        out = x.index_add(1, noisy, (u.to(x.device, x.dtype) - 0.5) * steps)
        for start, number, step in self._noised:
            out[:, start] = step.noised(x[:, start], u[:, number].to(x.device))
        return out

    def noise_log_det(self, x: Tensor, observed: Tensor | None) -> Tensor | None:
        """(n,) what the log-determinant of noised rows x (n, width) adds where it depends on the noise; None for nothing."""
        if not self._noised:
            return None
        total = torch.zeros(len(x), dtype=torch.float64)
        for start, _, step in self._noised:
            own = step.noise_log_det(x[:, start]).cpu()
            total += own if observed is None else torch.where(observed[:, start].cpu(), own, 0.0)
        return total

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
        for name, _, step in self.steps:
            if isinstance(step, Affine):
                out.append(step.mean)
            elif isinstance(step, Grid) and step.values is None:
                out.append(step.low + step.step * step.mean)
            else:
                raise DataError(
                    f"column {name!r} is no linear image of model space, so there are no parameters in its units: train with "
                    f"columns={{{name!r}: 'real'}} to keep it linear"
                )
        return np.array(out)

    def supports(self) -> dict[str, str]:
        """What is known of the columns that are not as they are: see `Codec.supports`."""
        found = {
            name if position is None else f"{name}[{position}]": step.support for name, position, step in self.steps
        }
        return {name: text for name, text in found.items() if text}

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
    limit: float
    rows: int

    def fill(self, block: Floats, gaps: NDArray[np.bool_], out: Floats) -> Floats:
        """Write the model columns of `block` (n, w), and return log |d model / d data| (n,)."""
        some = bool(gaps.any())
        if self.mean is None or self.sd is None:
            off = (block != 0) & (block != 1)
            if not off.any() or (off == gaps).all():
                out[:] = np.where(gaps, 0.0, block) if some else block
                return np.zeros(len(block))
            out[:] = block > 0.5
            away = np.where(off & ~gaps, np.maximum(np.maximum(-block, block - 1), 0.0), 0.0)
            return np.asarray((np.where(off & ~gaps, unexpected(self.rows, away), 0.0)).sum(1))
        np.subtract(block, self.mean, out=out)
        out /= self.sd
        logs = np.log(self.sd)
        if np.nanmax(np.abs(out), initial=0.0) > self.limit:
            return self._far(block, gaps, out)
        if not some:
            return np.full(len(block), -logs.sum())
        out[gaps] = 0.0
        return np.asarray(-((~gaps).astype(np.float64) @ logs))

    def _far(self, block: Floats, gaps: NDArray[np.bool_], out: Floats) -> Floats:
        """As `fill`, column by column, where some numbers are out of all proportion."""
        assert self.mean is not None
        assert self.sd is not None
        log_det = np.zeros(len(block))
        for column, (mean, sd) in enumerate(zip(self.mean, self.sd, strict=True)):
            step = Affine(float(mean), float(sd), limit=self.limit)
            out[:, column] = step.prepare(block[:, column])[0][:, 0]
            log_det += step.log_det(block[:, column])
        return log_det


def _runs(entries: list[tuple[int, tuple[str, int | None, ColumnStep]]]) -> list[_Run]:
    """The runs of at least four simple steps alike."""
    out: list[_Run] = []

    def key(entry: tuple[int, tuple[str, int | None, ColumnStep]]) -> tuple[object, ...]:
        start, (name, position, step) = entry
        simple = position is not None and isinstance(step, Affine | Bit)
        limit = step.warp.limit if isinstance(step, Affine) else None
        return (name, type(step), start - (position or 0), limit) if simple else (start,)

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
                min([step.warp.limit for step in affine], default=np.inf),
                max([step.rows for _, (_, _, step) in found if isinstance(step, Bit)], default=0),
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
