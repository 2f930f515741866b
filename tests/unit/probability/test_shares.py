"""What a chain keeps of a batch that comes again gives the same E-step as starting from the rows, for any threads."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from reverie.data.space import Batch, Ragged
from reverie.probability.components.discrete import Poisson
from reverie.probability.components.mixed import Mixed
from reverie.probability.gaussians.full import FullGaussian
from reverie.probability.gaussians.gaussian import DiagonalGaussian
from reverie.probability.latent import shares
from reverie.probability.latent.chain import Chain


def chain(kind: str) -> Chain:
    """Three states that differ, over four columns."""
    generator = torch.Generator().manual_seed(0)
    floor = torch.zeros(4, dtype=torch.float64)
    if kind == "mixed":
        counts, rest = Poisson(3, 2), DiagonalGaussian(3, 2, floor[:2])
        counts.rate.copy_(torch.rand(3, 2, generator=generator) * 5 + 0.1)
        rest.mean.copy_(torch.randn(3, 2, generator=generator))
        emission = Mixed([(torch.tensor([0, 2]), counts), (torch.tensor([1, 3]), rest)])
    else:
        emission = {"diag": DiagonalGaussian, "full": FullGaussian}[kind](3, 4, floor)
        emission.mean.copy_(torch.randn(3, 4, generator=generator))
    allowed = torch.ones(3, 3, dtype=torch.bool)
    return Chain(emission, allowed, torch.float64, classes=2, prior=0.0, sticky=0.0)


def batch(*, holes: bool, labels: bool, weights: bool) -> Batch:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([5, 1, 40, 12, 12, 3, 90])
    x = torch.poisson(torch.full((int(lengths.sum()), 4), 2.0, dtype=torch.float64), generator=generator)
    observed = torch.rand(x.shape, generator=generator) > 0.3 if holes else None
    if observed is not None:
        x = torch.where(observed, x, torch.nan)
    y = None
    if labels:
        named = torch.randint(0, 2, (len(x),), generator=generator)
        y = torch.nn.functional.one_hot(named, 2).double() * (torch.rand(len(x), 1, generator=generator) > 0.5)
    weight = torch.rand(7, generator=generator, dtype=torch.float64) if weights else None
    return Batch(x=Ragged(x, lengths), observed=observed, y=y, weight=weight, rows=7)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["diag", "full", "mixed"])
@pytest.mark.parametrize(
    "options",
    [
        {"holes": False, "labels": False, "weights": False},
        {"holes": True, "labels": True, "weights": True},
        {"holes": False, "labels": True, "weights": False},
    ],
)
def test_kept_features_give_the_sums_of_the_rows(monkeypatch, kind, options, threads):
    """The sums differ by rounding only: 160 steps of numbers up to about 100 in float64."""
    if kind == "full":
        options = {**options, "holes": False}  # with holes there are no shared features to keep
    network, given = chain(kind), batch(**options)
    plain = network.statistics(given)
    monkeypatch.setattr(shares, "_WORTH", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = [network.statistics(dataclasses.replace(given, key=("one",))) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert len(network._kept["one",]) == threads
    for found in again:
        assert found.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-10, msg=name)


def test_small_steps_stay_on_one_thread():
    network = chain("diag")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        network.statistics(dataclasses.replace(batch(holes=False, labels=False, weights=False), key=("one",)))
    finally:
        torch.set_num_threads(before)
    assert len(network._kept["one",]) == 1
