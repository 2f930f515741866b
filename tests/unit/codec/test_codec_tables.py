"""fit_codec on tables: which step a column gets for which wants, precision, and messages; Batches and streams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from reverie.data.batches import Batches, Order
from reverie.data.codec.negotiate import codec_from_json, fit_codec
from reverie.data.codec.steps.grids import WarpedGrid
from reverie.data.codec.steps.levels import Bit, Constant
from reverie.data.codec.steps.nested import Atoms, Flagged
from reverie.data.codec.steps.step import Affine, ColumnStep, Quantile
from reverie.data.codec.tables import TableCodec
from reverie.data.dataset import Dataset, MemorySource
from reverie.data.forms.reading import read_table, restore_table
from reverie.data.sources.load import as_dataset
from reverie.data.space import Wants
from reverie.errors import DataError, UnsupportedData
from reverie.models.classical.mixture import GaussianMixture
from reverie.models.deep.vae import VAE
from reverie.rng import RowNoise, StreamNoise, generator

RNG = np.random.default_rng(0)
ALL = frozenset({"number", "integer", "category", "boolean", "datetime", "image"})
ANY = Wants(family="vae", kinds=ALL, missing="mask")


def fit(X, wants=ANY, **options) -> TableCodec:
    data = as_dataset(X)
    codec = fit_codec(data.schema, replace(wants, **options), data)
    assert isinstance(codec, TableCodec)
    return codec


def steps(X, wants=ANY, **options) -> list[ColumnStep]:
    return [step for *_, step in fit(X, wants, **options).steps]


def test_which_step_for_which_wants():
    n = RNG.normal(size=300)
    k = RNG.integers(0, 9, 300)
    assert isinstance(steps(n)[0], Affine)
    assert isinstance(steps(n, numbers="quantile")[0], Quantile)
    assert steps(n, numbers="centre")[0].sd == 1.0
    assert steps(k)[0].mode == "native"
    assert steps(k, discrete="dequantise")[0].mode == "dequantise"
    assert steps(k, discrete="round")[0].mode == "round"
    assert isinstance(steps(k % 2, discrete="binary")[0], Bit)
    assert isinstance(steps(np.where(n > 0, n, 0.0))[0], Atoms)
    assert isinstance(steps(np.where(n > 0, n, 0.0), density=False)[0], Atoms)
    mostly_zero = np.where(k > 4, np.round(1000 * np.abs(n)), 0)  # a cost: spikes are kept apart from the grid
    spiked = steps(mostly_zero.astype(np.int64))[0]
    assert isinstance(spiked, Atoms)
    assert spiked.atoms.tolist() == [0.0]
    assert isinstance(spiked.rest, WarpedGrid)
    assert isinstance(steps(RNG.choice([-1, 1, np.e], 300), density=False)[0], Affine)
    assert isinstance(steps(np.full(9, 3.0))[0], Constant)
    holes = np.where(RNG.random(300) < 0.1, np.nan, n)
    assert isinstance(steps(holes, missing="flag")[0], Flagged)
    assert fit(holes).space.missing
    assert not fit(n).space.missing


def test_a_quantile_map_of_tied_values_falls_back():
    """1000 zeros and two other values have no quantiles to speak of."""
    values = np.array([0.0] * 1000 + [1.5, 2.7, 9.1])
    codec = fit(values, numbers="quantile", density=False)
    np.testing.assert_allclose(decode(codec, values), values, atol=1e-5)


@pytest.mark.parametrize("stride", [2, 3])
def test_a_pattern_that_the_subsample_misses(stride):
    """Columns above 200,000 rows are judged by every k-th value; a period of k must not make them look constant."""
    values = (np.arange(200_000 * stride) % stride).astype(float)
    (step,) = steps(values)
    assert isinstance(step, WarpedGrid)
    assert step.step == 1.0
    assert np.isfinite(step.log_det(values[:10])).all()


def decode(codec: TableCodec, values: np.ndarray) -> np.ndarray:
    table = read_table(codec.schema, values)
    return codec.decode(codec.prepare(table).x).columns["x"]


def test_large_integers():
    """Beyond 2**24 float32 skips integers: small spans are fine everywhere, wide ones are refused there, float64 takes both."""
    near = 2**40 + RNG.integers(0, 1000, 300)
    np.testing.assert_array_equal(decode(fit(near), near), near)
    ids = RNG.integers(0, 2**40, 300)
    with pytest.raises(UnsupportedData, match=r"more than float32 can tell apart.*role id.*rescale"):
        fit(ids)
    wide = fit(ids, dtype="float64", discrete="dequantise", mixed=False)
    np.testing.assert_array_equal(decode(wide, ids), ids)
    model = GaussianMixture(components=2).fit(ids, epochs=2)
    assert np.isfinite(model.log_prob(ids)).all()
    with pytest.raises(UnsupportedData, match="role id"):
        VAE(latent=2).fit(ids, epochs=1)


def test_precision_far_from_zero():
    """N(1e6, 0.1^2) and dates survive float32 model space, since they are centred first."""
    values = 1e6 + 0.1 * RNG.normal(size=400)
    np.testing.assert_allclose(decode(fit(values), values), values, atol=1e-6)
    days = pd.DataFrame({"t": pd.Timestamp("2020-01-01") + pd.to_timedelta(RNG.uniform(0, 1e6, 300), unit="s")})
    codec = fit(days)
    table = read_table(codec.schema, days)
    back = restore_table(codec.schema, codec.decode(codec.prepare(table).x))
    assert (back["t"] - days["t"]).abs().max() < pd.Timedelta("1s")
    assert back["t"].dtype == days["t"].dtype


def test_repeated_dates_are_a_grid():
    days = pd.DataFrame({"t": pd.date_range("2020-01-01", periods=30)[RNG.integers(0, 30, 300)]})
    codec = fit(days)
    assert codec.steps[0][2].step == 86400.0
    back = restore_table(codec.schema, codec.decode(codec.prepare(read_table(codec.schema, days)).x))
    pd.testing.assert_frame_equal(back, days)


def test_float32_data_keep_their_grid_and_type():
    values = (np.round(RNG.normal(size=(300, 1)), 1)).astype(np.float32)
    codec = fit(values)
    assert codec.measure == "counting"
    back = restore_table(codec.schema, codec.decode(codec.prepare(read_table(codec.schema, values)).x))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, values, atol=1e-6)


def test_a_mixed_frame_there_and_back():
    frame = pd.DataFrame(
        {
            "n": np.where(RNG.random(200) < 0.1, np.nan, RNG.normal(size=200)),
            "k": pd.array(np.where(RNG.random(200) < 0.1, None, RNG.integers(0, 5, 200)), dtype="Int64"),
            "c": pd.Categorical(RNG.choice(["x", "y"], 200), categories=["y", "x"]),
            "b": RNG.random(200) < 0.5,
            "z": np.where(RNG.random(200) < 0.5, 0.0, RNG.gamma(1.0, size=200)),
        }
    )
    codec = fit(frame, missing="flag")
    back = restore_table(codec.schema, codec.decode(codec.prepare(read_table(codec.schema, frame)).x))
    pd.testing.assert_frame_equal(back, frame, check_exact=False, rtol=1e-5, atol=1e-6)
    again = codec_from_json(codec.schema, codec.to_json())
    assert again.space == codec.space
    assert (
        again.measure == codec.measure == "3 counting x 1 Lebesgue x 1 atoms + Lebesgue" or "counting" in codec.measure
    )
    names = [block.name for block in codec.space.blocks]
    assert "n is missing" in names
    assert [block.start for block in codec.space.blocks] == list(
        np.cumsum([0, *[block.width for block in codec.space.blocks[:-1]]])
    )


def test_log_det_is_summed_over_observed_cells():
    X = RNG.normal(size=(50, 2)) * [10.0, 0.1]
    X[0, 0] = X[1] = np.nan
    codec = fit(X)
    prepared = codec.prepare(read_table(codec.schema, X))
    a, b = (-np.log(np.nanstd(X, axis=0))).tolist()
    np.testing.assert_allclose(prepared.log_det[:3], [b, 0, a + b])
    assert prepared.observed[0].tolist() == [False, True]


def test_dequantisation_is_uniform_inside_the_cell():
    """20000 draws: the noised code is uniform on its cell (mean and variance at 4 standard errors), and decodes to it."""
    values = np.clip(np.round(4 + RNG.normal(size=20000)), 0, 9).astype(int) - 4
    codec = fit(values, discrete="dequantise", mixed=False, dtype="float64")
    x = codec.prepare(read_table(codec.schema, values)).x
    noised = codec.noise(x, RowNoise(0, len(x), dtype=torch.float64))
    u = ((noised - x) / codec.steps[0][2].dequantise_step)[:, 0]
    assert u.abs().max() <= 0.5
    assert abs(float(u.mean())) < 4 / np.sqrt(12 * len(u))
    assert abs(float(u.var()) - 1 / 12) < 4 * np.sqrt(1 / 180 / len(u))  # Var(u^2) = 1/80 - 1/144 = 1/180
    np.testing.assert_array_equal(codec.decode(noised).columns["x"], values)
    assert codec.lowers
    assert not fit(values).lowers


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.array([1.0, np.nan, 2.0]), {"missing": "refuse"}, "missing cells.*Drop or fill.*imputes: gmm"),
        (np.array([0, 1, 2]), {"discrete": "binary"}, "other than 0 and 1"),
        (np.full(5, 2.0), {"mixed": False}, r"is constant \(2\).*role ignore"),
        (np.array([True, False]), {"kinds": frozenset({"number"})}, "cannot learn from 'x' .boolean.: it takes number"),
    ],
)
def test_refusals(X, options, message):
    with pytest.raises(UnsupportedData, match=message):
        fit(X, **options)


def test_weights_are_checked():
    frame = pd.DataFrame({"v": RNG.normal(size=4), "w": [1.0, 2.0, 0.0, 1.0]})
    data = as_dataset(frame, roles={"w": "weight"})
    codec = fit_codec(data.schema, ANY, data)
    assert codec.prepare(data.take(slice(None))).weight.tolist() == [1, 2, 0, 1]
    with pytest.raises(DataError, match=r"weight.*>= 0|not negative"):  # noqa: PT012
        bad = as_dataset(frame.assign(w=[1.0, -1.0, 1.0, 1.0]), roles={"w": "weight"})
        fit_codec(bad.schema, ANY, bad).prepare(bad.take(slice(None)))


# ---------------------------------------------------------------------- batches


class Streamed:
    """A source that pretends to be on disk: counts the rows it is asked for."""

    in_memory = False

    def __init__(self, data: Dataset) -> None:
        self.inner, self.n, self.taken = data.source, data.source.n, []

    def take(self, index):
        self.taken.append(len(index))
        return self.inner.take(index)

    def fingerprint(self) -> str:
        return "streamed"


def batches(n: int, *, world: int = 1, rank: int = 0, streamed: bool = False, holes: bool = True) -> Batches:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 3))
    X[:, 2] = rng.integers(0, 5, n)
    if holes:
        X[rng.random(X.shape) < 0.1] = np.nan
    data = as_dataset(X)
    assert isinstance(data.source, MemorySource)
    codec = fit_codec(data.schema, replace(ANY, discrete="dequantise", density=True), data)
    if streamed:
        data = Dataset(data.schema, Streamed(data))
    return Batches(data, codec, seed=3, rank=rank, world=world)


@pytest.mark.parametrize("n", [1, 2, 3, 99, 100, 101, 102, 199, 200, 201, 501, 502, 503])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_slots_cover_all_rows_and_leave_no_rank_empty(n, world):
    slots = batches(n, world=world).slots(100)
    assert [slot.start for slot in slots] == [0, *[slot.stop for slot in slots[:-1]]]
    assert slots[-1].stop == n
    if n >= max(2, world):
        for slot in slots:
            assert slot.rows >= max(2, world)  # a rank without rows, or batch statistics of one row
        for slot in slots[:-1]:
            assert slot.rows == 100
    assert sum(slot.rows for slot in slots) == n


def test_the_tail_of_501_joins_the_fifth_batch():
    assert [slot.rows for slot in batches(501, world=2).slots(100)] == [100, 100, 100, 100, 101]
    assert [slot.rows for slot in batches(502, world=2).slots(100)] == [100] * 5 + [2]
    assert [slot.rows for slot in batches(502, world=3).slots(100)] == [100, 100, 100, 100, 102]
    assert [slot.rows for slot in batches(50).slots(None)] == [50]
    assert [slot.rows for slot in batches(50).slots(1000)] == [50]


def test_order_is_a_function_of_seed_phase_and_epoch():
    a, b = batches(200), batches(200, world=2, rank=1)
    assert torch.equal(a.order("train", 3, shuffle=True).rows, b.order("train", 3, shuffle=True).rows)
    assert sorted(a.order("train", 3, shuffle=True).rows.tolist()) == list(range(200))
    assert not torch.equal(a.order("train", 3, shuffle=True).rows, a.order("train", 4, shuffle=True).rows)
    assert not torch.equal(a.order("train", 3, shuffle=True).rows, a.order("other", 3, shuffle=True).rows)
    assert a.order("train", 3, shuffle=False).rows is None


def batch(made: Batches, slot, order, *, rank: int = 0, world: int = 1):
    noise = StreamNoise(generator(9), slot.rows, rank=rank, world=world)
    return made.batch(slot, order, noise, torch.device("cpu"))


@pytest.mark.parametrize("shuffle", [True, False])
def test_streamed_batches_are_the_ones_in_memory(shuffle):
    memory, stream = batches(301), batches(301, streamed=True)
    assert stream.nbytes == 0 < memory.nbytes
    order = memory.order("train", 0, shuffle=shuffle)
    for slot in memory.slots(64):
        a, b = batch(memory, slot, order), batch(stream, slot, order)
        assert torch.equal(a.x, b.x)
        seen = torch.ones_like(a.x, dtype=torch.bool)
        assert torch.equal(seen if a.observed is None else a.observed, seen if b.observed is None else b.observed)
        assert a.rows == b.rows == slot.rows
    asked = stream._data.source.taken
    assert max(asked) <= 65  # one batch at a time, and no more


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("streamed", [True, False])
def test_ranks_share_the_global_batch(world, streamed):
    one = batches(501, streamed=streamed)
    order = one.order("train", 1, shuffle=True)
    for slot in one.slots(100)[-2:]:
        whole = batch(one, slot, order)
        for rank in range(world):
            mine = batch(batches(501, world=world, rank=rank, streamed=streamed), slot, order, rank=rank, world=world)
            assert torch.equal(mine.x, whole.x[rank::world])
            assert torch.equal(mine.observed, whole.observed[rank::world])
            assert mine.rows == whole.rows == slot.rows
            everything = batches(501, world=world, rank=rank).rows(slot, Order(), whole=True)
            assert len(everything) == slot.rows
