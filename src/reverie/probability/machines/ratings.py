"""The maths of one restricted machine per user over the ratings this user gave (Salakhutdinov, Mnih & Hinton 2007).

E(v, h) = -c.h - sum_i (b_i,v_i + W_i,v_i . h + r_i D_i . h), with i over the items rated: what was not rated is absent.

    p(v_i = k | h) = softmax_k(b_ik + W_ik . h),     p(h = 1 | v) = sigmoid(x),   x = c + sum_i (W_i,v_i + D_i),
    F(v) = -sum_i b_i,v_i - sum_j softplus(x_j).

All users share W, b, c and D. Nothing here is as large as users x items x K: users are `Ragged` rows of codes, their sums
over items are `embedding_bag`s, and gradients are such sums over the users of each code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.data.space import Batch, Ragged
from reverie.errors import DataError
from reverie.probability.step_noise import StepNoise
from reverie.rng import Noise

_PIECE = 2**20
"""Numbers of gathered weights that are looked at together: what fits a cache."""
_PULL = 5.0
_STATES = 256
"""Hidden states listed together in the exact sum over them."""

Total = Callable[[Sequence[Tensor]], None]
"""Sums tensors over processes, in place."""


def pooled(table: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
    """Sums of the rows `codes` (N,) of a table (codes, width) over each user's steps, (n, width); zeros for no steps."""
    if not len(codes):
        return table.new_zeros(len(lengths), table.shape[1])
    return F.embedding_bag(codes, table, lengths.cumsum(0) - lengths, mode="sum")


def scattered(codes: Tensor, row: Tensor, values: Tensor, size: int) -> Tensor:
    """Sums of the users' `values` (n, width) over the steps (N,) that hold each code, (size, width): the gradient of
    `pooled`, without a tensor of steps x width."""
    return pooled(values, row[codes.argsort(stable=True)], torch.bincount(codes, minlength=size))


def refuse_twice(items: Tensor, lengths: Tensor, first: int = 0) -> None:
    """Raise `DataError` when a user has an item twice; users are numbered from `first`."""
    row = torch.repeat_interleave(torch.arange(len(lengths), device=items.device), lengths.to(items.device))
    order = torch.argsort(items, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    same = (items[order][1:] == items[order][:-1]) & (row[order][1:] == row[order][:-1])
    if bool(same.any()):
        at = int(same.nonzero()[0, 0])
        one, two = int(order[at]), int(order[at + 1])
        begin = int(lengths[: int(row[one])].sum())
        raise DataError(
            f"sequence {first + int(row[one])} rates the same item in its steps {one - begin} and {two - begin}: keep one of "
            "them, for example with df.drop_duplicates(subset=[user, item], keep='last')"
        )


class RatingMachine(nn.Module):
    """W (items, levels, hidden), b (items, levels), c (hidden,); D (items, hidden) when it is `conditional` on which items
    were rated. W = A + S, where S (levels, hidden) is the same for all items, so that an item of few ratings is drawn to
    what ratings mean of any item instead of to nothing; W = (A + S) B with B (rank, hidden) when `rank` is above 0.

    Users are given by `items` (N,) and `codes` = items * levels + rating (N,), step after step, and `lengths` (n,); to
    learn from as a `Ragged` of (item, rating). `counts` (items, levels) are those of the training ratings.
    """

    objective = "loss"
    counts: Tensor
    D: nn.Parameter | None
    B: nn.Parameter | None

    def __init__(self, items: int, levels: int, hidden: int, *, rank: int = 0, conditional: bool = False) -> None:
        super().__init__()
        self.items, self.levels, self.hidden = items, levels, hidden
        self.A = nn.Parameter(0.03 * torch.randn(items, levels, rank or hidden))
        self.S = nn.Parameter(torch.zeros(levels, rank or hidden))
        self.b = nn.Parameter(torch.zeros(items, levels))
        self.c = nn.Parameter(torch.zeros(hidden))
        self.D = nn.Parameter(torch.zeros(items, hidden)) if conditional else None
        self.B = nn.Parameter(torch.randn(rank, hidden) / rank**0.5) if rank else None
        self.register_buffer("counts", torch.zeros(items, levels))
        self.fresh = True

    def codes(self, x: Ragged) -> tuple[Tensor, Tensor]:
        """(items, codes) of rows of (item, rating), whole numbers (N,)."""
        items, rating = x.values[:, 0].long(), x.values[:, 1].long()
        return items, items * self.levels + rating

    # ------------------------------------------------------------------ up, down, free energy

    def weights(self, items: Tensor) -> Tensor:
        """W of these items, (m, levels, hidden)."""
        own = self.A[items] + self.S
        return own if self.B is None else own @ self.B

    @property
    def _table(self) -> Tensor:
        """A + S with a row for every code, (items * levels, rank or hidden)."""
        return (self.A + self.S).flatten(0, 1)

    def field(self, items: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
        """x = c + sum_i (W_i,v_i + D_i), (n, hidden)."""
        own = pooled(self._table, codes, lengths)
        x = self.c + (own if self.B is None else own @ self.B)
        return x if self.D is None else x + pooled(self.D, items, lengths)

    def logits(self, items: Tensor, row: Tensor, h: Tensor) -> Tensor:
        """b_i + W_i h of the user in `row` (N,) for every step's item, (N, levels)."""
        down = h if self.B is None else h @ self.B.t()
        out = torch.empty(len(items), self.levels, dtype=self.b.dtype, device=items.device)
        shared = (down @ self.S.t())[row]
        for piece in self.pieces(len(items), self.A.shape[2]):
            i = items[piece]
            out[piece] = torch.bmm(self.A[i], down[row[piece], :, None])[:, :, 0] + shared[piece] + self.b[i]
        return out

    def pieces(self, count: int, width: int) -> Iterator[slice]:
        """Slices of `count` steps whose weights, `levels` x `width` each, fit a cache."""
        size = max(1, _PIECE // (self.levels * width))
        return (slice(start, start + size) for start in range(0, count, size))

    def free_energy(self, items: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
        """F(v), (n,)."""
        bias = pooled(self.b.reshape(-1, 1), codes, lengths)[:, 0]
        return -bias - F.softplus(self.field(items, codes, lengths)).sum(1)

    def log_partition(self, items: Tensor, lengths: Tensor) -> Tensor:
        """log Z of every user, the sum over all ratings of the same items: (n,), by listing the 2^hidden states.

        log Z = logsumexp_h [c.h + sum_i (D_i.h + log sum_k exp(b_ik + W_ik.h))].
        """
        total = self.b.new_full((len(lengths),), -torch.inf)
        weights = self.weights(torch.arange(self.items, device=items.device))
        for start in range(0, 2**self.hidden, _STATES):
            number = torch.arange(start, min(start + _STATES, 2**self.hidden), device=items.device)
            h = (number[:, None] >> torch.arange(self.hidden, device=items.device) & 1).to(self.b)
            table = torch.stack([torch.logsumexp(b + h @ w.t(), 1) for w, b in zip(weights, self.b, strict=True)])
            if self.D is not None:
                table = table + self.D @ h.t()
            total = torch.logaddexp(total, torch.logsumexp(pooled(table, items, lengths) + h @ self.c, 1))
        return total

    # ------------------------------------------------------------------ one item more

    def scores(self, x: Tensor, items: Tensor, row: Tensor) -> Tensor:
        """log p(v_q = k | v) of items q (m,), none of them among those of the user in `row` (m,) whose field is x
        (n, hidden): exactly, from free energies, (m, levels).

        p(v_q = k | v) ~ exp(b_qk) prod_j (1 + exp(x_j + D_qj + W_qkj)) (the paper's eq. for the predictive distribution).
        """
        out = torch.empty(len(items), self.levels, dtype=x.dtype, device=x.device)
        for piece in self.pieces(len(items), self.hidden):
            q = items[piece]
            own = x[row[piece]] if self.D is None else x[row[piece]] + self.D[q]
            out[piece] = self.b[q] + F.softplus(own[:, None] + self.weights(q)).sum(2)
        return torch.log_softmax(out, 1)

    def mean_scores(self, x: Tensor, items: Tensor, row: Tensor) -> Tensor:
        """The same from the hidden means alone, one step of mean field: softmax_k(b_qk + W_qk . sigmoid(x)), (m, levels)."""
        return torch.log_softmax(self.logits(items, row, torch.sigmoid(x)), 1)

    def left_out(self, x: Ragged) -> Tensor:
        """log p(v_i = k | the user's other ratings, all items) of every step, exactly, (N, levels)."""
        items, codes = self.codes(x)
        row, field = x.places[0].to(codes.device), self.field(items, codes, x.lengths)
        out = torch.empty(len(items), self.levels, dtype=field.dtype, device=field.device)
        rating = codes - items * self.levels
        for piece in self.pieces(len(items), self.hidden):
            w = self.weights(items[piece])
            here = w[torch.arange(len(w), device=w.device), rating[piece]]
            others = (field[row[piece]] - here)[:, None]
            out[piece] = self.b[items[piece]] + F.softplus(others + w).sum(2)
        return torch.log_softmax(out, 1)

    # ------------------------------------------------------------------ learning

    def start(self, batches: Iterable[Batch]) -> None:
        """Count the ratings; biases are log p(k) of every item, pulled towards that of all by `_PULL` ratings. A machine
        that is already trained keeps its own and counts on. Raises `DataError` for an item that a user has twice."""
        seen = 0
        for batch in batches:
            items, codes = self.codes(batch.x)
            refuse_twice(items, batch.x.lengths, seen)
            seen += len(batch.x)
            weight = None if batch.weight is None else torch.repeat_interleave(batch.weight, batch.x.lengths).double()
            counted = torch.bincount(codes, weights=weight, minlength=self.items * self.levels)
            self.counts += counted.view_as(self.counts).to(self.counts)
        if not self.fresh:
            return
        overall = (self.counts.sum(0) + 1e-3) / (self.counts.sum() + 1e-3 * self.levels)
        share = (self.counts + _PULL * overall) / (self.counts.sum(1, keepdim=True) + _PULL)
        with torch.no_grad():
            self.b.copy_(share.log() - share.log().mean(1, keepdim=True))

    def frequencies(self) -> Tensor:
        """log of how often each item has each rating in training, with one rating more as they are over all items."""
        return (self.counts + (self.counts.sum(0) + 1e-3) / (self.counts.sum() + 1e-3 * self.levels)).log()

    def decayed(self) -> list[nn.Parameter]:
        """The parameters that weight decay shrinks: all but the biases and what items share."""
        return [p for p in (self.A, self.B, self.D) if p is not None]

    def held_out(self, x: Ragged) -> Tensor:
        """-log p(v_i | the user's other ratings) of every step, (N,) nats."""
        return -self.left_out(x).gather(1, x.values[:, 1:2].long())[:, 0]

    def contrast(
        self, x: Ragged, share: Tensor, sweeps: int, noise: Noise, total: Total
    ) -> tuple[dict[nn.Parameter, Tensor], Tensor]:
        """The gradient of -sum share * log p(ratings | items) by CD-`sweeps` over the same items as the data's, and
        -log p(v | h) of every step (N,), on the first sweep. `share` (n,) are the users'."""
        items, codes = self.codes(x)
        row, steps = x.places[0].to(codes.device), StepNoise(noise, x)
        data = torch.sigmoid(self.field(items, codes, x.lengths))
        mean, drawn, error = data, codes, data.new_zeros(len(codes))
        for sweep in range(sweeps):
            logits = self.logits(items, row, noise.bernoulli(mean))
            if sweep == 0:
                error = -torch.log_softmax(logits, 1).gather(1, x.values[:, 1:2].long())[:, 0]
            drawn = items * self.levels + steps.categorical(logits)
            mean = torch.sigmoid(self.field(items, drawn, x.lengths))
        return self.difference(row, items, (codes, data), (drawn, mean), share, total), error

    def difference(
        self,
        row: Tensor,
        items: Tensor,
        positive: tuple[Tensor, Tensor],
        negative: tuple[Tensor, Tensor],
        share: Tensor,
        total: Total,
    ) -> dict[nn.Parameter, Tensor]:
        """<dE>_positive - <dE>_negative by parameter, either side as codes (N,) and hidden means (n, hidden): the gradient
        of -log p, where the negative side has the model's own law."""
        size = self.items * self.levels
        sums: dict[nn.Parameter, Tensor] = {}
        for sign, (codes, mean) in ((-1.0, positive), (1.0, negative)):
            h = mean * (sign * share)[:, None]
            down = h if self.B is None else h @ self.B.t()
            parts = {
                self.A: scattered(codes, row, down, size).view_as(self.A),
                self.b: torch.bincount(codes, weights=sign * share[row].double(), minlength=size).view_as(self.b),
                self.c: h.sum(0),
            }
            parts[self.S] = parts[self.A].sum(0)
            if self.D is not None:
                parts[self.D] = scattered(items, row, h, self.items)
            if self.B is not None:
                own = pooled(self._table, codes, torch.bincount(row, minlength=len(share)))
                parts[self.B] = own.t() @ h
            sums = {p: part + sums[p] if p in sums else part for p, part in parts.items()}
        # Counts of both sides often cancel exactly: in float32 what rounding leaves would be a step's direction to Adam.
        total(list(sums.values()))
        return {p: value.to(p.dtype) for p, value in sums.items()}
