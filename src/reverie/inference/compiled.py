"""The inner loops of chains in machine code, where the package numba is installed (`pip install reverie[fast]`).

Without it everything is done with tensor operations. The two agree but for rounding, so a chain that learns keeps to the one it began with.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OFTEN = 16  # steps between two normalisations of a best path's logarithms
_NO_WEIGHTS = torch.empty(0)


@functools.cache
def available() -> bool:
    """Whether numba is there; it is not imported for that."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _module(name: str) -> Any:
    """A module of loops: importing numba takes half a second, so this waits until one is used."""
    return importlib.import_module(f"reverie.inference.{name}")


def _whole(numbers: Any) -> NDArray[np.int64]:
    return np.asarray(numbers, dtype=np.int64)


def along(
    b: Tensor, p: Tensor, scale: Tensor, start: Tensor, sizes: list[int], matrix: Tensor,
    *, often: int, least: float, fix: bool, tolerance: float, lost: float,
) -> None:  # fmt: skip
    """`kernels.along` in place on b and p (K, N) and scale (N,); start (K, lanes), columns lie one step after the other."""
    widths = _whole(sizes)
    _module("kernels").along(
        b.numpy(), p.numpy(), scale.numpy(), start.contiguous().numpy(), widths, widths.cumsum() - widths,
        matrix.numpy(), often, least, fix, tolerance, lost,
    )  # fmt: skip


def against(
    b: Tensor, beta: Tensor, after: Tensor, sizes: list[int], offsets: list[int] | None, transposed: Tensor,
    *, often: int, fix: bool, tolerance: float, lost: float,
) -> None:  # fmt: skip
    """`kernels.against` in place on beta (K, N); after (K, lanes)."""
    widths = _whole(sizes)
    places = widths.cumsum() - widths if offsets is None else _whole(offsets)
    _module("kernels").against(
        b.numpy(), beta.numpy(), after.contiguous().numpy(), widths, places, transposed.numpy(), often, fix, tolerance,
        lost,
    )  # fmt: skip


def pairs(
    p: Tensor, b: Tensor, beta: Tensor, importance: Tensor | None, sizes: list[int], offsets: list[int], moves: Tensor
) -> None:
    """`kernels.pairs`: adds to moves (K, K) float64, and makes beta (K, N) gamma."""
    own = _NO_WEIGHTS.to(p.dtype) if importance is None else importance
    _module("kernels").pairs(
        p.numpy(), b.numpy(), beta.numpy(), own.numpy(), _whole(sizes), _whole(offsets), moves.numpy()
    )


def best(log_b: Tensor, lengths: Tensor, initial: Tensor, transition: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest paths (N,) of sequences that lie one after the other in log_b (N, K), and log p(x, path) (n,), from
    the chain's probabilities."""
    paths = torch.empty(len(log_b), dtype=torch.long)
    log_prob = torch.empty(len(lengths), dtype=torch.float64)
    begins = lengths.cumsum(0) - lengths
    first, moves = (part.to(log_b.dtype).log().contiguous() for part in (initial, transition))
    _module("kernels").best(
        log_b.contiguous().numpy(), begins.numpy(), lengths.numpy(), first.numpy(), moves.numpy(), OFTEN,
        paths.numpy(), log_prob.numpy(),
    )  # fmt: skip
    return paths, log_prob


def smooth(
    logs: Tensor, gamma: Tensor, initial: Tensor, transition: Tensor, importance: Tensor | None,
    places: tuple[NDArray[np.int64], NDArray[np.int64]], *, floor: float, ceiling: float,
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """gamma (K, N) from logs (K, N), which are kept, in float64: expected moves (K, K), and log p(x) of every lane. None
    where plain numbers may not serve."""
    moves, lanes = torch.zeros_like(transition), places[0][0]
    log_prob, fine = np.empty(lanes), np.empty(lanes, dtype=np.bool_)
    own = _NO_WEIGHTS.double() if importance is None else importance
    _module("smoothing").smooth(
        logs.numpy(), gamma.numpy(), initial.numpy(), transition.numpy(), own.numpy(), *places, OFTEN,
        floor, ceiling, moves.numpy(), log_prob, fine,
    )  # fmt: skip
    return (moves * transition, torch.from_numpy(log_prob)) if fine.all() else None
