"""The cells around the grid points of integer blocks, in model units."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.data.space import Block


def cell_edges(x: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Where the cells around grid points x (any shape) of an integer block begin and end; at the ends of the block they take
    the whole tail, so that the cells of all grid points fill the line."""
    if block.warp is not None:
        lower, upper = block.warp.edges(x.double(), block.spacing, block.origin)
        return lower, upper
    half = 0.5 * block.step[0]
    lower, upper = x - half, x + half
    if block.low is not None:
        lower = torch.where(x < block.low + half, -torch.inf, lower)
    if block.high is not None:
        upper = torch.where(x > block.high - half, torch.inf, upper)
    return lower, upper
