"""Noise for the steps of ragged sequences."""

from __future__ import annotations

import math

import torch
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


class ScatteredNoise(Noise):
    """Uniform noise per step, (N, ...) in float64, from 48 bits per sequence that a mixing function (splitmix64; Steele, Lea &
    Flood 2014) spreads over its steps: the cost is that of the steps, where `StepNoise` draws for the longest sequence of all."""

    def __init__(self, noise: Noise, steps: Ragged) -> None:
        row, place = steps.places
        halves = (noise.uniform(2).double() * 2**24).long()
        self._key, self._drawn = (halves[:, 0] << 24 | halves[:, 1])[row.to(halves.device)], 0
        self._place = place.to(halves.device)
        self.rows = len(row)

    def uniform(self, *shape: int) -> Tensor:
        count = math.prod(shape)
        number = torch.arange(self._drawn, self._drawn + count, device=self._key.device)
        self._drawn += count
        bits = _mixed(_mixed(self._key[:, None] + (self._place << 32)[:, None]) + number)
        return ((bits >> 11 & 2**53 - 1).double() * 2.0**-53).view(self.rows, *shape)

    def normal(self, *shape: int) -> Tensor:
        first, second = self.uniform(*shape), self.uniform(*shape)
        return (-2 * torch.log1p(-first)).sqrt() * (2 * math.pi * second).cos()


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on whole numbers of 64 bits, whose overflow is meant."""
    x = x + _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * _signed(factor)
    return x ^ (x >> 31 & (1 << 33) - 1)


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x
