"""The Boltzmann machine's maths (Ackley, Hinton & Sejnowski 1985): visible and hidden units on any graph.

E(x) = -b . x - sum over edges of J_ij x_i x_j,   p(x) = exp(-E(x) / T) / Z,   x = (v, h) of bits or of spins.

Everything is computed on bits z at T = 1: spins s = 2 z - 1 are bits with weights 4 J, biases 2 (b - sum_j J_ij) and a
constant. Hidden units are summed out exactly where their states can be listed, but for a group without edges inside, whose
sum is a formula; else mean-field means bound the sum from below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.errors import Unsupported
from reverie.inference.annealing import anneal, ladder, sandwich
from reverie.inference.gibbs import Gibbs, Plan, bits_of_spins, draw_from, draw_into_buffer, gibbs
from reverie.inference.graphs import Listing, colours, matrix
from reverie.probability.machines.partition import EXACT_BITS, Machine
from reverie.rng import Noise, RowNoise, generator, stream

POSTERIOR_BITS = 10
"""Hidden states are listed for every row up to as many as this many bits have."""
_FEW_EDGES = 20
"""Moments of a graph with fewer than 1 / 20 of all pairs are taken edge by edge."""

Posterior = Literal["exact", "mean_field", "sampled"]


@dataclass(frozen=True)
class Moments:
    """This process's part of E[z], (n,), and of E[z_i z_j] for every edge, (m,), over bits; `share` is what its rows count
    for, 1 over all processes."""

    mean: Tensor
    pairs: Tensor
    share: Tensor


class Boltzmann(Machine):
    """Units 0 .. visible - 1 are visible, the others hidden. `couplings` (m,) are J along `edges` (2, m), `bias` (n,)
    is b, both in the units' own values (0/1, or -1/+1 with `spins`); `mean` (n,) holds running means of the bits in the
    positive phase: centring offsets, and where chains and annealing start."""

    edges: Tensor
    mean: Tensor

    def __init__(
        self,
        visible: int,
        hidden: int,
        edges: Tensor,
        *,
        spins: bool = False,
        temperature: float = 1.0,
        posterior: Posterior | None = None,
        posterior_sweeps: int = 10,
        centring: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        super().__init__()
        self.visible, self.hidden, self.units = visible, hidden, visible + hidden
        self.code_width = hidden
        self.spins, self.temperature = spins, temperature
        self.low, self.span = (-1.0, 2.0) if spins else (0.0, 1.0)
        self.couplings = nn.Parameter(0.01 * torch.randn(edges.shape[1]))
        self.bias = nn.Parameter(torch.zeros(self.units))
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("mean", torch.full((self.units,), 0.5))
        self.centring, self.l2, self.posterior_sweeps = centring, l2, posterior_sweeps
        self.fresh = True
        self._plans: dict[tuple[str, torch.device], Plan] = {}
        self.listed = _others(self.units, colours(self.units, edges))
        inner = edges[:, (edges >= visible).all(0)] - visible
        self.listed_hidden = _others(hidden, colours(hidden, inner)) if hidden else torch.empty(0, dtype=torch.long)
        default: Posterior = "exact" if len(self.listed_hidden) <= POSTERIOR_BITS else "mean_field"
        self.posterior: Posterior = posterior or default

    # ------------------------------------------------------------------ parameters as those of bits

    def values(self, z: Tensor) -> Tensor:
        """Bits, or their means, in the units' own values."""
        return 2 * z - 1 if self.spins else z

    def bits(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (m,), biases (n,) and the constant c of -E(x) / T = c + b . z + z W z / 2, in their own type or another."""
        weights, bias = self.couplings.to(dtype) / self.temperature, self.bias.to(dtype) / self.temperature
        if self.spins:
            return bits_of_spins(self.edges, weights, bias)
        return weights, bias, bias.new_zeros(())

    def sampler(self, units: Literal["all", "hidden"] = "all") -> Gibbs:
        """Chains of these parameters at the machine's temperature, over all units or over the hidden ones alone."""
        key = (units, self.bias.device)
        if key not in self._plans:
            drawn = None if units == "all" else torch.arange(self.visible, self.units)
            self._plans[key] = Plan(self.units, self.edges, drawn)
        weights, bias, _ = self.bits()
        return gibbs(self._plans[key], weights.detach(), bias.detach())

    def state_energy(self, z: Tensor) -> Tensor:
        """E / T of rows of all units' bits, (rows,), in their type."""
        weights, bias, constant = self.bits(z.dtype)
        return -(z @ bias) - self._pair_sums(z, weights) - constant

    def _pair_sums(self, z: Tensor, weights: Tensor) -> Tensor:
        """The sum over edges of W_ij z_i z_j, (rows,)."""
        if self._sparse:
            return (z[:, self.edges[0]] * z[:, self.edges[1]]) @ weights
        return 0.5 * ((z @ matrix(self.units, self.edges, weights)) * z).sum(1)

    @property
    def _sparse(self) -> bool:
        return self.edges.shape[1] * _FEW_EDGES < self.units**2

    def heat(self) -> float:
        """A temperature at which units hardly feel each other: about the largest field that neighbours at random make."""
        weights, bias, _ = self.bits()
        ends, zero = self.edges.flatten(), torch.zeros_like(bias)
        spread = zero.index_add(0, ends, weights.square().repeat(2)).sqrt()
        centre = bias + 0.5 * zero.index_add(0, ends, weights.repeat(2))
        return self.temperature * float(spread.max() + 0.5 * centre.abs().max()) or 1.0

    # ------------------------------------------------------------------ hidden units summed out

    @property
    def sums_hidden(self) -> bool:
        """The sum over hidden states is exact."""
        return len(self.listed_hidden) <= POSTERIOR_BITS

    def _given(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows of visible bits: b . v + v W v / 2 + c, (rows,); the hidden units' fields, (rows, hidden); the hidden
        units' weights among themselves, (hidden, hidden)."""
        weights, bias, constant = self.bits(v.dtype)
        whole = matrix(self.units, self.edges, weights)
        a = self.visible
        own = v @ bias[:a] + 0.5 * ((v @ whole[:a, :a]) * v).sum(1) + constant
        return own, bias[a:] + v @ whole[:a, a:], whole[a:, a:]

    def free_energy(self, v: Tensor) -> Tensor:
        """-log sum_h exp(-E(v, h) / T), (rows,), in the type of the rows of visible bits: exactly where `sums_hidden`, else
        from above by mean-field."""
        own, field, inner = self._given(v)
        if not self.hidden:
            return -own
        if self.sums_hidden:
            return -own - Listing(inner, self.listed_hidden.to(v.device)).log_sum(field)
        mu = self._mean_field(field, inner)
        entropy = F.binary_cross_entropy(mu, mu, reduction="none").sum(1)
        return -own - (field * mu).sum(1) - 0.5 * ((mu @ inner) * mu).sum(1) - entropy

    def _mean_field(self, field: Tensor, inner: Tensor, passes: int = 100) -> Tensor:
        """Means of the factorised posterior with the least free energy nearby: half-steps of mu = sigmoid(f + W mu)."""
        mu = torch.sigmoid(field)
        for _ in range(passes):
            before, mu = mu, 0.5 * (mu + torch.sigmoid(field + mu @ inner))
            if float((mu - before).abs().max()) < 1e-6:
                break
        return mu

    def hidden_means(self, v: Tensor, method: Posterior, noise: Noise | None = None, sweeps: int = 0) -> Tensor:
        """E[h | v] as bits, (rows, hidden): exactly, by mean-field, or one draw after `sweeps` of Gibbs sampling."""
        _, field, inner = self._given(v)
        if method == "exact":
            if not self.sums_hidden:
                raise Unsupported(
                    f"exact posteriors list at most {POSTERIOR_BITS} hidden units that are connected with others; here "
                    f"are {len(self.listed_hidden)}. Use mean_field or sampled"
                )
            listing = Listing(inner, self.listed_hidden.to(v.device))
            return listing.expectations(field, field.new_ones(len(field)))[1]
        if method == "mean_field":
            return self._mean_field(field, inner)
        assert noise is not None
        sampler, draw = self.sampler("hidden"), draw_from(noise, self.hidden)
        state = sampler.enter(torch.cat([v, noise.bernoulli(torch.sigmoid(field))], 1))
        for _ in range(sweeps):
            sampler.sweep(state, draw)
        return sampler.leave(state)[:, self.visible :]

    # ------------------------------------------------------------------ learning

    def start(self, mean: Tensor) -> None:
        """Visible biases at which independent units have the data's means (visible,), clipped; running means likewise."""
        if not self.fresh:
            return
        with torch.no_grad():
            clipped = mean.to(self.bias).clamp(0.001, 0.999)
            self.mean[: self.visible] = clipped
            # a spin's field is half a bit's
            self.bias[: self.visible] = torch.logit(clipped) * self.temperature / self.span

    def clamped(self, v: Tensor, share: Tensor, noise: Callable[[], Noise]) -> tuple[Moments, Tensor]:
        """The positive phase: moments with the visible units held at rows of bits, hidden ones by `posterior`; and the
        hidden units' means or draws."""
        share = share.to(v.dtype)
        if not self.hidden:
            return self.moments_of(v, share), v[:, :0]
        if self.posterior != "exact":
            drawn = noise() if self.posterior == "sampled" else None
            h = self.hidden_means(v, self.posterior, drawn, self.posterior_sweeps)
            return self.moments_of(torch.cat([v, h], 1), share), h
        _, field, inner = self._given(v)
        _, h, pairs = Listing(inner, self.listed_hidden.to(v.device)).expectations(field, share)
        found = self.moments_of(torch.cat([v, h], 1), share)
        both = (self.edges >= self.visible).all(0)
        i, j = self.edges[:, both] - self.visible
        found.pairs[both] = pairs[i, j]
        return found, h

    def moments_of(self, z: Tensor, share: Tensor) -> Moments:
        """Moments of rows of all units' bits, or of means of independent ones, that count `share` (rows,) each."""
        weighted = z * share[:, None]
        if self._sparse:
            pairs = (weighted[:, self.edges[0]] * z[:, self.edges[1]]).sum(0)
        else:
            pairs = (weighted.t() @ z)[self.edges[0], self.edges[1]]
        return Moments(weighted.sum(0), pairs, share.sum())

    def own_moments(self) -> tuple[Moments, Tensor]:
        """The negative phase without sampling: moments under the machine itself, and log Z, by listing in float64."""
        weights, bias, constant = self.bits(torch.float64)
        listing = Listing(matrix(self.units, self.edges, weights), self.listed.to(bias.device))
        log_z, mean, pairs = listing.expectations(bias[None], bias.new_ones(1))
        moments = Moments(mean[0], pairs[self.edges[0], self.edges[1]], bias.new_ones(()))
        return moments, log_z[0] + constant

    def gradient(
        self, positive: Moments, negative: Moments, total: Callable[[Sequence[Tensor]], None]
    ) -> dict[nn.Parameter, Tensor]:
        """The gradient of -log p by parameter: (E_model[x_i x_j] - E_data[x_i x_j]) / T for every edge, and likewise for
        biases, centred about the running means (Melchior, Fischer & Wiskott 2016); `total` sums over processes."""
        parts = [[side.mean.clone(), side.pairs.clone(), side.share.clone()] for side in (positive, negative)]
        total([*parts[0], *parts[1]])
        if self.centring:
            self.mean.lerp_(parts[0][0].to(self.mean.dtype), self.centring)
        (data_mean, data_pairs), (own_mean, own_pairs) = (self._in_values(*part) for part in parts)
        shift, (i, j) = own_mean - data_mean, self.edges
        dj = own_pairs - data_pairs
        db = shift.clone()
        if self.centring:
            offset = self.values(self.mean).to(dj.dtype)
            dj -= offset[i] * shift[j] + offset[j] * shift[i]
            # a step on the centred couplings moves the plain biases too
            db.index_add_(0, i, -dj * offset[j]).index_add_(0, j, -dj * offset[i])
        dj, db = dj / self.temperature, db / self.temperature
        if self.l2:
            dj += self.l2 * self.couplings
        return {self.couplings: dj.to(self.couplings.dtype), self.bias: db.to(self.bias.dtype)}

    def _in_values(self, mean: Tensor, pairs: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of bits as those of the units' own values."""
        if not self.spins:
            return mean, pairs
        return 2 * mean - share, 4 * pairs - 2 * (mean[self.edges[0]] + mean[self.edges[1]]) + share

    def pseudo_log_prob(self, v: Tensor, h: Tensor) -> Tensor:
        """The mean over visible units of log p(v_i | all others), hidden ones at their means or draws `h`, (rows,)."""
        weights, bias, _ = self.bits(v.dtype)
        whole = matrix(self.units, self.edges, weights)[:, : self.visible]
        field = bias[: self.visible] + torch.cat([v, h], 1) @ whole
        return -F.softplus((1 - 2 * v) * field).mean(1)

    # ------------------------------------------------------------------ chains

    def fantasy(self, noise: Noise) -> Tensor:
        """Starting bits of chains (rows, n): independent units at the running means."""
        return noise.bernoulli(self.mean.expand(noise.rows, -1))

    def advance(self, z: Tensor, sweeps: int, noise: Noise) -> Tensor:
        """Rows of bits after `sweeps` of Gibbs sampling."""
        sampler, draw = self.sampler(), draw_from(noise, self.units)
        state = sampler.enter(z)
        for _ in range(sweeps):
            sampler.sweep(state, draw)
        return sampler.leave(state)

    def walk(self, noise: Noise, sweeps: int) -> Iterator[tuple[Tensor, Tensor]]:
        sampler, draw = self.sampler(), draw_from(noise, self.units)
        state = sampler.enter(self.fantasy(noise))
        for _ in range(sweeps):
            sampler.sweep(state, draw)
            yield sampler.leave(state), sampler.energy(state)

    # ------------------------------------------------------------------ log Z

    @property
    def listable(self) -> bool:
        return len(self.listed) <= EXACT_BITS

    @torch.no_grad()
    def exact_log_partition(self) -> float:
        """log Z by listing all units but a group without edges inside, which is summed out."""
        if not self.listable:
            raise Unsupported(
                f"exact log Z lists at most {EXACT_BITS} units beside a group without edges inside; here are {len(self.listed)}"
            )
        weights, bias, constant = self.bits(torch.float64)
        listing = Listing(matrix(self.units, self.edges, weights), self.listed.to(bias.device))
        return float(listing.log_sum(bias[None])[0] + constant)

    @torch.no_grad()
    def annealed_log_partition(
        self, *, chains: int = 200, temperatures: int = 4000, seed: int = 0, burn_in: int = 500
    ) -> dict[str, float]:
        """log Z by AIS over all units along exp(-(1 - beta) E_0 - beta E / T), E_0 that of independent units at the running
        means, and backwards from chains of `burn_in` sweeps."""
        sampler, device = self.sampler(), self.bias.device
        base = torch.logit(self.mean.clamp(0.01, 0.99))
        tilt = sampler.placed(base)
        source = generator(seed, "ais", device=device)
        draw = draw_into_buffer(source, self.units, chains, self.bias.dtype)
        start = torch.sigmoid(base).expand(chains, -1)

        def along(betas: Tensor, sweeps: int) -> Tensor:
            noise = RowNoise(stream(seed, "ais start", sweeps), chains, device=device, dtype=self.bias.dtype)
            state = sampler.enter(noise.bernoulli(start))
            for _ in range(sweeps):
                sampler.sweep(state, draw)

            def move(rows: Tensor, a: float, b: float, last: bool) -> tuple[Tensor, Tensor]:
                gain = (a - b) * (sampler.energy(state) + (state.z * tilt).sum(0))
                if not last:
                    sampler.sweep(state, draw, b, tilt=(1 - b) * tilt)
                return gain, rows

            return anneal(state.z.t(), betas, move)

        betas = ladder(temperatures)
        forward = along(betas, 0)
        backward = along(betas.flip(0), burn_in)
        log_base = float(F.softplus(base.double()).sum() + self.bits()[2])
        return sandwich(log_base, forward, backward)


def _others(n: int, groups: list[Tensor]) -> Tensor:
    """The units outside of the largest of these groups."""
    largest = max(groups, key=len)
    keep = torch.ones(n, dtype=torch.bool)
    keep[largest] = False
    return torch.nonzero(keep).flatten()
