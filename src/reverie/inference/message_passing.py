"""Message passing along hidden Markov chains: filtering, smoothing, the best path, paths drawn from the posterior.

    p(x, z) = pi(z_1) b_1(z_1) prod_{t>1} A(z_{t-1}, z_t) b_t(z_t)

(Baum et al. 1970; Rabiner 1989; Viterbi 1967; backward sampling: Frühwirth-Schnatter 1994, Chib 1996.) All functions take
`log_b` (N, K), log p(x_t | z_t = k) of every step, sequence after sequence; a `Layout` of the sequences' lengths; `initial`
(K,) and `transition` (K, K), rows summing to one, zeros allowed. A step without evidence is a row of zeros.

The recursions run on plain numbers, scaled. Where that could lose something (a step next to impossible given what can be
reached, or a state that was as good as excluded and is needed after all), those sequences alone are done again, in the end
on logarithms. A sequence the chain cannot produce has log-probability -inf, posteriors and counts of zero.

For many passes over the same sequences, keep rows in the layout's order (`layout.pack`) and say `packed=True`: nothing is
permuted then, and a `log_b` that is the transpose of a contiguous (K, N) is not turned either. gamma comes back like that
and lives in the layout's own memory: the next call with this layout overwrites it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.inference.algebra import Algebra, Best, Linear, Logs
from reverie.inference.layout import Layout
from reverie.inference.pieces import own_threads
from reverie.inference.segments import Sweep
from reverie.inference.tracing import likeliest, thrown, trace

BLOCK = 1 << 16  # entries worked on at a time on a CPU: they stay in the cache


class Filtered(NamedTuple):
    log_prob: Tensor  # (n,) float64
    alpha: Tensor  # (N, K) p(z_t | x_1..t)
    log_normaliser: Tensor  # (N,) log p(x_t | x_1..t-1), float64


class Posterior(NamedTuple):
    log_prob: Tensor  # (n,) float64
    gamma: Tensor  # (N, K) p(z_t | x)
    transitions: Tensor  # (K, K) float64: expected number of moves from j to k, sequences weighted
    first: Tensor  # (K,) float64: expected number of sequences that begin in k, weighted


class Paths(NamedTuple):
    states: Tensor  # (N,) int64
    log_prob: Tensor  # (n,) float64: log p(x, path)


@contextmanager
def _alone() -> Iterator[None]:
    """No gradients, and one thread on the CPU: waking a second one for every small step costs more than it brings
    (100,000 steps with 4 states: 8 times the time with two threads on two busy cores)."""
    with torch.no_grad(), own_threads():
        yield


@_alone()
def filter_forward(
    log_b: Tensor, layout: Layout, initial: Tensor, transition: Tensor, *, packed: bool = False
) -> Filtered:
    """What is known at each step from the steps up to it."""

    def job(chain: _Chain) -> _Answer:
        alpha, normaliser = chain.filtered()
        return _Answer(sequences=[chain.log_prob], columns=[alpha, normaliser])

    answer = _solve(job, _columns(log_b, layout, packed), layout, initial, transition)
    alpha, normaliser = answer.columns
    return Filtered(
        answer.sequences[0], _rows(alpha, layout, packed), normaliser if packed else layout.unpack(normaliser)
    )


@torch.no_grad()
def predictive(alpha: Tensor, transition: Tensor) -> Tensor:
    """p(z_{t+1} | x_1..t), (N, K), from alpha_t = p(z_t | x_1..t): what comes next."""
    return alpha @ transition.to(alpha)


@torch.no_grad()
def beforehand(alpha: Tensor, layout: Layout, initial: Tensor, transition: Tensor) -> Tensor:
    """p(z_t | x_1..t-1), (N, K): `predictive` one step later, `initial` where a sequence begins. alpha is not packed."""
    moved = predictive(alpha, transition).roll(1, 0)
    lengths = layout.lengths[layout.lengths > 0]
    moved[lengths.cumsum(0) - lengths] = initial.to(moved)
    return moved


@_alone()
def posteriors(
    log_b: Tensor,
    layout: Layout,
    initial: Tensor,
    transition: Tensor,
    *,
    weights: Tensor | None = None,
    packed: bool = False,
) -> Posterior:
    """What is known at each step from the whole sequence, and the expected counts EM needs (Baum-Welch).

    weights (n,) count the sequences in `transitions` and `first`; gamma is not weighted.
    """

    def job(chain: _Chain) -> _Answer:
        transitions, gamma = chain.smoothed()
        heads = chain.layout.heads
        first = gamma[:, heads].double()
        if chain.importance is not None:
            first *= chain.importance[chain.layout.sequence[heads]]
        return _Answer([chain.log_prob], [gamma], [transitions, first.sum(1)])

    answer = _solve(job, _columns(log_b, layout, packed), layout, initial, transition, weights, backward=True)
    return Posterior(answer.sequences[0], _rows(answer.columns[0], layout, packed), *answer.sums)


@_alone()
def viterbi(log_b: Tensor, layout: Layout, initial: Tensor, transition: Tensor, *, packed: bool = False) -> Paths:
    """The likeliest path of every sequence; of equally likely states the lowest. Path 0 where none is possible."""
    columns = _columns(log_b, layout, packed)
    algebra = Best(transition.to(columns))
    sweep = Sweep(layout, algebra, initial.to(columns).log(), columns.contiguous().clone())
    table = sweep.forward()
    states = trace(table, layout, likeliest(algebra.log))
    return Paths(states if packed else layout.unpack(states), layout.per_sequence(sweep.log_scale()))


@_alone()
def sample_paths(
    log_b: Tensor, layout: Layout, initial: Tensor, transition: Tensor, uniforms: Tensor, *, packed: bool = False
) -> Tensor:
    """Paths drawn from p(z | x) by filtering forwards and drawing backwards, one uniform number in [0, 1) per step.

    uniforms (N,) or (N, draws), in the order of log_b's rows; states of the same shape, int64.
    """
    uniforms = uniforms if packed else layout.pack(uniforms)

    def job(chain: _Chain) -> _Answer:
        draws = chain.columnwise(uniforms.reshape(len(uniforms), -1))
        table = chain.sweep.states
        if isinstance(chain.algebra, Logs):
            table = table - table.amax(0).clamp_min(-1e300)
        chunk = max(1, (1 << 20) // (len(table) * chain.layout.packing.sizes[0])) if chain.layout.steps else 1
        paths = []
        for first in range(0, draws.shape[1], chunk):
            some = draws[:, first : first + chunk].to(table.dtype)
            choose = thrown(chain.algebra, some[:, 0] if some.shape[1] == 1 else some)  # one draw may use maps
            paths.append(trace(table, chain.layout, choose).view(len(some), -1))
        return _Answer(columns=[torch.cat(paths, 1).T])

    answer = _solve(job, _columns(log_b, layout, packed), layout, initial, transition)
    states = answer.columns[0].T
    return (states if packed else layout.unpack(states)).reshape(uniforms.shape)


@dataclass
class _Answer:
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

    def put(self, other: _Answer, sequences: Tensor, columns: Tensor) -> None:
        for mine, theirs in zip(self.sequences, other.sequences, strict=True):
            mine[sequences] = theirs.to(mine.dtype)
        for mine, theirs in zip(self.columns, other.columns, strict=True):
            mine[..., columns] = theirs.to(mine.dtype)
        for mine, theirs in zip(self.sums, other.sums, strict=True):
            mine += theirs


def _solve(
    job: Callable[[_Chain], _Answer],
    columns: Tensor,
    layout: Layout,
    initial: Tensor,
    transition: Tensor,
    importance: Tensor | None = None,
    *,
    backward: bool = False,
    level: int = 0,
    origin: Tensor | None = None,
) -> _Answer:
    """The job on all sequences, then again, more carefully, on those that plain numbers may not have served."""
    if level == 0 and columns.dtype == torch.float64:
        level = 1
    chain = _Chain(columns, layout, initial, transition, importance, level, origin)
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
    careful = _solve(
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


class _Chain:
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
        self.sparse = level < 3 and float(transition.min()) < (1e-60 if level else 1e-10)
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
        floor, ceiling = (-230.0, 1e180) if self.level else (-34.0, 1e15)
        scale, betas = self.sweep.scale, self.sweep.betas
        fine = scale > floor
        if betas is not None and self.sparse:
            fine &= betas.amax(0) <= ceiling
        ends = self.sweep.states.index_select(1, self.layout.last).sum(0) > 0
        if bool(fine.all()) and bool(ends.all()):
            return None
        doubtful = torch.zeros_like(self.layout.lengths)
        doubtful.index_add_(0, self._sequence(), (~fine).long())
        doubtful.index_add_(0, self.layout.sequence, (~ends).long())
        return doubtful > 0

    def _sequence(self) -> Tensor:
        """The sequence of every column."""
        lengths = self.layout.lengths
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)[self.layout.rows]

    def blank(self, sequences: Tensor) -> None:
        """Nothing of these (n,) sequences in any answer."""
        columns = sequences[self._sequence()].nonzero()[:, 0]
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
        importance = None if self.importance is None else self.importance[self._sequence()].to(states.dtype)
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


def _columns(log_b: Tensor, layout: Layout, packed: bool) -> Tensor:
    """log_b as (K, N) in the order of the columns."""
    return (log_b if packed else layout.pack(log_b)).T


def _rows(columns: Tensor, layout: Layout, packed: bool) -> Tensor:
    return columns.T if packed else layout.unpack(columns.T)


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
