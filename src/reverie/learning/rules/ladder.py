"""Parallel tempering of the chains that a machine learns from (Desjardins et al. 2010; Cho, Raiko & Ilin 2010).

Copy k of a chain is one of exp(-(1 - beta_k) E_0 - beta_k E), E_0 the energy of independent units at the base fields, from
beta = 0 (fresh independent units at every step) to the machine itself at beta = 1. Neighbours exchange their states with
probability min(1, exp((beta_k - beta_l)(D_l - D_k))), D = E_0 - E: what the hot copies find travels to the cold one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.learning.phases import State
from reverie.probability.machines.bipartite import Bipartite
from reverie.rng import Folded, Noise

_RATE = 0.02
"""Rate at which rejection rates are followed."""
_EVERY = 50
"""Rounds between two placings of the temperatures."""


class Ladder:
    """`copies` of every chain, rows chain by chain and in each from hot to cold; one copy is the plain chain.

    Temperatures are placed so that all neighbours reject alike, which brings states from end to end the soonest (Syed et
    al. 2021, section 5.1): beta is a function of the summed rejection rates, read off at equal steps.
    """

    def __init__(self, copies: int, device: torch.device) -> None:
        self.copies = copies
        self._betas = torch.linspace(0, 1, copies, dtype=torch.float64, device=device) if copies > 1 else torch.ones(1)
        self._rejected = torch.full((copies - 1,), 0.5, dtype=torch.float64, device=device)
        self._round = 0

    @property
    def lowest_rate(self) -> float:
        """The lowest share of accepted exchanges among neighbours; 1 where there are none."""
        return 1 - float(self._rejected.max()) if self.copies > 1 else 1.0

    def noise(self, noise: Noise) -> Noise:
        """Noise for all copies from noise for the chains."""
        return noise if self.copies == 1 else Folded(noise, self.copies)

    def even(self, machine: Bipartite, odd: Tensor, noise: Noise) -> Tensor:
        """e ~ p(e | o) of every copy, (chains x copies, even width)."""
        return machine.even.sample(self._scaled(machine.even_field(odd), machine.even_base), noise)

    def odd(self, machine: Bipartite, field: Tensor, noise: Noise) -> Tensor:
        """o ~ p(o | e) of every copy from the machine's fields, (chains x copies, odd width)."""
        return machine.odd.sample(self._scaled(field, machine.odd_base), noise)

    def _scaled(self, field: Tensor, base: Tensor) -> Tensor:
        """(1 - beta) base + beta field."""
        if self.copies == 1:
            return field
        beta = self._betas.to(field.dtype).repeat(len(field) // self.copies)[:, None]
        return torch.lerp(base.to(field.dtype).expand_as(field), field, beta)

    def exchange(
        self,
        machine: Bipartite,
        even: Tensor,
        odd: Tensor,
        field: Tensor,
        noise: Noise,
        total: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """One round of exchanges between neighbours, even and odd pairs in turn: the rows in their new order. `noise` is for
        the chains, `field` that of the odd units; `total` sums over processes."""
        chains, copies = len(even) // self.copies, self.copies
        gain = even @ (machine.even_bias - machine.even_base).to(even.dtype)
        gain = (gain + (odd * (field - machine.odd_base)).sum(1)).view(chains, copies).double()
        first = torch.arange(self._round % 2, copies - 1, 2, device=even.device)
        order = torch.arange(copies, device=even.device).repeat(chains, 1)
        if len(first):
            odds = (self._betas[first] - self._betas[first + 1]) * (gain[:, first + 1] - gain[:, first])
            accepted = noise.uniform(len(first)).double().log() < odds
            order[:, first] = torch.where(accepted, first + 1, first)
            order[:, first + 1] = torch.where(accepted, first, first + 1)
            # the expected rejections, less noisy than the counted ones
            refused = total(torch.stack([(1 - odds.clamp(max=0).exp()).sum(0), odds.new_full((len(first),), chains)]))
            self._rejected[first] = torch.lerp(self._rejected[first], refused[0] / refused[1], _RATE)
        self._round += 1
        if self._round % _EVERY == 0:
            self._place()
        return (order + copies * torch.arange(chains, device=even.device)[:, None]).flatten()

    def cold(self, rows: Tensor) -> Tensor:
        """The rows of the machine itself."""
        return rows if self.copies == 1 else rows[self.copies - 1 :: self.copies]

    def _place(self) -> None:
        """Temperatures at equal steps of the summed rejection rates; rates between them likewise."""
        rates = self._rejected.clamp_min(1e-3)
        barrier = torch.cat([rates.new_zeros(1), rates.cumsum(0)])
        wanted = torch.linspace(0, float(barrier[-1]), self.copies, dtype=rates.dtype, device=rates.device)
        right = torch.searchsorted(barrier, wanted).clamp(1, self.copies - 1)
        part = (wanted - barrier[right - 1]) / rates[right - 1]
        placed = torch.lerp(self._betas[right - 1], self._betas[right], part)
        placed[0], placed[-1] = 0.0, 1.0
        self._betas = placed
        self._rejected = torch.full_like(rates, float(barrier[-1]) / (self.copies - 1))

    def state(self) -> State:
        return {"betas": self._betas, "rejected": self._rejected, "round": self._round}

    def load_state(self, state: State) -> None:
        self._betas = state["betas"].to(self._betas)
        self._rejected = state["rejected"].to(self._rejected)
        self._round = int(state["round"])
