"""The codec of sequences: the same steps as a table's, per sequence; noise, unseen symbols, lengths; Ragged and Batches."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.data.batches import Batches
from reverie.data.codec.negotiate import codec_from_json, fit_codec
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.codec.steps.levels import Symbol
from reverie.data.codec.steps.nested import step_from_json
from reverie.data.codec.tokens import Bytes
from reverie.data.dataset import Dataset
from reverie.data.forms.reading import read_table, restore_table
from reverie.data.schema import Field, Schema
from reverie.data.sources.load import as_dataset, sequences
from reverie.data.space import Ragged, Wants
from reverie.data.table import Table, pack, unpack
from reverie.errors import DataError, SchemaMismatch, UnsupportedData
from reverie.rng import LatticeNoise, RowNoise, StreamNoise, generator

RNG = np.random.default_rng(0)
HMM = Wants(
    family="hmm",
    kinds=frozenset({"sequence", "text"}),
    symbols=True,
    missing="mask",
    unseen="missing",
    partial=True,
    conditions=frozenset({"labels", "steps"}),
)
CPU = torch.device("cpu")


def fit(X, y=None, **options) -> tuple[Dataset, SequenceCodec]:
    data = X if isinstance(X, Dataset) else as_dataset(X, y)
    codec = fit_codec(data.schema, replace(HMM, **options), data)
    assert isinstance(codec, SequenceCodec)
    return data, codec


def ragged(lengths, make=lambda t: RNG.normal(size=t)):
    return [make(t) for t in lengths]


def frame(n=120, *, holes=True):
    """A long frame of five sequences with a column of every kind."""
    out = pd.DataFrame(
        {
            "m": RNG.integers(0, 5, n),
            "number": RNG.normal(size=n),
            "count": RNG.integers(0, 9, n),
            "price": np.round(RNG.random(n), 1),
            "word": RNG.choice(["a", "b", "c"], n),
            "flag": RNG.random(n) < 0.5,
            "when": pd.Timestamp("2020") + pd.to_timedelta(RNG.integers(0, 1000, n), "h"),
            "cost": np.where(RNG.random(n) < 0.5, 0.0, RNG.normal(size=n)),
        }
    )
    if holes:
        for name in ("number", "word", "when", "price"):
            out.loc[RNG.random(n) < 0.2, name] = None
    return out


# ---------------------------------------------------------------------------------------------- ragged


def test_ragged_rows_pick_sequences():
    x = Ragged(torch.arange(12.0).reshape(6, 2), torch.tensor([3, 1, 2]))
    assert (len(x), x.longest, x.starts.tolist()) == (3, 3, [0, 3, 4])
    assert [p.tolist() for p in x.places] == [[0, 0, 0, 1, 2, 2], [0, 1, 2, 0, 0, 1]]
    for index in (torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, 3), slice(0, 3, 2), slice(3, 3)):
        part = x.rows(index)
        numbers = torch.arange(3)[index].tolist()
        expected = [x.values[s : s + t] for s, t in zip([0, 3, 4], [3, 1, 2], strict=True)]
        assert part.lengths.tolist() == [[3, 1, 2][i] for i in numbers]
        assert part.longest == 3  # of the set it was cut from
        torch.testing.assert_close(part.values, torch.cat([x.values[:0], *(expected[i] for i in numbers)]))
    assert x.to(torch.float64).dtype == torch.float64
    assert x.to(torch.float64).lengths.dtype == torch.int64
    assert x.to(CPU).device == CPU
    padded = x.padded(-1.0)
    assert padded.shape == (3, 3, 2)
    assert padded[1].tolist() == [[6, 7], [-1, -1], [-1, -1]]
    assert "3 sequences" in repr(x)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_rows_of_ragged_agree_with_lists(lengths, seed):
    rng = np.random.default_rng(seed)
    items = [rng.normal(size=(t, 2)) for t in lengths]
    x = Ragged(torch.from_numpy(np.concatenate(items)), torch.tensor(lengths))
    index = rng.integers(0, len(items), rng.integers(0, 10))
    part = x.rows(torch.from_numpy(index))
    wanted = [items[i] for i in index]
    np.testing.assert_array_equal(part.values.numpy(), np.concatenate([np.empty((0, 2)), *wanted]))
    for a, b in zip(unpack(part.values.numpy(), part.lengths.numpy()), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------------- against the table codec


@pytest.mark.parametrize("discrete", ["native", "dequantise", "round"])
@pytest.mark.parametrize("missing", ["mask", "flag"])
def test_steps_are_those_of_the_table_codec_on_all_steps(discrete, missing):
    rows = frame()
    order = np.argsort(rows["m"].map({m: i for i, m in enumerate(pd.unique(rows["m"]))}), kind="stable")
    flat = as_dataset(rows.drop(columns="m").iloc[order]).supporting("real")  # sequences do not look for supports
    wants = replace(HMM, symbols=False, discrete=discrete, missing=missing)
    table = fit_codec(flat.schema, replace(wants, kinds=frozenset(f.kind for f in flat.schema.fields)), flat)
    data, codec = fit(sequences(rows, by="m"), symbols=False, discrete=discrete, missing=missing)
    assert codec.space.blocks == table.space.blocks
    assert (codec.measure, codec.lowers) == (table.measure, table.lowers)
    wanted, got = table.prepare(flat.take(slice(None))), codec.prepare(data.take(slice(None)))
    assert torch.equal(got.x.values, wanted.x)
    if missing == "mask":
        assert torch.equal(got.observed, wanted.observed)
    else:
        assert got.observed is None or torch.equal(got.observed, wanted.observed)
    ends = got.x.lengths.cumsum(0).tolist()
    sums = [wanted.log_det[a:b].sum() for a, b in zip([0, *ends], ends, strict=False)]
    torch.testing.assert_close(got.log_det, torch.stack(sums))
    assert got.x.lengths.tolist() == rows.groupby("m", sort=False).size().tolist()


def test_a_step_off_its_grid_is_unexpected():
    _, codec = fit(ragged([5, 9, 7], lambda t: RNG.integers(0, 5, t).astype(float) / 2), discrete="dequantise")
    later = Table({"x": unpack(np.array([0.5, 1.0, 0.3, 2.0]), np.array([2, 2]))})
    log_det = codec.prepare(later).log_det
    assert log_det[1] - log_det[0] == pytest.approx(-math.log(21 + 2))


# ---------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("discrete", ["native", "dequantise"])
@pytest.mark.parametrize("symbols", [True, False])
def test_what_was_prepared_is_decoded(discrete, symbols):
    cases = [
        ragged([3, 1, 6], lambda t: RNG.integers(-3, 4, t)),
        ragged([3, 1, 6], lambda t: RNG.normal(size=(t, 2)).astype(np.float32)),
        ragged([3, 8], lambda t: RNG.random(t) < 0.5),
        [["a", "b"], ["c", "a", "a"]],
        [np.array(["2020-01-01", "2020-03-01"], "M8[s]"), np.array(["2021-05-05"], "M8[s]")],
        ["hello", "w\u00f6rld \U0001f600"],
        [torch.tensor([4, 5]), torch.tensor([6])],
    ]
    for X in cases:
        data, codec = fit(X, discrete=discrete, symbols=symbols, dtype="float64")
        schema = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
        again = codec_from_json(schema, json.loads(json.dumps(codec.to_json())))
        assert again.space == codec.space
        prepared = again.prepare(data.take(slice(None)))
        assert torch.equal(prepared.x.values, codec.prepare(data.take(slice(None))).x.values)
        x = again.noise(prepared.x, RowNoise(3, len(prepared), dtype=torch.float64))
        back = restore_table(schema, again.decode(x))
        for a, b in zip(X, back, strict=True):
            if isinstance(a, str | list):
                assert a == b
            else:
                assert a.dtype == b.dtype
                np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-6)


def test_missing_steps_are_not_observed_and_may_be_filled():
    X = [np.array([1.5, np.nan, 3.0]), np.array([np.nan, 2.0])]
    data, codec = fit(X)
    prepared = codec.prepare(data.take(slice(None)))
    assert codec.space.missing
    assert prepared.observed[:, 0].tolist() == [True, False, True, False, True]
    part = prepared.rows(torch.tensor([1]))
    assert part.observed[:, 0].tolist() == [False, True]
    assert part.log_det[0] == prepared.log_det[1]
    filled = restore_table(data.schema, data.schema.fill(data.take(slice(None)), codec.decode(prepared.x)))
    assert filled[0][[0, 2]].tolist() == [1.5, 3.0]
    assert not np.isnan(np.concatenate(filled)).any()
    with pytest.raises(UnsupportedData, match="column 'x' has missing cells, which hmm does not take"):
        fit(X, missing="refuse")
    _, strict = fit([np.array([1.5, 2.5]), np.array([2.0])], missing="refuse")
    with pytest.raises(UnsupportedData, match="missing cells"):
        strict.prepare(data.take(slice(None)))
    assert strict.prepare(data.take(slice(None)), holes=True).observed is not None


def test_symbols_are_one_column_of_codes():
    vocabulary = [f"w{i}" for i in range(5000)]
    X = [[vocabulary[i] for i in RNG.integers(0, 5000, 200)] for _ in range(50)]
    data, codec = fit(X)
    (block,) = codec.space.blocks
    levels = len(data.schema.fields[0].categories)
    assert (block.kind, block.width, block.levels, codec.measure) == ("symbol", 1, levels, "counting")
    assert codec.prepare(data.take(slice(None))).nbytes < 10_000 * 5
    _, dense = fit([["a", "b"], ["c"]], symbols=False)
    assert [(b.kind, b.width) for b in dense.space.blocks] == [("category", 3)]
    wild = Ragged(torch.tensor([[-1.2], [levels + 0.4], [1.4]]), torch.tensor([3]))
    tokens = restore_table(data.schema, codec.decode(wild))[0]
    assert tokens == [data.schema.fields[0].categories[i] for i in (0, levels - 1, 1)]
    # tables keep their one-hot blocks
    flat = as_dataset(pd.DataFrame({"c": ["a", "b"]}))
    assert fit_codec(flat.schema, replace(HMM, kinds=frozenset({"category"})), flat).space.blocks[0].kind == "category"


def test_characters_never_seen():
    data, codec = fit(["abc", "ca"])
    assert codec.tokenizers["x"].tokens == ("a", "b", "c")
    later = read_table(data.schema, ["abz", "c"])
    prepared = codec.prepare(later)
    assert prepared.observed[:, 0].tolist() == [True, True, False, True]
    assert restore_table(data.schema, codec.decode(prepared.x))[1] == "c"
    _, strict = fit(["abc", "ca"], unseen="refuse")
    with pytest.raises(SchemaMismatch, match=r"text 0, character 2: 'z' does not occur.*'abc'"):
        strict.prepare(later)
    with pytest.raises(SchemaMismatch, match="text 1, character 0"):
        strict.prepare(read_table(data.schema, ["abc", "\ud800"]))
    with pytest.raises(DataError, match="sequence 1 of 'x' is empty"):
        codec.prepare(read_table(data.schema, ["a", ""]))
    assert codec_from_json(data.schema, codec.to_json()).unseen == "missing"


def test_bytes_are_those_of_utf_8_and_come_back():
    texts = ["naïve", "", "日本 x"]
    codes, lengths = Bytes().encode(np.array(texts, dtype=object))
    assert lengths.tolist() == [len(text.encode()) for text in texts]
    assert codes.tolist() == list("".join(texts).encode())
    assert Bytes().decode(codes, lengths).tolist() == texts
    # steps that are missing say nothing; what is no UTF-8 is marked
    assert Bytes().decode(np.array([104, -1, 105, 0, 255]), np.array([3, 2])).tolist() == ["hi", "\0\ufffd"]
    assert Bytes().tokens[ord("a")] == "a"
    assert Bytes().tokens[0xE4] == "\\xe4"


def test_symbols_never_seen_are_not_observed():
    data, codec = fit([["a", "b"], ["b", "b"]])
    table = read_table(data.schema, [["a", "z"]], unseen=codec.unseen)
    assert codec.prepare(table).observed[:, 0].tolist() == [True, False]
    _, strict = fit([["a", "b"], ["b", "b"]], unseen="refuse")
    with pytest.raises(SchemaMismatch, match="'z' is not a known symbol"):
        read_table(data.schema, [["a", "z"]], unseen=strict.unseen)


# ---------------------------------------------------------------------------------------------- noise and lengths


def counts(lengths):
    return ragged(lengths, lambda t: RNG.integers(0, 9, (t, 2)))


def noised(codec, x, noise):
    return unpack(codec.noise(x, noise).values.numpy(), x.lengths.numpy())


def test_noise_of_a_sequence_depends_neither_on_chunks_nor_on_neighbours():
    X = counts([4, 9, 1, 7, 2, 9, 3])
    data, codec = fit(X, discrete="dequantise")
    assert codec.noise_width == 9 * 2
    x = codec.prepare(data.take(slice(None))).x
    whole = noised(codec, x, RowNoise(5, 7))
    for start, stop in ((0, 3), (3, 7), (2, 3)):
        alone = codec.prepare(data.take(np.arange(start, stop))).x
        part = noised(codec, alone, RowNoise(5, stop - start, start=start))
        for a, b in zip(whole[start:stop], part, strict=True):
            np.testing.assert_array_equal(a, b)
    u = codec.noise(x, RowNoise(5, 7)).values - x.values
    half = torch.tensor([step.dequantise_step / 2 for *_, step in codec.steps])
    assert (u.abs() <= half).all()
    assert u.std(0).allclose(half * 2 / 12**0.5, rtol=0.5)
    assert len(np.unique(u.numpy().round(6))) > 60  # every cell has a draw of its own


def test_noise_of_processes_is_that_of_one():
    X = counts([4, 9, 1, 7, 2])
    data, codec = fit(X, discrete="dequantise")
    x = codec.prepare(data.take(slice(None))).x
    whole = noised(codec, x, StreamNoise(generator(0, "n"), 5))
    for rank in (0, 1):
        source = generator(0, "n")
        part = noised(codec, x.rows(slice(rank, None, 2)), StreamNoise(source, 5, rank=rank, world=2))
        for a, b in zip(whole[rank::2], part, strict=True):
            np.testing.assert_array_equal(a, b)


def test_longer_sequences_draw_more(monkeypatch):
    data, codec = fit(counts([3, 3, 2]), discrete="dequantise")
    later = read_table(data.schema, counts([2, 8, 3]))
    x = codec.prepare(later).x
    u = codec.noise(x, RowNoise(1, 3)).values - x.values
    assert (u != 0).all()
    assert not torch.equal(u[2:5], u[5:8])  # the second draw is another one
    assert len(np.unique(u[5:8].numpy().round(6))) == 6
    short = codec.prepare(read_table(data.schema, counts([2]))).x
    first = codec.noise(short, RowNoise(1, 1)).values - short.values
    torch.testing.assert_close(first, u[:2])
    # ranks agree on how much is drawn, though only one of them holds the long sequence
    left = [generator(0), generator(0)]
    for rank in (0, 1):
        codec.noise(x.rows(slice(rank, None, 2)), StreamNoise(left[rank], 3, rank=rank, world=2))
    assert torch.equal(left[0].get_state(), left[1].get_state())
    monkeypatch.setattr("reverie.data.codec.sequences._DRAWN_STEPS", 2)
    assert (codec.noise(x, RowNoise(1, 3)).values != x.values).all()


def test_lattice_offsets_average_to_the_middle():
    data, codec = fit(counts([4, 2, 5]), discrete="dequantise", dtype="float64")
    x = codec.prepare(data.take(slice(None))).x
    draws = [codec.noise(x, LatticeNoise(3, k, 64)).values - x.values for k in range(64)]
    spread = torch.tensor([step.dequantise_step for *_, step in codec.steps], dtype=torch.float64)
    assert (torch.stack(draws).mean(0).abs() < 0.05 * spread).all()
    assert torch.equal(draws[3], codec.noise(x, LatticeNoise(3, 3, 64)).values - x.values)


def test_native_needs_no_noise():
    data, codec = fit(counts([4, 2, 5]))
    x = codec.prepare(data.take(slice(None))).x
    assert codec.noise(x, RowNoise(0, 3)) is x
    assert (codec.noise_width, codec.lowers) == (0, False)
    assert codec.batch_log_det(x) is None


def test_lengths_are_drawn_as_they_occurred():
    lengths = np.repeat([2, 5, 9], [600, 1500, 900])
    data, codec = fit([np.zeros(t) + RNG.normal() for t in lengths])
    assert len(codec.lengths) == 1000
    assert codec.space.longest == 9
    drawn = codec.draw_lengths(RowNoise(0, 4000))
    assert drawn.dtype == torch.int64
    shares = [(drawn == t).double().mean().item() for t in (2, 5, 9)]
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.03)
    again = codec_from_json(data.schema, codec.to_json())
    assert torch.equal(again.draw_lengths(RowNoise(0, 50)), codec.draw_lengths(RowNoise(0, 100))[:50])


# ---------------------------------------------------------------------------------------------- y


def test_labels_per_step_are_flat_and_may_be_missing():
    X, y = [np.ones(3), np.arange(2.0)], [["a", None, "b"], ["b", "b"]]
    data, codec = fit(X, y)
    assert (codec.space.condition.kind, codec.space.condition.width) == ("steps", 2)
    np.testing.assert_allclose(codec.condition.frequencies, [0.25, 0.75])
    prepared = codec.prepare(data.take(slice(None)))
    assert prepared.y.tolist() == [[1, 0], [0, 0], [0, 1], [0, 1], [0, 1]]
    assert prepared.rows(torch.tensor([1, 0])).y.tolist() == [[0, 1], [0, 1], [1, 0], [0, 0], [0, 1]]
    assert codec.prepare(data.take(slice(None)).select(["x"])).y is None
    again = codec_from_json(data.schema, codec.to_json())
    assert torch.equal(again.prepare(data.take(slice(None))).y, prepared.y)
    with pytest.raises(DataError, match="condition 'y' has no value in sequence 0, step 1: drop the step or fill in"):
        fit(X, y, partial=False)
    with pytest.raises(UnsupportedData, match=r"does not learn from y.*label-per-step"):
        fit(X, y, conditions=frozenset({"labels"}))
    _, strict = fit(X, [["a", "a", "b"], ["b", "b"]], partial=False)
    with pytest.raises(SchemaMismatch, match="no value in sequence 0, step 1"):
        strict.prepare(data.take(slice(None)))
    # lengths of one: the labels are still per step
    single, one = fit([np.ones(1), np.zeros(1)], [["a"], ["b"]])
    assert one.prepare(single.take(slice(None))).rows(torch.tensor([1])).y.tolist() == [[0, 1]]


def test_one_label_per_sequence():
    data, codec = fit([np.ones(3), np.arange(2.0), np.ones(1)], ["a", None, "b"])
    assert codec.space.condition.kind == "labels"
    prepared = codec.prepare(data.take(slice(None)))
    assert prepared.y.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert prepared.rows(slice(1, 3)).y.tolist() == [[0, 0], [0, 1]]
    with pytest.raises(DataError, match="condition 'y' has no value in row 1: drop the row or fill in a label"):
        fit([np.ones(3), np.arange(2.0), np.ones(1)], ["a", None, "b"], partial=False)


def test_tables_with_missing_labels():
    data = as_dataset(RNG.normal(size=(4, 2)), ["a", None, "b", "b"])
    wants = Wants(family="nb", kinds=frozenset({"number"}), conditions=frozenset({"labels"}), partial=True)
    codec = fit_codec(data.schema, wants, data)
    assert codec.prepare(data.take(slice(None))).y.tolist() == [[1, 0], [0, 0], [0, 1], [0, 1]]
    np.testing.assert_allclose(codec.condition.frequencies, [1 / 3, 2 / 3])
    assert codec_from_json(data.schema, codec.to_json()).condition.partial
    with pytest.raises(DataError, match="condition 'y' has no value in row 1: drop the row or fill in a label"):
        fit_codec(data.schema, replace(wants, partial=False), data)
    labelled = data.view([0, 2, 3])
    strict = fit_codec(labelled.schema, replace(wants, partial=False), labelled)
    with pytest.raises(SchemaMismatch, match="no value in row 1"):
        strict.prepare(data.take(slice(None)))
    old = codec.to_json()
    del old["condition"]["partial"]  # as models were saved before labels could be missing
    assert not codec_from_json(data.schema, old).condition.partial
    with pytest.raises(DataError, match="no label in any training row"):
        fit_codec(data.schema, wants, data.view([1]))


# ---------------------------------------------------------------------------------------------- refusals


def test_what_a_sequence_family_refuses():
    with pytest.raises(UnsupportedData, match=r"hmm cannot learn from 'x' \(number\): it takes sequence, text"):
        fit_codec(*(lambda d: (d.schema, HMM, d))(as_dataset(np.ones(3))))
    mixed = as_dataset(pd.DataFrame({"t": ["ab", "cd"], "v": [1.0, 2.0]}), kinds={"t": "text"})
    with pytest.raises(UnsupportedData, match=r"column 'v' has one value per sequence.*role"):
        fit_codec(mixed.schema, replace(HMM, kinds=HMM.kinds | {"number", "category"}), mixed)
    with pytest.raises(UnsupportedData, match="'x', whose steps are of kind category: it takes number"):
        fit([["a", "b"]], kinds=HMM.kinds | {"number"})
    fields = (Field("a", "sequence", step="number"), Field("b", "sequence", step="number"))
    uneven = Table({"a": unpack(np.arange(5.0), np.array([2, 3])), "b": unpack(np.arange(5.0), np.array([3, 2]))})
    with pytest.raises(DataError, match=r"sequence 0 has 3 steps in 'b' and 2 in 'a'.*step by step"):
        fit(Dataset(Schema(fields, "long"), uneven))
    labels = Field("y", "sequence", "condition", step="category", categories=("u",), form="list")
    off = uneven.select(["a"]).with_columns({"y": unpack(np.zeros(5, np.int64), np.array([3, 2]))})
    with pytest.raises(DataError, match="sequence 0 has 3 steps in 'y' and 2 in 'a'"):
        fit(Dataset(Schema((fields[0], labels), "list"), off))
    with pytest.raises(UnsupportedData, match="constant"):
        fit([np.ones(4), np.ones(2)], mixed=False)


def test_weights_and_offsets():
    rows = frame(60, holes=False).assign(w=lambda d: d["m"] + 1.0)[["m", "w", "number", "count"]]
    data, codec = fit(sequences(rows, by="m", roles={"w": "weight"}), discrete="dequantise")
    prepared = codec.prepare(data.take(slice(None)))
    assert prepared.weight.tolist() == [m + 1.0 for m in pd.unique(rows["m"])]
    assert prepared.rows(slice(1, 3)).weight.tolist() == prepared.weight[1:3].tolist()
    np.testing.assert_allclose(codec.affine[0], [rows["number"].mean(), rows["count"].mean()])


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("world", [1, 2])
def test_batches_of_sequences(world):
    lengths = RNG.integers(1, 8, 23)
    X = [np.full((t, 2), float(i)) + RNG.random((t, 2)) / 2 for i, t in enumerate(lengths)]
    y = [[None if s % 3 == 2 else i % 2 for s in range(t)] for i, t in enumerate(lengths)]
    X[4][0, 0] = np.nan
    data, codec = fit(X, y)
    parts = [Batches(data, codec, seed=0, rank=rank, world=world) for rank in range(world)]
    assert parts[0].nbytes > 0
    seen = []
    slots = parts[0].slots(5)
    assert sum(slot.rows for slot in slots) == 23
    order = parts[0].order("p", 0, shuffle=True)
    for slot in slots:
        for rank, part in enumerate(parts):
            batch = part.batch(slot, order, StreamNoise(generator(0), slot.rows, rank=rank, world=world), CPU)
            assert isinstance(batch.x, Ragged)
            assert batch.rows == slot.rows
            assert batch.y.shape == (len(batch.x.values), 2)
            assert batch.observed.shape == batch.x.values.shape
            decoded = codec.decode(batch.x)
            ends = np.cumsum(batch.x.lengths.numpy())
            for end, length, item in zip(ends, batch.x.lengths.tolist(), decoded["x"], strict=True):
                number = int(np.floor(item[-1, 1]))
                seen.append(number)
                assert length == lengths[number]
                labels = batch.y[end - length : end]
                wanted = [[0, 0] if v is None else [1 - v, v] for v in y[number]]
                assert labels.tolist() == wanted
                if number == 4:
                    assert batch.observed[end - length].tolist() == [False, True]
    assert sorted(seen) == list(range(23))


def test_a_column_of_texts_in_a_frame():
    rows = pd.DataFrame({"t": ["abba", "cab"], "lab": ["u", "v"]})
    data = as_dataset(rows, "lab", kinds={"t": "text"})
    _, codec = fit(data)
    prepared = codec.prepare(data.take(slice(None)))
    assert prepared.y.tolist() == [[1, 0], [0, 1]]
    pd.testing.assert_frame_equal(restore_table(data.schema, codec.decode(prepared.x)), rows[["t"]])


def test_steps_packed_and_unpacked():
    column = unpack(np.arange(6), np.array([1, 3, 2]))
    steps, lengths = pack(column)
    assert steps.tolist() == list(range(6))
    assert lengths.tolist() == [1, 3, 2]
    assert pack(np.empty(0, dtype=object))[1].tolist() == []
    symbol = Symbol(3)
    x, seen = symbol.prepare(np.array([2.0, np.nan]))
    assert (x.tolist(), seen.tolist()) == ([[2.0], [0.0]], [[True], [False]])
    assert step_from_json(symbol.to_json()) == symbol
