"""The rating RBM against listing: conditionals, energies, gradients, chains and predictions of machines small enough."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import reverie as rv
from reverie.data.space import Ragged
from reverie.errors import (
    CheckpointError,
    DataError,
    Interrupted,
    InvalidOption,
    SchemaMismatch,
    Unsupported,
    UnsupportedData,
)
from reverie.estimator import dry_run
from reverie.models import rating_rbm as rr
from reverie.probability.machines.choices import ChoiceMachine, draw_apart
from reverie.probability.machines.offsets import fit_offsets, numbers
from reverie.probability.machines.ratings import RatingMachine
from reverie.probability.step_noise import ScatteredNoise
from reverie.rng import RowNoise

ITEMS, LEVELS, HIDDEN = 5, 3, 4
USERS = [[(0, 2), (3, 1)], [(4, 0)], [(1, 1), (2, 2), (4, 2)]]
SHAPES = {
    "plain": {},
    "level by level": {"degree": 0},
    "conditional": {"conditional": True},
    "low rank": {"rank": 2, "degree": 2},
    "both": {"rank": 2, "conditional": True},
}
STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=HIDDEN)), dtype=torch.float64)


def machine(**shape) -> RatingMachine:
    """Weights of size 1 from a fixed seed, in float64."""
    torch.manual_seed(0)
    made = RatingMachine(ITEMS, LEVELS, HIDDEN, **shape).double().requires_grad_(False)
    for parameter in made.parameters():
        parameter.copy_(torch.randn_like(parameter))
    made.grid, made.prior = torch.randn(3).double(), torch.log_softmax(torch.randn(3).double(), 0)
    made.base, made.phi = torch.randn_like(made.base), torch.randn(ITEMS, 3).double()
    return made


def ragged(users=USERS) -> Ragged:
    values = torch.tensor([pair for user in users for pair in user], dtype=torch.float64).reshape(-1, 2)
    return Ragged(values, torch.tensor([len(user) for user in users]), 3)


def minus_energy(m: RatingMachine, user, h: torch.Tensor, place: int | None = None) -> torch.Tensor:
    """-E(v, g, h) at a place of g, or -log sum_g exp(-E(v, g, h)), straight from the definition."""
    if place is None:
        return torch.logsumexp(torch.stack([minus_energy(m, user, h, at) for at in range(len(m.grid))]), 0)
    total = m.c @ h + m.prior[place]
    for item, rating in user:
        w = m.V[:, rating] @ m.A[item]
        w = w if m.B is None else w @ m.B
        total = total + m.base[item, rating] + m.b[item, rating] + w @ h
        total = total + m.grid[place] * m.z[rating] - m.phi[item, place]
        if m.D is not None:
            total = total + m.D[item] @ h
    return total


def log_joint(m: RatingMachine, user) -> torch.Tensor:
    """log sum_h exp(-E(v, h)), listed."""
    return torch.logsumexp(torch.stack([minus_energy(m, user, h) for h in STATES]), 0)


def all_ratings(user):
    """Every way to rate this user's items."""
    items = [item for item, _ in user]
    return [list(zip(items, ratings, strict=True)) for ratings in itertools.product(range(LEVELS), repeat=len(items))]


def log_p(m: RatingMachine, user) -> torch.Tensor:
    """log p(ratings | items), listed over ratings and hidden states."""
    return log_joint(m, user) - torch.logsumexp(torch.stack([log_joint(m, other) for other in all_ratings(user)]), 0)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_conditionals_energies_and_log_z_against_listing(shape):
    m, x = machine(**shape), ragged()
    items, codes = m.codes(x)
    field = m.field(items, codes, x.lengths)
    for row, user in enumerate(USERS):
        posterior = torch.softmax(torch.stack([minus_energy(m, user, h) for h in STATES]), 0)
        torch.testing.assert_close(torch.sigmoid(field[row]), posterior @ STATES, rtol=0, atol=1e-10)
        places = torch.stack(
            [torch.logsumexp(torch.stack([minus_energy(m, user, h, at) for h in STATES]), 0) for at in range(3)]
        )
        offset = m.offset(items, codes, x.lengths)[row]
        torch.testing.assert_close(torch.softmax(offset, 0), torch.softmax(places, 0), rtol=0, atol=1e-10)
    want = torch.stack([log_joint(m, user) for user in USERS])
    torch.testing.assert_close(-m.free_energy(items, codes, x.lengths), want, rtol=0, atol=1e-10)
    listed = torch.stack([log_p(m, user) for user in USERS])
    got = want - m.log_partition(items, x.lengths)
    torch.testing.assert_close(got, listed, rtol=0, atol=1e-10)
    h = STATES[[3, 7, 12]]
    logits = torch.log_softmax(m.logits(items, x.places[0], h, m.grid[[2, 0, 1]]), 1)
    step = 0
    for row, user in enumerate(USERS):
        for place, (item, _) in enumerate(user):
            others = (user[:place], user[place + 1 :])
            each = [minus_energy(m, [*others[0], (item, k), *others[1]], h[row], [2, 0, 1][row]) for k in range(LEVELS)]
            torch.testing.assert_close(logits[step], torch.log_softmax(torch.stack(each), 0), rtol=0, atol=1e-10)
            step += 1


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gradient_with_exact_expectations_is_that_of_the_likelihood(shape):
    """Both sides' exact expectations through `difference`, against autograd through the listing."""
    m, share = machine(**shape), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    x = ragged()
    items, codes = m.codes(x)
    mean = torch.sigmoid(m.field(items, codes, x.lengths))
    found = {p: torch.zeros_like(p) for p in m.parameters()}
    for row, user in enumerate(USERS):
        others = all_ratings(user)
        chance = torch.stack([log_p(m, other) for other in others]).exp()
        for other, p in zip(others, chance, strict=True):
            own, drawn = ragged([user]), ragged([other])
            i, c = m.codes(drawn)
            hidden = torch.sigmoid(m.field(i, c, drawn.lengths))
            part = m.difference(
                own.places[0],
                i,
                (m.codes(own)[1], mean[row : row + 1]),
                (c, hidden),
                (share[row] * p)[None],
                lambda _: None,
            )
            found = {q: found[q] + part[q] for q in found}
    m.requires_grad_(True)
    loss = -sum(s * log_p(m, user) for s, user in zip(share, USERS, strict=True))
    for parameter, want in zip(m.parameters(), torch.autograd.grad(loss, list(m.parameters())), strict=True):
        torch.testing.assert_close(found[parameter], want, rtol=0, atol=1e-10)


def test_items_that_are_not_rated_have_no_influence():
    """Other weights for item 0 and 3 change the first user alone, and nothing at all where they are not rated."""
    m, other, x = machine(conditional=True), machine(conditional=True), ragged()
    for table in (other.A, other.b, other.D):
        table[[0, 3]] += 5.0
    items, codes = m.codes(x)
    before, after = (k.free_energy(items, codes, x.lengths) for k in (m, other))
    assert before[0] != after[0]
    assert torch.equal(before[1:], after[1:])
    both = torch.arange(3)
    noise = [RowNoise(3, 3, dtype=torch.float64) for _ in both]
    gradient, _ = m.contrast(x, torch.full((3,), 1 / 3, dtype=torch.float64), 2, noise[0], lambda _: None)
    exact, _ = m.contrast(ragged(USERS[1:]), torch.ones(2).double(), 0, noise[1], lambda _: None)
    assert exact[m.A][[0, 3]].abs().sum() == 0
    assert gradient[m.A][0].abs().sum() > 0
    alone, _ = m.contrast(
        ragged(USERS[1:]), torch.ones(2).double(), 1, RowNoise(0, 2, dtype=torch.float64), lambda _: None
    )
    assert alone[m.A][[0, 3]].abs().sum() == 0


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_predictions_against_listing(shape):
    """p(v_q | known) of an item more, exactly; its leave-one-out twin; and the one-step mean field by its formula."""
    m, x = machine(**shape), ragged()
    items, codes = m.codes(x)
    state = m.state(items, codes, x.lengths)
    row, query = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 4, 0, 3])
    exact = m.scores(state, query, row)
    for at, (user, q) in enumerate(zip(row.tolist(), query.tolist(), strict=True)):
        each = torch.stack([log_joint(m, [*USERS[user], (q, k)]) for k in range(LEVELS)])
        torch.testing.assert_close(exact[at], torch.log_softmax(each, 0), rtol=0, atol=1e-10)
    hidden, g = torch.sigmoid(state[:, :HIDDEN]), torch.softmax(state[:, HIDDEN:], 1) @ m.grid
    mean = torch.stack(
        [(m.base + m.b)[q] + m.weights(q[None])[0] @ hidden[r] + g[r] * m.z for r, q in zip(row, query, strict=True)]
    )
    want = torch.log_softmax(mean, 1)
    torch.testing.assert_close(m.mean_scores(state, query, row), want, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.log_softmax(m.all_logits(state)[row, query], 1), want, rtol=0, atol=1e-10)
    known = torch.cat([m.unknown()[None], m.added(items, codes - items * LEVELS)])
    summed = known[0] + torch.stack([known[1:][x.places[0] == at].sum(0) for at in range(3)])
    torch.testing.assert_close(summed, state, rtol=0, atol=1e-10)
    left, step = m.left_out(x), 0
    for user in USERS:
        for place, (item, _) in enumerate(user):
            each = [log_joint(m, [*user[:place], (item, k), *user[place + 1 :]]) for k in range(LEVELS)]
            torch.testing.assert_close(left[step], torch.log_softmax(torch.stack(each), 0), rtol=0, atol=1e-10)
            step += 1


# ---------------------------------------------------------------------- whole models


def frame(users: int = 80, items: int = 10, seed: int = 0, share: float = 0.5) -> pd.DataFrame:
    """Two tastes: half of the users like even items and rate them more often, the others odd ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        alike = np.arange(items) % 2 == user % 2
        for item in np.flatnonzero(rng.random(items) < np.where(alike, share + 0.2, share - 0.2)):
            rating = np.clip(round((4.4 if alike[item] else 1.8) + 0.5 * rng.normal()), 1, 5)
            rows.append((f"u{user:03d}", f"i{item}", int(rating)))
    return pd.DataFrame(rows, columns=["user", "item", "rating"])


RECIPE = rv.RatingRBM(hidden=4, choice=3, lr=0.03, choice_lr=0.05, weight_decay=0.5, choice_decay=0.001)
QUICK = {"epochs": 60, "batch_size": 20, "progress": False, "seed": 0}


@pytest.fixture(scope="module")
def model() -> rv.Model:
    return RECIPE.fit(rv.sequences(frame(), by="user"), **QUICK)


def listed(model: rv.Model, known: list[tuple[int, int]], items: list[int]) -> np.ndarray:
    """p(ratings of items | known), over all (levels,) * items, from the model's own weights in float64."""
    m = model.network.ratings
    tensors = (m.V.t() @ m.A, m.base + m.b, m.c, m.z, m.grid, m.prior, m.phi)
    weight, b, c, z, grid, prior, phi = (t.detach().double().numpy() for t in tensors)
    out = np.empty((m.levels,) * len(items))
    for ratings in itertools.product(range(m.levels), repeat=len(items)):
        pairs = [*known, *zip(items, ratings, strict=True)]
        field = c + sum(weight[i, k] for i, k in pairs)
        offset = np.logaddexp.reduce(prior + sum(grid * z[k] - phi[i] for i, k in pairs))
        out[ratings] = sum(b[i, k] for i, k in pairs) + np.logaddexp(0, field).sum() + offset
    out = np.exp(out - out.max())
    return out / out.sum()


def test_log_prob_energy_and_prediction_of_a_model(model):
    rows = frame()
    one = rows[rows.user == "u001"]
    items, ratings = [int(name[1:]) for name in one["item"]], [int(r) - 1 for r in one.rating]
    law = listed(model, [], items)
    assert model.log_prob(rows)[1] == pytest.approx(math.log(law[tuple(ratings)]), abs=1e-5)
    missing = next(i for i in range(10) if i not in items)
    known = list(zip(items, ratings, strict=True))
    pairs = pd.DataFrame({"user": ["u001", "nobody"], "item": [f"i{missing}"] * 2})
    got = rr.rating_probabilities(model, one, pairs)
    np.testing.assert_allclose(got[0], listed(model, known, [missing]), atol=1e-5)
    np.testing.assert_allclose(got[1], listed(model, [], [missing]), atol=1e-5)
    np.testing.assert_allclose(rr.predict_ratings(model, one, pairs), got @ np.arange(1.0, 6.0), atol=1e-12)
    # a pair that is known is predicted from the others
    again = rr.rating_probabilities(model, one, one)
    np.testing.assert_allclose(again[0], listed(model, known[1:], [items[0]]), atol=1e-5)


def test_gibbs_sampling_fills_ratings_as_listing_says(model):
    """Chi-square of 3,000 users' two missing ratings, drawn with one rating clamped."""
    n = 3000
    rows = pd.DataFrame({"user": np.repeat(np.arange(n), 3).astype(str), "item": ["i0", "i2", "i3"] * n})
    rows["rating"] = np.where(rows["item"] == "i0", 5.0, np.nan)
    model.chunk = n
    drawn = model.impute(rows, n_draws=1, seed=1)[0]
    model.chunk = 1024
    assert (drawn.rating[::3] == 5).all()
    law = listed(model, [(0, 4)], [2, 3]).ravel()
    code = (drawn.rating.to_numpy().reshape(n, 3)[:, 1].astype(int) - 1) * 5
    counts = np.bincount(code + drawn.rating.to_numpy().reshape(n, 3)[:, 2].astype(int) - 1, minlength=25)
    order = np.argsort(law)
    rare = order[law[order].cumsum() * n < 10]
    kept = np.setdiff1d(np.arange(25), rare)
    seen, wanted = [*counts[kept], counts[rare].sum()], [*(n * law[kept]), n * law[rare].sum()]
    if not len(rare):
        seen, wanted = seen[:-1], wanted[:-1]
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


def test_the_likeliest_of_a_mean_is_the_likeliest_of_the_listing(model):
    rows = pd.DataFrame(
        {"user": ["a", "a", "b", "b"], "item": ["i0", "i2", "i1", "i2"], "rating": [5.0, np.nan, 5.0, np.nan]}
    )
    filled = model.impute(rows, seed=0)
    for at, (item, step) in enumerate([(0, 1), (1, 3)]):
        assert filled.rating[step] == listed(model, [(item, 4)], [2]).argmax() + 1, at


def test_learning_finds_the_tastes(model):
    """Held-out ratings are predicted far better than by their mean, and the best recommendations are of the user's kind."""
    fresh = frame(users=60, seed=5)
    held = np.random.default_rng(0).random(len(fresh)) < 0.3
    known, rest = fresh[~held], fresh[held]
    error = np.sqrt(np.mean((rr.predict_ratings(model, known, rest) - rest.rating) ** 2))
    assert error < 0.75 * np.std(rest.rating)
    for score in ("liked", "rating", "both"):
        best = rr.recommend(model, known, 1, score=score)
        kind = best["item"].str[1:].astype(int) % 2 == best.user.str[1:].astype(int) % 2
        assert kind.mean() > 0.85, score
    top = rr.recommend(model, known, 4)
    pairs = set(zip(known.user, known["item"], strict=True))
    assert not pairs & set(zip(top.user, top["item"], strict=True))
    assert len(rr.recommend(model, known, 50, exclude_known=False)) == 10 * known.user.nunique()


@pytest.mark.parametrize("score", ["liked", "rating", "both"])
def test_items_without_training_ratings_are_never_recommended(score):
    rows = frame(users=40)
    rows["item"] = pd.Categorical(rows["item"], categories=["absent", *sorted(set(rows["item"]))])
    wide = rv.RatingRBM(hidden=2, choice=2).fit(rv.sequences(rows, by="user"), epochs=2, progress=False)
    found = rr.recommend(wide, rows, 20, score=score, exclude_known=False)
    assert len(found) == 10 * rows.user.nunique()
    assert not (found["item"] == "absent").any()
    assert np.isfinite(found.score).all()


def test_a_part_without_hidden_units_recommends_the_popular():
    rows = frame()
    plain = rv.RatingRBM(hidden=2, choice=0).fit(rv.sequences(rows, by="user"), **QUICK)
    found = plain.network.log_choice(None, torch.zeros(1, dtype=torch.long))[0].exp()
    counts = rows["item"].value_counts().sort_index().to_numpy()
    np.testing.assert_allclose(found, (counts + 0.5) / (counts + 0.5).sum(), rtol=1e-5)
    assert plain.sample(3, seed=0, length=10).groupby("user")["item"].nunique().eq(10).all()
    with pytest.raises(InvalidOption, match="10 items"):
        plain.sample(3, length=11)


def test_items_are_chosen_by_their_machine():
    """log p(item | h) and draws without repeats against their definition; a gradient of zero in the law itself."""
    m = ChoiceMachine(4, 2)
    with torch.no_grad():
        m.a.copy_(torch.tensor([0.5, 0.3, 0.15, 0.05]).log())
    n = 20_000
    x = Ragged(torch.zeros(2 * n, 0), torch.full((n,), 2), 2)
    with torch.no_grad():
        flat = m.log_choice(torch.zeros(n, 2))
    pair = draw_apart(flat, RowNoise(0, n), x).reshape(n, 2).numpy()
    p = flat[0].exp().double().numpy()
    want = np.array([p[i] * p[j] / (1 - p[i]) for i, j in itertools.permutations(range(4), 2)])
    seen = [int(((pair[:, 0] == i) & (pair[:, 1] == j)).sum()) for i, j in itertools.permutations(range(4), 2)]
    assert stats.chisquare(seen, n * want / want.sum()).pvalue > 1e-3


def test_samples_are_users_as_in_training(model):
    rows = frame(users=400, seed=2)
    drawn = model.sample(400, seed=0)
    assert not drawn.duplicated(["user", "item"]).any()
    assert abs(len(drawn) - len(rows)) < 0.1 * len(rows)
    spread = {}
    shuffled = drawn.assign(rating=np.random.default_rng(0).permutation(drawn.rating))
    for name, data in (
        ("rows", rows),
        ("drawn", drawn),
        ("shuffled", shuffled),
    ):  # who rates even items well rates odd ones badly
        even = data.assign(parity=data["item"].str[1:].astype(int) % 2).pivot_table("rating", "user", "parity")
        spread[name] = float((even[0] - even[1]).abs().mean())
    assert spread["drawn"] > spread["shuffled"] + 0.25 * (spread["rows"] - spread["shuffled"]), spread


@pytest.mark.parametrize("named", [False, True])
def test_numbers_or_categories_make_the_same_model(named):
    """Ratings as numbers come as one-hot columns, ratings as categories as codes."""
    rows = frame()
    numbers = RECIPE.fit(rv.sequences(rows, by="user"), **QUICK)
    kinds = {"rating": "category"}
    recipe = rv.config.replace(RECIPE, ratings="rating") if named else RECIPE
    codes = recipe.fit(rv.sequences(rows, by="user", kinds=kinds), **QUICK)
    assert torch.equal(numbers.network.ratings.A, codes.network.ratings.A)
    assert np.array_equal(rr.predict_ratings(numbers, rows, rows), rr.predict_ratings(codes, rows, rows))
    assert np.array_equal(numbers.energy(rows), codes.energy(rows))


def test_more_users_go_on_from_a_model(model):
    later = rv.finetune(model, rv.sequences(frame(seed=9), by="user"), epochs=2, progress=False)
    total = model.network.ratings.counts.sum() + len(frame(seed=9))
    assert later.network.ratings.counts.sum() == total
    assert not torch.equal(later.network.ratings.A, model.network.ratings.A)


class _Enough(Exception):
    pass


class _Stop:
    """Asks the loop to stop after so many records."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, record: dict[str, object]) -> None:
        self.left -= 1
        if self.left == 0:
            raise _Enough


@pytest.mark.parametrize("after", [5, 14])
def test_resumed_training_ends_bit_for_bit_the_same(tmp_path, after):
    """Stopped among the ratings (with more sweeps to come), and among the items."""
    recipe = rv.config.replace(RECIPE, conditional=True, rank=3)
    data = rv.sequences(frame(), by="user")
    options = {"epochs": 6, "batch_size": 30, "log_steps": 1, "checkpoint_steps": 1, "progress": False, "seed": 3}
    whole = recipe.fit(data, **options)
    with pytest.raises((_Enough, Interrupted)):
        recipe.fit(data, out=str(tmp_path / "run"), callbacks=(_Stop(after),), **options)
    resumed = rv.resume(tmp_path / "run", data, progress=False)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    assert whole.history == resumed.history


def test_two_processes_equal_one():
    """81 users, batches of 20, whose tail of one joins the batch before it."""
    data = rv.sequences(frame(users=81), by="user")
    options = {"epochs": 2, "batch_size": 20, "progress": False, "seed": 1, "validation": 0.2}
    one, two = RECIPE.fit(data, **options), RECIPE.fit(data, devices=2, **options)
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(tensor, two.network.state_dict()[name], rtol=0, atol=1e-4, msg=name)
    for a, b in zip(one.history, two.history, strict=True):
        assert a["validation.loss"] == pytest.approx(b["validation.loss"], abs=1e-5)


def test_weights_repeat_users_and_early_stopping_watches_the_held_out():
    rows = frame(users=40)
    twice = pd.concat([rows, rows.assign(user=rows.user + "b")])
    heavy = rv.RatingRBM(choice=0).fit(rv.sequences(rows.assign(w=2.0), by="user", roles={"w": "weight"}), **QUICK)
    again = rv.RatingRBM(choice=0).fit(rv.sequences(twice, by="user"), **QUICK)
    assert torch.equal(heavy.network.ratings.counts, again.network.ratings.counts)
    stopped = rv.config.replace(RECIPE, choice=0).fit(
        rv.sequences(rows, by="user"), epochs=200, validation=0.3, patience=2, progress=False
    )
    assert len(stopped.history) < 200


LONG = frame(users=60)


@pytest.mark.parametrize(
    ("work", "error", "text"),
    [
        (lambda m: RECIPE.fit(rv.sequences(LONG.drop(columns="rating"), by="user")), UnsupportedData, "two columns"),
        (lambda m: RECIPE.fit(rv.sequences(LONG.assign(t=1.0), by="user")), UnsupportedData, "role ignore"),
        (lambda m: RECIPE.fit(rv.sequences(LONG.drop(columns="item"), by="user")), UnsupportedData, "two columns"),
        (
            lambda m: RECIPE.fit(rv.sequences(LONG.assign(item=LONG["item"].str[1:].astype(int)), by="user")),
            UnsupportedData,
            "kinds={'item': 'category'}",
        ),
        (
            lambda m: RECIPE.fit(rv.sequences(LONG.assign(rating=np.arange(len(LONG)) * 1.01), by="user")),
            UnsupportedData,
            "at most 20 values",
        ),
        (lambda m: RECIPE.fit(rv.sequences(LONG.assign(rating=3), by="user")), UnsupportedData, "single rating"),
        (
            lambda m: RECIPE.fit(rv.sequences(LONG.assign(rating=LONG.rating.where(LONG.index != 4)), by="user")),
            UnsupportedData,
            "missing cells",
        ),
        (lambda m: RECIPE.fit(rv.sequences(pd.concat([LONG, LONG[5:6]]), by="user")), DataError, "same item"),
        (lambda m: RECIPE.fit(LONG), UnsupportedData, "sequences"),
        (lambda m: rv.RatingRBM(ratings="stars").fit(rv.sequences(LONG, by="user")), InvalidOption, "stars"),
        (lambda m: m.log_prob(pd.concat([LONG, LONG[5:6]])), DataError, "same item"),
        (lambda m: m.log_prob(LONG.assign(item="new")), SchemaMismatch, "new"),
        (
            lambda m: m.impute(LONG.assign(item=LONG["item"].where(LONG.index != 4))),
            DataError,
            "names? the items|items",
        ),
        (lambda m: m.sample(2, sweeps=0), InvalidOption, "sweeps"),
        (lambda m: m.encode(LONG), Unsupported, "encode"),
        (lambda m: rr.predict_ratings(m, LONG, LONG.assign(item="new")), SchemaMismatch, "new"),
        (lambda m: rr.predict_ratings(m, LONG, LONG.drop(columns="item")), SchemaMismatch, "'item'"),
        (lambda m: rr.predict_ratings(m, LONG, LONG, how="both"), InvalidOption, "how"),
        (lambda m: rr.predict_ratings(m, LONG.assign(rating=7), LONG), SchemaMismatch, "no rating"),
        (lambda m: rr.recommend(m, LONG, 0), InvalidOption, "n:"),
        (lambda m: rr.recommend(m, LONG, score="best"), InvalidOption, "score"),
        (lambda m: rr.recommend(m, LONG, like=9), InvalidOption, "like"),
        (lambda m: rr.recommend(m, LONG, unseen="skip"), InvalidOption, "unseen"),
    ],
)
def test_wrong_input_says_what_to_do(model, work, error, text):
    with pytest.raises(error, match=text):
        work(model)


def test_unseen_items_are_left_out_on_request(model):
    new = LONG.assign(item=np.where(LONG.index % 3 == 0, "new", LONG["item"])).drop_duplicates(["user", "item"])
    found = rr.predict_ratings(model, new, new, unseen="missing")
    assert np.array_equal(np.isnan(found), (new["item"] == "new").to_numpy())
    rest = new[new["item"] != "new"]
    np.testing.assert_allclose(
        found[(new["item"] != "new").to_numpy()], rr.predict_ratings(model, rest, rest), atol=1e-6
    )
    assert np.isfinite(rr.predict_ratings(model, None, LONG)).all()


def test_many_hidden_units_have_no_listed_likelihood():
    wide = rv.RatingRBM(hidden=16, choice=0).fit(rv.sequences(LONG, by="user"), epochs=1, progress=False)
    assert "log_prob" not in wide.can
    with pytest.raises(Unsupported, match=r"2\^16"):
        wide.log_prob(LONG)
    assert np.isfinite(wide.energy(LONG)).all()


def test_names_as_ratings_have_no_mean():
    words = LONG.assign(rating=np.where(LONG.rating > 3, "yes", "no"))
    named = rv.config.replace(RECIPE, choice=0, ratings="rating").fit(rv.sequences(words, by="user"), **QUICK)
    assert rr.levels(named) == ("no", "yes")
    with pytest.raises(Unsupported, match="names"):
        rr.predict_ratings(named, words, words)
    found = rr.rating_probabilities(named, words, words)
    assert ((found[:, 1] > 0.5) == (words.rating == "yes")).mean() > 0.8
    assert (rr.recommend(named, words, 2, score="liked", like="yes").score > 0.5).mean() > 0.5


@pytest.mark.slow
def test_movielens_is_predicted_and_ranked(real_data: Path):
    """The first of the official splits: well below the 0.959 of the user's and item's biases."""
    file = real_data / "movielens100k_ratings.csv.gz"
    if not file.exists():
        pytest.skip("no movielens100k_ratings.csv.gz")
    rows = pd.read_csv(file).drop(columns="timestamp").astype({"item": str})
    test, train = rows[:20_000], rows[20_000:]
    assert (test.user.nunique(), test["item"].nunique()) == (459, 1410)
    wide = train.assign(item=pd.Categorical(train["item"], categories=sorted(set(rows["item"]))))
    found = rv.RatingRBM().fit(rv.sequences(wide, by="user"), seed=0, progress=False)
    error = np.sqrt(np.mean((rr.predict_ratings(found, train, test) - test.rating) ** 2))
    assert error < 0.94
    best = rr.recommend(found, train[train.user.isin(test.user)], 10)
    liked = set(zip(test.user[test.rating >= 4], test["item"][test.rating >= 4], strict=True))
    hits = np.mean([pair in liked for pair in zip(best.user, best["item"], strict=True)])
    assert hits > 0.3


def drawn_users(bags: list, log_law: torch.Tensor, n: int) -> list:
    """n users from a listed law."""
    chance = torch.softmax(log_law, 0)
    number = torch.multinomial(chance, n, replacement=True, generator=torch.Generator().manual_seed(0))
    return [bags[i] for i in number.tolist()]


@pytest.mark.parametrize("sweeps", [1, 2])
def test_users_of_the_machine_s_own_law_teach_it_nothing(sweeps):
    """The chain leaves the law as it is, so the mean gradient is zero: for ratings, and for bags of items."""
    n = 20_000
    m = machine(conditional=True)
    m.grid = torch.tensor([-2.0, 0.0, 2.0]).double()
    bags = all_ratings([(0, 0), (3, 0)])
    users = drawn_users(bags, torch.stack([log_joint(m, bag) for bag in bags]), n)
    share, noise = torch.full((n,), 1 / n, dtype=torch.float64), RowNoise(1, n, dtype=torch.float64)
    x = ragged(users)
    gradient, _ = m.contrast(Ragged(x.values, x.lengths, 2), share, sweeps, noise, lambda _: None)
    assert max(float(value.abs().max()) for value in gradient.values()) < 5 / n**0.5
    torch.manual_seed(0)
    choice = ChoiceMachine(4, 2).double().requires_grad_(False)
    for parameter in choice.parameters():
        parameter.copy_(torch.randn_like(parameter))
    pairs = [[(i, 0), (j, 0)] for i, j in itertools.product(range(4), repeat=2)]
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
    # p(items, h) ~ exp(c.h + sum_i (a_i + D_i.h)), which gives both of the chain's conditionals
    law = torch.stack([sum(choice.a[i] + states @ choice.D[i] for i, _ in bag) + states @ choice.c for bag in pairs])
    x = ragged(drawn_users(pairs, torch.logsumexp(law, 1), n))
    gradient, _ = choice.contrast(Ragged(x.values, x.lengths, 2), share, sweeps, noise, lambda _: None)
    assert max(float(value.abs().max()) for value in gradient.values()) < 5 / n**0.5


def test_a_best_guess_hardly_depends_on_the_noise():
    """A machine with two far ends, which no chain crosses between: one alone ends where its start leads to (all ratings
    high in three of four cases), ten together nearly always agree."""
    machine = RatingMachine(6, 2, 1)
    with torch.no_grad():
        machine.A.fill_(3.0)  # z is -1 and 1
        machine.b.copy_(torch.tensor([0.0, -3.0]).expand(6, 2))
        machine.c.fill_(5.0)
    users = 200
    steps = torch.stack([torch.arange(6.0).repeat(users), torch.zeros(6 * users)], 1)
    x = Ragged(steps, torch.full((users,), 6), 6)
    observed = torch.tensor([True, False]).expand(6 * users, 2)
    found = network_of(machine).conditional(x, observed, None, RowNoise(0, users), mean=True, sweeps=10)
    assert float(found.values[:, 1].mean()) > 0.86


def network_of(machine):
    from reverie.data.space import Block, Space
    from reverie.probability.machines.rating_network import RatingNetwork

    item, rating = (
        Block(name, "symbol", at, 1, levels=levels) for name, at, levels in (("item", 0, 6), ("rating", 1, 2))
    )
    return RatingNetwork(machine, None, item, rating, Space((item, rating), sequence=True, longest=6))


# ---------------------------------------------------------------------- what learns by default


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gradient_without_a_chain_is_that_of_every_rating_given_the_others(shape):
    """Exact, against autograd through log p(v_i | others) by listing."""
    m, share, x = machine(**shape), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), ragged()
    found, error = m.contrast(x, share, 0, RowNoise(0, 3, dtype=torch.float64), lambda _: None)
    m.requires_grad_(True)
    terms = []
    for row, user in enumerate(USERS):
        for place, (item, rating) in enumerate(user):
            each = [log_joint(m, [*user[:place], (item, k), *user[place + 1 :]]) for k in range(LEVELS)]
            terms.append((row, -torch.log_softmax(torch.stack(each), 0)[rating]))
    torch.testing.assert_close(error, torch.stack([term for _, term in terms]).detach(), rtol=0, atol=1e-10)
    loss = sum(share[row] * term for row, term in terms)
    for parameter, want in zip(m.parameters(), torch.autograd.grad(loss, list(m.parameters())), strict=True):
        torch.testing.assert_close(found[parameter], want, rtol=0, atol=1e-10)


def halves(users: int = 200, items: int = 30, seed: int = 0) -> pd.DataFrame:
    """Half-star ratings by nothing but users' and items' biases; five items have one to three ratings."""
    rng = np.random.default_rng(seed)
    rare = 3 * (np.arange(items) < 5)
    own, place = 0.9 * rng.normal(size=users), 0.7 * rng.normal(size=items)
    seen = rng.random((users, items)) < np.where(rare, 0.01, 0.3)
    user, item = np.nonzero(seen)
    stars = 3.2 + own[user] + place[item] + 0.6 * rng.normal(size=len(user))
    names = {"user": [f"u{u}" for u in user], "item": [f"i{i}" for i in item]}
    return pd.DataFrame({**names, "rating": np.clip(np.round(2 * stars) / 2, 0.5, 5), "own": own[user]})


def test_the_start_knows_users_and_items_on_the_whole():
    """Before any update: as good as regularised biases, offsets that go with the users', rare items near the mean."""
    rows = halves()
    held = np.random.default_rng(1).random(len(rows)) < 0.2
    known, rest = rows[~held].drop(columns="own"), rows[held]
    rest = rest[rest["item"].isin(known["item"])]
    start = rv.RatingRBM(choice=0, lr=1e-12).fit(rv.sequences(known, by="user"), epochs=1, seed=0, progress=False)
    user, item = (known.groupby(name).rating for name in ("user", "item"))
    mean = known.rating.mean()
    b_item, b_user = (item.sum() - mean * item.size()) / (item.size() + 3), user.mean() * 0
    for _ in range(20):
        left = known.rating - mean - known["item"].map(b_item)
        b_user = left.groupby(known.user).sum() / (user.size() + 1)
        left = known.rating - mean - known.user.map(b_user)
        b_item = left.groupby(known["item"]).sum() / (item.size() + 1)
    guess = mean + rest.user.map(b_user).fillna(0) + rest["item"].map(b_item).fillna(0)
    biases = np.sqrt(np.mean((guess - rest.rating) ** 2))
    error = np.sqrt(np.mean((rr.predict_ratings(start, known, rest) - rest.rating) ** 2))
    assert error < 1.02 * biases, (error, biases)
    m = start.network.ratings
    assert float((m.z * m.counts.sum(0)).sum().abs()) < 1.0
    torch.testing.assert_close(m.phi, torch.logsumexp(m.base[:, None] + m.grid[:, None] * m.z, 2), rtol=0, atol=1e-5)


def test_places_and_offsets_are_found_by_em():
    """Ratings drawn from the model of offsets itself: its places of items, and the spread of offsets, come back."""
    rng = np.random.default_rng(0)
    users, items, spread = 3000, 12, 0.8
    d = np.linspace(-1, 1, items)
    z = numbers(torch.ones(5, dtype=torch.float64)).numpy()
    logits = (d[None] + spread * rng.normal(size=(users, 1)))[:, :, None] * z
    p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    rating = (p.cumsum(2) < rng.random((users, items, 1))).sum(2)
    item, rating = np.append(np.tile(np.arange(items), users), items), np.append(rating.ravel(), 4)
    counts = np.zeros((items + 1, 5))
    np.add.at(counts, (item, rating), 1)
    fit = fit_offsets(
        torch.from_numpy(item),
        torch.from_numpy(rating),
        torch.tensor([items] * users + [1]),
        torch.ones(users + 1, dtype=torch.float64),
        torch.from_numpy(counts),
    )
    scale = float(fit.z[1] - fit.z[0]) / float(z[1] - z[0])  # the same slopes in other units of z
    slope = (fit.base @ (fit.z - fit.z.mean())) / ((fit.z - fit.z.mean()) ** 2).sum() * scale
    np.testing.assert_allclose(slope[:-1] - slope[:-1].mean(), d, atol=0.1)
    assert 0 < slope[-1] < 1  # a single rating, the highest there is, does not run away
    assert float(fit.grid[-1]) / 4.5 * scale == pytest.approx(spread, rel=0.08)
    assert float(fit.prior.exp().sum()) == pytest.approx(1.0)


def test_the_defaults_do_no_worse_than_biases_where_there_is_nothing_else():
    """Rare items and half stars, but no taste to learn: the machine stays at what it starts from."""
    rows = halves(users=300, seed=3)
    held = np.random.default_rng(1).random(len(rows)) < 0.2
    known, rest = rows[~held].drop(columns="own"), rows[held]
    rest = rest[rest["item"].isin(known["item"])]
    errors = []
    for options in ({"lr": 1e-12, "choice": 0}, {"choice": 0}):
        made = rv.RatingRBM(**options).fit(rv.sequences(known, by="user"), epochs=15, seed=0, progress=False)
        errors.append(np.sqrt(np.mean((rr.predict_ratings(made, known, rest) - rest.rating) ** 2)))
    assert errors[1] < 1.01 * errors[0], errors


def test_proposals_leave_the_law_of_items_as_it_is():
    """Metropolis' steps from p(item | h) end in p(item | h); from elsewhere, many of them come near it."""
    torch.manual_seed(0)
    m = ChoiceMachine(5, 2).requires_grad_(False)
    for parameter in m.parameters():
        parameter.copy_(torch.randn_like(parameter))
    m.popular.copy_(torch.log_softmax(torch.randn(5), 0))
    n = 40_000
    row, h = torch.arange(n), torch.tensor([[1.0, 0.0]]).expand(n, 2)
    law = m.log_choice(h[:1])[0].exp().double()
    x = Ragged(torch.zeros(n, 0), torch.ones(n, dtype=torch.long), 1)
    inside = torch.multinomial(law, n, replacement=True, generator=torch.Generator().manual_seed(1))
    for start, seed in ((inside, 0), (torch.zeros(n, dtype=torch.long), 1)):
        at = start
        for again in range(1 if start is inside else 8):
            at, _ = m._proposed(at, row, h, ScatteredNoise(RowNoise(10 * seed + again, n), x))
        seen = torch.bincount(at, minlength=5).double().numpy()
        assert stats.chisquare(seen, (n * law / law.sum()).numpy()).pvalue > 1e-3
        assert (at != start).float().mean() > 0.3
    one = torch.zeros(n, dtype=torch.long)
    _, log_p = m._proposed(inside, one, h[:1], ScatteredNoise(RowNoise(2, 1), Ragged(x.values, torch.tensor([n]), n)))
    torch.testing.assert_close(log_p, m.log_choice(h[:1])[0][inside], rtol=0, atol=0.03)


def test_many_items_are_learned_by_proposals(monkeypatch):
    """400 items of two kinds, each user of one: the users' kind is chosen, and the updates never list the items."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", int(rng.integers(1, 4)))
        for user in range(120)
        for item in rng.choice(200, 12, replace=False) * 2 + user % 2
    ]
    many = pd.DataFrame(rows, columns=["user", "item", "rating"])
    with monkeypatch.context() as patched:
        patched.setattr(ChoiceMachine, "log_choice", None)
        made = rv.RatingRBM(hidden=2, choice=3, choice_decay=0.001).fit(
            rv.sequences(many, by="user"), epochs=60, seed=0, progress=False
        )
    assert made.network.choice.items > 20 * made.network.choice.length
    best = rr.recommend(made, many, 5)
    kind = best["item"].str[1:].astype(int) % 2 == best.user.str[1:].astype(int) % 2
    assert kind.mean() > 0.95


def test_a_pass_has_as_many_batches_however_many_users_there_are():
    data = rv.sequences(frame(users=200), by="user")
    assert {row["batches_per_epoch"] for row in dry_run(rv.RatingRBM(), data)["phases"]} == {29}  # of 7, the last of 4
    given = dry_run(rv.RatingRBM(), data, batch_size=50)["phases"]
    assert {row["batches_per_epoch"] for row in given} == {4}


def test_a_model_of_before_users_offsets_is_refused_by_what_it_is(model):
    state = {**model.network.state_dict(), "ratings.S": torch.zeros(5, 4)}
    with pytest.raises(CheckpointError, match=r"before users' offsets.*fit it again"):
        model.network.load_state_dict(state)


def test_ratings_are_filled_by_the_user_s_offset():
    """No weights, and two offsets far apart: five known ratings say which, and the sixth is drawn accordingly."""
    machine, users = RatingMachine(6, 2, 1), 200
    with torch.no_grad():
        machine.A.zero_()
    machine.grid, machine.prior = torch.tensor([-3.0, 3.0]), torch.tensor([0.5, 0.5]).log()
    machine.phi = torch.logsumexp(machine.base[:, None] + machine.grid[:, None] * machine.z, 2)
    steps = torch.stack([torch.arange(6.0).repeat(users), torch.arange(users).remainder(2).repeat_interleave(6)], 1)
    x = Ragged(steps, torch.full((users,), 6), 6)
    observed = torch.ones(6 * users, 2, dtype=torch.bool)
    observed[5::6, 1] = False
    filled = network_of(machine).conditional(x, observed, None, RowNoise(0, users), mean=False, sweeps=3)
    assert (filled.values[5::6, 1] == steps[5::6, 1]).float().mean() > 0.97


def test_scattered_noise_is_uniform_and_each_step_s_own():
    """Steps of few users of many steps: even over the unit interval, and not alike between steps, users or draws."""
    x = Ragged(torch.zeros(6000, 0), torch.tensor([3000, 2990, 10]), 3000)
    noise = ScatteredNoise(RowNoise(0, 3), x)
    first, second = noise.uniform(2), noise.uniform(1)
    assert first.shape == (6000, 2)
    columns = torch.cat([first, second], 1)
    for column in columns.t().tolist():
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    pairs = [*columns.t(), columns[1:, 0], columns[3000:, 0]]
    for one, two in itertools.combinations(pairs, 2):
        size = min(len(one), len(two))
        assert abs(float(torch.corrcoef(torch.stack([one[:size], two[:size]]))[0, 1])) < 4 / size**0.5
    again = ScatteredNoise(RowNoise(0, 3), x)
    assert torch.equal(first, again.uniform(2))
    assert stats.kstest(ScatteredNoise(RowNoise(1, 3), x).normal(1)[:, 0].tolist(), "norm").pvalue > 1e-3


def test_decay_is_beside_the_sum_over_users():
    """Its share of a step falls with the users counted, and spares c alone."""
    m = machine(conditional=True)
    m.users.fill_(8.0)
    assert m.decayed() == {m.A: 1 / 8, m.b: 1 / 8, m.D: 1 / 8}
