"""Hopfield networks of spins against formulas written out: couplings, energies, dynamics, crosstalk, the law of Gibbs draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import reverie as rv
from reverie.models import hopfield
from reverie.probability.machines.couplings import Couplings, add_storkey, pseudo_inverse
from reverie.rng import RowNoise

RULES = ["hebb", "covariance", "pseudo_inverse", "storkey"]


def random_bits(rows: int, units: int, seed: int = 0, share: float = 0.5) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, units)) < share


def memory(rule: str, bits: np.ndarray, temperature: float = 0.2) -> Couplings:
    network = Couplings(bits.shape[1], rule, temperature)
    network.store(torch.from_numpy(bits).double(), None)
    network.settle()
    return network


def as_spins(bits: np.ndarray) -> np.ndarray:
    return 2.0 * bits - 1


# ---------------------------------------------------------------------- couplings


def test_hebb_is_the_mean_product():
    bits = random_bits(7, 12)
    s = as_spins(bits)
    want = np.zeros((12, 12))
    for i, j in itertools.permutations(range(12), 2):
        want[i, j] = sum(pattern[i] * pattern[j] for pattern in s) / 12
    model = rv.Hopfield().fit(bits, progress=False)
    np.testing.assert_allclose(hopfield.parameters(model)["couplings"], want, atol=1e-15)
    assert not hopfield.parameters(model)["thresholds"].any()


def test_covariance_subtracts_the_mean_and_sets_thresholds():
    """J from centred spins; in a single centred pattern the field is +(1 - m) or -(1 + m), which the threshold evens."""
    bits = random_bits(9, 14, share=0.2)
    s = as_spins(bits)
    mean = s.mean(0)
    centred = s - mean
    want = centred.T @ centred / (14 * (1 - mean**2).mean())
    np.fill_diagonal(want, 0)
    found = hopfield.parameters(rv.Hopfield(memory="covariance").fit(bits, progress=False))
    np.testing.assert_allclose(found["couplings"], want, atol=1e-14)
    np.testing.assert_allclose(found["thresholds"], mean - want @ mean, atol=1e-14)


def test_covariance_holds_sparse_patterns_that_hebb_loses():
    """60 patterns of 400 units, one in ten on: Hebb's crosstalk is dominated by the mean, (1 - 2 f)^2 = 0.64 of it."""
    bits = random_bits(60, 400, share=0.1)
    good = hopfield.capacity(rv.Hopfield(memory="covariance").fit(bits, progress=False), bits)
    bad = hopfield.capacity(rv.Hopfield().fit(bits, progress=False), bits)
    assert good.fixed > 0.95
    assert good.overlap_median == 1
    assert bad.fixed == 0


def test_a_constant_unit_is_recalled():
    bits = random_bits(5, 60)
    bits[:, :10], bits[:, 10:20] = True, False
    model = rv.Hopfield(memory="covariance").fit(bits, progress=False)
    cue = bits.copy()
    cue[:, [0, 15, 30]] ^= True
    np.testing.assert_array_equal(hopfield.recall(model, cue).patterns, bits)


@pytest.mark.parametrize("count", [1, 20, 39])
def test_pseudo_inverse_keeps_every_independent_pattern(count):
    """Up to N - 1 correlated patterns (three of four bits on) are exact fixed points, and J is X (X^T X)^-1 X^T."""
    bits = random_bits(count, 40, seed=3, share=0.75)
    s = as_spins(bits).T
    assert np.linalg.matrix_rank(s) == count
    want = s @ np.linalg.solve(s.T @ s, s.T)
    np.fill_diagonal(want, 0)
    model = rv.Hopfield(memory="pseudo_inverse").fit(bits, progress=False)
    np.testing.assert_allclose(hopfield.parameters(model)["couplings"], want, atol=1e-9)
    assert hopfield.capacity(model, bits).fixed == 1


def test_pseudo_inverse_counts_what_is_repeated_once():
    """A pattern given twice, and its complement, add nothing to the span."""
    bits = random_bits(6, 30)
    s = torch.from_numpy(as_spins(bits))
    more = torch.cat([s, s[:2], -s[2:3]])
    torch.testing.assert_close(pseudo_inverse(more.t() @ more), pseudo_inverse(s.t() @ s), atol=1e-12, rtol=0)


def test_storkey_is_the_triple_loop():
    bits = random_bits(6, 9)
    want = np.zeros((9, 9))
    for pattern in as_spins(bits):
        h = np.zeros((9, 9))
        for i, j in itertools.product(range(9), repeat=2):
            h[i, j] = sum(want[i, k] * pattern[k] for k in range(9) if k not in (i, j))
        new = want.copy()
        for i, j in itertools.permutations(range(9), 2):
            new[i, j] += (pattern[i] * pattern[j] - pattern[i] * h[j, i] - h[i, j] * pattern[j]) / 9
        want = new
    J = torch.zeros(9, 9, dtype=torch.float64)
    for pattern in torch.from_numpy(as_spins(bits)):
        add_storkey(J, pattern)
    np.testing.assert_allclose(J.numpy(), want, atol=1e-14)
    model = rv.Hopfield(memory="storkey").fit(bits, progress=False)
    np.testing.assert_allclose(hopfield.parameters(model)["couplings"], want, atol=1e-14)


def test_storkey_learns_in_the_order_of_the_data():
    """Its couplings depend on the order, so rows must not be shuffled, whatever the batch."""
    bits = random_bits(30, 20)
    whole, cut = (rv.Hopfield(memory="storkey").fit(bits, batch_size=size, progress=False) for size in (30, 7))
    other = rv.Hopfield(memory="storkey").fit(bits[::-1].copy(), progress=False)
    J = [hopfield.parameters(model)["couplings"] for model in (whole, cut, other)]
    want = torch.zeros(20, 20, dtype=torch.float64)
    for pattern in torch.from_numpy(as_spins(bits)):
        add_storkey(want, pattern)
    np.testing.assert_array_equal(J[0], want.numpy())
    np.testing.assert_array_equal(J[0], J[1])
    assert np.abs(J[0] - J[2]).max() > 1e-3


def test_storkey_and_pseudo_inverse_hold_more_than_hebb():
    """40 patterns in 200 units, load 0.2: above Hebb's 0.138, below the others'."""
    bits = random_bits(40, 200)
    found = {rule: hopfield.capacity(rv.Hopfield(memory=rule).fit(bits, progress=False), bits) for rule in RULES}
    assert found["hebb"].overlap_mean < 0.9
    assert found["storkey"].overlap_median > 0.97
    assert found["pseudo_inverse"].recalled == found["pseudo_inverse"].fixed == 1


def test_row_weights_say_how_strongly():
    """A weight of 2 is the row twice, one of 0 not at all."""
    import pandas as pd

    from reverie.data.sources.load import as_dataset

    bits = random_bits(5, 8)
    frame = pd.DataFrame(bits, columns=[f"v{j}" for j in range(8)]).assign(w=[2.0, 1.0, 0.0, 1.0, 1.0])
    weighted = rv.Hopfield(memory="covariance").fit(as_dataset(frame, roles={"w": "weight"}), progress=False)
    plain = rv.Hopfield(memory="covariance").fit(bits[[0, 0, 1, 3, 4]], progress=False)
    for name in ("couplings", "thresholds"):
        np.testing.assert_allclose(hopfield.parameters(weighted)[name], hopfield.parameters(plain)[name], atol=1e-12)


# ---------------------------------------------------------------------- energy


@pytest.mark.parametrize("rule", RULES)
def test_energy_is_the_double_sum_over_temperature(rule):
    bits, probe = random_bits(6, 10, share=0.3), random_bits(4, 10, seed=1)
    model = rv.Hopfield(memory=rule, temperature=0.7).fit(bits, progress=False)
    J, theta = (hopfield.parameters(model)[name] for name in ("couplings", "thresholds"))
    for s, found in zip(as_spins(probe), model.energy(probe), strict=True):
        pairs = sum(J[i, j] * s[i] * s[j] for i in range(10) for j in range(i))
        assert found == pytest.approx((-pairs - theta @ s) / 0.7, rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hidden", [0.0, 0.4])
def test_asynchronous_recall_never_raises_the_energy(rule, hidden):
    """From random states, overloaded, with and without unknown units; every trace ends in a fixed point."""
    bits, cues = random_bits(60, 90, share=0.4), random_bits(50, 90, seed=1)
    model = rv.Hopfield(memory=rule).fit(bits, progress=False)
    seen = random_bits(50, 90, seed=2, share=1 - hidden)
    found = hopfield.recall(model, cues, observed=seen if hidden else None, sweeps=500)
    assert np.diff(found.energies, axis=1).max() <= 1e-9
    assert found.energies[:, 0].mean() > found.energies[:, -1].mean() + 1
    assert found.converged.all()
    np.testing.assert_allclose(found.energies[:, -1], model.energy(found.patterns), rtol=1e-9)
    if hidden:
        np.testing.assert_array_equal(found.patterns[seen], cues[seen])
    else:
        assert hopfield.capacity(model, found.patterns).fixed == 1


def test_a_sweep_is_one_spin_after_the_other():
    """The blocks' bookkeeping against a plain loop in the same order, several sweeps, 150 units, a fifth clamped."""
    network = memory("hebb", random_bits(40, 150))
    source = torch.Generator().manual_seed(0)
    s = torch.where(torch.rand(150, 20, generator=source) < 0.5, -1.0, 1.0).double()
    free = torch.rand(150, 20, generator=source) < 0.8
    own, fields = s.clone(), network.field(s.t()).t().clone()
    want = s.clone()
    for _ in range(3):
        order = torch.randperm(150, generator=source)
        network.relax(own, fields, order, free, own.clone())
        for i in order:
            field = network.J[i] @ want
            new = torch.where(field.abs() <= 1e-9, want[i], field.sign())
            want[i] = torch.where(free[i], new, want[i])
        assert torch.equal(own, want)
        torch.testing.assert_close(fields, network.field(own.t()).t(), atol=1e-10, rtol=0)


def test_synchronous_recall_may_cycle():
    """Two units that excite each other, started apart, swap for ever when moved at once, and settle one by one."""
    model = rv.Hopfield().fit(np.array([[1, 1], [0, 0]]), progress=False)
    cue = np.array([[1, 0]])
    both = hopfield.recall(model, cue, update="synchronous", sweeps=9)
    assert not both.converged.any()
    np.testing.assert_array_equal(both.patterns, [[0, 1]])
    single = hopfield.recall(model, cue, sweeps=9)
    assert single.converged.all()
    assert single.patterns[0, 0] == single.patterns[0, 1]


def test_recall_does_not_depend_on_the_chunk_and_is_seeded():
    bits, cues = random_bits(30, 100), random_bits(25, 100, seed=1)
    model = rv.Hopfield().fit(bits, progress=False)
    whole = hopfield.recall(model, cues, seed=4)
    again = hopfield.recall(model, cues, seed=5)
    model.chunk = 3
    cut = hopfield.recall(model, cues, seed=4)
    np.testing.assert_array_equal(whole.patterns, cut.patterns)
    np.testing.assert_allclose(whole.energies, cut.energies)
    assert not np.array_equal(whole.patterns, again.patterns)


# ---------------------------------------------------------------------- theory


@pytest.mark.parametrize("load", [0.2, 0.5])
def test_crosstalk_flips_as_many_bits_as_theory_says(load):
    """At the first synchronous step from a stored pattern a bit is wrong with probability
    P(1 + (P - 1) / N + sqrt((P - 1) / N) z < P / N) -> erfc(sqrt(1 / (2 alpha))) / 2 (Hertz, Krogh & Palmer 1991, eq. 2.14);
    16 networks of 200 or 500 patterns, within 5 standard errors between networks."""
    units, shares = 1000, []
    for seed in range(16):
        bits = random_bits(round(load * units) + 1, units, seed=seed)
        network = memory("hebb", bits)
        s = torch.from_numpy(as_spins(bits))
        shares.append(float((s * network.field(s) < 0).double().mean()))
    want = 0.5 * math.erfc(math.sqrt(1 / (2 * load)))
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert error < 0.02 * want
    assert abs(np.mean(shares) - want) < 5 * error + 0.005 * want  # crosstalk is a binomial, normal to 1 / N


# ---------------------------------------------------------------------- the law of samples


def every(units: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


@pytest.mark.parametrize("rule", ["hebb", "covariance"])
def test_log_prob_is_listed(rule):
    model = rv.Hopfield(memory=rule, temperature=0.9).fit(random_bits(4, 6, share=0.4), progress=False)
    J, theta = (hopfield.parameters(model)[name] for name in ("couplings", "thresholds"))
    s = 2 * every(6).numpy() - 1
    weight = np.exp((0.5 * np.einsum("ni,ij,nj->n", s, J, s) + s @ theta) / 0.9)
    np.testing.assert_allclose(model.log_prob(every(6).numpy() > 0), np.log(weight / weight.sum()), atol=1e-12)


@pytest.mark.parametrize("rule", ["hebb", "covariance"])
def test_gibbs_draws_the_listed_distribution(rule):
    """Chi-square of 60,000 chains after 40 sweeps, p > 1e-4; with the temperature 5 % off it must fail."""
    network, n = memory(rule, random_bits(4, 6, seed=2, share=0.4), temperature=0.9), 60_000
    p = torch.softmax(-network.energy(every(6)), 0).numpy()

    def p_value() -> float:
        x = network.sample(RowNoise(11, n, dtype=torch.float64), None, sweeps=40)
        codes = (x @ 2.0 ** torch.arange(5, -1, -1, dtype=torch.float64)).long()
        return float(stats.chisquare(np.bincount(codes.numpy(), minlength=64), n * p).pvalue)

    assert p_value() > 1e-4
    network.temperature *= 1.05
    assert p_value() < 1e-4


def test_draws_of_missing_bits_follow_the_conditional():
    """Two of six bits given: 40,000 completions against the listed conditional."""
    network, n = memory("hebb", random_bits(4, 6, seed=2), temperature=0.9), 40_000
    states = every(6)
    match = (states[:, 0] == 1) & (states[:, 4] == 0)
    p = torch.softmax(-network.energy(states[match]), 0).numpy()
    x = torch.zeros(n, 6, dtype=torch.float64)
    x[:, 0] = 1
    seen = torch.zeros(n, 6, dtype=torch.bool)
    seen[:, [0, 4]] = True
    found = network.conditional(x, seen, None, RowNoise(3, n, dtype=torch.float64), mean=False, sweeps=40)
    assert (found[:, 0] == 1).all()
    assert (found[:, 4] == 0).all()
    codes = (found[:, [1, 2, 3, 5]] @ torch.tensor([8.0, 4, 2, 1], dtype=torch.float64)).long()
    assert stats.chisquare(np.bincount(codes.numpy(), minlength=16), n * p).pvalue > 1e-4
