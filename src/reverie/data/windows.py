"""Long sequences cut into windows: where each begins and ends in one pass. Every step is new in exactly one window of a pass (in
others it may be what they overlap by), and how many windows there are never changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.space import Ragged, Windows

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """The windows of one pass. Window i is the steps `starts[i] ... starts[i] + lengths[i]` of all sequences one after the
    other (of those in the order `steps`, when sequences are mixed), in sequence `rows[i]`, at its step `begins[i]`."""

    rows: Tensor
    starts: Tensor
    lengths: Tensor
    begins: Tensor
    steps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, index: Tensor | slice) -> Tensor:
        """Which steps the windows of that index are made of, one window after the other."""
        lengths = self.lengths[index]
        shift = self.starts[index] - (lengths.cumsum(0) - lengths)
        places = torch.repeat_interleave(shift, lengths) + torch.arange(int(lengths.sum()))
        return places if self.steps is None else self.steps[places]

    def windows(self, values: Tensor, index: Tensor | slice, longest: int) -> Ragged:
        """Those windows of packed values (N, width)."""
        begins = None if self.steps is not None else self.begins[index]
        return Ragged(values[self.places(index)], self.lengths[index], longest, begins)


class Cutter:
    """Cuts sequences of the given `lengths` by `how`.

    A sequence of T steps has t = T - overlap steps that are not the beginning of a window. Where t exceeds a window's own
    w = length - overlap of them, they are dealt to floor(t / w) + 1 windows: the first takes `first`, drawn anew every
    pass, the last what remains, those between w each. `groups` (n,) keeps sequences of other groups apart when they are
    mixed; `shared`: the first step of a sequence is the same symbol as the last step of the one before, and stands once
    between the two.
    """

    def __init__(self, lengths: Whole, how: Windows, *, groups: Whole | None = None, shared: bool = False) -> None:
        self._how, self._lengths, self._shared = how, lengths, shared
        self._starts = np.cumsum(lengths) - lengths
        self._groups = groups if groups is not None else np.zeros(len(lengths), np.int64)

    @property
    def longest(self) -> int:
        """The steps of the longest window there may be."""
        most = int(self._lengths.sum()) if self._how.mixed else int(self._lengths.max(initial=0))
        return min(self._how.length, most)

    def cut(self, rng: np.random.Generator | None) -> Cut:
        """The windows of a pass: shifted (and mixed in an order) drawn from `rng`, or as they lie when it is None."""
        if not self._how.mixed:
            return self._pieces(self._starts, self._lengths, rng, None)
        order, sizes = [], []
        for group in np.unique(self._groups):
            members = np.flatnonzero(self._groups == group)
            if rng is not None:
                members = rng.permutation(members)
            order.append(self._chain(members))
            sizes.append(len(order[-1]))
        lengths = np.array(sizes, dtype=np.int64)
        return self._pieces(np.cumsum(lengths) - lengths, lengths, rng, torch.from_numpy(np.concatenate(order)))

    def _chain(self, members: Whole) -> Whole:
        """The steps of these sequences, one sequence after the other."""
        lengths, starts = self._lengths[members].copy(), self._starts[members].copy()
        if self._shared:
            lengths[1:] -= 1
            starts[1:] += 1
        shift = starts - (np.cumsum(lengths) - lengths)
        return np.asarray(np.repeat(shift, lengths) + np.arange(int(lengths.sum())))

    def _pieces(self, starts: Whole, lengths: Whole, rng: np.random.Generator | None, steps: Tensor | None) -> Cut:
        """Every stream of that start and length cut at a place of its own."""
        own = self._how.length - self._how.overlap
        fresh = lengths - self._how.overlap
        long = fresh > own
        counts = np.where(long, fresh // own + 1, 1)
        rest = fresh % own
        # So long a first window that the last one is no longer than a window, and has at least one step of its own.
        least, most = np.maximum(rest, 1), np.where(rest == 0, own - 1, own)
        first = most if rng is None else least + (rng.random(len(lengths)) * (most - least + 1)).astype(np.int64)
        first = np.where(long, first, fresh)
        row = np.repeat(np.arange(len(lengths)), counts)
        number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = np.where(number == 0, 0, first[row] + (number - 1) * own)
        ends = np.minimum(first[row] + number * own, fresh[row]) + self._how.overlap
        ends = np.minimum(ends, lengths[row])
        parts = [torch.from_numpy(part) for part in (row, starts[row] + begins, ends - begins, begins)]
        return Cut(parts[0], parts[1], parts[2], parts[3], steps)
