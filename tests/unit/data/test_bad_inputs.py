"""Whatever is wrong with the data, one of our errors says what and where, and what to do about it."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
import torch

from reverie.data.forms.reading import infer
from reverie.data.schema import Field, Schema
from reverie.data.sources.load import as_dataset
from reverie.errors import DataError, InvalidOption, ReverieError

two = pd.DataFrame({"age": [1.0, 2.0], "city": ["a", "b"]})


def frame(**columns):
    return pd.DataFrame({"ok": [1, 2], **columns})


def objects(*values):
    return frame(c=pd.Series(values, dtype=object))


FRAMES = {
    "empty": (two[:0], {}, ["no rows"]),
    "no columns": (pd.DataFrame(index=[0, 1]), {}, ["no columns"]),
    "duplicate columns": (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, ["two columns", "'a'", "rename"]),
    "columns 1 and '1'": (pd.DataFrame([[1, 2]], columns=[1, "1"]), {}, ["two columns", "'1'"]),
    "levels": (
        pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
        {},
        ["levels", "join"],
    ),
    "odd name": (pd.DataFrame([[1, 2]], columns=["a", 1.5]), {}, ["1.5", "rename"]),
    "mixed": (objects("x", 3), {}, ["'c'", "mixes", "'x'", "3", "astype(str)"]),
    "bool and text": (objects(True, "x"), {}, ["'c'", "mixes", "True", "'x'"]),
    "all missing": (frame(c=[np.nan, np.nan]), {}, ["column 'c' has no value in any row", 'roles={"c": "ignore"}']),
    "all missing category": (frame(c=pd.Categorical([None, None], categories=["a"])), {}, ["'c' has no value"]),
    "all None": (objects(None, None), {}, ["'c' has no value in any row"]),
    "infinite": (frame(c=[1.0, -np.inf]), {}, ["'c'", "row 1", "-inf"]),
    "huge": (frame(c=[1, 2**53 + 1]), {}, ["'c'", "row 1", "2**53"]),
    "huge object": (objects(1, 10**30), {}, ["'c'", "row 1", "2**53"]),
    "huge uint64": (frame(c=np.uint64([1, 2**64 - 1])), {}, ["'c'", "2**53"]),
    "complex": (frame(c=[1j, 2]), {}, ["'c'", "complex", "two columns"]),
    "timedelta": (frame(c=pd.to_timedelta([1, 2])), {}, ["'c'", "total_seconds"]),
    "period": (frame(c=pd.period_range("2020", periods=2, freq="M")), {}, ["'c'", "to_timestamp"]),
    "interval": (frame(c=pd.interval_range(0, 2)), {}, ["'c'", "astype('category')"]),
    "sparse": (frame(c=pd.arrays.SparseArray([0, 1])), {}, ["'c'", "to_dense"]),
    "date objects": (
        objects(datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)),
        {},
        ["'c'", "date", "pd.to_datetime"],
    ),
    "decimal": (objects(decimal.Decimal("1.5"), decimal.Decimal("2")), {}, ["'c'", "Decimal", "float64"]),
    "bytes": (objects(b"a", b"b"), {}, ["'c'", "decode"]),
    "lists": (objects([1], [2]), {}, ["'c'", "list", "several columns"]),
    "arrays": (objects(np.ones(2), np.ones(2)), {}, ["'c'", "ndarray"]),
    "dicts": (objects({}, {}), {}, ["'c'", "dict"]),
    "year 3000": (frame(c=np.array(["2020", "3000"], dtype="datetime64[s]")), {}, ["'c'", "row 1", "3000", "2261"]),
    "longdouble": (frame(c=np.array([1, 2], dtype=np.longdouble)), {}, ["'c'", "float64"]),
    "role typo": (two, {"roles": {"age": "wieght"}}, ["'age'", "did you mean 'weight'", "Roles:"]),
    "role column": (two, {"roles": {"agee": "weight"}}, ["'agee'", "did you mean 'age'"]),
    "roles list": (two, {"roles": ["age"]}, ["roles", "mapping"]),
    "kind typo": (two, {"kinds": {"age": "numbr"}}, ["'age'", "did you mean 'number'"]),
    "kind column": (two, {"kinds": {"cty": "text"}}, ["'cty'", "did you mean 'city'"]),
    "kind image": (two, {"kinds": {"age": "image"}}, ["'age'", "possible are number"]),
    "kind number of text": (two, {"kinds": {"city": "number"}}, ["'city', row 0", "'a' is not a number"]),
    "kind date of text": (two, {"kinds": {"city": "datetime"}}, ["'city', row 0", "is not a date"]),
    "kind boolean": (two, {"kinds": {"age": "boolean"}}, ["'age'", "row 1 has 2"]),
    "kind integer": (frame(c=[0.5, 1]), {"kinds": {"c": "integer"}}, ["'c'", "row 0 has 0.5"]),
    "missing text": (frame(c=["a", None]), {"kinds": {"c": "text"}}, ["'c'", "row 1", "fillna"]),
    "negative weight": (frame(c=[-1, 1]), {"roles": {"c": "weight"}}, ["'c'", ">= 0"]),
    "zero weights": (frame(c=[0, 0]), {"roles": {"c": "weight"}}, ["'c'", "above 0"]),
    "text weight": (two, {"roles": {"city": "weight"}}, ["'city'", "category", ">= 0"]),
    "missing weight": (frame(c=[np.nan, 1]), {"roles": {"c": "weight"}}, ["'c'", "row 0"]),
    "missing group": (frame(c=["a", None]), {"roles": {"c": "group"}}, ["'c'", "row 1"]),
    "text time": (two, {"roles": {"city": "time"}}, ["'city'", 'kinds={"city": "datetime"}']),
    "no data left": (two, {"roles": {"age": "id", "city": "ignore"}}, ["no column is left"]),
    "all conditions": (two, {"roles": {"age": "condition", "city": "condition"}}, ["no column is left"]),
    "missing condition": (frame(c=[0.5, None]), {"y": "c"}, ["'c'", "row 1"]),
    "no condition": (frame(c=[None, None]), {"y": "c"}, ["'c'", "no value in any row"]),
    "float condition": (two, {"y": "age"}, ["'age'", "astype(int)", "kinds={'age': 'number'}"]),
}

images = np.zeros((2, 4, 4), np.uint8)
OTHERS = {
    "empty array": (np.zeros((0, 3)), {}, ["(0, 3)", "nothing"]),
    "no columns array": (np.zeros((3, 0)), {}, ["(3, 0)", "nothing"]),
    "scalar": (np.float64(3.0), {}, ["float64"]),
    "zero axes": (np.array(3.0), {}, ["single number"]),
    "complex array": (np.ones((2, 2)) * 1j, {}, ["complex"]),
    "structured": (np.zeros(2, dtype=[("a", int)]), {}, ["pd.DataFrame(X)"]),
    "object matrix": (np.array([["a", 1]], dtype=object), {}, ["pd.DataFrame(X)"]),
    "text matrix": (np.array([["a", "b"]]), {}, ["text"]),
    "bytes array": (np.array([b"a"]), {}, ["decode"]),
    "timedelta array": (np.array([1, 2], dtype="timedelta64[s]"), {}, ["timedelta64"]),
    "masked": (np.ma.masked_array([1.0, 2], [True, False]), {}, ["filled"]),
    "inf array": (np.array([[1, 2], [np.inf, 1]]), {}, ["row 1, column 0"]),
    "all missing column": (np.array([[1, np.nan], [2, np.nan]]), {}, ["column 1 has no value"]),
    "all missing array": (np.array([np.nan, np.nan]), {}, ["no value"]),
    "huge integers": (np.array([1, 2**60]), {}, ["row 1", "2**53"]),
    "longdouble array": (np.ones(2, np.longdouble), {}, ["np.float64"]),
    "five axes": (np.zeros((1, 2, 3, 4, 5)), {}, ["four axes"]),
    "channel first": (np.zeros((2, 3, 8, 8), np.uint8), {}, ["channel-first", "np.moveaxis(X, 1, -1)"]),
    "channel first tensor": (torch.zeros(2, 1, 8, 8), {}, ["channel-first", "permute(0, 2, 3, 1)"]),
    "seven channels": (np.zeros((2, 8, 8, 7), np.uint8), {}, ["1 to 4 channels"]),
    "0..255 floats": (np.full((2, 4, 4), 200.0), {}, ["[0, 1]", "divide by 255"]),
    "-1..1 floats": (np.full((2, 4, 4), -0.5), {}, ["(X + 1) / 2"]),
    "wild floats": (np.full((2, 4, 4), -9.5), {}, ["rescale", "list of (T, d)"]),
    "int64 images": (images.astype(int) + 7, {}, ["int64", "X.astype(np.uint8)"]),
    "int32 deep images": (images.astype(np.int32) + 777, {}, ["X.astype(np.uint16)"]),
    "negative int images": (images.astype(int) - 1, {}, ["scale them"]),
    "inf image": (np.full((2, 4, 4), np.inf), {}, ["image 0", "infinite"]),
    "blank image": (np.full((2, 4, 4), np.nan), {}, ["no value in any pixel"]),
    "kind of array": (np.ones((2, 2)), {"kinds": {"x": "category"}}, ["kind 'category'"]),
    "kind of images": (images, {"kinds": {"x": "number"}}, ["kind 'number'"]),
    "kinds of unknown": (np.ones((2, 2)), {"kinds": {"z": "number"}}, ["no column 'z'"]),
    "roles of array": (np.ones((2, 2)), {"roles": {"x": "id"}}, ["no column 'x'"]),
    "not whole": (np.full((2, 2), 0.5), {"kinds": {"x": "integer"}}, ["not whole"]),
    "not 0 and 1": (np.full((2, 2), 2), {"kinds": {"x": "boolean"}}, ["other than 0 and 1"]),
    "empty list": ([], {}, ["empty"]),
    "ragged numbers": ([[1, 2], [3]], {}, ["row 0 has 2", "row 1 has 1", "np.asarray(row)"]),
    "mixed list": (["a", 1], {}, ["mixes", "item 1 a int"]),
    "list of dicts": ([{"a": 1}], {}, ["pd.DataFrame(X)"]),
    "rows of text": ([["a", 1], ["b", 2]], {}, ["pd.DataFrame(X"]),
    "list of images": ([np.zeros((4, 4, 3))] * 2, {}, ["np.stack(X)"]),
    "width differs": ([np.ones((2, 3)), np.ones((2, 4))], {}, ["sequence 1", "(2, 4)"]),
    "axes differ": ([np.ones((2, 3)), np.ones(2)], {}, ["sequence 1"]),
    "empty sequence": ([np.ones((2, 3)), np.ones((0, 3))], {}, ["sequence 1 is empty"]),
    "inf sequence": ([np.ones(2), np.array([1, np.inf])], {}, ["sequence 1, step 1"]),
    "text and numbers": ([np.array([1.0]), np.array(["a"])], {}, ["sequence 1", "give numbers"]),
    "numbers among symbols": ([["a", "b"], ["a", 3]], {}, ["sequence 1, step 1", "3", "str(v)", "pd.DataFrame"]),
    "symbol matrix": ([np.array([["a"]])], {}, ["sequence 0", "(1, 1)"]),
    "empty symbols": ([["a"], []], {}, ["sequence 1 is empty"]),
    "symbols as numbers": ([["a"], ["b"]], {"kinds": {"x": "number"}}, ["'number'", "leave kinds out"]),
    "arrays as text": ([np.ones(2)], {"kinds": {"x": "text"}}, ["'sequence', not 'text'"]),
    "floats as symbols": ([np.ones(2)], {"kinds": {"x": "category"}}, ["'category'", "possible are number"]),
    "fractions as integers": (
        [np.ones(2), np.array([1, 0.5])],
        {"kinds": {"x": "integer"}},
        ["sequence 1, step 1", "0.5"],
    ),
    "two as boolean": ([np.array([1, 2])], {"kinds": {"x": "boolean"}}, ["sequence 0, step 1", "2"]),
    "huge steps": ([np.array([1]), np.array([1, 2**60])], {}, ["sequence 1, step 1", "2**53"]),
    "dates and numbers": ([np.ones(2), np.array(["2020"], "M8[s]")], {}, ["different types", "datetime64"]),
    "all missing steps": ([np.full((2, 2), [1, np.nan])], {}, ["column 1", "no value in any step"]),
    "one long sequence": (np.arange(3.0), {"kinds": {"x": "sequence"}}, ["(3,)", "(n, T, d)"]),
    "tensor types": ([torch.ones(2), torch.ones(2).double()], {}, ["different types"]),
    "texts as category": (["a", "b"], {"kinds": {"x": "category"}}, ["pd.DataFrame"]),
    "dict": ({"a": [1]}, {}, ["dict", "pd.DataFrame(X)"]),
    "series": (pd.Series([1, 2]), {}, ["Series", "to_frame"]),
    "none": (None, {}, ["NoneType"]),
    "number": (5, {}, ["int"]),
    "generator": ((i for i in range(3)), {}, ["generator"]),
}


@pytest.mark.parametrize(("X", "options", "words"), [*FRAMES.values(), *OTHERS.values()], ids=[*FRAMES, *OTHERS])
@pytest.mark.parametrize("make", [infer, as_dataset])
def test_bad_data(make, X, options, words):
    with pytest.raises(ReverieError) as caught:
        make(X, options.get("y"), **{key: value for key, value in options.items() if key != "y"})
    assert type(caught.value) is DataError
    message = str(caught.value)
    for word in words:
        assert word in message, (word, message)
    assert len(message) < 400


def test_sparse_matrix_and_lookalikes():
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(DataError, match=r"X\.toarray"):
        infer(scipy.eye(3).tocsr())
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"X\.to_pandas"):
        infer(pa.table({"a": [1]}))
    with pytest.raises(DataError, match="to_dense"):
        infer(torch.eye(3).to_sparse())


def test_dataset_is_not_described_twice():
    data = as_dataset(two)
    assert as_dataset(data) is data
    with pytest.raises(DataError, match="Dataset already"):
        as_dataset(data, [1, 2])


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({}, "not a schema"),
        ([], "not a schema"),
        ({"fields": [{"kind": "number"}]}, "without a name"),
        ({"fields": [{"name": "a", "kind": "numbr"}]}, "did you mean 'number'"),
        ({"fields": [{"name": "a", "kind": "number", "role": "wait"}]}, "Roles:"),
        ({"fields": [{"name": "a", "kind": "number", "shap": []}]}, "did you mean 'shape'"),
        ({"fields": [], "container": "box"}, "no container 'box'"),
    ],
)
def test_broken_schemas(broken, words):
    with pytest.raises(DataError) as caught:
        Schema.from_json(broken)
    assert words in str(caught.value)


def test_schema_looks_up_with_a_hint():
    schema = Schema((Field("age", "number"),))
    with pytest.raises(DataError, match="did you mean 'age'"):
        schema.field("agee")
    with pytest.raises(DataError, match="two columns"):
        Schema((Field("age", "number"), Field("age", "number")))


def test_split_options():
    data = as_dataset(two)
    for options, words in [
        ({"method": "randm"}, "did you mean 'random'"),
        ({"fractions": (0.8, 0.3)}, "sum"),
        ({"fractions": (1.0,)}, "got 1 numbers"),
        ({"fractions": 0.8}, "expected two or three"),
        ({"fractions": (0.8, "a")}, "expected two or three"),
        ({"group": "city", "time": "age"}, "not both"),
    ]:
        with pytest.raises(InvalidOption) as caught:
            data.split(**options)
        assert words in str(caught.value)
    for options, words in [
        ({"method": "group"}, "name the column"),
        ({"group": "cty"}, "did you mean 'city'"),
        ({"time": "city"}, "kind category"),
        ({"fractions": (0.5, 0.2, 0.3)}, "2 rows cannot"),
    ]:
        with pytest.raises(DataError) as caught:
            data.split(**options)
        assert words in str(caught.value)
