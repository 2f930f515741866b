"""Compiled passes over chains against tensor operations: the same numbers, the same paths, and a run that keeps its choice."""

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.inference import compiled, message_passing
from reverie.inference.layout import Layout
from reverie.inference.message_passing import filter_forward, posteriors, viterbi
from reverie.models import hmm
from reverie.probability.latent import chain

pytest.importorskip("numba")

LENGTHS = ([200] * 70, [1, 30, 0, 500, 77, 2, 1], [3000], [20, 4000, 1500])


def problem(lengths, states, *, sparse=False, seed=0):
    source = torch.Generator().manual_seed(seed)
    log_b = -15 * torch.rand(sum(lengths), states, generator=source, dtype=torch.float64) ** 2
    transition = torch.rand(states, states, generator=source, dtype=torch.float64) + 3 * torch.eye(states)
    if sparse:
        transition *= (torch.rand(states, states, generator=source) < 0.5) + torch.eye(states)
    transition /= transition.sum(1, keepdim=True)
    initial = torch.rand(states, generator=source, dtype=torch.float64)
    weights = torch.rand(len(lengths), generator=source, dtype=torch.float64)
    return log_b, initial / initial.sum(), transition, weights


def close(found, right, tolerance=1e-10):
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lengths", LENGTHS, ids=["equal", "ragged", "long", "mixed"])
@pytest.mark.parametrize("states", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("sparse", [False, True])
def test_compiled_posteriors_are_those_of_tensor_operations(lengths, states, sparse):
    log_b, initial, transition, weights = problem(lengths, states, sparse=sparse)
    fast, plain = (Layout(lengths, states, compiled=choice) for choice in (True, False))
    assert fast.compiled_sums
    for own in (weights, None):
        found = posteriors(log_b, fast, initial, transition, weights=own)
        close(found, posteriors(log_b, plain, initial, transition, weights=own))
    close(filter_forward(log_b, fast, initial, transition), filter_forward(log_b, plain, initial, transition))


@pytest.mark.parametrize("lengths", LENGTHS, ids=["equal", "ragged", "long", "mixed"])
def test_compiled_posteriors_in_float32(lengths):
    log_b, initial, transition, weights = problem(lengths, 6)
    fast, plain = (Layout(lengths, 6, compiled=choice) for choice in (True, False))
    found = posteriors(log_b.float(), fast, initial, transition, weights=weights)
    close(found, posteriors(log_b.float(), plain, initial, transition, weights=weights), 2e-4)


@pytest.mark.parametrize("lengths", LENGTHS[:2], ids=["equal", "ragged"])
def test_what_plain_numbers_lose_is_done_again_on_logarithms(lengths):
    log_b, initial, transition, _ = problem(lengths, 4, sparse=True)
    start = sum(lengths[:3])
    log_b[start + 3] = -torch.inf  # nothing explains this step
    log_b[0, 1:] = -torch.inf  # a label
    ahead = torch.eye(4, dtype=torch.float64).roll(1, 1)
    for moves in (transition, ahead):  # and a cycle that must begin where the first weights say it cannot
        fast, plain = (Layout(lengths, 4, compiled=choice) for choice in (True, False))
        found, right = (posteriors(log_b, layout, initial, moves) for layout in (fast, plain))
        assert found.log_prob[3] == -torch.inf
        close(found, right)


@pytest.mark.parametrize("lengths", LENGTHS, ids=["equal", "ragged", "long", "mixed"])
@pytest.mark.parametrize("states", [1, 3, 8, 20])
def test_compiled_best_paths(lengths, states):
    log_b, initial, transition, _ = problem(lengths, states)
    fast, plain = (Layout(lengths, states, compiled=choice) for choice in (True, False))
    found, right = (viterbi(log_b, layout, initial, transition) for layout in (fast, plain))
    assert torch.equal(found.states, right.states)
    close([found.log_prob], [right.log_prob])
    packed = viterbi(fast.pack(log_b), fast, initial, transition, packed=True)
    assert torch.equal(fast.unpack(packed.states), right.states)


def test_compiled_best_paths_take_the_lowest_of_equal_states():
    lengths, flat = [300, 40, 1], torch.full((4,), 0.25, dtype=torch.float64)
    log_b = -torch.randint(0, 2, (341, 4), generator=torch.Generator().manual_seed(1)).double()  # ties at every step
    tables = [(flat.expand(4, 4).contiguous(), flat), (torch.eye(4, dtype=torch.float64), flat)]
    for transition, initial in tables:
        found, right = (
            viterbi(log_b, Layout(lengths, 4, segment=0, compiled=choice), initial, transition)
            for choice in (True, False)
        )
        assert torch.equal(found.states, right.states)
    assert torch.equal(viterbi(log_b, Layout(lengths, 4, compiled=True), flat, tables[0][0]).states, log_b.argmax(1))
    impossible = viterbi(log_b - torch.inf, Layout(lengths, 4, compiled=True), flat, tables[0][0])
    assert not impossible.states.any()
    assert bool((impossible.log_prob == -torch.inf).all())


def sequences():
    source = np.random.default_rng(0)
    return [np.cumsum(source.normal(size=(n, 2)), 0) % 3 for n in (40, 90, 7, 60)]


def test_a_chain_learns_the_same_either_way(monkeypatch):
    fast = rv.HMM(states=3, tol=0).fit(sequences(), epochs=15, progress=False)
    monkeypatch.setattr(chain, "available", lambda: False)
    plain = rv.HMM(states=3, tol=0).fit(sequences(), epochs=15, progress=False)
    assert bool(fast.network.compiled)
    assert not bool(plain.network.compiled)
    np.testing.assert_allclose(fast.log_prob(sequences()), plain.log_prob(sequences()), rtol=1e-8)
    np.testing.assert_allclose(hmm.parameters(fast)["means"], hmm.parameters(plain)["means"], rtol=1e-6)
    assert all(
        np.array_equal(*pair)
        for pair in zip(hmm.viterbi(fast, sequences()), hmm.viterbi(plain, sequences()), strict=True)
    )


def test_a_resumed_run_keeps_to_the_arithmetic_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "available", lambda: False)
    right = rv.HMM(states=3, tol=0).fit(sequences(), epochs=8, progress=False)
    rv.HMM(states=3, tol=0).fit(sequences(), epochs=4, out=str(tmp_path / "half"), progress=False)
    monkeypatch.undo()  # numba came in between
    again = rv.HMM(states=3, tol=0).fit(sequences(), epochs=8, resume=tmp_path / "half", progress=False)
    assert not bool(again.network.compiled)
    for name, value in right.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_a_model_works_on_where_numba_is_gone(tmp_path, monkeypatch):
    model = rv.HMM(states=3, tol=0).fit(sequences(), epochs=4, progress=False)
    before = model.log_prob(sequences())
    model.save(tmp_path / "model")
    monkeypatch.setattr(compiled, "available", lambda: False)
    monkeypatch.setattr("reverie.inference.layout.available", lambda: False)
    for name in ("smooth", "along", "best"):
        monkeypatch.setattr(message_passing.compiled, name, None)
    again = rv.load(tmp_path / "model")
    np.testing.assert_allclose(again.log_prob(sequences()), before, rtol=1e-10)
    hmm.viterbi(again, sequences())


def test_a_start_does_not_bring_its_arithmetic_along(monkeypatch):
    monkeypatch.setattr(chain, "available", lambda: False)
    start = rv.HMM(states=3, tol=0).fit(sequences(), epochs=2, progress=False)
    monkeypatch.undo()
    assert bool(rv.finetune(start, sequences(), epochs=1, progress=False).network.compiled)


def test_chains_saved_before_there_was_a_choice():
    state = rv.HMM(states=3, tol=0).fit(sequences(), epochs=1, progress=False).network.state_dict()
    state.pop("compiled")
    network = rv.HMM(states=3, tol=0).fit(sequences(), epochs=1, progress=False).network
    network.load_state_dict(state)
    assert not bool(network.compiled)
