"""The rows that monitors compare: held-out ones, and draws of the network as it stands."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reverie.data.batches import Batches, Order, Slot
from reverie.data.space import Batch, Space
from reverie.learning.run import Run
from reverie.rng import RowNoise, stream


def first_rows(data: Batches, run: Run) -> Callable[[int], Batch]:
    """At most so many of the first rows, in the middle of their noise."""
    return lambda rows: data.batch(Slot(0, min(rows, data.n)), Order(), None, run.device, whole=True)


def draws(
    network: nn.Module, space: Space, run: Run, held_out: Callable[[int], Batch]
) -> Callable[[int], Tensor] | None:
    """As many draws of the network as `held_out` has rows, with their y, always from the same noise; None for sequences and for
    networks that draw none."""
    if space.sequence or not callable(getattr(network, "sample", None)):
        return None

    @torch.no_grad()
    def draw(rows: int) -> Tensor:
        like = held_out(rows)
        noise = RowNoise(stream(run.seed, "monitor"), len(like.x), device=run.device, dtype=space.torch_dtype)
        network.eval()
        with run.pace.plainly(network):
            drawn: Tensor = network.sample(noise, like.y)  # type: ignore[operator]
        network.train()
        return drawn

    return draw
