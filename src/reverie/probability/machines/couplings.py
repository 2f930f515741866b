"""Networks of spins s_i = -1, +1 with symmetric couplings J, no self-coupling, and thresholds theta (Hopfield 1982):

E(s) = -1/2 s.J s - theta.s,   field h = J s + theta,   p(s) = exp(-E(s) / T) / Z.

Four rules turn patterns xi^1 ... xi^P of N spins into J; from outside the network takes and gives bits x = (s + 1) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from reverie.config import check_count
from reverie.data.space import Space
from reverie.errors import InvalidOption
from reverie.rng import Noise, generator

Rule = Literal["hebb", "covariance", "pseudo_inverse", "storkey"]
Update = Literal["asynchronous", "synchronous"]

EXACT_UNITS = 20
"""Z is listed up to as many spins."""
_BLOCK = 64
"""Spins whose fields are kept up to date one by one; the others follow by one matrix product per block."""
_TIE = 1e-9
"""A field this small, beside the couplings' scale, is rounding: the spin stays as it is."""
_LISTED = 2**14


def hebb(moment: Tensor) -> Tensor:
    """J = (1/N) sum_mu xi xi^T without diagonal (Hopfield 1982, eq. 2), from `moment` = sum_mu xi xi^T, (N, N)."""
    return _hollow(moment / len(moment))


def covariance(moment: Tensor, total: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """J = sum_mu (xi - m)(xi - m)^T / (N v) without diagonal, m (N,) the mean pattern, v the mean of 1 - m^2, and
    theta = m - J m, (N, N) and (N,) (Amit, Gutfreund & Sompolinsky 1987; Tsodyks & Feigelman 1988).

    In a stored pattern J (xi - m) is xi - m but for crosstalk: +(1 - m) where xi = 1 and -(1 + m) where xi = -1. The
    threshold m puts both at the same distance from 0; the rest of theta subtracts the mean from the state."""
    mean = total / rows
    variance = (1 - mean.square()).mean()
    centred = moment - rows * torch.outer(mean, mean)
    J = _hollow(centred / (len(moment) * variance.clamp_min(torch.finfo(moment.dtype).tiny)))
    return J, mean - J @ mean


def pseudo_inverse(moment: Tensor) -> Tensor:
    """J = the projection on the span of the patterns, without diagonal (Personnaz, Guyon & Dreyfus 1986; Kanter &
    Sompolinsky 1987), (N, N): the eigenvectors of `moment` whose eigenvalue is above rounding, N eps of the largest.

    P xi = xi for every stored pattern, so its fields are (1 - P_ii) xi_i: all are fixed points, up to rank N - 1."""
    values, vectors = torch.linalg.eigh(moment)
    kept = vectors[:, values > 10 * len(values) * torch.finfo(values.dtype).eps * values[-1].clamp_min(0)]
    return _hollow(kept @ kept.t())


def add_storkey(J: Tensor, pattern: Tensor, strength: float = 1.0) -> None:
    """J += (1/N) (xi_i xi_j - xi_i h_ji - h_ij xi_j), in place, with h_ij = sum over k != i, j of J_ik xi_k (Storkey &
    Valabregue 1999, eq. 2), `strength` times. As xi^2 = 1, h_ij = (J xi)_i - J_ij xi_j, and the rule is
    J += (1/N) (xi xi^T - xi (J xi)^T - (J xi) xi^T + 2 J): O(N^2) for a pattern."""
    rate, field = strength / len(J), J @ pattern
    J.mul_(1 + 2 * rate).addr_(pattern, pattern - field, alpha=rate).addr_(field, pattern, alpha=-rate)
    J.fill_diagonal_(0)


def _hollow(J: Tensor) -> Tensor:
    """A copy that is symmetric to the last bit, with zeros on the diagonal."""
    return (0.5 * (J + J.t())).fill_diagonal_(0)


@dataclass
class Trace:
    """What recall saw: states (n, width), energies over T before and after every sweep (n, sweeps + 1), which settled."""

    x: Tensor
    energies: Tensor
    converged: Tensor


class Couplings(nn.Module):
    """J (N, N), theta (N,) float64; the sums they come from: `moment` (N, N), empty for storkey, whose rule needs J
    alone, `total` (N,), `weight` and `rows` so far; `stored` rows of finished passes."""

    likelihood = "exact"
    exact = 0.0
    """Two states are the same up to this."""
    J: Tensor
    theta: Tensor
    moment: Tensor
    total: Tensor
    weight: Tensor
    rows: Tensor
    stored: Tensor

    def __init__(self, units: int, rule: Rule, temperature: float) -> None:
        super().__init__()
        self.units, self.rule, self.temperature = units, rule, temperature
        kept = 0 if rule == "storkey" else units
        self.register_buffer("J", torch.zeros(units, units, dtype=torch.float64))
        self.register_buffer("theta", torch.zeros(units, dtype=torch.float64))
        self.register_buffer("moment", torch.zeros(kept, kept, dtype=torch.float64))
        self.register_buffer("total", torch.zeros(units, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64))

    # ------------------------------------------------------------------ storing

    def store(self, rows: Tensor, weight: Tensor | None) -> None:
        """Add bits (n, N) to the sums; storkey learns them one after the other."""
        s = spins(rows)
        strength = s.new_ones(len(s)) if weight is None else weight.to(s.dtype)
        weighted = s * strength[:, None]
        if self.rule == "storkey":
            for pattern, own in zip(s, strength.tolist(), strict=True):
                add_storkey(self.J, pattern, own)
        else:
            self.moment += weighted.t() @ s
        self.total += weighted.sum(0)
        self.weight += strength.sum()
        self.rows += len(s)

    def settle(self) -> None:
        """J and theta from the sums."""
        if self.rule == "hebb":
            self.J.copy_(hebb(self.moment))
        elif self.rule == "pseudo_inverse":
            self.J.copy_(pseudo_inverse(self.moment))
        elif self.rule == "covariance":
            J, theta = covariance(self.moment, self.total, self.weight)
            self.J.copy_(J)
            self.theta.copy_(theta)
        if not bool(torch.isfinite(self.J).all()):
            raise InvalidOption(
                f"memory={self.rule!r}: the couplings overflowed after {int(self.rows)} patterns in {self.units} units; "
                "store fewer, or take memory='pseudo_inverse'"
            )
        self.stored.copy_(self.rows)

    # ------------------------------------------------------------------ dynamics

    def field(self, s: Tensor) -> Tensor:
        """h = J s + theta of states (n, N), (n, N)."""
        return torch.addmm(self.theta, s, self.J)

    def relax(self, s: Tensor, h: Tensor, order: Tensor, free: Tensor | None, rest: Tensor) -> None:
        """Every spin once in that order to the sign of its field, where `free`, in place on s and its fields h, both
        (N, n); to `rest` where the field is 0. Within a block each row goes from flip to flip, and as flips are few
        that takes far fewer steps than going from spin to spin."""
        edge = self._edge()
        for block in torch.split(order, _BLOCK):
            rows = torch.arange(s.shape[1], device=s.device)
            inner, place = self.J[block][:, block], torch.arange(len(block), device=s.device)[:, None]
            now, f, other = s[block], h[block], rest[block]
            change, mine = torch.zeros_like(now), None if free is None else free[block]
            last = rows.new_full((len(rows),), -1)
            while len(rows):
                wish = torch.where(f > edge, 1.0, torch.where(f < -edge, -1.0, other))
                due = (wish != now) & (place > last)
                first = torch.where(due if mine is None else due & mine, place, len(block)).amin(0)
                kept = (first < len(block)).nonzero()[:, 0]
                rows, last = rows[kept], first[kept]
                now, f, other = now[:, kept], f[:, kept], other[:, kept]
                mine = None if mine is None else mine[:, kept]
                at = (last, torch.arange(len(rows), device=s.device))
                step = wish[last, kept] - now[at]
                now[at] += step
                change[last, rows] = step
                f += inner[:, last] * step
            moved = change.any(0).nonzero()[:, 0]
            if len(moved):
                change = change[:, moved]
                s[block[:, None], moved] += change
                h[:, moved] += self.J[block].t() @ change

    def settle_down(
        self, s: Tensor, free: Tensor | None, *, sweeps: int, update: Update, seed: int
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """T = 0 dynamics from s (n, N), entries 0 being unknown, until no spin moves or `sweeps` are done: the states,
        E / T before and after each sweep, and which settled. Each asynchronous sweep visits the spins in a new random
        order, the same for all rows; the energy then never rises. A field of 0 leaves a spin as it is, and an unknown
        one at its more frequent value."""
        s = s.t().clone()
        free = None if free is None else free.t()
        h = self.field(s.t()).t().clone()
        edge = self._edge()
        usual = torch.where(self.total > 0, 1.0, -1.0)[:, None].to(s.dtype)
        energies = [self._energy(s, h)]
        active = torch.arange(s.shape[1], device=s.device)
        for number in range(sweeps):
            own, fields = s[:, active], h[:, active]
            before, mine = own.clone(), None if free is None else free[:, active]
            rest = torch.where(own == 0, usual, own)
            if update == "asynchronous":
                order = torch.randperm(self.units, generator=generator(seed, "recall", number)).to(s.device)
                self.relax(own, fields, order, mine, rest)
            else:
                moved = torch.where(fields > edge, 1.0, torch.where(fields < -edge, -1.0, rest))
                own = moved if mine is None else torch.where(mine, moved, own)
                fields = self.field(own.t()).t()
            s[:, active], h[:, active] = own, fields
            energies.append(energies[-1].clone())
            energies[-1][active] = self._energy(own, fields)
            active = active[(own != before).any(0)]
            if len(active) == 0:
                break
        settled = torch.ones(s.shape[1], dtype=torch.bool, device=s.device)
        settled[active] = False
        return s.t(), energies, settled

    def gibbs(self, s: Tensor, sweeps: int, noise: Noise, free: Tensor | None = None) -> Tensor:
        """`sweeps` of Gibbs sampling (Glauber 1963) from s (n, N), spin after spin:
        p(s_i = 1 | rest) = 1 / (1 + exp(-2 h_i / T)). Spins that are not `free` stay."""
        state, h = s.t().clone(), self.field(s).t().clone()
        mine = None if free is None else free.t()
        for _ in range(sweeps):
            u = noise.uniform(self.units).to(s.dtype).clamp(1e-300, 1 - 1e-16)
            edge = (0.5 * self.temperature * torch.logit(u)).t().contiguous()  # the spin is 1 where its field is above
            for block in torch.split(torch.arange(self.units, device=s.device), _BLOCK):
                now, f, inner = state[block], h[block], self.J[block][:, block]
                before, bound = now.clone(), edge[block]
                for i in range(len(block)):
                    new = torch.where(f[i] > bound[i], 1.0, -1.0)
                    new = new if mine is None else torch.where(mine[block[i]], new, now[i])
                    f[i + 1 :].addr_(inner[i + 1 :, i], new - now[i])
                    now[i] = new
                state[block] = now
                h.addmm_(self.J[block].t(), now - before)
        return state.t()

    def _energy(self, s: Tensor, h: Tensor) -> Tensor:
        """E(s) / T of states and fields (N, n), (n,): -1/2 s.(h + theta) / T."""
        return -0.5 * (s * (h + self.theta[:, None])).sum(0) / self.temperature

    def log_partition(self) -> float:
        """log Z by listing all 2^N states."""
        parts = []
        for first in range(0, 2**self.units, _LISTED):
            codes = torch.arange(first, min(first + _LISTED, 2**self.units), device=self.J.device)
            bits = (codes[:, None] >> torch.arange(self.units, device=self.J.device)) & 1
            parts.append(torch.logsumexp(-self.energy(bits.double()), 0))
        return float(torch.logsumexp(torch.stack(parts), 0))

    # ------------------------------------------------------------------ capabilities

    def limits(self, space: Space) -> dict[str, str]:
        """log_prob where 2^N states are too many; everything before the first pass has ended."""
        if not int(self.stored):
            return dict.fromkeys(("sample", "log_prob", "energy", "impute"), "nothing is stored yet; fit it for a pass")
        if self.units > EXACT_UNITS:
            return {
                "log_prob": f"log Z is a sum over 2^{self.units} states, listed up to {EXACT_UNITS} units; use energy"
            }
        return {}

    def energy(self, x: Tensor) -> Tensor:
        """E(s) / T = -(1/2 s.J s + theta.s) / T of bits (n, N), (n,): p(x) = exp(-energy) / Z."""
        s = spins(x)
        return self._energy(s.t(), self.field(s).t())

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """-E(s) / T - log Z, (n,) nats."""
        return -self.energy(x) - self.log_partition()

    def fantasy(self, noise: Noise) -> Tensor:
        """Starting states of chains: independent spins as frequent as in the stored patterns, (n, N)."""
        share = 0.5 + 0.5 * self.total / self.weight.clamp_min(1e-300)
        return spins(noise.bernoulli(share.expand(noise.rows, -1)))

    def sample(self, noise: Noise, y: Tensor | None, *, sweeps: int = 100) -> Tensor:
        """Bits (n, N) after `sweeps` of Gibbs sampling at the model's temperature, from independent bits with the stored
        frequencies. At low temperatures a chain stays near the memory, or the mixture of memories, it fell into."""
        check_count(sweeps, "sweeps")
        return bits(self.gibbs(self.fantasy(noise), sweeps, noise))

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 100
    ) -> Tensor:
        """The missing bits: with `mean` those of T = 0 recall from the observed ones, else a draw by Gibbs sampling."""
        if mean:
            return self.recall(x, observed, sweeps=sweeps, update=None, seed=0).x
        start = torch.where(observed, spins(x), self.fantasy(noise))
        return bits(self.gibbs(start, sweeps, noise, ~observed))

    def recall(self, x: Tensor, observed: Tensor | None, *, sweeps: int, update: Update | None, seed: int) -> Trace:
        """T = 0 recall from bits (n, N): of all spins, or of those not `observed`, which start unknown."""
        start, free = spins(x), None
        if observed is not None:  # what is seen in full may change in full
            start, free = torch.where(observed, start, 0.0), ~observed | observed.all(1, keepdim=True)
        found, energies, settled = self.settle_down(
            start, free, sweeps=sweeps, update=update or "asynchronous", seed=seed
        )
        return Trace(bits(found), torch.stack(energies, 1), settled)

    def fixed(self, x: Tensor) -> Tensor:
        """Whether no spin of bits (n, N) would move, (n,)."""
        s = spins(x)
        return (s * self.field(s) >= -self._edge()).all(1)

    def overlap(self, x: Tensor, other: Tensor) -> Tensor:
        """m = mean over spins of s_i s'_i, (n,)."""
        return (spins(x) * spins(other)).mean(1)

    def damage(self, x: Tensor, hit: Tensor) -> tuple[Tensor, None]:
        """Bits with those of `hit` flipped; all are seen."""
        return torch.where(hit, 1 - x, x), None

    def _edge(self) -> float:
        return _TIE * float(self.J.abs().max())


def spins(x: Tensor) -> Tensor:
    """Bits to spins, float64."""
    return 2 * x.double() - 1


def bits(s: Tensor) -> Tensor:
    """Spins to bits; an unknown one, 0, is 1/2."""
    return 0.5 * (s + 1)
