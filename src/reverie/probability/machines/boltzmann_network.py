"""A Boltzmann machine as a network: what a Model asks of it, by Gibbs sampling over its graph."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.config import check_count, check_positive
from reverie.data.space import Space
from reverie.errors import InvalidOption
from reverie.inference.gibbs import draw_from
from reverie.probability.machines.boltzmann import Boltzmann
from reverie.rng import Noise


class BoltzmannNetwork(Boltzmann):
    """The machine and what a Model asks of it."""

    mean_chains = 10
    """Chains whose conditional means `impute` averages: one stays in the valley that it fell into."""

    pictures = False

    @property
    def likelihood(self) -> str:
        """Exact when hidden states and all states can be listed; a bound when only the latter."""
        if not self.listable:
            return "estimate"
        return "exact" if self.sums_hidden else "lower bound"

    def limits(self, space: Space) -> dict[str, str]:
        """Without hidden units there is nothing to encode."""
        return {} if self.hidden else {"encode": "it has no hidden units"}

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """-F(v) - log Z, (n,) nats."""
        return -self.energy(x) - self.log_partition()

    def energy(self, x: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h) / T) in float64, (n,); from above where the sum is by mean-field."""
        return self.free_energy(x.double())

    def sample(
        self,
        noise: Noise,
        y: Tensor | None,
        *,
        sweeps: int = 500,
        annealed: float = 0.5,
        temperature: float | None = None,
        mean: bool | None = None,
    ) -> Tensor:
        """Chains from independent units after `sweeps` of Gibbs sampling of exp(-E / temperature), the machine's own
        unless given; over the share `annealed` of the sweeps 1 / temperature rises from 0. With mean=True the visible
        units' probabilities given all others at the end instead of a draw; default: so for images."""
        check_count(sweeps, "sweeps")
        if temperature is not None:
            check_positive(temperature, "temperature")
        if isinstance(annealed, bool) or not isinstance(annealed, int | float) or not 0 <= annealed <= 1:
            raise InvalidOption(f"annealed: expected a number from 0 to 1, got {annealed!r}")
        last = 1.0 if temperature is None else self.temperature / temperature
        rising = int(annealed * sweeps)
        sampler, draw = self.sampler(), draw_from(noise, self.units)
        state = sampler.enter(self.fantasy(noise))
        for sweep in range(sweeps):
            sampler.sweep(state, draw, last * min(1.0, (sweep + 1) / (rising + 1)))
        if self.pictures if mean is None else mean:
            return sampler.chance(state, last)[sampler.plan.place].t()[:, : self.visible].contiguous()
        return sampler.leave(state)[:, : self.visible]

    def encode(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """E[h | v] in the units' own values, (n, hidden): exactly where hidden states can be listed, else by mean-field."""
        return self.values(self.hidden_means(x, "exact" if self.sums_hidden else "mean_field"))

    def conditional(
        self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 100
    ) -> Tensor:
        """Clamped Gibbs sampling of what is missing; `mean` averages its probabilities over the second half."""
        sampler, draw, start = self.sampler(), draw_from(noise, self.units), self.fantasy(noise)
        known = torch.cat([observed, observed.new_zeros(len(x), self.hidden)], 1)
        start[:, : self.visible] = torch.where(observed, x, start[:, : self.visible])
        state, held = sampler.enter(start), sampler.placed(known)
        total = torch.zeros_like(state.z)
        for sweep in range(sweeps):
            sampler.sweep(state, draw, held=held)
            if mean and sweep >= sweeps // 2:
                total += sampler.chance(state)
        if not mean:
            return sampler.leave(state)[:, : self.visible]
        guess = (total / (sweeps - sweeps // 2))[sampler.plan.place].t()[:, : self.visible]
        return torch.where(observed, x, guess)
