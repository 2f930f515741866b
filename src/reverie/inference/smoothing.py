"""Forwards and backwards over whole sequences in one go, in machine code by numba: import through `compiled`.

What `kernels.along`, `against` and `pairs` do in three sweeps over memory is done here block by block of lanes, in what
the second-level cache holds: weights from their logarithms on the way forwards; betas, expected moves and gamma on the way
back, with no array of betas. For float64 and sequences that are not cut.
"""

from __future__ import annotations

import math

import numpy as np

from reverie.inference.kernels import Array, machine_code, mix

_BLOCK = 32  # lanes: weights and states of 200 steps with 8 states take 0.8 MB
_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6
_MAGIC = 6755399441055744.0  # 1.5 * 2^52: a number added to it is rounded to a whole one, in the lowest bits
_C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (1 / math.factorial(n) for n in range(3, 14))
_LOWEST = -707.0  # below, exp is 0: what is lost so is smaller than 1e-307 of the best state


@machine_code()
def exponentials(logs: Array, o: int, top: Array, out: Array, h: int, room: Array, bits: Array) -> None:
    """out = exp(logs - top), to the last bit or two, from the columns of logs from o on to the rows of out from h on; `bits` is
    `room` seen as whole numbers.

    exp(z) = 2^n exp(r), n = round(z / log 2), |r| <= log(2) / 2, by 13 terms of the series. Written out because the library's is
    called one number at a time.
    """
    w = len(top)
    for k in range(len(logs)):
        row, found = logs[k, o : o + w], out[h + k, :w]
        for s in range(w):
            z = row[s] - top[s]
            n = z * _LOG2E + _MAGIC
            room[s] = n if z > _LOWEST else _MAGIC
            n -= _MAGIC
            r = (z - n * _LN2_HIGH) - n * _LN2_LOW
            e = _C13 * r + _C12
            e = e * r + _C11
            e = e * r + _C10
            e = e * r + _C9
            e = e * r + _C8
            e = e * r + _C7
            e = e * r + _C6
            e = e * r + _C5
            e = e * r + _C4
            e = e * r + _C3
            e = (e * r + 0.5) * r + 1
            found[s] = e * r + 1 if z > _LOWEST else 0.0
        for s in range(w):
            bits[s] = (bits[s] << 52) + (1023 << 52)
        for s in range(w):
            found[s] *= room[s]


@machine_code("reassoc", "nsz")  # sums over lanes may be taken in any order
def outer(p: Array, h: int, carried: Array, w: int, moves: Array) -> None:
    """moves(j, k) += sum_s p(h + j, s) carried(k, s) over s < w."""
    K = len(moves)
    four = K - K % 4
    for j in range(K):
        before = p[h + j, :w]
        for k in range(0, four, 4):
            c0, c1, c2, c3 = carried[k, :w], carried[k + 1, :w], carried[k + 2, :w], carried[k + 3, :w]
            f0 = f1 = f2 = f3 = 0.0
            for s in range(w):
                f0 += before[s] * c0[s]
                f1 += before[s] * c1[s]
                f2 += before[s] * c2[s]
                f3 += before[s] * c3[s]
            moves[j, k] += f0
            moves[j, k + 1] += f1
            moves[j, k + 2] += f2
            moves[j, k + 3] += f3
        for k in range(four, K):
            c0, f0 = carried[k, :w], 0.0
            for s in range(w):
                f0 += before[s] * c0[s]
            moves[j, k] += f0


@machine_code()
def smooth(
    logs: Array, gamma: Array, initial: Array, matrix: Array, importance: Array, sizes: Array, offsets: Array, often: int,
    floor: float, ceiling: float, moves: Array, log_prob: Array, fine: Array,
) -> None:  # fmt: skip
    """gamma (K, N) from logs (K, N); moves (K, K) but for the factor `matrix`; log p(x) of
    every lane, and whether plain numbers have served it: no factor below exp(floor), no beta above `ceiling`."""
    K, T = len(matrix), len(sizes)
    transposed = matrix.T.copy()
    weighted = len(importance) > 0
    top, total, room = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    bits = room.view(np.int64)
    b, p = (
        np.empty((T * K, _BLOCK)),
        np.empty((T * K, _BLOCK)),
    )  # a block's own: step after step, all states of a step together
    carried, beta = np.empty((K, _BLOCK)), np.empty((K, _BLOCK))
    for low in range(0, sizes[0], _BLOCK):
        for t in range(T):
            w = min(sizes[t] - low, _BLOCK)
            if w <= 0:
                break
            o, h = offsets[t] + low, t * K
            best, row = top[:w], logs[0, o : o + w]
            for s in range(w):
                best[s] = row[s]
            for k in range(1, K):
                row = logs[k, o : o + w]
                for s in range(w):
                    best[s] = max(best[s], row[s])
            exponentials(logs, o, best, b, h, room, bits)
            if t == 0:
                for s in range(w):
                    log_prob[low + s] = 0.0
                    fine[low + s] = True
                for k in range(K):
                    first, row, out = initial[k], b[k, :w], p[k, :w]
                    for s in range(w):
                        out[s] = first * row[s]
            else:
                mix(matrix, p, h - K, 0, p, h, 0, w)
                for k in range(h, h + K):
                    row, out = b[k, :w], p[k, :w]
                    for s in range(w):
                        out[s] *= row[s]
            own = log_prob[low : low + w]
            for s in range(w):
                own[s] += best[s]
            following = min(sizes[t + 1] - low, _BLOCK) if t + 1 < T else 0
            begin = 0 if (t + 1) % often == 0 else max(following, 0)  # lanes that end here are divided in any case
            if begin == w:
                continue
            sums, row = total[: w - begin], p[h, begin:w]
            for s in range(w - begin):
                sums[s] = row[s]
            for k in range(h + 1, h + K):
                row = p[k, begin:w]
                for s in range(w - begin):
                    sums[s] += row[s]
            for s in range(w - begin):
                found = np.log(sums[s])
                log_prob[low + begin + s] += found
                if not found > floor:
                    fine[low + begin + s] = False
                sums[s] = 1 / sums[s]
            for k in range(h, h + K):
                row, out = b[k, begin:w], p[k, begin:w]
                for s in range(w - begin):
                    out[s] *= sums[s]
                    row[s] *= sums[s]
        running = 0
        for t in range(T - 1, -1, -1):
            w = min(sizes[t] - low, _BLOCK)
            if w <= 0:
                continue
            o, h = offsets[t] + low, t * K
            if running:
                mix(transposed, carried, 0, 0, beta, 0, 0, running)
            for k in range(K):
                for s in range(running, w):
                    beta[k, s] = 1.0
            running = w
            for k in range(K):
                row, state, out = b[h + k, :w], p[h + k, :w], gamma[k, o : o + w]
                into, after = carried[k, :w], beta[k, :w]
                for s in range(w):
                    into[s] = row[s] * after[s]
                    out[s] = state[s] * after[s]
            if ceiling < np.inf:
                for s in range(w):
                    highest = beta[0, s]
                    for k in range(1, K):
                        highest = max(highest, beta[k, s])
                    if not highest <= ceiling:
                        fine[low + s] = False
            if t == 0:
                continue
            if weighted:
                own = importance[o : o + w]
                for k in range(K):
                    after, into = beta[k, :w], carried[k, :w]
                    for s in range(w):
                        after[s] = into[s] * own[s]
                outer(p, h - K, beta, w, moves)
            else:
                outer(p, h - K, carried, w, moves)
