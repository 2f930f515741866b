"""The autoencoder's losses against their definitions, and a linear one against principal components."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import reverie as rv
from reverie.data.space import Batch, Block, Space
from reverie.models.deep.autoencoder import Autoencoder, AutoencoderNetwork
from reverie.rng import RowNoise

PICTURE = Space((Block("x", "binary", 0, 6),), dtype="float64")
TABLE = Space((Block("a", "binary", 0, 1), Block("b", "category", 1, 3), Block("c", "real", 4, 2)), dtype="float64")
ROWS = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def network(space: Space = PICTURE, **options) -> AutoencoderNetwork:
    recipe = Autoencoder(**{"hidden": (4,), "code": 2, "error": "squared", **options}).resolve(space)
    built = recipe.build(space).double()
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return built


def noise(rows: int = 5, seed: int = 0) -> RowNoise:
    return RowNoise(seed, rows, dtype=torch.float64)


def losses(built: AutoencoderNetwork, x: torch.Tensor = ROWS, seed: int = 0) -> dict[str, torch.Tensor]:
    return built.loss(Batch(x, None, None, rows=len(x)), noise(len(x), seed), 0.0)


def logistic_pair(built: AutoencoderNetwork, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Code and outputs, layer by layer."""
    up, down = built.nets.encoder, built.nets.decoder
    code = torch.sigmoid(x @ up.maps[0].weight.t() + up.maps[0].bias) @ up.head.weight.t() + up.head.bias
    back = torch.sigmoid(code @ down.maps[0].weight.t() + down.maps[0].bias) @ down.head.weight.t() + down.head.bias
    return code, back


def test_the_squared_error_is_that_of_the_logistic_pair():
    built = network(activation="sigmoid")
    code, outputs = logistic_pair(built, ROWS)
    want = (torch.sigmoid(outputs) - ROWS).square().sum(1)
    torch.testing.assert_close(losses(built)["loss"], want, rtol=1e-12, atol=0)
    torch.testing.assert_close(built.encode(ROWS, None, None), code, rtol=1e-12, atol=0)
    torch.testing.assert_close(built.decode(code, None), torch.sigmoid(outputs), rtol=1e-12, atol=0)


def test_every_kind_of_column_has_its_own_error():
    built = network(TABLE, activation="sigmoid", error="cross_entropy")
    x = ROWS.clone()
    x[:, 1:4] = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1]]
    _, outputs = logistic_pair(built, x)
    p, q = torch.sigmoid(outputs[:, 0]), torch.softmax(outputs[:, 1:4], 1)
    bits = -(x[:, 0] * p.log() + (1 - x[:, 0]) * (1 - p).log())
    names = -(x[:, 1:4] * q.log()).sum(1)
    numbers = (outputs[:, 4:] - x[:, 4:]).square().sum(1)
    torch.testing.assert_close(losses(built, x)["loss"], bits + names + numbers, rtol=1e-12, atol=0)
    distances = (p - x[:, 0]).square() + (q - x[:, 1:4]).square().sum(1) + numbers
    torch.testing.assert_close(losses(built, x)["squared_error"], distances, rtol=1e-12, atol=0)


def test_a_denoising_encoder_sees_zeros_where_the_noise_says_so_and_only_in_training():
    built, clean = network(corruption=0.4), network()
    seen = ROWS * (noise().uniform(6) >= 0.4)
    want = (built.decode(built.encode(seen, None, None), None) - ROWS).square().sum(1)
    torch.testing.assert_close(losses(built)["loss"], want, rtol=1e-12, atol=0)
    assert torch.equal(losses(built.eval())["loss"], losses(clean)["loss"])


def test_contraction_adds_the_squared_norm_of_the_jacobian():
    """Hutchinson's estimate is unbiased: its mean over 20,000 draws is within 4.5 standard errors, p < 1e-5 a row."""
    built = network(contraction=0.5)
    row = ROWS[:1]
    jacobian = torch.autograd.functional.jacobian(lambda v: built.encode(v[None], None, None)[0], row[0])
    many = losses(built, row.expand(20_000, -1))
    drawn = many["contraction"].detach()
    assert abs(drawn.mean() - jacobian.square().sum()) < 4.5 * drawn.std() / len(drawn) ** 0.5
    plain = losses(network(), row)["loss"]
    torch.testing.assert_close(many["loss"], plain + 0.5 * many["contraction"], rtol=1e-12, atol=0)


def test_the_gradient_of_the_contraction_is_that_of_the_jacobian():
    """One code number leaves one row in the Jacobian, u^2 |dz/dx|^2, so draws divided by u^2 have no variance left."""
    built = network(contraction=1.0, code=1)
    row = ROWS[:1]
    first = built.nets.encoder.maps[0].weight
    u = noise(1).normal(1).to(torch.float64)
    (found,) = torch.autograd.grad(losses(built, row)["contraction"].sum(), first)
    x = row.clone().requires_grad_()
    (slope,) = torch.autograd.grad(built.encode(x, None, None).sum(), x, create_graph=True)
    (want,) = torch.autograd.grad(slope.square().sum(), first)
    torch.testing.assert_close(found, u.square() * want, rtol=1e-10, atol=1e-12)


def test_fantasies_are_decoded_from_codes_around_the_batchs_and_rebuilt():
    built = network(fantasies=0.7)
    built.code_mean.copy_(torch.tensor([1.0, -2.0]))
    built.code_products.copy_(torch.tensor([[5.0, 0.3], [0.3, 4.25]]))  # variances 4 and 0.25
    code = built.encode(ROWS, None, None)
    fantasy = built.decode(
        code + 0.7 * torch.tensor([2.0, 0.5], dtype=torch.float64) * noise().normal(2), None
    ).detach()
    want = (built.decode(built.encode(fantasy, None, None), None) - fantasy).square().sum(1)
    found = losses(built)
    torch.testing.assert_close(found["fantasies"], want, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["loss"], found["squared_error"] + want, rtol=1e-12, atol=0)
    ours = torch.autograd.grad(found["fantasies"].sum(), list(built.nets.parameters()))
    theirs = torch.autograd.grad(want.sum(), list(built.nets.parameters()))  # the fantasy itself is no function of them
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    assert "fantasies" not in losses(built.eval())


def test_tied_nets_share_their_weights():
    built = network(tied=True, activation="sigmoid")
    first, head = built.nets.encoder.maps[0], built.nets.encoder.head
    code = torch.sigmoid(ROWS @ first.weight.t() + first.bias) @ head.weight.t() + head.bias
    low, high = built.nets.biases
    back = torch.sigmoid(torch.sigmoid(code @ head.weight + low) @ first.weight + high)
    torch.testing.assert_close(built.decode(built.encode(ROWS, None, None), None), back, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_both_nets_start_from_the_machines(tied):
    built = network(pretrain=1.0, tied=tied)
    built.unroll()
    low, high = built.machine(0), built.machine(1)
    code = torch.sigmoid(ROWS @ low.W + low.c) @ high.W + high.c
    torch.testing.assert_close(built.encode(ROWS, None, None), code, rtol=1e-12, atol=0)
    back = torch.sigmoid(torch.sigmoid(code @ high.W.t() + high.b) @ low.W.t() + low.b)
    torch.testing.assert_close(built.decode(code, None), back, rtol=1e-12, atol=0)


def test_a_linear_autoencoder_finds_the_principal_components():
    """With no hidden layer and squared error the best pair of maps spans the first components (Baldi & Hornik 1989)."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 5)) * 2 + 0.3 * rng.normal(size=(400, 5))
    x = (rows - rows.mean(0)) / rows.std(0)
    rest = np.square(np.linalg.svd(x, compute_uv=False)[2:]).sum() / len(x)
    model = rv.Autoencoder(hidden=(), code=2, lr=0.02).fit(
        pd.DataFrame(rows, columns=list("abcde")), epochs=150, ema=0, seed=0, progress=False
    )
    rebuilt = (np.asarray(model.reconstruct(pd.DataFrame(rows, columns=list("abcde")))) - rows.mean(0)) / rows.std(0)
    error = np.square(rebuilt - x).sum(1).mean()
    assert rest * (1 - 1e-6) <= error <= rest * 1.001
