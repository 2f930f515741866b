"""RBMs of every pair of unit types against listing all states: log Z, gradients, AIS, and what Gibbs sampling draws."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import reverie as rv
from reverie.errors import InvalidOption, Unsupported
from reverie.models.energy.rbm import RBMNetwork
from reverie.probability.machines.restricted import Side
from reverie.probability.machines.units import Bernoulli, Categorical, Gaussian, SideBySide, Spin, Units, units
from reverie.rng import RowNoise

HIDDEN = ["bernoulli", "spin", "relu", "gaussian", "categorical"]
VISIBLE = ["bernoulli", "spin", "categorical", "codes", "gaussian", "mixed"]
PAIRS = [
    (v, h)
    for v in VISIBLE
    for h in HIDDEN
    if v not in ("gaussian", "mixed") or h in ("bernoulli", "spin", "categorical")
]


def layer(kind: str, hidden: bool) -> Units:
    if kind == "codes":
        return SideBySide([Spin(2), Categorical(2, 3), Bernoulli(1)])
    if kind == "mixed":
        return SideBySide([Bernoulli(2), Categorical(1, 3), Gaussian(2)])
    return units(kind, 2 if kind == "categorical" else 4, 3, learn_variance=not hidden)


def machine(visible: str, hidden: str, *, scale: float = 0.5) -> RBMNetwork:
    network = RBMNetwork(layer(visible, False), layer(hidden, True)).double()
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
        network.W.mul_(0.6)  # with numbers on both sides of a connection the joint stays normalisable
        network.base.copy_(0.3 * network.b)
    return network


def listed(network: RBMNetwork) -> torch.Tensor:
    return network.visible.states(0, math.prod(network.visible.radices))


def log_partition(network: RBMNetwork) -> torch.Tensor:
    """By listing a layer of few states, as a differentiable function of the parameters."""
    if network.visible.radices is not None:
        return torch.logsumexp(-network.even_energy(listed(network)), 0)
    h = network.hidden.states(0, math.prod(network.hidden.radices))
    return torch.logsumexp(network.visible.log_partition(network.even_field(h)) + h @ network.c, 0)


def own_side(network: RBMNetwork) -> Side:
    """Expectations under the machine itself: over v where it can be listed, else over h with two points of v, at
    plus and minus one standard deviation, which have the first two moments of v given h."""
    if network.visible.radices is not None:
        v = listed(network)
        return Side(v, network.hidden_given(v), torch.softmax(-network.even_energy(v), 0))
    h = network.hidden.states(0, math.prod(network.hidden.radices))
    field = network.even_field(h)
    share = torch.softmax(network.visible.log_partition(field) + h @ network.c, 0)
    if isinstance(network.visible, SideBySide):
        *rest, numbers = network.visible.layers
        spread = torch.cat([torch.zeros(sum(layer.width for layer in rest)), numbers.variance.sqrt()])
    else:
        spread = network.visible.variance.sqrt()
    mean = network.visible.mean(field)
    return Side(torch.cat([mean + spread, mean - spread]), torch.cat([h, h]), torch.cat([share, share]) / 2)


@pytest.mark.parametrize(("visible", "hidden"), PAIRS)
def test_log_z_by_either_layer(visible, hidden):
    network = machine(visible, hidden)
    want = float(log_partition(network).detach())
    assert network.exact_log_partition() == pytest.approx(want, abs=1e-9)
    assert network.likelihood == "exact"


def test_numbers_on_both_sides_have_no_list():
    network = machine("gaussian", "bernoulli")
    network.hidden = layer("relu", True)
    with pytest.raises(Unsupported, match="both groups hold numbers"):
        network.exact_log_partition()
    assert network.likelihood == "estimate"


@pytest.mark.parametrize(("visible", "hidden"), PAIRS)
def test_ais_sandwiches_log_z(visible, hidden):
    """Forwards less 4 standard errors, backwards plus 4: either fails once in 30,000 runs; seeds are fixed."""
    network = machine(visible, hidden)
    exact = network.exact_log_partition()
    with torch.no_grad():
        found = network.annealed_log_partition(chains=300, temperatures=200, burn_in=100)
    assert found["standard_error"] < 0.1
    assert (
        found["log_z"] - 4 * found["standard_error"]
        <= exact
        <= found["log_z_reverse"] + 4 * found["standard_error_reverse"]
    )
    assert abs(found["log_z"] - exact) < 0.3


@pytest.mark.parametrize(("visible", "hidden"), PAIRS)
def test_the_gradient_is_that_of_the_exact_log_likelihood(visible, hidden):
    network = machine(visible, hidden)
    data = network.visible.sample(
        torch.zeros(30, network.visible.width, dtype=torch.float64), RowNoise(0, 30, dtype=torch.float64)
    )
    data = data.detach()
    loss = network.even_energy(data).mean() + log_partition(network)
    learned = [p for p in network.parameters() if p.requires_grad]
    want = dict(zip(learned, torch.autograd.grad(loss, learned), strict=True))
    with torch.no_grad():
        share = torch.full((30,), 1 / 30, dtype=torch.float64)
        found = network.gradient(Side(data, network.hidden_given(data), share), own_side(network), lambda sums: None)
    assert found.keys() == want.keys()
    for parameter, gradient in want.items():
        torch.testing.assert_close(found[parameter].detach(), gradient, rtol=1e-9, atol=1e-10)


def table(n: int, seed: int) -> pd.DataFrame:
    """Two groups that differ in every column."""
    rng = np.random.default_rng(seed)
    group = rng.random(n) < 0.4
    return pd.DataFrame(
        {
            "size": np.where(group, rng.normal(10, 1, n), rng.normal(16, 2, n)),
            "late": np.where(group, rng.random(n) < 0.9, rng.random(n) < 0.2),
            "colour": pd.Categorical(np.where(group, rng.choice(["red", "green"], n), "blue")),
        }
    )


def test_a_table_of_mixed_columns():
    """Learned with exact log Z: better than independent columns, and samples keep the dependence."""
    train, test = table(2000, 0), table(2000, 1)
    recipe = rv.RBM(visible="mixed", hidden=6, lr=0.1)
    model = recipe.fit(train, epochs=60, batch_size=50, progress=False, seed=0)
    nats = model.log_prob(test)
    assert model.log_prob_kind == "exact"
    alone = stats.norm(train["size"].mean(), train["size"].std()).logpdf(test["size"]).mean()
    for name in ("late", "colour"):
        share = train[name].value_counts(normalize=True)
        alone += np.log(test[name].map(share).astype(float)).mean()
    assert (
        nats.mean() > alone + 0.8
    )  # the group's label is worth up to 0.67 nats for each of three columns, less itself
    drawn = model.sample(2000, seed=0)
    assert drawn.dtypes.astype(str).tolist() == train.dtypes.astype(str).tolist()
    gap = drawn.groupby("late")["size"].mean().diff().iloc[-1]
    want = train.groupby("late")["size"].mean().diff().iloc[-1]
    assert gap == pytest.approx(want, abs=1.0)
    holes = test.assign(size=np.nan)
    guess = model.impute(holes)["size"]
    assert np.corrcoef(guess, test["size"])[0, 1] > 0.75


@pytest.mark.parametrize("kind", ["spin", "relu", "gaussian"])
def test_other_hidden_units_learn(kind):
    rng = np.random.default_rng(0)
    base = rng.random((600, 1)) < 0.5
    X = np.where(rng.random((600, 8)) < 0.1, ~base, base).astype(int)
    model = rv.RBM(hidden=4, units=kind, lr=0.05).fit(X, epochs=60, batch_size=50, progress=False, seed=0)
    # independent bits: 8 log 2 = 5.55; the source: log 2 + 8 H(0.1) = 3.29
    assert -model.log_prob(X).mean() < 3.7


def test_mixing_tells_quick_chains_from_stuck_ones():
    """Independent bits are drawn anew by every sweep; two patterns behind weights of 8 are never left."""
    rng = np.random.default_rng(0)
    model = rv.RBM(hidden=4).fit((rng.random((200, 6)) < 0.5).astype(int), epochs=1, progress=False, seed=0)
    network = model.network
    with torch.no_grad():
        network.W.zero_()
        quick = rv.mixing(model, chains=8, sweeps=800)
        network.W.fill_(8.0)
        network.b.fill_(-16.0)
        network.c.fill_(-24.0)
        stuck = rv.mixing(model, chains=8, sweeps=800, traces=True)
    assert quick["r_hat"] < 1.02
    assert not {"energies", "autocorrelation"} & set(quick)
    assert quick["effective_draws"] > 0.5 * quick["draws"]
    assert stuck["r_hat"] > 1.5
    assert stuck["effective_draws"] < 50
    assert stuck["energies"].shape == (8, 800)
    assert stuck["autocorrelation"].shape == (400,)
    with pytest.raises(InvalidOption, match="chains: expected a whole number of at least 2"):
        rv.mixing(model, chains=1)
    with pytest.raises(Unsupported, match="needs a machine with an energy, and gmm is none; families that are: rbm"):
        rv.mixing(rv.GaussianMixture(components=1).fit(rng.normal(size=(50, 2)), progress=False))
