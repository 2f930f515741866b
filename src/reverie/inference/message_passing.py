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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.inference import compiled
from reverie.inference.algebra import Best, Logs
from reverie.inference.layout import Layout
from reverie.inference.pieces import own_threads
from reverie.inference.segments import Sweep
from reverie.inference.tracing import likeliest, thrown, trace
from reverie.inference.trials import CEILING, FLOOR, SPARSE, Answer, Trial, solve


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

    def job(chain: Trial) -> Answer:
        alpha, normaliser = chain.filtered()
        return Answer(sequences=[chain.log_prob], columns=[alpha, normaliser])

    answer = solve(job, _columns(log_b, layout, packed), layout, initial, transition)
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

    def job(chain: Trial) -> Answer:
        transitions, gamma = chain.smoothed()
        heads = chain.layout.heads
        first = gamma[:, heads].double()
        if chain.importance is not None:
            first *= chain.importance[chain.layout.sequence[heads]]
        return Answer([chain.log_prob], [gamma], [transitions, first.sum(1)])

    columns = _columns(log_b, layout, packed)
    found = _at_once(columns, layout, initial, transition, weights)
    if found is not None:
        return found._replace(gamma=_rows(found.gamma, layout, packed))
    answer = solve(job, columns, layout, initial, transition, weights, backward=True)
    return Posterior(answer.sequences[0], _rows(answer.columns[0], layout, packed), *answer.sums)


def _at_once(
    columns: Tensor, layout: Layout, initial: Tensor, transition: Tensor, weights: Tensor | None
) -> Posterior | None:
    """The posterior by one compiled pass over whole sequences, gamma in the order of the columns; None where there is none
    or plain numbers may not serve."""
    if not layout.compiled_sums or len(layout.followers) or not layout.steps or columns.dtype != torch.float64:
        return None
    K, sparse = len(columns), float(transition.min()) < SPARSE
    importance = None if weights is None else weights.double()[layout.owner]
    gamma = layout.room("states", K, columns)
    found = compiled.smooth(
        columns.contiguous(), gamma, initial.double(), transition.double().contiguous(), importance, layout.places,
        floor=FLOOR, ceiling=CEILING if sparse else math.inf,
    )  # fmt: skip
    if found is None:
        return None
    moves, per_lane = found
    log_prob = torch.zeros(len(layout.lengths), dtype=torch.float64)
    log_prob[layout.sequence] = per_lane
    first = gamma[:, : len(layout.size)]
    return Posterior(
        log_prob, gamma, moves, first.sum(1) if weights is None else first @ weights[layout.sequence].double()
    )


@_alone()
def viterbi(log_b: Tensor, layout: Layout, initial: Tensor, transition: Tensor, *, packed: bool = False) -> Paths:
    """The likeliest path of every sequence; of equally likely states the lowest. Path 0 where none is possible."""
    if layout.compiled:
        rows = layout.unpack(log_b) if packed else log_b
        states, log_prob = compiled.best(rows, layout.lengths, initial, transition)
        return Paths(layout.pack(states) if packed else states, log_prob)
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

    def job(chain: Trial) -> Answer:
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
        return Answer(columns=[torch.cat(paths, 1).T])

    answer = solve(job, _columns(log_b, layout, packed), layout, initial, transition)
    states = answer.columns[0].T
    return (states if packed else layout.unpack(states)).reshape(uniforms.shape)


def _columns(log_b: Tensor, layout: Layout, packed: bool) -> Tensor:
    """log_b as (K, N) in the order of the columns."""
    return (log_b if packed else layout.pack(log_b)).T


def _rows(columns: Tensor, layout: Layout, packed: bool) -> Tensor:
    return columns.T if packed else layout.unpack(columns.T)
