"""The hidden Markov model against enumeration of every path, closed forms, and what it was drawn from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

import reverie as rv
from reverie.errors import InvalidOption
from reverie.models import hmm
from reverie.models.classical.hmm import HMM

INITIAL = np.array([0.6, 0.3, 0.1])
MOVES = np.array([[0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.3, 0.0, 0.7]])
MEANS = np.array([[0.0, 10.0], [2.0, 11.0], [-3.0, 14.0]])
ROOTS = np.array([[[1.0, 0.0], [0.4, 0.8]], [[0.5, 0.0], [-0.2, 1.0]], [[1.5, 0.0], [0.0, 0.3]]])
FULL = ROOTS @ ROOTS.transpose(0, 2, 1)


def draw(n: int, low: int, high: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    sequences, paths = [], []
    for length in rng.integers(low, high, n):
        path = [rng.choice(3, p=INITIAL)]
        for _ in range(length - 1):
            path.append(rng.choice(3, p=MOVES[path[-1]]))
        z = np.array(path)
        sequences.append(MEANS[z] + np.einsum("tij,tj->ti", ROOTS[z], rng.normal(size=(length, 2))))
        paths.append(z)
    return sequences, paths


def known(covariance: str = "full", X: list[np.ndarray] | None = None) -> rv.Model:
    """The chain that the data come from."""
    covariances = {"full": FULL, "diag": np.array([np.diag(c) for c in FULL])}[covariance]
    recipe = HMM(states=3, covariance=covariance, floor=0.0, tol=0)
    X = draw(30, 5, 30)[0] if X is None else X
    return hmm.with_parameters(recipe, X, initial=INITIAL, transition=MOVES, means=MEANS, covariances=covariances)


def emission(x: np.ndarray, k: int) -> float:
    seen = ~np.isnan(x)
    if not seen.any():
        return 0.0
    return float(stats.multivariate_normal(MEANS[k][seen], FULL[k][np.ix_(seen, seen)]).logpdf(x[seen]))


def enumerated(x: np.ndarray) -> dict[tuple[int, ...], float]:
    """log p(x, z) of every path z."""
    log_b = np.array([[emission(row, k) for k in range(3)] for row in x])
    out = {}
    with np.errstate(divide="ignore"):
        for path in itertools.product(range(3), repeat=len(x)):
            value = np.log(INITIAL[path[0]]) + log_b[0, path[0]]
            for t in range(1, len(x)):
                value += np.log(MOVES[path[t - 1], path[t]]) + log_b[t, path[t]]
            out[path] = value
    return out


def holey(length: int, seed: int) -> np.ndarray:
    x = draw(1, length, length + 1, seed)[0][0]
    x[np.random.default_rng(seed).random(x.shape) < 0.4] = np.nan
    return x


@pytest.mark.parametrize("seed", range(6))
def test_every_answer_against_all_paths(seed):
    """Densities, posteriors, the best path, one-step scores: complete steps, half-seen steps, steps never seen."""
    x = holey(5, seed)
    if np.isnan(x).all():
        x[0, 0] = 0.3
    model, paths = known(), enumerated(x)
    logs = np.array(list(paths.values()))
    total = np.logaddexp.reduce(logs)
    assert model.log_prob([x])[0] == pytest.approx(total, abs=1e-9)
    shares = np.exp(logs - total)
    gamma = np.zeros((len(x), 3))
    for path, share in zip(paths, shares, strict=True):
        gamma[np.arange(len(x)), path] += share
    np.testing.assert_allclose(model.encode([x])[0], gamma, atol=1e-9)
    best = max(paths, key=paths.__getitem__)
    assert tuple(hmm.viterbi(model, [x])[0]) == best
    np.testing.assert_allclose(hmm.one_step_log_prob(model, [x])[0].sum(), total, atol=1e-9)


def test_imputed_means_against_all_paths():
    """E[x_missing | x_observed] = sum over paths, each with the conditional mean of its state's Gaussian."""
    x = holey(5, 11)
    paths = enumerated(x)
    total = np.logaddexp.reduce(list(paths.values()))
    expected = np.zeros_like(x)
    for path, value in paths.items():
        for t, k in enumerate(path):
            seen = ~np.isnan(x[t])
            row = MEANS[k].copy()
            if seen.any() and not seen.all():
                gain = FULL[k][np.ix_(~seen, seen)] @ np.linalg.inv(FULL[k][np.ix_(seen, seen)])
                row[~seen] += gain @ (x[t][seen] - MEANS[k][seen])
            expected[t] += np.exp(value - total) * row
    gaps = np.isnan(x)
    np.testing.assert_allclose(known().impute([x])[0][gaps], expected[gaps], atol=1e-8)


def test_draws_of_gaps_and_paths_have_the_posterior_s_moments():
    """2,000 draws: means within 4 standard errors of the enumerated ones, frequencies of states likewise."""
    x, n = holey(4, 3), 2000
    model = known()
    gamma = model.encode([x])[0]
    paths = np.stack([path[0] for path in hmm.sample_paths(model, [x], n_draws=n, seed=1)])
    for k in range(3):
        share = (paths == k).mean(0)
        error = np.sqrt(gamma[:, k] * (1 - gamma[:, k]) / n) + 1e-9
        assert (np.abs(share - gamma[:, k]) < 4 * error + 1e-12).all()
    draws = np.stack([filled[0] for filled in model.impute([x], n_draws=n, seed=2)])
    gaps = np.isnan(x)
    middle = model.impute([x])[0]
    error = draws.std(0)[gaps] / np.sqrt(n)
    assert (np.abs(draws.mean(0)[gaps] - middle[gaps]) < 4 * error).all()


def test_samples_have_the_chain_s_moments():
    """4,000 sequences of 3 steps: state frequencies, and means and covariances of each step at 4 sigma."""
    n = 4000
    drawn = np.stack(known().sample(n, seed=0, length=3))
    state = INITIAL
    for t in range(3):
        mean = state @ MEANS
        second = np.einsum("k,kij->ij", state, FULL + MEANS[:, :, None] * MEANS[:, None, :])
        covariance = second - np.outer(mean, mean)
        error = np.sqrt(np.diag(covariance) / n)
        assert (np.abs(drawn[:, t].mean(0) - mean) < 4 * error).all()
        products = (drawn[:, t] - mean)[:, :, None] * (drawn[:, t] - mean)[:, None, :]
        assert (np.abs(products.mean(0) - covariance) < 4 * products.std(0) / np.sqrt(n)).all()
        state = state @ MOVES


def test_forecasts_go_on_from_the_end():
    """Given a prefix that ends surely in state 1, the next states are row 1 of the moves, and of its square."""
    prefix = np.tile(MEANS[1], (4, 1))
    model = known()
    end = model.encode([prefix])[0][-1]
    n = 3000
    drawn = np.stack([row[0] for row in hmm.forecast(model, [prefix], 2, n_draws=n, seed=0)])
    share = end
    for t in range(2):
        share = share @ MOVES
        mean = share @ MEANS
        second = np.einsum("k,kij->ij", share, FULL + MEANS[:, :, None] * MEANS[:, None, :])
        error = np.sqrt(np.diag(second - np.outer(mean, mean)) / n)
        assert (np.abs(drawn[:, t].mean(0) - mean) < 4 * error).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"covariance": "full"},
        {"covariance": "tied"},
        {"covariance": "spherical"},
        {"covariance": "low-rank", "rank": 1},
        {"mixture": 2},
        {"covariance": "tied", "mixture": 2},
        {"prior": 1.0, "transition_prior": 0.5},
    ],
)
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_em_never_goes_down(options, holes):
    """The objective (log-likelihood, plus the log prior where there is one) rises in every pass but for rounding."""
    X, _ = draw(20, 5, 40, seed=4)
    rng = np.random.default_rng(0)
    for x in X:
        x[rng.random(x.shape) < holes] = np.nan
    recipe = HMM(states=3, tol=0, floor=0.0, **options)
    history = recipe.fit(X, epochs=25, progress=False).history
    name = "penalised" if "penalised" in history[0] else "log_likelihood"
    values = np.array([record[name] for record in history])
    assert (np.diff(values) > -1e-9 * np.abs(values[:-1])).all()


def test_learned_from_its_own_sequences():
    X, paths = draw(150, 30, 60, seed=7)
    model = HMM(states=3, covariance="full", restarts=3).fit(X, seed=0, progress=False)
    truth = known(X=X)
    assert model.log_prob(X).sum() >= truth.log_prob(X).sum()  # maximum likelihood beats the truth on its own data
    found = hmm.parameters(model)
    order = [int(np.argmin(np.abs(found["means"] - mean).sum(1))) for mean in MEANS]
    np.testing.assert_allclose(found["means"][order], MEANS, atol=0.15)
    np.testing.assert_allclose(found["transition"][np.ix_(order, order)], MOVES, atol=0.05)
    labelled = HMM(states=3, covariance="full").fit(X, [list(path) for path in paths], progress=False)
    counts = np.zeros((3, 3))
    for path in paths:
        np.add.at(counts, (path[:-1], path[1:]), 1)
    np.testing.assert_allclose(
        hmm.parameters(labelled)["transition"], counts / counts.sum(1, keepdims=True), atol=1e-12
    )


def test_stepwise_weighs_the_prior_like_batch_em():
    """The running sums count steps, as the prior does: one batch a pass ends near batch EM even under a strong prior.

    Sums counted in sequences, 30 times fewer, would leave the prior's 200 pseudo-steps in charge.
    """
    X, _ = draw(40, 20, 40, seed=5)
    recipe = HMM(states=3, prior=200.0, tol=0)
    whole = recipe.fit(X, epochs=30, progress=False)
    steps = HMM(states=3, prior=200.0, tol=0, stepwise=True).fit(X, epochs=60, batch_size=40, progress=False)
    np.testing.assert_allclose(hmm.parameters(steps)["covariances"], hmm.parameters(whole)["covariances"], rtol=0.05)


def test_nothing_is_kept_after_training():
    """Layouts and features belong to passes over the same batches; a model in use holds neither."""
    X, _ = draw(10, 5, 15)
    model = HMM(states=2).fit(X, epochs=2, progress=False)
    model.log_prob(X)
    model.encode(X[:3])
    assert not model.network._layouts
    assert not model.network._kept


def test_masks_keep_their_zeros():
    X, _ = draw(20, 20, 40)
    chain = HMM(states=4, topology="left-to-right").fit(X, epochs=5, progress=False)
    moves = hmm.parameters(chain)["transition"]
    assert (np.tril(moves, -1) == 0).all()
    assert (np.triu(moves, 2) == 0).all()
    np.testing.assert_allclose(hmm.parameters(chain)["initial"], [1, 0, 0, 0])
    allowed = ((True, True, False), (False, True, True), (True, False, True))
    ring = hmm.parameters(HMM(states=3, allowed=allowed).fit(X, epochs=5, progress=False))["transition"]
    assert (ring[~np.array(allowed)] == 0).all()


def test_states_are_as_many_as_the_classes():
    X, _ = draw(20, 20, 40)
    y = [["rain" if step % 3 == 0 else "sun" if step % 3 == 1 else "snow" for step in range(len(x))] for x in X]
    labelled = HMM().fit(X, y, epochs=2)
    assert labelled.info["resolved"]["states"] == 3
    assert labelled.predict_proba(X[:1])[0].shape[1] == 3
    assert HMM().fit(X, epochs=2).info["resolved"]["states"] == 4
    allowed = ((True, True), (True, True))
    assert HMM(allowed=allowed).fit(X, epochs=2).info["resolved"]["states"] == 2


def test_a_weight_counts_like_so_many_sequences():
    X, _ = draw(12, 5, 15)
    weights = np.array([1, 2, 3] * 4)
    frame = _long(X)
    frame["weight"] = np.repeat(weights, [len(x) for x in X])
    weighted = rv.sequences(frame, by="id", time="t", roles={"weight": "weight"})
    rng = np.random.default_rng(0)  # exact repeats would make the columns discrete
    repeated = [x + 1e-9 * rng.normal(size=x.shape) for x, count in zip(X, weights, strict=True) for _ in range(count)]
    recipe = HMM(states=3, tol=0)
    start = recipe.fit(rv.sequences(_long(X), by="id", time="t"), epochs=1, progress=False)
    other = hmm.with_parameters(
        recipe,
        repeated,
        **{name: hmm.parameters(start)[name] for name in ("initial", "transition", "means", "covariances")},
    )
    a = recipe.fit(weighted, start=start, epochs=4, progress=False)
    b = recipe.fit(repeated, start=other, epochs=4, progress=False)
    for name in ("initial", "transition", "means", "covariances"):
        np.testing.assert_allclose(hmm.parameters(a)[name], hmm.parameters(b)[name], atol=2e-5)


def _long(X: list[np.ndarray]):  # type: ignore[no-untyped-def]
    import pandas as pd

    parts = [pd.DataFrame({"id": row, "t": np.arange(len(x)), "a": x[:, 0], "b": x[:, 1]}) for row, x in enumerate(X)]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": [0.5, 0.5]}, r"initial: expected finite numbers of shape \(3,\), got \(2,\)"),
        ({"initial": [0.5, 0.6, 0.1]}, "initial: expected probabilities that sum to 1"),
        ({"transition": [[1, 0], [0, 1, 0], [0, 0, 1]]}, "transition: expected an array of numbers"),
        ({"means": "left"}, "means: expected an array of numbers"),
        ({"covariances": np.zeros((3, 2, 2))}, "positive variances in every direction"),
    ],
)
def test_wrong_parameters(changes, message):
    given = {"initial": INITIAL, "transition": MOVES, "means": MEANS, "covariances": FULL, **changes}
    with pytest.raises(InvalidOption, match=message):
        hmm.with_parameters(HMM(states=3, covariance="full"), draw(5, 5, 9)[0], **given)


def test_a_memory_needs_a_start():
    with pytest.raises(InvalidOption, match=r"memory: .*fit\(X, start=model\)"):
        HMM(states=2, memory=5.0).fit(draw(5, 5, 9)[0], progress=False)
