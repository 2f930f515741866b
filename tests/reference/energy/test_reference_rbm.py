"""The RBM against enumeration: log Z, free energy, gradients; and annealed importance sampling against exact values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import reverie as rv
from reverie import config
from reverie.errors import InvalidOption, Unsupported
from reverie.inference.annealing import summarise
from reverie.models.energy.rbm import RBMNetwork
from reverie.probability.machines.restricted import Penalties, Side

REFERENCE = [(3, 2, 1.0, 4.100297129909), (10, 8, 0.5, 13.297538421250), (12, 10, 1.0, 21.432884602988)]
"""evaluation.md section 4: W_ij = s sin(1 + i nh + j), b_i = cos(i) / 2, c_j = -cos(j + 1) / 2."""


def machine(visible: int, hidden: int, s: float, *, centring: float = 0.0, dtype=torch.float64) -> RBMNetwork:
    network = RBMNetwork(visible, hidden, centring=centring).to(dtype)
    i, j = torch.arange(visible, dtype=torch.float64), torch.arange(hidden, dtype=torch.float64)
    with torch.no_grad():
        network.W.copy_(s * torch.sin(1 + i[:, None] * hidden + j))
        network.b.copy_(0.5 * torch.cos(i))
        network.c.copy_(-0.5 * torch.cos(j + 1))
    return network.requires_grad_(False)


def states(units: int, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0, 1], repeat=units)), dtype=dtype)


@pytest.mark.parametrize(("visible", "hidden", "s", "log_z"), REFERENCE)
def test_exact_log_z(visible, hidden, s, log_z):
    network = machine(visible, hidden, s)
    assert abs(network.exact_log_partition() - log_z) < 1e-9
    # Summing over v of exp(-F(v)) is the same number, by the other layer.
    assert abs(float(torch.logsumexp(-network.even_energy(states(visible)), 0)) - log_z) < 1e-9
    swapped = RBMNetwork(hidden, visible).double().requires_grad_(False)
    swapped.W.copy_(network.W.t())
    swapped.b.copy_(network.c)
    swapped.c.copy_(network.b)
    assert abs(swapped.exact_log_partition() - log_z) < 1e-9


@pytest.mark.parametrize(("visible", "hidden"), [(12, 11), (11, 13), (13, 12)])
def test_exact_log_z_in_blocks(visible, hidden):
    """Layers of more than 10 units are enumerated block by block: against the sum over all v at once."""
    network = machine(visible, hidden, 0.7)
    want = float(torch.logsumexp(-network.even_energy(states(visible)), 0))
    assert abs(network.exact_log_partition() - want) < 1e-9


@pytest.mark.parametrize(("visible", "hidden"), [(3, 2), (12, 20), (30, 11), (1, 1)])
def test_log_z_without_weights(visible, hidden):
    """W = 0: sum softplus(b) + sum softplus(c)."""
    network = machine(visible, hidden, 0.0)
    want = float(torch.nn.functional.softplus(network.b).sum() + torch.nn.functional.softplus(network.c).sum())
    assert abs(network.exact_log_partition() - want) < 1e-9


def test_large_machines_refuse_enumeration():
    with pytest.raises(Unsupported, match="at most 20 units; the smaller group has 21"):
        machine(30, 21, 0.1).exact_log_partition()


def test_free_energy_is_minus_log_of_the_sum_over_h():
    network = machine(4, 3, 1.3)
    v, h = states(4), states(3)
    energy = -(v @ network.b)[:, None] - (h @ network.c)[None] - (v @ network.W) @ h.t()
    want = -torch.logsumexp(-energy, 1)
    torch.testing.assert_close(network.even_energy(v), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.energy(v), want, rtol=1e-12, atol=1e-12)
    joint = torch.softmax(-energy, 1)
    torch.testing.assert_close(network.hidden_given(v), joint @ h, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.visible_given(h), torch.softmax(-energy, 0).t() @ v, rtol=1e-12, atol=1e-12)


def own_side(network: RBMNetwork) -> Side:
    """Expectations under the machine itself, by enumeration of v."""
    v = states(network.W.shape[0])
    return Side(v, network.hidden_given(v), torch.softmax(-network.even_energy(v), 0))


def data_side(network: RBMNetwork, data: torch.Tensor, weight: torch.Tensor | None = None) -> Side:
    weight = torch.ones(len(data), dtype=data.dtype) if weight is None else weight
    return Side(data, network.hidden_given(data), weight / weight.sum())


def alone(_sums: object) -> None:
    """The sum over the only process."""


def log_likelihood(v: torch.Tensor, W: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    def free(x: torch.Tensor) -> torch.Tensor:
        return -(x @ b) - torch.nn.functional.softplus(x @ W + c).sum(1)

    return -free(v).mean() - torch.logsumexp(-free(states(len(b))), 0)


DATA = (torch.rand(25, 4, generator=torch.Generator().manual_seed(0)) < 0.4).double()


def test_the_plain_gradient_is_that_of_the_exact_log_likelihood():
    network = machine(4, 3, 0.8)
    found = network.gradient(data_side(network, DATA), own_side(network), alone)
    W, b, c = (p.detach().clone().requires_grad_(True) for p in (network.W, network.b, network.c))
    want = torch.autograd.grad(-log_likelihood(DATA, W, b, c), (W, b, c))
    for parameter, gradient in zip((network.W, network.b, network.c), want, strict=True):
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("penalties", [{"l2": 0.3}, {"l1": 0.2}, {"l2": 0.3, "l1": 0.2}, {"sparsity": 0.4}])
def test_penalties_add_their_slopes(penalties):
    """l2 |W|^2 / 2 + l1 |W|; sparsity pulls biases, and weights of units that are on, towards the activity asked for."""
    network = machine(4, 3, 0.8)
    plain = network.gradient(data_side(network, DATA), own_side(network), alone)
    network.penalties = Penalties(activity=0.25, **penalties)
    network.activity.copy_(torch.tensor([0.5, 0.1, 0.9]))
    found = network.gradient(data_side(network, DATA), own_side(network), alone)
    W = network.W.clone().requires_grad_(True)
    cost = penalties.get("l2", 0.0) * W.square().sum() / 2 + penalties.get("l1", 0.0) * W.abs().sum()
    cost.backward()
    mean = 0.9 * torch.tensor([0.5, 0.1, 0.9]).double() + 0.1 * network.hidden_given(DATA).mean(0)
    pull = penalties.get("sparsity", 0.0) * (mean - 0.25)
    torch.testing.assert_close(found[network.W], plain[network.W] + W.grad + torch.outer(DATA.mean(0), pull))
    torch.testing.assert_close(found[network.c], plain[network.c] + pull)
    torch.testing.assert_close(found[network.b], plain[network.b])


def test_the_centred_gradient_is_that_of_the_centred_machine():
    """E = -(v - m) b' - (h - l) c' - (v - m) W (h - l): plain b = b' - W l, c = c' - W^T m. A step on (W, b', c') moves
    the plain biases by db' - dW l and dc' - dW^T m (Melchior et al. 2016)."""
    network = machine(4, 3, 0.8, centring=0.05)
    network.v_offset.copy_(torch.tensor([0.2, 0.5, 0.7, 0.4]))
    network.h_offset.copy_(torch.tensor([0.3, 0.6, 0.5]))
    before = network.v_offset.clone()
    found = network.gradient(data_side(network, DATA), own_side(network), alone)
    m, l = network.v_offset, network.h_offset  # noqa: E741 - the offsets as updated, which the gradient is for
    torch.testing.assert_close(m, before.lerp(DATA.mean(0), 0.05))
    W = network.W.detach().clone().requires_grad_(True)
    b1 = (network.b + network.W @ l).detach().requires_grad_(True)
    c1 = (network.c + network.W.t() @ m).detach().requires_grad_(True)
    dW, db1, dc1 = torch.autograd.grad(-log_likelihood(DATA, W, b1 - W @ l, c1 - W.t() @ m), (W, b1, c1))
    torch.testing.assert_close(found[network.W], dW, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[network.b], db1 - dW @ l, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[network.c], dc1 - dW.t() @ m, rtol=1e-10, atol=1e-12)


def test_short_products_are_the_same_but_for_rounding():
    """bfloat16 keeps 8 bits, so a factor errs by 2^-9 of itself at most, and a sum of n terms by less than n times that.
    Outside training products are not shortened."""
    network = machine(12, 7, 0.5, centring=0.1, dtype=torch.float32)
    short = RBMNetwork(12, 7, centring=0.1, short_products=True)
    short.load_state_dict(network.state_dict())
    short.train()
    data = torch.bernoulli(torch.full((40, 12), 0.4), generator=torch.Generator().manual_seed(0))
    share = torch.full((40,), 1 / 40)

    def close(found: torch.Tensor, want: torch.Tensor) -> bool:
        return bool((found - want).abs().max() <= 12 * 2**-9 * (1 + want.abs().max())) and not torch.equal(found, want)

    with torch.no_grad():
        for _ in range(2):  # before and after an update
            assert close(short.odd_field(data), network.odd_field(data))
            h = network.hidden_given(data)
            assert close(short.even_field(h), network.even_field(h))
            grown = [
                own.gradient(Side(data, h.clone(), share), Side(data.flip(1), h.clone(), share), alone)
                for own in (short, network)
            ]
            for short_part, part in zip(grown[0].values(), grown[1].values(), strict=True):
                assert float((short_part - part).abs().max()) <= 2**-7
            for own in (short, network):
                own.W.mul_(-2)
        short.eval()
        torch.testing.assert_close(short.odd_field(data), network.odd_field(data), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["rbm", "dbm", "dbn"])
def test_training_with_short_products_is_the_same_but_for_rounding(family):
    """600 updates by the optimiser that training uses, from the same seed, differ by 1 % of the way at most; from rounded
    weights that no update reaches, by 20 % or more."""
    bits = np.random.default_rng(0).random((600, 16)) < np.linspace(0.1, 0.9, 16)
    bits[:, 8:] ^= bits[:, :8]
    recipes = {"rbm": rv.RBM(hidden=8), "dbm": rv.DBM(hidden=(8, 6)), "dbn": rv.DBN(hidden=(8, 6))}
    first, trained = recipes[family], []
    for products in ("float32", "bfloat16"):
        model = config.replace(first, products=products).fit(bits, epochs=100, batch_size=100, ema=0.0, progress=False)
        asked = [part.short_products for part in model.network.modules() if hasattr(part, "short_products")]
        assert set(asked) == {products == "bfloat16"}
        trained.append([p.detach() for p in model.network.parameters()])
    start = [
        p.detach() for p in first.fit(bits, epochs=0, batch_size=100, ema=0.0, progress=False).network.parameters()
    ]
    for short, plain, before in zip(trained[1], trained[0], start, strict=True):
        if short.ndim == 2:
            assert float((plain - before).norm()) > 20 * float((short - plain).norm()) > 0


def test_weights_of_rows_count_as_copies():
    network = machine(4, 3, 0.8)
    weight = torch.randint(0, 4, (25,), generator=torch.Generator().manual_seed(1))
    copies = network.gradient(data_side(network, DATA.repeat_interleave(weight, 0)), own_side(network), alone)
    found = network.gradient(data_side(network, DATA, weight.double()), own_side(network), alone)
    for parameter, value in found.items():
        torch.testing.assert_close(value, copies[parameter], rtol=1e-10, atol=1e-10)


def sandwich(seeds: range, temperatures: int) -> tuple[int, float]:
    """How many seeds have forward - 3 s.e. <= log Z <= reverse + 3 s.e.; and the largest standard error."""
    truth, inside, worst = REFERENCE[2][3], 0, 0.0
    network = machine(12, 10, 1.0, dtype=torch.float32)
    with torch.inference_mode():
        for seed in seeds:
            found = network.annealed_log_partition(chains=500, temperatures=temperatures, seed=seed, burn_in=200)
            worst = max(worst, found["standard_error"], found["standard_error_reverse"])
            low = found["log_z"] - 3 * found["standard_error"]
            high = found["log_z_reverse"] + 3 * found["standard_error_reverse"]
            inside += low <= truth <= high
            assert abs(found["log_z"] - truth) < 0.2
            assert found["effective_chains"] > 250
    return inside, worst


def test_log_weights_are_summed_up_by_the_delta_method():
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = summarise(weights.log() - 700)  # far below what exp can hold
    assert found.value == pytest.approx(math.log(2) - 700)
    assert found.standard_error == pytest.approx(math.sqrt(2) / 2 / math.sqrt(2))
    assert found.effective == pytest.approx(16 / 10)
    assert summarise(torch.zeros(1)).standard_error == math.inf  # one chain says nothing of its spread


def test_annealing_brackets_log_z():
    """3 seeds: a seed falls outside 3 standard errors with probability 0.3 %, so all three must be inside."""
    inside, worst = sandwich(range(3), temperatures=1000)
    assert inside == 3
    assert worst <= 0.05


@pytest.mark.slow
def test_annealing_brackets_log_z_in_19_of_20_seeds():
    inside, worst = sandwich(range(20), temperatures=2000)
    assert inside >= 19
    assert worst <= 0.05


def test_annealing_from_the_datas_rates():
    """The base-rate model may be any; the answer stays."""
    network = machine(10, 8, 0.5, dtype=torch.float32)
    network.base.copy_(torch.linspace(-2, 2, 10))
    with torch.inference_mode():
        found = network.annealed_log_partition(chains=300, temperatures=1000, seed=0, burn_in=100)
    assert abs(found["log_z"] - REFERENCE[1][3]) < 4 * found["standard_error"] + 1e-3
    assert abs(found["log_z_reverse"] - REFERENCE[1][3]) < 4 * found["standard_error_reverse"] + 1e-3


def test_the_cached_log_z_follows_the_weights():
    network = machine(6, 4, 1.0)
    assert network.partition_info() is None
    first = network.log_partition()
    info = network.partition_info()
    assert info["method"] == "exact"
    assert info["log_z"] == first
    network.b.add_(0.5)
    assert network.partition_info() is None
    second = network.log_partition()
    assert second != first
    assert abs(second - network.exact_log_partition()) < 1e-12
    restored = RBMNetwork(6, 4).double()
    restored.load_state_dict(network.state_dict())
    assert restored.partition_info() == network.partition_info()


def test_pseudo_likelihood_by_listing():
    """log p(v_i | rest) = log p(v) - log(p(v) + p(v with bit i flipped))."""
    network = machine(6, 4, 1.0)
    v = states(6)
    log_p = -network.even_energy(v)
    codes = (v @ (2.0 ** torch.arange(5, -1, -1, dtype=torch.float64))).long()
    assert (codes == torch.arange(64)).all()
    want = sum(log_p - torch.logaddexp(log_p, log_p[codes ^ (1 << bit)]) for bit in range(6))
    torch.testing.assert_close(network.pseudo_log_likelihood(v), want, rtol=1e-10, atol=1e-10)


def test_pseudo_likelihood_of_a_model():
    from families import bit_rows
    from reverie.models import rbm

    model = rv.RBM(hidden=5, chains=20).fit(bit_rows(100), epochs=2)
    found = rbm.pseudo_log_likelihood(model, bit_rows(30))
    assert found.shape == (30,)
    assert (found < 0).all()
    assert (found > 12 * np.log(0.01)).all()
    mixture = rv.GaussianMixture(components=1).fit(np.random.default_rng(0).normal(size=(50, 2)), progress=False)
    with pytest.raises(Unsupported, match="for an rbm of visible bits without labels, not this gmm"):
        rbm.pseudo_log_likelihood(mixture, np.zeros((2, 2)))


def test_log_partition_of_a_model():
    from families import bit_rows

    model = rv.RBM(hidden=5, chains=20).fit(bit_rows(100), epochs=2)
    exact = rv.log_partition(model)
    ais = rv.log_partition(model, method="ais", chains=200, temperatures=500, seed=1)
    assert exact["method"] == "exact"
    assert abs(ais["log_z"] - exact["log_z"]) < 4 * ais["standard_error"] + 1e-3
    assert math.isclose(ais["gap"], ais["log_z_reverse"] - ais["log_z"])
    with pytest.raises(InvalidOption, match="auto, exact or ais, got 'guess'"):
        rv.log_partition(model, method="guess")
    np.testing.assert_allclose(model.log_prob(bit_rows(10)), -model.energy(bit_rows(10)) - exact["log_z"], rtol=1e-12)
