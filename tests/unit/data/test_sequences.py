"""Sequences as lists: arrays, symbols, texts, labels per step. Every form comes back as it went in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.data.dataset import Dataset
from reverie.data.forms.conditions import read_y
from reverie.data.forms.reading import infer, read_table, restore_table, restore_y
from reverie.data.schema import Field, Schema
from reverie.data.sources.load import as_dataset, load_data
from reverie.data.table import Table, pack, unpack
from reverie.errors import DataError, ReverieError, SchemaMismatch

RNG = np.random.default_rng(0)

FORMS = {
    "floats": ([np.array([1.5, np.nan]), np.array([2.5])], "number"),
    "float32 pairs": ([np.float32([[1, 2], [3, np.nan]]), np.float32([[5, 6]])], "number"),
    "integers": ([np.int16([1, 2, 3]), np.int16([-4])], "integer"),
    "integer pairs": ([np.arange(6).reshape(3, 2), np.arange(4).reshape(2, 2)], "integer"),
    "booleans": ([np.array([True, False]), np.array([True])], "boolean"),
    "dates": ([np.array(["2020-01-01", "NaT"], "M8[s]"), np.array(["1999-05-05"], "M8[s]")], "datetime"),
    "tensors": ([torch.arange(3), torch.arange(2)], "integer"),
    "float tensors": ([torch.randn(3, 2), torch.randn(1, 2)], "number"),
    "half tensors": ([torch.ones(3, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)], "number"),
    "symbols": ([["a", "b", None], ["c"]], "category"),
    "symbol tuples": ([("x", "y"), ("y", None, "z")], "category"),
    "symbol arrays": ([np.array(["x", "yy"]), np.array(["y"])], "category"),
    "symbol objects": ([np.array(["x", None], dtype=object), np.array([None, "y"], dtype=object)], "category"),
}


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray | torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        plain = [v.double().numpy() if isinstance(v, torch.Tensor) else v for v in (a, b)]
        np.testing.assert_array_equal(*plain)
    else:
        assert a == b


def through_json(schema: Schema) -> Schema:
    return Schema.from_json(json.loads(json.dumps(schema.to_json())))


@pytest.mark.parametrize(("X", "step"), FORMS.values(), ids=FORMS)
def test_every_form_comes_back(X, step):
    schema, table = infer(X)
    field = schema.data_fields[0]
    assert (field.kind, field.step, schema.container) == ("sequence", step, "list")
    assert through_json(schema) == schema
    for item, cells in zip(X, table["x"], strict=True):
        assert cells.shape == np.shape(item)
    steps, _ = pack(table["x"])
    assert field.one_step.is_missing(steps).any() == field.nullable
    for back in (restore_table(schema, table), restore_table(through_json(schema), read_table(schema, X))):
        for a, b in zip(X, back, strict=True):
            same(a, b)
    same(X[1], restore_table(schema, table.take([1]))[0])


def test_sequences_of_one_length_may_be_one_array():
    for X, container in (
        (RNG.normal(size=(3, 4, 2)), "array"),
        (RNG.integers(0, 9, (3, 4)), "array"),
        (torch.randn(3, 4, 2), "tensor"),
    ):
        schema, table = infer(X, kinds={"x": "sequence"})
        assert schema.container == container
        assert table["x"][2].shape == X.shape[1:]
        same(X, restore_table(schema, table))
        same(X[:, :2], restore_table(schema, read_table(schema, X[:, :2])))
        longer = read_table(schema, [X[0], X[1][:1]])  # sequences of other lengths are sequences still
        assert [len(item) for item in restore_table(schema, longer)] == [4, 1]
    ragged, _ = infer([np.ones(2), np.ones(3)])
    assert read_table(ragged, np.ones((4, 5)))["x"][3].shape == (5,)
    assert read_table(ragged, [[1.0, 2.0], [3.0, 4.0]])["x"][1].tolist() == [3.0, 4.0]


def test_a_kind_may_be_asked_for():
    X = [np.array([3, 7]), np.array([9])]
    schema, table = infer(X, kinds={"x": "category"})
    assert schema.fields[0].categories == (3, 7, 9)
    assert [codes.tolist() for codes in table["x"]] == [[0, 1], [2]]
    for a, b in zip(X, restore_table(schema, table), strict=True):
        same(a, b)
    with pytest.raises(SchemaMismatch, match=r"sequence 1, step 1 is 8, which is not a known value"):
        read_table(schema, [np.array([3]), np.array([7, 8])])
    assert read_table(schema, [np.array([8, 9])], unseen="missing")["x"][0].tolist() == [-1, 2]
    assert infer(X, kinds={"x": "number"})[0].fields[0].step == "number"
    whole, table = infer([np.array([1.0, np.nan]), np.array([2.0])], kinds={"x": "integer"})
    assert whole.fields[0].step == "integer"
    same(np.array([1.0, np.nan]), restore_table(whole, table)[0])


def test_unseen_symbols_are_refused_or_missing():
    schema, _ = infer([["wash", "rinse"], ["dry"]])
    with pytest.raises(SchemaMismatch) as caught:
        read_table(schema, [["wash"], ["rinse", "dri"]])
    for word in ("sequence 1, step 1", "'dri'", "did you mean 'dry'?", "Known: 'dry', 'rinse', 'wash'"):
        assert word in str(caught.value)
    table = read_table(schema, [["wash"], ["rinse", "dri", None]], unseen="missing")
    assert [codes.tolist() for codes in table["x"]] == [[2], [1, -1, -1]]
    assert restore_table(schema, table) == [["wash"], ["rinse", None, None]]


def test_fill_takes_missing_steps_only():
    schema, table = infer([np.array([1.0, np.nan, 3.0]), np.array([np.nan])])
    guess = Table({"x": unpack(np.array([7.0, 8, 9, 10]), np.array([3, 1]))})
    assert [item.tolist() for item in restore_table(schema, schema.fill(table, guess))] == [[1, 8, 3], [10]]
    schema, table = infer([["a", None], ["b"]])
    guess = Table({"x": unpack(np.array([1, 1, 1]), np.array([2, 1]))})
    assert restore_table(schema, schema.fill(table, guess)) == [["a", "b"], ["b"]]
    flat, table = infer(np.array([[1.0, np.nan], [3.0, 4.0]]))
    assert flat.fill(table, Table({"x": np.full((2, 2), 6.0)}))["x"].tolist() == [[1.0, 6.0], [3.0, 4.0]]


STEPWISE = {
    "lists": [["u", None, "v"], ["u"]],
    "tuples": [("u", "v", None), (None,)],
    "numbers": [[0, None, 2], [2]],
    "booleans": [[True, False, None], [True]],
    "arrays": [np.array([0, 1, 2]), np.array([1])],
    "float arrays": [np.array([0, np.nan, 2]), np.array([1.0])],
    "text arrays": [np.array(["u", "v", "u"]), np.array(["v"])],
    "object arrays": [np.array(["u", None, "u"], dtype=object), np.array(["v"], dtype=object)],
    "tensors": [torch.tensor([0, 1, 2]), torch.tensor([1])],
    "float tensors": [torch.tensor([0, np.nan, 2]), torch.tensor([1.0])],
}


@pytest.mark.parametrize("y", STEPWISE.values(), ids=STEPWISE)
@pytest.mark.parametrize(
    "X", [[np.ones(3), np.ones(1)], ["abc", "d"], [["p", "q", "p"], ["p"]]], ids=["numbers", "text", "symbols"]
)
def test_labels_per_step_come_back(X, y):
    schema, table = infer(X, y)
    field = schema.condition
    assert (field.kind, field.step, field.role) == ("sequence", "category", "condition")
    flat = [v for row in y for v in (row.tolist() if not isinstance(row, list | tuple) else row)]
    missing = [v is None or v != v for v in flat]
    assert field.nullable == any(missing)
    assert not any(isinstance(category, float) for category in field.categories)
    assert (pack(table["y"])[0] < 0).tolist() == missing
    assert through_json(schema) == schema
    for back in (restore_y(schema, table), restore_y(schema, read_table(schema, X, y)), as_dataset(X, y).y):
        for a, b in zip(y, back, strict=True):
            same(a, b)
    single = field.categories[0]
    assert [codes.tolist() for codes in read_table(schema, X, single)["y"]] == [[0, 0, 0], [0]]


def test_matrices_and_whole_sequences_without_labels():
    X = [np.ones(2), np.ones(2)]
    for y in (np.array([[0, 1], [1, 2]]), torch.tensor([[0, 1], [1, 2]])):
        schema, table = infer(X, y)
        assert schema.condition.kind == "sequence"
        same(y, restore_y(schema, table))
    schema, table = infer(X, [["a", "b"], None])
    assert [codes.tolist() for codes in table["y"]] == [[0, 1], [-1, -1]]
    assert restore_y(schema, table) == [["a", "b"], [None, None]]


def test_one_value_per_sequence_is_not_a_label_per_step():
    X = [np.ones(2), np.ones(3), np.ones(2)]
    assert infer(X, ["a", "b", "a"])[0].condition.kind == "category"
    assert infer(["ab", "cd"], ["xy", "zw"])[0].condition.kind == "category"
    vector, _ = infer(X, np.array([[0.5, 1], [2, 3], [4, 5]]))
    assert (vector.condition.kind, vector.condition.shape) == ("number", (2,))
    assert infer(X[:1] * 3, [[0.5, 1.0], [1.0, 2.0], [3.0, 4.0]])[0].condition.shape == (2,)
    assert infer(X, [[0.0, 1.0], [1.0, 2.0], [3.0, 4.0]])[0].condition.shape == (2,)  # no label for each of 3 steps
    assert infer(X[:1] * 2, [[0.0, 1.0], [1.0, 2.0]], kinds={"y": "number"})[0].condition.shape == (2,)


X2 = [np.ones(3), np.ones(2)]
BAD_LABELS = {
    "too few": ([["a", "b", "a"], ["a"]], ["sequence 1 has 2 steps and y[1] has 1 labels"]),
    "too few sequences": ([["a", "b", "a"]], ["labels for 1 sequences and X has 2"]),
    "none at all": ([[None] * 3, [None] * 2], ["no label in any step", "leave y out"]),
    "mixed": ([["a", 1, "a"], ["a", "b"]], ["mixes types", "'a'", "1"]),
    "a fraction among texts": ([["a", "b", "c"], [np.float64(0.5), "a"]], ["y: sequence 1, step 0"]),
    "a list as label": ([["a", "b", ["c"]], ["a", "b"]], ["sequence 0, step 2", "['c']"]),
    "a label among lists": ([["a", "b", "c"], "ab"], ["y"]),
}


@pytest.mark.parametrize(("y", "words"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_per_step(y, words):
    with pytest.raises(ReverieError) as caught:
        infer(X2, y)
    assert isinstance(caught.value, DataError)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_kinds_of_a_y_beside_sequences():
    """Labels per step stay so when `kinds` says category; sequences of their own are what it says to be sequences."""
    X = [np.arange(3.0), np.arange(2.0)]
    labels = [[0, 1, 0], [1, 1]]
    asked, _ = infer(X, labels, kinds={"y": "category"})
    assert asked == infer(X, labels)[0]
    assert not asked.condition.whole
    whole, table = infer(X, [["a"], ["b", "a", "a"]], kinds={"y": "sequence"})
    assert whole.condition.whole
    assert restore_y(whole, table) == [["a"], ["b", "a", "a"]]


def test_later_labels_and_sequences_are_checked():
    schema, _ = infer(X2, [["a", "b", None], ["b", "b"]])
    cases = [
        ([["a", "c", "a"], ["a", "b"]], ["y of sequence 0, step 1: no class 'c'", "Classes: 'a', 'b'"]),
        ([["a", "a"], ["a", "b"]], ["sequence 0 has 3 steps and y[0] has 2"]),
        ([["a", "a", "a"]], ["labels for 1 sequences where 2"]),
        (["a", "b"], ["y of sequence 0 is 'a'", "every step"]),
        ("z", ["no class 'z'"]),
        ({1: 2}, ["the columns 1"]),
    ]
    for y, words in cases:
        with pytest.raises(SchemaMismatch) as caught:
            read_table(schema, X2, y)
        for word in words:
            assert word in str(caught.value), (word, str(caught.value))
    with pytest.raises(SchemaMismatch, match="one label, but 'y' has one per step: give 3 lists"):
        read_y(schema, "a", 3)
    for X, words in [
        ([np.ones((2, 1))], ["sequence 0", "(2, 1)"]),
        ([np.ones(2), np.ones(0)], ["sequence 1 is empty"]),
        ([np.array([1, np.inf])], ["sequence 0, step 1"]),
        (np.ones(3), ["(3,)", "for one sequence give [X]"]),
        ([["a"]], ["sequence 0 is a list"]),
        ([np.array(["2020"], "M8[s]")], ["datetime64"]),
    ]:
        with pytest.raises(SchemaMismatch) as caught:
            read_table(schema, X)
        for word in words:
            assert word in str(caught.value), (word, str(caught.value))
    symbols, _ = infer([["a"], ["b"]])
    for X, words in [(["ab"], ["sequence 0 is a str"]), ([["a", 2]], ["step 1", "int 2"]), ([np.ones(2)], ["step 0"])]:
        with pytest.raises(SchemaMismatch) as caught:
            read_table(symbols, X)
        for word in words:
            assert word in str(caught.value), (word, str(caught.value))
    assert read_table(symbols, [[None]])["x"][0].tolist() == [-1]


def test_other_data_sets_are_told_apart():
    numbers, whole = as_dataset([np.ones(2)]), as_dataset([np.ones(2, int)])
    with pytest.raises(SchemaMismatch, match="step"):
        numbers.schema.check_same(whole.schema)
    with pytest.raises(DataError, match="no step 'colour'"):
        Field("x", "sequence", step="colour")
    with pytest.raises(DataError, match="Only sequences have steps"):
        Field("x", "number", step="number")
    assert "x: sequence of integer" in repr(whole)


def test_datasets_of_sequences():
    X = [RNG.normal(size=(1 + i % 5, 2)) for i in range(40)]
    y = [[["a", "b"][t % 2] for t in range(len(x))] for x in X]
    data = load_data(X, y, seed=3)
    assert (len(data.train), len(data.test)) == (32, 8)
    back = data.train.X
    for row, item in zip(data.splits["train"], back, strict=True):
        same(X[row], item)
    assert data.train.y[5] == y[data.splits["train"][5]]
    assert data.split_info["duplicates"] == {"train/test": 0}
    twice = as_dataset([*X[:10], *X[:10]]).with_splits({"train": np.arange(10), "test": np.arange(10, 20)}, {})
    assert twice.split_info["duplicates"] == {"train/test": 10}
    assert sum(chunk.n for chunk in data.chunks(7)) == 40
    assert [chunk.n for chunk in data.chunks(15)] == [15, 15, 10]
    assert load_data(X, y, seed=3).hash == data.hash
    changed = [x.copy() for x in X]
    changed[7][1, 1] += 1e-9
    hashes = {data.hash, as_dataset(changed, y).hash, as_dataset(X).hash, as_dataset(X[::-1], y[::-1]).hash}
    assert len(hashes) == 4
    # the same numbers cut elsewhere are other sequences
    assert as_dataset([np.ones(2), np.ones(3)]).hash != as_dataset([np.ones(3), np.ones(2)]).hash
    for name in ("x", "y"):
        with pytest.raises(DataError, match="dealt out whole"):
            data.split("group", group=name)
    assert isinstance(data.view([1, 2]), Dataset)
    assert data.without_y().y is None


def test_chunks_are_cut_by_the_length_of_all_sequences(monkeypatch):
    data = as_dataset([np.ones(1), *(np.ones(1000) for _ in range(9))])
    monkeypatch.setattr("reverie.data.dataset._CHUNK_BYTES", 20_000)
    assert [chunk.n for chunk in data.chunks()] == [2] * 5  # the first sequence alone would promise them all


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.sampled_from(["float64", "float32", "int64", "uint8", "bool", "symbols"]),
    st.sampled_from([(), (1,), (3,)]),
    st.integers(0, 2**32 - 1),
)
def test_any_ragged_list_comes_back(lengths, dtype, shape, seed):
    rng = np.random.default_rng(seed)
    if dtype == "symbols":
        X = [[None if v == 3 else "abc"[v] for v in rng.integers(0, 4, t)] for t in lengths]
        if not any(v for x in X for v in x):
            X[0][0] = "a"
    else:
        X = [(rng.normal(size=(t, *shape)) * 9).astype(dtype) for t in lengths]
        if dtype.startswith("float") and len(X[0]) > 1:
            X[0][0] = np.nan
    schema, table = infer(X)
    order = rng.permutation(len(X))
    for row, item in zip(order, restore_table(schema, table.take(order)), strict=True):
        same(X[row], item)
    rebuilt = through_json(schema)
    assert as_dataset(X).hash == Dataset(rebuilt, read_table(rebuilt, X)).hash
