"""The GAN's losses against formulas by hand, R1 against the known gradient, straight-through draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from reverie.data.space import Batch, Block, Condition, Space, blocks_in_order
from reverie.models.deep.gan import GAN, GANNetwork
from reverie.rng import RowNoise

SPACE = Space(blocks=(Block("x", "real", 0, 2, scale=(1.0, 1.0)),))
W = torch.tensor([[0.7, -1.2]])


def network(loss: str = "non_saturating", r1: float = 0.0, every: int = 1) -> GANNetwork:
    """G(z) = 2 z + 1 on two columns, D(x) = w.x + 0.3."""
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        generator.weight.copy_(2 * torch.eye(2))
        generator.bias.fill_(1.0)
        critic.weight.copy_(W)
        critic.bias.fill_(0.3)
    recipe = GAN(latent=2, generator=generator, discriminator=critic, loss=loss, r1=r1, r1_every=every)
    return recipe.build(SPACE)


X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))


def fakes() -> torch.Tensor:
    return 2 * RowNoise(4, 30).normal(2) + 1


def sigmoid(t: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-t.double()))


def test_discriminator_loss():
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
    parts = network().discriminator_loss(Batch(X.clone(), rows=30), RowNoise(4, 30), 0)
    real, fake = (X @ W.t())[:, 0] + 0.3, (fakes() @ W.t())[:, 0] + 0.3
    want = -torch.log(sigmoid(real)) - torch.log(1 - sigmoid(fake))
    torch.testing.assert_close(parts["loss"].double(), want, rtol=1e-5, atol=1e-6)
    accuracy = 0.5 * ((real > 0).float() + (fake <= 0).float())
    torch.testing.assert_close(parts["accuracy"], accuracy)


def test_generator_losses():
    fake = (fakes() @ W.t())[:, 0] + 0.3
    batch = Batch(X, rows=30)
    found = network().generator_loss(batch, RowNoise(4, 30), 0)["loss"]
    torch.testing.assert_close(found.double(), -torch.log(sigmoid(fake)), rtol=1e-5, atol=1e-6)
    found = network("minimax").generator_loss(batch, RowNoise(4, 30), 0)["loss"]
    torch.testing.assert_close(found.double(), torch.log(1 - sigmoid(fake)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("loss", "factor"), [("non_saturating", "1 - s"), ("minimax", "s")])
def test_generator_gradients(loss, factor):
    """d/db of the mean loss with D = w.x + c and G = 2 z + b: -(1 - s) w or -s w on average, s = sigmoid(D(G(z)))."""
    made = network(loss)
    made.generator_loss(Batch(X, rows=30), RowNoise(4, 30), 0)["loss"].mean().backward()
    s = sigmoid((fakes() @ W.t())[:, 0] + 0.3)
    share = (1 - s) if factor == "1 - s" else s
    want = -share.mean() * W[0].double()
    torch.testing.assert_close(made.generator.bias.grad.double(), want, rtol=1e-4, atol=1e-6)
    assert made.discriminator.weight.grad is not None  # the trainer, not the loss, keeps the critic still


@pytest.mark.parametrize("every", [1, 4])
def test_r1(every):
    """grad_x D = w for a linear critic, so the penalty is (r1 / 2) every |w|^2 on penalised rounds and 0 between; its
    gradient with respect to w is r1 every w."""
    made, plain = network(r1=0.6, every=every), network()
    for round_ in range(5):
        with_r1 = made.discriminator_loss(Batch(X.clone(), rows=30), RowNoise(4, 30), round_)["loss"]
        without = plain.discriminator_loss(Batch(X.clone(), rows=30), RowNoise(4, 30), round_)["loss"]
        penalty = 0.5 * 0.6 * every * float(W.square().sum()) if round_ % every == 0 else 0.0
        torch.testing.assert_close(with_r1 - without, torch.full((30,), penalty), rtol=1e-4, atol=1e-5)
    made.discriminator_loss(Batch(X.clone(), rows=30), RowNoise(4, 30), 0)["loss"].mean().backward()
    plain.discriminator_loss(Batch(X.clone(), rows=30), RowNoise(4, 30), 0)["loss"].mean().backward()
    difference = made.discriminator.weight.grad - plain.discriminator.weight.grad
    torch.testing.assert_close(difference, 0.6 * every * W, rtol=1e-4, atol=1e-5)


def test_the_discriminators_loss_leaves_the_generator_alone():
    made = network(r1=0.5)
    made.discriminator_loss(Batch(X.clone(), rows=30), RowNoise(4, 30), 0)["loss"].mean().backward()
    assert made.generator.weight.grad is None


def test_category_and_bit_columns_are_exactly_whole_and_follow_their_logits():
    """Gumbel-max: n draws of a category at 4 standard errors; one-hot forwards, with a gradient backwards."""
    blocks = blocks_in_order([Block("c", "category", 0, 3), Block("b", "binary", 0, 1), Block("r", "real", 0, 1)])
    generator = nn.Linear(2, 5)
    with torch.no_grad():
        generator.weight.zero_()
        generator.bias.copy_(torch.tensor([0.5, -0.5, 1.0, 0.8, 2.0]))
    made = GAN(latent=2, generator=generator, discriminator=nn.Linear(5, 1)).build(Space(blocks=blocks))
    n = 20_000
    x = made.sample(RowNoise(0, n), None)
    assert set(x[:, :4].detach().round(decimals=5).unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(x[:, :3].sum(1), torch.ones(n))
    want = torch.softmax(torch.tensor([0.5, -0.5, 1.0]), 0)
    x[:, 0].sum().backward()
    x = x.detach()
    assert ((x[:, :3].mean(0) - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all()
    p = 1 / (1 + math.exp(-0.8))
    assert abs(float(x[:, 3].mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)
    torch.testing.assert_close(x[:, 4], torch.full((n,), 2.0))
    assert generator.bias.grad is None  # the module given was copied
    assert float(made.generator.bias.grad[:3].abs().sum()) > 0
    best = made.decode(torch.zeros(1, 2), None)
    assert best[0].round().tolist() == [0.0, 0.0, 1.0, 1.0, 2.0]


def test_images_are_in_range_and_y_reaches_both_players():
    space = Space(
        blocks=(Block("x", "real", 0, 64, low=-1.0, high=1.0, scale=(1.0,) * 64),),
        shape=(1, 8, 8), grid=(1, 8, 8), condition=Condition("labels", 3),
    )  # fmt: skip
    recipe = GAN(latent=4).resolve(space)
    made = recipe.build(space)
    y = nn.functional.one_hot(torch.tensor([0, 1]), 3).float()
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(1)).expand(2, 4)
    x = made.generate(z, y, None).detach()
    assert x.shape == (2, 1, 8, 8)
    assert float(x.abs().max()) <= 1
    assert not torch.equal(x[0], x[1])
    logits = made.judge(x[:1].expand(2, -1, -1, -1), y)
    assert logits.shape == (2,)
    assert logits[0] != logits[1]
