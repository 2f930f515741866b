"""The temporal RBM against listing all states, autograd, loops over sequences, and what it was drawn from."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import reverie as rv
from reverie.data.forms.reading import read_table
from reverie.data.space import Ragged
from reverie.models import temporal_rbm
from reverie.models.energy.temporal_rbm import TemporalNetwork, TemporalRBM
from reverie.probability.machines.restricted import Penalties, Side
from reverie.probability.machines.units import Bernoulli, Categorical, Gaussian, SideBySide, Units, units
from reverie.rng import RowNoise

VISIBLE = {
    "bits": lambda: Bernoulli(4),
    "codes": lambda: SideBySide([Categorical(1, 3), Bernoulli(2)]),
    "numbers": lambda: SideBySide([Bernoulli(1), Gaussian(2)]),
}
QUIET = {"progress": False}


def machine(
    visible: str = "bits", hidden: str = "bernoulli", *, order: int = 2, centring: float = 0.0, l2: float = 0.0
):
    layer: Units = VISIBLE[visible]()
    real = torch.zeros(layer.width, dtype=torch.bool)
    if visible == "numbers":
        real[1:] = True
    network = TemporalNetwork(
        layer,
        units(hidden, 3, learn_variance=False),
        order=order,
        real=real,
        centring=centring,
        penalties=Penalties(l2),
    ).double()
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(0.4 * torch.randn(tensor.shape, generator=source, dtype=torch.float64))
        network.machine.h_offset.fill_(0.3 if centring else 0.0)
        network.machine.v_offset.fill_(0.2 if centring else 0.0)
        network.u_offset.copy_(0.1 * torch.arange(network.window_width) if centring else network.u_offset)
        if visible == "numbers":
            network.M.copy_(0.2 * torch.randn(network.M.shape, generator=source, dtype=torch.float64) * real)
            network.m.copy_(torch.tensor([0.0, 0.5, -0.3]) * torch.arange(1, order + 2)[:, None])
            network.s.copy_(torch.tensor([1.0, 0.7, 1.4]) + 0.1 * torch.arange(order + 1)[:, None] * real)
    return network


def steps(visible: str = "bits", lengths: tuple[int, ...] = (5, 1, 2, 7), seed: int = 0) -> Ragged:
    rng, n = np.random.default_rng(seed), sum(lengths)
    bits = torch.from_numpy((rng.random((n, 4)) < 0.4).astype(np.float64))
    if visible == "codes":
        code = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, 3, n)), 3).double()
        bits = torch.cat([code, bits[:, :2]], 1)
    elif visible == "numbers":
        bits = torch.cat([bits[:, :1], torch.from_numpy(rng.normal(size=(n, 2)))], 1)
    return Ragged(bits, torch.tensor(lengths))


def windows_by_loop(x: Ragged, order: int) -> torch.Tensor:
    """A frame of zeros and a 1 where a window reaches before the start."""
    out, width = [], x.values.shape[1]
    for sequence in torch.split(x.values, x.lengths.tolist()):
        for t in range(len(sequence)):
            frames = [sequence[t - k] if t >= k else torch.zeros(width).double() for k in range(1, order + 1)]
            out.append(torch.cat([*frames, torch.tensor([float(t < k) for k in range(1, order + 1)]).double()]))
    return torch.stack(out)


def energy(network: TemporalNetwork, v: torch.Tensor, h: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """E(v, h | u) as it stands in the paper, (n,), of steps as the machine has them."""
    m = network.machine
    out = -((m.b + u @ network.A) * v).sum(1) - ((m.c + u @ network.B) * h).sum(1) - ((v @ m.W) * h).sum(1)
    for layer, state in ((m.visible, v), (m.hidden, h)):
        own = layer.energy(state)
        out = out if own is None else out + own
    return out


def every(layer: Units) -> torch.Tensor:
    assert layer.radices is not None
    return layer.states(0, math.prod(layer.radices))


def joint(network: TemporalNetwork, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All visible and hidden states, and -E of every pair (visible states, hidden states) under one window."""
    v, h = every(network.machine.visible), every(network.machine.hidden)
    a, b = v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)
    return v, h, -energy(network, a, b, u.expand(len(a), -1)).view(len(v), len(h))


@pytest.mark.parametrize("order", [1, 2, 9])
def test_windows_are_those_of_a_loop(order):
    """Sequences of one step, longer and shorter than the window; some steps alone, out of order; and the ends."""
    network, x = machine(order=order), steps()
    want = windows_by_loop(x, order)
    assert torch.equal(network.windows(x), want)
    chosen = torch.tensor([14, 5, 6, 0, 9])
    assert torch.equal(network.windows(x, chosen), want[chosen])
    longer = Ragged(
        torch.cat([torch.cat([part, part[:1]]) for part in torch.split(x.values, x.lengths.tolist())]), x.lengths + 1
    )
    frames, before = network.ends(x)
    ends = windows_by_loop(longer, order)[longer.lengths.cumsum(0) - 1]
    assert torch.equal(torch.cat([frames.flatten(1), before.double()], 1), ends)


@pytest.mark.parametrize("hidden", ["bernoulli", "spin"])
@pytest.mark.parametrize("visible", ["bits", "codes"])
def test_conditionals_free_energy_and_log_z_against_listing(visible, hidden):
    network, x = machine(visible, hidden), steps(visible)
    u = network.windows(x)
    shifts = network.shifts(u)
    field, log_z = network.hidden_field(x.values, shifts), network.log_partition(shifts)
    for t in (0, 3, 5, 9):
        v, h, scores = joint(network, u[t])
        at = int((v == x.values[t]).all(1).nonzero())
        torch.testing.assert_close(log_z[t], torch.logsumexp(scores.flatten(), 0), rtol=1e-12, atol=1e-12)
        free = network.free_energy(x.values[t : t + 1], (shifts[0][t : t + 1], shifts[1][t : t + 1]))[0]
        torch.testing.assert_close(free, -torch.logsumexp(scores[at], 0), rtol=1e-12, atol=1e-12)
        mean = torch.softmax(scores[at], 0) @ h
        torch.testing.assert_close(network.machine.hidden.mean(field[t : t + 1])[0], mean, rtol=1e-12, atol=1e-12)
        given = network.visible_field(h[2:3], (shifts[0][t : t + 1], shifts[1][t : t + 1]))
        torch.testing.assert_close(
            network.machine.visible.mean(given)[0], torch.softmax(scores[:, 2], 0) @ v, rtol=1e-12, atol=1e-12
        )
        assert network.encode(x, None, None)[t].allclose(mean)


def test_the_visible_layer_is_listed_where_it_is_smaller(monkeypatch):
    """Hidden units that are numbers; and blocks of the listing do not matter."""
    network, x = machine("bits", "gaussian"), steps()
    assert network.listed is network.machine.visible
    shifts = network.shifts(network.windows(x))
    v = every(network.machine.visible)
    whole = network.log_partition(shifts)
    for t in (0, 6):
        one = (shifts[0][t : t + 1].expand(len(v), -1), shifts[1][t : t + 1].expand(len(v), -1))
        torch.testing.assert_close(whole[t], torch.logsumexp(-network.free_energy(v, one), 0), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr("reverie.probability.machines.conditional._BLOCK_NUMBERS", 20)
    torch.testing.assert_close(network.log_partition(shifts), whole, rtol=1e-12, atol=1e-12)


def test_probabilities_of_all_next_frames_sum_to_one():
    """p(v_2, v_3 | v_1 = bits) over all 2^8 continuations of a first step, and p(v_1) over all first ones."""
    network, first = machine(), torch.tensor([[1.0, 0.0, 0.0, 1.0]]).double()
    v = every(network.machine.visible)
    alone = network.sequence_log_prob(Ragged(v, torch.ones(16, dtype=torch.long)))
    torch.testing.assert_close(alone.exp().sum(), torch.tensor(1.0).double(), rtol=1e-12, atol=1e-12)
    rows = [torch.cat([first, v[a : a + 1], v[b : b + 1]]) for a, b in itertools.product(range(16), range(16))]
    log_p = network.sequence_log_prob(Ragged(torch.cat(rows), torch.full((256,), 3)))
    start = network.sequence_log_prob(Ragged(first, torch.tensor([1])))
    torch.testing.assert_close((log_p - start).exp().sum(), torch.tensor(1.0).double(), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_densities_of_numbers_integrate_to_one_in_the_units_of_the_steps():
    """The linear prediction and its spread are a change of variables: a grid over the two numbers, both values of the bit."""
    network, past = machine("numbers"), steps("numbers", (2,))
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    points = torch.cartesian_prod(torch.tensor([0.0, 1.0]).double(), grid, grid)
    rows = torch.cat([past.values.expand(len(points), -1, -1), points[:, None]], 1)
    x = Ragged(rows.flatten(0, 1), torch.full((len(points),), 3))
    last = network.step_log_prob(x).view(-1, 3)[:, 2]
    assert abs(float(last.exp().sum()) * 0.1**2 - 1) < 1e-9
    first = network.step_log_prob(Ragged(points, torch.ones(len(points), dtype=torch.long)))
    assert abs(float(first.exp().sum()) * 0.1**2 - 1) < 1e-9


@torch.no_grad()
def test_linear_predictions_are_those_of_least_squares_for_every_place():
    """The start's regressions, by place, against numpy on the windows of a loop; what they leave has variance one."""
    rows = oscillations(300, length=6)
    model = TemporalRBM(hidden=2, order=2, lr=1e-9).fit(rows, epochs=1, **QUIET)
    network = model.network.double()
    prepared = model.codec.prepare(read_table(model.schema, rows))
    x = prepared.x.to(torch.float64)
    u, place = windows_by_loop(x, 2), x.places[1]
    frames = network.frames(x.values, u)
    assert torch.allclose(network.restored(frames, u), x.values)
    for k in range(3):
        at = place == k if k < 2 else place >= 2
        inputs = torch.cat([u[at][:, : 2 * k], torch.ones(int(at.sum()), 1).double()], 1).numpy()
        slope = np.linalg.lstsq(inputs, x.values[at].numpy(), rcond=None)[0]
        left = x.values[at].numpy() - inputs @ slope
        found = (frames[at] * network.s[k]).numpy()
        assert np.sqrt(np.square(found - left).mean()) < 0.2 * left.std()  # the ridge is small
        assert 0.8 < float(frames[at].std()) < 1.2
    assert float(network.s[0].min()) > 10 * float(network.s[2].max())


def own_side(network: TemporalNetwork, u: torch.Tensor, share: torch.Tensor) -> tuple[Side, torch.Tensor]:
    """Exact expectations under p(v | u) of every window: listed over h, with numbers at plus and minus one deviation,
    which have the first two moments of v given h; with the windows they belong to."""
    m, h = network.machine, every(network.machine.hidden)
    shifts = network.shifts(u)
    evens, odds, shares, windows = [], [], [], []
    for t in range(len(u)):
        field = network.visible_field(h, (shifts[0][t : t + 1], shifts[1][t : t + 1]))
        chance = torch.softmax(m.visible.log_partition(field) + h @ (m.c + shifts[1][t]), 0) * share[t]
        mean = m.visible.mean(field)
        spread = torch.zeros(m.visible.width).double()
        if bool(network.real.any()):
            spread[network.real] = m.visible.layers[1].variance.sqrt()
        evens += [mean + spread, mean - spread]
        odds += [h, h]
        shares += [chance / 2, chance / 2]
        windows += [u[t].expand(len(h), -1)] * 2
    return Side(torch.cat(evens), torch.cat(odds), torch.cat(shares)), torch.cat(windows)


@pytest.mark.parametrize("centring", [0.0, 1e-12])
@pytest.mark.parametrize("visible", ["bits", "codes", "numbers"])
def test_gradient_against_autograd_through_listing(visible, centring):
    """Exact expectations in place of chains: rows of data and of the model with their shares, under the same windows."""
    l2 = 0.3
    network, x = machine(visible, centring=centring, l2=l2), steps(visible)
    u, n = network.windows(x), len(x.values)
    v = network.frames(x.values, u)
    share = torch.rand(n, generator=torch.Generator().manual_seed(1)).double()
    share /= share.sum()
    model, windows = own_side(network, u, share)
    loss = -(share * network.step_log_prob(x)).sum()
    for weights in (network.machine.W, network.A, network.B):
        loss = loss + 0.5 * l2 * weights.square().sum()
    parameters = list(network.parameters())
    want = dict(zip(parameters, torch.autograd.grad(loss, parameters), strict=True))
    # One row of the gradient's sums for every row of the model's side: data rows are repeated under its shares.
    times = len(windows) // n
    data = v.repeat_interleave(times, 0)
    field = network.hidden_field(data, network.shifts(windows))
    hidden = network.machine.hidden.mean(field)
    split = model.share
    with torch.no_grad():
        found = network.gradient(Side(data, hidden, split), Side(model.even, model.odd, split), windows, lambda _: None)
        if centring:  # brought back to plain parameters a centred step is another one, equal in the centred ones
            m, l, q = network.machine.v_offset, network.machine.h_offset, network.u_offset  # noqa: E741
            dw, da, db = found[network.machine.W], found[network.A], found[network.B]
            plain = [dw - l2 * network.machine.W, da - l2 * network.A, db - l2 * network.B]
            bias, hidden_bias = want[network.machine.b], want[network.machine.c]
            torch.testing.assert_close(plain[1], want[network.A] - l2 * network.A - torch.outer(q, bias))
            torch.testing.assert_close(plain[2], want[network.B] - l2 * network.B - torch.outer(q, hidden_bias))
            torch.testing.assert_close(found[network.machine.b], bias - plain[0] @ l - q @ plain[1])
            torch.testing.assert_close(found[network.machine.c], hidden_bias - m @ plain[0] - q @ plain[2])
            return
    for parameter, value in want.items():
        torch.testing.assert_close(found[parameter], value, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_gibbs_sampling_of_a_step_has_the_listed_distribution():
    """4,000 chains of 60 sweeps under one window, chi-square over the 16 frames; and so has the next step of `roll`."""
    network, x = machine(), steps()
    u = network.windows(x)[3]
    v, _, scores = joint(network, u)
    chance = torch.softmax(torch.logsumexp(scores, 1), 0)
    shifts = network.shifts(u.expand(4000, -1))
    noise = RowNoise(7, 4000, dtype=torch.float64)
    drawn, _ = network.gibbs(network.first_guess(shifts, noise), 60, shifts, noise)
    rolled = network.roll(u[:8].view(1, 2, 4).expand(4000, -1, -1), u[8:].bool().expand(4000, -1), 1, noise, sweeps=60)[
        :, 0
    ]
    for found in (drawn, rolled):
        codes = (found @ torch.tensor([1.0, 2.0, 4.0, 8.0]).double()).long()
        counts = torch.bincount(codes, minlength=16).double()
        assert stats.chisquare(counts.numpy(), (4000 * chance).numpy()).pvalue > 1e-3
    assert torch.equal(v @ torch.tensor([1.0, 2.0, 4.0, 8.0]).double(), torch.arange(16).double())


@torch.no_grad()
def test_two_steps_of_a_sample_have_the_listed_joint():
    """The first and second frame together: what `sample` feeds back is what it gives out."""
    network = machine(order=1)
    drawn = network.sample(RowNoise(3, 6000, dtype=torch.float64), None, lengths=torch.full((6000,), 2), sweeps=40)
    codes = (drawn.values @ torch.tensor([1.0, 2.0, 4.0, 8.0]).double()).long().view(-1, 2)
    pairs = torch.bincount(codes[:, 0] * 16 + codes[:, 1], minlength=256).double()
    v = every(network.machine.visible)
    rows = torch.stack([torch.stack([v[a], v[b]]) for a, b in itertools.product(range(16), range(16))])
    chance = network.sequence_log_prob(Ragged(rows.flatten(0, 1), torch.full((256,), 2))).exp() * 6000
    order = torch.argsort(chance)
    rare = order[: int((chance[order].cumsum(0) < 40).sum())]  # cells of few expected counts become one
    keep = torch.ones(256, dtype=torch.bool)
    keep[rare] = False
    seen = torch.cat([pairs[keep], pairs[~keep].sum()[None]])
    expected = torch.cat([chance[keep], chance[~keep].sum()[None]])
    assert stats.chisquare(seen.numpy(), expected.numpy() * float(seen.sum() / expected.sum())).pvalue > 1e-3


@torch.no_grad()
def test_annealing_finds_the_listed_log_z_from_both_sides():
    network, x = machine(order=1, centring=0.01), steps()
    with torch.no_grad():
        network.machine.W.mul_(3)
    u = network.windows(x)[:6]
    want = network.log_partition(network.shifts(u))
    noise = RowNoise(0, 6 * 400, dtype=torch.float64)
    found = network.annealed(u, noise, chains=400, temperatures=100, burn_in=100)
    assert float(((found.log_z - want) / found.error).abs().max()) < 4
    assert float(((found.reverse - want) / found.reverse_error).abs().max()) < 4
    assert float((found.log_z - found.reverse).abs().max()) < 0.1


def oscillations(n: int, seed: int = 0, length: int = 80) -> list[np.ndarray]:
    """Two numbers that turn with a period of 20 steps, from a phase of their own, and noise."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * (rng.random(n)[:, None] + np.arange(length) / 20)
    return list(3 + np.stack([np.sin(angle), 2 * np.cos(angle)], 2) + 0.02 * rng.normal(size=(n, length, 2)))


def test_a_learned_oscillation_goes_on():
    """20 steps ahead, a whole period, are the phase they should be, in the data's units; a repeated last value is not."""
    model = TemporalRBM(hidden=8, order=3).fit(oscillations(60), epochs=20, seed=0, **QUIET)
    fresh = oscillations(20, seed=9, length=100)
    ahead = temporal_rbm.forecast(model, [row[:80] for row in fresh], 20, mean=True, seed=0)[0]
    error = np.abs(np.stack(ahead) - np.stack([row[80:] for row in fresh])).mean()
    assert ahead[0].shape == (20, 2)
    assert error < 0.2  # the last value, repeated, is 0.96 off
    drawn = temporal_rbm.forecast(model, [row[:80] for row in fresh], 20, n_draws=2, seed=0)
    assert len(drawn) == 2
    assert not np.array_equal(drawn[0][0], drawn[1][0])


def test_likelihoods_of_a_model_are_those_of_its_steps():
    """log_prob sums one_step_log_prob, in the data's units: scaling the data moves it by the log of the scale."""
    rows = oscillations(12, length=30)
    model = TemporalRBM(hidden=4, order=2).fit(rows, epochs=3, seed=0, **QUIET)
    per_step = temporal_rbm.one_step_log_prob(model, rows)
    np.testing.assert_allclose([part.sum() for part in per_step], model.log_prob(rows), rtol=1e-9)
    larger = TemporalRBM(hidden=4, order=2).fit([10 * row for row in rows], epochs=3, seed=0, **QUIET)
    moved = larger.log_prob([10 * row for row in rows]) + 30 * 2 * math.log(10)
    np.testing.assert_allclose(moved, model.log_prob(rows), rtol=1e-3)


def test_an_estimate_agrees_with_the_exact_likelihood():
    rng = np.random.default_rng(0)
    state = np.cumsum(rng.random((40, 15)) < 0.2, 1) % 2
    rows = [
        np.where(part[:, None] == 1, [1, 1, 0, 0, 1], [0, 0, 1, 1, 0]) ^ (rng.random((15, 5)) < 0.1) for part in state
    ]
    model = TemporalRBM(hidden=6, order=1, visible="binary", lr=0.2).fit(rows, epochs=30, seed=0, **QUIET)
    exact = np.concatenate(temporal_rbm.one_step_log_prob(model, rows))
    found = temporal_rbm.estimate_log_prob(model, rows, frames=600, chains=10, temperatures=100, burn_in=30, seed=1)
    assert abs(found["nats"] - exact.mean()) < 0.02
    assert abs(found["gap"]) < 0.03
    share = np.concatenate(rows).mean(0)
    coins = np.where(np.concatenate(rows), np.log(share), np.log1p(-share)).sum(1).mean()
    assert exact.mean() > coins + 0.5  # the state is seen in the step before


def test_an_estimate_for_numbers_is_in_the_datas_units():
    """All 360 steps, so that only the annealing errs; the spreads of the first `order` steps differ from the others'."""
    rows = [5 * row for row in oscillations(12, length=30)]
    model = TemporalRBM(hidden=4, order=2).fit(rows, epochs=3, seed=0, **QUIET)
    exact = np.concatenate(temporal_rbm.one_step_log_prob(model, rows)).mean()
    found = temporal_rbm.estimate_log_prob(model, rows, frames=360, chains=10, temperatures=100, burn_in=30, seed=1)
    assert abs(found["nats"] - exact) < 0.02
    assert abs(found["nats_reverse"] - exact) < 0.02


def test_held_out_loss_is_that_of_log_prob():
    """Nats per sequence, so that stopping early watches the likelihood; without a listable layer there is none to watch."""
    rows = oscillations(20, length=20)
    model = TemporalRBM(hidden=4, order=2).fit(rows, epochs=4, validation=0.3, patience=2, seed=0, **QUIET)
    held_out, steps = model.history[-1]["validation.loss"], 20
    assert abs(held_out + model.log_prob(rows).mean()) < 3 * steps  # alike; in model units, of six of the twenty
    with pytest.raises(rv.errors.InvalidOption, match="patience"):
        TemporalRBM(hidden=40).fit(rows, epochs=4, validation=0.3, patience=2, **QUIET)


def test_reconstructions_of_frames_that_never_change_come_close():
    """Squared errors summed over three bits, of which two are always on, as the biases know from the start."""
    rows = [np.tile(np.array([True, False, True]), (10, 1))] * 8
    model = TemporalRBM(hidden=2, order=1, lr=0.3).fit(rows, epochs=5, seed=0, **QUIET)
    assert 0 <= model.history[-1]["reconstruction"] < 0.02


def test_a_weight_repeats_a_sequence():
    """Base rates and windows' means count the steps of a sequence as often as its weight says."""
    import pandas as pd

    rng = np.random.default_rng(0)
    parts = [pd.DataFrame(rng.random((9, 2)) < 0.2 + 0.1 * k, columns=["a", "b"]).assign(who=k) for k in range(6)]
    rows = pd.concat(parts)
    twice = pd.concat([rows, rows[rows.who < 2].assign(who=lambda part: part.who + 10)])
    recipe, options = TemporalRBM(hidden=2, order=1), {"epochs": 1, **QUIET}
    weighted = rv.sequences(rows.assign(w=1.0 + (rows.who < 2)), by="who", roles={"w": "weight"})
    once = recipe.fit(rv.sequences(rows, by="who"), **options).network.machine.base
    repeated = recipe.fit(rv.sequences(twice, by="who"), **options).network.machine.base
    found = recipe.fit(weighted, **options).network.machine.base
    torch.testing.assert_close(found, repeated)
    assert not torch.allclose(found, once)
