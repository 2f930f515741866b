"""What sums and products mean along a chain: plain numbers, logarithms, or the best path (max, +).

States are (K, columns) tensors of the algebra's own numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Algebra(ABC):
    """What `sum` and `product` mean along a chain: numbers, their logarithms, or (max, +)."""

    one: float
    cost: float  # seconds per multiply-add, about
    often: int  # steps between two normalisations

    def __init__(self, transition: Tensor) -> None:
        self.states = len(transition)
        self.log = transition.log()
        self.tolerance = 1e-13 if transition.dtype == torch.float64 else 2e-6

    @abstractmethod
    def times(self, a: Tensor, b: Tensor, out: Tensor) -> None: ...
    @abstractmethod
    def forwards(self, state: Tensor, out: Tensor) -> None:
        """out_k = sum_j state_j A_jk."""

    @abstractmethod
    def backwards(self, state: Tensor, out: Tensor) -> None:
        """out_j = sum_k A_jk state_k."""

    @abstractmethod
    def normalise(self, state: Tensor, also: Tensor | None) -> Tensor:
        """Divide columns by their sum (or maximum) in place, `also` by the same; the logarithm of what was divided by."""

    @abstractmethod
    def gap(self, new: Tensor, old: Tensor) -> Tensor:
        """How far columns are from being the same, relatively; <= tolerance counts as the same."""

    @abstractmethod
    def logs(self, state: Tensor) -> Tensor: ...
    @abstractmethod
    def numbers(self, logs: Tensor) -> Tensor: ...
    @abstractmethod
    def log_sum(self, logs: Tensor, dim: int) -> Tensor: ...


class Linear(Algebra):
    """Plain numbers; matrix products."""

    one = 1.0
    cost = 6e-11

    def __init__(self, transition: Tensor, often: int | None = None) -> None:
        super().__init__(transition)
        self.matrix, self.transposed = transition.contiguous(), transition.T.contiguous()
        double = transition.dtype == torch.float64
        self.often = often or (16 if double else 4)
        self.least = 1e-300 if double else 1e-37
        self.lost = 1e-250 if double else 1e-25  # entries below are as good as nothing: `doubtful` looks after the rest

    def times(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        torch.mul(a, b, out=out)

    def forwards(self, state: Tensor, out: Tensor) -> None:
        torch.mm(self.transposed, state, out=out)

    def backwards(self, state: Tensor, out: Tensor) -> None:
        torch.mm(self.matrix, state, out=out)

    def normalise(self, state: Tensor, also: Tensor | None) -> Tensor:
        total = state.sum(0)
        fine = total > self.least
        total = torch.where(fine, total, 1.0)
        inverse = total.reciprocal()
        state *= torch.where(fine, inverse, 0.0)  # what is next to nothing becomes nothing: `doubtful` sees that
        if also is not None:
            also *= inverse
        return total.log()

    def gap(self, new: Tensor, old: Tensor) -> Tensor:
        return ((new - old).abs() / (old + self.lost / self.tolerance)).amax(0)

    def logs(self, state: Tensor) -> Tensor:
        return state.log()

    def numbers(self, logs: Tensor) -> Tensor:
        return logs.exp()

    def log_sum(self, logs: Tensor, dim: int) -> Tensor:
        return logs.logsumexp(dim)


class _Logarithmic(Algebra):
    one = 0.0
    often = 16

    def times(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        torch.add(a, b, out=out)

    def forwards(self, state: Tensor, out: Tensor) -> None:
        for some in self._some(state):
            out[:, some] = self.log_sum(state[:, None, some] + self.log[:, :, None], 0)

    def backwards(self, state: Tensor, out: Tensor) -> None:
        for some in self._some(state):
            out[:, some] = self.log_sum(state[None, :, some] + self.log[:, :, None], 1)

    def _some(self, state: Tensor) -> list[slice]:
        """Columns whose K^2 terms the cache holds."""
        width = max(1, (1 << 17 if state.device.type == "cpu" else 1 << 24) // self.states**2)
        return [slice(left, left + width) for left in range(0, state.shape[1], width)]

    def normalise(self, state: Tensor, also: Tensor | None) -> Tensor:
        total = self.log_sum(state, 0)
        total = torch.where(total > -math.inf, total, 0.0)
        state -= total
        if also is not None:
            also -= total
        return total

    def gap(self, new: Tensor, old: Tensor) -> Tensor:
        gap = (new - old).abs() / (10 + old.abs())
        return torch.where(new == old, 0.0, gap).nan_to_num_(nan=math.inf).amax(0)

    def logs(self, state: Tensor) -> Tensor:
        return state

    def numbers(self, logs: Tensor) -> Tensor:
        return logs


class Logs(_Logarithmic):
    """Logarithms of numbers: slower, and never under- or overflows."""

    cost = 5e-9

    def log_sum(self, logs: Tensor, dim: int) -> Tensor:
        return logs.logsumexp(dim)


class Best(_Logarithmic):
    """The best path instead of the sum over paths (Viterbi 1967)."""

    cost = 9e-10

    def log_sum(self, logs: Tensor, dim: int) -> Tensor:
        return logs.amax(dim)
