"""The codec of tables: one `ColumnStep` for every scalar column, chosen from what the column is and what a family wants."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data import steps as col
from reverie.data.condition import ConditionCodec
from reverie.data.maps import Codec, Prepared, others, sample_weights
from reverie.data.space import Block, Space, Wants, blocks_in_order
from reverie.data.table import Table
from reverie.errors import DataError, UnsupportedData
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Field, Schema

_FIT_ROWS = 200_000
_NAT = np.iinfo(np.int64).min


class TableCodec(Codec):
    """One `ColumnStep` for every scalar column; model space is their columns side by side, in the schema's order."""

    def __init__(
        self,
        schema: Schema,
        steps: list[tuple[str, int | None, col.ColumnStep]],
        *,
        dtype: str,
        missing: bool,
        refuses_holes: str | None,
        condition: ConditionCodec | None,
    ) -> None:
        self.schema, self.steps, self.condition = schema, steps, condition
        self._refuses_holes = refuses_holes
        placed: list[Block] = []
        for name, position, step in steps:
            placed += step.blocks(name if position is None else f"{name}[{position}]")
        self.space = Space(
            blocks=blocks_in_order(placed),
            missing=missing,
            condition=condition.slot if condition else None,
            dtype=dtype,
        )
        sizes = np.concatenate([[0], np.cumsum([step.width for *_, step in steps])])
        self._starts: list[int] = [int(s) for s in sizes[:-1]]
        noisy = [(s, step.dequantise_step) for s, (*_, step) in zip(self._starts, steps, strict=True)]
        self._noisy = torch.tensor([s for s, width in noisy if width], dtype=torch.long)
        self._noise_steps = torch.tensor([width for _, width in noisy if width], dtype=self.space.torch_dtype)
        self.noise_width = len(self._noisy)

    @classmethod
    def fit(cls, schema: Schema, wants: Wants, sample: Table, condition: ConditionCodec | None) -> TableCodec:
        steps: list[tuple[str, int | None, col.ColumnStep]] = []
        holes = False
        for field in schema.data_fields:
            values = to_float(field, sample.columns[field.name])
            positions: list[int | None] = [None] if not field.shape else list(range(values.shape[1]))
            for position in positions:
                column = values if position is None else values[:, position]
                label = field.name if position is None else f"{field.name}[{position}]"
                has_holes = bool(np.isnan(column).any())
                if has_holes and wants.missing == "refuse":
                    can = others(schema, wants, verb="impute", holes=True)
                    raise UnsupportedData(f"{_hole_text(label, wants.family)}, or use a family that imputes: {can}")
                holes |= has_holes
                step = _fit_step(schema, field, label, column[~np.isnan(column)], wants)
                if has_holes and wants.missing == "flag":
                    step = col.Flagged(step)
                steps.append((field.name, position, step))
        return cls(
            schema,
            steps,
            dtype=wants.dtype,
            missing=holes and wants.missing == "mask",
            refuses_holes=None if wants.missing == "mask" else wants.family,
            condition=condition,
        )

    @property
    def measure(self) -> str:
        counts = Counter(step.measure for *_, step in self.steps)
        if len(counts) == 1:
            return next(iter(counts))
        return " x ".join(f"{count} {name}" for name, count in sorted(counts.items()))

    @property
    def lowers(self) -> bool:
        return self.noise_width > 0

    def prepare(self, table: Table, *, holes: bool = False) -> Prepared:
        x = np.zeros((table.n, self.space.width))
        observed = np.ones((table.n, self.space.width), bool)
        log_det = np.zeros(table.n)
        columns = {field.name: to_float(field, table.columns[field.name]) for field in self.schema.data_fields}
        for start, (name, position, step) in zip(self._starts, self.steps, strict=True):
            values = columns[name] if position is None else columns[name][:, position]
            flagged = isinstance(step, col.Flagged)
            if self._refuses_holes and not holes and not flagged and np.isnan(values).any():
                raise UnsupportedData(_hole_text(name, self._refuses_holes))
            cells, seen = step.prepare(values)
            x[:, start : start + step.width] = cells
            observed[:, start : start + step.width] = seen
            log_det += step.log_det(values)
        field = self.schema.condition
        y = None
        if self.condition is not None and field is not None and field.name in table.columns:
            y = self.encode_condition(table.columns[field.name])
        return Prepared(
            torch.from_numpy(x).to(self.space.torch_dtype),
            None if observed.all() else torch.from_numpy(observed),
            y,
            sample_weights(self.schema, table),
            torch.from_numpy(log_det),
        )

    def noise(self, x: Tensor, noise: Noise) -> Tensor:
        if not self.noise_width:
            return x
        u = noise.uniform(self.noise_width).to(x.dtype)
        steps, noisy = self._noise_steps.to(x.device), self._noisy.to(x.device)
        return x.index_add(1, noisy, (u - 0.5) * steps)

    def batch_log_det(self, x: Tensor) -> Tensor | None:
        return None

    def decode(self, x: Tensor) -> Table:
        model = x.detach().to("cpu", torch.float64).numpy()
        parts: dict[str, list[NDArray[np.float64]]] = {}
        for start, (name, _, step) in zip(self._starts, self.steps, strict=True):
            parts.setdefault(name, []).append(step.decode(model[:, start : start + step.width]))
        fields = {field.name: field for field in self.schema.data_fields}
        return Table(
            {
                name: from_float(fields[name], values[0] if not fields[name].shape else np.stack(values, axis=1))
                for name, values in parts.items()
            },
            model.shape[0],
        )

    def offsets(self) -> NDArray[np.float64]:
        """Where the origin of model space lies in data units, per model column; for affine and gridded columns."""
        out = []
        for *_, step in self.steps:
            if isinstance(step, col.Affine):
                out.append(step.mean)
            elif isinstance(step, col.Grid) and step.values is None:
                out.append(step.low + step.step * step.mean)
            else:
                raise DataError("this table's columns are not all affine images of model space")
        return np.array(out)

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "table",
            "dtype": self.space.dtype,
            "missing": self.space.missing,
            "refuses_holes": self._refuses_holes,
            "steps": [[name, position, step.to_json()] for name, position, step in self.steps],
            "condition": self.condition.to_json() if self.condition else None,
        }

    @classmethod
    def from_json(cls, schema: Schema, data: dict[str, Any]) -> TableCodec:
        return cls(
            schema,
            [(name, position, col.step_from_json(step)) for name, position, step in data["steps"]],
            dtype=data["dtype"],
            missing=data["missing"],
            refuses_holes=data["refuses_holes"],
            condition=ConditionCodec.from_json(data["condition"]) if data["condition"] else None,
        )


def _hole_text(label: str, family: str) -> str:
    return f"column {label!r} has missing cells, which {family} does not take. Drop or fill them first"


def _fit_step(schema: Schema, field: Field, label: str, values: NDArray[np.float64], wants: Wants) -> col.ColumnStep:
    """The step for one column, from its observed values."""
    if field.kind == "category":
        return col.OneHot(len(field.categories or ()))
    if field.kind == "boolean":
        return col.Bit()
    if values.size == 0:
        raise DataError(f"column {label!r} has no value in any training row: drop it or give it the role ignore")
    if wants.discrete == "binary":
        if not np.isin(values, (0.0, 1.0)).all():
            raise UnsupportedData(
                f"{wants.family} has binary units: column {label!r} holds values other than 0 and 1. "
                f"Families that can: {others(schema, wants)}"
            )
        return col.Bit()
    found = _profile(values, integer=field.kind == "integer")
    if values.min() == values.max():
        if wants.mixed:
            return col.Constant(float(values[0]))
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
        return col.Atoms(atoms, rest)
    spikes = col.spikes(values) if wants.mixed else np.empty(0)
    if spikes.size:
        remaining = values[~np.isin(values, spikes)]
        return col.Atoms(spikes, _grid(field, label, remaining, found, wants))
    return _grid(field, label, values, found, wants)


def _profile(values: NDArray[np.float64], *, integer: bool) -> col.Profile:
    """The column's profile from at most 200,000 values spread over it (cheap to sort), or from all of them when the
    rest does not follow the pattern of those."""
    stride = max(1, values.size // _FIT_ROWS)
    found = col.profile(values[::stride], integer=integer)
    if stride == 1 or found.kind in ("continuous", "levels"):
        return found
    k = (values - found.low) / found.step
    if found.kind == "grid" and np.abs(k - np.round(k)).max() <= 1e-3:
        return found
    return found if found.kind == "atoms" else col.profile(values, integer=integer)


def _continuous(values: NDArray[np.float64], wants: Wants) -> col.ColumnStep:
    if wants.numbers == "quantile":
        step = col.Quantile.fit(values)
        if step.knots.size > 2:  # else the values are too tied to have quantiles
            return step
    sd = 1.0 if wants.numbers == "centre" else float(values.std())
    return col.Affine(float(values.mean()), sd if sd > 0 else 1.0)


def _grid(field: Field, label: str, values: NDArray[np.float64], found: col.Profile, wants: Wants) -> col.ColumnStep:
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
    mode = "native" if wants.discrete == "native" else "dequantise" if wants.discrete == "dequantise" else "round"
    bounds: tuple[float | None, float | None] = (None, None)
    if mode == "round" or levels is not None:
        bounds = (float(k.min()), float(k.max()))
    elif mode == "native" and field.kind == "integer" and values.min() >= 0:
        bounds = (float(np.ceil(-low / step)), None)  # counts: nothing below 0
    digits = None if levels is not None else col.decimals(low, step)
    if digits is not None:
        low, step = round(low, digits), round(step, digits)
    return col.Grid(low, step, float(k.mean()), sd, mode, levels, bounds, digits)


def to_float(field: Field, values: NDArray[Any]) -> NDArray[np.float64]:
    """A table column as float64 with NaN for missing; datetimes become seconds since 1970."""
    if field.kind in ("boolean", "category"):
        return np.where(values < 0, np.nan, values.astype(np.float64))
    if field.kind == "datetime":
        return np.where(values == _NAT, np.nan, values.astype(np.float64) / 1e9)
    return values.astype(np.float64)


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
