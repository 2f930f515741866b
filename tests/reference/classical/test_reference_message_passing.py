"""Message passing against enumeration, against a slow recursion on logarithms written out here, and against hmmlearn."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.inference import segments
from reverie.inference.algebra import Linear
from reverie.inference.layout import Layout
from reverie.inference.message_passing import beforehand, filter_forward, posteriors, predictive, sample_paths, viterbi
from reverie.inference.segments import Sweep


def slow(log_b: np.ndarray, lengths: list[int], initial: np.ndarray, transition: np.ndarray) -> dict[str, Any]:
    """Everything, one sequence and one step at a time, in logarithms."""
    with np.errstate(divide="ignore", invalid="ignore"):
        A, pi = np.log(transition), np.log(initial)
        K = len(pi)
        out: dict[str, Any] = {"log_prob": [], "best": []}
        gammas, alphas, norms, paths = [], [], [], []
        moves, first = np.zeros((K, K)), np.zeros(K)
        for b in np.split(log_b, np.cumsum(lengths)[:-1]):
            T = len(b)
            p, q, d = np.zeros((T, K)), np.zeros((T, K)), np.zeros((T, K))
            norm = np.zeros(T)
            p[0], d[0] = pi + b[0], pi + b[0]
            for t in range(T):
                if t:
                    p[t] = np.logaddexp.reduce(p[t - 1][:, None] + A, 0) + b[t]
                    d[t] = (d[t - 1][:, None] + A).max(0) + b[t]
                norm[t] = np.logaddexp.reduce(p[t])
                p[t] -= norm[t] if norm[t] > -np.inf else 0
            for t in range(T - 2, -1, -1):
                q[t] = np.logaddexp.reduce(A + b[t + 1] + q[t + 1], 1) - norm[t + 1]
            out["log_prob"].append(norm.sum())
            possible = norm.sum() > -np.inf
            gammas.append(np.exp(p + q) if possible else np.zeros((T, K)))
            alphas.append(np.exp(p))
            norms.append(norm)
            if possible:
                first += gammas[-1][0]
                for t in range(1, T):
                    moves += np.exp(p[t - 1][:, None] + A + b[t] + q[t] - norm[t])
            path = [int(d[-1].argmax())]
            out["best"].append(d[-1].max())
            for t in range(T - 2, -1, -1):
                path.append(int((d[t] + A[:, path[-1]]).argmax()))
            paths.append(path[::-1])
    return out | {
        "gamma": np.concatenate(gammas),
        "alpha": np.concatenate(alphas),
        "norm": np.concatenate(norms),
        "moves": moves,
        "first": first,
        "path": np.concatenate(paths),
    }


def chain(K: int, seed: int = 0, zeros: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    A, pi = rng.dirichlet(np.ones(K), K), rng.dirichlet(np.ones(K))
    A = np.where(rng.random((K, K)) < zeros, 0, A) + 1e-3 * np.eye(K)
    return pi, A / A.sum(1, keepdims=True)


def tensors(*arrays: np.ndarray, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [torch.tensor(a, dtype=dtype) for a in arrays]


def agrees(
    log_b: np.ndarray,
    lengths: list[int],
    pi: np.ndarray,
    A: np.ndarray,
    *,
    segment: int | None = None,
    tol: float = 1e-10,
    paths: bool = True,
) -> None:
    """Every function against `slow`; tolerances grow with the size of what is summed."""
    want = slow(log_b, lengths, pi, A)
    layout = Layout(lengths, len(pi), segment=segment)
    b, p, a = tensors(log_b, pi, A)
    known = filter_forward(b, layout, p, a)
    found = posteriors(b, layout, p, a)
    big = np.array(want["log_prob"])
    for name, got in (("filter", known.log_prob), ("posteriors", found.log_prob)):
        np.testing.assert_allclose(got, big, rtol=1e-12, atol=tol, err_msg=name)
    ok = np.repeat(np.isfinite(big), lengths)
    np.testing.assert_allclose(found.gamma, want["gamma"], atol=tol)
    np.testing.assert_allclose(known.alpha[ok], want["alpha"][ok], atol=tol)
    np.testing.assert_allclose(known.log_normaliser[ok], want["norm"][ok], rtol=1e-12, atol=tol)
    np.testing.assert_allclose(found.transitions, want["moves"], rtol=tol, atol=tol)
    np.testing.assert_allclose(found.first, want["first"], atol=tol)
    best = viterbi(b, layout, p, a)
    np.testing.assert_allclose(best.log_prob, want["best"], rtol=1e-12, atol=tol)
    if paths:
        np.testing.assert_array_equal(best.states[ok], want["path"][ok])


@pytest.mark.parametrize("case", ["plain", "zeros", "impossible step", "missing"])
def test_every_path_counted(case):
    """K = 3, T <= 6: sums over all 3^T paths, with zeros in A, emissions of -inf and steps without evidence."""
    rng = np.random.default_rng(3)
    pi, A = chain(3, 1)
    lengths = [6, 1, 3, 5]
    log_b = rng.normal(size=(sum(lengths), 3)) * 3
    if case == "zeros":
        A[0, 2] = A[1, 0] = pi[1] = 0
        A, pi = A / A.sum(1, keepdims=True), pi / pi.sum()
    if case == "impossible step":
        log_b[rng.random(log_b.shape) < 0.3] = -np.inf
    if case == "missing":
        log_b[[0, 2, 6, 8, 9, 12]] = 0
    layout = Layout(lengths, 3)
    b, p, a = tensors(log_b, pi, A)
    found, best = posteriors(b, layout, p, a), viterbi(b, layout, p, a)
    known = filter_forward(b, layout, p, a)
    moves = np.zeros((3, 3))
    with np.errstate(divide="ignore"):
        for i, rows in enumerate(np.split(np.arange(len(log_b)), np.cumsum(lengths)[:-1])):
            paths = np.array(list(itertools.product(range(3), repeat=len(rows))))
            logs = np.log(pi)[paths[:, 0]] + log_b[rows[None], paths].sum(1)
            logs = logs + np.log(A)[paths[:, :-1], paths[:, 1:]].sum(1)
            chance = np.exp(logs)
            total = chance.sum()
            assert found.log_prob[i] == pytest.approx(math.log(total) if total else -math.inf, abs=1e-12)
            assert best.log_prob[i] == pytest.approx(logs.max(), abs=1e-12)
            if not total:
                assert not found.gamma[rows].any()
                continue
            assert known.log_normaliser[rows].sum() == pytest.approx(math.log(total), abs=1e-12)
            np.testing.assert_array_equal(best.states[rows], paths[logs.argmax()])
            for t, row in enumerate(rows):
                want = np.bincount(paths[:, t], chance, 3) / total
                np.testing.assert_allclose(found.gamma[row], want, atol=1e-13)
                if t:
                    np.add.at(moves, (paths[:, t - 1], paths[:, t]), chance / total)
    np.testing.assert_allclose(found.transitions, moves, atol=1e-12)


@pytest.mark.parametrize("segment", [None, 0, 7, 40])
@pytest.mark.parametrize("zeros", [0.0, 0.6])
def test_ragged_sequences_cut_or_not(segment, zeros):
    lengths = [300, 1, 57, 2, 130, 400, 41, 40, 39]
    pi, A = chain(5, 2, zeros)
    agrees(2 * np.random.default_rng(0).normal(size=(sum(lengths), 5)), lengths, pi, A, segment=segment)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    K=st.integers(1, 5),
    segment=st.integers(0, 20),
    seed=st.integers(0, 999),
)
def test_any_lengths(lengths, K, segment, seed):
    pi, A = chain(K, seed, zeros=0.3 if seed % 2 else 0.0)
    agrees(3 * np.random.default_rng(seed).normal(size=(sum(lengths), K)), lengths, pi, A, segment=segment)


def slow_chains() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    K = 6
    uniform = np.full(K, 1 / K)
    sticky = 0.999 * np.eye(K) + 0.001 / K
    right = 0.995 * np.eye(K) + 0.005 * np.eye(K, k=1)
    right[-1, -1] = 1
    cycle = np.roll(np.eye(K), 1, axis=1)
    return {
        "sticky": (uniform, sticky),
        "never left": (uniform, np.eye(K)),
        "left to right": (np.eye(K)[0], right),
        "cycle": (uniform, cycle),
        "noisy cycle": (uniform, 0.999 * cycle + 0.001 / K),
        "two halves": (uniform, np.kron(np.eye(2), chain(3, 5)[1])),
    }


@pytest.mark.parametrize("name", list(slow_chains()))
@pytest.mark.parametrize("evidence", [0.0, 0.02, 1.0])
def test_chains_that_do_not_forget(name, evidence):
    """5,000 steps in segments of 50: what does not merge is finished exactly."""
    pi, A = slow_chains()[name]
    log_b = evidence * np.random.default_rng(1).normal(size=(5000, 6))
    agrees(log_b, [5000], pi, A, segment=50, tol=2e-9, paths=evidence > 0)


@pytest.mark.parametrize("finish", ["merged", "product", "steps"])
def test_every_way_to_finish_is_exact(monkeypatch, finish):
    monkeypatch.setattr(segments.Sweep, "_cheapest", lambda self, passes, segments: finish)
    pi, A = slow_chains()["noisy cycle"]
    lengths = [700, 30, 1000, 55]
    log_b = 0.05 * np.random.default_rng(1).normal(size=(sum(lengths), 6))
    agrees(log_b, lengths, pi, A, segment=50)
    sweep = Sweep(
        Layout(lengths, 6, segment=50), Linear(torch.tensor(A)), torch.tensor(pi), torch.tensor(np.exp(log_b.T))
    )
    sweep.forward()
    sweep.backward()
    assert set(sweep.finish.values()) == {finish}


def test_a_forgetful_chain_is_corrected_once():
    """The usual case: one pass from a guess, one from the right states, nothing else."""
    pi, A = chain(8, 0)
    log_b = np.random.default_rng(0).normal(size=(5000, 8))
    sweep = Sweep(Layout([5000], 8), Linear(torch.tensor(A)), torch.tensor(pi), torch.tensor(np.exp(log_b.T)))
    assert sweep.layout.segment
    sweep.forward()
    sweep.backward()
    assert sweep.passes == {"forward": 1, "backward": 1}


def test_lost_states_are_found_again():
    """Two chains that never mix: the first 100 steps exclude the second by e^-1000, the rest brings it back. Plain scaled
    numbers lose it and never notice."""
    log_b = np.zeros((300, 2))
    log_b[:100, 1], log_b[100:, 0] = -10, -10
    for segment in (0, 30):
        agrees(log_b, [300], np.array([0.5, 0.5]), np.eye(2), segment=segment)
    log_b /= 10  # e^-100 is lost to float32
    found = posteriors(
        *tensors(log_b, dtype=torch.float32), Layout([300], 2), *tensors(np.array([0.5, 0.5]), np.eye(2))
    )
    assert found.gamma[:, 1].min() > 0.999
    assert float(found.log_prob[0]) == pytest.approx(-100 + math.log(0.5), rel=1e-6)


@pytest.mark.parametrize("segment", [0, 10])
def test_emissions_2000_nats_apart(segment):
    rng = np.random.default_rng(0)
    pi, A = chain(4, 1)
    lengths = [60, 45, 80]
    log_b = rng.normal(size=(sum(lengths), 4)) - 2000 * (rng.random((sum(lengths), 4)) < 0.5)
    agrees(log_b, lengths, pi, A, segment=segment)
    right = 0.5 * np.eye(4) + 0.5 * np.eye(4, k=1)
    right[-1, -1] = 1
    agrees(log_b, lengths, np.eye(4)[0], right, segment=segment, tol=1e-9)
    agrees(log_b + 1e6, lengths, pi, A, segment=segment, tol=1e-6)


@pytest.mark.parametrize(("segment", "finish"), [(0, None), (10, None), (7, "product"), (7, "steps"), (7, "merged")])
def test_what_cannot_be_says_minus_infinity_and_harms_nobody(monkeypatch, segment, finish):
    if finish:
        monkeypatch.setattr(segments.Sweep, "_cheapest", lambda self, passes, segments: finish)
    pi, A = np.array([1.0, 0, 0]), np.array([[0, 1.0, 0], [0, 0, 1], [1, 0, 0]])
    lengths = [30, 40, 35, 3]
    log_b = np.random.default_rng(0).normal(size=(sum(lengths), 3))
    log_b[30 + 7] = [-np.inf, 0, 0]  # step 7 is in state 1: possible; step 8 of the next is in state 2
    log_b[30 + 7 + 5, 0] = -np.inf  # step 12: state 0
    log_b[75] = -np.inf  # nothing explains this one
    agrees(log_b, lengths, pi, A, segment=segment)
    layout = Layout(lengths, 3, segment=segment)
    found = posteriors(*tensors(log_b)[:1], layout, *tensors(pi, A))
    assert torch.isneginf(found.log_prob).tolist() == [False, True, True, False]
    assert not found.gamma[30:105].any()
    assert torch.isfinite(found.transitions).all()
    known = filter_forward(*tensors(log_b)[:1], layout, *tensors(pi, A))
    assert not known.alpha.isnan().any()
    assert not known.log_normaliser.isnan().any()
    best = viterbi(*tensors(log_b)[:1], layout, *tensors(pi, A))
    assert torch.isneginf(best.log_prob).tolist() == [False, True, True, False]
    drawn = sample_paths(*tensors(log_b)[:1], layout, *tensors(pi, A), torch.rand(sum(lengths), dtype=torch.float64))
    assert drawn.min() >= 0
    assert drawn.max() < 3


def test_single_precision():
    lengths = [200, 50, 333]
    pi, A = chain(6, 3)
    log_b = 2 * np.random.default_rng(0).normal(size=(sum(lengths), 6))
    want = slow(log_b, lengths, pi, A)
    for segment in (0, 32):
        found = posteriors(*tensors(log_b, dtype=torch.float32), Layout(lengths, 6, segment=segment), *tensors(pi, A))
        assert found.gamma.dtype == torch.float32
        assert found.log_prob.dtype == found.transitions.dtype == torch.float64
        np.testing.assert_allclose(found.log_prob, want["log_prob"], rtol=2e-6)
        np.testing.assert_allclose(found.gamma, want["gamma"], atol=3e-5)
        np.testing.assert_allclose(found.transitions, want["moves"], rtol=1e-4)
    log_b[100:150] -= 500 * (np.random.default_rng(1).random((50, 6)) < 0.5)  # more than float32 can hold
    right = 0.9 * np.eye(6) + 0.1 * np.eye(6, k=1)
    right[-1, -1] = 1
    want = slow(log_b, lengths, np.eye(6)[0], right)
    found = posteriors(*tensors(log_b, dtype=torch.float32), Layout(lengths, 6), *tensors(np.eye(6)[0], right))
    np.testing.assert_allclose(found.log_prob, want["log_prob"], rtol=1e-5)
    np.testing.assert_allclose(found.gamma, want["gamma"], atol=1e-3)


def test_weights_packing_and_prediction():
    lengths = [90, 20, 0, 45]
    pi, A = chain(4, 3)
    log_b = np.random.default_rng(0).normal(size=(155, 4))
    b, p, a = tensors(log_b, pi, A)
    layout = Layout(lengths, 4, segment=15)
    weights = torch.tensor([2.0, 0.0, 5.0, 0.5])
    found = posteriors(b, layout, p, a, weights=weights)
    parts = [slow(part, [len(part)], pi, A) for part in (log_b[:90], log_b[110:])]
    np.testing.assert_allclose(found.transitions, 2 * parts[0]["moves"] + 0.5 * parts[1]["moves"], atol=1e-11)
    np.testing.assert_allclose(found.first, 2 * parts[0]["first"] + 0.5 * parts[1]["first"], atol=1e-12)
    assert found.log_prob[2] == 0
    packed = posteriors(layout.pack(b), layout, p, a, packed=True)
    torch.testing.assert_close(layout.unpack(packed.gamma), found.gamma, rtol=0, atol=0)
    columns = layout.pack(b).T.contiguous().T
    torch.testing.assert_close(posteriors(columns, layout, p, a, packed=True).gamma, packed.gamma, rtol=0, atol=0)
    known = filter_forward(b, layout, p, a)
    torch.testing.assert_close(layout.unpack(filter_forward(columns, layout, p, a, packed=True).alpha), known.alpha)
    torch.testing.assert_close(
        layout.unpack(viterbi(columns, layout, p, a, packed=True).states), viterbi(b, layout, p, a).states
    )
    ahead = beforehand(known.alpha, layout, p, a)
    torch.testing.assert_close(ahead[[0, 90, 110]], p.expand(3, -1))
    torch.testing.assert_close(ahead[1:90], predictive(known.alpha, a)[:89])
    by_hand = torch.logsumexp(ahead.log() + b, 1)  # log p(x_t | x_<t) by the prediction
    torch.testing.assert_close(by_hand, known.log_normaliser)


def test_of_equal_paths_the_lowest_state():
    for segment in (0, 10):
        best = viterbi(
            torch.zeros(100, 3), Layout([60, 40], 3, segment=segment), torch.ones(3) / 3, torch.ones(3, 3) / 3
        )
        assert not best.states.any()


def test_the_layout_puts_every_row_somewhere_once():
    lengths = [5, 0, 900, 33, 1, 64]
    for segment in (0, 8, 32):
        layout = Layout(lengths, 3, segment=segment)
        assert sorted(layout.rows.tolist()) == list(range(sum(lengths)))
        rows = torch.arange(sum(lengths))
        torch.testing.assert_close(layout.unpack(layout.pack(rows)), rows)
        if segment:
            assert (layout.size[layout.leaders] == segment).all()
    empty = Layout([0, 0], 2)
    found = posteriors(torch.zeros(0, 2), empty, torch.ones(2) / 2, torch.ones(2, 2) / 2)
    assert found.log_prob.tolist() == [0, 0]


def test_fifty_random_models_against_hmmlearn():
    hmm = pytest.importorskip("hmmlearn.hmm")
    for seed in range(50):
        rng = np.random.default_rng(seed)
        K, D = int(rng.integers(2, 9)), int(rng.integers(1, 5))
        lengths = rng.integers(2, 150, 6).tolist()
        X = rng.normal(size=(sum(lengths), D)) * 2
        pi, A = chain(K, seed)
        peer = hmm.GaussianHMM(K, covariance_type="diag")
        peer.startprob_, peer.transmat_, peer.n_features = pi, A, D
        peer.means_, peer.covars_ = rng.normal(size=(K, D)), np.exp(0.3 * rng.normal(size=(K, D)))
        log_b = peer._compute_log_likelihood(X)
        b, p, a = tensors(log_b, pi, A)
        layout = Layout(lengths, K, segment=[0, 16, None][seed % 3])
        score, gamma = peer.score_samples(X, lengths)
        found, best = posteriors(b, layout, p, a), viterbi(b, layout, p, a)
        assert float(found.log_prob.sum()) == pytest.approx(score, rel=1e-12, abs=1e-8)
        np.testing.assert_allclose(found.gamma, gamma, atol=1e-8)
        best_score, path = peer.decode(X, lengths)
        assert float(best.log_prob.sum()) == pytest.approx(best_score, rel=1e-12, abs=1e-8)
        np.testing.assert_array_equal(best.states, path)
