"""A feed-forward network of affine maps and logistic units with a linear head: what stacks of machines unroll into."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.rng import Noise


class Unrolled(nn.Module):
    """x -> logistic(W1 x + b1) -> ... -> W x + b: `widths` from the input to the last hidden layer, `outputs` of the head
    (0 leaves it out). Dropout (Srivastava et al. 2014) with the shares `dropout` (of the input, of the hidden units) draws
    from the noise that training passes; without noise nothing is dropped."""

    def __init__(self, widths: Sequence[int], outputs: int = 0, *, dropout: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.maps = nn.ModuleList(nn.Linear(below, above) for below, above in pairs)
        self.head = nn.Linear(widths[-1], outputs) if outputs else None
        self.dropout = dropout
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def begin_from(self, number: int, weights: Tensor, bias: Tensor) -> None:
        """Map `number` takes these weights (below, above) and biases (above,)."""
        layer = self.maps[number]
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(weights.t())
        layer.bias.copy_(bias)

    def up(self, x: Tensor, noise: Noise | None = None) -> list[Tensor]:
        """Every layer's values, (n, width), the input's first."""
        values = [self._dropped(x, self.dropout[0], noise)]
        for layer in self.maps:
            values.append(self._dropped(torch.sigmoid(layer(values[-1])), self.dropout[1], noise))
        return values

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        top = self.up(x, noise)[-1]
        return top if self.head is None else self.head(top)

    def _dropped(self, values: Tensor, share: float, noise: Noise | None) -> Tensor:
        """Values scaled up by 1 / (1 - share), or 0 with probability `share`."""
        if not share or noise is None:
            return values
        kept = noise.uniform(values.shape[1]).to(values.dtype) >= share
        return values * kept / (1 - share)


def supervised_loss(outputs: Tensor, y: Tensor, numbers: bool) -> dict[str, Tensor]:
    """Per-row losses: -log p(y | x) of a softmax and the 0/1 error, or half the squared error of `numbers`. Rows without a
    label (all zero) count nothing."""
    if numbers:
        return {"loss": 0.5 * (outputs - y).square().sum(1)}
    known = y.sum(1)
    wrong = (outputs.argmax(1) != y.argmax(1)).to(outputs.dtype) * known
    return {"loss": -(F.log_softmax(outputs, 1) * y).sum(1), "error": wrong.detach()}
