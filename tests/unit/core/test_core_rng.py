"""Noise: streams, blocks, heads, chunks, ranks; frequencies of discrete draws at 4 standard errors."""

from __future__ import annotations

import math

import pytest
import torch

from reverie.rng import LatticeNoise, Noise, RowNoise, StreamNoise, generator, stream


def test_streams_differ_by_name_and_fit_in_63_bits():
    seeds = {stream(s, *names) for s in range(20) for names in [(), ("a",), ("b",), ("a", 1), ("a", 1, 2), ("a", 12)]}
    assert len(seeds) == 120
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream(3, "a") == stream(3, "a")
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))


def draws(noise: Noise) -> list[torch.Tensor]:
    """Draws of several widths in a row, wide ones among them (a block is then a few rows)."""
    return [
        noise.normal(3),
        noise.uniform(),
        noise.normal(5000),
        noise.uniform(2, 40),
        noise.normal(20000),
        noise.normal(1),
    ]


@pytest.mark.parametrize("chunk", [1, 3, 7, 64, 65, 100])
def test_rows_do_not_depend_on_the_chunk(chunk):
    whole = draws(RowNoise(5, 130))
    parts = [draws(RowNoise(5, min(chunk, 130 - start), start=start)) for start in range(0, 130, chunk)]
    for number, want in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), want)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 129])
def test_rows_are_the_head_of_more_rows(n):
    for few, many in zip(draws(RowNoise(5, n)), draws(RowNoise(5, 200)), strict=True):
        assert torch.equal(few, many[:n])


def test_a_row_alone_costs_a_block_not_the_rows_before_it():
    far = RowNoise(5, 2, start=10**9)
    assert torch.equal(far.normal(4), RowNoise(5, 3, start=10**9 - 1).normal(4)[1:])


def test_seeds_draws_and_kinds_are_independent_streams():
    a, b = RowNoise(1, 2000), RowNoise(2, 2000)
    first, second, other = a.normal(1)[:, 0], a.normal(1)[:, 0], b.normal(1)[:, 0]
    for x, y in ((first, second), (first, other), (first[:-64], first[64:]), (first[:-1], first[1:])):
        # the correlation of n independent normals has standard deviation 1 / sqrt(n)
        assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 4 / math.sqrt(len(x))


def test_moments_and_dtypes():
    n = 20000
    for dtype in (torch.float32, torch.float64):
        noise = RowNoise(0, n, dtype=dtype)
        normal, uniform = noise.normal(1), noise.uniform(1)
        assert normal.dtype == uniform.dtype == dtype
        assert abs(float(normal.mean())) < 4 / math.sqrt(n)
        assert abs(float(normal.var()) - 1) < 4 * math.sqrt(2 / n)
        assert abs(float(uniform.mean()) - 0.5) < 4 / math.sqrt(12 * n)
        assert float(uniform.min()) >= 0
        assert float(uniform.max()) < 1


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_draw_the_rows_of_one_process(world):
    """Rank r's rows are rows r::world of what one process draws, for every draw of a run in turn."""
    one = StreamNoise(generator(3), 11)
    want = [one.normal(4), one.uniform(2, 2), one.bernoulli(torch.full((11, 3), 0.4))]
    for rank in range(world):
        mine = StreamNoise(generator(3), 11, rank=rank, world=world)
        assert mine.rows == len(range(rank, 11, world))
        got = [mine.normal(4), mine.uniform(2, 2), mine.bernoulli(torch.full((mine.rows, 3), 0.4))]
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b[rank::world])


@pytest.mark.parametrize("make", [lambda n: RowNoise(0, n), lambda n: StreamNoise(generator(0), n)])
def test_bernoulli_and_categorical_frequencies(make):
    """n draws of probability p: frequency within 4 sqrt(p (1 - p) / n)."""
    n = 20000
    noise = make(n)
    p = torch.tensor([0.0, 0.01, 0.3, 0.99, 1.0])
    bits = noise.bernoulli(p.expand(n, -1))
    assert set(bits.unique().tolist()) <= {0.0, 1.0}
    assert bits.dtype == p.dtype
    assert ((bits.mean(0) - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()
    logits = torch.tensor([0.5, -1.0, 2.0, -math.inf])
    q = torch.softmax(logits, 0)
    codes = noise.categorical(logits.expand(n, -1))
    share = torch.bincount(codes, minlength=4) / n
    assert share[3] == 0
    assert ((share - q).abs() <= 4 * (q * (1 - q) / n).sqrt()).all()
    # Several per row, each from its own logits.
    pairs = noise.categorical(torch.stack([logits, -logits.clamp(min=-5)]).expand(n, 2, -1))
    assert pairs.shape == (n, 2)
    assert abs(float((pairs[:, 0] == 2).float().mean() - q[2])) <= 4 * math.sqrt(float(q[2] * (1 - q[2]) / n))


def test_the_lattice_is_midpoints_beside_multiples_of_powers_of_the_generalised_golden_ratio():
    """x^(d + 1) = x + 1: the golden ratio for one dimension, 1.3247 for two, 1.2207 for three (Roberts 2018)."""
    for width, root in ((1, 1.618033988749895), (2, 1.324717957244746), (3, 1.2207440846057594)):
        for number in range(4):
            found = LatticeNoise(2, number, 4).uniform(width)
            rest = [(0.5 + (number + 1) * root**-power) % 1 for power in range(1, width)]
            want = torch.tensor([(number + 0.5) / 4, *rest], dtype=torch.float64)
            torch.testing.assert_close(found, want.expand(2, width))
    assert (LatticeNoise(3, 0, 1).uniform(2, 2) == 0.5).all()


def test_categorical_never_draws_what_cannot_be():
    class Ends(Noise):
        rows = 2

        def normal(self, *shape: int) -> torch.Tensor:
            raise AssertionError

        def uniform(self, *shape: int) -> torch.Tensor:
            return torch.tensor([0.0, 1 - 2**-24]).reshape(2, *shape)

    logits = torch.tensor([-math.inf, 0.0, 0.3, -math.inf])
    assert Ends().categorical(logits.expand(2, -1)).tolist() == [1, 2]
