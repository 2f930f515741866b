"""The conditional restricted Boltzmann machine (Taylor, Hinton & Roweis 2006): a restricted machine for every step of a
sequence, whose biases depend on the steps before it.

p(v_t | u_t) = exp(-F(v_t | u_t)) / Z(u_t),   F(v | u) = U(v) - (b + u A).v - A_h(c + u B + v W),

with u_t the last `order` frames side by side, latest first, and one indicator for each, 1 where it would lie before the
start of the sequence (the frame is zero there): every step has a window, and what it is to be at the start is learned.

Columns of numbers enter v_t as what is left of them after a linear prediction from u_t, in units of its spread, both found
by least squares before learning: (v - m_k - u M_k) / s_k. Neighbouring steps are so alike that learning would crawl, or diverge
in the variance, without it. The first `order` steps, of which k frames are known, have a prediction each: less is known of
them, and their spread is larger; but for that the family of densities is the same, for A and b hold such terms too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from reverie.data.space import Ragged
from reverie.errors import Unsupported
from reverie.inference.annealing import anneal, ladder
from reverie.probability.machines.restricted import Penalties, Restricted, Side
from reverie.probability.machines.units import Units
from reverie.rng import Noise

LISTED_BITS = 12
"""log Z belongs to one step only, so at most this many bits are listed for every step."""
_BLOCK_NUMBERS = 2**21
_RIDGE = 1e-4
"""Of linear predictions, beside one step's worth of it."""
_LEAST_SPREAD = 1e-3
"""Of what a prediction leaves, in standard deviations of the column: below that it is noise of the rounding."""

Shifts = tuple[Tensor, Tensor]
"""What a window adds to the biases: u A (n, visible) and u B (n, hidden)."""


@dataclass(frozen=True)
class Annealed:
    """log Z of every step by annealing, forwards and backwards, (n,) each, with their standard errors over chains."""

    log_z: Tensor
    error: Tensor
    reverse: Tensor
    reverse_error: Tensor


class Conditional(nn.Module):
    """`machine` holds W, b, c and the offsets; A (window, visible) and B (window, hidden) what the past does. `real` (visible,)
    says which visible columns are numbers. A window has order * (visible + 1) columns."""

    M: Tensor
    m: Tensor
    s: Tensor
    u_offset: Tensor
    real: Tensor

    def __init__(
        self,
        visible: Units,
        hidden: Units,
        *,
        order: int,
        real: Tensor,
        centring: float = 0.0,
        penalties: Penalties | None = None,
    ) -> None:
        super().__init__()
        self.machine = Restricted(visible, hidden, centring=centring, penalties=penalties)
        self.order, self.code_width = order, hidden.width
        self.window_width = order * (visible.width + 1)
        self.A = nn.Parameter(torch.zeros(self.window_width, visible.width))
        self.B = nn.Parameter(torch.zeros(self.window_width, hidden.width))
        self.register_buffer("u_offset", torch.zeros(self.window_width))
        self.register_buffer("M", torch.zeros(order + 1, self.window_width, visible.width))
        self.register_buffer("m", torch.zeros(order + 1, visible.width))
        self.register_buffer("s", torch.ones(order + 1, visible.width))
        self.register_buffer("real", real, persistent=False)
        self._numbers = bool(real.any())

    def precise(self) -> Self:
        """A copy in float64."""
        return copy.deepcopy(self).double()

    # ------------------------------------------------------------------ windows

    def windows(self, x: Ragged, steps: Tensor | None = None) -> Tensor:
        """u of those steps of x, of all by default, (n, window): gathered from the steps before, never from another
        sequence's."""
        place = x.places[1].to(x.device)
        at = torch.arange(len(place), device=x.device) if steps is None else steps
        back = torch.arange(1, self.order + 1, device=x.device)
        before = place[at, None] < back
        frames = x.values[(at[:, None] - back).clamp_min(0)].masked_fill(before[:, :, None], 0.0)
        return joined(frames, before)

    def ends(self, x: Ragged) -> tuple[Tensor, Tensor]:
        """The last frames of every sequence, latest first, (n, order, visible), and which lie before its start."""
        back = torch.arange(self.order, device=x.device)
        lengths = x.lengths.to(x.device)
        before = lengths[:, None] <= back
        at = (lengths.cumsum(0)[:, None] - 1 - back).clamp_min(0)
        return x.values[at].masked_fill(before[:, :, None], 0.0), before

    def shifts(self, u: Tensor) -> Shifts:
        """What the past adds to the biases."""
        return u @ self.A, u @ self.B

    def known(self, u: Tensor) -> Tensor:
        """How many frames of a window lie in the sequence, (n,)."""
        return self.order - u[:, -self.order :].sum(1).long()

    def _predicted(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The linear prediction of numbers from their windows, and its spread, (n, visible) each."""
        known = self.known(u)
        mean = self.m[-1] + u @ self.M[-1]
        for k in range(self.order):
            rows = torch.nonzero(known == k)[:, 0]
            mean[rows] = self.m[k] + u[rows] @ self.M[k]
        return mean, self.s[known]

    def frames(self, v: Tensor, u: Tensor) -> Tensor:
        """Steps as the machine has them: numbers less their linear prediction, in units of its spread."""
        if not self._numbers:
            return v
        mean, spread = self._predicted(u)
        return (v - mean) / spread

    def restored(self, frames: Tensor, u: Tensor) -> Tensor:
        """Inverse of `frames`."""
        if not self._numbers:
            return frames
        mean, spread = self._predicted(u)
        return frames * spread + mean

    def log_det(self, u: Tensor) -> Tensor:
        """log |d frames / d steps|, (n,)."""
        return -self.s.log().sum(1)[self.known(u)]

    # ------------------------------------------------------------------ one step given its window

    def hidden_field(self, frames: Tensor, shifts: Shifts) -> Tensor:
        """c + u B + v W, (n, hidden)."""
        return self.machine.odd_field(frames) + shifts[1]

    def visible_field(self, h: Tensor, shifts: Shifts) -> Tensor:
        """b + u A + W h, (n, visible)."""
        return self.machine.even_field(h) + shifts[0]

    def free_energy(self, frames: Tensor, shifts: Shifts, field: Tensor | None = None) -> Tensor:
        """F(v | u), (n,) nats; `field` is that of the hidden units where it is known already."""
        field = self.hidden_field(frames, shifts) if field is None else field
        return self.machine.even_energy(frames, field) - (frames * shifts[0]).sum(1)

    def gibbs(self, frames: Tensor, sweeps: int, shifts: Shifts, noise: Noise) -> tuple[Tensor, Tensor]:
        """`sweeps` of h | v, u and v | h, u: the last v and the field it was drawn from, (n, visible) each."""
        field = frames
        for _ in range(sweeps):
            h = self.machine.odd.sample(self.hidden_field(frames, shifts), noise)
            field = self.visible_field(h, shifts)
            frames = self.machine.even.sample(field, noise)
        return frames, field

    def first_guess(self, shifts: Shifts, noise: Noise) -> Tensor:
        """Where a step's chain starts: visible units given hidden ones at the mean they had in training."""
        h = self.machine.h_offset.expand(len(shifts[0]), -1)
        return self.machine.even.sample(self.visible_field(h, shifts), noise)

    def roll(
        self, frames: Tensor, before: Tensor, steps: int, noise: Noise, *, sweeps: int, mean: bool = False
    ) -> Tensor:
        """`steps` further steps after the last `frames` (n, order, visible), one by one, (n, steps, visible); each from
        a chain of `sweeps` of Gibbs sampling. With `mean` numbers are their mean given the last hidden units."""
        out = []
        for _ in range(steps):
            u = joined(frames, before)
            shifts = self.shifts(u)
            drawn, field = self.gibbs(self.first_guess(shifts, noise), sweeps, shifts, noise)
            if mean:
                drawn = torch.where(self.real, self.machine.even.mean(field), drawn)
            out.append(self.restored(drawn, u))
            frames = torch.cat([out[-1][:, None], frames[:, :-1]], 1)
            before = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], 1)
        return torch.stack(out, 1)

    # ------------------------------------------------------------------ learning

    def moments(self, x: Ragged, weight: Tensor) -> list[Tensor]:
        """Sums over all steps, by how many frames of their window are known, 0 .. order, in float64: `weight` (N,), v and
        v^2 (order + 1, visible), and where there are numbers the products of (u, 1) with itself and with v."""
        u = self.windows(x)
        known, wide = self.known(u), torch.cat([u, u.new_ones(len(u), 1)], 1).double()
        out = []
        for k in range(self.order + 1):
            rows = torch.nonzero(known == k)[:, 0]
            v, share, past = x.values[rows].double(), weight[rows], wide[rows]
            sums = [share.sum(), share @ v, share @ v.square()]
            if self._numbers:
                scaled = (past * share[:, None]).t()
                sums += [scaled @ past, scaled @ v]
            out.append(sums)
        return [torch.stack(parts) for parts in zip(*out, strict=True)]

    def start(
        self, count: Tensor, sums: Tensor, squares: Tensor, gram: Tensor | None = None, cross: Tensor | None = None
    ) -> None:
        """Biases at which independent units have the data's means, and the linear predictions of numbers, from `moments`
        of all data."""
        if self.machine.fresh and gram is not None and cross is not None:
            for k in torch.nonzero(count)[:, 0].tolist():
                self._fit_prediction(k, count[k], sums[k], squares[k], gram[k], cross[k])
        mean, square = sums.sum(0) / count.sum(), squares.sum(0) / count.sum()
        variance = (square - mean.square()).clamp_min(0)
        self.machine.start(torch.where(self.real, 0.0, mean), torch.where(self.real, 1.0, variance))

    def _fit_prediction(self, k: int, n: Tensor, sums: Tensor, squares: Tensor, gram: Tensor, cross: Tensor) -> None:
        """Ridge regression for steps of which k frames are known. With few steps n for its p columns a regression fits too
        well: its spread counts (p / n)^2 of the variance beside what it leaves, no more than all of it. Of a single step
        (one long sequence) the spread is that of the standardised column."""
        ridge = torch.full((len(gram),), _RIDGE + 1 / float(n), dtype=gram.dtype, device=gram.device)
        ridge[-1] = _RIDGE  # the mean; indicators that never change leave the equations singular without
        slope = torch.linalg.solve(gram / n + torch.diag(ridge), cross / n)
        left = squares / n - 2 * (slope * (cross / n)).sum(0) + (slope * (gram / n @ slope)).sum(0)
        unsure = ((1 + k * self.machine.visible.width) / float(n)) ** 2
        variance = (squares / n - (sums / n).square()).clamp_min(0) if n > 1 else torch.ones_like(sums)
        spread = (left.clamp_min(0) + min(unsure, 1.0) * variance).minimum(variance).sqrt()
        spread = spread.maximum(_LEAST_SPREAD * variance.sqrt()).clamp_min(1e-6)
        self.M[k].copy_(torch.where(self.real, slope[:-1], 0.0))
        self.m[k].copy_(torch.where(self.real, slope[-1], 0.0))
        self.s[k].copy_(torch.where(self.real, spread, 1.0))

    def gradient(
        self, positive: Side, negative: Side, u: Tensor, total: Callable[[Sequence[Tensor]], None]
    ) -> dict[nn.Parameter, Tensor]:
        """The gradient of -log p(v | u) by parameter: that of a restricted machine, and dA = <(u - q) v>_negative -
        <(u - q) v>_positive, dB likewise with h; both sides have the same windows and shares. q follows the windows' mean
        at the rate of the centring, and is brought back to plain biases."""
        out = self.machine.gradient(positive, negative, total)
        if self.machine.centring:
            mean = positive.share @ u
            total([mean])
            self.u_offset.lerp_(mean.to(self.u_offset), self.machine.centring)
        shared = ((u - self.u_offset) * positive.share[:, None]).t()
        da, db = shared @ (negative.even - positive.even), shared @ (negative.odd - positive.odd)
        total([da, db])
        out[self.machine.b] = out[self.machine.b] - self.u_offset @ da
        out[self.machine.c] = out[self.machine.c] - self.u_offset @ db
        l2 = self.machine.penalties.l2
        return {**out, self.A: da.add_(self.A, alpha=l2), self.B: db.add_(self.B, alpha=l2)}

    # ------------------------------------------------------------------ likelihood

    @property
    def listed(self) -> Units | None:
        """The layer whose states are listed for log Z, the one of fewer; None where both have too many."""
        m = self.machine
        chosen = min((m.hidden, m.visible), key=lambda layer: layer.bits)
        return chosen if chosen.bits <= LISTED_BITS + 1e-9 else None

    def log_partition(self, shifts: Shifts) -> Tensor:
        """log Z(u) of every window, (n,), by listing a layer's states in blocks and summing the other layer out."""
        m, listed = self.machine, self.listed
        if listed is None or listed.radices is None:
            raise Unsupported(f"exact log Z lists at most {LISTED_BITS} bits of a layer for every step")
        own, other = (shifts[1], shifts[0]) if listed is m.hidden else (shifts[0], shifts[1])
        bias, field, rest = (m.c, m.even_field, m.even) if listed is m.hidden else (m.b, m.odd_field, m.odd)
        states = listed.states(0, math.prod(listed.radices)).to(bias)
        fields, linear = field(states), states @ bias
        energy = listed.energy(states)
        linear = linear if energy is None else linear - energy
        n, width, out = len(own), rest.width, []
        some = max(1, min(len(states), _BLOCK_NUMBERS // width))
        rows = max(1, _BLOCK_NUMBERS // (some * width))
        for first in range(0, n, rows):
            mine, theirs = own[first : first + rows], other[first : first + rows]
            total = torch.full((len(mine),), -math.inf, dtype=mine.dtype, device=mine.device)
            for a in range(0, len(states), some):
                part = slice(a, a + some)
                joint = (theirs[:, None] + fields[part]).flatten(0, 1)
                terms = rest.log_partition(joint).view(len(mine), -1) + linear[part] + mine @ states[part].t()
                total = torch.logaddexp(total, torch.logsumexp(terms, 1))
            out.append(total)
        return torch.cat(out) if out else own.new_zeros(0)

    def step_log_prob(self, x: Ragged) -> Tensor:
        """log p(v_t | u_t) of every step, exactly, (N,) nats in model units; in the type of the parameters."""
        u = self.windows(x)
        shifts = self.shifts(u)
        frames = self.frames(x.values, u)
        return self.log_det(u) - self.free_energy(frames, shifts) - self.log_partition(shifts)

    def sequence_log_prob(self, x: Ragged) -> Tensor:
        """Sums over the steps of each sequence, (n,)."""
        steps = self.step_log_prob(x)
        return steps.new_zeros(len(x)).index_add_(0, x.places[0].to(steps.device), steps)

    def annealed(self, u: Tensor, noise: Noise, *, chains: int, temperatures: int, burn_in: int) -> Annealed:
        """log Z(u) by annealing `chains` for every window, forwards from independent units and backwards from chains of
        `burn_in` sweeps (Salakhutdinov & Murray 2008; Burda, Grosse & Salakhutdinov 2015).

        The path couples visible and hidden units more and more: at beta the fields are (1 - beta) (b + u A + W l) +
        beta (b + u A + W h), and likewise for h with the offsets m, l of centring in place of the other layer.
        """
        m = self.machine
        shifts = self.shifts(u)
        base_v = (m.even_field(m.h_offset[None]) + shifts[0]).repeat_interleave(chains, 0)
        base_h = (m.odd_field(m.v_offset[None]) + shifts[1]).repeat_interleave(chains, 0)
        wide = (shifts[0].repeat_interleave(chains, 0), shifts[1].repeat_interleave(chains, 0))
        plain_v = m.b + wide[0]

        def move(state: Tensor, a: float, b: float, last: bool) -> tuple[Tensor, Tensor]:
            field = self.hidden_field(state, wide)
            at_b = torch.lerp(base_h, field, b)
            gain = (b - a) * (state * (plain_v - base_v)).sum(1)
            gain += m.odd.log_partition(at_b) - m.odd.log_partition(torch.lerp(base_h, field, a))
            if last:
                return gain, state
            h = m.odd.sample(at_b, noise)
            return gain, m.even.sample(torch.lerp(base_v, self.visible_field(h, wide), b), noise)

        betas = ladder(temperatures)
        forward = anneal(m.even.sample(base_v, noise), betas, move)
        state, _ = self.gibbs(m.even.sample(base_v, noise), burn_in, wide, noise)
        backward = anneal(state, betas.flip(0), move)
        start = (m.even.log_partition(base_v) + m.odd.log_partition(base_h)).double()[::chains]
        up, up_error = _mean_exp(forward.view(-1, chains))
        down, down_error = _mean_exp(backward.view(-1, chains))
        return Annealed(start + up, up_error, start - down, down_error)


def joined(frames: Tensor, before: Tensor) -> Tensor:
    """Frames (n, order, visible) and indicators (n, order) as windows, (n, order * (visible + 1))."""
    return torch.cat([frames.flatten(1), before.to(frames.dtype)], 1)


def _mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """log mean exp over chains (n, chains), and its standard error by the delta method, (n,) each."""
    chains = log_weights.shape[1]
    value = torch.logsumexp(log_weights, 1) - math.log(chains)
    relative = torch.exp(log_weights - value[:, None])
    return value, relative.std(1) / math.sqrt(chains)
