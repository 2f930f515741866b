"""Where the steps of sequences of any lengths lie, side by side and cut into segments.

Tensors of many steps are state-major, (K, columns): step t of every segment that is that long, then step t + 1, and so on.
Steps taken together are then a contiguous range of columns, however ragged the sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.inference.compiled import available

MOST_STATES = 16
LANES = 64  # sequences or segments that compiled passes take together
STEP, MERGING = 14e-6, 40  # seconds one step of both directions costs at least; steps a usual chain takes to forget


@dataclass(frozen=True)
class Packing:
    """Runs of consecutive rows, longest first, side by side. Column `offsets[t] + i` is step t of run `order[i]`."""

    rows: Tensor  # (N,) the row in each column
    order: Tensor  # (runs,)
    sizes: list[int]  # runs that have a step t
    offsets: list[int]

    @staticmethod
    def of(starts: Tensor, lengths: Tensor) -> Packing:
        """starts, lengths (runs,), lengths >= 1."""
        order = torch.argsort(lengths, descending=True, stable=True)
        longest = int(lengths.max()) if len(lengths) else 0
        ended = torch.bincount(lengths, minlength=longest + 1)[: longest + 1].cumsum(0)
        sizes = len(lengths) - ended[:-1]
        offsets = sizes.cumsum(0) - sizes
        time = torch.repeat_interleave(torch.arange(longest, device=sizes.device), sizes)
        slot = torch.arange(len(time), device=sizes.device) - offsets[time]
        return Packing(starts[order][slot] + time, order, sizes.tolist(), offsets.tolist())

    def last(self, lengths: Tensor) -> Tensor:
        """The column of each slot's last step; lengths (runs,) in the order of the slots."""
        offsets = torch.tensor(self.offsets, device=lengths.device)
        return offsets[lengths - 1] + torch.arange(len(lengths), device=lengths.device)


class Layout:
    """How sequences of `lengths` (n,) lie side by side: built once, used for every pass over the same sequences.

    `states` (K) sets how long the segments are unless `segment` says so (0: do not cut). Every segment that has a
    successor is exactly `segment` steps long; the last one of a sequence takes the rest. `compiled`: passes over these
    sequences use `inference.compiled` where that is installed (and on a CPU).
    """

    def __init__(
        self,
        lengths: Tensor | Sequence[int],
        states: int,
        *,
        segment: int | None = None,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        self._rooms: dict[str, Tensor] = {}
        self.compiled = compiled and device == "cpu" and available()
        self.compiled_sums = self.compiled and states <= MOST_STATES  # more are better left to matrix products
        self.lengths = torch.as_tensor(lengths, dtype=torch.long).to(device)
        self.steps = int(self.lengths.sum())
        self.longest = int(self.lengths.max()) if len(self.lengths) else 0
        self.segment = self._cut(states) if segment is None else segment
        counts = torch.ones_like(self.lengths)
        if self.segment:
            counts = ((self.lengths + self.segment // 2) // self.segment).clamp_min(1)
        counts = torch.where(self.lengths > 0, counts, 0)
        sequence = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(sequence), device=counts.device) - first[sequence]
        begins = self.lengths.cumsum(0) - self.lengths
        is_last = rank == counts[sequence] - 1
        size = torch.where(is_last, self.lengths[sequence] - rank * self.segment, self.segment)
        self.packing = Packing.of(begins[sequence] + rank * self.segment, size)
        order = self.packing.order
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order), device=order.device)
        self.rows = self.packing.rows  # (N,) the user's row in each column
        self.columns = torch.empty_like(self.rows)  # (N,) the column of each of the user's rows
        self.columns[self.rows] = torch.arange(self.steps, device=self.rows.device)
        self.chain = slot  # the slots of the segments one after the other
        self.sequence, self.rank, self.size = sequence[order], rank[order], size[order]
        self.is_head, self.is_last = self.rank == 0, is_last[order]
        self.previous = torch.where(self.is_head, -1, slot[order - 1])  # slot of the segment before, -1 for none
        self.next = torch.where(self.is_last, -1, slot[(order + 1).clamp_max(max(len(order) - 1, 0))])
        self.last = self.packing.last(self.size) if len(order) else order
        self.heads = self.is_head.nonzero()[:, 0]
        self.followers = (~self.is_head).nonzero()[:, 0]  # segments that have one before
        self.leaders = (~self.is_last).nonzero()[:, 0]  # segments that have one after: all of length `segment`

    def _cut(self, states: int) -> int:
        """Segments of L steps cost (L + merging) steps of overhead, and merging / L of the arithmetic a second time."""
        if self.compiled_sums:  # a step has no overhead then: only as many segments as fill a block of lanes
            best = max(256, self.steps // LANES)
            return best if self.longest >= 2 * best else 0
        arithmetic = 1e-8 + 4 * states * (states + 4) / 4e10
        best = max(32, round(math.sqrt(MERGING * self.steps * arithmetic / STEP)))
        return best if self.longest >= 2 * best else 0

    def step_seconds(self, states: int) -> float:
        """What one step of both directions costs, however few the lanes."""
        return 1.5e-9 * states * (3 * states + 20) if self.compiled_sums else STEP

    @cached_property
    def whole(self) -> Packing:
        """The sequences uncut: their rows are columns of this layout."""
        kept = (self.lengths > 0).nonzero()[:, 0]
        begins = (self.lengths.cumsum(0) - self.lengths)[kept]
        packing = Packing.of(begins, self.lengths[kept])
        return Packing(self.columns[packing.rows], kept[packing.order], packing.sizes, packing.offsets)

    @cached_property
    def ranks(self) -> list[Tensor]:
        """The slots of the first segments, of the second ones, and so on."""
        order = torch.argsort(self.rank, stable=True)
        return list(torch.split(order, torch.bincount(self.rank).tolist())) if len(order) else []

    def among(self, slots: Tensor) -> tuple[Tensor, list[int]]:
        """The columns of some slots (ascending, hence longest first), packed among themselves."""
        packing = Packing.of(torch.zeros_like(slots), self.size[slots])
        offsets = torch.tensor(self.packing.offsets, device=slots.device)
        time = packing.rows
        inner = torch.arange(len(time), device=slots.device) - torch.tensor(packing.offsets, device=slots.device)[time]
        return offsets[time] + slots[inner], packing.sizes

    def room(self, name: str, states: int, like: Tensor) -> Tensor:
        """Memory (K, N) that passes over these sequences share: fresh pages cost more than a pass's arithmetic."""
        room = self._rooms.get(name)
        if room is None or room.shape[0] != states or room.dtype != like.dtype or room.device != like.device:
            room = self._rooms[name] = torch.empty(states, self.steps, dtype=like.dtype, device=like.device)
        return room

    def pack(self, rows: Tensor) -> Tensor:
        """Rows (N, ...) in the order of the columns."""
        return rows.index_select(0, self.rows)

    def unpack(self, rows: Tensor) -> Tensor:
        """Back to the order of the sequences."""
        return rows.contiguous().index_select(0, self.columns)

    def per_sequence(self, values: Tensor) -> Tensor:
        """Sums (n,) in float64 of values (N,) in the order of the columns."""
        values = values.to(torch.float64)
        if len(self.lengths) == 1:
            return values.sum()[None]
        if values.device.type == "cpu":
            found = np.bincount(self.owner.numpy(), weights=values.numpy(), minlength=len(self.lengths))
            return torch.from_numpy(found)
        return torch.segment_reduce(values[self.columns], "sum", lengths=self.lengths, initial=0.0)

    @cached_property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sizes and offsets of the packing's steps, as arrays."""
        return np.array(self.packing.sizes, dtype=np.int64), np.array(self.packing.offsets, dtype=np.int64)

    @cached_property
    def owner(self) -> Tensor:
        """The sequence of every column (N,)."""
        return torch.arange(len(self.lengths), device=self.rows.device).repeat_interleave(self.lengths)[self.rows]
