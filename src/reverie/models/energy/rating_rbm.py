"""Restricted Boltzmann machine for collaborative filtering (Salakhutdinov, Mnih & Hinton 2007).

One machine per user, over the items this user rated alone and with weights that all users share: a rating is a softmax unit,

    p(v_i = k | g, h) = softmax_k(base_ik + b_ik + g z_k + W_ik . h),    p(h_j = 1 | v) = sigmoid(c_j + sum_i W_i,v_i,j (+ sum_i D_ij)),

with g the user's offset, a hidden number (machines/offsets.py). Items that were not rated are absent, not zero. Which items a user
rates is a machine of its own over bags of items (replicated softmax, Salakhutdinov & Hinton 2009), so that
p(items, ratings) = p(items) p(ratings | items): it ranks, and it draws users. Ratings are learned from the user's others, items by
contrastive divergence, with more sweeps as training goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from reverie import catalog
from reverie.config import check_count, recipe
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.codec.steps.levels import Levels
from reverie.data.forms.restoring import restore_column
from reverie.data.schema import Field as Column
from reverie.data.schema import Schema
from reverie.data.space import Batch, Block, Space, Wants
from reverie.errors import InvalidOption, Unsupported, UnsupportedData
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.descent import Descent, ScheduleName
from reverie.learning.rules.divergence import RaggedDivergence
from reverie.learning.run import Run
from reverie.model.model import Model
from reverie.models.energy.known_ratings import KnownRatings
from reverie.probability.machines.choices import ChoiceMachine
from reverie.probability.machines.rating_network import RatingNetwork
from reverie.probability.machines.ratings import RatingMachine
from reverie.rng import Noise

_LEVELS = 20
"""Distinct ratings that are no categories already."""
_BATCHES = 30
"""Batches of a pass, however many users there are: the cost of a pass is that of its ratings."""
_USERS = 64
"""Users whose scores of all items are held together."""
_PAIRS = 2**14
"""Pairs that are scored together."""


@recipe
class RatingRBM(Estimator):
    """Restricted Boltzmann machine for ratings: `fit(rv.sequences(df, by="user"))`, with a column of items (categories) and
    one of ratings of few values."""

    family: ClassVar[str] = "rating_rbm"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 45}

    hidden: int = Field(default=50, ge=1)
    """Hidden units behind the ratings, beside the user's offset."""
    degree: int = Field(default=1, ge=0)
    """Ratings act on hidden units as polynomials of this degree of their value; 0 gives every level a weight of its own, as
    ratings that are names without an order want."""
    rank: int = Field(default=0, ge=0)
    """Factors of the weights, A B, for many items; 0 for weights of its own for every item and hidden unit."""
    conditional: bool = False
    """Hidden units also see which items were rated, whatever the rating (the conditional machine of the paper)."""
    choice: int = Field(default=50, ge=0)
    """Hidden units behind which items a user rates; 0: as popular as they are, whoever the user is."""
    sweeps: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """How the ratings' part learns, in equal parts of the budget, one after the other: 0 predicts every rating from the
    user's others, exactly; 1 and more are Gibbs sweeps of contrastive divergence."""
    choice_sweeps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 3), min_length=1)
    """Gibbs sweeps per update of the items' part, likewise."""
    lr: float = Field(default=0.01, gt=0)
    """Learning rate of the ratings' part (Adam) at its highest. Adam's scaling is each weight's own, so that popular items
    do not run away and rare ones learn."""
    choice_lr: float = Field(default=0.03, gt=0)
    """Learning rate of the items' part (Adam) at its highest."""
    weight_decay: float = Field(default=40.0, ge=0)
    """L2 penalty on the ratings' weights, beside the sum of all ratings' terms: an item of few ratings is shrunk the more."""
    choice_decay: float = Field(default=0.01, ge=0)
    """L2 penalty on the items' weights, beside the mean log-likelihood of a user."""
    schedule: ScheduleName = "linear"
    """How the learning rates fall over each part of the budget."""
    ratings: str | None = None
    """The column of ratings; by default the one that is no category, or of two categories the one with fewer values."""

    def wants(self, schema: Schema) -> Wants:
        _two_columns(schema, self.ratings)
        return Wants(
            family=self.family,
            kinds=frozenset({"sequence", "category", "integer", "number", "boolean"}),
            symbols=True,
            levels=_LEVELS,
        )

    def build(self, space: Space) -> RatingNetwork:
        item, rating = _blocks(space, self.ratings)
        if rating.kind not in ("symbol", "category", "binary"):
            raise UnsupportedData(
                f"column {rating.name!r}: ratings are of at most {_LEVELS} values, with 20 rows or more for each. Round them, "
                f"or give kinds={{{rating.name!r}: 'category'}} if they are of few values"
            )
        levels = {"symbol": rating.levels, "category": rating.width, "binary": 2}[rating.kind]
        if levels < 2:
            raise UnsupportedData(f"column {rating.name!r} holds a single rating: there is nothing to learn")
        shape: dict[str, Any] = {"degree": self.degree, "rank": self.rank, "conditional": self.conditional}
        machine = RatingMachine(item.levels, levels, self.hidden, **shape)
        choice = ChoiceMachine(item.levels, self.choice) if self.choice else None
        return RatingNetwork(machine, choice, item, rating, space)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        assert isinstance(network, RatingNetwork)

        def learner(
            machine: nn.Module, lr: float, decay: float, sweeps: tuple[int, ...]
        ) -> Callable[[], RaggedDivergence]:
            return lambda: RaggedDivergence(
                network,
                machine,
                Descent(list(machine.parameters()), run, lr=lr, decay=self.schedule),
                run,
                sweeps=sweeps,
                decay=decay,
            )

        def coded(batch: Batch, noise: Noise) -> Batch:
            return dataclasses.replace(batch, x=network.coded(batch.x))

        network.ratings.fresh = fresh
        ratings = learner(network.ratings, self.lr, self.weight_decay, self.sweeps)
        phases = [Phase("ratings", ratings, transform=coded, batches=_BATCHES)]
        if network.choice is not None:
            network.choice.fresh = fresh
            choice = learner(network.choice, self.choice_lr, self.choice_decay, self.choice_sweeps)
            phases.append(Phase("items", choice, share=2.0, transform=coded, batches=_BATCHES))
        return phases


def _two_columns(schema: Schema, named: str | None) -> tuple[Column, Column]:
    """The fields of items and of ratings. Raises `UnsupportedData` or `InvalidOption` saying what is amiss."""
    fields = schema.data_fields
    if schema.container != "long":
        raise UnsupportedData(
            "rating_rbm learns from a long DataFrame with a row per rating: give reverie.sequences(df, by='user'). "
            f"Families that can: {catalog.who_takes({field.kind for field in fields}, but='rating_rbm')}"
        )
    names = ", ".join(repr(field.name) for field in fields)
    if len(fields) != 2:
        more = "give the others the role ignore, roles={'timestamp': 'ignore'}" if len(fields) > 2 else "one is missing"
        raise UnsupportedData(
            f"rating_rbm learns from two columns of steps, items and ratings, and these are {names}: {more}"
        )
    if named is not None and named not in (field.name for field in fields):
        raise InvalidOption(f"ratings: there is no column {named!r}; the columns are {names}")
    categories = [field for field in fields if field.one_step.kind == "category"]
    if not categories:
        raise UnsupportedData(
            f"neither of the columns {names} is of names: items are categories. Give sequences(..., "
            f"kinds={{'item': 'category'}}) for the column of items"
        )
    sizes = {field.name: len(field.categories or ()) for field in categories}
    name = _ratings_of(sizes, tuple(field.name for field in fields), named)
    rating = schema.field(name)
    item = next(field for field in fields if field.name != name)
    if item not in categories:
        raise UnsupportedData(f"column {item.name!r} holds the items, so it must be of kind category, not {item.step}")
    return item, rating


def _ratings_of(symbols: dict[str, int], names: tuple[str, ...], named: str | None) -> str:
    """The name of the column of ratings, from the sizes of the columns of symbols."""
    if named is not None:
        return named
    if len(symbols) == len(names):
        return min(symbols, key=lambda name: symbols[name])
    return next(name for name in names if name not in symbols)


def _blocks(space: Space, named: str | None) -> tuple[Block, Block]:
    """The blocks of items and of ratings."""
    symbols = {block.name: block.levels for block in space.blocks if block.kind == "symbol"}
    name = _ratings_of(symbols, tuple(block.name for block in space.blocks), named)
    rating = next(block for block in space.blocks if block.name == name)
    return next(block for block in space.blocks if block.name != name), rating


# ---------------------------------------------------------------------- functions of a Model

How = Literal["exact", "mean-field"]


def predict_ratings(
    model: Model, known: Any, pairs: Any, *, how: How = "exact", unseen: Literal["refuse", "missing"] = "refuse"
) -> NDArray[np.float64]:
    """The expected rating of every (user, item) pair given the user's known ratings, (m,) on the scale of the ratings.

    Args:
        known: a DataFrame like that of training, a row per rating; users need not be those of training. None: nothing is
            known. A user without known ratings gets the prediction for nobody in particular.
        pairs: a DataFrame with the columns of users and of items; other columns are not looked at. A pair that is among
            the known ones is predicted from the user's other ratings.
        how: "exact" scores each rating by its free energy; "mean-field" goes through the hidden means, at a fraction of
            the time (the paper's two forms).
        unseen: items that training never had are refused with `SchemaMismatch`, or with "missing" left out of `known` and
            predicted as NaN.

    Raises `Unsupported` where the ratings are names; see `rating_probabilities`.
    """
    scale = _scale(model)
    chances = rating_probabilities(model, known, pairs, how=how, unseen=unseen)
    return np.asarray(chances @ scale)


@torch.no_grad()
def rating_probabilities(
    model: Model, known: Any, pairs: Any, *, how: How = "exact", unseen: Literal["refuse", "missing"] = "refuse"
) -> NDArray[np.float64]:
    """p(rating | known ratings) of every pair, (m, levels), in the order of `levels(model)`; see `predict_ratings`."""
    network = _network(model)
    if how not in ("exact", "mean-field"):
        raise InvalidOption(f"how: expected 'exact' or 'mean-field', got {how!r}")
    users = _known(model, known, unseen)
    row, item = users.pairs(pairs)
    machine = network.ratings
    out = np.full((len(row), machine.levels), np.nan)
    states = users.states()
    for start in range(0, len(row), _PAIRS):
        at = torch.arange(start, min(start + _PAIRS, len(row)))
        at = at[item[at] >= 0]
        q = item[at]
        state = states[row[at]] - users.own(row[at], q)
        here = torch.arange(len(at), device=state.device)
        score = machine.scores if how == "exact" else machine.mean_scores
        out[at.numpy()] = score(state, q.to(state.device), here).exp().double().cpu().numpy()
    return out


@torch.no_grad()
def recommend(
    model: Model,
    known: Any,
    n: int = 10,
    *,
    exclude_known: bool = True,
    score: Literal["liked", "rating", "both"] = "both",
    like: Any = None,
    unseen: Literal["refuse", "missing"] = "refuse",
) -> Any:
    """The `n` best items for every user in `known`, best first: a DataFrame of user, item and score.

    score: "liked" is p(rating at least `like` | known), "rating" the expected rating (both by the hidden means), and "both"
    p(liked) times how likely the user is to rate the item at all, p(item | known): what is good and within reach. `like` is
    a rating; by default the least one not below the mean. Known items are left out unless `exclude_known` is False, and
    items without a training rating always are. `known`, `unseen`: see `predict_ratings`.
    """
    import pandas as pd

    network = _network(model)
    check_count(n, "n")
    if score not in ("liked", "rating", "both"):
        raise InvalidOption(f"score: expected 'liked', 'rating' or 'both', got {score!r}")
    users = _known(model, known, unseen)
    machine = network.ratings
    worth = torch.tensor(_scale(model) if score == "rating" else _liked(model, like), device=machine.b.device)
    absent = machine.counts.sum(1) == 0
    found: list[tuple[int, Tensor, Tensor]] = []
    for start in range(0, len(users.ids), _USERS):
        part = users.part(start, start + _USERS)
        h = machine.state(part.items, part.codes, part.lengths)
        chance = torch.softmax(machine.all_logits(h), 2)
        value = chance.double() @ worth
        if score == "both":
            value = value.log() + network.log_choice(part.items, part.lengths)
        value[:, absent] = -torch.inf
        if exclude_known:
            row = torch.repeat_interleave(torch.arange(len(h)), part.lengths).to(value.device)
            value[row, part.items] = -torch.inf
        best, item = value.topk(min(n, machine.items), dim=1)
        kept = [
            (user, i[b > -torch.inf], b[b > -torch.inf]) for user, (i, b) in enumerate(zip(item, best, strict=True))
        ]
        found += [(start + user, i.cpu(), b.cpu()) for user, i, b in kept]
    user = np.repeat([who for who, *_ in found], [len(i) for _, i, _ in found]).astype(np.int64)
    code = torch.cat([i for _, i, _ in found]).numpy() if found else np.zeros(0, np.int64)
    worths = torch.cat([b for *_, b in found]).numpy() if found else np.zeros(0)
    own, one = users.id_field, users.item_field.one_step
    return pd.DataFrame(
        {
            own.column_name: restore_column(own, users.ids[user]),
            one.column_name: restore_column(one, code),
            "score": np.exp(worths) if score == "both" else worths,
        }
    )


def levels(model: Model) -> tuple[Any, ...]:
    """The values that ratings have, in order."""
    _, rating = _two_columns(model.schema, model.estimator.ratings)
    if rating.step == "category":
        return tuple(rating.categories or ())
    if rating.step == "boolean":
        return (False, True)
    assert isinstance(model.codec, SequenceCodec)
    step = next(step for name, _, step in model.codec.steps if name == rating.name)
    assert isinstance(step, Levels)
    return tuple(step.values.tolist())


def _scale(model: Model) -> NDArray[np.float64]:
    """The ratings as numbers, (levels,)."""
    _network(model)
    found = levels(model)
    if any(isinstance(value, str) for value in found):
        raise Unsupported(
            f"the ratings are names ({', '.join(map(str, found[:5]))}), which have no mean: use rating_probabilities, or "
            "recommend with score='liked' and like="
        )
    return np.array([float(value) for value in found])


def _liked(model: Model, like: Any) -> NDArray[np.float64]:
    """1 for the ratings from `like` on, (levels,)."""
    found = levels(model)
    if like is None:
        scale, counts = _scale(model), _network(model).ratings.counts.sum(0).cpu().numpy()
        return np.asarray(scale >= scale @ counts / counts.sum(), dtype=np.float64)
    if like not in found:
        raise InvalidOption(f"like: {like!r} is no rating; the ratings are {', '.join(map(str, found))}")
    return np.asarray(np.arange(len(found)) >= found.index(like), dtype=np.float64)


def _known(model: Model, known: Any, unseen: Literal["refuse", "missing"]) -> KnownRatings:
    columns = _two_columns(model.schema, model.estimator.ratings)
    return KnownRatings(model, _network(model), columns, known, unseen)


def _network(model: Model) -> RatingNetwork:
    if not isinstance(model.network, RatingNetwork):
        raise Unsupported(f"this needs a rating_rbm, not a {model.family}")
    return model.network
