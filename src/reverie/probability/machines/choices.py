"""Which items a user rates: a restricted machine over a bag of items (replicated softmax, Salakhutdinov & Hinton 2009).

E(items, h) = -M c.h - sum_i (a_i + D_i . h) over the M items of a user, hence

    p(item | h) = softmax_i(a_i + D_i . h) for each of the M draws,     p(h = 1 | items) = sigmoid(c + sum_i D_i),

here with c not multiplied by M. Draws repeat items, users do not: where a user must not have an item twice the draws go on
without it. With no hidden units this is the items' popularity. Where there are far more items than a user has, learning draws
them by Metropolis' steps whose proposals come by popularity: the cost is that of the ratings, not of users x items.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reverie.data.space import Batch, Ragged
from reverie.probability.machines.ratings import Total, pooled, scattered
from reverie.probability.step_noise import ScatteredNoise
from reverie.rng import Noise

_PIECE = 2**20
"""Numbers over all items that are looked at together."""
_PROPOSALS = 5
"""Metropolis' steps per item and sweep."""
_MANY = 20
"""Items, per item of a user on average, from which on proposals are cheaper than all probabilities."""


def draw(log_p: Tensor, noise: Noise, x: Ragged) -> Tensor:
    """Independent items from log p(item | h) (n, items), as many for every user as x has steps, (N,)."""
    cumulative = log_p.exp().cumsum(1)
    row, place = (index.to(log_p.device) for index in x.places)
    u = noise.uniform(x.longest).to(cumulative) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True).clamp_max(log_p.shape[1] - 1)[row, place]


def draw_apart(log_p: Tensor, noise: Noise, x: Ragged) -> Tensor:
    """Likewise with no item twice, one drawn after the other from those left (by the largest Gumbel keys), (N,)."""
    key = log_p - (-noise.uniform(log_p.shape[1]).to(log_p).clamp_min(1e-12).log()).log()
    order = key.topk(min(x.longest, log_p.shape[1]), dim=1).indices
    row, place = (index.to(log_p.device) for index in x.places)
    return order[row, place]


class ChoiceMachine(nn.Module):
    """a (items,), D (items, hidden), c (hidden,). Learned from rows whose first column is the item. `popular` (items,) are log
    shares of the items in training, `length` the items that a user has there on average."""

    objective = "loss"
    popular: Tensor
    length: Tensor

    def __init__(self, items: int, hidden: int) -> None:
        super().__init__()
        self.items, self.hidden = items, hidden
        self.a = nn.Parameter(torch.full((items,), 1 / items).log())
        self.D = nn.Parameter(0.01 * torch.randn(items, hidden))
        self.c = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("popular", self.a.detach().clone())
        self.register_buffer("length", torch.tensor(float(items)))
        self.fresh = True

    def start(self, batches: Iterable[Batch]) -> None:
        """a = log popularity, with half a rating more for each item; a trained machine keeps its own."""
        counts, users, steps = torch.full((self.items,), 0.5, dtype=torch.float64), 0, 0
        for batch in batches:
            x = batch.x
            users, steps = users + len(x), steps + len(x.values)
            weight = None if batch.weight is None else torch.repeat_interleave(batch.weight, x.lengths).double().cpu()
            counts += torch.bincount(x.values[:, 0].long().cpu(), weights=weight, minlength=self.items)
        if self.fresh:
            with torch.no_grad():
                self.popular.copy_((counts / counts.sum()).log())
                self.a.copy_(self.popular)
                self.length.fill_(steps / users)

    def decayed(self) -> dict[nn.Parameter, float]:
        """The parameters that weight decay shrinks, and by how much of it."""
        return {self.D: 1.0}

    def held_out(self, x: Ragged) -> Tensor:
        """-log p(item | the user's other items) of every step, by one step of mean field, (N,) nats."""
        items, row = x.values[:, 0].long(), x.places[0].to(x.device)
        field = self.c + pooled(self.D, items, x.lengths)
        out = field.new_empty(len(items))
        size = max(1, _PIECE // self.items)
        for start in range(0, len(items), size):
            piece = slice(start, start + size)
            h = torch.sigmoid(field[row[piece]] - self.D[items[piece]])
            out[piece] = -self.log_choice(h).gather(1, items[piece, None])[:, 0]
        return out

    def hidden_given(self, items: Tensor, lengths: Tensor) -> Tensor:
        """p(h_j = 1 | items), (n, hidden), from items (N,) user after user."""
        return torch.sigmoid(self.c + pooled(self.D, items, lengths))

    def log_choice(self, h: Tensor) -> Tensor:
        """log p(item | h), (n, items)."""
        return torch.log_softmax(torch.addmm(self.a, h, self.D.t()), 1)

    def _proposed(self, items: Tensor, row: Tensor, h: Tensor, steps: Noise) -> tuple[Tensor, Tensor]:
        """Metropolis' steps from `items` (N,) that leave p(item | h) as it is, and log p(items | h), whose normaliser is
        estimated from the user's first proposals."""
        cumulative = self.popular.double().exp().cumsum(0)

        def score(item: Tensor) -> Tensor:
            return self.a[item] - self.popular[item] + (self.D[item] * h[row]).sum(1)

        first = now = score(items)
        log_p, at = torch.empty_like(now), items
        for number in range(_PROPOSALS):
            u = steps.uniform(2)
            new = torch.searchsorted(cumulative, u[:, 0] * cumulative[-1], right=True).clamp_max(self.items - 1)
            there = score(new)
            if number == 0:
                top = there.max()
                sums = torch.zeros(len(h), dtype=there.dtype, device=row.device).index_add_(0, row, (there - top).exp())
                mean = sums / torch.bincount(row, minlength=len(h)).clamp_min(1)
                log_p = first + self.popular[items] - (top + mean.log())[row]
            taken = u[:, 1].log() < there - now
            at, now = torch.where(taken, new, at), torch.where(taken, there, now)
        return at, log_p

    def contrast(
        self, x: Ragged, share: Tensor, sweeps: int, noise: Noise, total: Total
    ) -> tuple[dict[nn.Parameter, Tensor], Tensor]:
        """The gradient of -sum share * log p(items) by CD-`sweeps`, and -log p(item | h) of every step (N,), on the first
        sweep. `share` (n,) are the users'."""
        items, row = x.values[:, 0].long(), x.places[0].to(x.device)
        data = self.hidden_given(items, x.lengths)
        mean, drawn, error = data, items, data.new_zeros(len(items))
        for sweep in range(sweeps):
            h = noise.bernoulli(mean)
            if self.items > _MANY * self.length:
                drawn, log_p = self._proposed(drawn, row, h, ScatteredNoise(noise, x))
            else:
                every = self.log_choice(h)
                drawn, log_p = draw(every, noise, x), every[row, items]
            if sweep == 0:
                error = -log_p
            mean = self.hidden_given(drawn, x.lengths)
        up, down = data * share[:, None], mean * share[:, None]
        weight = share[row].double()
        came, went = (torch.bincount(i, weights=weight, minlength=self.items) for i in (drawn, items))
        sums = {
            self.D: scattered(drawn, row, down, self.items) - scattered(items, row, up, self.items),
            self.a: came - went,
            self.c: down.sum(0) - up.sum(0),
        }
        total(list(sums.values()))
        return {p: value.to(p.dtype) for p, value in sums.items()}, error
