"""Deep Boltzmann machines and deep belief networks against listing all states: log Z, gradients, bounds, chains."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.models.energy.dbm import DBMNetwork
from reverie.probability.machines.belief import BeliefNetwork
from reverie.probability.machines.deep import DeepMachine
from reverie.probability.machines.restricted import Side
from reverie.probability.machines.units import Bernoulli, Categorical, Gaussian, SideBySide, Spin
from reverie.rng import RowNoise

torch.manual_seed(0)


def random_parameters(network: torch.nn.Module, scale: float, seed: int = 3) -> None:
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=source, dtype=torch.float64))


def machine(widths=(4, 3, 3, 2), *, scale: float = 0.7, labels: int = 0, visible=None, **options) -> DeepMachine:
    layers = [visible or Bernoulli(widths[0]), *(Bernoulli(width) for width in widths[1:])]
    network = DeepMachine(layers, labels=labels, **options).double()
    random_parameters(network, scale)
    return network


def all_states(network: DeepMachine) -> list[torch.Tensor]:
    """Every joint state, by layer."""
    lists = [layer.states(0, math.prod(layer.radices)) for layer in network.layers]
    index = torch.cartesian_prod(*(torch.arange(len(rows)) for rows in lists))
    return [rows[index[:, number]] for number, rows in enumerate(lists)]


def energy(network: DeepMachine, states: list[torch.Tensor], temperature: float = 1.0) -> torch.Tensor:
    """E by its definition, layer after layer."""
    total = -sum(x @ b for x, b in zip(states, network.b, strict=True))
    for weights, low, high in zip(network.W, states, states[1:], strict=False):
        total = total - ((low @ weights) * high).sum(1)
    return total / temperature


def groups(states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat(states[::2], 1), torch.cat(states[1::2], 1)


@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 3), (4, 3, 3, 2), (3, 2, 2, 2, 2)])
@pytest.mark.parametrize("labels", [0, 3])
def test_log_z_and_energies(widths, labels):
    network = machine(widths, labels=labels)
    states = all_states(network)
    own = energy(network, states)
    even, odd = groups(states)
    torch.testing.assert_close(network.joint_energy(even, odd), own)
    want = float(torch.logsumexp(-own, 0).detach())
    assert network.exact_log_partition() == pytest.approx(want, abs=1e-9)
    if labels:
        by_class = [torch.logsumexp(-own[states[-1][:, k] > 0], 0).item() for k in range(labels)]
        np.testing.assert_allclose(network.class_log_partitions(), by_class, atol=1e-9)


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_ais_sandwiches_log_z(labels, flip, monkeypatch):
    """At 4 standard errors either side; seeds are fixed."""
    monkeypatch.setattr(DeepMachine, "flip", flip)
    network = machine(labels=labels)
    network.even_mean.lerp_(torch.rand(network.even.width, dtype=torch.float64), 0.3)
    exact = network.exact_log_partition()
    found = network.annealed_log_partition(chains=300, temperatures=200, burn_in=100)
    assert found["standard_error"] < 0.1
    assert found["log_z"] - 4 * found["standard_error"] <= exact
    assert exact <= found["log_z_reverse"] + 4 * found["standard_error_reverse"]
    assert abs(found["log_z"] - exact) < 0.3


def expectation(network: DeepMachine, states: list[torch.Tensor], p: torch.Tensor) -> Side:
    even, odd = groups(states)
    return Side(even, odd, p)


@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 3), (4, 3, 3, 2)])
@pytest.mark.parametrize("labels", [0, 2])
def test_the_gradient_is_that_of_the_exact_log_likelihood(widths, labels):
    """With exact expectations over all states in place of mean field and chains, to 1e-10."""
    network = machine(widths, labels=labels)
    data = (torch.rand(5, widths[0], generator=torch.Generator().manual_seed(0)) < 0.5).double()
    states = all_states(network)
    own = energy(network, states)
    matches = (states[0][None] == data[:, None]).all(2)  # (rows, states)
    loss = torch.logsumexp(-own, 0) - torch.stack([torch.logsumexp(-own[row], 0) for row in matches]).mean()
    learned = list(network.parameters())
    want = torch.autograd.grad(loss, learned)
    with torch.no_grad():
        free = torch.softmax(-own, 0)
        clamped = torch.stack([torch.softmax(torch.where(row, -own, -torch.inf), 0) for row in matches]).mean(0)
        found = network.gradient(
            expectation(network, states, clamped), expectation(network, states, free), lambda sums: None
        )
    for parameter, gradient in zip(learned, want, strict=True):
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-10, atol=1e-10)


def test_the_centred_gradient_is_that_of_the_centred_machine():
    """A step on (W, b') of the machine written in x - m moves the plain biases by db'_l - sum of dW m of the neighbours:
    the found step equals that to first order of a small rate."""
    network = machine((4, 3, 2), centring=1e-300)
    offsets = [0.2 + 0.1 * number + 0.05 * torch.arange(w, dtype=torch.float64) for number, w in enumerate((4, 3, 2))]
    for number, offset in enumerate(offsets):
        network.part_of_mean(number).copy_(offset)
    states = all_states(network)
    p = torch.softmax(-energy(network, states).detach(), 0)
    q = torch.softmax(torch.randn(len(p), generator=torch.Generator().manual_seed(1), dtype=torch.float64), 0)
    with torch.no_grad():
        found = network.gradient(expectation(network, states, q), expectation(network, states, p), lambda sums: None)
        mean = [[weight @ x for x in states] for weight in (q, p)]
        for l, weights in enumerate(network.W):  # noqa: E741
            low, high = states[l] - offsets[l], states[l + 1] - offsets[l + 1]
            dw = (low * p[:, None]).t() @ high - (low * q[:, None]).t() @ high
            torch.testing.assert_close(found[weights], dw)
        for l, bias in enumerate(network.b):  # noqa: E741
            db = mean[1][l] - mean[0][l]
            if l > 0:
                db = db - offsets[l - 1] @ found[network.W[l - 1]]
            if l < 2:
                db = db - found[network.W[l]] @ offsets[l + 1]
            torch.testing.assert_close(found[bias], db)


def exact_log_prob(network: DeepMachine) -> tuple[torch.Tensor, torch.Tensor]:
    """All visible states and log p of each."""
    states = all_states(network)
    own = -energy(network, states).detach()
    visible = network.layers[0].states(0, math.prod(network.layers[0].radices))
    rows = (states[0][None] == visible[:, None]).all(2)
    found = torch.stack([torch.logsumexp(own[row], 0) for row in rows])
    return visible, found - torch.logsumexp(own, 0)


@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 3), (4, 3, 3, 2)])
def test_bounds_are_below_and_close_in(widths):
    """The mean-field bound is below log p(v), tighter with draws, and exact where no even unit is hidden. 2,000 draws
    leave an error of about sd(w) / sqrt(2000), 0.03 nats at most here."""
    network = machine(widths, scale=0.6)
    v, log_p = exact_log_prob(network)
    log_z = network.exact_log_partition()
    with torch.no_grad():
        bound = network.bound(v) - log_z
        tight = network.bound(v, RowNoise(0, len(v), dtype=torch.float64), 2000) - log_z
    if len(widths) == 2:
        torch.testing.assert_close(bound, log_p)
        return
    assert (bound <= log_p + 1e-9).all()
    assert (bound < log_p - 1e-6).any()
    assert (log_p - bound).max() < 0.3
    torch.testing.assert_close(tight, log_p, atol=0.1, rtol=0)
    assert (tight - log_p).mean().abs() < 0.01


def test_mean_field_is_a_fixed_point_and_damping_finds_the_same():
    network = machine((5, 4, 3), scale=0.4)
    damped = machine((5, 4, 3), scale=0.4, damping=0.5, passes=200)
    network.passes = 200  # in training mode, where they are counted
    network.tolerance = damped.tolerance = 1e-12
    x = (torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.5).double()
    with torch.no_grad():
        even, odd = network.infer(x)
        assert (
            odd - network.split(*groups(network.bottom_up(x)))[1]
        ).abs().max() > 0.01  # it moved away from the start
        torch.testing.assert_close(network.odd.mean(network.odd_field(even)), odd)
        above = network.even.mean(network.even_field(odd))[:, x.shape[1] :]
        torch.testing.assert_close(torch.cat([x, above], 1), even)
        for one, other in zip(damped.infer(x), (even, odd), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("widths", [(5, 4), (5, 4, 3), (5, 4, 3, 3)])
def test_the_first_mean_field_pass_is_the_one_that_pretraining_trained(widths):
    network = machine(widths, pretrained=True)
    x = (torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.5).double()
    with torch.no_grad():
        means = network.bottom_up(x)
        for number in range(len(widths) - 1):
            torch.testing.assert_close(network.stage(number).hidden_given(means[number]), means[number + 1])
        # doubled bottom-up input is what a layer gets from both sides when the layer above mirrors the one below
        stage = network.stage(0)
        scale = 2.0 if len(widths) > 2 else 1.0
        torch.testing.assert_close(stage.odd_field(x), network.b[1] + scale * x @ network.W[0])
        top = network.stage(len(widths) - 2)
        assert top.up_scale == 1.0
        assert top.down_scale == (2.0 if len(widths) > 2 else 1.0)
    stage.W.data.add_(1.0)
    assert stage.W is network.W[0]  # on the machine's own tensors


# How often weights count between layers i and i + 1 (Salakhutdinov & Hinton 2009, section 3.1): twice towards a layer that
# will hear from its other side too.
UPWARDS = {2: [1.0], 3: [2.0, 1.0], 4: [2.0, 2.0, 1.0], 5: [2.0, 2.0, 2.0, 1.0]}
DOWNWARDS = {2: [1.0], 3: [1.0, 2.0], 4: [1.0, 2.0, 2.0], 5: [1.0, 2.0, 2.0, 2.0]}


@pytest.mark.parametrize("widths", [(5, 4), (5, 4, 3), (5, 4, 3, 3), (3, 2, 2, 2, 2)])
def test_pretraining_doubles_weights_towards_layers_with_two_neighbours(widths, monkeypatch):
    network = machine(widths, pretrained=True)
    up, down = UPWARDS[len(widths)], DOWNWARDS[len(widths)]
    with torch.no_grad():
        for number, weights in enumerate(network.W):
            stage, low, high = network.stage(number), torch.rand(6, widths[number]), torch.rand(6, widths[number + 1])
            low, high = low.double(), high.double()
            torch.testing.assert_close(stage.odd_field(low), network.b[number + 1] + up[number] * (low @ weights))
            torch.testing.assert_close(stage.even_field(high), stage.b + down[number] * (high @ weights.t()))
        # what a stage learns from comes up the same way, and what the top dreams of goes down the same way
        monkeypatch.setattr(Bernoulli, "sample", lambda self, field, noise, *rest: self.mean(field))
        x = means = torch.rand(6, widths[0]).double()
        for number in range(len(widths) - 1):
            torch.testing.assert_close(network.lift(x, number, RowNoise(0, 6)), means)
            torch.testing.assert_close(network.bottom_up(x)[number], means)
            means = torch.sigmoid(network.b[number + 1] + up[number] * (means @ network.W[number]))


def test_a_doubled_stage_learns_by_its_centred_gradient():
    """Fields of centred units: c + up (v - m) W and b + down W (h - l), so a step on W moves the plain biases by as much."""
    network = machine((5, 4, 3, 3), pretrained=True, centring=0.01)
    stage = network.stage(1)
    even, odd = [torch.rand(7, 4).double() for _ in "+-"], [torch.rand(7, 3).double() for _ in "+-"]
    share = torch.full((7,), 1 / 7, dtype=torch.float64)
    sides = [Side(v, h.clone(), share) for v, h in zip(even, odd, strict=True)]
    with torch.no_grad():
        found = stage.gradient(*sides, lambda parts: None)
    m, l = stage.v_offset, stage.h_offset  # noqa: E741 - the letters of the paper
    dw = ((even[1] - m).t() @ (odd[1] - l) - (even[0] - m).t() @ (odd[0] - l)) / 7
    torch.testing.assert_close(found[stage.W], dw)
    torch.testing.assert_close(found[stage.b], even[1].mean(0) - even[0].mean(0) - 2 * dw @ l)
    torch.testing.assert_close(found[stage.c], odd[1].mean(0) - odd[0].mean(0) - 2 * m @ dw)


@pytest.mark.parametrize("widths", [(5, 4), (5, 4, 3), (5, 4, 3, 3), (3, 2, 2, 2, 2)])
def test_one_pass_down_and_the_unrolled_classifier_double_what_lacks_a_neighbour(widths):
    network = DBMNetwork([Bernoulli(width) for width in widths], outputs=2).double()
    random_parameters(network, 0.7)
    network.unroll()
    x = z = torch.rand(6, widths[-1]).double()
    for number in reversed(range(len(widths) - 1)):
        z = torch.sigmoid(network.b[number] + DOWNWARDS[len(widths)][number] * (z @ network.W[number].t()))
    torch.testing.assert_close(network.decode(x, None), z)
    for number, weights in enumerate(network.W):
        # the first layer hears from the second through inputs of their own, the last has nothing above it
        double = 2.0 if 0 < number < len(widths) - 2 else 1.0
        below = [double * weights] if number or len(widths) == 2 else [weights, network.W[1].t()]
        torch.testing.assert_close(network.classifier.maps[number].weight.t(), torch.cat(below))
        torch.testing.assert_close(network.classifier.maps[number].bias, network.b[number + 1])


def two_groups(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of eight bits: a prototype for each class, every bit flipped once in ten."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, n)
    prototypes = np.array([[1, 1, 0, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1, 0, 1]], bool)
    return prototypes[group] ^ (rng.random((n, 8)) < 0.1), np.array(["left", "right"])[group]


@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 3)])
def test_filled_bits_follow_the_conditional_given_the_label(widths):
    """2,000 rows alike: means over clamped sweeps within 0.02 of listing all states."""
    network = DBMNetwork([Bernoulli(width) for width in widths], labels=2).double()
    random_parameters(network, 0.7)
    states = all_states(network)
    n, x, observed = 2000, torch.tensor([1.0, 0.0, 0.0, 0.0]).double(), torch.tensor([True, False, True, False])
    for k in range(2):
        agree = (states[0][:, observed] == x[observed]).all(1) & (states[-1][:, k] > 0)
        want = torch.softmax(-energy(network, states)[agree], 0) @ states[0][agree]
        y = torch.eye(2, dtype=torch.float64)[k].expand(n, -1)
        noise = RowNoise(0, n, dtype=torch.float64)
        with torch.no_grad():
            found = network.conditional(x.expand(n, -1), observed.expand(n, -1), y, noise, mean=True, sweeps=20)
        assert (found.mean(0) - want).abs().max() < 0.02
        assert (found[:, observed] == x[observed]).all()


@pytest.mark.parametrize("family", ["rbm", "dbn", "dbm"])
def test_labels_are_units(family):
    """The class is predicted, sampled and scored; log p(x) sums p(y) p(x | y)."""
    X, y = two_groups(600)
    recipe = {
        "rbm": rv.RBM(hidden=8, lr=0.3),
        "dbn": rv.DBN(hidden=(8, 6), lr=0.3),
        "dbm": rv.DBM(hidden=(8, 6), lr=0.3),
    }[family]
    model = recipe.fit(X, y, epochs=80 if family == "rbm" else 160, batch_size=50, seed=0, progress=False, ema=0.9)
    T, t = two_groups(300, 1)
    right = (model.predict(T) == t).mean()
    assert right > 0.9
    drawn = model.sample(300, y=t, seed=0, sweeps=100)
    assert (model.predict(drawn) == t).mean() > 0.85
    given = np.stack([model.log_prob(T, y=label) for label in model.classes])
    prior = model.network.class_log_prior().numpy() if family != "dbn" else None
    if family == "rbm":
        np.testing.assert_allclose(np.logaddexp(*(given + prior[:, None])), model.log_prob(T), rtol=1e-8)
    chosen = np.where(t == model.classes[0], given[0], given[1])
    assert (chosen - model.log_prob(T)).mean() > 0.3  # the class is worth up to log 2
    held = X[:20].astype(float)
    held[:, 4:] = np.nan
    assert not np.isnan(np.asarray(model.impute(held, y=y[:20]), float)).any()


@pytest.mark.parametrize("family", ["dbn", "dbm"])
def test_finetuning_unrolls_into_a_classifier_and_leaves_the_generative_part(family):
    X, y = two_groups(400)
    recipe = rv.DBN(hidden=(8, 6)) if family == "dbn" else rv.DBM(hidden=(8, 6))
    model = recipe.fit(X, epochs=20, batch_size=50, seed=0, progress=False)
    tuned = rv.finetune(model, X, y, epochs=60, batch_size=50, seed=0, progress=False, finetune_lr=0.01)
    T, t = two_groups(300, 1)
    assert (tuned.predict(T) == t).mean() > 0.9
    np.testing.assert_allclose(tuned.predict_proba(T).sum(1), 1)
    np.testing.assert_allclose(tuned.log_prob(T), model.log_prob(T), atol=1e-5)
    assert "predict" not in model.can
    with pytest.raises(rv.errors.InvalidOption, match="predicts y from x"):
        tuned.sample(2, y="left")
    numbers = rv.finetune(model, X, X.sum(1) + 0.5, epochs=60, batch_size=50, progress=False, finetune_lr=0.01)
    assert np.abs(numbers.predict(T) - T.sum(1) - 0.5).mean() < 0.7
    assert "predict_proba" not in numbers.can
    with pytest.raises(rv.errors.InvalidOption, match="no y to predict"):
        rv.finetune(model, X, head=True, epochs=1)


def test_joint_training_raises_the_bound_over_pretraining():
    X, _ = two_groups(600)
    shared = {"epochs": 90, "batch_size": 50, "seed": 0, "progress": False, "ema": 0.9}
    alone = rv.DBM(hidden=(8, 6), pretrain=1.0, lr=1e-9).fit(X, **shared)
    joint = rv.DBM(hidden=(8, 6), pretrain=1.0, lr=0.1).fit(X, **shared)
    assert joint.log_prob_kind == "lower bound"
    assert joint.log_prob(X).mean() > alone.log_prob(X).mean() + 0.05


# ---------------------------------------------------------------------- deep belief networks


def belief(widths=(4, 3, 2), **options) -> BeliefNetwork:
    network = BeliefNetwork(Bernoulli(widths[0]), widths[1:], **options).double()
    random_parameters(network, 0.8)
    return network


def exact_belief(network: BeliefNetwork) -> torch.Tensor:
    """log p(v, y) by listing v, the hidden layers, and y: (visible states,) or (visible states, classes)."""
    v = network.machine(0).data_units.states(0, 2 ** network.widths[0])
    layers = [
        torch.tensor(list(itertools.product([0.0, 1.0], repeat=w)), dtype=torch.float64) for w in network.widths[1:-1]
    ]
    total = torch.zeros(len(v), 1, dtype=torch.float64)
    # path sums from v upwards: P(below | above), then the top machine's own distribution of its lower layer
    for number, above in enumerate(layers):
        below = v if number == 0 else layers[number - 1]
        machine = network.machine(number)
        field = machine.even_field(above)
        log_p = below @ field.t() - machine.even.log_partition(field)  # (below, above)
        total = log_p if number == 0 else torch.logsumexp(total[:, :, None] + log_p[None], 1)
    top, last = network.top, layers[-1]
    score = top.label_scores(last) if network.labels else -top.even_energy(last)[:, None]
    return torch.logsumexp(total[:, :, None] + (score - top.exact_log_partition())[None], 1)


@pytest.mark.parametrize("widths", [(4, 3, 2), (4, 3, 3, 2)])
@pytest.mark.parametrize("labels", [0, 3])
def test_the_belief_bound(widths, labels):
    network = belief(widths, labels=labels)
    with torch.no_grad():
        exact = exact_belief(network)
        assert torch.logsumexp(exact.flatten(), 0).item() == pytest.approx(0, abs=1e-9)
        v = network.machine(0).data_units.states(0, 2 ** widths[0])
        noise = RowNoise(0, len(v), dtype=torch.float64)
        log_z = network.top.exact_log_partition()
        loose = torch.stack([network.bound(v, noise, 1) for _ in range(400)]).mean(0) - log_z
        tight = network.bound(v, noise, 10_000) - log_z
        marginal = torch.logsumexp(exact, 1)
        assert (loose < marginal + 0.05).all()
        assert (marginal - loose).max() > 0.01
        torch.testing.assert_close(tight, marginal, atol=0.15, rtol=0)
        if labels:
            y = torch.eye(labels, dtype=torch.float64)[torch.arange(len(v)) % labels]
            joint = network.bound(v, noise, 10_000, y) - log_z
            torch.testing.assert_close(joint, (exact * y).sum(1), atol=0.15, rtol=0)


def test_wake_and_sleep_descend_their_own_losses():
    """Closed-form gradients against autograd of -log p(below | above) and -log q(above | below)."""
    network = belief((4, 3, 3, 2), untied=True)
    network.untie()
    random_parameters(network.recognition, 0.5, seed=8)
    x = (torch.rand(9, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    share = torch.softmax(torch.arange(9.0, dtype=torch.float64) / 9, 0)
    with torch.no_grad():
        states = network.up(x, RowNoise(0, 9, dtype=torch.float64))
        wake = network.wake(states, share)
        dream = network.down(states[-1], RowNoise(1, 9, dtype=torch.float64))[::-1]
        sleep = network.sleep(states[-1], share, RowNoise(1, 9, dtype=torch.float64))
    loss = torch.zeros((), dtype=torch.float64)
    for number, (below, above) in enumerate(itertools.pairwise(states)):
        layer = network.machine(number)
        field = layer.even_field(above)
        loss = loss - share @ ((below * field).sum(1) - layer.even.log_partition(field))
    for parameter, gradient in wake.items():
        torch.testing.assert_close(gradient, torch.autograd.grad(loss, parameter, retain_graph=True)[0])
    loss = torch.zeros((), dtype=torch.float64)
    for layer, (below, above) in zip(network.recognition.maps, itertools.pairwise(dream), strict=True):
        loss = loss - share @ torch.nn.functional.logsigmoid(layer(below) * (2 * above - 1)).sum(1)
    for parameter, gradient in sleep.items():
        torch.testing.assert_close(gradient, torch.autograd.grad(loss, parameter, retain_graph=True)[0])
    assert len(wake) == len(sleep) == 4


def test_up_down_improves_a_stack():
    X, _ = two_groups(600)
    shared = {"batch_size": 50, "seed": 0, "progress": False, "ema": 0.9}
    stack = rv.DBN(hidden=(10, 6), lr=0.1).fit(X, epochs=20, **shared)
    tuned = rv.DBN(hidden=(10, 6), lr=0.1, updown=8.0, updown_lr=0.1).fit(X, epochs=100, **shared)
    assert tuned.log_prob(X, samples=50).mean() > stack.log_prob(X, samples=50).mean() + 0.1


def test_visible_numbers_in_a_deep_machine():
    """Codes and numbers side by side at the bottom."""
    layers = [SideBySide([Categorical(1, 3), Gaussian(2)]), Spin(2), Bernoulli(2)]
    network = DeepMachine(layers).double()
    random_parameters(network, 0.4)
    assert network.exact_log_partition() == pytest.approx(float(sum_over_numbers(network).detach()), abs=1e-6)


@pytest.mark.parametrize("centring", [0.0, 0.05])
def test_two_layers_learn_as_a_restricted_machine_does(centring):
    """Weights, biases and what numbers learn of their variance."""
    network = DeepMachine([SideBySide([Categorical(1, 3), Gaussian(2)]), Bernoulli(3)], centring=centring).double()
    random_parameters(network, 0.4)
    other = copy.deepcopy(network)  # offsets move with every gradient
    rng = torch.Generator().manual_seed(1)
    share = torch.full((6,), 1 / 6, dtype=torch.float64)
    even = [torch.randn(6, 5, generator=rng, dtype=torch.float64) for _ in "+-"]
    odd = [torch.rand(6, 3, generator=rng, dtype=torch.float64) for _ in "+-"]
    with torch.no_grad():
        found, want = (
            one.gradient(*(Side(v, h.clone(), share) for v, h in zip(even, odd, strict=True)), lambda sums: None)
            for one in (network, other.stage(0))
        )
    assert list(network.even_units.parameters())
    for parameter, alike in zip(network.parameters(), other.parameters(), strict=True):
        assert want[alike].abs().max() > 1e-3
        torch.testing.assert_close(found[parameter], want[alike])


def sum_over_numbers(network: DeepMachine) -> torch.Tensor:
    """log Z by listing the odd units and summing the even ones out."""
    odd = network.odd.states(0, 4)
    return torch.logsumexp(network.even.log_partition(network.even_field(odd)) + odd @ network.odd_bias, 0)


@pytest.mark.parametrize("widths", [(6, 4), (6, 4, 3), (6, 4, 3, 2)])
@pytest.mark.parametrize("samples", [0, 5])
@torch.no_grad()
def test_bounds_by_class_are_those_of_the_machines_with_the_class_clamped(widths, samples):
    network = machine(widths, labels=3)
    x = (torch.rand(7, 6, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    noises = [RowNoise(1, 7), RowNoise(1, 7)]
    own = [network.of_class(k).bound(x, noises[0], samples) for k in range(3)]
    found = network.class_bounds(x, noises[1], samples)
    assert torch.equal(found, torch.stack(own, 1) + network.label_bias)
