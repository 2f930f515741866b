"""Files: CSV, TSV, text, npz, npy, IDX, Parquet, the hub, torch Datasets; good ones and damaged ones."""

import gzip
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from reverie.data.sources.load import load_data
from reverie.errors import DataError, InvalidOption, MissingExtra

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {"n": [1.5, None, 3.0, 4.0], "i": [1, 2, 3, 4], "s": ["a", "b", None, "a"], "b": [True, False, True, True]}
)
IMAGES = RNG.integers(0, 256, (12, 5, 4)).astype(np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3


def refused(source, *words, error=DataError, **options):
    with pytest.raises(error) as caught:
        load_data(source, **options)
    assert type(caught.value) is error
    for word in words:
        assert str(word) in str(caught.value), (word, str(caught.value))


def idx_bytes(array, shape=None):
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    sizes = b"".join(int(n).to_bytes(4, "big") for n in (shape or array.shape))
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("ending", "sep"), [("csv", ","), ("csv.gz", ","), ("tsv", "\t"), ("tsv.gz", "\t"), ("CSV", ",")]
)
def test_delimited(tmp_path, ending, sep):
    path = tmp_path / f"my.{ending}"
    FRAME.to_csv(path, sep=sep, index=False)
    data = load_data(path, split=None)
    assert data.name == "my"
    pd.testing.assert_frame_equal(data.X, FRAME)
    assert load_data(str(path), "b").schema.condition.categories == (False, True)


def test_delimited_options(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("age,city\n1,Oslo\n?,Rome\n3,?\n4,Oslo\n", encoding="utf-8")
    refused(path, "a.csv", "'age' mixes numbers and text", "1 of 4", "'?' in row 1", "missing=('?',)")
    data = load_data(path, missing=["?"], split=None)
    assert data.X["age"].tolist()[2] == 3
    assert data.X.isna().sum().tolist() == [1, 1]
    assert load_data(path, kinds={"age": "category"}).schema.field("age").categories == ("1", "3", "4", "?")
    bom = tmp_path / "bom.csv"
    bom.write_text("a,b\n1,2\n3,4\n", encoding="utf-8-sig")
    assert load_data(bom).schema.names == ("a", "b")


def test_bad_delimited(tmp_path):
    def write(text, name="bad.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return path

    refused(write(""), "bad.csv is empty")
    refused(write("a,b\n"), "header but no rows")
    refused(write("a,b\n1,2\n1,2,3\n"), "bad.csv", "line 3")
    refused(write("a,b\n1,2,3\n4,5,6\n"), "name every column")
    refused(write("a,a\n1,2\n"), "two columns are called 'a'")
    refused(write("1.5,2\n3,4\n"), "first line holds numbers", "header")
    refused(write("a;b\n1;2\n"), "separated by ';'", "sep=';'")
    refused(write("caf\u00e9,b\n1,2\n", encoding="latin-1"), "not UTF-8", "encoding")
    refused(write("a,b\n1,\u00e9\n", encoding="latin-1"), "not UTF-8", "byte")
    refused(write(b"no gzip", "bad.csv.gz"), "damaged")
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 5000)
    refused(write(whole[: len(whole) // 2], "cut.csv.gz"), "damaged")
    refused(write("a,b\n1,inf\n"), "'b', row 0 is inf")
    refused(write("a,b\n1,\n2,\n"), "'b' has no value in any row")
    refused(write("a,b\n1,2\n"), "y='c' is no column", y="c")


def test_text(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("anna\n\nb\u00f6b\r\n eve \n", encoding="utf-8", newline="")
    data = load_data(path, split=None)
    assert data.X == ["anna", "b\u00f6b", " eve "]
    assert data.warnings == ["1 empty lines of names.txt were skipped"]
    with gzip.open(tmp_path / "n.txt.gz", "wt") as file:
        file.write("x\ny\nz")
    assert load_data(tmp_path / "n.txt.gz", split=None).X == ["x", "y", "z"]
    path.write_text("\n \n")
    refused(path, "no lines with text")
    path.write_bytes(b"\xff\xfe\x00")
    refused(path, "not UTF-8")
    (tmp_path / "z.txt.gz").write_bytes(b"plain")
    refused(tmp_path / "z.txt.gz", "damaged")


@pytest.mark.parametrize("keys", [("x", "y"), ("X", "labels"), ("data", "target"), ("arr_0", "label")])
def test_npz(tmp_path, keys):
    path = tmp_path / "set.npz"
    np.savez(path, **{keys[0]: IMAGES, keys[1]: LABELS})
    data = load_data(path)
    assert len(data.train) == 10
    whole = load_data(path, split=None)
    np.testing.assert_array_equal(whole.X, IMAGES)
    np.testing.assert_array_equal(whole.y, LABELS)
    assert whole.y.dtype == np.uint8
    np.testing.assert_array_equal(load_data(path, list("abc") * 4, split=None).y, list("abc") * 4)


def test_npz_parts_are_kept(tmp_path):
    path = tmp_path / "parts.npz"
    parts = {"x_train": IMAGES[:7], "y_train": LABELS[:7], "x_val": IMAGES[7:9], "y_val": LABELS[7:9]}
    np.savez(path, **parts, x_test=IMAGES[9:], y_test=LABELS[9:], classes=np.array(["a"]))
    data = load_data(path, seed=3)
    np.testing.assert_array_equal(data.train.X, IMAGES[:7])
    np.testing.assert_array_equal(data.valid.y, LABELS[7:9])
    np.testing.assert_array_equal(data.test.X, IMAGES[9:])
    assert data.split_info["method"] == "given"
    assert "not used: classes" in data.warnings[0]
    assert load_data(path, split=None).splits == {}
    few = load_data(path, max_rows=8)
    assert len(few) == 8
    np.testing.assert_array_equal(few.view(few.splits["test"]).X, few.test.X)
    assert {row.tobytes() for row in few.test.X} <= {row.tobytes() for row in IMAGES[9:]}
    named = tmp_path / "named.npz"
    np.savez(named, x=IMAGES, caption=np.array([f"c{i % 2}" for i in range(12)]))
    assert load_data(named, "caption").schema.condition.categories == ("c0", "c1")
    refused(named, "y='captoin' is no entry", "did you mean 'caption'", y="captoin")


def test_bad_npz(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, photos=IMAGES)
    refused(path, "photos", "x_train, y_train")
    np.savez(path, x=IMAGES, y=LABELS[:5])
    refused(path, "y has 5 rows and X has 12")
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES)
    refused(path, "test part has no labels")
    np.savez(path, x_train=IMAGES, x_test=IMAGES[:, :3])
    refused(path, "(12, 3, 4)", "alike")
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS[:3])
    refused(path, "12 rows and 3 labels")
    np.savez(path, x=np.array([{"a": 1}, 2], dtype=object))
    refused(path, "pickled", "never loaded", "'x'")
    np.savez_compressed(path, x=RNG.random((100, 10)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "bad.npz", "damaged")
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 255
    path.write_bytes(damaged)
    refused(path, "bad.npz", "damaged")
    path.write_bytes(b"")
    refused(path, "damaged")
    path.write_bytes(pickle.dumps([1, 2]))
    refused(path, "pickled")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"nonsense")
    refused(path, "bad.npz")
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", head.getvalue() + b"12345678")
    refused(path, "damaged")


def test_npy(tmp_path):
    path = tmp_path / "a.npy"
    for X in (IMAGES, RNG.normal(size=(20, 3)), np.asfortranarray(RNG.normal(size=(20, 3))), np.arange(9)):
        np.save(path, X)
        out = load_data(path, split=None).X
        assert out.dtype == X.dtype
        np.testing.assert_array_equal(out, X)
    np.save(path, np.array([{"a": 1}], dtype=object))
    refused(path, "pickled", "never loaded")
    path.write_bytes(pickle.dumps([1]))
    refused(path, "pickled")
    np.save(path, IMAGES)
    path.write_bytes(path.read_bytes()[:-9])
    refused(path, "a.npy", "damaged")
    path.write_bytes(b"")
    refused(path, "damaged")


@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path, packed):
    def write(name, array):
        content = idx_bytes(array)
        (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)

    write("train-images-idx3-ubyte", IMAGES[:8])
    write("train-labels-idx1-ubyte", LABELS[:8])
    write("t10k-images-idx3-ubyte", IMAGES[8:])
    write("t10k-labels-idx1-ubyte", LABELS[8:])
    data = load_data(tmp_path)
    np.testing.assert_array_equal(data.train.X, IMAGES[:8])
    np.testing.assert_array_equal(data.test.y, LABELS[8:])
    assert data.schema.container == "images"
    single = load_data(tmp_path / ("train-images-idx3-ubyte" + ".gz" * packed), split=None)
    np.testing.assert_array_equal(single.X, IMAGES[:8])
    np.testing.assert_array_equal(single.y, LABELS[:8])
    write("floats-idx2-ubyte", RNG.normal(size=(4, 3)).astype(np.float32))
    assert load_data(tmp_path / ("floats-idx2-ubyte" + ".gz" * packed)).X.dtype == np.float32


def test_bad_idx(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    content = idx_bytes(IMAGES)
    for broken, words in [
        (idx_bytes(IMAGES, (13, 5, 4)), ["header says shape (13, 5, 4)", "260 bytes", "240 bytes"]),
        (idx_bytes(IMAGES, (11, 5, 4)), ["220 bytes", "there are more"]),
        (idx_bytes(IMAGES, (2**31, 2**31, 2**31)), ["header says"]),
        (content[:9], ["header says"]),
        (content[:3], ["no IDX file"]),
        (b"\1\2\3\4", ["no IDX file"]),
        (b"", ["no IDX file"]),
    ]:
        path.write_bytes(broken)
        refused(path, path, *words)
        packed = tmp_path / "x-images-idx3-ubyte.gz"
        packed.write_bytes(gzip.compress(broken))
        refused(packed, packed, *words)
        packed.unlink()
    path.write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:5]))
    refused(path, "y has 5 rows and X has 12")
    refused(tmp_path, "train part has 12 rows and 5 labels")
    cut = tmp_path / "t10k-images-idx3-ubyte.gz"
    cut.write_bytes(gzip.compress(content)[:-20])
    refused(cut, "damaged")


def test_mnist_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("REVERIE_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("mnist", "mnist was not found", "no folder was given", "REVERIE_DATA", "root='folder'")
    refused("fashion_mnist", tmp_path / "fashion_mnist.npz", "hub", root=tmp_path)
    refused("mnist", "nowhere does not exist", root=tmp_path / "nowhere")
    parts = {"x_train": IMAGES[:8], "y_train": LABELS[:8], "x_test": IMAGES[8:], "y_test": LABELS[8:]}
    np.savez(tmp_path / "mnist.npz", **parts)
    assert len(load_data("mnist", root=tmp_path).train) == 8
    monkeypatch.setenv("REVERIE_DATA", str(tmp_path))
    data = load_data("mnist")
    assert data.name == "mnist"
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES[:6]))
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES[6:]))
    assert len(load_data("fashion_mnist").test) == 6


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "income.csv").write_text("a\n1\n2\n")
    refused(tmp_path / "incom.csv", "no file", "did you mean 'income.csv'")
    refused("irs", "did you mean 'iris'")
    refused("", "no file")
    refused(tmp_path / "nowhere" / "a.csv", "nor a folder")
    (tmp_path / "a.xlsx").write_bytes(b"1")
    refused(tmp_path / "a.xlsx", ".xlsx are not read", "parquet")
    (tmp_path / "a.pt").write_bytes(b"1")
    refused(tmp_path / "a.pt", "pickle", "never loaded")
    (tmp_path / "a.png").write_bytes(b"1")
    refused(tmp_path / "a.png", "single picture", "folder")
    (tmp_path / "noending").write_bytes(b"1")
    refused(tmp_path / "noending", "ending in nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "empty folder")
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "a.csv").write_text("a\n1\n")
    refused(tables, "give the path of one of these files", "a.csv")
    refused("iris", "no method 'rndm'", split="rndm", error=InvalidOption)


def test_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:owner/name", "pip install reverie[hub]", error=MissingExtra)
    ClassLabel = type("ClassLabel", (), {"names": ["no", "yes"]})
    Image, Value = type("Image", (), {}), type("Value", (), {})

    class Rows(dict):
        features: dict

        def to_pandas(self):
            return pd.DataFrame(self)

    def load_dataset(name, *config):
        if name == "o/gone":
            raise FileNotFoundError("no such set")
        out = {}
        for part, n in (("train", 3), ("test", 2), ("validation", 1)):
            if name == "o/pictures":
                rows = Rows(image=list(IMAGES[:n]), label=[0, 1, 0][:n])
                rows.features = {"image": Image(), "label": ClassLabel()}
            else:
                rows = Rows(n=[1.5, 2.5, 3.5][:n], label=[0, 1, 0][:n])
                rows.features = {"n": Value(), "label": ClassLabel()}
            out[part] = rows
        return out if name != "o/odd" else {"everything": out["train"]}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    pictures = load_data("hf:o/pictures")
    assert {part: len(rows) for part, rows in pictures.splits.items()} == {"train": 3, "valid": 1, "test": 2}
    assert pictures.train.y.tolist() == [0, 1, 0]
    table = load_data("hf:o/table:config", "label")
    assert table.schema.condition.categories == ("no", "yes")
    refused("hf:o/gone", "hf:o/gone could not be loaded", "no such set")
    refused("hf:o/odd", "splits everything")


class Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, at):
        return self.items[at]


def test_torch_datasets():
    x = torch.rand(6, 3, 8, 8)
    data = load_data(torch.utils.data.TensorDataset(x, torch.arange(6) % 2))
    assert len(data.train) == 5
    out = load_data(torch.utils.data.TensorDataset(x), split=None)
    assert torch.equal(out.X, x.permute(0, 2, 3, 1))
    grey = load_data(Items(list(torch.rand(6, 1, 8, 8))))
    assert grey.X.shape == (6, 8, 8)
    flat = load_data(Items([(np.float32([i, 1]), i % 3) for i in range(9)]), split=None)
    assert flat.y == [i % 3 for i in range(9)]
    assert flat.X.shape == (9, 2)
    assert load_data(Items(["a", "b"]), split=None).X == ["a", "b"]
    ragged = load_data(Items([torch.ones(t, 2) for t in (2, 3)]), split=None)
    assert ragged.schema.fields[0].kind == "sequence"
    refused(Items([]), "empty")
    refused(Items([(1, 2, 3)]), "3 parts")
    refused(Items([(1.0, 2), 3.0]), "some items")
    refused(Items([{"a": 1}]), "dictionaries")
    refused(Items([torch.ones(3, 8, 8), torch.ones(3, 9, 8)]), "differ in shape")

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield 1

    refused(Endless(), "IterableDataset")
