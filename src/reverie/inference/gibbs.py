"""Gibbs sampling of bits on any graph, many chains side by side: p(z) ~ exp(beta (b . z + z W z / 2) + a . z).

States lie units-major, (units, chains), so that all chains of a unit are neighbours in memory. Sparse graphs go colour by
colour: units of a colour share no edge, so they are drawn together (Geman & Geman 1984; the "chromatic" sampler of
Gonzalez et al. 2011). Dense ones go unit by unit, with the local fields kept up to date: inside a block of units by a
rank-one update per unit, beyond it by one matrix product per block. Either is exact: every draw is from p(z_i | all others).

A machine of spins is one of bits with other parameters (`bits_of_spins`).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.inference.graphs import colours, matrix
from reverie.rng import Noise

Draw = Callable[[int], Tensor]
"""k -> fresh uniforms on [0, 1), (k, chains)."""

_BLOCK = 32


def draw_from(noise: Noise, units: int) -> Draw:
    """Uniforms of a `Noise`, whose rows are the chains, drawn for `units` units (a sweep) at a time."""
    left = torch.empty(0, noise.rows)

    def draw(count: int) -> Tensor:
        nonlocal left
        if len(left) < count:
            left = noise.uniform(units).t().contiguous()
        taken, left = left[:count], left[count:]
        return taken

    return draw


def draw_into_buffer(source: torch.Generator, units: int, chains: int, dtype: torch.dtype = torch.float32) -> Draw:
    """Uniforms from a generator into one buffer, which the next draw overwrites."""
    buffer = torch.empty(units, chains, dtype=dtype, device=source.device)
    return lambda count: buffer[:count].uniform_(generator=source)


def bits_of_spins(edges: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, biases and the constant of b . s + s W s / 2 = constant + b' . z + z W' z / 2 with s = 2 z - 1."""
    sums = torch.zeros_like(bias).index_add_(0, edges[0], weights).index_add_(0, edges[1], weights)
    return 4 * weights, 2 * (bias - sums), weights.sum() - bias.sum()


@dataclass(frozen=True)
class _Block:
    """Units `start` to `stop` of a plan's order. Of a sparse block `near` (k, d) holds the places of each unit's
    neighbours and `edge` (k, d) which edge leads there, m where there are fewer than d."""

    start: int
    stop: int
    near: Tensor | None = None
    edge: Tensor | None = None


class Plan:
    """The order in which units are drawn, found once for a graph: `units` (default: all) colour by colour, units that
    are never drawn behind them. `order` (n,) holds the unit at every place, `place` (n,) the place of every unit."""

    def __init__(self, n: int, edges: Tensor, units: Tensor | None = None) -> None:
        self.n, self.edges = n, edges
        device = edges.device
        wanted = torch.ones(n, dtype=torch.bool) if units is None else torch.zeros(n, dtype=torch.bool)
        if units is not None:
            wanted[units.cpu()] = True
        groups = self._groups(edges.cpu(), wanted)
        self.free = int(wanted.sum())
        self.one_by_one = len(groups) * 4 > self.free
        order = torch.cat([*groups, torch.nonzero(~wanted).flatten()]) if groups else torch.arange(n)
        self.order = order.to(device)
        self.place = torch.empty_like(self.order)
        self.place[self.order] = torch.arange(n, device=device)
        if self.one_by_one:
            cuts = [*range(0, self.free, _BLOCK), self.free]
            self.blocks = [_Block(a, b) for a, b in itertools.pairwise(cuts)]
        else:
            self.blocks = self._coloured([len(group) for group in groups])

    def _groups(self, edges: Tensor, wanted: Tensor) -> list[Tensor]:
        """A colouring of the wanted units among themselves."""
        units = torch.nonzero(wanted).flatten()
        if not len(units):
            return []
        number = torch.cumsum(wanted, 0) - 1
        inside = edges[:, wanted[edges[0]] & wanted[edges[1]]]
        return [units[group] for group in colours(len(units), number[inside])]

    def _coloured(self, sizes: list[int]) -> list[_Block]:
        """Every colour with its units' neighbours padded to the same number; None where a product is cheaper."""
        ends = torch.cat([self.edges, self.edges.flip(0)], 1)
        number = torch.arange(self.edges.shape[1], device=ends.device).repeat(2)
        own, other = self.place[ends[0]], self.place[ends[1]]
        by_place = torch.argsort(own, stable=True)
        own, other, number = own[by_place], other[by_place], number[by_place]
        degree = torch.bincount(own, minlength=self.n)
        rank = torch.arange(len(own), device=own.device) - (degree.cumsum(0) - degree)[own]
        blocks, start = [], 0
        for size in sizes:
            stop = start + size
            widest = int(degree[start:stop].max())
            near = edge = None
            if 5 * widest < self.n:  # a gathered row costs about what a product spends on five columns
                near = torch.zeros(size, widest, dtype=torch.long, device=own.device)
                edge = torch.full_like(near, self.edges.shape[1])
                here = (own >= start) & (own < stop)
                near[own[here] - start, rank[here]] = other[here]
                edge[own[here] - start, rank[here]] = number[here]
            blocks.append(_Block(start, stop, near, edge))
            start = stop
        return blocks


@dataclass
class State:
    """Chains: bits (n, chains) in a plan's order, and the fields b + W z of the drawn units where they are kept."""

    z: Tensor
    field: Tensor | None = None


class Gibbs(ABC):
    """Chains over one set of parameters: W by `weights` (m,) of the plan's edges, b by `bias` (n,)."""

    def __init__(self, plan: Plan, weights: Tensor, bias: Tensor) -> None:
        self.plan, self._weights, self._bias = plan, weights, bias
        self._placed = bias[plan.order][:, None]
        self._buffers: dict[tuple[str, int, int], Tensor] = {}

    @abstractmethod
    def enter(self, z: Tensor) -> State:
        """Chains from rows of bits (chains, n)."""

    def leave(self, state: State) -> Tensor:
        """Rows of bits (chains, n) of chains."""
        return state.z.index_select(0, self.plan.place).t().contiguous()

    def placed(self, values: Tensor) -> Tensor:
        """What holds for units, (n,), or for units of chains, (chains, n), in the plan's order: (n, 1) or (n, chains)."""
        return (values[:, None] if values.ndim == 1 else values.t())[self.plan.order].contiguous()

    @abstractmethod
    def sweep(
        self,
        state: State,
        draw: Draw,
        beta: float | Tensor = 1.0,
        *,
        held: Tensor | None = None,
        tilt: Tensor | None = None,
    ) -> None:
        """Draw every unit of the plan once, in place. `beta` is a number or (chains,); `held`, as `placed` gives it,
        marks bits that keep their values; `tilt` (n, 1) is a, which beta does not scale."""

    @abstractmethod
    def fields(self, state: State) -> Tensor:
        """b + W z of the drawn units, (free, chains)."""

    def energy(self, state: State) -> Tensor:
        """-(b . z + z W z / 2) of all chains, (chains,), for plans that draw all units."""
        drawn = state.z[: self.plan.free]
        return -0.5 * ((self.fields(state) + self._placed[: self.plan.free]) * drawn).sum(0)

    def chance(self, state: State, beta: float | Tensor = 1.0) -> Tensor:
        """p(z_i = 1 | all others) of the drawn units, (free, chains)."""
        return torch.sigmoid(self.fields(state) * beta)

    def _buffer(self, name: str, like: Tensor, rows: int) -> Tensor:
        key = (name, rows, like.shape[1])
        found = self._buffers.get(key)
        if found is None:
            found = self._buffers[key] = like.new_empty(rows, like.shape[1])
        return found


class Coloured(Gibbs):
    """All units of a colour at once; their fields by gathering neighbours, or by a product where they are many."""

    def __init__(self, plan: Plan, weights: Tensor, bias: Tensor) -> None:
        super().__init__(plan, weights, bias)
        padded = torch.cat([weights, weights.new_zeros(1)])
        self._near = [None if block.edge is None else padded[block.edge] for block in plan.blocks]
        self._rows: list[Tensor | None] = [None] * len(plan.blocks)
        if any(near is None for near in self._near):
            whole = matrix(plan.n, plan.place[plan.edges], weights)
            self._rows = [
                whole[block.start : block.stop] if near is None else None
                for block, near in zip(plan.blocks, self._near, strict=True)
            ]

    def enter(self, z: Tensor) -> State:
        return State(z.t()[self.plan.order].to(self._bias.dtype).contiguous())

    def _field(self, number: int, z: Tensor) -> Tensor:
        """b + W z of a colour, (units, chains), in a buffer."""
        block, weights, rows = self.plan.blocks[number], self._near[number], self._rows[number]
        bias = self._placed[block.start : block.stop]
        field = self._buffer("field", z, block.stop - block.start)
        if weights is None or block.near is None:
            assert rows is not None
            return torch.addmm(bias, rows, z, out=field)
        field.copy_(bias.expand_as(field))
        gathered = self._buffer("gathered", z, block.stop - block.start)
        for slot in range(weights.shape[1]):
            torch.index_select(z, 0, block.near[:, slot], out=gathered)
            field.addcmul_(gathered, weights[:, slot : slot + 1])
        return field

    def sweep(
        self,
        state: State,
        draw: Draw,
        beta: float | Tensor = 1.0,
        *,
        held: Tensor | None = None,
        tilt: Tensor | None = None,
    ) -> None:
        for number, block in enumerate(self.plan.blocks):
            field = self._field(number, state.z)
            if isinstance(beta, Tensor) or beta != 1.0:
                field.mul_(beta)
            if tilt is not None:
                field.add_(tilt[block.start : block.stop])
            chance, own = field.sigmoid_(), state.z[block.start : block.stop]
            uniform = draw(block.stop - block.start)
            if held is None:
                torch.lt(uniform, chance, out=own)
            else:
                own.copy_(torch.where(held[block.start : block.stop], own, (uniform < chance).to(own.dtype)))

    def fields(self, state: State) -> Tensor:
        parts = [self._field(number, state.z).clone() for number in range(len(self.plan.blocks))]
        return torch.cat(parts) if parts else state.z[:0]


class OneByOne(Gibbs):
    """Unit after unit, with the fields of all drawn units kept."""

    def __init__(self, plan: Plan, weights: Tensor, bias: Tensor) -> None:
        super().__init__(plan, weights, bias)
        self._matrix = matrix(plan.n, plan.place[plan.edges], weights)[: plan.free]

    def enter(self, z: Tensor) -> State:
        state = State(z.t()[self.plan.order].to(self._bias.dtype).contiguous())
        self.refresh(state)
        return state

    def refresh(self, state: State) -> None:
        """The fields computed anew, which undoes what rounding has added up."""
        state.field = torch.addmm(self._placed[: self.plan.free], self._matrix, state.z)

    def sweep(
        self,
        state: State,
        draw: Draw,
        beta: float | Tensor = 1.0,
        *,
        held: Tensor | None = None,
        tilt: Tensor | None = None,
    ) -> None:
        z, fields = state.z, state.field
        assert fields is not None
        for block in self.plan.blocks:
            rows, size = slice(block.start, block.stop), block.stop - block.start
            before, kept = self._buffer("before", z, size), self._buffer("kept", z, size)
            step = self._buffer("step", z, 1)[0]
            own, field, inside = z[rows], fields[rows], self._matrix[rows, rows]
            before.copy_(own)
            kept.copy_(field)
            # z_i = 1 where u < sigmoid(beta f + a), that is where f > (logit(u) - a) / beta
            bar = draw(size).logit() if tilt is None else draw(size).logit() - tilt[rows]
            bar = bar / beta
            for i in range(size):
                new = own[i]
                if held is None:
                    torch.gt(field[i], bar[i], out=new)
                else:
                    new.copy_(torch.where(held[block.start + i], new, (field[i] > bar[i]).to(new.dtype)))
                if i + 1 < size:
                    torch.sub(new, before[i], out=step)
                    field[i + 1 :].addcmul_(inside[i + 1 :, i : i + 1], step)
            field.copy_(kept)
            fields.addmm_(self._matrix[:, rows], before.neg_().add_(own))

    def fields(self, state: State) -> Tensor:
        assert state.field is not None
        return state.field


def gibbs(plan: Plan, weights: Tensor, bias: Tensor) -> Gibbs:
    """The sampler that suits the plan: by colours, or unit by unit where colours would hold hardly more than one each."""
    return OneByOne(plan, weights, bias) if plan.one_by_one else Coloured(plan, weights, bias)
