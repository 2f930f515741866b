"""y: its kind, its categories, later labels, and the way back."""

import numpy as np
import pandas as pd
import pytest
import torch

from reverie.data.forms.conditions import read_y
from reverie.data.forms.reading import infer, read_table, restore_table, restore_y
from reverie.data.schema import Schema
from reverie.errors import DataError, SchemaMismatch

X = np.arange(12.0).reshape(6, 2)

LABELS = [
    ([3, 1, 2, 3, 1, 2], (1, 2, 3)),
    (["b", "a", "b", "a", "b", "a"], ("a", "b")),
    ([True, False] * 3, (False, True)),
    (np.array([5, 5, 9, 9, 5, 5], np.uint8), (5, 9)),
    (np.array([[1], [2], [1], [2], [1], [2]]), (1, 2)),
    (np.array(["cat", "dog"] * 3), ("cat", "dog")),
    (np.array([True, False] * 3), (False, True)),
    (torch.tensor([4, 7, 4, 7, 4, 7]), (4, 7)),
    (pd.Series(["b", "a"] * 3, name="kind", index=range(5, 11)), ("a", "b")),
    (pd.Categorical(["b", "a"] * 3, categories=["c", "b", "a"], ordered=True), ("c", "b", "a")),
    (pd.Series(pd.array([1, 2] * 3, dtype="Int64")), (1, 2)),
]


@pytest.mark.parametrize(("y", "categories"), LABELS, ids=lambda v: type(v).__name__)
def test_labels_become_categories_and_come_back(y, categories):
    schema, table = infer(X, y)
    field = schema.condition
    assert (field.kind, field.categories) == ("category", categories)
    assert [type(c) for c in field.categories] == [type(c) for c in categories]
    out = restore_y(schema, table)
    flat = np.asarray(y).reshape(-1)
    np.testing.assert_array_equal(np.asarray(out), flat)
    if hasattr(y, "dtype"):
        assert out.dtype == (y.dtype if not isinstance(y, np.ndarray) else flat.dtype)
    assert read_y(schema, y, 6)[field.name].tolist() == table[field.name].tolist()
    one = next(iter(flat))
    assert read_y(schema, one, 4)[field.name].tolist() == [table[field.name][0]] * 4


def test_columns_of_y_beside_x():
    """A mapping or data frame is several fields, whose kinds go by name; a Series is one, whatever its values are called."""
    y = pd.DataFrame({"sex": ["F", "M"] * 3, "age": np.arange(6.0)})
    with pytest.raises(DataError, match=r"kinds=\{'age': 'number'\}"):
        infer(X, y)
    for given in (y, y.to_dict("list")):
        schema, table = infer(X, given, kinds={"age": "number"})
        assert [field.kind for field in schema.conditions] == ["category", "number"]
        assert schema.condition is None
        pd.testing.assert_frame_equal(restore_y(schema, table), y, check_dtype=False)
    for beside in (X, pd.DataFrame(X, columns=["a", "b"])):
        with pytest.raises(DataError, match="no column 'F'"):
            infer(beside, y["sex"], kinds={"F": "number"})
    frame = pd.DataFrame({"a": np.arange(4.0), "b": list("xyxy"), "c": list("uuvv")})
    assert [field.name for field in infer(frame, ["b", "c"])[0].conditions] == ["b", "c"]
    assert infer(frame, ["b", "c", "b", "c"])[0].condition.name == "y"  # labels, one for each row
    assert [field.name for field in infer(frame[:2], ["b", "c"])[0].conditions] == ["b", "c"]  # two names, two rows
    with pytest.raises(DataError, match="'d' is no column"):
        infer(frame, ["b", "d"])


def test_numbers_and_vectors():
    y = np.float32([0.5, 1.5, 2.5, 3.25, 0, 1])
    schema, table = infer(X, y)
    assert (schema.condition.kind, table["y"].dtype) == ("number", np.float32)
    np.testing.assert_array_equal(restore_y(schema, table), y)
    assert read_y(schema, 0.25, 3)["y"].tolist() == [0.25] * 3
    vector = np.random.default_rng(0).normal(size=(6, 3))
    schema, table = infer(X, vector)
    assert schema.condition.shape == (3,)
    assert read_y(schema, vector[0], 6)["y"].shape == (6, 3)
    np.testing.assert_array_equal(restore_y(schema, table), vector)
    many = np.arange(60.0)
    assert infer(np.zeros(60) + many, many)[0].condition.kind == "number"
    schema, _ = infer(X, np.array([1.0, 2.0] * 3), kinds={"y": "number"})
    assert schema.condition.kind == "number"
    assert infer(X, [1, 2] * 3, kinds={"y": "number"})[0].condition.kind == "number"


def test_a_column_may_be_y():
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "income": pd.Categorical([">50K", "<=50K", ">50K"])})
    schema, table = infer(frame, "income")
    assert [field.name for field in schema.data_fields] == ["a"]
    assert schema.condition.categories == ("<=50K", ">50K")
    assert schema == infer(frame, roles={"income": "condition"})[0]
    pd.testing.assert_series_equal(restore_y(schema, table), frame["income"])
    pd.testing.assert_frame_equal(restore_table(schema, table), frame[["a"]])
    assert read_table(schema, frame)["income"].tolist() == [1, 0, 1]
    assert "income" not in read_table(schema, frame[["a"]])
    assert read_table(schema, frame[["a"]], ">50K")["income"].tolist() == [1, 1, 1]
    assert read_table(schema, frame, "<=50K")["income"].tolist() == [0, 0, 0]
    assert read_table(schema, frame, "income")["income"].tolist() == [1, 0, 1]
    beside, table = infer(frame[["a"]], frame["income"])
    assert beside.condition.name == "income"
    assert read_table(beside, frame[["a"]], frame["income"])["income"].tolist() == [1, 0, 1]
    clash, _ = infer(pd.DataFrame({"y": [1.0, 2.0]}), [0, 1])
    assert clash.condition.name == "label"


def bad(y, X=X, **options):
    with pytest.raises(DataError) as caught:
        infer(X, y, **options)
    return str(caught.value)


def test_bad_labels_say_what_to_do():
    assert "y has 5 rows and X has 6" in bad([1] * 5)
    assert "y.astype(int)" in bad([1.0, 2.0] * 3)
    assert "kinds={'y': 'number'}" in bad([1.0, 2.0] * 3)
    assert "no value in row 1" in bad([1.5, np.nan] * 3)
    assert "no value in row 0" in bad([None, 1.5] * 3)
    assert "no value in row 1" in bad([1.0, np.nan] * 3, kinds={"y": "number"})
    assert "no value in any row" in bad([None] * 6)
    assert "one label or number for each of the 6 rows" in bad(3)
    assert "give the labels themselves" in bad("labels")
    assert "holds dates" in bad(pd.to_datetime(["2020"] * 6))
    assert "argmax" in bad(np.eye(6, dtype=int))
    assert "astype(float)" in bad(np.arange(12).reshape(6, 2))
    assert "mixes types" in bad([1, "a"] * 3)
    assert "row 1" in bad([0.5, np.inf] * 3)
    assert "give lists of one length" in bad({"a": 1})
    assert "complex" in bad(np.ones(6) * 1j)
    frame = pd.DataFrame({"income": [1, 2], "a": [1.0, 2.0]})
    assert "did you mean 'income'" in bad("incom", frame)
    assert "keep one of them" in bad([1, 2], frame, roles={"income": "condition"})
    assert "keep one" in bad("income", frame, roles={"income": "weight"})
    assert "no column is left" in bad("a", frame[["a"]])


def test_unknown_labels_list_the_classes():
    schema, _ = infer(X, [0, 1, 2] * 2)
    words, _ = infer(X, ["cat", "dog"] * 3)
    vector, _ = infer(X, np.random.default_rng(0).normal(size=(6, 3)))
    none, _ = infer(X)
    cases = [
        (schema, 7, 2, ["no class 7", "Classes: 0, 1, 2"]),
        (schema, "1", 2, ["no class '1'", "did you mean 1 (int)"]),
        (schema, [0, 1, 5], 3, ["no class 5"]),
        (schema, [0, 1], 3, ["2 rows where 3"]),
        (schema, [np.nan, 5.0], 2, ["no class 5"]),
        (infer(X, np.linspace(0.5, 1.5, 6))[0], [0.0, np.nan], 2, ["no value in row 1"]),
        (words, "cats", 1, ["no class 'cats'", "did you mean 'cat'", "Classes: 'cat', 'dog'"]),
        (vector, np.zeros(2), 4, ["takes (3,)"]),
        (vector, np.full(3, np.nan), 4, ["missing or infinite"]),
        (vector, [[1, 2], [3]], 2, ["different lengths"]),
        (none, 1, 2, ["trained without a condition"]),
    ]
    for chosen, y, n, wanted in cases:
        with pytest.raises(SchemaMismatch) as caught:
            read_y(chosen, y, n)
        for word in wanted:
            assert word in str(caught.value), (word, str(caught.value))


@pytest.mark.parametrize(
    ("y", "codes", "categories"),
    [
        ([None, "a", "b", None, "a", "b"], [-1, 0, 1, -1, 0, 1], ("a", "b")),
        ([0, None, 2, 0, 2, None], [0, -1, 1, 0, 1, -1], (0, 2)),
        ([True, None, False, None, True, True], [1, -1, 0, -1, 1, 1], (False, True)),
        (np.array([0, np.nan, 1, 1, np.nan, 0]), [0, -1, 1, 1, -1, 0], (0, 1)),
        (np.array(["x", None, "y", "x", None, None], dtype=object), [0, -1, 1, 0, -1, -1], ("x", "y")),
        (torch.tensor([3, np.nan, 4, 3, 4, 4]), [0, -1, 1, 0, 1, 1], (3, 4)),
        (pd.Series([1.0, np.nan, 2, 1, 2, 2], name="lab"), [0, -1, 1, 0, 1, 1], (1, 2)),
        (pd.Series(["u", None, "v", "u", "v", "v"], name="lab"), [0, -1, 1, 0, 1, 1], ("u", "v")),
        (pd.Series([1, None, 2, 1, 2, 2], dtype="Int64", name="lab"), [0, -1, 1, 0, 1, 1], (1, 2)),
        (pd.Series(pd.Categorical(["b", None, "a"] * 2, ["b", "a"])), [0, -1, 1, 0, -1, 1], ("b", "a")),
    ],
)
def test_missing_labels_come_back(y, codes, categories):
    schema, table = infer(X, y)
    field = schema.condition
    assert (field.kind, field.nullable, field.categories) == ("category", True, categories)
    assert [type(value) for value in field.categories] == [type(value) for value in categories]
    assert table[field.name].tolist() == codes
    assert read_table(schema, X, y)[field.name].tolist() == codes
    assert Schema.from_json(schema.to_json()) == schema
    back = restore_y(schema, table)
    assert type(back) is type(y)
    if isinstance(y, pd.Series):
        pd.testing.assert_series_equal(back, y, check_names=False)
    elif isinstance(y, list):
        assert back == y
    else:
        assert back.dtype == y.dtype
        assert pd.isna(np.asarray(back)).tolist() == pd.isna(np.asarray(y)).tolist()
        seen = ~pd.isna(np.asarray(y))
        assert np.asarray(back)[seen].tolist() == np.asarray(y)[seen].tolist()
    complete = restore_y(schema, np.array([0, 1, 1, 0]))
    assert not pd.isna(np.asarray(pd.Series(complete))).any()


def test_a_column_of_a_frame_may_lack_labels():
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "lab": [1.0, np.nan, 2.0]})
    schema, table = infer(frame, "lab")
    assert table["lab"].tolist() == [0, -1, 1]
    pd.testing.assert_series_equal(restore_y(schema, table), frame["lab"])
    assert read_table(schema, frame.iloc[1:], "lab")["lab"].tolist() == [-1, 1]
