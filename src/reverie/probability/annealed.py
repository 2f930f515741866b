"""Annealed importance sampling of a bipartite machine's log Z: states walk over one group, the other is summed out.

The path is F_beta(e) = U(e) - ((1 - beta) a + beta b).e - A((1 - beta) a' + beta (field of o)), that of Salakhutdinov &
Murray (2008, eq. 15) for a' = 0, from independent units at the base fields a, and backwards from long chains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from reverie.inference.annealing import anneal, ladder, sandwich
from reverie.rng import Noise, RowNoise, stream

if TYPE_CHECKING:
    from reverie.probability.bipartite import Bipartite


def log_partition(machine: Bipartite, chains: int, temperatures: int, seed: int, burn_in: int) -> dict[str, float]:
    """log Z forwards and backwards, with standard errors; the walk is over the odd group where the machine says `flip`.
    Backward chains start at the base fields and run `burn_in` sweeps at beta = 1 first."""
    side = _Side(machine, machine.flip)
    noise = RowNoise(stream(seed, "ais"), chains, device=side.bias.device, dtype=side.bias.dtype)
    betas = ladder(temperatures)
    forward = anneal(side.start(noise), betas, side.mover(noise))
    state = side.burnt_in(side.start(noise), burn_in, noise)
    backward = anneal(state, betas.flip(0), side.mover(noise))
    return sandwich(side.log_base(), forward, backward)


class _Side:
    """A bipartite machine seen from one of its groups: the states walk over that one, the other is summed out."""

    def __init__(self, machine: Bipartite, flip: bool) -> None:
        m = machine
        self.field: Callable[[Tensor], Tensor] = m.odd_field if flip else m.even_field
        self.other_field: Callable[[Tensor], Tensor] = m.even_field if flip else m.odd_field
        if flip:
            self.own, self.bias, self.base = m.odd, m.odd_bias, m.odd_base
            self.other, self.other_base = m.even, m.even_base
        else:
            self.own, self.bias, self.base = m.even, m.even_bias, m.even_base
            self.other, self.other_base = m.odd, m.odd_base
        self.plain = not bool(self.other_base.any())

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
        shift = self.bias - self.base

        def scaled(field: Tensor, beta: float) -> Tensor:
            return beta * field if self.plain else (1 - beta) * self.other_base + beta * field

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
