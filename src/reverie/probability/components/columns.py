"""From a table's space to a set of distributions over its columns, independent given the member."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.data.space import Block, Space
from reverie.probability.components.discrete import Bernoulli, Categorical, Poisson
from reverie.probability.components.grid import GridGaussian
from reverie.probability.components.mixed import Mixed
from reverie.probability.components.symbols import Symbols
from reverie.probability.exponential_family import Components
from reverie.probability.gaussians.shapes import gaussians


def column_set(
    space: Space,
    size: int,
    *,
    floor: Tensor,
    smoothing: float,
    prior: float,
    covariance: str = "diag",
    rank: int = 1,
) -> Components:
    """`size` members over the columns of `space`: reals normal, grid points a normal's cell masses, counts Poisson,
    bits Bernoulli, categories and symbols categorical.

    floor (width,) is added to variances; smoothing is the pseudo-count of each level, bit value or count column; prior
    the pseudo-rows that pull variances towards the data's own; covariance the shape over the reals.
    """
    parts: list[tuple[Tensor, Components]] = []
    for kind in ("real", "integer", "count", "binary", "category"):
        blocks = space.spans(kind)
        if not blocks:
            continue
        columns = torch.cat([torch.arange(block.start, block.stop) for block in blocks])
        if kind == "real":
            part: Components = gaussians(covariance, size, len(columns), floor[columns], rank=rank, prior=prior)
        else:
            part = _part(kind, blocks, size, floor[columns], smoothing, prior)
        parts.append((columns, part))
    for block in space.spans("symbol"):
        parts.append((torch.tensor([block.start]), Symbols(size, block.levels, smoothing=smoothing)))
    alone = len(parts) == 1 and torch.equal(parts[0][0], torch.arange(space.width))
    return parts[0][1] if alone else Mixed(parts)


def _part(kind: str, blocks: list[Block], size: int, floor: Tensor, smoothing: float, prior: float) -> Components:
    width = sum(block.width for block in blocks)
    if kind == "integer":
        return GridGaussian(size, [block for block in blocks for _ in range(block.width)], floor, prior=prior)
    if kind == "count":
        return Poisson(size, width, smoothing=smoothing)
    if kind == "binary":
        return Bernoulli(size, width, smoothing=smoothing)
    return Categorical(size, [block.width for block in blocks], smoothing=smoothing)
