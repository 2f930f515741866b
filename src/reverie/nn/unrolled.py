"""Feed-forward networks of affine maps and activations with a linear head: what stacks of machines unroll into, and a pair
of them that mirror each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.rng import Noise

Activation = Literal["sigmoid", "tanh", "relu", "silu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": F.silu,
}


class Unrolled(nn.Module):
    """x -> a(W1 x + b1) -> ... -> W x + b: `widths` from the input to the last hidden layer, `outputs` of the head (0 leaves
    it out), `activation` a the logistic function unless said otherwise. Dropout (Srivastava et al. 2014) with the shares
    `dropout` (of the input, of the hidden units) draws from the noise that training passes; without noise nothing is dropped.
    With `short_products` training's products are bfloat16, their sums float32."""

    def __init__(
        self,
        widths: Sequence[int],
        outputs: int = 0,
        *,
        dropout: tuple[float, float] = (0.0, 0.0),
        activation: Activation = "sigmoid",
        short_products: bool = False,
    ) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.maps = nn.ModuleList(nn.Linear(below, above) for below, above in pairs)
        self.head = nn.Linear(widths[-1], outputs) if outputs else None
        self.dropout, self.activation, self.short_products = dropout, ACTIVATIONS[activation], short_products

    @torch.no_grad()
    def begin_from(self, number: int, weights: Tensor, bias: Tensor) -> None:
        """Map `number` (the head's follows the last) takes these weights (below, above) and biases (above,)."""
        layer = self.head if number == len(self.maps) else self.maps[number]
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(weights.t())
        layer.bias.copy_(bias)

    def up(self, x: Tensor, noise: Noise | None = None) -> list[Tensor]:
        """Every layer's values, (n, width), the input's first."""
        values = [self._dropped(x, self.dropout[0], noise)]
        for layer in self.maps:
            assert isinstance(layer, nn.Linear)
            above = self.activation(self.mapped(values[-1], layer.weight, layer.bias))
            values.append(self._dropped(above, self.dropout[1], noise))
        return values

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        top = self.up(x, noise)[-1]
        return top if self.head is None else self.mapped(top, self.head.weight, self.head.bias)

    def mapped(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """W x + b of every row, in x's type."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.short_products and self.training):
            return F.linear(x, weight, bias).to(x.dtype)

    def _dropped(self, values: Tensor, share: float, noise: Noise | None) -> Tensor:
        """Values scaled up by 1 / (1 - share), or 0 with probability `share`."""
        if not share or noise is None:
            return values
        kept = noise.uniform(values.shape[1]).to(values.dtype) >= share
        return values * kept / (1 - share)


class Mirrored(nn.Module):
    """An encoder from `widths[0]` numbers to a code of `code`, and a decoder with the same layers in reverse; `tied` gives
    the decoder the encoder's weights, transposed, and biases of its own."""

    def __init__(
        self,
        widths: Sequence[int],
        code: int,
        *,
        tied: bool = False,
        activation: Activation = "sigmoid",
        short_products: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Unrolled(widths, code, activation=activation, short_products=short_products)
        back = [code, *reversed(widths[1:])]
        self.decoder = None if tied else Unrolled(back, widths[0], activation=activation, short_products=short_products)
        self.biases = nn.ParameterList(torch.zeros(width) for width in (*back[1:], widths[0])) if tied else None

    def encode(self, x: Tensor) -> Tensor:
        code: Tensor = self.encoder(x)
        return code

    def decode(self, z: Tensor) -> Tensor:
        if self.decoder is not None:
            found: Tensor = self.decoder(z)
            return found
        assert self.biases is not None
        weights = [layer.weight for layer in (*self.encoder.maps, self.encoder.head)]
        for number, (weight, bias) in enumerate(zip(reversed(weights), self.biases, strict=True)):
            z = self.encoder.mapped(z, weight.t(), bias)
            z = self.encoder.activation(z) if number + 1 < len(weights) else z
        return z

    @torch.no_grad()
    def begin_from(self, number: int, weights: Tensor, up: Tensor, down: Tensor) -> None:
        """Layer `number` of the encoder and its mirror image take these weights (below, above) and biases of both ways."""
        self.encoder.begin_from(number, weights, up)
        back = len(self.encoder.maps) - number
        if self.decoder is not None:
            self.decoder.begin_from(back, weights.t(), down)
        else:
            assert self.biases is not None
            self.biases[back].copy_(down)


def supervised_loss(outputs: Tensor, y: Tensor, numbers: bool) -> dict[str, Tensor]:
    """Per-row losses: -log p(y | x) of a softmax and the 0/1 error, or half the squared error of `numbers`. Rows without a
    label (all zero) count nothing."""
    if numbers:
        return {"loss": 0.5 * (outputs - y).square().sum(1)}
    known = y.sum(1)
    wrong = (outputs.argmax(1) != y.argmax(1)).to(outputs.dtype) * known
    return {"loss": -(F.log_softmax(outputs, 1) * y).sum(1), "error": wrong.detach()}


_PROBE = 0.1
"""Where the gradient of the divergence is taken, as a share of the way to the perturbation: at none it vanishes."""


def adversarial_loss(net: Unrolled, x: Tensor, noise: Noise, radius: float, numbers: bool) -> Tensor:
    """KL(p(y | x) | p(y | x + r)) of every row, (n,), with r of length `radius` where it is about largest: along the gradient
    of the KL a little way off in a random direction, which is one step of the power method (virtual adversarial training;
    Miyato, Maeda, Koyama & Ishii 2016, section 3). Of `numbers` half the squared distance. p(y | x) is held fixed."""

    def divergence(other: Tensor) -> Tensor:
        if numbers:
            return 0.5 * (outputs - other).square().sum(1)
        log_p = F.log_softmax(outputs, 1)
        return (log_p.exp() * (log_p - F.log_softmax(other, 1))).sum(1)

    with torch.no_grad():
        outputs: Tensor = net(x)
    probe = _PROBE * radius * F.normalize(noise.normal(x.shape[1]).to(x.dtype))
    probe.requires_grad_()
    (slope,) = torch.autograd.grad(divergence(net(x + probe)).sum(), probe)
    return divergence(net(x + radius * F.normalize(slope)))
