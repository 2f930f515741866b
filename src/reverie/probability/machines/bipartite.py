"""Machines of two groups of units with connections between the groups only, so that given one group the units of the other
are independent: restricted Boltzmann machines (visible and hidden), deep ones (even layers and odd layers).

E(e, o) = U(e) + U(o) - b.e - c.o - sum over connections of e_i W_ij o_j,   F(e) = U(e) - b.e - A(field of o given e).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from reverie.errors import Unsupported
from reverie.inference.annealing import anneal, ladder
from reverie.probability.machines import annealed
from reverie.probability.machines.partition import EXACT_BITS, Machine
from reverie.probability.machines.units import Units
from reverie.rng import Folded, Noise

_BLOCK_BITS = 10

Clamped: TypeAlias = tuple[Tensor, Tensor]
"""Where units of a group keep their values, and those values; (n, width) each, or what broadcasts to it."""


class Bipartite(Machine):
    """Two groups of units, `even` and `odd`; states and fields are (n, width of the group).

    `even_base` and `odd_base` are the fields of independent units from which chains and annealing start; with `flip`
    annealing runs over states of the odd group and sums the even one out.

    With `labels` classes one of the groups holds a class; the machine with the class clamped to k is `of_class(k)`, whose
    energies lack `label_bias[k]`, and Z is the sum of those machines'.
    """

    flip = False
    short_products = False
    """Training's matrix products are bfloat16 with sums in float32."""
    _classes: Tensor

    def __init__(self, labels: int = 0) -> None:
        super().__init__()
        self.labels = labels
        self.register_buffer("_classes", torch.zeros(labels, dtype=torch.float64))
        self._rounded: dict[nn.Parameter, Tensor] | None = None

    @property
    @abstractmethod
    def label_bias(self) -> Tensor:
        """The label unit's own field, (K,)."""

    @abstractmethod
    def of_class(self, k: int) -> Bipartite:
        """The machine of the other units while the label is clamped to class k."""

    @property
    @abstractmethod
    def even(self) -> Units:
        """The group that holds the visible units."""

    @property
    @abstractmethod
    def odd(self) -> Units:
        """The group of hidden units next to the visible ones."""

    @property
    @abstractmethod
    def even_bias(self) -> Tensor:
        """b, (even width,)."""

    @property
    @abstractmethod
    def odd_bias(self) -> Tensor:
        """c, (odd width,)."""

    @property
    @abstractmethod
    def even_base(self) -> Tensor:
        """Fields of independent even units near the data, (even width,)."""

    @property
    @abstractmethod
    def odd_base(self) -> Tensor:
        """Fields of independent odd units, (odd width,)."""

    @abstractmethod
    def odd_field(self, even: Tensor) -> Tensor:
        """c and what the connections add to it, (n, odd width)."""

    @abstractmethod
    def even_field(self, odd: Tensor) -> Tensor:
        """b and what the connections add to it, (n, even width)."""

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a @ b, with `short_products` in training from factors rounded to bfloat16."""
        if self.short_products and self.training:
            return torch.mm(a.bfloat16(), b.bfloat16()).to(a.dtype)
        return torch.mm(a, b)

    def weighed(
        self, field: Tensor, states: Tensor, weights: nn.Parameter, *, down: bool = False, scale: float = 1.0
    ) -> Tensor:
        """field + scale * states @ weights (`down`: their transpose), (n, width)."""
        if not (self.short_products and self.training):
            return torch.addmm(field, states, weights.t() if down else weights, alpha=scale)
        short = None if self._rounded is None else self._rounded.get(weights)
        if short is None:
            short = weights.detach().bfloat16()
            if self._rounded is not None:
                self._rounded[weights] = short
        product = torch.mm(states.bfloat16(), short.t() if down else short)
        return torch.add(field, product.to(states.dtype), alpha=scale)

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Within it the weights do not change, so they are rounded once: an update asks for them several times."""
        self._rounded = {}
        try:
            yield
        finally:
            self._rounded = None

    # ------------------------------------------------------------------ energies and chains

    def even_energy(self, even: Tensor, field: Tensor | None = None) -> Tensor:
        """F(e), the odd units summed out, (n,) nats; `field` is theirs where it is known already."""
        linear = even @ self.even_bias + self.odd.log_partition(self.odd_field(even) if field is None else field)
        own = self.even.energy(even)
        return -linear if own is None else own - linear

    def joint_energy(self, even: Tensor, odd: Tensor) -> Tensor:
        """E(e, o), (n,) nats."""
        energy = -(even @ self.even_bias) - (self.odd_field(even) * odd).sum(1)
        for layer, state in ((self.even, even), (self.odd, odd)):
            own = layer.energy(state)
            energy = energy if own is None else energy + own
        return energy

    def fantasy(self, noise: Noise) -> Tensor:
        """Starting states of chains: independent even units at their base fields."""
        return self.even.sample(self.even_base.expand(noise.rows, -1), noise)

    def chains(self, noise: Noise) -> Tensor:
        """Odd states that persistent chains start from."""
        return self.up(self.fantasy(noise), noise)

    def up(self, even: Tensor, noise: Noise, field: Tensor | None = None) -> Tensor:
        """o ~ p(o | e), (n, odd width)."""
        return self.odd.sample(self.odd_field(even) if field is None else field, noise)

    def advance(self, odd: Tensor, sweeps: int, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """`sweeps` of block Gibbs sampling e | o, o | e: the last e, the field of its odd units, the last o."""
        even = field = odd
        for _ in range(sweeps):
            even = self.even.sample(self.even_field(odd), noise)
            field = self.odd_field(even)
            odd = self.odd.sample(field, noise)
        return even, field, odd

    def gibbs(
        self,
        even: Tensor,
        sweeps: int,
        noise: Noise,
        *,
        temperature: float = 1.0,
        clamped: Clamped | None = None,
        clamped_odd: Clamped | None = None,
    ) -> Tensor:
        """`sweeps` of block Gibbs sampling o | e, e | o of exp(-E / T); `clamped` are even units that keep their values,
        `clamped_odd` odd ones."""
        for _ in range(sweeps):
            odd = _held(self.odd.sample_at(self.odd_field(even), noise, temperature), clamped_odd)
            even = _held(self.even.sample_at(self.even_field(odd), noise, temperature), clamped)
        return even

    def walk(self, noise: Noise, sweeps: int) -> Iterator[tuple[Tensor, Tensor]]:
        odd = self.chains(noise)
        for _ in range(sweeps):
            even, field, odd = self.advance(odd, 1, noise)
            yield even, self.even_energy(even, field)

    # ------------------------------------------------------------------ log Z

    @property
    def listable(self) -> bool:
        return min(self.even.bits, self.odd.bits) <= EXACT_BITS + 1e-9

    @torch.no_grad()
    def exact_log_partition(self) -> float:
        """log Z by listing the states of one group; with labels the sum over classes, whose own values are kept."""
        if not self.labels:
            return self._listed()
        parts = [self.of_class(k)._listed() for k in range(self.labels)]
        return self._sum_of_classes(parts)

    def _side(self) -> annealed.Side:
        """The group over whose states annealing runs, and the one it sums out."""
        even = (self.even, self.even_bias, self.even_base, self.even_field)
        odd = (self.odd, self.odd_bias, self.odd_base, self.odd_field)
        (own, bias, base, field), (other, _, other_base, other_field) = (odd, even) if self.flip else (even, odd)
        return annealed.Side(own, bias, base, field, other, other_base, other_field)

    @torch.no_grad()
    def annealed_log_partition(
        self, *, chains: int = 200, temperatures: int = 4000, seed: int = 0, burn_in: int = 500
    ) -> dict[str, float]:
        """log Z by AIS and by its reverse; with labels every class gets its share of the chains, and Z is the sum."""
        if not self.labels:
            return annealed.log_partition(self._side(), chains, temperatures, seed, burn_in)
        each = max(2, math.ceil(chains / self.labels))
        parts = [
            annealed.log_partition(self.of_class(k)._side(), each, temperatures, seed + k, burn_in)
            for k in range(self.labels)
        ]
        found = {"effective_chains": sum(part["effective_chains"] for part in parts)}
        for way in ("_reverse", ""):  # forwards last: its classes are the ones kept
            found[f"log_z{way}"] = self._sum_of_classes([part[f"log_z{way}"] for part in parts])
            errors = torch.tensor([part[f"standard_error{way}"] for part in parts], dtype=torch.float64)
            found[f"standard_error{way}"] = float((torch.softmax(self._classes, 0).cpu() * errors).norm())
        return found

    def _sum_of_classes(self, parts: Sequence[float]) -> float:
        """log Z from that of every class without its `label_bias`; keeps the classes' own."""
        self._classes.copy_(
            torch.tensor(parts, dtype=torch.float64).to(self.label_bias.device) + self.label_bias.double()
        )
        return float(torch.logsumexp(self._classes, 0))

    def class_log_partitions(self) -> Tensor:
        """log Z of every class, (K,), of these parameters."""
        self.log_partition()
        return self._classes

    def _listed(self) -> float:
        """log Z by summing one group out and listing the states of the other in blocks, in float64."""
        if not self.listable:
            fewest = min((g.count for g in (self.even, self.odd) if g.radices is not None), default=None)
            what = "both groups hold numbers" if fewest is None else f"the smaller group has {fewest}"
            raise Unsupported(f"exact log Z enumerates at most {EXACT_BITS} units; {what}")
        machine = self.precise()
        field: Callable[[Tensor], Tensor] = machine.odd_field
        listed, bias, other = machine.even, machine.even_bias, machine.odd
        if machine.odd.bits < machine.even.bits:
            listed, bias, other, field = machine.odd, machine.odd_bias, machine.even, machine.even_field
        block, total_states = _block(listed)
        device = bias.device
        low = listed.states(0, block).to(device)
        low_field, low_bias = field(low), low @ bias
        zero = field(torch.zeros_like(low[:1]))
        total = torch.tensor(-math.inf, dtype=torch.float64, device=device)
        for start in range(0, total_states, block):
            # one addition per block instead of a product: only units beyond the block's differ from its first state's
            more = listed.states(start, start + 1).to(device) - low[:1]
            terms = other.log_partition(low_field + (field(more) - zero)) + low_bias + more @ bias
            total = torch.logaddexp(total, torch.logsumexp(terms, 0))
        return float(total)

    # ------------------------------------------------------------------ rows with holes

    def marginal(self, even: Tensor, observed: Tensor) -> Tensor:
        """log of the sum of exp(-E) over the odd units and over the even ones that are not `observed`, (n,), by listing
        one of the groups; all columns of a unit are observed or none is."""
        seen = torch.where(observed, even, 0.0)
        own = self.even.energy(seen)
        total = even.new_full((len(even),), -math.inf)
        for scores, _ in self._listed_scores(seen, observed):
            total = torch.logaddexp(total, torch.logsumexp(scores, 1))
        return total if own is None else total - own

    def odd_given(self, even: Tensor, observed: Tensor) -> Tensor:
        """E[o | the observed even units], (n, odd width), by listing one of the groups."""
        seen = torch.where(observed, even, 0.0)
        top = even.new_full((len(even),), -math.inf)
        mean = even.new_zeros(len(even), self.odd.width)
        for scores, odd in self._listed_scores(seen, observed):
            higher = torch.maximum(top, scores.amax(1))
            # Sums so far and new ones on the same scale; the weights' own sum is kept in the last column.
            weights = torch.exp(scores - higher[:, None])
            part = weights @ torch.cat([odd, odd.new_ones(len(odd), 1)], 1)
            old = torch.exp(top - higher)[:, None]
            mean = part if mean.shape[1] == self.odd.width else mean * old + part
            top = higher
        return mean[:, :-1] / mean[:, -1:]

    def _listed_scores(self, seen: Tensor, observed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of listed states: -E of every row (but for U(seen)) with what is not listed summed out, (n, states), and
        the odd units' states or means there, (states, odd width)."""
        if self.odd.bits <= self.even.bits:
            block, count = _block(self.odd)
            for first in range(0, count, block):
                odd = self.odd.states(first, min(first + block, count)).to(seen)
                field = self.even_field(odd)
                free = self.even.column_partition(field) @ (~observed).to(seen.dtype).t()
                yield (seen @ field.t() + (free + (odd @ self.odd_bias)[:, None]).t(), odd)
            return
        block, count = _block(self.even)
        cells = observed.to(seen.dtype)
        for first in range(0, count, block):
            even = self.even.states(first, min(first + block, count)).to(seen)
            away = (seen * seen).sum(1, keepdim=True) - 2 * seen @ even.t() + cells @ (even * even).t()
            field = self.odd_field(even)
            scores = (even @ self.even_bias + self.odd.log_partition(field)).expand(len(seen), -1)
            yield torch.where(away < 0.5, scores, -math.inf), self.odd.mean(field)

    def annealed_marginal(
        self, even: Tensor, observed: Tensor, noise: Noise, *, chains: int, temperatures: int
    ) -> Tensor:
        """`marginal` by AIS of the units that are not observed, (n,): the log of a mean of `chains` weights for each row,
        which errs low on average. `noise` is for the n rows."""
        n, width = even.shape
        state = even.repeat_interleave(chains, 0)
        held = observed.repeat_interleave(chains, 0)
        folded = Folded(noise, chains)
        base, bias = self.even_base.to(even.dtype), self.even_bias
        shift = torch.where(held, bias, bias - base)

        def fill(field: Tensor) -> Tensor:
            return torch.where(held, state, self.even.sample(field, folded))

        def move(v: Tensor, a: float, b: float, last: bool) -> tuple[Tensor, Tensor]:
            field = self.odd_field(v)
            gain = (b - a) * (v * shift).sum(1)
            gain = gain + self.odd.log_partition(b * field) - self.odd.log_partition(a * field)
            if last:
                return gain, v
            odd = self.odd.sample(b * field, folded)
            return gain, fill((1 - b) * base + b * self.even_field(odd))

        weights = anneal(fill(base.expand(n * chains, width)), ladder(temperatures), move).view(n, chains)
        start = (self.even.column_partition(base[None]) * ~observed).sum(1)
        start = start + self.odd.log_partition(torch.zeros(1, self.odd.width, dtype=even.dtype, device=even.device))
        own = self.even.energy(torch.where(observed, even, 0.0))
        found = torch.logsumexp(weights, 1) - math.log(chains) + start.double()
        return found if own is None else found - own.double()


def _block(listed: Units) -> tuple[int, int]:
    """How many states of a group to list at once, and how many there are."""
    assert listed.radices is not None
    block = 1
    for radix in listed.radices:
        if block * radix > 2**_BLOCK_BITS:
            break
        block *= radix
    return block, math.prod(listed.radices)


def _held(states: Tensor, clamped: Clamped | None) -> Tensor:
    return states if clamped is None else torch.where(clamped[0], clamped[1], states)
