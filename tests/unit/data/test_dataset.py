"""Views, hashes, splits and the duplicates between them; names that come with the library."""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import reverie as rv
from reverie.data.dataset import Dataset
from reverie.data.digests import row_digests
from reverie.data.forms.reading import infer
from reverie.data.sources import toys
from reverie.data.sources.bundled import _hub_frame
from reverie.data.sources.load import as_dataset, load_data
from reverie.data.table import Table
from reverie.errors import DataError, InvalidOption, SchemaMismatch

FRAME = pd.DataFrame({"a": np.arange(100.0), "who": [f"g{i % 17}" for i in range(100)], "day": np.arange(100) // 3})


def test_take_view_chunks():
    data = as_dataset(FRAME)
    assert len(data) == 100
    assert data.in_memory
    assert data.take([3, 1, -1])["a"].tolist() == [3, 1, 99]
    part = data.view(slice(10, 20))
    assert part.take([0, 9])["a"].tolist() == [10, 19]
    assert part.view(np.arange(10) % 2 == 0).take(slice(None))["a"].tolist() == [10, 12, 14, 16, 18]
    assert [table.n for table in data.chunks(30)] == [30, 30, 30, 10]
    assert np.concatenate([t["a"] for t in part.chunks(3)]).tolist() == list(range(10, 20))
    pd.testing.assert_frame_equal(part.X, FRAME[10:20].reset_index(drop=True))
    assert part.head(2)["a"].tolist() == [10, 11]
    assert part.y is None
    assert data.take([]).n == 0
    assert list(data.view([]).chunks()) == []
    for index in ([100], [-101], [0, 5, 100]):
        with pytest.raises(DataError, match="out of range"):
            data.take(index)
    assert pickle.loads(pickle.dumps(part)).hash == part.hash


def test_hash_follows_content_and_schema():
    data = as_dataset(FRAME)
    same = as_dataset(FRAME.copy())
    assert data.hash == same.hash
    assert len(data.hash) == 64
    others = [
        as_dataset(FRAME.assign(a=FRAME["a"] + (FRAME.index == 50) * 1e-12)),
        as_dataset(FRAME.rename(columns={"a": "b"})),
        as_dataset(FRAME, roles={"day": "time"}),
        as_dataset(FRAME[::-1]),
        data.view(slice(0, 99)),
    ]
    assert len({data.hash, *(other.hash for other in others)}) == 6
    assert data.view(np.arange(100)).hash == data.hash
    assert as_dataset(["ab", "c"]).hash != as_dataset(["a", "bc"]).hash
    assert as_dataset(np.array([0.0, 1])).hash == as_dataset(np.array([-0.0, 1])).hash
    ragged = [np.ones(3), np.ones(2)]
    assert as_dataset(ragged).hash != as_dataset(ragged[::-1]).hash


def test_random_split_is_a_seeded_partition():
    data = as_dataset(FRAME).split(fractions=(0.7, 0.1, 0.2), seed=3)
    assert [len(data.splits[part]) for part in ("train", "valid", "test")] == [70, 10, 20]
    assert sorted(np.concatenate(list(data.splits.values()))) == list(range(100))
    again = as_dataset(FRAME).split(fractions=(0.7, 0.1, 0.2), seed=3)
    assert all((again.splits[part] == rows).all() for part, rows in data.splits.items())
    other = as_dataset(FRAME).split(fractions=(0.7, 0.1, 0.2), seed=4)
    assert not np.array_equal(other.splits["test"], data.splits["test"])
    assert data.split_info["method"] == "random"
    assert data.split_info["seed"] == 3
    assert data.split_info["fractions"] == [0.7, 0.1, 0.2]
    assert data.split_info["sizes"] == {"train": 70, "valid": 10, "test": 20}
    assert len(as_dataset(FRAME).split(fractions=(0.5, 0.2)).test) == 20
    for n in range(3, 12):
        parts = as_dataset(FRAME[:n]).split(fractions=(0.9, 0.05, 0.05)).splits
        assert all(len(rows) for rows in parts.values())
        assert sum(map(len, parts.values())) == n


def test_groups_never_straddle():
    data = load_data(FRAME, group="who", seed=1)
    assert data.split_info["method"] == "group"
    assert data.split_info["column"] == "who"
    assert [field.role for field in data.schema.fields] == ["data", "group", "data"]
    sides = [set(part.take(slice(None))["who"]) for part in (data.train, data.test)]
    assert not sides[0] & sides[1]
    assert len(data.train) + len(data.test) == 100
    assert 70 <= len(data.train) <= 90
    by_role = load_data(FRAME, roles={"who": "group"}, seed=1)
    assert np.array_equal(by_role.splits["test"], data.splits["test"])
    uneven = pd.DataFrame({"a": np.arange(10.0), "g": [0] * 9 + [1]})
    parts = load_data(uneven, group="g").splits
    assert all(len(rows) for rows in parts.values())
    halves = load_data(pd.DataFrame({"a": np.arange(10.0), "g": [0] * 5 + [1] * 5}), group="g").splits
    assert [len(rows) for rows in halves.values()] == [5, 5]
    with pytest.raises(DataError, match="1 groups, too few"):
        load_data(uneven[:9], group="g")


def test_time_splits_forward_and_keeps_ties_together():
    shuffled = FRAME.sample(frac=1, random_state=0)
    data = load_data(shuffled, time="day", fractions=(0.6, 0.2, 0.2))
    train, valid, test = (part.take(slice(None))["day"] for part in (data.train, data.valid, data.test))
    assert train.max() < valid.min()
    assert valid.max() < test.min()
    assert len(train) + len(valid) + len(test) == 100
    assert data.split_info["method"] == "time"
    assert data.schema.field("day").role == "time"
    dates = pd.DataFrame({"a": np.arange(10.0), "t": pd.date_range("2020", periods=10)[::-1]})
    assert load_data(dates, time="t").test.X["a"].tolist() == [0, 1]
    kept = load_data(dates, roles={"t": "data"}, time="t")
    assert [field.role for field in kept.schema.fields] == ["data", "data"]
    with pytest.raises(DataError, match="too few different times"):
        load_data(dates.assign(t=1), time="t")


def test_duplicates_between_parts_are_counted():
    values = np.arange(100.0)
    values[50:] = values[:50]
    data = load_data(np.stack([values, values], 1), seed=0)
    rows = {part: {tuple(row) for row in getattr(data, part).X} for part in ("train", "test")}
    expected = sum(tuple(row) in rows["train"] for row in data.test.X)
    assert expected > 0
    assert data.split_info["duplicates"] == {"train/test": expected}
    assert any(f"{expected} of 20 test rows also stand in train" in line for line in data.warnings)
    again = data.split(seed=1)
    assert sum(line.startswith("duplicates") for line in again.warnings) == 1
    clean = load_data(np.arange(100.0))
    assert clean.split_info["duplicates"] == {"train/test": 0}
    assert clean.warnings == []
    texts = load_data(["same"] * 10)
    assert texts.split_info["duplicates"] == {"train/test": 2}


def test_row_digests_tell_rows_apart():
    table = Table(
        {"a": np.array([0.0, -0.0, np.nan, np.nan, 1]), "t": np.array(["x", "x", "y", "y", "x"], dtype=object)}
    )
    digests = row_digests(table, ["a", "t"])
    assert digests[0] == digests[1]
    assert digests[2] == digests[3]
    assert len(set(digests.tolist())) == 3


def test_missing_parts_and_small_sets():
    data = load_data(FRAME, split=None)
    assert data.splits == {}
    with pytest.raises(DataError, match="no valid part"):
        _ = load_data(FRAME).valid
    with pytest.raises(DataError, match="no train part"):
        _ = data.train
    with pytest.raises(DataError, match="no test part"):
        _ = load_data(FRAME).train.test
    single = load_data(FRAME[:1])
    assert single.splits == {}
    assert "too few to split" in single.warnings[-1]


def test_max_rows_is_a_seeded_sample():
    data = load_data(FRAME, max_rows=30, seed=2)
    assert len(data) == 30
    assert len(data.train) == 24
    rows = data.X["a"].tolist()
    assert rows == sorted(rows)
    assert rows != list(range(30))
    assert rows == load_data(FRAME, max_rows=30, seed=2).X["a"].tolist()
    assert load_data(FRAME, max_rows=1000).hash == as_dataset(FRAME).hash
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidOption, match="max_rows"):
            load_data(FRAME, max_rows=wrong)


def test_warnings_say_what_is_worth_a_look():
    n = 200
    frame = pd.DataFrame({"c": np.ones(n), "id": [f"u{i}" for i in range(n)], "x": np.arange(n)})
    text = "\n".join(as_dataset(frame).warnings)
    assert "constant columns: 'c' (1)" in text
    assert "'id' has 200 categories in 200 rows" in text
    assert "roles={'id': 'id'}" in text
    assert as_dataset(np.ones((3, 4, 4), np.uint8)).warnings == []  # black and white
    assert "all black" in as_dataset(np.zeros((3, 4, 4), np.uint8)).warnings[0]
    assert "give X / 2" in as_dataset(np.full((3, 4, 4), 2, np.uint8)).warnings[0]
    assert "give X / 16" in as_dataset(np.full((3, 4, 4), 16, np.uint8)).warnings[0]
    assert as_dataset(np.full((3, 4, 4), 64, np.uint8)).warnings == []
    crowd = as_dataset(np.zeros((n, 2)) + np.arange(n)[:, None], list(range(n)))
    assert "kinds={'y': 'number'}" in crowd.warnings[0]


def test_a_string_is_a_text_where_it_can_be_no_path():
    """A line break, or more bytes than a path (4096) or a part of one (255) may have; names and paths stay what they are."""
    texts = ["to be\nor not", "word " * 1000, "é" * 128, "a/" * 2500]
    for text in texts:
        assert as_dataset(text).X == load_data(text, split=None).X == [text]
    assert load_data(texts[0]).origin is None
    model = rv.HMM(states=2).fit(texts[0], epochs=2)
    assert isinstance(model.sample(1, seed=0)[0], str)
    np.testing.assert_array_equal(model.log_prob(texts[0]), model.log_prob([texts[0]]))
    for path in ("no such file", "é" * 127, "folder/" + "b" * 200):
        with pytest.raises(DataError, match=r"no file|no data set|there is no"):
            as_dataset(path)


def test_rows_that_continue_a_model_s_data_are_read_by_its_schema():
    """Grey levels of 17, of which the new rows show 9; two of three categories; labels for a model without."""
    digits = load_data("digits", False)
    model = rv.VAE(latent=2).fit(digits.train, epochs=1)
    assert model.schema.data_fields[0].high == 16
    later = rv.finetune(model, digits.X[:60].clip(0, 8), epochs=1)
    assert later.schema.data_fields[0].high == 16
    assert rv.VAE(latent=2).fit(digits.X[:60], start=model, epochs=1).schema == later.schema
    frame = pd.DataFrame({"a": ["x", "y", "z"] * 20, "b": np.arange(60.0) ** 1.5})
    mixture = rv.TableMixture(components=2).fit(frame, epochs=3)
    assert rv.finetune(mixture, frame[frame["a"] != "z"], epochs=1).schema.field("a").categories == ("x", "y", "z")
    with pytest.raises(SchemaMismatch, match="0 to 16 in the schema"):
        rv.finetune(model, digits.X[:60] * 2, epochs=1)


def test_check_same():
    schema, _ = infer(FRAME)
    schema.check_same(infer(FRAME.astype({"a": "float32"}))[0])
    for other, words in [
        (FRAME.rename(columns={"who": "whom"}), "no column 'who', did you mean 'whom'"),
        (FRAME.assign(z=1), "'z' that is not known"),
        (FRAME.assign(who="g1"), "categories"),
        (FRAME.assign(a=1), "kind 'number' in the schema and 'integer'"),
    ]:
        with pytest.raises(SchemaMismatch) as caught:
            schema.check_same(infer(other)[0])
        assert words in str(caught.value)


def test_repr_is_short():
    data = load_data(pd.DataFrame(np.zeros((5, 40)) + np.arange(5)[:, None]))
    assert len(repr(data)) < 400
    assert "32 more" in repr(data)
    assert "<table>" in data._repr_html_()
    assert "&lt;b&gt;" in as_dataset(pd.DataFrame({"<b>": [1, 2]}))._repr_html_()


def test_tables_of_the_hub_keep_their_parts_and_the_names_of_classes():
    parts = {
        "train": pd.DataFrame({"a": [1.0, 2.0, 3.0], "k": [0, 1, 0]}),
        "test": pd.DataFrame({"a": [4.0], "k": [1]}),
    }
    rows = {name: SimpleNamespace(to_pandas=lambda frame=frame: frame) for name, frame in parts.items()}
    features = {"a": SimpleNamespace(), "k": SimpleNamespace(names=["no", "yes"])}
    loaded = _hub_frame(rows, features, {"a": "Value", "k": "ClassLabel"}, "set")
    assert {part: place.tolist() for part, place in loaded.splits.items()} == {"train": [0, 1, 2], "test": [3]}
    assert loaded.X["k"].tolist() == ["no", "yes", "no", "yes"]
    assert loaded.X["a"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_bundled_sets():
    digits = load_data("digits")
    assert digits.X.shape == (1797, 8, 8)
    assert digits.X.dtype == np.uint8
    assert digits.schema.fields[0].high == 16
    assert digits.schema.condition.categories == tuple(range(10))
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    for name, classes, width in [("iris", 3, 4), ("wine", 3, 13), ("breast_cancer", 2, 30)]:
        data = load_data(name)
        assert len(data.schema.condition.categories) == classes
        assert isinstance(data.schema.condition.categories[0], str)
        assert data.X.shape[1] == width
        assert data.schema.condition.name == "target"
    diabetes = load_data("diabetes")
    assert diabetes.schema.condition is None
    assert diabetes.schema.field("target").role == "target"
    assert diabetes.X.shape == (442, 11)
    other = load_data("iris", roles={"target": "data"})
    assert other.schema.condition is None
    assert load_data("iris", seed=5).hash == load_data("iris", seed=6).hash


def test_toys_have_the_promised_density():
    for name, centres, sigma in [("ring8", toys.ring_centres(), 0.01), ("grid25", toys.grid_centres(), 0.05)]:
        X = load_data(name).X
        assert X.shape == (2500, 2)
        distance = np.linalg.norm(X[:, None] - centres, axis=2)
        nearest = distance.argmin(1)
        assert len(np.unique(nearest)) == len(centres)
        spread = (X - centres[nearest]).std()
        assert abs(spread / sigma - 1) < 0.05
        assert np.bincount(nearest).min() > 0.5 * 2500 / len(centres)
    np.testing.assert_allclose(np.linalg.norm(toys.ring_centres(), axis=1), 1)
    assert sorted({*toys.grid_centres().ravel()}) == [-4, -2, 0, 2, 4]
    moons = load_data("two_moons").X
    assert moons.shape == (2500, 2)
    assert np.array_equal(moons, load_data("two_moons", seed=9).X)


def test_names_win_and_typos_are_told():
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load_data("digit")
    assert as_dataset("iris").train.schema.condition is not None
    with pytest.raises(InvalidOption, match="Dataset already"):
        load_data(load_data("iris"))
    with pytest.raises(InvalidOption, match="folders of pictures"):
        load_data("digits", image_size=4)
    with pytest.raises(DataError, match="name columns of a table"):
        load_data("digits", group="who")
    assert isinstance(load_data(FRAME), Dataset)
