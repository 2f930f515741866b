"""RBMs on rows with missing cells, and with labels, against listing all states."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import reverie as rv
from reverie.errors import InvalidOption
from reverie.models.energy.rbm import RBMNetwork
from reverie.probability.machines.units import Bernoulli, Categorical, Gaussian, SideBySide, Spin
from reverie.rng import RowNoise

WIDE = 14
"""More hidden bits than the visible layer has: the other layer is listed."""


def network(hidden: int = 3, labels: int = 0, visible=None) -> RBMNetwork:
    torch.manual_seed(0)
    found = RBMNetwork(
        visible or SideBySide([Bernoulli(2), Categorical(1, 3), Spin(2)]), hidden, labels=labels
    ).double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(0.6 * torch.randn_like(parameter))
        found.base.copy_(0.3 * found.b)
    return found.requires_grad_(False)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Six rows of two bits, a category and two spins, each with other holes; the fifth has none, the sixth nothing else."""
    x = torch.tensor(
        [
            [1, 0, 0, 1, 0, 1, -1],
            [0, 0, 1, 0, 0, 1, 1],
            [1, 1, 0, 0, 1, -1, -1],
            [0, 1, 1, 0, 0, -1, 1],
            [1, 1, 1, 0, 0, 1, 1],
            [0, 0, 0, 0, 1, 1, 1],
        ],
        dtype=torch.float64,
    )
    observed = torch.tensor(
        [
            [1, 0, 1, 1, 1, 1, 1],
            [0, 1, 0, 0, 0, 1, 0],
            [1, 1, 0, 0, 0, 1, 1],
            [0, 0, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 0],
        ],
        dtype=torch.bool,
    )
    return torch.where(observed, x, torch.tensor(0.0, dtype=torch.float64)), observed


def agreeing(machine: RBMNetwork, x: torch.Tensor, observed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All visible states, and which of them agree with each row where it is observed, (rows, states)."""
    states = machine.visible.states(0, int(np.prod(machine.visible.radices)))
    data = states[:, : x.shape[1]]
    return states, ((data[None] == x[:, None]) | ~observed[:, None]).all(2)


@pytest.mark.parametrize("labels", [0, 2])
@pytest.mark.parametrize("hidden", [3, WIDE])
def test_missing_cells_are_summed_out(hidden, labels):
    machine = network(hidden, labels)
    x, observed = rows()
    states, agree = agreeing(machine, x, observed)
    free = -machine.even_energy(states)
    want = torch.stack([torch.logsumexp(free[row], 0) for row in agree]) - torch.logsumexp(free, 0)
    noise = RowNoise(0, len(x), dtype=torch.float64)
    torch.testing.assert_close(machine.log_prob(x, observed, None, noise), want, rtol=1e-10, atol=1e-10)
    assert float(want[-1]) == pytest.approx(0, abs=1e-12)
    means = torch.stack([torch.softmax(free[row], 0) @ machine.hidden_given(states[row]) for row in agree])
    torch.testing.assert_close(machine.encode(x, observed, None), means, rtol=1e-9, atol=1e-10)
    if not labels:
        return
    joint = torch.stack(
        [torch.stack([torch.logsumexp(free[row & (states[:, 7 + k] > 0)], 0) for row in agree]) for k in range(2)], 1
    )
    torch.testing.assert_close(machine.classify(x, observed), torch.log_softmax(joint, 1), rtol=1e-9, atol=1e-10)
    y = torch.eye(2, dtype=torch.float64)[torch.arange(6) % 2]
    of_class = torch.stack([torch.logsumexp(free[states[:, 7 + k] > 0], 0) for k in range(2)])
    given = machine.log_prob(x, observed, y, noise)
    torch.testing.assert_close(given, ((joint - of_class) * y).sum(1), rtol=1e-9, atol=1e-9)


def test_annealing_sums_missing_cells_out():
    """200 chains: the log-mean errs by sd(w) / sqrt(200), under 0.05 nats on so small a machine."""
    machine = network(4)
    x, observed = rows()
    want = machine.marginal(x, observed)
    found = machine.annealed_marginal(x, observed, RowNoise(3, 6, dtype=torch.float64), chains=200, temperatures=200)
    torch.testing.assert_close(found, want, atol=0.1, rtol=0)


def test_numbers_are_integrated_out():
    """One missing number between two bits: against quadrature over it."""
    machine = network(3, visible=SideBySide([Bernoulli(2), Gaussian(2)]))
    machine.visible.layers[1].log_variance.copy_(torch.tensor([0.3, -0.4]))
    x = torch.tensor([[1.0, 0.0, 0.7, 0.0]], dtype=torch.float64)
    observed = torch.tensor([[True, True, True, False]])
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    full = x.repeat(len(grid), 1)
    full[:, 3] = grid
    want = torch.log(torch.trapezoid(torch.exp(-machine.even_energy(full)), grid))
    assert float(machine.marginal(x, observed)) == pytest.approx(float(want), abs=1e-7)


def test_filled_cells_follow_the_conditional():
    """40,000 rows alike, 30 clamped sweeps: shares of the missing bits within 4.5 standard errors."""
    machine = network(3)
    x, observed = rows()
    states, agree = agreeing(machine, x, observed)
    p = torch.softmax(-machine.even_energy(states)[agree[1]], 0)
    want = p @ states[agree[1]]
    n = 40_000
    noise = RowNoise(1, n, dtype=torch.float64)
    drawn = machine.fill(x[1].expand(n, -1), None, observed[1].expand(n, -1), noise, 30)
    assert (drawn[:, observed[1]] == x[1, observed[1]]).all()
    error = 4.5 * drawn.std(0) / n**0.5 + 1e-12
    assert ((drawn.mean(0) - want).abs() <= error).all()


@pytest.mark.parametrize("labels", [2, 3])
def test_classes_by_bayes_rule(labels):
    machine = network(3, labels)
    states = machine.visible.states(0, int(np.prod(machine.visible.radices)))
    free = -machine.even_energy(states)
    x = states[:, :7].unique(dim=0)
    joint = torch.stack(
        [
            torch.stack([free[(states[:, :7] == row).all(1) & (states[:, 7 + k] > 0)][0] for row in x])
            for k in range(labels)
        ],
        1,
    )
    torch.testing.assert_close(machine.classify(x, None), torch.log_softmax(joint, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(machine.class_log_prior(), torch.log_softmax(torch.logsumexp(joint, 0), 0))
    noise = RowNoise(0, len(x), dtype=torch.float64)
    for k in range(labels):
        y = torch.eye(labels, dtype=torch.float64)[k].expand(len(x), -1)
        assert float(torch.logsumexp(machine.log_prob(x, None, y, noise), 0)) == pytest.approx(0, abs=1e-9)
    assert float(torch.logsumexp(machine.log_prob(x, None, None, noise), 0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("labels", [2, 3])
def test_hidden_means_with_the_label_given_and_summed_out(labels):
    machine = network(3, labels)
    x = machine.visible.states(0, 24)[:, :7].unique(dim=0)
    labelled = [machine.hidden_given(machine.rows(x, one.expand(len(x), -1))) for one in torch.eye(labels).double()]
    for k in range(labels):
        y = torch.eye(labels, dtype=torch.float64)[k].expand(len(x), -1)
        torch.testing.assert_close(machine.hidden_mean(x, y), labelled[k])
    chance = machine.classify(x, None).exp()
    want = sum(chance[:, k : k + 1] * labelled[k] for k in range(labels))
    torch.testing.assert_close(machine.hidden_mean(x, None), want)


def test_the_discriminative_gradient_is_that_of_autograd():
    machine = network(4, 3).requires_grad_(True)
    x = machine.visible.states(0, 40)[:, :7]
    y = torch.eye(3, dtype=torch.float64)[torch.arange(40) % 3]
    y[::7] = 0  # rows without a label count nothing
    share = torch.softmax(torch.arange(40.0, dtype=torch.float64) / 40, 0)
    loss = -(share * (torch.log_softmax(machine.class_scores(x), 1) * y).sum(1)).sum()
    want = torch.autograd.grad(loss, [machine.W, machine.b, machine.c])
    with torch.no_grad():
        found, rows = machine.discriminate(x, y, share, lambda sums: None)
    assert float(share @ rows) == pytest.approx(float(loss.detach()), abs=1e-12)
    for parameter, gradient in zip((machine.W, machine.b, machine.c), want, strict=True):
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-12)


def test_learning_with_holes():
    """Two patterns of eight bits, a third of the cells hidden: nearly as likely as when learned whole, and filled in."""
    rng = np.random.default_rng(0)
    pattern = np.array([[1, 1, 0, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1, 0, 1]], bool)
    whole = pd.DataFrame(pattern[rng.integers(0, 2, 800)] ^ (rng.random((800, 8)) < 0.05)).add_prefix("x")
    whole = whole.astype("boolean")
    hidden = rng.random(whole.shape) < 0.3
    holes = whole.mask(hidden)
    shared = {"epochs": 60, "batch_size": 50, "seed": 0, "progress": False, "ema": 0.9}
    recipe = rv.RBM(hidden=4, lr=0.2)
    full, model = recipe.fit(whole, **shared), recipe.fit(holes, **shared)
    assert model.log_prob(whole).mean() > full.log_prob(whole).mean() - 0.15
    assert np.isfinite(model.log_prob(holes)).all()
    filled = model.impute(holes)
    assert (filled.to_numpy() == whole.to_numpy())[hidden].mean() > 0.9
    with pytest.raises(InvalidOption, match="log_prob sums missing cells out"):
        model.energy(holes)
