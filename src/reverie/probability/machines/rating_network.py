"""Users' ratings as one network: the machine of ratings given items, and the machine of the items themselves.

p(items, ratings) = p(items) p(ratings | items), of which `log_prob` is the second factor.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from reverie.config import check_count
from reverie.data.space import Block, Ragged, Space
from reverie.errors import CheckpointError, DataError, InvalidOption
from reverie.probability.machines.choices import ChoiceMachine, draw, draw_apart
from reverie.probability.machines.ratings import RatingMachine, refuse_twice
from reverie.probability.step_noise import StepNoise
from reverie.rng import Noise

_CHAINS = 10
"""Chains behind a best guess: one alone may stay near its start. They cannot be averaged as codes, so they are here, in
place of `mean_chains`."""
_LISTED = 15
"""Hidden units whose states can be listed for every user."""


class RatingNetwork(nn.Module):
    """The machine of ratings given items, and that of items; x is a `Ragged` of steps with both columns."""

    likelihood = "exact"

    def __init__(
        self, ratings: RatingMachine, choice: ChoiceMachine | None, item: Block, rating: Block, space: Space
    ) -> None:
        super().__init__()
        self.ratings, self.choice = ratings, choice
        self.item, self.rating, self.width, self.longest = item, rating, space.width, space.longest

    def limits(self, space: Space) -> dict[str, str]:
        """log Z sums over all states of the hidden units."""
        hidden = self.ratings.hidden
        if hidden <= _LISTED:
            return {}
        reason = (
            f"p(ratings | items) is a sum over 2^{hidden} hidden states for every user, and at most 2^{_LISTED} are listed; "
            f"fit with hidden={_LISTED} or fewer, or compare by energy and by rating_rbm.predict_ratings"
        )
        return {"log_prob": reason}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if f"{prefix}ratings.S" in state_dict:
            raise CheckpointError(
                "this rating_rbm was saved before users' offsets were a part of it, and its weights have no place in the "
                "machine as it is now: fit it again"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # ------------------------------------------------------------------ model space and codes

    def coded(self, x: Ragged) -> Ragged:
        """Steps in model space as (item, rating) codes, in the same float type."""
        return x.replaced(torch.stack([x.values[:, self.item.start], self._levels(x.values).to(x.dtype)], 1))

    def _levels(self, values: Tensor) -> Tensor:
        own = values[:, self.rating.start : self.rating.stop]
        return own.argmax(1) if self.rating.kind == "category" else own[:, 0].long()

    def steps(self, x: Ragged) -> Ragged:
        """Inverse of `coded`."""
        item, rating = x.values[:, 0].long(), x.values[:, 1].long()
        out = torch.zeros(len(item), self.width, device=item.device)
        out[:, self.item.start] = item.to(out)
        if self.rating.kind == "category":
            out[torch.arange(len(item), device=item.device), self.rating.start + rating] = 1.0
        else:
            out[:, self.rating.start] = rating.to(out)
        return x.replaced(out)

    def _read(self, x: Ragged) -> tuple[Tensor, Tensor]:
        items, codes = self.ratings.codes(self.coded(x))
        refuse_twice(items, x.lengths)
        return items, codes

    # ------------------------------------------------------------------ verbs

    def energy(self, x: Ragged) -> Tensor:
        """The free energy F(v) of every user's ratings in float64, (n,). p(ratings | items) = exp(-F) / Z(items): it
        compares ratings of the same items."""
        items, codes = self._read(x)
        return self._precise().free_energy(items, codes, x.lengths)

    def log_prob(self, x: Ragged, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """log p(ratings | items) = -F(v) - log Z(items), exactly, (n,) nats; which items were rated is taken as given."""
        items, codes = self._read(x)
        machine = self._precise()
        return -machine.free_energy(items, codes, x.lengths) - machine.log_partition(items, x.lengths)

    def _precise(self) -> RatingMachine:
        return copy.deepcopy(self.ratings).double()

    def log_choice(self, items: Tensor | None, lengths: Tensor) -> Tensor:
        """log p(item | a user's items) for all items, by one step of mean field, (n, items); their popularity without
        hidden units for it. `items` None: users of whom nothing is known."""
        if self.choice is None:
            popular = (self.ratings.counts.sum(1) + 0.5).log()
            return torch.log_softmax(popular, 0).expand(len(lengths), -1)
        items = torch.zeros(0, dtype=torch.long, device=self.choice.a.device) if items is None else items
        return self.choice.log_choice(self.choice.hidden_given(items, lengths))

    def sample(self, noise: Noise, y: Tensor | None, *, lengths: Tensor, sweeps: int = 100) -> Ragged:
        """Users with so many ratings each: items from their machine, none twice, then ratings, each by `sweeps` of Gibbs
        sampling from the overall frequencies."""
        check_count(sweeps, "sweeps")
        machine, choice = self.ratings, self.choice
        longest, lengths = max(self.longest, int(lengths.max())), lengths.to(machine.b.device)
        if longest > machine.items:
            raise InvalidOption(
                f"length: a user rates an item once, and there are {machine.items} items; ask for fewer"
            )
        x = Ragged(torch.zeros(int(lengths.sum()), 0, device=machine.b.device), lengths, longest)
        log_p = self.log_choice(None, torch.zeros_like(lengths))
        for _ in range(sweeps if choice is not None else 0):
            assert choice is not None
            h = noise.bernoulli(choice.hidden_given(draw(log_p, noise, x), lengths))
            log_p = choice.log_choice(h)
        items = draw_apart(log_p, noise, x)
        steps = StepNoise(noise, x)
        rating = steps.categorical(machine.frequencies()[items])
        return self.steps(
            x.replaced(torch.stack([items, self._gibbs(x, items, rating, None, noise, steps, sweeps)], 1))
        )

    def _gibbs(
        self,
        x: Ragged,
        items: Tensor,
        rating: Tensor,
        held: Tensor | None,
        noise: Noise,
        steps: Noise,
        sweeps: int,
        total: Tensor | None = None,
    ) -> Tensor:
        """The ratings (N,) after `sweeps`, those `held` as they are; `total` (N, levels) sums the probabilities of the
        second half."""
        machine, row = self.ratings, x.places[0].to(items.device)
        for sweep in range(sweeps):
            state = machine.state(items, items * machine.levels + rating, x.lengths)
            g = machine.grid[noise.categorical(state[:, machine.hidden :])]
            logits = machine.logits(items, row, noise.bernoulli(torch.sigmoid(state[:, : machine.hidden])), g)
            drawn = steps.categorical(logits)
            rating = drawn if held is None else torch.where(held, rating, drawn)
            if total is not None and sweep >= sweeps // 2:
                total += torch.softmax(logits, 1)
        return rating

    def conditional(
        self, x: Ragged, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool, sweeps: int = 200
    ) -> Ragged:
        """Missing ratings of the items given, the others clamped, by Gibbs sampling; `mean` takes the likeliest rating by
        its mean probability over the second half of ten chains, each from a start of its own."""
        check_count(sweeps, "sweeps")
        if not bool(observed[:, self.item.start].all()):
            raise DataError(
                f"impute fills ratings, and the column {self.item.name!r} of items has missing cells: name the items, or "
                "see rating_rbm.recommend"
            )
        items = x.values[:, self.item.start].long()
        refuse_twice(items, x.lengths)
        held = observed[:, self.rating.start]
        spread = Ragged(x.values, x.lengths, max(self.longest, x.longest))
        steps = StepNoise(noise, spread)
        first = steps.categorical(self.ratings.frequencies()[items])
        rating = torch.where(held, self._levels(x.values), first)
        total = torch.zeros(len(items), self.ratings.levels, device=items.device) if mean else None
        begin = rating
        rating = self._gibbs(spread, items, begin, held, noise, steps, sweeps, total)
        if total is not None:
            for _ in range(1, _CHAINS):
                again = torch.where(held, begin, steps.categorical(self.ratings.frequencies()[items]))
                self._gibbs(spread, items, again, held, noise, steps, sweeps, total)
            rating = torch.where(held, rating, total.argmax(1))
        return self.steps(x.replaced(torch.stack([items, rating], 1)))
