"""Long data frames: a row per step. Read in any order, split by sequences, and back with the user's columns and types."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from reverie.data.dataset import Dataset
from reverie.data.forms.long import in_user_order
from reverie.data.forms.reading import read_table, restore_table
from reverie.data.schema import Schema
from reverie.data.sources.load import sequences
from reverie.data.table import ROWS, Table, pack, unpack
from reverie.errors import DataError, SchemaMismatch

RNG = np.random.default_rng(0)
KINDS = {
    "v": "number",
    "n": "integer",
    "s": "category",
    "c": "category",
    "ok": "boolean",
    "day": "datetime",
    "k": "integer",
}


def machines(shuffled=True) -> pd.DataFrame:
    """Three machines of 4, 6 and 2 steps, hours apart, with every kind of column and missing cells."""
    parts = []
    for name, steps, first in (("b", 4, "2020-01-02"), ("a", 6, "2020-01-01"), ("c", 2, "2020-02-01")):
        parts.append(pd.DataFrame({"t": pd.date_range(first, periods=steps, freq="h"), "machine": name}))
    out = pd.concat(parts, ignore_index=True)
    n = len(out)
    out["v"] = RNG.normal(size=n)
    out["n"] = RNG.integers(0, 9, n).astype(np.int16)
    out["s"] = RNG.choice(["low", "high"], n)
    out["c"] = pd.Categorical(RNG.choice(["x", "y"], n), categories=["z", "y", "x"], ordered=True)
    out["ok"] = RNG.random(n) < 0.5
    out["day"] = pd.Timestamp("2001") + pd.to_timedelta(RNG.integers(0, 99, n), "D")
    out["k"] = pd.array(RNG.integers(0, 9, n), dtype="Int64")
    for column in ("v", "s", "c", "day", "k"):
        out.loc[RNG.random(n) < 0.25, column] = None
    out["state"] = RNG.choice(["run", "idle"], n)
    out.loc[[1, 5], "state"] = None
    return out.sample(frac=1, random_state=1).reset_index(drop=True) if shuffled else out


def test_rows_in_any_order_are_read_by_sequence_and_time():
    rows = machines()
    data = sequences(rows, by="machine", time="t", y="state")
    assert isinstance(data, Dataset)
    assert data.schema.container == "long"
    assert {f.name: f.step for f in data.schema.data_fields} == KINDS
    assert all(f.kind == "sequence" for f in data.schema.data_fields)
    assert data.schema.condition.categories == ("idle", "run")
    assert data.schema.condition.nullable
    table = data.take(slice(None))
    names = list(pd.unique(rows["machine"]))  # in the order they first occur
    assert table["machine"].tolist() == names
    for row, name in enumerate(names):
        wanted = rows[rows["machine"] == name].sort_values("t")
        np.testing.assert_array_equal(table["v"][row], wanted["v"])
        np.testing.assert_array_equal(table[ROWS][row], wanted.index)
        assert (np.diff(table["t"][row]) > 0).all()
    again = Schema.from_json(json.loads(json.dumps(data.schema.to_json())))
    assert again == data.schema
    restored = read_table(again, rows)
    for name in table.columns:
        for a, b in zip(table[name], restored[name], strict=True):
            np.testing.assert_array_equal(a, b)


def test_given_rows_come_back_as_they_were():
    rows = machines()
    data = sequences(rows, by="machine", time="t", y="state")
    pd.testing.assert_frame_equal(data.X, rows.drop(columns="state"))
    pd.testing.assert_series_equal(data.y, rows["state"])
    some = rows[rows["machine"] != "a"].reset_index(drop=True)
    part = data.view([i for i, m in enumerate(data.take(slice(None))["machine"]) if m != "a"])
    pd.testing.assert_frame_equal(part.X, some.drop(columns="state"))
    pd.testing.assert_series_equal(part.y, some["state"])
    table = read_table(data.schema, rows, "state")
    joined = Table.concat([table.take([0]), table.take([1, 2])])
    pd.testing.assert_frame_equal(restore_table(data.schema, joined), rows.drop(columns="state"))
    only = restore_table(data.schema, table, ["v", "machine"])
    pd.testing.assert_frame_equal(only, rows[["machine", "v"]])


def test_per_step_results_follow_the_users_rows():
    rows = machines()
    table = sequences(rows, by="machine", time="t").take(slice(None))
    steps, _ = pack(table["v"])
    np.testing.assert_array_equal(in_user_order(table, steps), rows["v"])
    part = table.take([1])
    np.testing.assert_array_equal(
        in_user_order(part, pack(part["v"])[0]), rows[rows["machine"] == part["machine"][0]]["v"]
    )
    bare = Table({"v": table["v"]})
    np.testing.assert_array_equal(in_user_order(bare, steps), steps)


def test_filled_rows_keep_what_was_seen():
    rows = machines().drop(columns="state")
    data = sequences(rows, by="machine", time="t")
    table = read_table(data.schema, rows)
    guess = {}
    for field in data.schema.data_fields:
        steps, lengths = pack(table[field.name])
        guess[field.name] = unpack(np.ones_like(steps), lengths)
    filled = restore_table(data.schema, data.schema.fill(table, Table(guess)))
    assert list(filled.columns) == list(rows.columns)
    for name in rows:
        assert filled[name].dtype == rows[name].dtype, name
        seen = rows[name].notna()
        pd.testing.assert_series_equal(filled[name][seen], rows[name][seen])
        assert filled[name].notna().all()


def sample_of(data: Dataset, lengths=(3, 2)) -> pd.DataFrame:
    """What a model's samples look like: the data columns only."""
    columns = {}
    for field in data.schema.data_fields:
        one = field.one_step
        values = np.concatenate([data.take([0])[field.name][0]] * 3)[: sum(lengths)]
        columns[field.name] = unpack(
            np.where(one.is_missing(values), 1, values).astype(values.dtype), np.array(lengths)
        )
    return restore_table(data.schema, Table(columns))


def test_samples_are_numbered_and_timed():
    rows = machines()
    out = sample_of(sequences(rows, by="machine", time="t", y="state"))
    assert list(out.columns) == list(rows.drop(columns="state").columns)
    assert out["machine"].tolist() == ["0", "0", "0", "1", "1"]
    first = pd.Timestamp("2020-01-01")
    hours = pd.Timedelta("1h")
    assert out["t"].tolist() == [first, first + hours, first + 2 * hours, first, first + hours]
    for name in rows.drop(columns="state"):
        assert out[name].dtype == rows[name].dtype, name
    irregular = rows.assign(t=pd.Timestamp("2020") + pd.to_timedelta(RNG.random(len(rows)) * 1e6, "s"))
    assert "t" not in sample_of(sequences(irregular, by="machine", time="t"))
    single = rows.drop_duplicates("machine")
    assert "t" not in sample_of(sequences(single.drop(columns=["v", "s", "c", "k", "day"]), by="machine", time="t"))


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        (np.arange(12) * 5 + 100, [100, 105, 110, 100, 105]),
        (np.arange(12) * 0.25, [0, 0.25, 0.5, 0, 0.25]),
        (np.r_[np.arange(11), 50], [0, 1, 2, 0, 1]),  # one gap in eleven does not make them irregular
        (pd.date_range("2020", periods=12, freq="D", tz="Europe/Oslo"), None),
    ],
    ids=["integers", "floats", "a gap", "zone"],
)
def test_times_of_samples(times, wanted):
    rows = pd.DataFrame({"t": times, "v": RNG.normal(size=12)})
    data = sequences(rows, time="t")
    out = sample_of(data)
    assert out["t"].dtype == rows["t"].dtype
    if wanted is not None:
        assert out["t"].tolist() == wanted
    else:
        assert out["t"][:3].tolist() == rows["t"][:3].tolist()
    pd.testing.assert_frame_equal(data.X, rows)


@pytest.mark.parametrize(
    ("names", "numbered"),
    [
        (np.array([7, 7, 9, 9]), [0, 0, 0, 1, 1]),
        (np.array([7, 7, 9, 9], np.int8), [0, 0, 0, 1, 1]),
        (pd.array([7, 7, 9, 9], dtype="Int64"), [0, 0, 0, 1, 1]),
        (np.array([0.5, 0.5, 2, 2]), [0.0, 0.0, 0.0, 1.0, 1.0]),
        (pd.Categorical(["u", "u", "v", "v"]), ["0", "0", "0", "1", "1"]),
        (pd.array(["u", "u", "v", "v"], dtype="string"), ["0", "0", "0", "1", "1"]),
        (pd.to_datetime(["2020", "2020", "2021", "2021"]), [0, 0, 0, 1, 1]),
        (np.array([True, True, False, False]), [0, 0, 0, 1, 1]),
    ],
)
def test_any_column_may_name_the_sequences(names, numbered):
    rows = pd.DataFrame({"v": [1.5, 2.5, 3.5, 4.5], "by": names})
    data = sequences(rows, by="by")
    assert len(data) == 2
    pd.testing.assert_frame_equal(data.X, rows)
    assert sample_of(data)["by"].tolist() == numbered


def test_more_sequences_than_the_type_of_names_can_count():
    rows = pd.DataFrame({"by": np.array([1, 1, 2], np.int8), "v": [1.5, 2.5, 3.5]})
    data = sequences(rows, by="by")
    out = sample_of(data, lengths=[1] * 3)
    assert out["by"].dtype == np.int8
    many = restore_table(data.schema, Table({"v": unpack(np.zeros(200), np.ones(200, np.int64))}))
    assert many["by"].tolist() == list(range(200))


def test_a_frame_without_names_is_one_sequence():
    rows = pd.DataFrame({"v": [3.5, 1.5, 2.5], 7: [1, 2, 3]})
    data = sequences(rows)
    assert len(data) == 1
    assert data.take([0])["v"][0].tolist() == [3.5, 1.5, 2.5]
    pd.testing.assert_frame_equal(data.X, rows)
    assert list(sample_of(data).columns) == ["v", 7]


def test_ties_in_time_keep_the_order_of_rows():
    rows = pd.DataFrame({"m": [1, 0, 1, 0, 1], "t": [1, 0, 0, 0, 0], "v": [1.0, 2.0, 3.0, 4.0, 5.0]})
    table = sequences(rows, by="m", time="t").take(slice(None))
    assert [item.tolist() for item in table["v"]] == [[3, 5, 1], [2, 4]]


def test_whole_sequences_are_split():
    rows = pd.DataFrame({"m": RNG.integers(0, 30, 400), "plant": 0, "v": RNG.normal(size=400)})
    rows["plant"] = rows["m"] % 4
    data = sequences(rows, by="m", roles={"plant": "group"})
    parts = data.split("random", seed=1)
    assert not set(parts.train.X["m"]) & set(parts.test.X["m"])
    assert len(parts.train) + len(parts.test) == rows["m"].nunique()
    by_plant = data.split("group", seed=1)
    assert not set(by_plant.train.X["m"] % 4) & set(by_plant.test.X["m"] % 4)
    assert sequences(rows, by="m").split(group="m").splits
    with pytest.raises(DataError, match="dealt out whole"):
        data.split("time", time="v")


def test_hash_is_that_of_the_sequences():
    rows = machines(shuffled=False)
    shuffled = pd.concat([rows[rows["machine"] == m].sample(frac=1, random_state=0) for m in ("b", "a", "c")])
    data = sequences(rows, by="machine", time="t")
    assert sequences(shuffled, by="machine", time="t").hash == data.hash
    assert sequences(rows, by="machine").hash != data.hash
    assert sequences(rows.assign(n=rows["n"] + (rows.index == 3)), by="machine", time="t").hash != data.hash


def test_weights_are_one_per_sequence():
    rows = machines().assign(w=lambda d: d["machine"].map({"a": 1.0, "b": 2.0, "c": 0.5}))
    data = sequences(rows, by="machine", time="t", roles={"w": "weight", "state": "ignore"})
    table = data.take(slice(None))
    assert table["w"].tolist() == [{"a": 1.0, "b": 2.0, "c": 0.5}[m] for m in table["machine"]]
    assert "state" not in table
    assert read_table(data.schema, rows)["w"].tolist() == table["w"].tolist()
    assert "w" not in read_table(data.schema, rows.drop(columns="w"))


def test_labels_are_optional_later_and_may_be_given_apart():
    rows = machines()
    schema = sequences(rows, by="machine", time="t", y="state").schema
    bare = rows.drop(columns="state")
    assert "state" not in read_table(schema, bare)
    wanted = read_table(schema, rows, "state")
    for y in (rows["state"], rows["state"].tolist()):
        got = read_table(schema, bare, y)
        for a, b in zip(wanted["state"], got["state"], strict=True):
            np.testing.assert_array_equal(a, b)
    assert {code for row in read_table(schema, bare, "run")["state"] for code in row} == {1}
    ignored = sequences(rows, by="machine", time="t", y="state").without_y()
    assert ignored.y is None
    assert read_table(ignored.schema, rows)
    with pytest.raises(SchemaMismatch, match=r"no class 'stop'.*Classes: 'idle', 'run'"):
        read_table(schema, bare, "stop")
    with pytest.raises(SchemaMismatch, match="y has 2 rows where 12"):
        read_table(schema, bare, ["run", "idle"])
    with pytest.raises(SchemaMismatch, match="trained without a condition"):
        read_table(sequences(bare, by="machine", time="t").schema, bare, "run")


def test_later_rows_are_checked():
    rows = machines().drop(columns="state")
    schema = sequences(rows, by="machine", time="t").schema
    cases = [
        (rows.drop(columns="v"), "column 'v' is missing"),
        (rows.drop(columns="machine"), "column 'machine' is missing"),
        (rows.drop(columns="t"), "column 't' is missing"),
        (rows.rename(columns={"v": "volt"}), "column 'volt' is not known"),
        (rows.assign(s="lo"), "'lo' .row 0. is not a known value"),
        (rows.assign(n=0.5), "'n' is of whole numbers"),
        (rows.assign(machine=[None, *rows["machine"][1:]]), "names the sequences but has no value in row 0"),
        (rows.assign(t=rows["t"].where(rows.index != 2)), "time column 't' has no value in row 2"),
        (rows[:0], "no rows"),
        (rows["v"].to_numpy(), "a long DataFrame with the columns"),
    ]
    for X, words in cases:
        with pytest.raises(SchemaMismatch, match=words):
            read_table(schema, X)
    table = read_table(schema, rows.assign(s="lo"), unseen="missing")
    assert {code for row in table["s"] for code in row} == {-1}
    partial = read_table(schema, rows.drop(columns="v"), partial=True)
    assert all(np.isnan(row).all() for row in partial["v"])
    other = sequences(rows.assign(n=rows["n"] + 0.5), by="machine", time="t")
    with pytest.raises(SchemaMismatch, match="'n' has step"):
        schema.check_same(other.schema)


two = pd.DataFrame({"m": ["a", "a", "b"], "t": [1, 2, 1], "v": [1.0, 2.0, 3.0], "s": ["x", "y", "x"], "g": [0, 1, 1]})
BAD = {
    "no such by": (two, {"by": "machine"}, ["by='machine' is no column", "Columns: m"]),
    "no such time": (two, {"time": "tt"}, ["time='tt' is no column, did you mean 't'?"]),
    "no such y": (two, {"y": "state"}, ["y='state' is no column"]),
    "y beside": (two, {"y": ["x", "y", "x"]}, ["y: expected the name of a column, got a list"]),
    "twice": (two, {"by": "m", "time": "m"}, ["'m' is named twice"]),
    "a role for by": (two, {"by": "m", "roles": {"m": "group"}}, ["'m'", "'group'", "keep one"]),
    "role time": (two, {"by": "m", "roles": {"t": "time"}}, ["give time='t'"]),
    "role id": (two, {"roles": {"m": "id"}}, ["give by='m'"]),
    "text time": (two, {"by": "m", "time": "s"}, ["time column 's'", "no order in time"]),
    "missing by": (two.assign(m=["a", None, "b"]), {"by": "m"}, ["'m'", "row 1", "fill it"]),
    "missing time": (two.assign(t=[1, None, 2]), {"time": "t"}, ["time column 't'", "row 1"]),
    "numeric y": (two.assign(v=[0.5, 1.5, 2.5]), {"y": "v"}, ["'v' is of kind number", "labels"]),
    "group changes": (
        two,
        {"by": "m", "roles": {"g": "group"}},
        ["group column 'g' changes inside a sequence (row 1)"],
    ),
    "prose": (two, {"by": "m", "kinds": {"s": "text"}}, ["'s' is of kind text", "steps of a sequence"]),
    "nothing left": (two[["m", "t"]], {"by": "m", "time": "t"}, ["no column is left"]),
    "no rows": (two[:0], {"by": "m"}, ["no rows"]),
    "a list": ([[1, 2]], {}, ["expected a long DataFrame, got a list"]),
    "reserved": (two.rename(columns={"v": "(row)"}), {}, ["'(row)'", "rename it"]),
    "infinite": (two.assign(v=[1, np.inf, 2]), {"by": "m"}, ["'v'", "row 1"]),
}


@pytest.mark.parametrize(("X", "options", "words"), BAD.values(), ids=BAD)
def test_bad_frames_say_what_to_do(X, options, words):
    with pytest.raises(DataError) as caught:
        sequences(X, **options)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
