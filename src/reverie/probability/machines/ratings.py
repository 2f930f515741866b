"""The maths of one restricted machine per user over the ratings this user gave (Salakhutdinov, Mnih & Hinton 2007), with an
offset g of the user's (offsets.py) beside the hidden units.

E(v, g, h) = -c.h - log p(g) - sum_i (base_i,v_i + b_i,v_i + g z_v_i - phi_i(g) + W_i,v_i . h + r_i D_i . h),   W_ik = sum_r V_rk A_ir

with i over the items rated: what was not rated is absent. phi_i(g) = log sum_k exp(base_ik + g z_k) makes the machine without b, W and D
the model of offsets that base, z, p(g) and phi were fitted as; b, W and D are what the ratings say beyond. V_r are polynomials of z.

    p(v_i = k | g, h) = softmax_k(base_ik + b_ik + g z_k + W_ik . h),       p(h = 1 | v) = sigmoid(x),   x = c + sum_i (W_i,v_i + D_i),
    p(g | v) ~ exp(u_g),   u_g = log p(g) + sum_i (g z_v_i - phi_i(g)),
    F(v) = -sum_i (base + b)_i,v_i - log sum_g exp(u_g) - sum_j softplus(x_j).

All users share everything else. Nothing here is as large as users x items x K: users are `Ragged` rows of codes, their sums
over items are `embedding_bag`s, and gradients are such sums over the users of each item. A user's *state* is x and u in one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.data.space import Batch, Ragged
from reverie.errors import DataError
from reverie.probability.machines.offsets import GRID, fit_offsets, log_masses, numbers, places
from reverie.probability.step_noise import StepNoise
from reverie.rng import Noise

_PIECE = 2**20
"""Numbers of gathered weights that are looked at together: what fits a cache."""
_STATES = 256
"""Hidden states listed together in the exact sum over them."""

Total = Callable[[Sequence[Tensor]], None]
"""Sums tensors over processes, in place."""


def pooled(table: Tensor, codes: Tensor, lengths: Tensor, factor: Tensor | None = None) -> Tensor:
    """Sums of the rows `codes` (N,) of a table (codes, width), times a factor (N,), over each user's steps, (n, width); zeros
    for no steps."""
    if not len(codes):
        return table.new_zeros(len(lengths), table.shape[1])
    first = (lengths.cumsum(0) - lengths).to(codes.device)
    return F.embedding_bag(codes, table, first, mode="sum", per_sample_weights=factor)


def scattered(codes: Tensor, row: Tensor, values: Tensor, size: int, factor: Tensor | None = None) -> Tensor:
    """Sums of the users' `values` (n, width), times a factor (N,), over the steps (N,) that hold each code, (size, width):
    the gradient of `pooled`, without a tensor of steps x width."""
    order = codes.argsort(stable=True)
    factor = None if factor is None else factor[order]
    return pooled(values, row[order], torch.bincount(codes, minlength=size), factor)


def polynomials(z: Tensor, weight: Tensor, degree: int) -> Tensor:
    """Polynomials of z (levels,) of degree 1 and up, orthogonal to each other and to 1 under `weight`, of variance 1:
    (degree, levels)."""
    weight = weight / weight.sum() + 0.05 / len(weight)  # rare levels do not run away
    weight = weight / weight.sum()
    found: list[Tensor] = [torch.ones_like(z)]
    for _ in range(degree):
        new = z * found[-1]
        for _ in range(2):
            for old in found:
                new = new - (weight * new * old).sum() * old
        found.append(new / (weight * new**2).sum().sqrt())
    return torch.stack(found[1:])


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
    """A (items, degree, hidden), b (items, levels), c (hidden,); D (items, hidden) when it is `conditional` on which items
    were rated; A (items, degree, rank) and B (rank, hidden) with W = V A B when `rank` is above 0. `degree` 0, or levels - 1,
    is a weight of its own for every level.

    Users are given by `items` (N,) and `codes` = items * levels + rating (N,), step after step, and `lengths` (n,); to
    learn from as a `Ragged` of (item, rating). `counts` (items, levels) are those of the training ratings, `users` that of
    the users.
    """

    objective = "loss"
    counts: Tensor
    users: Tensor
    base: Tensor
    z: Tensor
    V: Tensor
    grid: Tensor
    prior: Tensor
    phi: Tensor
    D: nn.Parameter | None
    B: nn.Parameter | None

    def __init__(
        self, items: int, levels: int, hidden: int, *, degree: int = 1, rank: int = 0, conditional: bool = False
    ) -> None:
        super().__init__()
        self.items, self.levels, self.hidden = items, levels, hidden
        self.degree = min(degree, levels - 1) or levels - 1
        self.A = nn.Parameter(0.03 * torch.randn(items, self.degree, rank or hidden))
        self.b = nn.Parameter(torch.zeros(items, levels))
        self.c = nn.Parameter(torch.zeros(hidden))
        self.D = nn.Parameter(torch.zeros(items, hidden)) if conditional else None
        self.B = nn.Parameter(torch.randn(rank, hidden) / rank**0.5) if rank else None
        even = torch.ones(levels, dtype=torch.float64)
        self.register_buffer("counts", torch.zeros(items, levels))
        self.register_buffer("users", torch.zeros(()))
        self.register_buffer("base", torch.zeros(items, levels))
        self.register_buffer("z", numbers(even).float())
        self.register_buffer("V", polynomials(numbers(even), even, self.degree).float())
        self.register_buffer("grid", torch.zeros(GRID))
        self.register_buffer("prior", places()[1].float())
        self.register_buffer("phi", torch.full((items, GRID), float(levels)).log())
        self.fresh = True

    def codes(self, x: Ragged) -> tuple[Tensor, Tensor]:
        """(items, codes) of rows of (item, rating), whole numbers (N,)."""
        items, rating = x.values[:, 0].long(), x.values[:, 1].long()
        return items, items * self.levels + rating

    # ------------------------------------------------------------------ up, down, free energy

    def own(self, items: Tensor) -> Tensor:
        """A (or A B) of these items, (m, degree, hidden)."""
        return self.A[items] if self.B is None else self.A[items] @ self.B

    def weights(self, items: Tensor) -> Tensor:
        """W of these items, (m, levels, hidden)."""
        return self.V.t() @ self.own(items)

    def field(self, items: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
        """x = c + sum_i (W_i,v_i + D_i), (n, hidden)."""
        factor = self.V[:, codes - items * self.levels]
        own = sum(pooled(self.A[:, r], items, lengths, factor[r]) for r in range(self.degree))
        assert isinstance(own, Tensor)
        x = self.c + (own if self.B is None else own @ self.B)
        return x if self.D is None else x + pooled(self.D, items, lengths)

    def offset(self, items: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
        """u, (n, places): p(g | v) = softmax(u)."""
        level = pooled(self.z[:, None], codes - items * self.levels, lengths)
        return self.prior + level * self.grid - pooled(self.phi, items, lengths)

    def state(self, items: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
        """x and u of every user, (n, hidden + places)."""
        return torch.cat([self.field(items, codes, lengths), self.offset(items, codes, lengths)], 1)

    def unknown(self) -> Tensor:
        """The state of a user of whom nothing is known, (hidden + places,)."""
        return torch.cat([self.c, self.prior])

    def added(self, items: Tensor, rating: Tensor) -> Tensor:
        """What each of these ratings adds to its user's state, (m, hidden + places)."""
        x = torch.einsum("rm,mrh->mh", self.V[:, rating], self.own(items))
        x = x if self.D is None else x + self.D[items]
        return torch.cat([x, self.z[rating, None] * self.grid - self.phi[items]], 1)

    def means(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """E[h] and E[g], (n, hidden) and (n,)."""
        return torch.sigmoid(state[:, : self.hidden]), torch.softmax(state[:, self.hidden :], 1) @ self.grid

    def bias(self) -> Tensor:
        """base + b, (items, levels)."""
        return self.base + self.b

    def logits(self, items: Tensor, row: Tensor, h: Tensor, g: Tensor) -> Tensor:
        """base_i + b_i + g z + W_i h of the user in `row` (N,) for every step's item, (N, levels); h (n, hidden), g (n,)."""
        down = h if self.B is None else h @ self.B.t()
        out = torch.empty(len(items), self.levels, dtype=self.b.dtype, device=items.device)
        bias, level = self.bias(), g[:, None] * self.z
        for piece in self.pieces(len(items), self.A.shape[2]):
            i, user = items[piece], row[piece]
            out[piece] = torch.bmm(self.A[i], down[user, :, None])[:, :, 0] @ self.V + bias[i] + level[user]
        return out

    def all_logits(self, state: Tensor) -> Tensor:
        """The same of every user for all items from E[h] and E[g], (n, items, levels)."""
        h, g = self.means(state)
        down = h if self.B is None else h @ self.B.t()
        seen = (down @ self.A.flatten(0, 1).t()).view(len(h), self.items, self.degree)
        return seen @ self.V + self.bias() + (g[:, None] * self.z)[:, None]

    def pieces(self, count: int, width: int) -> Iterator[slice]:
        """Slices of `count` steps whose weights, `levels` x `width` each, fit a cache."""
        size = max(1, _PIECE // (self.levels * width))
        return (slice(start, start + size) for start in range(0, count, size))

    def free_energy(self, items: Tensor, codes: Tensor, lengths: Tensor) -> Tensor:
        """F(v), (n,)."""
        bias = pooled(self.bias().reshape(-1, 1), codes, lengths)[:, 0]
        offset = torch.logsumexp(self.offset(items, codes, lengths), 1)
        return -bias - offset - F.softplus(self.field(items, codes, lengths)).sum(1)

    def log_partition(self, items: Tensor, lengths: Tensor) -> Tensor:
        """log Z of every user, the sum over all ratings of the same items: (n,), by listing the states of h and g.

        log Z = logsumexp_h,g [c.h + log p(g) + sum_i (D_i.h - phi_i(g) + log sum_k exp(base_ik + b_ik + g z_k + W_ik.h))].
        """
        total = self.b.new_full((len(lengths),), -torch.inf)
        every = torch.arange(self.items, device=items.device)
        weights, bias, level = self.weights(every), self.bias(), (self.z[:, None] * self.grid).exp()
        for start in range(0, 2**self.hidden, _STATES):
            number = torch.arange(start, min(start + _STATES, 2**self.hidden), device=items.device)
            h = (number[:, None] >> torch.arange(self.hidden, device=items.device) & 1).to(self.b)
            table = self.phi.new_empty(self.items, len(h), len(self.grid))
            for i, (w, b) in enumerate(zip(weights, bias, strict=True)):
                logits = b + h @ w.t()
                top = logits.max(1, keepdim=True).values
                table[i] = top + ((logits - top).exp() @ level).log() - self.phi[i]
            if self.D is not None:
                table = table + (self.D @ h.t())[:, :, None]
            sums = pooled(table.flatten(1), items, lengths).view(-1, len(h), len(self.grid))
            total = torch.logaddexp(total, torch.logsumexp((sums + (h @ self.c)[:, None] + self.prior).flatten(1), 1))
        return total

    # ------------------------------------------------------------------ one item more

    def scores(self, state: Tensor, items: Tensor, row: Tensor) -> Tensor:
        """log p(v_q = k | v) of items q (m,), none of them among those of the user in `row` (m,) whose state is given
        (n, hidden + places): exactly, from free energies, (m, levels).

        p(v_q = k | v) ~ exp((base + b)_qk) sum_g exp(u_g + g z_k - phi_q(g)) prod_j (1 + exp(x_j + D_qj + W_qkj)).
        """
        out = torch.empty(len(items), self.levels, dtype=state.dtype, device=state.device)
        x, u, bias = state[:, : self.hidden], state[:, self.hidden :], self.bias()
        for piece in self.pieces(len(items), self.hidden):
            q, user = items[piece], row[piece]
            own = x[user] if self.D is None else x[user] + self.D[q]
            level = torch.logsumexp((u[user] - self.phi[q])[:, None] + self.z[:, None] * self.grid, 2)
            out[piece] = bias[q] + level + F.softplus(own[:, None] + self.weights(q)).sum(2)
        return torch.log_softmax(out, 1)

    def mean_scores(self, state: Tensor, items: Tensor, row: Tensor) -> Tensor:
        """The same from the means alone, one step of mean field: softmax_k of `logits` at E[h] and E[g], (m, levels)."""
        return torch.log_softmax(self.logits(items, row, *self.means(state)), 1)

    def left_out(self, x: Ragged) -> Tensor:
        """log p(v_i = k | the user's other ratings, all items) of every step, exactly, (N, levels)."""
        return self._others(x, None, lambda _: None)[1]

    # ------------------------------------------------------------------ learning

    def start(self, batches: Iterable[Batch]) -> None:
        """Count the ratings, and fit what users and items are like on the whole. A machine that is already trained keeps its
        own and counts on. Raises `DataError` for an item that a user has twice."""
        seen = 0
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for batch in batches:
            items, codes = self.codes(batch.x)
            lengths = batch.x.lengths.cpu()
            refuse_twice(items, lengths, seen)
            seen += len(batch.x)
            weight = torch.ones(len(lengths)) if batch.weight is None else batch.weight.cpu()
            parts.append((items.cpu(), (codes - items * self.levels).cpu(), lengths, weight.double()))
        items, rating, lengths, weight = (torch.cat(part) for part in zip(*parts, strict=True))
        each, size = torch.repeat_interleave(weight, lengths), self.items * self.levels
        counts = torch.bincount(items * self.levels + rating, weights=each, minlength=size).view(self.items, -1)
        self.counts += counts.to(self.counts)
        self.users += weight.sum().to(self.users)
        if not self.fresh:
            return
        fit = fit_offsets(items, rating, lengths, weight, counts)
        with torch.no_grad():
            self.base.copy_(fit.base)
            self.z.copy_(fit.z)
            self.V.copy_(polynomials(fit.z, counts.sum(0) + 1e-3, self.degree))
            self.grid.copy_(fit.grid)
            self.prior.copy_(fit.prior)
            for piece in self.pieces(self.items, GRID):
                self.phi[piece] = log_masses(self.base[piece], self.z, self.grid)

    def frequencies(self) -> Tensor:
        """log of how often each item has each rating in training, with one rating more as they are over all items."""
        return (self.counts + (self.counts.sum(0) + 1e-3) / (self.counts.sum() + 1e-3 * self.levels)).log()

    def decayed(self) -> dict[nn.Parameter, float]:
        """What weight decay shrinks (all but c), by how much of it: it is beside the sum over users, not their mean."""
        share = 1 / max(float(self.users), 1.0)
        return {p: share for p in (self.A, self.b, self.B, self.D) if p is not None}

    def held_out(self, x: Ragged) -> Tensor:
        """-log p(v_i | the user's other ratings) of every step, (N,) nats."""
        return -self.left_out(x).gather(1, x.values[:, 1:2].long())[:, 0]

    def contrast(
        self, x: Ragged, share: Tensor, sweeps: int, noise: Noise, total: Total
    ) -> tuple[dict[nn.Parameter, Tensor], Tensor]:
        """The gradient of -sum share * log p(ratings | items) by CD-`sweeps` over the same items as the data's, and
        -log p(v | g, h) of every step (N,), on the first sweep. `share` (n,) are the users'. With 0 sweeps: the gradient of
        -sum share * sum_i log p(v_i | the user's others), exactly, and those terms."""
        if sweeps == 0:
            gradients, left = self._others(x, share, total)
            return gradients, -left.gather(1, x.values[:, 1:2].long())[:, 0]
        items, codes = self.codes(x)
        row, steps = x.places[0].to(codes.device), StepNoise(noise, x)
        data = torch.sigmoid(self.field(items, codes, x.lengths))
        mean, drawn, error = data, codes, data.new_zeros(len(codes))
        for sweep in range(sweeps):
            g = self.grid[noise.categorical(self.offset(items, drawn, x.lengths))]
            logits = self.logits(items, row, noise.bernoulli(mean), g)
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
        sums: dict[nn.Parameter, Tensor] = {}
        lengths = torch.bincount(row, minlength=len(share))
        for sign, (codes, mean) in ((-1.0, positive), (1.0, negative)):
            h = mean * (sign * share)[:, None]
            weight, size = sign * share[row].double(), self.items * self.levels
            parts = self._up(items, self.V[:, codes - items * self.levels], row, lengths, h)
            parts[self.b] = torch.bincount(codes, weights=weight, minlength=size).view_as(self.b)
            sums = {p: part + sums[p] if p in sums else part for p, part in parts.items()}
        # Counts of both sides often cancel exactly: in float32 what rounding leaves would be a step's direction to Adam.
        total(list(sums.values()))
        return {p: value.to(p.dtype) for p, value in sums.items()}

    def _up(self, items: Tensor, factor: Tensor, row: Tensor, lengths: Tensor, h: Tensor) -> dict[nn.Parameter, Tensor]:
        """The derivative of sum_u h_u . x_u by what x is made of, with factor (degree, N) = V_r,v of every step."""
        down = h if self.B is None else h @ self.B.t()
        seen = [scattered(items, row, down, self.items, factor[r]) for r in range(self.degree)]
        parts: dict[nn.Parameter, Tensor] = {self.A: torch.stack(seen, 1), self.c: h.sum(0)}
        if self.D is not None:
            parts[self.D] = scattered(items, row, h, self.items)
        if self.B is not None:
            own = sum(pooled(self.A[:, r], items, lengths, factor[r]) for r in range(self.degree))
            assert isinstance(own, Tensor)
            parts[self.B] = own.t() @ h
        return parts

    def _others(self, x: Ragged, share: Tensor | None, total: Total) -> tuple[dict[nn.Parameter, Tensor], Tensor]:
        """log p(v_i = k | the user's others) of every step, (N, levels), and with `share` the gradient of
        -sum share * sum_i log p(v_i | others) by parameter.

        The hidden units' field without item i, and with its rating at k, is x + W_ik - W_i,v_i, and u likewise.
        """
        items, codes = self.codes(x)
        row, rating = x.places[0].to(codes.device), codes - items * self.levels
        state = self.state(items, codes, x.lengths)
        field, u = state[:, : self.hidden], state[:, self.hidden :]
        moved = ((self.z[:, None] - self.z)[:, :, None] * self.grid).flatten(0, 1)  # (to, from)
        level = torch.stack([torch.logsumexp(u + move, 1) for move in moved], 1).view(len(u), self.levels, -1)
        out, bias = field.new_empty(len(items), self.levels), self.bias()
        sums = {} if share is None else {p: torch.zeros_like(p) for p in (self.A, self.b, self.B) if p is not None}
        back = torch.zeros_like(field)
        for piece in self.pieces(len(items), self.hidden):
            i, user, v = items[piece], row[piece], rating[piece]
            a = self.A[i]
            own = a if self.B is None else a @ self.B
            change = self.V.t() - self.V.t()[v][:, None]  # (m, levels, degree)
            reached = field[user][:, None] + change @ own
            logits = bias[i] + level[user, :, v] + F.softplus(reached).sum(2)
            out[piece] = torch.log_softmax(logits, 1)
            if share is None:
                continue
            wrong = (out[piece].exp() - F.one_hot(v, self.levels)) * share[user][:, None]
            h = torch.sigmoid(reached)
            back.index_add_(0, user, torch.bmm(wrong[:, None], h)[:, 0])
            direct = torch.bmm((change * wrong[:, :, None]).transpose(1, 2), h)  # (m, degree, hidden)
            sums[self.b].index_add_(0, i, wrong)
            if self.B is None:
                sums[self.A].index_add_(0, i, direct)
            else:
                sums[self.A].index_add_(0, i, direct @ self.B.t())
                sums[self.B] += a.flatten(0, 1).t() @ direct.flatten(0, 1)
        if share is None:
            return {}, out
        for p, part in self._up(items, self.V[:, rating], row, x.lengths.to(row.device), back).items():
            sums[p] = sums[p] + part if p in sums else part
        total(list(sums.values()))
        return sums, out
