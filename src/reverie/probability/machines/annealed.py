"""Annealed importance sampling of a bipartite machine's log Z: states walk over one group, the other is summed out.

The path is F_beta(e) = U(e) - ((1 - beta) a + beta b).e - A((1 - beta) a' + beta (field of o)), that of Salakhutdinov &
Murray (2008, eq. 15) for a' = 0, from independent units at the base fields a, and backwards from long chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from reverie.inference.annealing import anneal, ladder, sandwich
from reverie.probability.machines.units import Units
from reverie.rng import Noise, RowNoise, stream


def log_partition(side: Side, chains: int, temperatures: int, seed: int, burn_in: int) -> dict[str, float]:
    """log Z forwards and backwards, with standard errors, walking over the side's own group. Backward chains start at the base
    fields and run `burn_in` sweeps at beta = 1 first."""
    noise = RowNoise(stream(seed, "ais"), chains, device=side.bias.device, dtype=side.bias.dtype)
    betas = ladder(temperatures)
    forward = anneal(side.start(noise), betas, side.mover(noise))
    state = side.burnt_in(side.start(noise), burn_in, noise)
    backward = anneal(state, betas.flip(0), side.mover(noise))
    return sandwich(side.log_base(), forward, backward)


@dataclass(frozen=True)
class Side:
    """A bipartite machine seen from one of its groups: the states walk over that one (`own`), the other is summed out.

    `field` is the own group's field given the other's states, `other_field` the other's given the own ones."""

    own: Units
    bias: Tensor
    base: Tensor
    field: Callable[[Tensor], Tensor]
    other: Units
    other_base: Tensor
    other_field: Callable[[Tensor], Tensor]

    @property
    def plain(self) -> bool:
        return not bool(self.other_base.any())

    def start(self, noise: Noise) -> Tensor:
        return self.own.sample(self.base.expand(noise.rows, -1), noise)

    def burnt_in(self, state: Tensor, sweeps: int, noise: Noise) -> Tensor:
        for _ in range(sweeps):
            other = self.other.sample(self.other_field(state), noise)
            state = self.own.sample(self.field(other), noise)
        return state

    def log_base(self) -> float:
        return float(
            sum(g.log_partition(a.double()[None]) for g, a in ((self.own, self.base), (self.other, self.other_base)))
        )

    def mover(self, noise: Noise) -> Callable[[Tensor, float, float, bool], tuple[Tensor, Tensor]]:
        """The transition of `anneal`: the gain of the log-weight, and a sweep at the new temperature."""
        shift, plain = self.bias - self.base, self.plain

        def scaled(field: Tensor, beta: float) -> Tensor:
            return beta * field if plain else (1 - beta) * self.other_base + beta * field

        def move(state: Tensor, a: float, b: float, last: bool) -> tuple[Tensor, Tensor]:
            field = self.other_field(state)
            at_b = scaled(field, b)
            gain = (b - a) * (state @ shift) + (
                self.other.log_partition(at_b) - self.other.log_partition(scaled(field, a))
            )
            if last:
                return gain, state
            other = self.other.sample(at_b, noise)
            return gain, self.own.sample((1 - b) * self.base + b * self.field(other), noise)

        return move
