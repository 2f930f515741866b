"""The Boltzmann machine against listing all states: log Z, free energies, gradients, posteriors; annealed estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import reverie as rv
from boltzmann_kit import GRAPHS, energies, ising, machine, sherrington_kirkpatrick, states
from reverie.errors import Unsupported
from reverie.inference.graphs import Listing, complete
from reverie.models import boltzmann
from reverie.rng import RowNoise

ISING = [(3, False, 7.5022291700), (3, True, 9.0202134009), (4, False, 13.6763152414), (4, True, 15.5219154588)]
"""log Z at the critical temperature."""
KINDS = [(name, spins, temperature) for name in GRAPHS for spins, temperature in ((False, 1.0), (True, 0.7))]


@pytest.mark.parametrize(("side", "periodic", "log_z"), ISING)
def test_the_ising_models_log_z(side, periodic, log_z):
    model = ising(side, periodic=periodic)
    assert abs(rv.log_partition(model)["log_z"] - log_z) < 1e-9
    listed = boltzmann.landscape(model) if side == 3 else None
    if listed is not None:
        assert abs(float(np.logaddexp.reduce(-listed["energies"] / model.network.temperature)) - log_z) < 1e-6


@pytest.mark.parametrize(("name", "spins", "temperature"), KINDS)
def test_sums_over_states(name, spins, temperature):
    """log Z, F(v), E[h | v] and the landscape against all states."""
    visible, hidden, edges = GRAPHS[name]
    network = machine(visible, hidden, edges, spins=spins, temperature=temperature)
    x, z = states(visible + hidden, spins=spins), states(visible + hidden)
    scores = -energies(x, network.couplings, network.bias, edges) / temperature
    torch.testing.assert_close(network.state_energy(z), -scores, rtol=1e-12, atol=1e-12)
    assert abs(network.exact_log_partition() - float(torch.logsumexp(scores, 0))) < 1e-11
    of_v = scores.view(2**visible, 2**hidden)
    torch.testing.assert_close(network.energy(states(visible)), -torch.logsumexp(of_v, 1), rtol=1e-12, atol=1e-12)
    if hidden:
        h = torch.softmax(of_v, 1) @ states(hidden, spins=spins)
        torch.testing.assert_close(network.encode(states(visible), None, None), h, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("numbers", [7, 64, 2**20])
def test_states_are_listed_in_blocks(numbers):
    source = torch.Generator().manual_seed(0)
    W = torch.randn(7, 7, generator=source, dtype=torch.float64)
    W = W + W.t()
    W[5, 6] = W[6, 5] = 0  # units 5 and 6 are summed by formula
    W.fill_diagonal_(0)
    f = torch.randn(3, 7, generator=source, dtype=torch.float64)
    share = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    z = states(7)
    terms = f @ z.t() + 0.5 * ((z @ W) * z).sum(1)
    total, mean, pairs = Listing(W, torch.arange(5), numbers=numbers).expectations(f, share)
    torch.testing.assert_close(total, torch.logsumexp(terms, 1), rtol=1e-12, atol=1e-12)
    chance = torch.softmax(terms, 1)
    torch.testing.assert_close(mean, chance @ z, rtol=1e-11, atol=1e-12)
    want = z.t() @ ((share @ chance)[:, None] * z)
    edges = complete(7)
    edges = edges[:, (W[edges[0], edges[1]] != 0)]
    torch.testing.assert_close(pairs[edges[0], edges[1]], want[edges[0], edges[1]], rtol=1e-11, atol=1e-12)


def alone(_sums: object) -> None:
    """The sum over the only process."""


def log_likelihood(v: torch.Tensor, share: torch.Tensor, J: torch.Tensor, b: torch.Tensor, network) -> torch.Tensor:
    """sum share * log p(v) as a differentiable function of the parameters, over all states."""
    n, visible = network.units, network.visible
    scores = -energies(states(n, spins=network.spins), J, b, network.edges) / network.temperature
    of_v = torch.logsumexp(scores.view(2**visible, -1), 1) - torch.logsumexp(scores, 0)
    codes = (v.long() << torch.arange(visible - 1, -1, -1)).sum(1)
    return share @ of_v[codes]


def rows(visible: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    v = (torch.rand(20, visible, generator=source) < 0.4).double()
    weight = torch.rand(20, generator=source, dtype=torch.float64)
    return v, weight / weight.sum()


@pytest.mark.parametrize(("name", "spins", "temperature"), KINDS)
def test_the_exact_gradient_is_that_of_the_log_likelihood(name, spins, temperature):
    visible, hidden, edges = GRAPHS[name]
    network = machine(visible, hidden, edges, spins=spins, temperature=temperature)
    v, share = rows(visible)
    positive, _ = network.clamped(v, share, lambda: None)
    negative, log_z = network.own_moments()
    found = network.gradient(positive, negative, alone)
    J, b = (p.clone().requires_grad_(True) for p in (network.couplings, network.bias))
    loss = -log_likelihood(v, share, J, b, network)
    for parameter, want in zip((network.couplings, network.bias), torch.autograd.grad(loss, (J, b)), strict=True):
        torch.testing.assert_close(found[parameter], want, rtol=1e-10, atol=1e-10)
    assert abs(float(share @ (network.free_energy(v) + log_z)) - float(loss.detach())) < 1e-11


@pytest.mark.parametrize(("name", "spins", "temperature"), KINDS[:8])
def test_the_centred_gradient_is_that_of_the_centred_machine(name, spins, temperature):
    """E = -sum J_ij (x_i - m_i)(x_j - m_j) - b'.x has the plain biases b_i = b'_i - sum_j J_ij m_j: a step on (J, b')
    moves those by db'_i - sum_j dJ_ij m_j."""
    visible, hidden, edges = GRAPHS[name]
    network = machine(visible, hidden, edges, spins=spins, temperature=temperature, centring=0.05)
    network.mean.copy_(torch.linspace(0.2, 0.8, network.units))
    v, share = rows(visible)
    positive, _ = network.clamped(v, share, lambda: None)
    found = network.gradient(positive, network.own_moments()[0], alone)
    m, (i, k) = network.values(network.mean), edges

    def pulled(J: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(network.bias).index_add(0, i, J * m[k]).index_add(0, k, J * m[i])

    J = network.couplings.clone().requires_grad_(True)
    own = (network.bias + pulled(network.couplings)).requires_grad_(True)
    dJ, dOwn = torch.autograd.grad(-log_likelihood(v, share, J, own - pulled(J), network), (J, own))
    torch.testing.assert_close(found[network.couplings], dJ, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[network.bias], dOwn - pulled(dJ), rtol=1e-10, atol=1e-10)


def test_moments_edge_by_edge_and_by_a_product_agree():
    """Sparse graphs take one way, dense ones the other."""
    sparse = machine(60, 0, torch.stack([torch.arange(59), torch.arange(1, 60)]))
    dense = machine(60, 0, complete(60))
    assert sparse._sparse
    assert not dense._sparse
    z = (torch.rand(30, 60, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    share = torch.full((30,), 1 / 30, dtype=torch.float64)
    whole = torch.zeros(60, 60, dtype=torch.float64)
    whole[dense.edges[0], dense.edges[1]] = dense.moments_of(z, share).pairs
    torch.testing.assert_close(sparse.moments_of(z, share).pairs, whole[sparse.edges[0], sparse.edges[1]])
    with torch.no_grad():
        dense.couplings.zero_()
        dense.couplings[(dense.edges[1] - dense.edges[0]) == 1] = sparse.couplings
        dense.bias.copy_(sparse.bias)
    torch.testing.assert_close(sparse.state_energy(z), dense.state_energy(z))


@pytest.mark.parametrize("spins", [False, True])
def test_mean_field_bounds_the_free_energy(spins):
    """From above, and closely for weak couplings."""
    visible, hidden = 4, 12
    edges = complete(visible + hidden)
    for scale, gap in ((0.1, 0.4), (0.6, 30.0)):
        network = machine(visible, hidden, edges, spins=spins, scale=scale)
        assert network.likelihood == "lower bound"
        assert network.posterior == "mean_field"
        x = states(visible + hidden, spins=spins)
        scores = -energies(x, network.couplings, network.bias, edges)
        exact = -torch.logsumexp(scores.view(2**visible, -1), 1)
        bound = network.energy(states(visible))
        assert bool((bound >= exact - 1e-9).all())
        assert float((bound - exact).max()) < gap
    with pytest.raises(Unsupported, match="at most 10 hidden units"):
        network.hidden_means(states(visible), "exact")


def test_sampled_posteriors_are_near_the_exact_ones():
    model = boltzmann.with_parameters(boltzmann.parameters(sherrington_kirkpatrick(8, 0))["W"], hidden=5, units="spin")
    X = np.array(list(np.ndindex(2, 2, 2)), dtype=bool)
    exact = boltzmann.posterior(model, X)
    np.testing.assert_allclose(exact, model.encode(X), atol=1e-6)
    sampled = boltzmann.posterior(model, X, method="sampled", draws=1000)
    assert np.abs(sampled - exact).max() < 5 / math.sqrt(1000)  # five standard errors of a mean of spins, at most
    assert np.abs(boltzmann.posterior(model, X, method="mean_field") - exact).max() < 0.5


@pytest.mark.parametrize("which", ["lattice", "dense", "hidden"])
def test_annealing_brackets_log_z(which):
    """Forwards and backwards, by colours and unit by unit, from base rates that are not one half."""
    model = {
        "lattice": lambda: ising(4, periodic=True),
        "dense": lambda: sherrington_kirkpatrick(12, 1),
        "hidden": lambda: boltzmann.with_parameters(
            1.5 * boltzmann.parameters(sherrington_kirkpatrick(9, 2))["W"], hidden=4
        ),
    }[which]()
    model.network.mean.copy_(torch.linspace(0.3, 0.7, model.network.units))
    truth = rv.log_partition(model, method="exact")["log_z"]
    found = rv.log_partition(model, method="ais", chains=400, temperatures=600, burn_in=200, seed=1)
    assert abs(found["log_z"] - truth) < 4 * found["standard_error"] + 1e-3
    assert abs(found["log_z_reverse"] - truth) < 4 * found["standard_error_reverse"] + 1e-3
    assert found["effective_chains"] > 200
    assert found["standard_error"] < 0.05


def test_what_is_listed_beside_a_group_without_edges():
    """A restricted machine lists its smaller layer; a dense one all units but one."""
    big = machine(40, 8, GRAPHS["restricted"][2][:, :0]).listed
    assert len(big) == 0
    from reverie.inference.graphs import between

    assert machine(40, 8, between(0, 40, 48)).listed.tolist() == list(range(40, 48))
    assert len(machine(21, 0, complete(21)).listed) == 20
    with pytest.raises(Unsupported, match="lists at most 20 units beside a group without edges inside; here are 21"):
        machine(22, 0, complete(22)).exact_log_partition()


def test_the_walk_carries_its_energies():
    network = machine(3, 2, complete(5), spins=True, temperature=0.9)
    noise = RowNoise(0, 50, dtype=torch.float64)
    constant = network.bits()[2]
    for z, energy in network.walk(noise, 5):
        torch.testing.assert_close(energy - constant, network.state_energy(z))
    assert rv.mixing(ising(3, periodic=True), chains=8, sweeps=100)["draws"] == 400
