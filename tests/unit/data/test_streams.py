"""Sets that stay on disk give the same rows as sets in memory, and read only what is asked for."""

import os
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reverie.data.forms.arrays import array_column
from reverie.data.sources import images, loaded, parquet
from reverie.data.sources.load import load_data
from reverie.errors import DataError, MissingExtra

RNG = np.random.default_rng(0)


def same(a, b):
    assert a.schema == b.schema
    index = RNG.permutation(len(a))[: len(a) // 2]
    for rows in (index, np.arange(len(a)), [0, 0, len(a) - 1], []):
        one, two = a.take(rows), b.take(rows)
        assert set(one.columns) == set(two.columns)
        for name in one.columns:
            assert one[name].dtype == two[name].dtype
            np.testing.assert_array_equal(one[name], two[name])
    assert [table.n for table in a.chunks(7)] == [table.n for table in b.chunks(7)]


def streamed(path, *args, **options):
    memory = load_data(path, *args, in_memory=True, **options)
    disk = load_data(path, *args, in_memory=False, **options)
    assert (memory.in_memory, disk.in_memory) == (True, False)
    same(memory, disk)
    assert {part: rows.tolist() for part, rows in memory.splits.items()} == {
        part: rows.tolist() for part, rows in disk.splits.items()
    }
    same(memory.train, disk.train)
    assert "duplicates" in disk.split_info
    assert disk.split_info["duplicates"] is None or memory.split_info["method"] == "given"
    assert disk.count_duplicates() == memory.count_duplicates()
    again = load_data(path, *args, in_memory=False, **options)
    assert again.hash == disk.hash
    assert again.train.hash == disk.train.hash != disk.hash
    copy = pickle.loads(pickle.dumps(disk.test))
    same(copy, disk.test)
    return disk


def test_npy(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, RNG.normal(size=(40, 3)).astype(np.float32))
    streamed(path)
    np.save(path, RNG.integers(0, 256, (40, 5, 5)).astype(np.uint8))
    disk = streamed(path, list(range(4)) * 10)
    assert disk.y == list(range(4)) * 10
    before = disk.hash
    array = np.load(path)
    array[3] ^= 1
    np.save(path, array)
    assert load_data(path, list(range(4)) * 10, in_memory=False).hash != before
    np.save(path, array[:10])
    with pytest.raises(DataError, match="has changed"):
        pickle.loads(pickle.dumps(disk)).take([0])
    np.save(path, np.array([[1.0, np.inf]] * 3))
    with pytest.raises(DataError, match="row 0, column 1"):
        load_data(path, in_memory=False)


def test_npy_reads_only_the_rows_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, RNG.normal(size=(1000, 3)))
    data = load_data(path, in_memory=False)
    seen = []
    monkeypatch.setattr(
        "reverie.data.sources.files.array_column", lambda f, X: seen.append(len(X)) or array_column(f, X)
    )
    data.take([5, 900])
    assert seen == [2]


def test_size_decides(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, RNG.normal(size=(100, 3)))
    assert load_data(path).in_memory
    monkeypatch.setattr(loaded, "STREAM_ABOVE", 1000)
    assert not load_data(path).in_memory
    assert load_data(path, in_memory=True).in_memory


def test_pictures(tmp_path, monkeypatch):
    for i in range(12):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    disk = streamed(tmp_path)
    assert disk.y == ["a"] * 6 + ["b"] * 6
    streamed(tmp_path, image_size=4, mode="L")
    seen = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda path, *rest: seen.append(path.name) or decode(path, *rest))
    disk.take([0, 7])
    assert seen == ["0.png", "11.png"] or len(seen) == 2
    before = disk.hash
    os.utime(tmp_path / "a" / "0.png", ns=(1, 1))
    assert load_data(tmp_path, in_memory=False).hash != before


def frame(n=100):
    return pd.DataFrame(
        {
            "f": RNG.normal(size=n),
            "i": pd.array([None if v % 7 == 0 else v for v in range(n)], dtype="Int64"),
            "c": pd.Categorical.from_codes(np.arange(n) % 3, ["z", "y", "x"]),
            "s": [None if v % 5 == 0 else f"s{v % 4}" for v in range(n)],
            "b": np.arange(n) % 2 == 0,
            "t": pd.date_range("2020", periods=n, tz="Europe/Paris"),
            "u": np.arange(n, dtype=np.uint8),
            "g": [f"g{v % 9}" for v in range(n)],
        }
    )


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    whole = frame()
    whole.set_index(pd.Index([f"r{v}" for v in range(100)], name="row")).to_parquet(path, row_group_size=17)
    disk = streamed(path, "c")
    assert len(disk.source.groups.places) == 6
    assert disk.take([-1])["u"].tolist() == [99]
    assert disk.schema.names == tuple(whole.columns)
    pd.testing.assert_frame_equal(load_data(path, in_memory=False, split=None).X, whole)
    pd.testing.assert_frame_equal(load_data(path, in_memory=True, split=None).X, whole)
    streamed(path, list(range(4)) * 25)
    by_group = streamed(path, group="g")
    assert not set(by_group.train.take(slice(None))["g"]) & set(by_group.test.take(slice(None))["g"])
    by_time = streamed(path, time="t", roles={"s": "ignore"})
    assert by_time.split_info["method"] == "time"


def test_parquet_reads_only_the_groups_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    frame().to_parquet(path, row_group_size=10)
    data = load_data(path, in_memory=False)
    read = []
    original = parquet.RowGroups.frame

    def spy(self, columns, place=None):
        read.append(place)
        return original(self, columns, place)

    monkeypatch.setattr(parquet.RowGroups, "frame", spy)
    monkeypatch.setattr(parquet, "_CACHE_BYTES", 1)
    data.take([12, 3, 14])
    assert read == [0, 1]
    data.take([15])
    assert read == [0, 1]
    data.take([95])
    data.take([15])
    assert read == [0, 1, 9, 1]


def test_parquet_folders_and_dates(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import datetime

    import pyarrow.parquet as pq

    whole = frame()
    whole[:60].to_parquet(tmp_path / "a.parquet", row_group_size=25)
    whole[60:].to_parquet(tmp_path / "b.parquet")
    disk = streamed(tmp_path)
    pd.testing.assert_frame_equal(disk.X, whole)
    single = tmp_path / "days" / "d.parquet"
    single.parent.mkdir()
    days = [datetime.date(2020, 1, 1 + v) for v in range(5)]
    pq.write_table(pa.table({"d": pa.array(days), "x": [1.0] * 5}), single)
    assert load_data(single).schema.field("d").kind == "datetime"
    whole.rename(columns={"f": "ff"}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet has the columns"):
        load_data(tmp_path)


def test_bad_parquet(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    for content in (b"", b"junk", b"PAR1junkPAR1"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet is damaged or no Parquet file"):
            load_data(path)
    pq.write_table(pa.table({"a": [[1], [2]]}), path)
    for in_memory in (True, False):
        with pytest.raises(DataError, match="'a'"):
            load_data(path, in_memory=in_memory)
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), path)
    with pytest.raises(DataError, match="no rows"):
        load_data(path)
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(DataError, match="two columns are called 'a'"):
        load_data(path)
    pq.write_table(pa.table({"a": RNG.normal(size=5000)}), path)
    damaged = bytearray(path.read_bytes())
    damaged[4:400] = bytes(396)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        load_data(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install reverie\[parquet\]"):
        load_data(path)
