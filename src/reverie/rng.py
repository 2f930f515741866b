"""Randomness as a value: named seeds, generators, and noise that does not depend on how a call is cut in pieces.

`RowNoise` serves sampling: row i draws from the stream (seed, block(i), draw number). `StreamNoise` serves training:
every process draws the noise of the whole global batch from one generator and keeps its own rows. Networks see only
the `Noise` interface and cannot tell which one they were given.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

_BLOCK_NUMBERS = 2**14
_BLOCK_ROWS = 64


def stream(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream of that name: SHA-256 of (seed, names), so streams never overlap by arithmetic."""
    text = "/".join([str(int(seed)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator on `device`, seeded with `stream(seed, *names)`."""
    return torch.Generator(device=device).manual_seed(stream(seed, *names))


class Noise(ABC):
    """A source of random numbers for `rows` examples. Every call is a new draw; `shape` is per row."""

    rows: int

    @abstractmethod
    def normal(self, *shape: int) -> Tensor:
        """Standard normals, shape `(rows, *shape)`."""

    @abstractmethod
    def uniform(self, *shape: int) -> Tensor:
        """Uniforms on [0, 1), shape `(rows, *shape)`."""

    def bernoulli(self, probability: Tensor) -> Tensor:
        """0/1 draws in the type of `probability`, whose first axis is the row."""
        return (self.uniform(*probability.shape[1:]).to(probability.dtype) < probability).to(probability.dtype)

    def categorical(self, logits: Tensor) -> Tensor:
        """Indices drawn from `softmax(logits, -1)` by inverting the cumulative sum; shape `logits.shape[:-1]`."""
        cumulative = torch.softmax(logits, -1).cumsum(-1)
        u = self.uniform(*logits.shape[1:-1], 1).to(cumulative.dtype) * cumulative[..., -1:]
        return (cumulative <= u).sum(-1).clamp_(max=logits.shape[-1] - 1)


class RowNoise(Noise):
    """Noise for rows `start .. start + rows` of a sampling call.

    A block is `clamp(2**14 // numbers per row, 1, 64)` rows and is always drawn whole, so what row i receives depends
    neither on the chunk it is computed in nor on how many rows were asked for.
    """

    def __init__(
        self,
        seed: int,
        rows: int,
        *,
        start: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed, self.rows, self.start = seed, rows, start
        self.device, self.dtype = torch.device(device), dtype
        self._draw = 0

    def normal(self, *shape: int) -> Tensor:
        return self._draw_blocks("normal", shape)

    def uniform(self, *shape: int) -> Tensor:
        return self._draw_blocks("uniform", shape)

    def _draw_blocks(self, kind: str, shape: tuple[int, ...]) -> Tensor:
        size = min(max(_BLOCK_NUMBERS // max(math.prod(shape), 1), 1), _BLOCK_ROWS)
        first, last = self.start // size, (self.start + max(self.rows, 1) - 1) // size
        out = torch.empty((last - first + 1) * size, *shape, dtype=self.dtype)
        # Drawn on the CPU and moved: the same seed then means the same noise on every device.
        for position, block in enumerate(range(first, last + 1)):
            part = out[position * size : (position + 1) * size]
            source = torch.Generator().manual_seed(stream(self.seed, kind, block, self._draw))
            if kind == "normal":
                part.normal_(generator=source)
            else:
                part.uniform_(generator=source)
        self._draw += 1
        offset = self.start - first * size
        return out[offset : offset + self.rows].to(self.device)


class StreamNoise(Noise):
    """Noise for this process's rows of a global batch: rows `rank::world` of what one process would have drawn."""

    def __init__(
        self,
        source: torch.Generator,
        global_rows: int,
        *,
        rank: int = 0,
        world: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._source, self._global, self._rank, self._world, self._dtype = source, global_rows, rank, world, dtype
        self.rows = len(range(rank, global_rows, world))

    def normal(self, *shape: int) -> Tensor:
        drawn = torch.randn(self._global, *shape, generator=self._source, device=self._source.device, dtype=self._dtype)
        return drawn if self._world == 1 else drawn[self._rank :: self._world]

    def uniform(self, *shape: int) -> Tensor:
        drawn = torch.rand(self._global, *shape, generator=self._source, device=self._source.device, dtype=self._dtype)
        return drawn if self._world == 1 else drawn[self._rank :: self._world]


class Chosen(Noise):
    """Noise for some rows of another source, in rising order: what the whole of it would have been for them."""

    def __init__(self, source: Noise, own: Tensor) -> None:
        self._source, self._own, self.rows = source, own, len(own)

    def normal(self, *shape: int) -> Tensor:
        return self._chosen(self._source.normal(*shape))

    def uniform(self, *shape: int) -> Tensor:
        return self._chosen(self._source.uniform(*shape))

    def _chosen(self, drawn: Tensor) -> Tensor:
        return drawn if self.rows == self._source.rows else drawn[self._own.to(drawn.device)]


class Folded(Noise):
    """Noise for `copies` rows in place of every row of another source, which draws them side by side."""

    def __init__(self, source: Noise, copies: int) -> None:
        self._source, self._copies, self.rows = source, copies, source.rows * copies

    def normal(self, *shape: int) -> Tensor:
        return self._source.normal(self._copies, *shape).flatten(0, 1)

    def uniform(self, *shape: int) -> Tensor:
        return self._source.uniform(self._copies, *shape).flatten(0, 1)


class LatticeNoise(Noise):
    """The `number`-th of `of` fixed offsets on the unit cube, the same for every row: midpoints in the first dimension,
    a Kronecker lattice in the others; a single one is the centre. For averages over dequantisation offsets that do not depend on a seed."""

    def __init__(self, rows: int, number: int, of: int) -> None:
        self.rows, self._number, self._of = rows, number, of

    def uniform(self, *shape: int) -> Tensor:
        width = math.prod(shape)
        if self._of == 1:
            return torch.full((self.rows, *shape), 0.5, dtype=torch.float64)
        root = 2.0  # the root of x^(width + 1) = x + 1, by fixed-point iteration
        for _ in range(50):
            root = (1 + root) ** (1 / (width + 1))
        steps = root ** -torch.arange(1.0, width, dtype=torch.float64)
        first = torch.tensor([(self._number + 0.5) / self._of], dtype=torch.float64)
        rest = torch.remainder(0.5 + (self._number + 1) * steps, 1.0)
        return torch.cat([first, rest])[:width].expand(self.rows, width).reshape(self.rows, *shape)

    def normal(self, *shape: int) -> Tensor:
        raise NotImplementedError("a lattice on the unit cube has no normals")
