"""Examples cut into global batches: order, tails, this process's share. The same batches for every world size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.data.codec.maps import Codec, Prepared, sample_weights
from reverie.data.dataset import Dataset
from reverie.data.space import Batch, Ragged, rows_of
from reverie.data.table import Table
from reverie.data.windows import Cut, Cutter
from reverie.rng import Noise, generator, stream


@dataclass(frozen=True)
class Slot:
    """One global batch: rows `start .. stop` of the epoch's order."""

    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Order:
    """The order of one pass: a permutation of the rows, or None as they lie; where rows are windows, how they are cut."""

    rows: Tensor | None = None
    cut: Cut | None = None


class Batches:
    """Training or validation rows, prepared once when they fit in memory and per batch when they stream.

    Where the examples are sequences, rows are whole ones, or windows of them where the family wants these
    (`Space.windows`): they are then held in memory, symbols in the smallest type that holds them. A global batch of B rows is split among processes as rows `rank::world`. A tail of fewer than max(2, world) rows
    joins the batch before it, so no process is ever without rows.
    """

    def __init__(self, data: Dataset, codec: Codec, *, seed: int, rank: int = 0, world: int = 1) -> None:
        self.codec, self._data, self._seed, self._rank, self._world = codec, data, seed, rank, world
        self.n = len(data)
        self._token = object()
        self._prepared: Prepared | None = None
        self._cutter: Cutter | None = None
        if codec.space.windows is not None:
            self._prepared = compact(codec, (self._prepare(table) for table in data.chunks()))
            self._cutter = self._cut(self._prepared.x)
            self._still = self._cutter.cut(None)
            self.n = len(self._still)
        elif data.in_memory:
            self._prepared = self._prepare(data.whole())

    def _cut(self, x: Ragged) -> Cutter:
        """The cutter of these sequences; groups stay apart where sequences are mixed."""
        space, groups = self.codec.space, None
        assert space.windows is not None
        if space.windows.mixed and (named := self._data.schema.with_role("group")):
            column = np.concatenate([table[named[0].name] for table in self._data.chunks()])
            groups = np.unique(column.astype(str) if column.dtype == object else column, return_inverse=True)[1]
        shared = space.boundary is not None
        return Cutter(x.lengths.numpy(), space.windows, groups=groups, shared=shared)

    def _prepare(self, table: Table) -> Prepared:
        """Prepared rows, with the weights of these data: a codec that came with a start may know of none."""
        rows = self.codec.prepare(table)
        return rows if rows.weight is not None else replace(rows, weight=sample_weights(self._data.schema, table))

    @property
    def _steady(self) -> bool:
        """The same slot holds the same numbers in every pass."""
        return self._prepared is not None and not self.codec.noise_width and self._cutter is None

    @property
    def nbytes(self) -> int:
        """Bytes of the prepared rows held in memory; 0 when they stream."""
        return 0 if self._prepared is None else self._prepared.nbytes

    def slots(self, batch_size: int | None) -> list[Slot]:
        """The global batches of one pass."""
        size = min(batch_size or self.n, self.n)
        starts = list(range(0, self.n, size))
        if len(starts) > 1 and self.n - starts[-1] < max(2, self._world):
            starts.pop()
        stops = [*starts[1:], self.n]
        return [Slot(a, b) for a, b in zip(starts, stops, strict=True)]

    def order(self, phase: str, epoch: int, *, shuffle: bool) -> Order:
        """The order of one pass: a function of (seed, phase, epoch) and nothing else."""
        if not shuffle:
            return Order()
        rows = torch.randperm(self.n, generator=generator(self._seed, "order", phase, epoch))
        if self._cutter is None:
            return Order(rows)
        drawn = np.random.Generator(np.random.PCG64(stream(self._seed, "windows", phase, epoch)))
        return Order(rows, self._cutter.cut(drawn))

    def rows(self, slot: Slot, order: Order, *, whole: bool = False) -> Prepared:
        """This process's prepared rows of a slot (all of them when `whole`)."""
        first, stride = (0, 1) if whole else (self._rank, self._world)
        index: Tensor | slice = slice(slot.start + first, slot.stop, stride)
        if order.rows is not None:
            index = order.rows[index]
        if self._cutter is not None:
            assert self._prepared is not None
            return windows_of(self._prepared, order.cut or self._still, index, self._cutter.longest)
        if self._prepared is not None:
            return self._prepared.rows(index)
        lying = np.arange(slot.start + first, slot.stop, stride) if isinstance(index, slice) else index.numpy()
        return self._prepare(self._data.take(lying))

    def batch(
        self, slot: Slot, order: Order, noise: Noise | None, device: torch.device, *, whole: bool = False
    ) -> Batch:
        """The batch of a slot as the network sees it: noised (or in the middle without noise), on the device, with the
        global row and weight counts."""
        rows, condition = self.rows(slot, order, whole=whole), self.codec.condition
        on_cpu = device.type == "cpu"

        def move(t: Any) -> Any:
            return t if t is None or on_cpu else t.to(device, non_blocking=True)

        x = rows.x if on_cpu else rows.x.to(device, non_blocking=True)
        return Batch(
            x=self.codec.middle(x) if noise is None else self.codec.noise(x, noise),
            observed=move(rows.observed),
            y=None if rows.y is None or condition is None else condition.finish(move(rows.y)),
            weight=move(rows.weight),
            rows=slot.rows,
            key=(self._token, slot, whole) if order.rows is None and self._steady else None,
            labelled_steps=rows.labelled_steps,
        )


def compact(codec: Codec, parts: Iterator[Prepared]) -> Prepared:
    """Prepared sequences side by side in memory, lone symbols in the smallest whole-number type that holds them."""
    small: torch.dtype | None = getattr(codec, "compact", None)
    rows = list(parts)
    for part in rows:
        if small is not None:
            part.x = Ragged(part.x.values.to(small), part.x.lengths)

    def join(pieces: list[Any]) -> Any:
        if any(piece is None for piece in pieces):
            return None
        if isinstance(pieces[0], Ragged):
            return Ragged(torch.cat([p.values for p in pieces]), torch.cat([p.lengths for p in pieces]))
        return torch.cat(pieces)

    return Prepared(
        join([part.x for part in rows]),
        _observed(rows),
        join([part.y for part in rows]),
        join([part.weight for part in rows]),
        join([part.log_det for part in rows]),
        rows[0].labelled_steps,
    )


def _observed(parts: list[Prepared]) -> Tensor | None:
    """Which cells are seen, of parts where those without a hole say nothing of it."""
    if all(part.observed is None for part in parts):
        return None
    return torch.cat(
        [
            part.observed if part.observed is not None else torch.ones(part.x.values.shape, dtype=torch.bool)
            for part in parts
        ]
    )


def windows_of(rows: Prepared, cut: Cut, index: Tensor | slice, longest: int) -> Prepared:
    """Those windows of prepared sequences. What y and weight say of a sequence holds for each of its windows; a window has
    no log-determinant of its own, so there is nan."""
    places, own = cut.places(index), cut.rows[index]
    return Prepared(
        cut.windows(rows.x.values, index, longest),
        None if rows.observed is None else rows.observed[places],
        rows_of(rows.y, places if rows.labelled_steps else own),
        rows_of(rows.weight, own),
        torch.full((len(own),), torch.nan, dtype=torch.float64),
        rows.labelled_steps,
    )
