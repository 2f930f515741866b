"""What a family can live with (`Wants`), and what its network then sees (`Space`, `Batch`). Data only, no maths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Numbers = Literal["standardise", "quantile", "centre"]
Discrete = Literal["native", "dequantise", "round", "binary", "refuse"]
Images = Literal["native", "dequantise", "logit", "symmetric", "binary", "threshold", "refuse"]


@dataclass(frozen=True)
class Wants:
    """What a family can live with.

    numbers: how continuous columns reach the network. discrete: integers and other gridded values stay discrete
    ("native": a likelihood over grid points), get uniform noise ("dequantise": a lower bound), are modelled as reals
    and rounded back ("round": no likelihood), or must be 0/1 ("binary"). images: likewise for pixels; "symmetric"
    scales to [-1, 1], "logit" dequantises and maps to the real line, "binary" draws Bernoulli(pixel) anew for every
    batch, "threshold" cuts at one half. missing: "mask" (the family handles holes), "flag" (missingness is a column of
    its own, modelled too), "refuse". flat: images arrive as rows of pixels instead of (C, H, W).
    """

    family: str
    kinds: frozenset[str]
    numbers: Numbers | None = "standardise"
    discrete: Discrete = "native"
    images: Images = "native"
    missing: Literal["mask", "flag", "refuse"] = "refuse"
    conditions: frozenset[str] = frozenset()
    density: bool = True
    """The family evaluates a density: tied or constant columns must be made discrete first."""
    mixed: bool = True
    """The family takes one-hot blocks beside reals."""
    flat: bool = False
    dtype: Literal["float32", "float64"] = "float32"


@dataclass(frozen=True)
class Block:
    """`width` neighbouring columns of model space that belong to one field and share a likelihood.

    kind "real"; "integer" (grid points `step` apart in model units, from `low` to `high` when bounded); "binary"
    (0/1); "category" (one-hot). `scale` is data units per model unit for each column of a real block.
    """

    name: str
    kind: Literal["real", "integer", "binary", "category"]
    start: int
    width: int
    step: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    scale: tuple[float, ...] = ()

    @property
    def stop(self) -> int:
        return self.start + self.width


@dataclass(frozen=True)
class Condition:
    """The slot for `y`: "labels" (one-hot of `width` classes) or "vector" (`width` standardised numbers)."""

    kind: Literal["labels", "vector"]
    width: int


@dataclass(frozen=True)
class Space:
    """Model space: ordered blocks over `width` columns; `shape` is (C, H, W) for images that keep their grid."""

    blocks: tuple[Block, ...]
    shape: tuple[int, int, int] | None = None
    grid: tuple[int, int, int] | None = None
    """(C, H, W) of the pictures behind flat pixels, None for tables."""
    missing: bool = False
    condition: Condition | None = None
    dtype: str = "float32"

    @property
    def width(self) -> int:
        return sum(block.width for block in self.blocks)

    @property
    def condition_width(self) -> int:
        return self.condition.width if self.condition else 0

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(block.kind for block in self.blocks)

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    def batch_shape(self, rows: int) -> tuple[int, ...]:
        return (rows, *self.shape) if self.shape else (rows, self.width)

    def spans(self, kind: str) -> list[Block]:
        return [block for block in self.blocks if block.kind == kind]


@dataclass(slots=True)
class Batch:
    """Examples in model space. `x` is (n, width) or (n, C, H, W); `observed` has x's shape (True = seen) or is None;
    `y` is (n, condition width); `weight` (n,); `index` the rows' numbers in the training set; `rows` counts the global
    batch over all processes, of which x holds this process's share."""

    x: Tensor
    observed: Tensor | None = None
    y: Tensor | None = None
    lengths: Tensor | None = None
    weight: Tensor | None = None
    index: Tensor | None = None
    rows: int = 0


def blocks_in_order(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same blocks with `start` set so that they follow one another."""
    placed, start = [], 0
    for block in blocks:
        placed.append(replace(block, start=start))
        start += block.width
    return tuple(placed)
