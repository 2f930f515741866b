"""Sequences of different lengths for networks of equal ones: padded, a sequence a line, or packed, several sequences a line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.data.space import Ragged


@dataclass(frozen=True)
class Steps:
    """A sequence for attention or recurrence: `values` (n, T, width), and `mask` (n, T), True where there is a step."""

    values: Tensor
    mask: Tensor


def padded(x: Ragged) -> Steps:
    """One sequence a line, zeros behind the end of shorter ones."""
    values = x.padded()
    places = torch.arange(values.shape[1], device=values.device)
    return Steps(values, places[None] < x.lengths.to(values.device)[:, None])


@dataclass(frozen=True)
class Packed:
    """Several sequences a line: `values` (B, T, width), of which `segment` (B, T) is the sequence each step belongs to, -1
    where there is none, `place` (B, T) its place in that sequence, and `at` (N,) where the steps of the `Ragged` are in
    the B * T places of the lines."""

    values: Tensor
    segment: Tensor
    place: Tensor
    at: Tensor

    def attends(self, *, causal: bool) -> Tensor:
        """(B, T, T) bool for attention: which steps (second axis) each step (first) may see: those of its own sequence, no
        later ones when `causal`. A place that holds no step sees itself: attention over nothing has no meaning."""
        same = self.segment[:, :, None] == self.segment[:, None, :]
        if causal:
            same &= self.place[:, :, None] >= self.place[:, None, :]
        return same

    def unpacked(self, values: Tensor) -> Tensor:
        """(B, T, ...) results -> (N, ...) in the order of the steps of the `Ragged`."""
        return values.flatten(0, 1)[self.at]


def packed(x: Ragged, width: int | None = None) -> Packed:
    """Sequences put into as few lines of `width` steps (default: the longest sequence) as first-fit decreasing finds: at most
    11/9 of the fewest possible (Johnson 1973), where padding takes a line for each."""
    lengths = x.lengths.cpu()
    longest = int(lengths.max())
    width = max(width or longest, longest)
    row, start, used = torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), dtype=torch.long), list[int]()
    for number in torch.argsort(lengths, descending=True, stable=True).tolist():
        length = int(lengths[number])
        line = next((line for line, taken in enumerate(used) if taken + length <= width), len(used))
        if line == len(used):
            used.append(0)
        row[number], start[number] = line, used[line]
        used[line] += length
    sequence, place = (part.cpu() for part in x.places)
    at = (row * width + start)[sequence] + place
    count = len(used) * width
    values = x.values.new_zeros(count, *x.values.shape[1:])
    at = at.to(x.device)
    values[at] = x.values
    segment, places = torch.full((count,), -1, device=x.device), torch.zeros(count, dtype=torch.long, device=x.device)
    segment[at], places[at] = sequence.to(x.device), place.to(x.device)
    lines = (len(used), width)
    return Packed(values.view(*lines, *values.shape[1:]), segment.view(lines), places.view(lines), at)
