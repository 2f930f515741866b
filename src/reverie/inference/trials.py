"""One job on all sequences of a chain, then again, with more care, on those that plain numbers may not have served."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.inference import compiled
from reverie.inference.algebra import Algebra, Linear, Logs
from reverie.inference.layout import Layout
from reverie.inference.segments import Sweep

SPARSE, FLOOR, CEILING = 1e-60, -230.0, 1e180  # in float64; what for: `Trial.__init__` and `doubtful`
BLOCK = 1 << 16  # entries worked on at a time on a CPU: they stay in the cache


@dataclass
class Answer:
    """Parts by what they are of: sequences (n, ...), columns (..., N), sums over sequences."""

    sequences: list[Tensor]
    columns: list[Tensor]
    sums: list[Tensor]

    def __init__(
        self,
        sequences: list[Tensor] | None = None,
        columns: list[Tensor] | None = None,
        sums: list[Tensor] | None = None,
    ) -> None:
        self.sequences, self.columns, self.sums = sequences or [], columns or [], sums or []

    def put(self, other: Answer, sequences: Tensor, columns: Tensor) -> None:
        for mine, theirs in zip(self.sequences, other.sequences, strict=True):
            mine[sequences] = theirs.to(mine.dtype)
        for mine, theirs in zip(self.columns, other.columns, strict=True):
            mine[..., columns] = theirs.to(mine.dtype)
        for mine, theirs in zip(self.sums, other.sums, strict=True):
            mine += theirs


def solve(
    job: Callable[[Trial], Answer],
    columns: Tensor,
    layout: Layout,
    initial: Tensor,
    transition: Tensor,
    importance: Tensor | None = None,
    *,
    backward: bool = False,
    level: int = 0,
    origin: Tensor | None = None,
) -> Answer:
    """The job on all sequences, then again, more carefully, on those that plain numbers may not have served."""
    if level == 0 and columns.dtype == torch.float64:
        level = 1
    chain = Trial(columns, layout, initial, transition, importance, level, origin)
    if backward or chain.sparse:
        chain.sweep.betas = chain.sweep.backward()
    doubtful = chain.doubtful()
    if doubtful is None:
        return job(chain)
    chain.blank(doubtful)
    answer = job(chain)
    among = doubtful.nonzero()[:, 0]
    rows = doubtful.repeat_interleave(layout.lengths).nonzero()[:, 0]
    part = Layout(layout.lengths[among], len(columns), device=str(columns.device))
    into = layout.columns[rows][part.rows]
    careful = solve(
        job,
        columns[:, into],
        part,
        initial,
        transition,
        None if importance is None else importance[among],
        backward=backward,
        level=level + 1,
        origin=into if origin is None else origin[into],
    )
    answer.put(careful, among, into)
    return answer


class Trial:
    """One sweep at one level of care: 0 float32, 1 float64, 2 scaled at every step, 3 logarithms."""

    def __init__(
        self,
        columns: Tensor,
        layout: Layout,
        initial: Tensor,
        transition: Tensor,
        importance: Tensor | None,
        level: int,
        origin: Tensor | None,
    ) -> None:
        dtype = torch.float32 if level == 0 else torch.float64
        initial, transition = initial.to(columns.device, dtype), transition.to(columns.device, dtype)
        self.layout, self.level, self.origin = layout, level, origin
        self.importance = None if importance is None else importance.to(columns.device, torch.float64)
        self.algebra: Algebra
        weights = layout.room("weights", len(columns), initial)
        if level == 3:
            self.algebra, initial, shift = Logs(transition), initial.log(), torch.zeros_like(weights[0])
            weights.copy_(columns)
        else:
            self.algebra = Linear(transition, often=1 if level == 2 else None)
            shift = _exponentials(columns, weights)
        # with zeros a state once lost may never be fed again; without, every step feeds every state
        self.sparse = level < 3 and float(transition.min()) < (SPARSE if level else 1e-10)
        self.sweep = Sweep(layout, self.algebra, initial, weights)
        self.sweep.forward()
        self.shift = shift.double()
        self.log_prob = layout.per_sequence(self.sweep.log_scale() + self.shift)

    def columnwise(self, values: Tensor) -> Tensor:
        """Values given for the columns of the whole layout, for the columns of this part of it."""
        return values if self.origin is None else values[self.origin]

    def doubtful(self) -> Tensor | None:
        """The sequences (n,) that plain numbers may have got wrong; None for none.

        What is lost by underflow is below 1e-308 / (the smallest product of normalisers); it matters only if some
        beta, the factor by which the future raises a state's probability, is as large as that is small.
        """
        if self.level == 3:
            return None
        floor, ceiling = (FLOOR, CEILING) if self.level else (-34.0, 1e15)
        scale, betas = self.sweep.scale, self.sweep.betas
        fine = scale > floor
        if betas is not None and self.sparse:
            fine &= betas.amax(0) <= ceiling
        ends = self.sweep.states.index_select(1, self.layout.last).sum(0) > 0
        if bool(fine.all()) and bool(ends.all()):
            return None
        doubtful = torch.zeros_like(self.layout.lengths)
        doubtful.index_add_(0, self.layout.owner, (~fine).long())
        doubtful.index_add_(0, self.layout.sequence, (~ends).long())
        return doubtful > 0

    def blank(self, sequences: Tensor) -> None:
        """Nothing of these (n,) sequences in any answer."""
        columns = sequences[self.layout.owner].nonzero()[:, 0]
        nothing = -math.inf if self.level == 3 else 0.0
        self.sweep.states[:, columns] = nothing
        self.sweep.weights[:, columns] = nothing
        if self.sweep.betas is not None:
            self.sweep.betas[:, columns] = nothing

    def _previous(self) -> Tensor:
        """The column of the step before, its own for first steps."""
        rows, columns = self.layout.rows, self.layout.columns
        before = columns[(rows - 1).clamp_min(0)]
        first = self.layout.heads  # the first columns are the segments' first steps
        before[first] = first
        return before

    def filtered(self) -> tuple[Tensor, Tensor]:
        """p(z_t | x_1..t) (K, N) and log p(x_t | x_1..t-1) (N,)."""
        states = self.sweep.states
        if self.level == 3:
            total = states.logsumexp(0)
            alpha = (states - torch.where(total > -math.inf, total, 0.0)).exp()
        else:
            total = states.sum(0)
            alpha = states / torch.where(total > 0, total, 1.0)
            total = total.log()
        earlier = total[self._previous()]
        earlier[self.layout.heads] = 0.0
        normaliser = total.double() + self.sweep.scale + self.shift - earlier
        return alpha, normaliser.nan_to_num_(nan=-math.inf, neginf=-math.inf)

    def smoothed(self) -> tuple[Tensor, Tensor]:
        """Expected moves (K, K), float64, and p(z_t | x) (K, N), which takes the place of the betas.

        moves = A * sum_t p_{t-1} (b_t beta_t)^T, one matrix product over everything in the cache at a time.
        """
        layout, sweep, algebra = self.layout, self.sweep, self.algebra
        states, weights, betas = sweep.states, sweep.weights, sweep.betas
        assert betas is not None
        K, N = states.shape
        importance = None if self.importance is None else self.importance[self.layout.owner].to(states.dtype)
        moves = torch.zeros(K, K, dtype=torch.float64, device=states.device)
        if self.level == 3:
            followers = torch.ones(N, dtype=torch.bool, device=states.device)
            followers[layout.heads] = False
            here = followers.nonzero()[:, 0]
            earlier = self._previous()[here]
            some = max(1, BLOCK // K**2)
            for left in range(0, len(here), some):
                now, then = here[left : left + some], earlier[left : left + some]
                after = (weights[:, now] + betas[:, now])[None]
                pairs = (states[:, None, then] + algebra.log[:, :, None] + after).exp()
                moves += (pairs if importance is None else pairs * importance[now]).sum(2)
            return moves, betas.add_(states).exp_()
        sizes, offsets = layout.packing.sizes, layout.packing.offsets
        if layout.compiled_sums:
            if len(layout.followers):  # the segments' first steps, after their predecessors' last
                here = layout.followers
                after = weights[:, here] * betas[:, here]
                if importance is not None:
                    after *= importance[here]
                moves += states[:, layout.last[layout.previous[here]]] @ after.T
            compiled.pairs(states, weights, betas, importance, sizes, offsets, moves)
            assert isinstance(algebra, Linear)
            return moves * algebra.matrix, betas
        width = _width(K, states)
        for begin, end in _stretches(sizes, width):
            low, high = offsets[begin], offsets[end - 1] + sizes[end - 1]
            for left in range(low, high, width):
                right = min(left + width, high)
                after = weights[:, left:right] * betas[:, left:right]
                if importance is not None:
                    after *= importance[left:right]
                if begin:
                    shift = offsets[begin] - offsets[begin - 1]
                    moves += states[:, left - shift : right - shift] @ after.T
                elif len(layout.followers):  # the segments' first steps, after their predecessors' last
                    here = layout.followers[(layout.followers >= left) & (layout.followers < right)]
                    then = states[:, layout.last[layout.previous[here]]]
                    moves += then @ after[:, here - left].T
                betas[:, left:right].mul_(states[:, left:right])
        assert isinstance(algebra, Linear)
        return moves * algebra.matrix, betas


def _width(states: int, like: Tensor) -> int:
    """Columns worked on at a time: what the cache holds, or on a device a great many."""
    return max(1, (BLOCK if like.device.type == "cpu" else 1 << 24) // states)


def _stretches(sizes: list[int], width: int) -> list[tuple[int, int]]:
    """Steps begin:end with the same number of segments as the step before begin, about `width` columns together."""
    found: list[tuple[int, int]] = []
    for t, size in enumerate(sizes):
        if found and t > 1 and size == sizes[t - 1] == sizes[t - 2] and (t - found[-1][0] + 1) * size <= width:
            found[-1] = (found[-1][0], t + 1)
        else:
            found.append((t, t + 1))
    return found


def _exponentials(logs: Tensor, out: Tensor) -> Tensor:
    """exp(logs - their maximum over states) into `out` (K, N); the maxima (N,). A column of -inf becomes zeros."""
    K, N = logs.shape
    top = torch.empty(N, dtype=out.dtype, device=out.device)
    least = -1e300 if out.dtype == torch.float64 else -1e38
    width = _width(K, out)
    for left in range(0, N, width):
        part, best, room = logs[:, left : left + width], top[left : left + width], out[:, left : left + width]
        best.copy_(part.amax(0)).clamp_(min=least)
        torch.sub(part, best, out=room)
        room.exp_()
    return top
