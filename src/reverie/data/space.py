"""What a family can live with (`Wants`), and what its network then sees (`Space`, `Batch`, `Ragged`). Data, no maths."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.data.warps import Warp
from reverie.errors import InvalidOption

Numbers = Literal["standardise", "quantile", "centre"]
Discrete = Literal["native", "counts", "density", "dequantise", "round", "binary", "refuse"]
TokenKind = Literal["characters", "bytes", "bpe", "smiles"]
Unseen = Literal["refuse", "missing", "unknown"]
Images = Literal["native", "dequantise", "logit", "symmetric", "binary", "threshold", "refuse"]


@dataclass(frozen=True)
class Windows:
    """How long sequences reach a network: cut into windows of `length` steps, which share `overlap` steps with the window
    before (1 where every step but the first is predicted from those before it). Windows keep to one sequence, unless they
    are `mixed`: then sequences of one group follow one another, in a new order every pass, and are cut as if they were
    one, so that all windows of a group but two are full."""

    length: int
    overlap: int = 0
    mixed: bool = False

    def __post_init__(self) -> None:
        if self.overlap < 0 or self.length - self.overlap < 2:
            raise InvalidOption(
                f"windows of {self.length} steps that share {self.overlap} with the one before: each needs at least two of "
                "its own"
            )


@dataclass(frozen=True)
class Wants:
    """What a family can live with.

    numbers: how continuous columns reach the network. discrete: integers and other gridded values stay discrete
    ("native": a likelihood over grid points), stay counts 0, 1, 2 ... ("counts"; columns that are none are "native"),
    get uniform noise ("dequantise": a lower bound), meet a density as they are ("density": no likelihood), are modelled
    as reals and rounded back ("round": no likelihood), or must be 0/1 ("binary"). images: likewise for pixels; "symmetric"
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
    symbols: bool = False
    """Sequences: categories and characters as codes in one column ("symbol") instead of one-hot blocks."""
    tokens: TokenKind = "characters"
    """Texts: what a step is. "bpe" are pieces of words, at most `vocabulary` of them."""
    vocabulary: int = 1024
    boundary: bool = False
    """Sequences of symbols: a token of its own stands before the first step and behind the last one, so that the network
    says itself how long a sequence is (`Space.boundary`): its `sample` gets `lengths=None` unless the user asks for some."""
    windows: Windows | None = None
    unseen: Unseen = "refuse"
    """What a category or token never seen in training is in later data: an error, a missing cell, or (in sequences of
    symbols) a token of its own, which then also stands for tokens that training texts have only once."""
    levels: int = 0
    """Gridded columns with at most so many distinct values (and rows enough) become categories."""
    partial: bool = False
    """Labels may be missing in y: an unlabelled row or step has an all-zero row in `Batch.y`."""
    supports: bool = False
    """Numeric columns keep to the support that their values show: model space is the real line behind a map."""
    otherwise: str = ""
    """What to change in the recipe for columns that it does not take; said where they are refused."""


@dataclass(frozen=True)
class Block:
    """`width` neighbouring columns of model space that belong to one field and share a likelihood.

    kind "real" (`rounded`: its values lie on a grid, so a density says nothing of them); "count" (0, 1, 2 ...);
    "integer" (grid points `step` apart in model units, from `low` to `high` when bounded); "binary" (0/1); "category"
    (one-hot); "symbol" (one column that holds a code 0 .. `levels` - 1). `scale` is data units per model unit for each
    column of a real block.
    """

    name: str
    kind: Literal["real", "integer", "count", "binary", "category", "symbol"]
    start: int
    width: int
    step: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None
    scale: tuple[float, ...] = ()
    levels: int = 0
    rounded: bool = False
    warp: Warp | None = None
    """Of an integer block: its grid is even in the data and comes through this map; None where it is even in model units."""
    spacing: float = 0.0
    """Data units between its grid points, with `warp` ..."""
    origin: float = 0.0
    """... and one of them."""

    @property
    def stop(self) -> int:
        return self.start + self.width


@dataclass(frozen=True)
class Condition:
    """The slot for `y`: "labels" (one-hot of `width` classes), "steps" (such a label for every step of a sequence),
    "vector" (`width` standardised numbers), "columns" (several columns side by side, `width` in all), "picture" (C, H, W) or
    "sequence" (a `Ragged` of `width` columns a step). The last three have a `space` of their own, as x has."""

    kind: Literal["labels", "steps", "vector", "columns", "picture", "sequence"]
    width: int
    space: Space | None = None


@dataclass(frozen=True)
class Space:
    """Model space: ordered blocks over `width` columns; `shape` is (C, H, W) for images that keep their grid.

    With `sequence` the blocks are those of one step and examples come as `Ragged`, of at most `longest` steps in
    training.
    """

    blocks: tuple[Block, ...]
    shape: tuple[int, int, int] | None = None
    grid: tuple[int, int, int] | None = None
    """(C, H, W) of the pictures behind flat pixels, None for tables."""
    missing: bool = False
    condition: Condition | None = None
    dtype: str = "float32"
    sequence: bool = False
    longest: int = 0
    boundary: int | None = None
    """The symbol that stands before and behind every sequence, where there is one."""
    unknown: int | None = None
    """The symbol that stands for those training did not have."""
    windows: Windows | None = None

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

    @property
    def scales(self) -> NDArray[np.float64]:
        """Data units per model unit of every column, where all blocks are real."""
        return np.concatenate([np.array(block.scale) for block in self.blocks])

    def spans(self, kind: str) -> list[Block]:
        return [block for block in self.blocks if block.kind == kind]


class Ragged:
    """Sequences of different lengths, one after the other: `values` (N, width), `lengths` (n,) whole numbers that sum
    to N. `longest` bounds the lengths of the whole set these were cut from, so that every part of it draws alike.
    `begins` (n,) says of windows at which step of their sequence they begin; None: all are whole sequences."""

    __slots__ = ("begins", "lengths", "longest", "values")

    def __init__(
        self, values: Tensor, lengths: Tensor, longest: int | None = None, begins: Tensor | None = None
    ) -> None:
        self.values, self.lengths, self.begins = values, lengths, begins
        self.longest = longest if longest is not None else int(lengths.max()) if len(lengths) else 0

    def __len__(self) -> int:
        """The number of sequences, n."""
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"Ragged({len(self)} sequences, {tuple(self.values.shape)} values, {self.dtype}, {self.device})"

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.lengths.nbytes

    @property
    def starts(self) -> Tensor:
        """(n,) where each sequence begins in `values`."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """(N,) the sequence of every step, and (N,) its place in that sequence, from 0; beside `lengths`."""
        row = torch.repeat_interleave(torch.arange(len(self), device=self.lengths.device), self.lengths)
        return row, torch.arange(len(row), device=row.device) - self.starts[row]

    def to(self, target: Any, *, non_blocking: bool = False) -> Ragged:
        """On another device (with its lengths), or in another float type (lengths stay whole numbers)."""
        values = self.values.to(target, non_blocking=non_blocking)
        begins = None if self.begins is None else self.begins.to(values.device, non_blocking=non_blocking)
        return Ragged(values, self.lengths.to(values.device, non_blocking=non_blocking), self.longest, begins)

    def replaced(self, values: Tensor) -> Ragged:
        """Other values (N, any width) for the same steps."""
        return Ragged(values, self.lengths, self.longest, self.begins)

    def steps(self, index: Tensor | slice) -> Tensor | slice:
        """Where in `values` the sequences of that index lie, one after the other."""
        chosen, starts = self.lengths[index], self.starts
        if isinstance(index, slice) and index.step in (None, 1):
            first, last, _ = index.indices(len(self))
            at = int(starts[first]) if first < last else 0
            return slice(at, at + int(chosen.sum()))
        shift = starts[index] - (chosen.cumsum(0) - chosen)
        return torch.repeat_interleave(shift, chosen) + torch.arange(int(chosen.sum()), device=chosen.device)

    def rows(self, index: Tensor | slice) -> Ragged:
        """The sequences of that index, in its order."""
        begins = None if self.begins is None else self.begins[index]
        return Ragged(self.values[self.steps(index)], self.lengths[index], self.longest, begins)

    def padded(self, fill: float = 0.0) -> Tensor:
        """(n, T, width) with T the longest of these sequences, `fill` behind the end of the others."""
        row, place = self.places
        longest = int(self.lengths.max()) if len(self) else 0
        out = self.values.new_full((len(self), longest, *self.values.shape[1:]), fill)
        out[row.to(self.device), place.to(self.device)] = self.values
        return out


Points: TypeAlias = Any
"""A Tensor or a `Ragged`. Not spelled as their union: `Space.sequence` says which, once, and every family would have to
say it again wherever it touches x."""


def rows_of(points: Points | None, index: Tensor | slice) -> Points | None:
    """The examples of that index, of a tensor or of a `Ragged`; None stays None."""
    return None if points is None else points.rows(index) if isinstance(points, Ragged) else points[index]


@dataclass(slots=True)
class Batch:
    """Examples in model space. `x` is (n, width) or (n, C, H, W), or a `Ragged` of n sequences and N steps.

    `observed` has the shape of x, (N, width) for sequences (True = seen), or is None; `y` is (n, condition width), or
    (N, condition width) for labels per step, with an all-zero row where there is no label, (n, C, H, W) where it is a
    picture and a `Ragged` where it is a sequence; `weight` (n,); `rows`
    counts the global batch over all processes, of which x holds this process's share. Batches with the same `key` hold
    the same rows, unchanged: what a network derives from them may be kept from pass to pass; None where they change."""

    x: Points
    observed: Tensor | None = None
    y: Points | None = None
    weight: Tensor | None = None
    rows: int = 0
    key: tuple[Hashable, ...] | None = None
    labelled_steps: bool = False

    def part(self, index: slice) -> Batch:
        """Those of its examples, as a part of the same global batch."""
        steps = self.x.steps(index) if isinstance(self.x, Ragged) else index
        return Batch(
            x=rows_of(self.x, index),
            observed=rows_of(self.observed, steps),
            y=rows_of(self.y, steps if self.labelled_steps else index),
            weight=rows_of(self.weight, index),
            rows=self.rows,
            labelled_steps=self.labelled_steps,
        )


def blocks_in_order(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same blocks with `start` set so that they follow one another."""
    placed, start = [], 0
    for block in blocks:
        placed.append(replace(block, start=start))
        start += block.width
    return tuple(placed)
