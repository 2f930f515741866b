"""Chains at many temperatures: simulated annealing (Kirkpatrick, Gelatt & Vecchi 1983) and parallel tempering (Swendsen &
Wang 1986; Geyer 1991), over any `Gibbs` sampler. Pure functions of chains; all energies are those of the sampler's bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reverie.inference.gibbs import Draw, Gibbs, State

Schedule = Literal["linear", "geometric"]


def temperatures(kind: Schedule, hot: float, cold: float, count: int) -> Tensor:
    """`count` temperatures from `hot` to `cold`, both included, in equal steps or in equal ratios, (count,) float64."""
    if kind == "linear":
        return torch.linspace(hot, cold, count, dtype=torch.float64)
    return torch.logspace(0, 1, count, base=cold / hot, dtype=torch.float64) * hot


def anneal(sampler: Gibbs, state: State, betas: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """One sweep at every inverse temperature, in order; the lowest energy that each chain met, (chains,), and the bits
    it had there, (chains, n)."""
    best = sampler.energy(state)
    bits = state.z.clone()
    for beta in betas.tolist():
        sampler.sweep(state, draw, beta)
        energy = sampler.energy(state)
        lower = energy < best
        best = torch.where(lower, energy, best)
        bits = torch.where(lower, state.z, bits)
    return best, sampler.leave(State(bits))


@dataclass
class Replicas:
    """Parallel tempering under way: K temperatures, R ladders of them, so K R chains.

    `at` (K, R) is the chain that holds temperature k in ladder r: a swap exchanges two of its entries and moves no state.
    `tried` and `swapped` (K - 1,) count swaps between neighbours; `trips` (R,) how often a chain has gone from the
    hottest temperature (k = 0) to the coldest and back."""

    state: State
    energy: Tensor
    at: Tensor
    tried: Tensor
    swapped: Tensor
    trips: Tensor

    @property
    def swap_rates(self) -> Tensor:
        """The share of swaps accepted between neighbouring temperatures, (K - 1,)."""
        return self.swapped / self.tried.clamp_min(1)


def temper(
    sampler: Gibbs, state: State, betas: Tensor, sweeps: int, draw: Draw, source: torch.Generator
) -> Iterator[Replicas]:
    """`sweeps` rounds of a Gibbs sweep at every temperature and swaps between neighbours, even and odd pairs in turn:
    accepted with probability min(1, exp((beta_k - beta_l)(E_k - E_l))), which keeps the joint distribution.

    `betas` (K,) from hot to cold; `state` has K R chains, of which `at` starts as 0 .. K R - 1 row by row. The same
    `Replicas`, updated, comes back after every round.
    """
    levels, chains = len(betas), state.z.shape[1]
    ladders = chains // levels
    device = state.z.device
    betas = betas.to(device)
    at = torch.arange(chains, device=device).view(levels, ladders)
    beta = betas.repeat_interleave(ladders).to(state.z.dtype)
    counts = torch.zeros(levels - 1, dtype=torch.float64, device=device)
    found = Replicas(state, sampler.energy(state), at, counts, counts.clone(), torch.zeros(ladders, device=device))
    heading = torch.zeros(
        chains, dtype=torch.long, device=device
    )  # 0 unknown, 1 has left the hot end, 2 the cold end after it
    for sweep in range(sweeps):
        sampler.sweep(state, draw, beta)
        found.energy = energy = sampler.energy(state).double()
        first = torch.arange(sweep % 2, levels - 1, 2, device=device)
        if len(first):
            low, high = at[first], at[first + 1]
            gain = (betas[first] - betas[first + 1])[:, None] * (energy[low] - energy[high])
            uniform = torch.rand(gain.shape, generator=source, dtype=torch.float64, device=device)
            accept = uniform.log() < gain
            at[first], at[first + 1] = torch.where(accept, high, low), torch.where(accept, low, high)
            found.tried[first] += ladders
            found.swapped[first] += accept.sum(1).double()
            beta[at.flatten()] = betas.repeat_interleave(ladders).to(beta.dtype)
        hot, cold = at[0], at[-1]
        found.trips += (heading[hot] == 2).to(found.trips.dtype)
        heading[hot] = 1
        heading[cold] = torch.where(heading[cold] >= 1, 2, heading[cold])
        yield found


@dataclass(frozen=True)
class Tempered:
    """What a run of parallel tempering found: the bits (n,) of the lowest energy met; of the second half of the rounds the
    mean energies (K,), swap rates (K - 1,) and mean round trips of a ladder; the coldest chains' bits at the end (R, n)."""

    best: Tensor
    mean_energies: Tensor
    swap_rates: Tensor
    round_trips: float
    coldest: Tensor


def tempered(sampler: Gibbs, state: State, betas: Tensor, sweeps: int, draw: Draw, source: torch.Generator) -> Tempered:
    """`temper` from beginning to end."""
    best, lowest, half = state.z[:, 0].clone(), float(sampler.energy(state)[0]), sweeps // 2
    total = torch.zeros(len(betas), dtype=torch.float64)
    for sweep, now in enumerate(temper(sampler, state, betas, sweeps, draw, source)):
        if sweep == half:
            for counts in (now.tried, now.swapped, now.trips):
                counts.zero_()
        if sweep >= half:
            total += now.energy[now.at].mean(1).cpu()
        chain = int(now.energy.argmin())
        if float(now.energy[chain]) < lowest:
            lowest, best = float(now.energy[chain]), now.state.z[:, chain].clone()
    return Tempered(
        sampler.leave(State(best[:, None]))[0],
        total / (sweeps - half),
        now.swap_rates,
        float(now.trips.mean()),
        sampler.leave(now.state)[now.at[-1]],
    )
