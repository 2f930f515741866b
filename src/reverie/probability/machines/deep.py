"""The deep Boltzmann machine's maths (Salakhutdinov & Hinton 2009): a chain of layers, each connected with its neighbours.

E(x_0, ..., x_L) = sum_l U(x_l) - b_l.x_l - sum_l x_l W_l x_(l+1), x_0 visible. Even and odd layers are two groups with
connections between the groups only, so block Gibbs sampling takes two steps at any depth, and annealing walks over one
group with the other summed out. A label is one more layer, a softmax unit above the top one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reverie.probability.machines.bipartite import Bipartite
from reverie.probability.machines.restricted import Penalties, Restricted, Side
from reverie.probability.machines.units import Categorical, SideBySide, Units
from reverie.rng import Noise

_PASSES = 100
"""Mean-field updates at most, outside training: a bound is the better the nearer the fixed point."""


class DeepMachine(Bipartite):
    """Layers of units bottom up (`layers[0]` visible), W[l] (n_l, n_(l+1)), b[l] (n_l,), centring offsets and base fields.

    q(hidden | v) is factorised; its means are found by at most `passes` mean-field updates from a bottom-up pass with
    doubled weights, each moving a share 1 - `damping` of the way, until none moves by `tolerance`.
    """

    flip = True
    even_mean: Tensor
    odd_mean: Tensor

    def __init__(
        self,
        layers: Sequence[Units],
        *,
        labels: int = 0,
        centring: float = 0.0,
        l2: float = 0.0,
        passes: int = 5,
        tolerance: float = 1e-3,
        damping: float = 0.0,
        short_products: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__(labels)
        layers = [*layers, Categorical(1, labels)] if labels else list(layers)
        self.depth, self.widths = len(layers), [layer.width for layer in layers]
        self.even_units, self.odd_units = SideBySide(layers[::2]), SideBySide(layers[1::2])
        pairs = itertools.pairwise(self.widths)
        self.W = nn.ParameterList(0.01 * torch.randn(low, high) for low, high in pairs)
        self.b = nn.ParameterList(torch.zeros(width) for width in self.widths)
        # visible biases of the machines that pre-training stacks; the deep machine has no use for them afterwards
        inner = self.widths[1 : self.top] if pretrained else []
        self.stage_bias = nn.ParameterList(torch.zeros(width) for width in inner)
        # running means of what training inferred: the centring offsets, and where chains and annealing start
        for name, group in (("even_mean", self.even_units), ("odd_mean", self.odd_units)):
            self.register_buffer(name, group.mean(torch.zeros(1, group.width))[0].detach())
        self.centring, self.l2, self.short_products = centring, l2, short_products
        self.passes, self.tolerance, self.damping = passes, tolerance, damping
        self.fresh = True

    @property
    def top(self) -> int:
        """The number of the highest layer of hidden units."""
        return self.depth - 1 - bool(self.labels)

    @property
    def layers(self) -> list[Units]:
        """All layers, bottom up, the label last."""
        found: list[Units] = [*self.even_units.layers, *self.odd_units.layers]
        half = len(self.even_units.layers)
        return [found[number // 2 + (half if number % 2 else 0)] for number in range(self.depth)]

    # ------------------------------------------------------------------ the two groups

    @property
    def even(self) -> Units:
        return self.even_units

    @property
    def odd(self) -> Units:
        return self.odd_units

    @property
    def even_bias(self) -> Tensor:
        return torch.cat(list(self.b)[::2])

    @property
    def odd_bias(self) -> Tensor:
        return torch.cat(list(self.b)[1::2])

    @property
    def even_base(self) -> Tensor:
        return self.even.field_of(self.even_mean)

    @property
    def odd_base(self) -> Tensor:
        return self.odd.field_of(self.odd_mean)

    def split(self, even: Tensor, odd: Tensor) -> list[Tensor]:
        """Values of both groups (last axis) by layer, bottom up."""
        parts = [torch.split(even, self.widths[::2], -1), torch.split(odd, self.widths[1::2], -1)]
        return [parts[number % 2][number // 2] for number in range(self.depth)]

    def odd_field(self, even: Tensor) -> Tensor:
        """b_l + x_(l-1) W_(l-1) + W_l x_(l+1) for odd l side by side, (n, odd width)."""
        return self._fields(even, 1)

    def even_field(self, odd: Tensor) -> Tensor:
        """The same for even l, (n, even width)."""
        return self._fields(odd, 0)

    def _fields(self, others: Tensor, first: int) -> Tensor:
        states = torch.split(others, self.widths[1 - first :: 2], -1)
        fields = []
        for layer in range(first, self.depth, 2):
            field: Tensor = self.b[layer]
            if layer > 0:
                field = self.weighed(field, states[(layer - 1) // 2], self.W[layer - 1])
            if layer + 1 < self.depth:
                field = self.weighed(field, states[(layer + 1) // 2], self.W[layer], down=True)
            fields.append(field)
        return torch.cat(fields, 1) if len(fields) > 1 else fields[0]

    # ------------------------------------------------------------------ inference

    def bottom_up(self, x: Tensor) -> list[Tensor]:
        """Means of every layer from the one below with the weights doubled, but for the top one, which has no layer above
        to make up for: the pass that pre-training trained."""
        return self._upwards(x, self.weighed(self.b[1], x, self.W[0]))

    def _upwards(self, x: Tensor, field: Tensor) -> list[Tensor]:
        """`bottom_up`, the first hidden layer's `field` b + x W at hand already."""
        layers, means = self.layers, [x]
        for number in range(1, self.depth):
            double = 2.0 if number < self.top else 1.0
            if number == 1:
                field = torch.lerp(self.b[1], field, double)
            else:
                field = self.weighed(self.b[number], means[-1], self.W[number - 1], scale=double)
            means.append(layers[number].mean(field))
        return means

    def infer(
        self, x: Tensor, y: Tensor | None = None, *, passes: int | None = None, from_data: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean-field q(hidden | x), and the label where y (n, K) has none: even and odd means, x and y among them. Unless
        `passes` says how many updates at most, `self.passes` in training, else as many as it takes, up to a hundred.
        `from_data` is the first hidden layer's field but for the layer above, where it is known already."""
        layers = self.layers
        from_data = self.weighed(self.b[1], x, self.W[0]) if from_data is None else from_data
        means = self._upwards(x, from_data)
        if self.labels:
            means[-1] = self._known(means[-1], y)

        def updated(number: int) -> Tensor:
            below = means[number - 1]
            field = from_data if number == 1 else self.weighed(self.b[number], below, self.W[number - 1])
            if number + 1 < self.depth:
                field = self.weighed(field, means[number + 1], self.W[number], down=True)
            mean = layers[number].mean(field)
            mean = self._known(mean, y) if self.labels and number == self.depth - 1 else mean
            return torch.lerp(mean, means[number], self.damping) if self.damping else mean

        for _ in range(passes or (self.passes if self.training else _PASSES)):
            before = means[1::2]
            for number in (*range(1, self.depth, 2), *range(2, self.depth, 2)):
                means[number] = updated(number)
            if max(float((a - b).abs().max()) for a, b in zip(means[1::2], before, strict=True)) < self.tolerance:
                break
        return torch.cat(means[::2], 1), torch.cat(means[1::2], 1)

    def hold_odd(self, odd: Tensor, y: Tensor | None) -> Tensor:
        """The odd units' means with known labels put in, where the label layer is one of theirs."""
        if y is None or not self.labels or (self.depth - 1) % 2 == 0:
            return odd
        return torch.cat([odd[:, : -self.labels], self._known(odd[:, -self.labels :], y)], 1)

    def _known(self, means: Tensor, y: Tensor | None) -> Tensor:
        """A label layer's means with the labels that are known put in."""
        if y is None:
            return means
        return torch.where(y.sum(1, keepdim=True) > 0, y.to(means.dtype), means)

    def bound(self, x: Tensor, noise: Noise | None = None, samples: int = 0, from_data: Tensor | None = None) -> Tensor:
        """log p(x) + log Z from below, the odd units summed out, (n,): with q the mean-field posterior of the even hidden
        units, -F(x, means) + H(q); or with `samples` draws the log-mean of exp(-F(x, h)) / q(h), which is tighter."""
        _, odd = self.infer(x, from_data=from_data)
        field = self.even_field(odd)
        hidden = slice(self.widths[0], None)
        if len(self.even_units.layers) == 1:
            return -self.even_energy(x)
        own, field = SideBySide(self.even_units.layers[1:]), field[:, hidden]
        partition = own.log_partition(field)
        if not samples:
            mean = own.mean(field)
            return partition - (field * mean).sum(1) - self.even_energy(torch.cat([x, mean], 1))
        assert noise is not None
        weights = []
        for _ in range(samples):
            h = own.sample(field, noise)
            weights.append(partition - (field * h).sum(1) - self.even_energy(torch.cat([x, h], 1)))
        return torch.logsumexp(torch.stack(weights), 0) - math.log(samples)

    def class_bounds(self, x: Tensor, noise: Noise | None = None, samples: int = 0) -> Tensor:
        """log p(x, y = k) + log Z from below for every class, (n, K)."""
        machine = self.of_class(0)
        # Classes differ in the top layer's biases alone: with two hidden layers or more they share the first layer's field.
        from_data = machine.weighed(machine.b[1], x, machine.W[0]) if machine.depth > 2 else None
        bounds = []
        with torch.no_grad():
            for shift in self.W[-1].unbind(1):
                machine.b[-1].copy_(self.b[-2]).add_(shift)
                bounds.append(machine.bound(x, noise, samples, from_data))
        return torch.stack(bounds, 1) + self.label_bias

    # ------------------------------------------------------------------ learning

    def stage(self, number: int) -> Restricted:
        """The machine of layers `number` and `number` + 1 that pre-training trains, on this machine's own tensors.

        Weights count twice towards a layer that will have a neighbour on its other side too (Salakhutdinov & Hinton
        2009, section 3.1): upwards but into the top layer, downwards but into the visible one.
        """
        below, above = self.layers[number], self.layers[number + 1]
        with torch.random.fork_rng(devices=[]):  # its initial weights are thrown away
            machine = Restricted(below, above, centring=self.centring, short_products=self.short_products)
        machine.to(self.W[0].device)
        machine.W, machine.c = self.W[number], self.b[number + 1]
        machine.b = self.stage_bias[number - 1] if number else self.b[0]
        offsets = [self.part_of_mean(number), self.part_of_mean(number + 1)]
        if not self.centring:  # a restricted machine takes offsets as they are: without centring they must be zero
            offsets = [torch.zeros_like(offset) for offset in offsets]
        machine.v_offset, machine.h_offset = offsets
        machine.up_scale = 2.0 if number + 1 < self.top else 1.0
        machine.down_scale = 2.0 if number else 1.0
        machine.penalties = Penalties(l2=self.l2)
        return machine

    def lift(self, x: Tensor, number: int, noise: Noise) -> Tensor:
        """Draws of layer `number` by the pass that pre-training trained, (n, width)."""
        for layer in range(number):
            double = 2.0 if layer + 1 < self.top else 1.0
            field = torch.addmm(self.b[layer + 1], x, self.W[layer], alpha=double)
            x = self.layers[layer + 1].sample(field, noise)
        return x

    def rows(self, x: Tensor, y: Tensor | None) -> Tensor:
        """The data and behind them the labels, zeros where there is none, (n, visible + labels)."""
        if not self.labels:
            return x
        return torch.cat([x, x.new_zeros(len(x), self.labels) if y is None else y.to(x.dtype)], 1)

    def start(self, mean: Tensor, variance: Tensor) -> None:
        """Visible biases (and the label's) at which independent units have the data's mean; running means likewise."""
        mean, variance = mean.to(self.b[0]), variance.to(self.b[0])
        if not self.fresh:
            return
        with torch.no_grad():
            ends = [(0, slice(0, self.widths[0]))]
            if self.labels:
                ends.append((self.depth - 1, slice(self.widths[0], None)))
            for number, columns in ends:
                layer = self.layers[number]
                self.b[number].copy_(layer.start(mean[columns], variance[columns]))
                self.part_of_mean(number).copy_(layer.mean(self.b[number][None])[0])

    def part_of_mean(self, number: int) -> Tensor:
        """The running mean of that layer, a view."""
        return self.split(self.even_mean, self.odd_mean)[number]

    def clamp(self, x: Tensor, y: Tensor | None, noise: Callable[[], Noise]) -> Tensor:
        """Even states of rows of data: x, and the mean-field means of the hidden ones, (n, even width)."""
        return self.infer(x, y)[0]

    def gradient(
        self, positive: Side, negative: Side, total: Callable[[Sequence[Tensor]], None]
    ) -> dict[nn.Parameter, Tensor]:
        """The gradient of -log p by parameter, each connection centred as in a restricted machine (Montavon & Müller
        2012; Melchior et al. 2016); `total` sums over processes in place."""
        moments = [*positive.means, *negative.means]
        own = [self.even_units.learned(side.even, side.share) for side in (positive, negative)]
        total([*moments, *own[0].values(), *own[1].values()])
        rate = self.centring or 0.01
        self.even_mean.lerp_(moments[0].to(self.even_mean.dtype), rate)
        self.odd_mean.lerp_(moments[1].to(self.odd_mean.dtype), rate)
        change = self.split(moments[2] - moments[0], moments[3] - moments[1])
        offsets = self.split(self.even_mean, self.odd_mean)
        sides = [self.split(side.even, side.odd) for side in (positive, negative)]
        share = torch.cat([-positive.share, negative.share])[:, None]
        biases = [part.clone() for part in change]
        found: dict[nn.Parameter, Tensor] = {}
        for number, weights in enumerate(self.W):
            low, high = (torch.cat([side[number + step] for side in sides]) for step in (0, 1))
            if self.centring:
                low, high = low - offsets[number], high - offsets[number + 1]
            dw = self.product(low.t(), high * share)
            total([dw])
            if self.centring:  # a step on the centred W moves the plain biases too
                biases[number] -= dw @ offsets[number + 1]
                biases[number + 1] -= offsets[number] @ dw
            if self.l2:
                dw.add_(weights, alpha=self.l2)
            found[weights] = dw
        found.update(zip(self.b, biases, strict=True))
        return found | {parameter: own[1][parameter] - own[0][parameter] for parameter in own[0]}

    def signs(self, even: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the visible means given the odd units' means, and the free energy with the odd units summed
        out, (n,) each: signs of life, no objectives."""
        visible = slice(0, self.widths[0])
        down = self.even.mean(self.even_field(self.odd.mean(field)))[:, visible]
        return (down - even[:, visible]).square_().sum(1), self.even_energy(even, field)

    # ------------------------------------------------------------------ labels

    @property
    def label_bias(self) -> Tensor:
        bias: Tensor = self.b[-1]
        return bias

    def of_class(self, k: int) -> DeepMachine:
        """The machine without the label layer, the top layer's biases shifted by W[-1] e_k."""
        with torch.random.fork_rng(devices=[]):  # its initial weights are thrown away
            machine = DeepMachine(self.layers[:-1], passes=self.passes, tolerance=self.tolerance, damping=self.damping)
        machine = machine.to(self.b[0]).train(self.training)
        with torch.no_grad():
            for own, shared in zip([*machine.W, *machine.b], [*list(self.W)[:-1], *list(self.b)[:-1]], strict=True):
                own.copy_(shared)
            machine.b[-1].add_(self.W[-1][:, k])
            for number in range(machine.depth):
                machine.part_of_mean(number).copy_(self.part_of_mean(number))
        return machine
