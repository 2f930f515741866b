"""Hidden Markov chains over any set of components: the network that the family `hmm` learns.

p(x, z) = pi(z_1) prod_t A(z_{t-1}, z_t) p(x_t | z_t); recursions are in `inference.message_passing`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reverie.data.space import Batch, Ragged, Space
from reverie.errors import DataError
from reverie.inference import message_passing as mp
from reverie.inference.compiled import available
from reverie.inference.kmeans import kmeans
from reverie.inference.layout import Layout
from reverie.probability.exponential_family import EMPTY, Components, Sums
from reverie.probability.features import SharedFeatures
from reverie.probability.latent.shares import Share, expect, shares
from reverie.probability.step_noise import StepNoise
from reverie.rng import Noise, generator

_START_STEPS = 20_000
_TRIALS = 5
_LENGTHS = 256
_KEEP_NUMBERS = 2**24
"""Numbers of features kept between passes: 128 MB in float64."""
_SELF = 3.0
"""How many times likelier than each move it is to stay, before any data are seen."""


class Chain(nn.Module):
    """Initial probabilities (K,), transitions (K, K) with rows summing to 1, and K emissions, as buffers.

    x is a `Ragged` of N steps in n sequences; observed (N, width) or None; y (N, classes) one-hot per step, zero where
    unknown, or None.
    """

    initial: Tensor
    transition: Tensor
    allowed: Tensor
    lengths: Tensor
    compiled: Tensor
    likelihood = "exact"
    marginalises = True

    def __init__(
        self,
        emission: Components,
        allowed: Tensor,
        dtype: torch.dtype,
        *,
        classes: int = 0,
        prior: float,
        sticky: float,
        first_only: bool = False,
        symbols: tuple[int, ...] = (),
        restarts: int = 1,
    ) -> None:
        super().__init__()
        states = emission.size
        self.emission, self.dtype, self.classes, self.symbols = emission, dtype, classes, symbols
        self.prior, self.sticky, self.restarts = prior, sticky, restarts
        self.code_width = states
        start = torch.zeros(states, dtype=torch.float64)
        start[0] = 1.0
        self.register_buffer("initial", start if first_only else torch.full_like(start, 1 / states))
        moves = allowed.double() + (_SELF - 1) * torch.diag(allowed.diagonal().double())
        self.register_buffer("transition", moves / moves.sum(1, keepdim=True))
        self.register_buffer("allowed", allowed, persistent=False)
        self.register_buffer("lengths", torch.ones(_LENGTHS, dtype=torch.long))
        # Part of what is saved, so that a resumed run keeps to the arithmetic it began with where that is still there.
        self.register_buffer("compiled", torch.tensor(available()))
        self.first_only = first_only
        self._layouts: dict[tuple[Hashable, ...] | None, Layout] = {}
        self._kept: dict[tuple[Hashable, ...], list[Share]] = {}

    def limits(self, space: Space) -> dict[str, str]:
        if self.classes:
            return {}
        reason = "trained without labels per step, its states have no names (encode gives their probabilities)"
        return {"predict": reason, "predict_proba": reason}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A chain saved before there was a choice was learned without compiled passes."""
        state_dict.setdefault(f"{prefix}compiled", torch.tensor(False))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # ------------------------------------------------------------------ densities

    def layout(self, x: Ragged, key: tuple[Hashable, ...] | None = None) -> Layout:
        """How x's sequences lie side by side; kept with its memory for batches that come again under a key."""
        if key not in self._layouts:
            found = Layout(x.lengths, self.emission.size, device=str(x.device), compiled=bool(self.compiled))
            if key is None:
                return found
            self._layouts[key] = found
        return self._layouts[key]

    def log_emission(self, x: Ragged, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """log p(x_t | z_t = k) of every step, -inf for states that a label rules out, (N, K)."""
        log_b = self.emission.log_prob(x.values, observed)
        return log_b if y is None else log_b.add_(self._given(y))

    def _given(self, y: Tensor) -> Tensor:
        """Labels -> (N, K): 0 for the state named, -inf for the others, all 0 where unknown."""
        known = y.sum(1, keepdim=True) > 0
        wide = nn.functional.pad(y.double().log(), (0, self.emission.size - y.shape[1]), value=-torch.inf)
        return torch.where(known, wide, 0.0)

    def log_prob(self, x: Ragged, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """log p(x_observed), or log p(x_observed | y) = log p(x, y) - log p(y) with labels, (n,)."""
        layout = self.layout(x)
        joint = mp.filter_forward(self.log_emission(x, observed, y), layout, self.initial, self.transition).log_prob
        if y is None:
            return joint
        return joint - mp.filter_forward(self._given(y), layout, self.initial, self.transition).log_prob

    def encode(self, x: Ragged, observed: Tensor | None, y: Tensor | None) -> Tensor:
        """p(z_t = k | x), (N, K)."""
        log_b = self.log_emission(x, observed, y)
        return mp.posteriors(log_b, self.layout(x), self.initial, self.transition).gamma.clone()

    def classify(self, x: Ragged, observed: Tensor | None) -> Tensor:
        """log p(y_t | x) of every step over the classes, (N, classes)."""
        named = self.encode(x, observed, None)[:, : self.classes].double()
        return (named / named.sum(1, keepdim=True).clamp_min(1e-300)).log()

    # ------------------------------------------------------------------ learning

    def statistics(self, batch: Batch) -> Sums:
        """The E-step (Rabiner 1989, eqs. 27-40): expected first states and moves, and the emissions' sums."""
        x = batch.x
        weight = None if batch.weight is None else batch.weight.double()
        known = None if batch.y is None else batch.y.sum(1) > 0
        steps = x.lengths.double().to(x.device)
        rows = steps.sum() if weight is None else steps @ weight
        if batch.y is not None and known is not None and bool(known.all()):
            gamma, moves, first = self._count(x, batch.y.double(), weight)
            if weight is not None:
                gamma = gamma * torch.repeat_interleave(weight, x.lengths)[:, None]
            sums, log_p = self.emission.sums(x.values, batch.observed, gamma), torch.zeros_like(steps)
        else:
            sums, moves, first, log_p = self._expect(batch, weight)
        hidden = rows if known is None else (~known).sum().double()
        return {
            **sums,
            "chain.moves": moves,
            "chain.first": first,
            "log_likelihood": log_p.sum() if weight is None else log_p @ weight,
            "rows": rows,
            "hidden": hidden,
        }

    def _expect(self, batch: Batch, weight: Tensor | None) -> tuple[Sums, Tensor, Tensor, Tensor]:
        """Sums of the emissions, expected moves and first states, log p(x) per sequence. Where the emissions have
        features and the batch comes again, these are kept in the order of the recursions: nothing is permuted then."""
        x, emission = batch.x, self.emission
        kept = self._shares(batch)
        if kept is not None and isinstance(emission, SharedFeatures):
            return expect(kept, emission, batch.observed is not None, self.initial, self.transition, weight)
        log_b = self.log_emission(x, batch.observed, batch.y)
        found = mp.posteriors(log_b, self.layout(x, batch.key), self.initial, self.transition, weights=weight)
        gamma = found.gamma
        if weight is not None:
            gamma = gamma * torch.repeat_interleave(weight, x.lengths)[:, None]
        sums = emission.sums(x.values, batch.observed, gamma)
        return sums, found.transitions, found.first, found.log_prob

    def _shares(self, batch: Batch) -> list[Share] | None:
        """What is kept of a batch that comes again; None where features do not apply, or there is no room."""
        emission, holes = self.emission, batch.observed is not None
        if batch.key is None or not isinstance(emission, SharedFeatures):
            return None
        if not emission.complete(holes) or not emission.safe(batch.x.dtype):
            return None
        if batch.key not in self._kept:
            held = sum(share.features.numel() for kept in self._kept.values() for share in kept)
            if held + emission.feature_count(holes) * len(batch.x.values) > _KEEP_NUMBERS:
                return None
            given = None if batch.y is None else self._given(batch.y)
            self._kept[batch.key] = shares(batch, emission, given, compiled=bool(self.compiled))
        return self._kept[batch.key]

    def train(self, mode: bool = True) -> Chain:
        """What is kept for the next pass goes when training is over."""
        if not mode:
            self._kept.clear()
            self._layouts.clear()
        return super().train(mode)

    def _count(self, x: Ragged, y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Nothing hidden: states, moves and first states are counted."""
        gamma = nn.functional.pad(y, (0, self.emission.size - y.shape[1]))
        row, place = (part.to(x.device) for part in x.places)
        importance = torch.ones(len(x), dtype=torch.float64, device=x.device) if weight is None else weight
        later = torch.nonzero(place > 0)[:, 0]
        moves = (gamma[later - 1] * importance[row[later], None]).t() @ gamma[later]
        heads = torch.nonzero(place == 0)[:, 0]
        return gamma, moves, (gamma[heads] * importance[row[heads], None]).sum(0)

    def rows(self, batch: Batch) -> float:
        """The weight of a batch's steps, which is what the sums count."""
        steps = batch.x.lengths.double()
        return float(steps.sum() if batch.weight is None else steps @ batch.weight.double().to(steps.device))

    def log_likelihood(self, batch: Batch) -> Tensor:
        """log p(x_observed, y_known) of every sequence, (n,)."""
        log_b = self.log_emission(batch.x, batch.observed, batch.y)
        return mp.filter_forward(log_b, self.layout(batch.x), self.initial, self.transition).log_prob

    def maximise(self, sums: Sums) -> Callable[[Sums], Sums]:
        """The M-step. Returns the function that re-reads older sums from the new parameters."""
        pseudo = self.allowed * (self.prior + self.sticky * torch.eye(len(self.allowed), device=self.allowed.device))
        moves = (sums["chain.moves"] + pseudo) * self.allowed
        total = moves.sum(1, keepdim=True)
        # A state that was never left keeps its row: 0 / 0 says nothing.
        self.transition.copy_(torch.where(total > EMPTY, moves / total.clamp_min(1e-300), self.transition))
        if not self.first_only:
            first = sums["chain.first"] + self.prior
            self.initial.copy_(first / first.sum())
        own = {"chain.moves", "chain.first", "log_likelihood", "rows", "hidden"}
        move = self.emission.maximise({name: value for name, value in sums.items() if name not in own})

        def moved(older: Sums) -> Sums:
            return {**older, **move({name: value for name, value in older.items() if name not in own})}

        return moved

    def implied(self, rows: float) -> Sums:
        """Sums of `rows` steps that would give the present parameters back."""
        share = self._stationary() * rows
        first = self.initial * (rows / self.lengths.double().mean())
        moves = share[:, None] * self.transition
        return {**self.emission.implied(share), "chain.moves": moves, "chain.first": first}

    def _stationary(self) -> Tensor:
        """Share of the steps that each state has in the long run, from the start."""
        state, total = self.initial, torch.zeros_like(self.initial)
        steps = int(self.lengths.double().mean().clamp(1, 1000))
        for _ in range(steps):
            total = total + state
            state = state @ self.transition
        return total / steps

    def free_parameters(self) -> int:
        """Numbers that learning sets."""
        states = self.emission.size
        first = 0 if self.first_only else states - 1
        return self.emission.free_parameters() + int(self.allowed.sum()) - states + first

    def log_prior(self) -> Tensor:
        """Log density of the priors at the current parameters, up to a constant."""
        logs = self.transition.clamp_min(1e-300).log() * self.allowed
        first = self.prior * self.initial.clamp_min(1e-300).log().sum() if not self.first_only else 0.0
        return self.prior * logs.sum() + self.sticky * logs.diagonal().sum() + first + self.emission.log_prior()

    def start(self, batches: Callable[[], Iterable[Batch]], seed: int) -> None:
        """Emissions from k-means over about 20,000 steps (from a random split of the symbols where there are some, from
        the place in the sequence for left-to-right chains), moves from the steps so labelled; with several restarts the
        one that is likeliest after a few passes over those sequences."""
        x, observed, y, lengths = _spread_sequences(batches, _START_STEPS)
        self.lengths.copy_(torch.quantile(lengths.double(), torch.linspace(0, 1, _LENGTHS).double()).round().long())
        self.emission.begin(x.values.double(), observed)
        if self.classes == self.emission.size and y is not None and bool((y.sum(1) > 0).all()):
            return
        if x.values.shape[0] < self.emission.size:
            raise DataError(f"states={self.emission.size}: there are only {x.values.shape[0]} steps; ask for fewer")
        batch = Batch(x=x.to(self.dtype), observed=observed, y=y, rows=len(x))
        best, kept = -torch.inf, None
        blank = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        for attempt in range(self.restarts):
            self.load_state_dict(blank)
            source = generator(seed, "start") if attempt == 0 else generator(seed, "start", attempt)
            r = self._first_guess(x, observed, source)
            if y is not None:
                known = y.sum(1, keepdim=True) > 0
                named = nn.functional.pad(y.double(), (0, self.emission.size - y.shape[1]))
                r = torch.where(known, named, r[:, _matched(named[:, : self.classes].t() @ r)])
            _, moves, first = self._count(x, r, None)
            guess = {"chain.moves": moves + 1.0, "chain.first": first + 1.0}
            # In float64: from parameters as wide as all steps, narrow states' moments would drown in float32's rounding.
            self.maximise({**self.emission.sums(x.values, observed, r), **guess})
            if self.emission.settle():
                self.maximise({**self.emission.sums(x.values, observed, r), **guess})
            if self.restarts == 1:
                return
            for _ in range(_TRIALS):
                self.maximise(self.statistics(batch))
            value = float(self.log_likelihood(batch).sum() + self.log_prior())
            if value > best:
                best, kept = value, {name: tensor.clone() for name, tensor in self.state_dict().items()}
        if kept is not None:
            self.load_state_dict(kept)

    def _first_guess(self, x: Ragged, observed: Tensor | None, source: torch.Generator) -> Tensor:
        """(N, K) shares of the states in every step before anything is learned."""
        states = self.emission.size
        if self.first_only:
            row, place = x.places
            guess = (place * states) // x.lengths[row]
            return nn.functional.one_hot(guess.to(x.device), states).double()
        r = torch.full((x.values.shape[0], states), 1 / states, dtype=torch.float64, device=x.device)
        for column in self.symbols:
            codes = x.values[:, column].long()
            levels = int(codes.max()) + 1
            split = torch.rand(levels, states, generator=source, dtype=torch.float64).to(x.device).pow(3)
            r = r * split[codes]
        numeric = [column for column in range(x.values.shape[1]) if column not in self.symbols]
        if numeric:
            values = x.values[:, numeric].double()
            if observed is not None:
                values = torch.where(observed[:, numeric], values, 0.0)
            labels = torch.cdist(values, kmeans(values, states, source)).argmin(1)
            r = r * (nn.functional.one_hot(labels, states) + 1e-2)
        return r / r.sum(1, keepdim=True)

    # ------------------------------------------------------------------ use

    def draw_labels(self, noise: Noise, lengths: Tensor) -> Tensor:
        """A path of every sequence, as the number of its class, -1 for states without a name, (N,)."""
        path = self._paths(None, lengths, noise)
        return torch.where(path < self.classes, path, -1)

    def _paths(self, y: Tensor | None, lengths: Tensor, noise: Noise) -> Tensor:
        """z ~ p(z | labels known), (N,)."""
        steps = Ragged(torch.zeros(int(lengths.sum()), 0, device=self.initial.device), lengths, self.longest(lengths))
        spread = StepNoise(noise, steps)
        given = torch.zeros(int(lengths.sum()), self.emission.size, dtype=torch.float64, device=self.initial.device)
        if y is not None:
            given = self._given(y)
        uniforms = spread.uniform().double()
        return mp.sample_paths(given, self.layout(steps), self.initial, self.transition, uniforms)

    def longest(self, lengths: Tensor) -> int:
        """Steps that every sequence draws noise for, whatever its own length, so that neighbours do not matter."""
        return max(int(self.lengths.max()), int(lengths.max()) if len(lengths) else 1)

    def sample(self, noise: Noise, y: Tensor | None, *, lengths: Tensor) -> Ragged:
        """z from the chain (given its labels where there are some), then x_t ~ p(x | z_t)."""
        path = self._paths(y, lengths, noise)
        steps = Ragged(path[:, None], lengths, self.longest(lengths))
        return Ragged(self.emission.draw(path, StepNoise(noise, steps)).to(self.dtype), lengths, steps.longest)

    def conditional(self, x: Ragged, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool) -> Ragged:
        """Missing cells given all that was observed before and after: the mean under the smoothed states, or a draw of
        the path and then of the cells."""
        log_b = self.log_emission(x, observed, y)
        layout = self.layout(x)
        if mean:
            gamma = mp.posteriors(log_b, layout, self.initial, self.transition).gamma.double()
            # Columns that are correlated given the state reweigh by what is seen of the step; gamma has that already.
            filled = self.emission.mean_given(x.values, observed, gamma)
        else:
            spread = StepNoise(noise, Ragged(x.values, x.lengths, max(self.longest(x.lengths), x.longest)))
            uniforms = spread.uniform().double()
            path = mp.sample_paths(log_b, layout, self.initial, self.transition, uniforms)
            filled = self.emission.draw_given(x.values, observed, path, spread)
        return x.replaced(torch.where(observed, x.values, filled.to(x.dtype)))


def _matched(overlap: Tensor) -> Tensor:
    """The order of the guessed states (K,) in which class c comes c-th, from how often they meet (classes, K): the
    largest overlaps first, each class and state once."""
    classes, states = overlap.shape
    rest, order = overlap.clone(), [-1] * states
    for _ in range(classes):
        label, state = divmod(int(rest.argmax()), states)
        order[label] = state
        rest[label], rest[:, state] = -1.0, -1.0
    free = [state for state in range(states) if state not in order]
    return torch.tensor([state if state >= 0 else free.pop(0) for state in order], device=overlap.device)


def _spread_sequences(
    batches: Callable[[], Iterable[Batch]], most: int
) -> tuple[Ragged, Tensor | None, Tensor | None, Tensor]:
    """Whole sequences spread evenly over the data with about `most` steps (one at least): x float64, observed, y; and
    the lengths of all sequences."""
    lengths = torch.cat([batch.x.lengths.cpu() for batch in batches()])
    stride = max(1, -(-int(lengths.sum()) // most))
    xs, sizes, seen, ys, offset = [], [], [], [], 0
    for batch in batches():
        chosen = torch.arange((-offset) % stride, len(batch.x), stride)
        offset += len(batch.x)
        if not len(chosen):
            continue
        part, steps = batch.x.rows(chosen), batch.x.steps(chosen)
        xs.append(part.values.double())
        sizes.append(part.lengths)
        seen.append(torch.ones_like(xs[-1], dtype=torch.bool) if batch.observed is None else batch.observed[steps])
        if batch.y is not None:
            ys.append(batch.y[steps])
    observed = torch.cat(seen)
    x = Ragged(torch.cat(xs), torch.cat(sizes))
    return x, None if bool(observed.all()) else observed, torch.cat(ys) if ys else None, lengths
