"""The deep belief network's maths (Hinton, Osindero & Teh 2006): directed layers of bits under a restricted machine.

p(v, h1, ..., hL) = p(v | h1) ... p(h(L-2) | h(L-1)) p(h(L-1), hL), the last factor the top machine's. Recognition goes the
other way, q(h1 | v) q(h2 | h1) ...: by the machines' own weights until they are untied, then by weights of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nn.unrolled import Unrolled
from reverie.probability.machines.restricted import Restricted
from reverie.probability.machines.units import Units
from reverie.rng import Noise


class BeliefNetwork(nn.Module):
    """`layers[l]`, restricted machines bottom up: the last is the top machine, with label units where there are
    `labels`; of the others W and b generate, W and c recognise. With `untied` recognition has a network of its own,
    `recognition`, which takes the machines' weights over when `untie` is called."""

    _untied: Tensor

    def __init__(
        self,
        visible: Units,
        hidden: Sequence[int],
        *,
        labels: int = 0,
        untied: bool = False,
        centring: float = 0.0,
        short_products: bool = False,
    ) -> None:
        super().__init__()
        self.labels, self.widths = labels, [visible.width, *hidden]
        below: list[int | Units] = [visible, *hidden[:-1]]
        self.layers = nn.ModuleList(
            Restricted(
                units,
                above,
                labels=labels if number == len(hidden) - 1 else 0,
                centring=centring,
                short_products=short_products,
            )
            for number, (units, above) in enumerate(zip(below, hidden, strict=True))
        )
        self.recognition = Unrolled(self.widths[:-1]) if untied else None
        self.register_buffer("_untied", torch.zeros((), dtype=torch.bool))

    def machine(self, number: int) -> Restricted:
        """Restricted machine number `number`, bottom up."""
        layer = self.layers[number]
        assert isinstance(layer, Restricted)
        return layer

    @property
    def top(self) -> Restricted:
        """The top machine."""
        return self.machine(len(self.layers) - 1)

    def untie(self) -> None:
        """Recognition gets weights of its own, at first the machines'."""
        if self.recognition is None or bool(self._untied):
            return
        for number in range(len(self.recognition.maps)):
            machine = self.machine(number)
            self.recognition.begin_from(number, machine.W, machine.c)
        self._untied.fill_(True)

    def recognising(self, number: int) -> tuple[Tensor, Tensor]:
        """Weights (below, above) and biases of the way up into hidden layer `number` (from 0)."""
        layer, machine = self._own_way(number), self.machine(number)
        return (machine.W, machine.c) if layer is None else (layer.weight.t(), layer.bias)

    def _own_way(self, number: int) -> nn.Linear | None:
        """The map up into hidden layer `number` where recognition is untied from the machines."""
        if self.recognition is None or not bool(self._untied) or number >= len(self.recognition.maps):
            return None
        return cast(nn.Linear, self.recognition.maps[number])

    # ------------------------------------------------------------------ up and down

    def field_above(self, number: int, below: Tensor) -> Tensor:
        """The field of hidden layer number `number` (from 0) given the layer below it, in recognition."""
        layer = self._own_way(number)
        if layer is None:
            return self.machine(number).odd_field(below)
        field: Tensor = layer(below)
        return field

    def up(self, x: Tensor, noise: Noise | None = None, *, to: int | None = None) -> list[Tensor]:
        """x and the hidden layers up to number `to` (the top machine's lower layer by default): draws, or means of means
        without noise."""
        values = [x]
        for number in range(len(self.layers) - 1 if to is None else to):
            field = self.field_above(number, values[-1])
            values.append(torch.sigmoid(field) if noise is None else noise.bernoulli(torch.sigmoid(field)))
        return values

    def down(self, h: Tensor, noise: Noise | None = None) -> list[Tensor]:
        """The layers below the top machine, given its lower layer h, top down and h first: draws, or means of means."""
        values = [h]
        for number in reversed(range(len(self.layers) - 1)):
            machine = self.machine(number)
            field = machine.even_field(values[-1])
            values.append(machine.even.mean(field) if noise is None else machine.even.sample(field, noise))
        return values

    def bound(self, x: Tensor, noise: Noise, samples: int, y: Tensor | None = None) -> Tensor:
        """log p(x) + log Z of the top machine (with y (n, K): log p(x, y) + log Z) from below, (n,): the log-mean over
        `samples` draws of h ~ q of p(x | h1) ... p*(h(L-1)) / q(h)."""
        weights = []
        for _ in range(samples):
            states, total = [x], torch.zeros(len(x), dtype=x.dtype, device=x.device)
            for number in range(len(self.layers) - 1):
                below, machine = states[-1], self.machine(number)
                field = self.field_above(number, below)
                above = noise.bernoulli(torch.sigmoid(field))
                down = machine.even_field(above)
                own = machine.even.energy(below)
                total = total + (below * down).sum(1) - machine.even.log_partition(down)
                total = total if own is None else total - own
                total = total - (field * above).sum(1) + F.softplus(field).sum(1)
                states.append(above)
            weights.append(total + self.top_score(states[-1], y))
        return torch.logsumexp(torch.stack(weights), 0) - math.log(samples)

    def top_score(self, h: Tensor, y: Tensor | None) -> Tensor:
        """-F(h) of the top machine, labels summed out, or -F(h, y), (n,)."""
        top = self.top
        if not self.labels:
            return -top.even_energy(h)
        scores = top.label_scores(h)
        return torch.logsumexp(scores, 1) if y is None else (scores * y).sum(1)

    # ------------------------------------------------------------------ wake and sleep

    def wake(self, states: Sequence[Tensor], share: Tensor) -> dict[nn.Parameter, Tensor]:
        """Gradients of -sum share log p(state below | state above) in the generative weights, states from `up`."""
        found: dict[nn.Parameter, Tensor] = {}
        for number in range(len(self.layers) - 1):
            machine, below, above = self.machine(number), states[number], states[number + 1]
            error = (machine.even.mean(machine.even_field(above)) - below) * share[:, None]
            found[machine.W], found[machine.b] = error.t() @ above, error.sum(0)
        return found

    def sleep(self, h: Tensor, share: Tensor, noise: Noise) -> dict[nn.Parameter, Tensor]:
        """Gradients of -sum share log q(state above | state below) in the recognition weights, for a dream that starts at
        the top machine's lower layer h."""
        assert self.recognition is not None
        states = self.down(h, noise)[::-1]
        found: dict[nn.Parameter, Tensor] = {}
        for number, layer in enumerate(self.recognition.maps):
            assert isinstance(layer, nn.Linear)
            error = (torch.sigmoid(layer(states[number])) - states[number + 1]) * share[:, None]
            found[cast(nn.Parameter, layer.weight)] = error.t() @ states[number]
            found[layer.bias] = error.sum(0)
        return found
