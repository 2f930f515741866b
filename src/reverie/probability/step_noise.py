"""Noise for the steps of ragged sequences."""

from __future__ import annotations

from torch import Tensor

from reverie.data.space import Ragged
from reverie.rng import Noise


class StepNoise(Noise):
    """A noise per step, (N, ...), made of a noise per sequence that draws for `longest` steps each."""

    def __init__(self, noise: Noise, steps: Ragged) -> None:
        self._noise, self._longest = noise, steps.longest
        self._row, self._place = steps.places
        self.rows = len(self._row)

    def normal(self, *shape: int) -> Tensor:
        return self._pick(self._noise.normal(self._longest, *shape))

    def uniform(self, *shape: int) -> Tensor:
        return self._pick(self._noise.uniform(self._longest, *shape))

    def _pick(self, drawn: Tensor) -> Tensor:
        return drawn[self._row.to(drawn.device), self._place.to(drawn.device)]
