"""The inner loops of chains, in machine code by numba: import through `compiled`, which does so when they are wanted.

They do what `segments`, `message_passing` and `tracing` do with a few tensor operations per step, without what each of
those costs to call. States are (K, columns) arrays as in a `Layout`: step t of the lanes that are that long lies at
`offsets[t]`, `sizes[t]` columns wide and never wider than the step before. Lanes go in blocks that the first-level cache
holds. Inner loops run over slices of single rows: an index that is added up in the loop, or a row of a slice of
several, keeps the compiler from vectorising. numba's cache goes by the date of a function's own file: after a change of `mix`
or `machine_code` touch `smoothing` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from reverie.inference.layout import LANES

Array = Any  # of either float type; what numba calls an array type is no type for others
Kernel = TypeVar("Kernel", bound=Callable[..., None])


def machine_code(*freedoms: str) -> Callable[[Kernel], Kernel]:
    """Compiled when first called, then read from a cache on disk; `freedoms` are LLVM's fast-math flags."""

    def build(function: Kernel) -> Kernel:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *freedoms}}
        try:
            return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # there is no folder that the cache could lie in
            return numba.njit(**options)(function)  # type: ignore[no-any-return]

    return build


@machine_code()
def mix(matrix: Array, source: Array, i: int, q: int, out: Array, h: int, o: int, w: int) -> None:
    """out_k = sum_j matrix(j, k) source_j in w columns, source's from (row i, column q) and out's from (h, o) on: up to eight terms for every time that out_k is read and written: with more arrays
    in one loop the compiler gives up proving them apart."""
    K = len(matrix)
    eight = K - K % 8
    four = K - K % 4
    for k in range(K):
        sums = out[h + k, o : o + w]
        for s in range(w):
            sums[s] = 0.0
        for j in range(0, eight, 8):
            a0, a1, a2, a3 = matrix[j, k], matrix[j + 1, k], matrix[j + 2, k], matrix[j + 3, k]
            a4, a5, a6, a7 = matrix[j + 4, k], matrix[j + 5, k], matrix[j + 6, k], matrix[j + 7, k]
            p0, p1 = source[i + j, q : q + w], source[i + j + 1, q : q + w]
            p2, p3 = source[i + j + 2, q : q + w], source[i + j + 3, q : q + w]
            p4, p5 = source[i + j + 4, q : q + w], source[i + j + 5, q : q + w]
            p6, p7 = source[i + j + 6, q : q + w], source[i + j + 7, q : q + w]
            for s in range(w):
                left = a0 * p0[s] + a1 * p1[s] + a2 * p2[s] + a3 * p3[s]
                sums[s] += left + (a4 * p4[s] + a5 * p5[s] + a6 * p6[s] + a7 * p7[s])
        for j in range(eight, four, 4):
            a0, a1, a2, a3 = matrix[j, k], matrix[j + 1, k], matrix[j + 2, k], matrix[j + 3, k]
            p0, p1 = source[i + j, q : q + w], source[i + j + 1, q : q + w]
            p2, p3 = source[i + j + 2, q : q + w], source[i + j + 3, q : q + w]
            for s in range(w):
                sums[s] += a0 * p0[s] + a1 * p1[s] + a2 * p2[s] + a3 * p3[s]
        for j in range(four, K):
            a0, p0 = matrix[j, k], source[i + j, q : q + w]
            for s in range(w):
                sums[s] += a0 * p0[s]


@machine_code()
def along(
    b: Array, p: Array, scale: Array, start: Array, sizes: Array, offsets: Array, matrix: Array,
    often: int, least: float, fix: bool, tolerance: float, lost: float,
) -> None:  # fmt: skip
    """p_t(k) = b_t(k) sum_j p_{t-1}(j) matrix(j, k), from p_0 = start * b_0.

    Every `often`-th p and the last are divided by their sums, b with them; logarithms are added to `scale`. With `fix` a
    block of lanes ends where what is found equals what is stored.
    """
    K, T = len(matrix), len(sizes)
    total = np.empty(LANES, p.dtype)
    old = np.empty((K, LANES), p.dtype)
    for low in range(0, sizes[0], LANES):
        for t in range(T):
            w = min(sizes[t] - low, LANES)
            if w <= 0:
                break
            o = offsets[t] + low
            ends = (t + 1) % often == 0 or t == T - 1
            if fix and ends:
                for k in range(K):
                    kept, out = old[k, :w], p[k, o : o + w]
                    for s in range(w):
                        kept[s] = out[s]
            if t == 0:
                for k in range(K):
                    out, weight, first = p[k, o : o + w], b[k, o : o + w], start[k, low : low + w]
                    for s in range(w):
                        out[s] = first[s] * weight[s]
            else:
                q = offsets[t - 1] + low
                mix(matrix, p, 0, q, p, 0, o, w)
                for k in range(K):
                    out, weight = p[k, o : o + w], b[k, o : o + w]
                    for s in range(w):
                        out[s] *= weight[s]
            if not ends:
                continue
            sums, p0 = total[:w], p[0, o : o + w]
            for s in range(w):
                sums[s] = p0[s]
            for k in range(1, K):
                p0 = p[k, o : o + w]
                for s in range(w):
                    sums[s] += p0[s]
            for s in range(w):
                if sums[s] > least:
                    scale[o + s] += np.log(sums[s])
                    sums[s] = 1 / sums[s]
                else:  # what is next to nothing becomes nothing: `doubtful` sees that
                    sums[s] = 1.0
                    for k in range(K):
                        p[k, o + s] = 0.0
            for k in range(K):
                out, weight = p[k, o : o + w], b[k, o : o + w]
                for s in range(w):
                    out[s] *= sums[s]
                    weight[s] *= sums[s]
            if fix:
                same = True
                for k in range(K):
                    for s in range(w):
                        same &= abs(p[k, o + s] - old[k, s]) <= tolerance * old[k, s] + lost
                if same:
                    break


@machine_code()
def against(
    b: Array, beta: Array, after: Array, sizes: Array, offsets: Array, transposed: Array,
    often: int, fix: bool, tolerance: float, lost: float,
) -> None:  # fmt: skip
    """beta_t(j) = sum_k matrix(j, k) b_{t+1}(k) beta_{t+1}(k) back from `after`, the beta of every lane's last step."""
    K, T = len(transposed), len(sizes)
    carried, old = np.empty((K, LANES), beta.dtype), np.empty((K, LANES), beta.dtype)
    for low in range(0, sizes[0], LANES):
        running = 0
        for t in range(T - 1, -1, -1):
            w = min(sizes[t] - low, LANES)
            if w <= 0:
                continue
            o = offsets[t] + low
            check = fix and t % often == 0
            if check:
                for k in range(K):
                    kept, out = old[k, :w], beta[k, o : o + w]
                    for s in range(w):
                        kept[s] = out[s]
            if running > 0:
                mix(transposed, carried, 0, 0, beta, 0, o, running)
            if running < w:
                for k in range(K):
                    for s in range(running, w):
                        beta[k, o + s] = after[k, low + s]
                running = w
            if check:
                same = True
                for k in range(K):
                    for s in range(w):
                        same &= abs(beta[k, o + s] - old[k, s]) <= tolerance * old[k, s] + lost
                if same:
                    break
            for k in range(K):
                out, weight, into = beta[k, o : o + w], b[k, o : o + w], carried[k, :w]
                for s in range(w):
                    into[s] = out[s] * weight[s]


@machine_code("reassoc", "nsz")  # sums over lanes may be taken in any order
def pairs(
    p: Array, b: Array, beta: Array, importance: Array, sizes: Array, offsets: Array, moves: Array
) -> None:  # fmt: skip
    """moves(j, k) += sum_t p_{t-1}(j) b_t(k) beta_t(k) over all but the lanes' first steps, each times its `importance`
    (none when that is empty); then gamma = p beta takes the place of beta."""
    K, T = len(p), len(sizes)
    weighted = len(importance) > 0
    carried = np.empty((K, LANES), p.dtype)
    for low in range(0, sizes[0], LANES):
        for t in range(T):
            w = min(sizes[t] - low, LANES)
            if w <= 0:
                break
            o = offsets[t] + low
            if t > 0:
                q = offsets[t - 1] + low
                for k in range(K):
                    out, weight, into = beta[k, o : o + w], b[k, o : o + w], carried[k, :w]
                    for s in range(w):
                        into[s] = out[s] * weight[s]
                    if weighted:
                        own = importance[o : o + w]
                        for s in range(w):
                            into[s] *= own[s]
                for j in range(K):
                    before = p[j, q : q + w]
                    for k in range(K):
                        into = carried[k, :w]
                        found = before[0] * into[0]
                        for s in range(1, w):
                            found += before[s] * into[s]
                        moves[j, k] += found
            for k in range(K):
                out, state = beta[k, o : o + w], p[k, o : o + w]
                for s in range(w):
                    out[s] *= state[s]


@machine_code()
def best(
    log_b: Array, begins: Array, lengths: Array, initial: Array, matrix: Array, often: int, paths: Array, log_prob: Array
) -> None:  # fmt: skip
    """The likeliest path of every sequence, of equally likely states the lowest, and log p(x, path).

    log_b (N, K), `begins` and `lengths` of the sequences; initial (K,) and matrix (K, K) are logarithms.
    """
    K = len(initial)
    longest = 0
    for n in range(len(lengths)):
        longest = max(longest, lengths[n])
    table = np.empty((longest, K), log_b.dtype)
    for n in range(len(lengths)):
        T, begin = lengths[n], begins[n]
        total = 0.0
        for t in range(T):
            now, weight = table[t], log_b[begin + t]
            if t == 0:
                for k in range(K):
                    now[k] = initial[k] + weight[k]
            else:
                before = table[t - 1]
                first, move = before[0], matrix[0]
                for k in range(K):
                    now[k] = first + move[k]
                for j in range(1, K):
                    first, move = before[j], matrix[j]
                    for k in range(K):
                        now[k] = max(now[k], first + move[k])
                for k in range(K):
                    now[k] += weight[k]
            if (t + 1) % often == 0 or t == T - 1:
                top = now[0]
                for k in range(1, K):
                    top = max(top, now[k])
                if top > -np.inf:
                    total += top
                    for k in range(K):
                        now[k] -= top
                elif t == T - 1:
                    total = -np.inf
        later = -1
        for t in range(T - 1, -1, -1):
            now, found = table[t], 0
            if later < 0:
                top = now[0]
                for k in range(1, K):
                    if now[k] > top:
                        top, found = now[k], k
            else:
                top = now[0] + matrix[0, later]
                for k in range(1, K):
                    value = now[k] + matrix[k, later]
                    if value > top:
                        top, found = value, k
            paths[begin + t] = found
            later = found
        log_prob[n] = total
