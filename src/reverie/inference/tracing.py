"""Paths back through a table of states: z_t is chosen given z_{t+1} and column t, for all segments at once.

A segment's path depends on the future only through the state its successor begins with. All paths are first traced from a
guess, then again from the right state until they meet the stored path: from there on they are the same. What does not
meet is settled by tracing a segment from all K states (the choices are maps, and maps compose), or step by step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from reverie.inference.algebra import Algebra, Linear
from reverie.inference.layout import Layout


class Choice(Protocol):
    def __call__(self, table: Tensor, columns: Tensor, later: Tensor | None) -> Tensor:
        """States (c,) for columns of the table (K, c), numbered `columns`, given the states after them, or the end."""
        ...


def likeliest(log_transition: Tensor) -> Choice:
    """argmax_j table_j + log A(j, later)."""

    def choose(table: Tensor, columns: Tensor, later: Tensor | None) -> Tensor:
        return (table if later is None else table + log_transition.index_select(1, later)).max(0).indices

    return choose


def thrown(algebra: Algebra, uniforms: Tensor) -> Choice:
    """State j with probability proportional to table_j A(j, later), by uniform numbers (N,) or (N, draws)."""
    linear = isinstance(algebra, Linear)
    transition = algebra.log.exp()

    def choose(table: Tensor, columns: Tensor, later: Tensor | None) -> Tensor:
        chances = table.view(*table.shape, *[1] * (uniforms.dim() - 1))
        if linear:
            if later is not None:
                chances = chances * transition[:, later]
        else:
            logs = chances if later is None else chances + algebra.log[:, later]
            chances = (logs - logs.amax(0).clamp_min(-1e300)).exp()
        sums = chances.cumsum(0)
        total = sums[-1]
        return ((sums <= uniforms[columns] * total) & (sums < total)).sum(0)

    return choose


def trace(table: Tensor, layout: Layout, choose: Choice) -> Tensor:
    """States (N,), or (N, draws) if that is what `choose` gives, in the order of the columns of the table (K, N)."""
    if not layout.steps:
        return torch.zeros(0, dtype=torch.long, device=table.device)
    numbers = torch.arange(table.shape[1], device=table.device)
    ends = choose(table[:, layout.last], layout.last, None)
    states = torch.zeros(table.shape[1], *ends.shape[1:], dtype=torch.long, device=table.device)
    _back(table, numbers, states, ends, layout.packing.sizes, choose, False)
    leaders, following = layout.leaders, layout.next[layout.leaders]
    end_columns = layout.last[leaders]
    passes = 0
    while len(leaders):
        right = choose(table[:, end_columns], end_columns, states[following])
        passes += 1
        if passes == 4 and states.dim() == 1:
            right = _by_maps(table, states, layout, choose)
        stale = (right != ends[leaders]).view(len(leaders), -1).any(1)
        if not bool(stale.any()):
            break
        slots = leaders[stale]
        ends[slots] = right[stale]
        columns, sizes = layout.among(slots)
        part = states[columns]
        _back(table[:, columns], columns, part, ends[slots], sizes, choose, True)
        states[columns] = part
    return states


def _back(
    table: Tensor, numbers: Tensor, states: Tensor, ends: Tensor, sizes: list[int], choose: Choice, fix: bool
) -> None:
    """Trace back from `ends`, the states of the last steps; stop where the stored path is met when `fix`."""
    tables, columns, paths = (
        table.split_with_sizes(sizes, 1),
        numbers.split_with_sizes(sizes),
        states.split_with_sizes(sizes),
    )
    running, later = 0, ends
    most = len(ends)
    for t in range(len(sizes) - 1, -1, -1):
        size = sizes[t]
        if running == size:
            found = choose(tables[t], columns[t], later)
        else:
            found = ends[:size].clone()
            if running:
                found[:running] = choose(tables[t][:, :running], columns[t][:running], later)
            running = size
        if fix and size == most and t % 8 == 0 and torch.equal(found, paths[t]):
            return
        paths[t].copy_(found)
        later = found


def _by_maps(table: Tensor, states: Tensor, layout: Layout, choose: Choice) -> Tensor:
    """The right last state of every segment that has a successor, whatever its path so far."""
    K, leaders = len(table), layout.leaders
    columns, sizes = layout.among(leaders)
    count, device = len(leaders), table.device
    end = layout.last[leaders].repeat_interleave(K)
    given = torch.arange(K, device=device).repeat(count)  # every state the successor may begin with
    last = choose(table[:, end], end, given)
    later = last
    steps = columns.split_with_sizes(sizes)
    for t in range(len(sizes) - 2, -1, -1):  # all of the same length
        at = steps[t].repeat_interleave(K)
        later = choose(table[:, at], at, later)
    firsts, lasts = later.view(count, K).tolist(), last.view(count, K).tolist()
    place = torch.full((len(layout.size),), -1)
    place[leaders.cpu()] = torch.arange(count)
    begins = states[: len(layout.size)].tolist()  # right already for last segments
    right, begin = [0] * count, 0
    for slot, at in zip(layout.chain.flip(0).tolist(), place[layout.chain.cpu()].flip(0).tolist(), strict=True):
        if at < 0:
            begin = begins[slot]
        else:
            right[at], begin = lasts[at][begin], firsts[at][begin]
    return torch.tensor(right, device=device)
