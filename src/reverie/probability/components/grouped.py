"""K members that are mixtures themselves: p(x | k) = sum_m v_km p(x | k, m), as an HMM's mixture emissions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.probability.exponential_family import EMPTY, Components, Move, Sums, keep_if_empty
from reverie.rng import Noise


class Grouped(Components):
    """`size` members of `parts` components each; `inner` holds them all, member by member."""

    own = ("weight",)
    weight: Tensor

    def __init__(self, size: int, parts: int, make: Callable[[int], Components]) -> None:
        super().__init__()
        self.inner = make(size * parts)
        self.size, self.parts, self.width = size, parts, self.inner.width
        self.register_buffer("weight", torch.full((size, parts), 1 / parts, dtype=torch.float64))

    def _joint(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log v_km + log p(x | k, m), (n, K, M)."""
        return self.inner.log_prob(x, observed).view(-1, self.size, self.parts) + self.weight.log()

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return torch.logsumexp(self._joint(x, observed), 2)

    def _shares(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Tensor:
        return (torch.softmax(self._joint(x, observed), 2) * r[:, :, None]).flatten(1)

    def sums(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        found = self.inner.sums(x, observed, self._shares(x, observed, r))
        return {"count": r.sum(0), **{f"inner.{name}": value for name, value in found.items()}}

    def maximise(self, sums: Sums) -> Move:
        inner = self._inner(sums)
        count = inner["count"].view(self.size, self.parts).clamp_min(EMPTY)
        self.weight.copy_(keep_if_empty(sums["count"], count / count.sum(1, keepdim=True), self.weight))
        move = self.inner.maximise(inner)

        def moved(older: Sums) -> Sums:
            return {**older, **{f"inner.{name}": value for name, value in move(self._inner(older)).items()}}

        return moved

    def _inner(self, sums: Sums) -> Sums:
        return {name.removeprefix("inner."): v for name, v in sums.items() if name.startswith("inner.")}

    def implied(self, count: Tensor) -> Sums:
        found = self.inner.implied((count[:, None] * self.weight).flatten())
        return {"count": count, **{f"inner.{name}": value for name, value in found.items()}}

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        self.inner.begin(rows, observed)
        for member in range(self.size):  # the parts of a member must differ before EM can part them further
            for part in range(1, self.parts):
                self.inner._part(member * self.parts, member * self.parts + part)

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        part = noise.categorical(self.weight[k].log())
        return self.inner.draw(k * self.parts + part, noise)

    def draw_given(self, x: Tensor, observed: Tensor, k: Tensor, noise: Noise) -> Tensor:
        joint = self._joint(x, observed)
        part = noise.categorical(joint[torch.arange(len(k), device=k.device), k])
        return self.inner.draw_given(x, observed, k * self.parts + part, noise)

    def mean_given(self, x: Tensor, observed: Tensor, r: Tensor) -> Tensor:
        return self.inner.mean_given(x, observed, self._shares(x, observed, r))

    def means(self) -> Tensor:
        inner = self.inner.means().view(self.size, self.parts, -1)
        return (inner * self.weight[:, :, None]).sum(1)

    def free_parameters(self) -> int:
        return self.inner.free_parameters() + self.size * (self.parts - 1)

    def log_prior(self) -> Tensor:
        return self.inner.log_prior()

    def _copy(self, source: int, target: int) -> None:
        super()._copy(source, target)
        for part in range(self.parts):
            self.inner._copy(source * self.parts + part, target * self.parts + part)

    def _part(self, source: int, target: int) -> None:
        for part in range(self.parts):
            self.inner._part(source * self.parts + part, target * self.parts + part)
