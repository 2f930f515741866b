"""A memory that keeps its patterns x_1 ... x_P as they are (Krotov & Hopfield 2016; Ramsauer et al. 2021): with
beta = 1 / T,

E(x) = -T log sum_i w_i exp(beta similarity(x, x_i)) (+ |x|^2 / 2 for "attention"),   p(x) = exp(-E(x) / T) / Z.

    similarity    "dense": -|x - x_i|^2 / 2        "attention": x . x_i  (Ramsauer et al. 2021, eq. 1, up to a constant)

Either way p is a mixture of normals N(x_i, T I): with the rows' weights w_i, the kernel density of the patterns; for
"attention" with w_i exp(beta |x_i|^2 / 2), so that a long pattern outweighs a short one. One step of retrieval,
x <- sum_i softmax_i(beta similarity) x_i, is a gradient step of size 1 down E, and a step of EM towards a mode of p: E
never rises. Marginals and conditionals are those of a mixture, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.data.space import Space
from reverie.errors import InvalidOption
from reverie.inference.pieces import piece_rows, slices
from reverie.probability.exponential_family import LOG_2PI
from reverie.probability.machines.couplings import Trace, Update
from reverie.rng import Noise

Similarity = Literal["dense", "attention"]

_SETTLED = 1e-6
"""Recall has converged when no column, in model units, moves by more."""
_LOWEST = 1e-8
"""Bound of T from below: rows that all have a twin say nothing of a width."""
_QUERIES = 1000
_PAIRS = 2**24


def likeliest_temperature(patterns: Tensor, weight: Tensor) -> float:
    """The T under which the kernel density of the other patterns gives each pattern the highest density: maximum
    likelihood with one left out (Duin 1976), by EM: T <- mean over rows of sum_j r_j |x - x_j|^2 / d with r_j the
    posterior of the others. Of many patterns at most 1,000, evenly spaced, are left out in turn. 1 with a single one."""
    count, width = patterns.shape
    if count < 2:
        return 1.0
    chosen = torch.linspace(0, count - 1, max(1, min(count, _QUERIES, _PAIRS // count)), device=patterns.device).long()
    squared = _squared_distances(patterns[chosen], patterns)
    squared[torch.arange(len(chosen)), chosen] = math.inf
    own, log_weight = weight[chosen], weight.log()
    T = max(float(own @ squared.min(1).values / own.sum()) / width, _LOWEST)
    for _ in range(200):
        share = torch.softmax(log_weight - squared / (2 * T), 1)
        spread = (share * squared.masked_fill(share == 0, 0)).sum(1)
        before, T = T, max(float(own @ spread / own.sum()) / width, _LOWEST)
        if abs(T - before) <= 1e-6 * before:
            break
    return T


def _squared_distances(x: Tensor, patterns: Tensor, observed: Tensor | None = None) -> Tensor:
    """|x - x_i|^2 over observed columns, (n, P)."""
    if observed is None:
        squares = x.square().sum(1, keepdim=True) + patterns.square().sum(1)
        return squares.addmm_(x, patterns.t(), alpha=-2).clamp_min_(0)
    seen = observed.to(x.dtype)
    known = x * seen
    squares = known.square().sum(1, keepdim=True) + seen @ patterns.square().t()
    return squares.addmm_(known, patterns.t(), alpha=-2).clamp_min_(0)


class Patterns(nn.Module):
    """`patterns` (P, d) and how strongly each counts, `weight` (P,), both growing with what is stored; `T` (), from the
    data unless `temperature` is given; `stored` rows of finished passes."""

    likelihood = "exact"
    grows = frozenset({"patterns", "weight"})
    """The tensors whose length is that of the data."""
    exact = 1e-3
    """Two states are the same up to this, in model units."""
    patterns: Tensor
    weight: Tensor
    T: Tensor
    stored: Tensor

    def __init__(self, width: int, similarity: Similarity, temperature: float | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.similarity, self.temperature = similarity, temperature
        self.register_buffer("patterns", torch.zeros(0, width, dtype=dtype))
        self.register_buffer("weight", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("T", torch.tensor(temperature or 1.0, dtype=torch.float64))
        self.register_buffer("stored", torch.zeros((), dtype=torch.int64))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        """Room for as many patterns as the state has."""
        for name in self.grows:
            if prefix + name in state:
                setattr(self, name, getattr(self, name).new_empty(state[prefix + name].shape))
        super()._load_from_state_dict(state, prefix, *rest)

    # ------------------------------------------------------------------ storing

    def store(self, rows: Tensor, weight: Tensor | None) -> None:
        """Keep rows (n, d)."""
        strength = rows.new_ones(len(rows)) if weight is None else weight
        self.patterns = torch.cat([self.patterns, rows.to(self.patterns.dtype)])
        self.weight = torch.cat([self.weight, strength.to(self.weight.dtype)])

    def settle(self) -> None:
        """The temperature, where it is the data's to say."""
        if self.temperature is None:
            counted = self.weight > 0
            self.T.fill_(likeliest_temperature(self.patterns[counted], self.weight[counted].to(self.patterns.dtype)))
        self.stored.fill_(len(self.patterns))

    # ------------------------------------------------------------------ dynamics

    @property
    def log_weight(self) -> Tensor:
        """log of the weights of the mixture, not normalised, (P,)."""
        own = self.weight.log().to(self.patterns.dtype)
        return own if self.similarity == "dense" else own + self.patterns.square().sum(1) / (2 * self.T)

    def scores(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log w_i - |x - x_i|^2 / (2 T) over observed columns, (n, P): log p(pattern i, x), up to a constant. For
        "attention" that is beta x . x_i less what all i share, and hidden columns count through |x_i|^2 alone."""
        return _squared_distances(x, self.patterns, observed).mul_(-0.5 / float(self.T)).add_(self.log_weight)

    def retrieve(self, x: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(sum_i softmax_i(scores) x_i, E(x) / T) of every row, (n, d) and (n,)."""
        scores = self.scores(x, observed)
        return torch.softmax(scores, 1) @ self.patterns, -torch.logsumexp(scores, 1)

    def _pieces(self, rows: int) -> list[slice]:
        return slices(rows, piece_rows(len(self.patterns)))

    # ------------------------------------------------------------------ capabilities

    def limits(self, space: Space) -> dict[str, str]:
        """Everything before the first pass has ended."""
        verbs = () if int(self.stored) else ("sample", "log_prob", "energy", "impute")
        return dict.fromkeys(verbs, "nothing is stored yet; fit it for a pass")

    def energy(self, x: Tensor) -> Tensor:
        """E(x) / T = -logsumexp(scores), (n,): p(x) = exp(-energy) / Z."""
        return torch.cat([-torch.logsumexp(self.scores(x[part]), 1) for part in self._pieces(len(x))])

    def log_partition(self) -> float:
        """log Z = log sum_i w_i + (d / 2) log(2 pi T), with the mixture's weights."""
        return float(torch.logsumexp(self.log_weight, 0) + 0.5 * self.patterns.shape[1] * (LOG_2PI + self.T.log()))

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """-E(x) / T - log Z, (n,) nats."""
        return -self.energy(x) - self.log_partition()

    def _draw(self, noise: Noise, log_shares: Callable[[slice], Tensor]) -> Tensor:
        """x_i + sqrt(T) normal, (n, d), with i drawn by exp(log_shares), which gives (rows or 1, P) for a piece of rows."""
        u, z = noise.uniform(1), noise.normal(self.patterns.shape[1])
        chosen = torch.cat([_chosen(log_shares(part), u[part]) for part in self._pieces(noise.rows)])
        return self.patterns[chosen] + self.T.sqrt().to(self.patterns.dtype) * z.to(self.patterns.dtype)

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        """Exact draws: a pattern, by the weights, and normal noise of variance T about it, (n, d)."""
        shares = self.log_weight[None]
        return self._draw(noise, lambda part: shares)

    def conditional(self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool) -> Tensor:
        """The missing columns given the observed ones under p, exactly: their mean, or a draw."""
        if mean:
            parts = [self.retrieve(x[part], observed[part])[0] for part in self._pieces(len(x))]
            return torch.where(observed, x, torch.cat(parts))
        return torch.where(observed, x, self._draw(noise, lambda part: self.scores(x[part], observed[part])))

    def recall(self, x: Tensor, observed: Tensor | None, *, sweeps: int, update: Update | None, seed: int) -> Trace:
        """Down the energy from x (n, d) by `sweeps` steps of retrieval at most; columns that are not `observed` start at
        their conditional mean, and the observed ones stay."""
        if update is not None:
            raise InvalidOption("update: a memory of whole patterns moves all columns at once; leave update out")
        found = [
            self._recall(x[part], None if observed is None else observed[part], sweeps) for part in self._pieces(len(x))
        ]
        length = max(len(energies) for _, energies, _ in found)
        traces = [torch.stack([*energies, *energies[-1:] * (length - len(energies))], 1) for _, energies, _ in found]
        return Trace(torch.cat([part[0] for part in found]), torch.cat(traces), torch.cat([part[2] for part in found]))

    def _recall(self, x: Tensor, observed: Tensor | None, sweeps: int) -> tuple[Tensor, list[Tensor], Tensor]:
        x = x.clone()
        if observed is not None:
            x = torch.where(observed, x, self.retrieve(x, observed)[0])
            observed = observed & ~observed.all(1, keepdim=True)  # what is seen in full may change in full
        energies: list[Tensor] = []
        active = torch.arange(len(x), device=x.device)
        for _ in range(sweeps):
            own = x[active]
            new, energy = self.retrieve(own)
            _note(energies, active, energy)
            new = new if observed is None else torch.where(observed[active], own, new)
            x[active] = new
            active = active[(new - own).abs().amax(1) > _SETTLED]
            if len(active) == 0:
                break
        settled = torch.ones(len(x), dtype=torch.bool, device=x.device)
        settled[active] = False
        _note(energies, torch.arange(len(x), device=x.device), self.energy(x))
        return x, energies, settled

    def fixed(self, x: Tensor) -> Tensor:
        """Whether a step of retrieval leaves rows (n, d) where they are, (n,)."""
        moved = torch.cat([self.retrieve(x[part])[0] for part in self._pieces(len(x))])
        return (moved - x).abs().amax(1) <= self.exact

    def overlap(self, x: Tensor, other: Tensor) -> Tensor:
        """The cosine between rows, (n,)."""
        return torch.cosine_similarity(x, other, 1)

    def damage(self, x: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of which the columns `hit` are not seen."""
        return x, ~hit


def _chosen(log_shares: Tensor, u: Tensor) -> Tensor:
    """Numbers drawn by exp(log_shares) (n or 1, P) with uniforms u (n, 1), by inverting the cumulative sum, (n,)."""
    cumulative = torch.softmax(log_shares, 1).cumsum(1)
    u = u.to(cumulative.dtype) * cumulative[:, -1:]
    if len(cumulative) == 1:
        found = torch.searchsorted(cumulative[0], u[:, 0], right=True)
    else:
        found = torch.searchsorted(cumulative, u, right=True)[:, 0]
    return found.clamp_max(log_shares.shape[1] - 1)


def _note(energies: list[Tensor], rows: Tensor, values: Tensor) -> None:
    """Append the last energies with those of some rows replaced."""
    energies.append(values.clone() if not energies else energies[-1].index_copy(0, rows, values))
