"""The codec of sequences: scalar steps are mapped as a table's rows are, and travel sequence after sequence (`Ragged`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.codec.columns import Columns, Floats, from_float, to_float
from reverie.data.codec.condition import ConditionCodec
from reverie.data.codec.maps import Codec, Prepared, others, sample_weights
from reverie.data.schema import STEPS, Field
from reverie.data.space import Ragged, Space, Wants
from reverie.data.table import Table, pack, unpack
from reverie.errors import DataError, SchemaMismatch, UnsupportedData
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Schema

_LENGTHS = 1000
_DRAWN_STEPS = 1024
"""Steps for which noise is drawn in one go: bounds what a long sequence among short ones costs in memory."""


class SequenceCodec(Codec):
    """One `ColumnStep` for every column of a step; texts are sequences of their characters (`alphabets`).

    `lengths` are those of the training sequences, sorted, at most 1000 of them; `draw_lengths` draws from them.
    """

    def __init__(
        self,
        schema: Schema,
        columns: Columns,
        *,
        lengths: NDArray[np.int64],
        alphabets: dict[str, str],
        dtype: str,
        missing: bool,
        refuses_holes: str | None,
        unseen: Literal["refuse", "missing"],
        condition: ConditionCodec | None,
    ) -> None:
        self.schema, self.columns, self.condition = schema, columns, condition
        self.steps = columns.steps
        self.lengths, self.alphabets, self.unseen = lengths, alphabets, unseen
        self._refuses_holes = refuses_holes
        self.space = Space(
            blocks=columns.blocks,
            missing=missing,
            condition=condition.slot if condition else None,
            dtype=dtype,
            sequence=True,
            longest=int(lengths[-1]),
        )
        self.noise_width = self.space.longest * len(columns.noisy)

    @classmethod
    def fit(cls, schema: Schema, wants: Wants, sample: Table, condition: ConditionCodec | None) -> SequenceCodec:
        _check_steps(schema, wants)
        alphabets = {
            field.name: "".join(sorted(set().union(*sample[field.name])))
            for field in schema.data_fields
            if field.kind == "text"
        }
        values, lengths = _pack_fields(schema, sample, alphabets, wants.unseen)
        fields = [_one_step(field, alphabets) for field in schema.data_fields]
        columns, holes = Columns.fit(schema, wants, fields, values)
        ordered = np.sort(lengths)
        kept = np.linspace(0, len(ordered) - 1, min(_LENGTHS, len(ordered))).round().astype(np.int64)
        return cls(
            schema,
            columns,
            lengths=ordered[kept],
            alphabets=alphabets,
            dtype=wants.dtype,
            missing=holes and wants.missing == "mask",
            refuses_holes=None if wants.missing == "mask" else wants.family,
            unseen=wants.unseen,
            condition=condition,
        )

    @property
    def measure(self) -> str:
        return self.columns.measure

    @property
    def lowers(self) -> bool:
        return self.noise_width > 0

    def prepare(self, table: Table, *, holes: bool = False) -> Prepared:
        values, lengths = _pack_fields(self.schema, table, self.alphabets, self.unseen)
        refuses = None if holes else self._refuses_holes
        x, observed, log_det = self.columns.prepare(values, int(lengths.sum()), refuses=refuses)
        starts = np.cumsum(lengths) - lengths
        per_sequence = np.add.reduceat(log_det, starts) if len(lengths) else np.zeros(0)
        return Prepared(
            Ragged(torch.from_numpy(x).to(self.space.torch_dtype), torch.from_numpy(lengths)),
            None if observed.all() else torch.from_numpy(observed),
            self.condition_of(table),
            sample_weights(self.schema, table),
            torch.from_numpy(per_sequence),
            self.condition is not None and self.condition.kind == "steps",
        )

    def step_log_det(self, table: Table) -> NDArray[np.float64]:
        """log |d model / d data| of every step, (N,): `Prepared.log_det` before it is summed over each sequence."""
        values, lengths = _pack_fields(self.schema, table, self.alphabets, self.unseen)
        return self.columns.prepare(values, int(lengths.sum()), refuses=None)[2]

    def noise(self, x: Ragged, noise: Noise) -> Ragged:
        """Uniform noise inside the cells of dequantised columns. A sequence draws for `longest` steps whatever its own
        length (and again for those beyond, in later data), so its noise does not depend on its neighbours."""
        count = len(self.columns.noisy)
        if not count:
            return x
        row, place = x.places
        u = torch.zeros(len(row), count, dtype=x.dtype, device=x.device)
        width = min(self.space.longest, _DRAWN_STEPS)
        for start in range(0, max(x.longest, 1), width):
            drawn = noise.uniform(width, count)
            here = torch.nonzero((place >= start) & (place < start + width))[:, 0]
            picked = drawn[row[here].to(drawn.device), (place[here] - start).to(drawn.device)]
            u[here.to(x.device)] = picked.to(x.device, x.dtype)
        return x.replaced(self.columns.dequantise(x.values, u))

    def batch_log_det(self, x: Ragged) -> Tensor | None:
        return None

    def decode(self, x: Ragged, *, means: bool = False) -> Table:
        fields = [_one_step(field, self.alphabets) for field in self.schema.data_fields]
        values = self.columns.decode(x.values, fields, means=means)
        lengths = x.lengths.detach().cpu().numpy()
        out = {}
        for field in fields:
            steps = from_float(field, values[field.name])
            if field.name in self.alphabets:
                out[field.name] = _texts(self.alphabets[field.name], steps, lengths)
            else:
                out[field.name] = unpack(steps, lengths)
        return Table(out, len(lengths))

    def draw_lengths(self, noise: Noise) -> Tensor:
        """(n,) lengths as they occur in training, for `noise.rows` sequences; on the CPU."""
        u = noise.uniform().double().cpu().numpy()
        at = np.minimum((u * len(self.lengths)).astype(np.int64), len(self.lengths) - 1)
        return torch.from_numpy(self.lengths[at])

    @property
    def affine(self) -> tuple[Floats, Floats]:
        """(offset, scale) of every column, data = offset + scale * model; for affine and gridded columns."""
        return self.columns.offsets(), self.space.scales

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "sequence",
            "dtype": self.space.dtype,
            "missing": self.space.missing,
            "refuses_holes": self._refuses_holes,
            "unseen": self.unseen,
            "lengths": self.lengths.tolist(),
            "alphabets": self.alphabets,
            "steps": self.columns.to_json(),
            "condition": self.condition.to_json() if self.condition else None,
        }

    @classmethod
    def from_json(cls, schema: Schema, data: dict[str, Any], condition: ConditionCodec | None) -> SequenceCodec:
        return cls(
            schema,
            Columns.from_json(data["steps"]),
            lengths=np.array(data["lengths"], dtype=np.int64),
            alphabets=data["alphabets"],
            dtype=data["dtype"],
            missing=data["missing"],
            refuses_holes=data["refuses_holes"],
            unseen=data["unseen"],
            condition=condition,
        )


def _check_steps(schema: Schema, wants: Wants) -> None:
    """All data columns are of steps, and of kinds the family takes: any kind unless it names scalar kinds too."""
    scalars = wants.kinds & frozenset(STEPS)
    for field in schema.data_fields:
        if field.kind not in ("sequence", "text"):
            raise UnsupportedData(
                f"column {field.name!r} has one value per sequence, beside columns of steps: give it the role condition, "
                "group, weight or ignore"
            )
        step = field.one_step.kind if field.kind == "sequence" else "category"
        if scalars and step not in scalars:
            raise UnsupportedData(
                f"{wants.family} cannot learn from {field.name!r}, whose steps are of kind {step}: it takes "
                f"{', '.join(sorted(scalars))}. Families that can: {others(schema, wants, step)}"
            )


def _one_step(field: Field, alphabets: dict[str, str]) -> Field:
    """The scalar field of one step; of a text, one character."""
    if field.kind != "text":
        return field.one_step
    return replace(field, kind="category", categories=tuple(alphabets[field.name]))


def _pack_fields(
    schema: Schema, table: Table, alphabets: dict[str, str], unseen: str
) -> tuple[dict[str, Floats], NDArray[np.int64]]:
    """The data columns as floats (N, ...), NaN = missing, and the lengths (n,), checked to be those of every column."""
    out: dict[str, Floats] = {}
    lengths: NDArray[np.int64] = np.zeros(table.n, np.int64)
    first = schema.data_fields[0].name
    per_step = [field for field in schema.conditions if field.kind == "sequence" and not field.whole]
    for field in (*schema.data_fields, *per_step):
        if field.kind not in ("sequence", "text") or field.name not in table:
            continue
        counts = np.array([len(item) for item in table[field.name]], dtype=np.int64)
        if field.name == first:
            lengths = counts
        if (counts != lengths).any():
            row = int(np.argmax(counts != lengths))
            raise DataError(
                f"sequence {row} has {counts[row]} steps in {field.name!r} and {lengths[row]} in {first!r}: the columns of "
                "a sequence go together step by step"
            )
        if (counts == 0).any():
            raise DataError(f"sequence {int(np.argmin(counts))} of {field.name!r} is empty: drop it")
        if field.role == "condition":
            continue
        if field.kind == "text":
            out[field.name] = _characters(field.name, table, alphabets[field.name], counts, unseen)
        else:
            one = field.one_step
            out[field.name] = to_float(one, pack(table[field.name])[0]).reshape(int(counts.sum()), *field.shape)
    return out, lengths


def _characters(name: str, table: Table, alphabet: str, lengths: NDArray[np.int64], unseen: str) -> Floats:
    """(N,) the code of every character, NaN for one that training did not have (or `SchemaMismatch`)."""
    points = _points("".join(table[name]))
    known = _points(alphabet)
    codes = np.clip(np.searchsorted(known, points), 0, len(known) - 1)
    wrong = known[codes] != points
    if wrong.any() and unseen == "refuse":
        at = int(np.argmax(wrong))
        row = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        place = at - int(lengths[:row].sum())
        raise SchemaMismatch(
            f"text {row}, character {place}: {chr(points[at])!r} does not occur in the training texts, whose characters "
            f"are {alphabet[:60]!r}{'...' if len(alphabet) > 60 else ''}. Replace or drop it"
        )
    return np.where(wrong, np.nan, codes.astype(np.float64))


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _texts(alphabet: str, codes: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Texts from the codes of their characters."""
    joined = "".join(np.array([*alphabet, ""], dtype=object)[codes].tolist())
    if (codes < 0).any():  # a missing character leaves nothing behind
        lengths = np.add.reduceat((codes >= 0).astype(np.int64), np.cumsum(lengths) - lengths)
    out = np.empty(len(lengths), dtype=object)
    ends = np.cumsum(lengths)
    for row, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        out[row] = joined[end - length : end]
    return out
