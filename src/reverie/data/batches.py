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
from reverie.data.space import Batch
from reverie.data.table import Table
from reverie.rng import Noise, generator


@dataclass(frozen=True)
class Slot:
    """One global batch: rows `start .. stop` of the epoch's order."""

    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


class Batches:
    """Training or validation rows, prepared once when they fit in memory and per batch when they stream.

    Rows are whole sequences where the examples are sequences. A global batch of B rows is split among processes as rows `rank::world`. A tail of fewer than max(2, world) rows
    joins the batch before it, so no process is ever without rows.
    """

    def __init__(self, data: Dataset, codec: Codec, *, seed: int, rank: int = 0, world: int = 1) -> None:
        self.codec, self._data, self._seed, self._rank, self._world = codec, data, seed, rank, world
        self.n = len(data)
        self._token = object()
        self._prepared: Prepared | None = None
        if data.in_memory:
            self._prepared = self._prepare(data.whole())

    def _prepare(self, table: Table) -> Prepared:
        """Prepared rows, with the weights of these data: a codec that came with a start may know of none."""
        rows = self.codec.prepare(table)
        return rows if rows.weight is not None else replace(rows, weight=sample_weights(self._data.schema, table))

    @property
    def _steady(self) -> bool:
        """The same slot holds the same numbers in every pass."""
        return self._prepared is not None and not self.codec.noise_width

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

    def order(self, phase: str, epoch: int, *, shuffle: bool) -> Tensor | None:
        """The permutation of one pass: a function of (seed, phase, epoch) and nothing else."""
        if not shuffle:
            return None
        return torch.randperm(self.n, generator=generator(self._seed, "order", phase, epoch))

    def rows(self, slot: Slot, order: Tensor | None, *, whole: bool = False) -> Prepared:
        """This process's prepared rows of a slot (all of them when `whole`)."""
        first, stride = (0, 1) if whole else (self._rank, self._world)
        if self._prepared is not None:
            if order is None:
                return self._prepared.rows(slice(slot.start + first, slot.stop, stride))
            return self._prepared.rows(order[slot.start + first : slot.stop : stride])
        index = np.arange(slot.start, slot.stop) if order is None else order[slot.start : slot.stop].numpy()
        return self._prepare(self._data.take(index[first::stride]))

    def batch(
        self, slot: Slot, order: Tensor | None, noise: Noise | None, device: torch.device, *, whole: bool = False
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
            key=(self._token, slot, whole) if order is None and self._steady else None,
        )

    def chunks(self, size: int) -> Iterator[Prepared]:
        """All rows of the data in their own order, on every process alike."""
        for start in range(0, self.n, size):
            yield self.rows(Slot(start, min(start + size, self.n)), None, whole=True)
