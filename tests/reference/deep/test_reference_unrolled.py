"""Nets that stacks unroll into: virtual adversarial training against its closed form, and what it leaves alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reverie as rv
from reverie.data.space import Batch
from reverie.nn.unrolled import Unrolled, adversarial_loss
from reverie.rng import RowNoise


def noise(rows: int, seed: int = 0) -> RowNoise:
    return RowNoise(seed, rows, dtype=torch.float64)


def net(widths: list[int], outputs: int, **options) -> Unrolled:
    built = Unrolled(widths, outputs, **options).double()
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return built


ROWS = torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_of_a_linear_map_to_numbers():
    """|W r|^2 / 2 has the gradient W^T W r: the perturbation is W^T W d at the given length, d what the noise draws."""
    linear = net([5], 3)
    weights = linear.head.weight
    direction = F.normalize(noise(7).normal(5).to(torch.float64) @ weights.t() @ weights)
    want = 0.5 * (2.5 * direction @ weights.t()).square().sum(1)
    torch.testing.assert_close(adversarial_loss(linear, ROWS, noise(7), 2.5, True), want, rtol=1e-10, atol=0)


def test_of_two_classes_it_is_along_the_difference_of_their_weights():
    """Log-odds w.x leave one direction that matters, whatever is drawn; only its sign is left to the draw."""
    linear = net([5], 2)
    weights = linear.head.weight[0] - linear.head.weight[1]
    odds = ROWS @ weights + linear.head.bias[0] - linear.head.bias[1]
    p = torch.sigmoid(odds)
    sign = torch.sign(noise(7).normal(5).to(torch.float64) @ weights)
    q = torch.sigmoid(odds + sign * 0.8 * weights.norm())
    want = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(adversarial_loss(linear, ROWS, noise(7), 0.8, False), want, rtol=1e-9, atol=0)


def test_it_finds_worse_than_a_random_direction_does():
    deep = net([5, 8, 6], 4)
    found = adversarial_loss(deep, ROWS, noise(7), 0.1, False)
    log_p = torch.log_softmax(deep(ROWS), 1)
    random = 0.1 * F.normalize(
        torch.randn(500, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=2
    )
    others = torch.log_softmax(deep((ROWS + random).flatten(0, 1)), 1).view(500, 7, 4)
    drawn = (log_p.exp() * (log_p - others)).sum(2)
    assert (
        found > drawn.mean(0)
    ).all()  # a random direction has the mean of the curvatures, a step of the power method more
    assert (found <= 1.2 * drawn.max(0).values).all()  # nor is it more than the worst of 500 directions in 5 dimensions


def test_what_the_net_says_of_the_row_itself_is_held_fixed():
    linear = net([5], 2)
    gradient = torch.autograd.grad(adversarial_loss(linear, ROWS, noise(7), 0.8, False).sum(), linear.head.bias)[0]
    p = torch.softmax(linear(ROWS), 1).detach()
    weights = (linear.head.weight[0] - linear.head.weight[1]).detach()
    sign = torch.sign(noise(7).normal(5).to(torch.float64) @ weights)
    q = torch.softmax(linear(ROWS + 0.8 * sign[:, None] * F.normalize(weights, dim=0)), 1)
    torch.testing.assert_close(gradient, (q - p).sum(0), rtol=1e-9, atol=1e-12)  # d KL(p | q) / d bias with p fixed


@pytest.mark.parametrize("recipe", [rv.DBN, rv.DBM])
def test_a_classifier_of_a_stack_adds_it_to_labelled_rows_in_training(recipe):
    x = np.random.default_rng(0).random((60, 5)) < 0.5
    model = recipe(hidden=(4, 3), head=True, dropout=0.0, input_dropout=0.0, adversarial=2.0).fit(
        x, np.arange(60) % 3, epochs=2, batch_size=20, seed=0, progress=False
    )
    network = model.network.double().train()
    rows = torch.from_numpy(x[:7]).double()
    y = torch.eye(3, dtype=torch.float64)[torch.arange(7) % 3]
    y[4] = 0.0
    batch = Batch(rows, None, y, rows=7)
    found = network.loss(batch, noise(7), 0.0)
    seen = network.inputs(rows)
    want = adversarial_loss(network.classifier, seen, noise(7), 2.0, False)
    want[4] = 0.0
    torch.testing.assert_close(found["adversarial"], want, rtol=1e-12, atol=0)
    plain = network.eval().loss(dataclasses.replace(batch), noise(7), 0.0)
    torch.testing.assert_close(found["loss"], plain["loss"] + want, rtol=1e-12, atol=0)
    assert "adversarial" not in plain
    assert "adversarial" in model.history[-1]
