"""Graphs of units: edges (2, m) with each connection once, lattices, colourings, and states listed with one group summed out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from reverie.errors import InvalidOption


def complete(n: int) -> Tensor:
    """Every pair of n units once, (2, n (n - 1) / 2)."""
    return torch.triu_indices(n, n, 1)


def between(low: int, middle: int, high: int) -> Tensor:
    """Every unit from `low` to `middle` with every one from `middle` to `high`, (2, (middle - low) (high - middle))."""
    return torch.cartesian_prod(torch.arange(low, middle), torch.arange(middle, high)).reshape(-1, 2).t().contiguous()


def lattice(height: int, width: int, *, periodic: bool) -> Tensor:
    """Neighbours on a grid whose units are numbered row by row; `periodic` joins opposite ends, which takes sides of 3."""
    at = torch.arange(height * width).view(height, width)
    if periodic:
        pairs = [(at, at.roll(-1, 1)), (at, at.roll(-1, 0))]
    else:
        pairs = [(at[:, :-1], at[:, 1:]), (at[:-1], at[1:])]
    return torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in pairs], 1)


def checked(pairs: Iterable[tuple[int, int]], n: int) -> Tensor:
    """Pairs of unit numbers as edges (2, m). Raises `InvalidOption` where one is out of range, joins a unit with itself or
    is given twice."""
    seen: set[tuple[int, int]] = set()
    found = []
    for a, b in pairs:
        if not (0 <= a < n and 0 <= b < n):
            raise InvalidOption(f"graph: edge ({a}, {b}) names a unit that is not there; units are 0 to {n - 1}")
        if a == b:
            raise InvalidOption(f"graph: edge ({a}, {b}) connects a unit with itself; leave it out, or use the bias")
        pair = (min(a, b), max(a, b))
        if pair in seen:
            raise InvalidOption(f"graph: the edge between units {pair[0]} and {pair[1]} is given twice")
        seen.add(pair)
        found.append((a, b))
    return torch.tensor(found, dtype=torch.long).reshape(-1, 2).t().contiguous()


def matrix(n: int, edges: Tensor, weights: Tensor) -> Tensor:
    """The symmetric matrix of the edges' weights, zeros elsewhere, (n, n)."""
    out = weights.new_zeros(n, n)
    out[edges[0], edges[1]] = weights
    out[edges[1], edges[0]] = weights
    return out


def colours(n: int, edges: Tensor) -> list[Tensor]:
    """Units in groups without an edge inside, each in rising order: greedy colouring breadth first, so that a graph with
    two sides (a lattice, a restricted machine) gets two colours, and any graph at most its largest degree and one."""
    if edges.shape[1] == n * (n - 1) // 2:
        return list(torch.arange(n)[:, None])
    near: list[list[int]] = [[] for _ in range(n)]
    for a, b in edges.t().tolist():
        near[a].append(b)
        near[b].append(a)
    colour = [-1] * n
    seen = [False] * n
    for root in range(n):
        waiting = deque([root] if not seen[root] else [])
        seen[root] = True
        while waiting:
            unit = waiting.popleft()
            taken = {colour[other] for other in near[unit]}
            colour[unit] = next(number for number in range(n) if number not in taken)
            for other in near[unit]:
                if not seen[other]:
                    seen[other] = True
                    waiting.append(other)
    found = torch.tensor(colour)
    return [torch.nonzero(found == number).flatten() for number in range(int(found.max()) + 1)]


class Listing:
    """Sums over the states of bits z with weight exp(f . z + z W z / 2): all states of `listed` units, in blocks, and for
    each of them the other units, which have no edge between them, by formula: sum_z exp(g z) = 1 + exp(g).

    W (k, k) symmetric; fields f (rows, k), one set of them a row; everything in W's type.
    """

    def __init__(self, weights: Tensor, listed: Tensor, *, numbers: int = 2**20) -> None:
        self._weights = weights
        others = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
        others[listed] = False
        self.listed, self.summed = listed, torch.nonzero(others).flatten()
        self._inside = weights[listed][:, listed]
        self._across = weights[listed][:, self.summed]
        self._numbers = numbers

    def _blocks(self, rows: int) -> list[Tensor]:
        """All states of the listed units, (states, listed), as many at a time as keep buffers within `numbers`."""
        bits = len(self.listed)
        block = max(1, self._numbers // (rows * max(len(self.summed), 1)))
        digits = torch.arange(bits, device=self.listed.device)
        return [
            ((torch.arange(start, min(start + block, 2**bits), device=digits.device)[:, None] >> digits) & 1).to(
                self._weights.dtype
            )
            for start in range(0, 2**bits, block)
        ]

    def _terms(self, field: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Log-weights (rows, states) and the fields of the summed units (rows, states, summed)."""
        inner = field[:, None, self.summed] + (states @ self._across)[None]
        own = field[:, self.listed] @ states.t() + 0.5 * ((states @ self._inside) * states).sum(1)
        return own + torch.nn.functional.softplus(inner).sum(2), inner

    def log_sum(self, field: Tensor) -> Tensor:
        """log sum_z exp(f . z + z W z / 2), (rows,)."""
        total = field.new_full((len(field),), -torch.inf)
        for states in self._blocks(len(field)):
            total = torch.logaddexp(total, torch.logsumexp(self._terms(field, states)[0], 1))
        return total

    def expectations(self, field: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`log_sum`; E[z] of every row, (rows, k); and sum over rows of share * E[z z'], (k, k), zeros between units that
        are summed out, which share no edge."""
        total = self.log_sum(field)
        mean, pairs = torch.zeros_like(field), torch.zeros_like(self._weights)
        a, b = self.listed, self.summed
        for states in self._blocks(len(field)):
            terms, inner = self._terms(field, states)
            chance = (terms - total[:, None]).exp()
            on = torch.sigmoid(inner)
            mean[:, a] += chance @ states
            mean[:, b] += torch.einsum("rs,rsk->rk", chance, on)
            weight = chance * share[:, None]
            pairs[a[:, None], a] += states.t() @ (weight.sum(0)[:, None] * states)
            cross = states.t() @ torch.einsum("rs,rsk->sk", weight, on)
            pairs[a[:, None], b] += cross
            pairs[b[:, None], a] += cross.t()
        return total, mean, pairs
