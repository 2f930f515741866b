"""The codec of sequences: scalar steps are mapped as a table's rows are, and travel sequence after sequence (`Ragged`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.codec.columns import Columns, Floats, from_float, to_float
from reverie.data.codec.condition import ConditionCodec
from reverie.data.codec.maps import Codec, Prepared, others, sample_weights
from reverie.data.codec.tokens import UNKNOWN, Tokenizer, fit_tokenizer, tokenizer_from_json
from reverie.data.schema import STEPS, Field
from reverie.data.space import Ragged, Space, Unseen, Wants, Windows
from reverie.data.table import Table, pack, unpack
from reverie.errors import DataError, SchemaMismatch, UnsupportedData
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Schema

_LENGTHS = 1000
_DRAWN_STEPS = 1024
"""Steps for which noise is drawn in one go: bounds what a long sequence among short ones costs in memory."""


@dataclass(frozen=True)
class Specials:
    """The symbols beside those of the data, where sequences have a single column of `plain` symbols: their codes."""

    plain: int
    boundary: int | None = None
    unknown: int | None = None

    @property
    def levels(self) -> int:
        return self.plain + (self.boundary is not None) + (self.unknown is not None)

    @classmethod
    def after(cls, plain: int, *, boundary: bool, unknown: bool) -> Specials:
        return cls(plain, plain if boundary else None, plain + boundary if unknown else None)

    def add(self, codes: Floats, lengths: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        """Codes (N,) with the unknown ones (NaN) named, and a boundary before and behind every sequence."""
        if self.unknown is not None:
            codes = np.where(np.isnan(codes), float(self.unknown), codes)
        if self.boundary is None:
            return codes, lengths
        out = np.full(len(codes) + 2 * len(lengths), float(self.boundary))
        out[np.arange(len(codes)) + 1 + 2 * np.repeat(np.arange(len(lengths)), lengths)] = codes
        return out, lengths + 2

    def drop(self, codes: NDArray[Any], lengths: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Inverse of `add`; an unknown symbol becomes a missing one."""
        if self.unknown is not None:
            codes = np.where(codes == self.unknown, UNKNOWN, codes)
        if self.boundary is None:
            return codes, lengths
        kept = codes != self.boundary
        row = np.repeat(np.arange(len(lengths)), lengths)
        return codes[kept], np.bincount(row[kept], minlength=len(lengths)).astype(np.int64)


class SequenceCodec(Codec):
    """One `ColumnStep` for every column of a step; a step of a text is a token (`tokenizers`).

    `lengths` are those of the training sequences, sorted, at most 1000 of them; `draw_lengths` draws from them.
    """

    def __init__(
        self,
        schema: Schema,
        columns: Columns,
        *,
        lengths: NDArray[np.int64],
        tokenizers: dict[str, Tokenizer],
        specials: Specials | None,
        windows: Windows | None,
        dtype: str,
        missing: bool,
        refuses_holes: str | None,
        unseen: Unseen,
        condition: ConditionCodec | None,
    ) -> None:
        self.schema, self.columns, self.condition = schema, columns, condition
        self.steps = columns.steps
        self.lengths, self.tokenizers, self.specials, self.unseen = lengths, tokenizers, specials, unseen
        self._refuses_holes = refuses_holes
        self.space = Space(
            blocks=columns.blocks,
            missing=missing,
            condition=condition.slot if condition else None,
            dtype=dtype,
            sequence=True,
            longest=int(lengths[-1]),
            boundary=specials.boundary if specials else None,
            unknown=specials.unknown if specials else None,
            windows=windows,
        )
        self.noise_width = self.space.longest * len(columns.noisy)

    @classmethod
    def fit(cls, schema: Schema, wants: Wants, sample: Table, condition: ConditionCodec | None) -> SequenceCodec:
        _check_steps(schema, wants)
        least = 2 if wants.unseen == "unknown" else 1
        tokenizers = {
            field.name: fit_tokenizer(wants.tokens, sample[field.name], vocabulary=wants.vocabulary, least=least)
            for field in schema.data_fields
            if field.kind == "text"
        }
        specials = _specials(schema, wants, tokenizers)
        values, lengths = _pack_fields(schema, sample, tokenizers, specials, wants.unseen)
        fields = [_one_step(field, tokenizers, specials) for field in schema.data_fields]
        columns, holes = Columns.fit(schema, wants, fields, values)
        ordered = np.sort(lengths)
        kept = np.linspace(0, len(ordered) - 1, min(_LENGTHS, len(ordered))).round().astype(np.int64)
        return cls(
            schema,
            columns,
            lengths=ordered[kept],
            tokenizers=tokenizers,
            specials=specials,
            windows=wants.windows,
            dtype=wants.dtype,
            missing=holes and wants.missing == "mask",
            refuses_holes=None if wants.missing == "mask" else wants.family,
            unseen=wants.unseen,
            condition=condition,
        )

    def supports(self) -> dict[str, str]:
        return self.columns.supports()

    @property
    def measure(self) -> str:
        return self.columns.measure

    @property
    def lowers(self) -> bool:
        return self.noise_width > 0

    def prepare(self, table: Table, *, holes: bool = False) -> Prepared:
        values, lengths = _pack_fields(self.schema, table, self.tokenizers, self.specials, self.unseen)
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
        values, lengths = _pack_fields(self.schema, table, self.tokenizers, self.specials, self.unseen)
        return self.columns.prepare(values, int(lengths.sum()), refuses=None)[2]

    def noise(self, x: Ragged, noise: Noise) -> Ragged:
        """Uniform noise inside the cells of dequantised columns. A sequence draws for `longest` steps whatever its own
        length (and again for those beyond, in later data), so its noise does not depend on its neighbours."""
        if x.dtype != self.space.torch_dtype:  # symbols may travel as small whole numbers
            x = x.to(self.space.torch_dtype)
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

    def batch_log_det(self, x: Ragged, observed: Tensor | None = None) -> Tensor | None:
        steps = self.columns.noise_log_det(x.values, observed)
        if steps is None:
            return None
        return steps.new_zeros(len(x)).index_add_(0, x.places[0].cpu(), steps)

    def decode(self, x: Ragged, *, means: bool = False) -> Table:
        fields = [_one_step(field, self.tokenizers, self.specials) for field in self.schema.data_fields]
        values = self.columns.decode(x.values, fields, means=means)
        lengths = x.lengths.detach().cpu().numpy()
        out = {}
        for field in fields:
            steps, own = from_float(field, values[field.name]), lengths
            if self.specials is not None:
                steps, own = self.specials.drop(steps, lengths)
            if field.name in self.tokenizers:
                out[field.name] = self.tokenizers[field.name].decode(steps, own)
            else:
                out[field.name] = unpack(steps, own)
        return Table(out, len(lengths))

    @property
    def compact(self) -> torch.dtype | None:
        """The smallest type that holds a lone column of symbols exactly; None for other columns."""
        if [block.kind for block in self.space.blocks] != ["symbol"]:
            return None
        levels = self.space.blocks[0].levels
        return torch.uint8 if levels <= 2**8 else torch.int16 if levels <= 2**15 else torch.int32

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
            "tokenizers": {name: tokenizer.to_json() for name, tokenizer in self.tokenizers.items()},
            "specials": asdict(self.specials) if self.specials else None,
            "windows": asdict(self.space.windows) if self.space.windows else None,
            "steps": self.columns.to_json(),
            "condition": self.condition.to_json() if self.condition else None,
        }

    @classmethod
    def from_json(cls, schema: Schema, data: dict[str, Any], condition: ConditionCodec | None) -> SequenceCodec:
        if "alphabets" in data:  # files from before texts had tokenizers
            texts = {name: {"kind": "characters", "tokens": list(known)} for name, known in data["alphabets"].items()}
            data = {**data, "tokenizers": texts, "specials": None, "windows": None}
        return cls(
            schema,
            Columns.from_json(data["steps"]),
            lengths=np.array(data["lengths"], dtype=np.int64),
            tokenizers={name: tokenizer_from_json(item) for name, item in data["tokenizers"].items()},
            specials=Specials(**data["specials"]) if data["specials"] else None,
            windows=Windows(**data["windows"]) if data["windows"] else None,
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


def _specials(schema: Schema, wants: Wants, tokenizers: Mapping[str, Tokenizer]) -> Specials | None:
    """The special symbols that the family wants, where the data are one column of symbols without labels per step."""
    field = schema.data_fields[0]
    symbols = field.kind == "text" or (field.one_step.kind == "category" and not field.shape)
    labelled = any(item.kind == "sequence" and not item.whole for item in schema.conditions)
    if len(schema.data_fields) > 1 or not symbols or labelled:
        return None
    unknown = wants.unseen == "unknown"
    if not wants.boundary and not unknown:
        return None
    plain = tokenizers[field.name].size if field.name in tokenizers else len(field.categories or ())
    return Specials.after(plain, boundary=wants.boundary, unknown=unknown)


def _one_step(field: Field, tokenizers: Mapping[str, Tokenizer], specials: Specials | None) -> Field:
    """The scalar field of one step; of a text, one token; the special symbols stand behind the others."""
    step = field.one_step
    if field.kind == "text":
        step = replace(field, kind="category", categories=tuple(range(tokenizers[field.name].size)))
    return step if specials is None else replace(step, categories=tuple(range(specials.levels)))


def _pack_fields(
    schema: Schema, table: Table, tokenizers: Mapping[str, Tokenizer], specials: Specials | None, unseen: Unseen
) -> tuple[dict[str, Floats], NDArray[np.int64]]:
    """The data columns as floats (N, ...), NaN = missing, and the lengths (n,), checked to be those of every column."""
    out: dict[str, Floats] = {}
    lengths: NDArray[np.int64] = np.zeros(table.n, np.int64)
    first = schema.data_fields[0].name
    per_step = [field for field in schema.conditions if field.kind == "sequence" and not field.whole]
    for field in (*schema.data_fields, *per_step):
        if field.kind not in ("sequence", "text") or field.name not in table:
            continue
        codes: NDArray[np.int64] | None = None
        if field.kind == "text":
            codes, counts = tokenizers[field.name].encode(table[field.name])
        else:
            counts = np.array([len(item) for item in table[field.name]], dtype=np.int64)
        if field.name == first:
            lengths = counts
        if (counts != lengths).any():
            row = int(np.argmax(counts != lengths))
            raise DataError(
                f"sequence {row} has {counts[row]} steps in {field.name!r} and {lengths[row]} in {first!r}: the columns of "
                "a sequence go together step by step"
            )
        if (counts == 0).any() and (specials is None or specials.boundary is None):
            raise DataError(f"sequence {int(np.argmin(counts))} of {field.name!r} is empty: drop it")
        if field.role == "condition":
            continue
        if codes is not None:
            if unseen == "refuse" and (codes == UNKNOWN).any():
                raise SchemaMismatch(_unseen(table[field.name], tokenizers[field.name], codes, counts))
            out[field.name] = np.where(codes == UNKNOWN, np.nan, codes.astype(np.float64))
        else:
            one = field.one_step
            steps = pack(table[field.name])[0] if table.n else np.empty(0)
            out[field.name] = to_float(one, steps).reshape(int(counts.sum()), *field.shape)
    if specials is not None:
        out[first], lengths = specials.add(out[first], lengths)
    return out, lengths


def _unseen(texts: NDArray[Any], tokenizer: Tokenizer, codes: NDArray[np.int64], lengths: NDArray[np.int64]) -> str:
    """Where the first unknown token is, and what it is."""
    at = int(np.argmax(codes == UNKNOWN))
    row = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
    place = at - int(lengths[:row].sum())
    known = "".join(tokenizer.tokens) if tokenizer.kind == "characters" else " ".join(tokenizer.tokens)
    what = "character" if tokenizer.kind == "characters" else "token"
    token = repr(texts[row][place]) if tokenizer.kind == "characters" else f"a token of {texts[row][:60]!r}"
    return (
        f"text {row}, {what} {place}: {token} does not occur in the training texts, whose {what}s "
        f"are {known[:60]!r}{'...' if len(known) > 60 else ''}. Replace or drop it"
    )
