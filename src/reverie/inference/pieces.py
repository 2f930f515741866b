"""Work over many rows cut into cache-sized pieces, shared among threads.

Small products and element-wise steps leave a second core idle when each is split by itself; whole pieces do not.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

CACHE_NUMBERS = 2**19
"""Numbers that a piece's largest buffer may hold in float64: a few megabytes, within the last-level cache."""


def piece_rows(numbers_per_row: int, dtype: torch.dtype = torch.float64, *, least: int = 256, most: int = 2**14) -> int:
    """Rows of a piece whose buffer has that many numbers per row; a multiple of 64."""
    numbers = CACHE_NUMBERS * 8 // dtype.itemsize
    return max(least, min(most, numbers // max(numbers_per_row, 1)) // 64 * 64)


def slices(rows: int, size: int) -> list[slice]:
    """The slices of `size` rows that cover `rows`."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that stay: a new one pays for the linear algebra's buffers again."""
    return ThreadPoolExecutor(workers, thread_name_prefix="reverie")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


class _Workers(threading.local):
    """How many threads `in_parallel` may use while the linear algebra keeps to one; None outside `own_threads`."""

    count: int | None = None


_workers = _Workers()


@contextmanager
def own_threads() -> Iterator[None]:
    """Inside, only `in_parallel` uses several threads. The linear algebra's own wait for their next task by spinning
    (up to 5 ms in GNU OpenMP), and take the cores from ours: a diagonal mixture's pass took 85 ms with them, 50 without.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    _workers.count = before
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _workers.count = None


def threads() -> int:
    """How many threads `in_parallel` may use."""
    return _workers.count or torch.get_num_threads()


def in_parallel(
    work: Callable[[Sequence[Piece]], Result], pieces: Sequence[Piece], device: torch.device
) -> list[Result]:
    """`work(pieces)`, one call per thread on a run of neighbouring pieces; the results in order.

    Each call computes with one thread inside, so results do not depend on timing. On a GPU, or with one thread or one
    piece, there is a single call.
    """
    workers = min(threads(), len(pieces)) if device.type == "cpu" else 1
    if workers <= 1:
        with own_threads():  # a piece is too small to share: waiting for one another costs more than it saves
            return [work(pieces)]
    inference = torch.is_inference_mode_enabled()

    def one(part: Sequence[Piece]) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(part)

    cuts = [round(len(pieces) * worker / workers) for worker in range(workers + 1)]
    parts = [pieces[a:b] for a, b in itertools.pairwise(cuts)]
    with own_threads():
        return list(_pool(workers).map(one, parts))
