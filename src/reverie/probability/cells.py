"""The cells that grid points stand for: where the mass of a value begins and ends in model space."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.data.space import Block


def cell_edges(x: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """The lower and upper edge of the cell of every grid point x (..., width) of an integer block."""
    half = 0.5 * torch.tensor(block.step, dtype=x.dtype, device=x.device)
    return x - half, x + half
