"""DataFrames come back as they went in: values, types, order; and later frames are read against the schema."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie.data.forms.reading import infer, read_table, restore_table
from reverie.data.schema import Schema
from reverie.errors import DataError, SchemaMismatch

pa = pytest.importorskip("pyarrow")

COLUMNS = {
    "float64": pd.Series([1.5, np.nan, -2.0]),
    "whole": pd.Series([1.0, 2.0, 3.0]),
    "float32": pd.Series([1.5, np.nan, 0.1], dtype="float32"),
    "float16": pd.Series([1.5, np.nan, 0.1], dtype="float16"),
    "int64": pd.Series([3, -1, 2**53]),
    "int8": pd.Series([-128, 127, 0], dtype="int8"),
    "uint8": pd.Series([255, 0, 3], dtype="uint8"),
    "uint16": pd.Series([65535, 0, 3], dtype="uint16"),
    "int32": pd.Series([-(2**31), 2**31 - 1, 0], dtype="int32"),
    "Int64": pd.array([1, None, 3], dtype="Int64"),
    "UInt8": pd.array([1, None, 255], dtype="UInt8"),
    "Float32": pd.array([1.5, None, 3], dtype="Float32"),
    "Float64": pd.array([1.5, None, 3], dtype="Float64"),
    "bool": pd.Series([True, False, True]),
    "boolean": pd.array([True, None, False], dtype="boolean"),
    "object bool": pd.Series([True, None, False], dtype=object),
    "object int": pd.Series([1, np.nan, 3], dtype=object),
    "object str": pd.Series(["a", None, "b"], dtype=object),
    "object nan": pd.Series(["a", np.nan, "3"], dtype=object),
    "object NA": pd.Series(["a", pd.NA, "3"], dtype=object),
    "object full": pd.Series(["a", "b", "a"], dtype=object),
    "str": pd.Series(["a", None, "b"]),
    "string": pd.array(["a", None, "b"], dtype="string"),
    "string[python]": pd.array(["a", None, "b"], dtype="string[python]"),
    "category": pd.Categorical(["y", None, "x"], categories=["z", "y", "x"]),
    "ordered": pd.Categorical(["y", "x", "x"], categories=["x", "y", "z"], ordered=True),
    "category of objects": pd.Categorical(["y", None, "x"], categories=pd.Index(["x", "y"], dtype=object)),
    "category int": pd.Categorical([2, 1, 2], categories=[3, 2, 1]),
    "category bool": pd.Categorical([True, False, None]),
    "category date": pd.Categorical(pd.to_datetime(["2020-01-01", "2021-01-01", "2020-01-01"])),
    "cut": pd.cut(pd.Series([1.5, 2.0, 3.0]), 3),
    "datetime": pd.to_datetime(["2020-01-01 10:00", None, "1999-12-31 00:00"]),
    "datetime ns": pd.to_datetime(["2020-01-01 10:00:00.123456789", None, "1999-12-31"], format="ISO8601"),
    "datetime s": pd.Series(np.array(["2020-01-01", "NaT", "1700-01-01"], dtype="datetime64[s]")),
    "tz": pd.to_datetime(["2020-07-01 10:00", None, "1999-12-31 00:00"]).tz_localize("Europe/Paris"),
    "tz fixed": pd.to_datetime(["2020-07-01 10:00+03:00", None, "1999-12-31 00:00+03:00"]),
    "arrow int": pd.Series([1, None, 2], dtype="int64[pyarrow]"),
    "arrow float": pd.Series([1.5, None, 2], dtype="double[pyarrow]"),
    "arrow bool": pd.Series([True, None, False], dtype="bool[pyarrow]"),
    "arrow str": pd.Series(["a", None, "b"], dtype=pd.ArrowDtype(pa.string())),
    "arrow time": pd.Series(pd.to_datetime(["2020", "2021", None]), dtype="timestamp[us, tz=UTC][pyarrow]"),
}


def back(frame: pd.DataFrame, **options: object) -> pd.DataFrame:
    schema, table = infer(frame, **options)
    schema = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    return restore_table(schema, table)


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_type_comes_back(name):
    frame = pd.DataFrame({"first": [1, 2, 3], name: COLUMNS[name]})
    pd.testing.assert_frame_equal(back(frame), frame)


def test_all_types_together_in_any_order_through_json_and_read():
    frame = pd.DataFrame(COLUMNS)
    schema, table = infer(frame)
    pd.testing.assert_frame_equal(restore_table(schema, table), frame)
    later = read_table(schema, frame[frame.columns[::-1]])
    assert list(later.columns) == list(frame.columns)
    pd.testing.assert_frame_equal(restore_table(schema, later), frame)


@st.composite
def frames(draw):
    n = draw(st.integers(1, 12))

    def some(values, dtype=None, optional=False):
        cells = st.none() | values if optional else values
        return pd.Series(draw(st.lists(cells, min_size=n, max_size=n)), dtype=dtype)

    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
    dates = st.datetimes(pd.Timestamp("1700-01-01").to_pydatetime(), pd.Timestamp("2200-01-01").to_pydatetime())
    makers = {
        "float": lambda: some(finite, "float64", True),
        "float32": lambda: some(finite, "float32", True),
        "int": lambda: some(st.integers(-(2**53), 2**53), "int64"),
        "uint8": lambda: some(st.integers(0, 255), "uint8"),
        "Int": lambda: some(st.integers(-(2**53), 2**53), "Int64", True),
        "bool": lambda: some(st.booleans(), "bool"),
        "boolean": lambda: some(st.booleans(), "boolean", True),
        "object": lambda: some(text, object, True),
        "str": lambda: some(text, "str", True),
        "string": lambda: some(text, "string", True),
        "date": lambda: some(dates, "datetime64[us]", True),
        "zone": lambda: some(dates, "datetime64[us]", True).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
        "category": lambda: pd.Series(
            pd.Categorical(
                draw(st.lists(st.none() | st.sampled_from("abc"), min_size=n, max_size=n)), categories=list("dcba")
            )
        ),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(makers)), min_size=1, max_size=5))
    return pd.DataFrame({f"{kind} {at}": makers[kind]() for at, kind in enumerate(chosen)})


@settings(deadline=None, derandomize=True, max_examples=150, suppress_health_check=list(HealthCheck))
@given(frames())
def test_any_frame_round_trips_and_is_read_again(frame):
    empty = [name for name in frame if frame[name].isna().all()]
    if len(empty) == frame.shape[1]:
        with pytest.raises(DataError, match="has no value in any row"):
            infer(frame)
        return
    kept = frame.drop(columns=empty)
    schema, table = infer(frame, roles=dict.fromkeys(empty, "ignore"))
    pd.testing.assert_frame_equal(restore_table(schema, table), kept)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    pd.testing.assert_frame_equal(
        restore_table(schema, read_table(schema, kept.sample(frac=1, axis=1, random_state=0))), kept
    )


def test_a_later_column_without_a_value_is_missing_in_the_way_of_its_kind():
    dates = pd.to_datetime(["2020-01-01", None])
    schema, _ = infer(pd.DataFrame({"when": dates, "flag": [True, None], "size": [1.5, np.nan]}))
    later = read_table(schema, pd.DataFrame({"when": [None, None], "flag": [None, None], "size": [None, None]}))
    assert later["when"].tolist() == [np.iinfo(np.int64).min] * 2
    assert later["flag"].tolist() == [-1, -1]
    assert np.isnan(later["size"]).all()


def test_column_names_may_be_numbers():
    frame = pd.DataFrame(np.arange(6.0).reshape(2, 3))
    schema, table = infer(frame, roles={1: "ignore"})
    assert list(table.columns) == ["0", "2"]
    pd.testing.assert_frame_equal(restore_table(schema, table), frame[[0, 2]])


def test_index_is_reset_and_input_untouched():
    frame = pd.DataFrame({"a": [1, 2], "s": ["x", "y"]}, index=[7, 3])
    before = frame.copy(deep=True)
    pd.testing.assert_frame_equal(back(frame), frame.reset_index(drop=True))
    pd.testing.assert_frame_equal(frame, before)


def test_table_columns_have_the_promised_types():
    schema, table = infer(pd.DataFrame(COLUMNS))
    wanted = {"Int64": np.float64, "boolean": np.int8, "category": np.int64, "tz": np.int64, "float32": np.float32}
    for name, dtype in wanted.items():
        assert table[name].dtype == dtype
    assert table["category"].tolist() == [1, -1, 2]
    assert table["boolean"].tolist() == [1, -1, 0]
    assert table["tz"].tolist()[0] == pd.Timestamp("2020-07-01 10:00", tz="Europe/Paris").value
    assert table["tz"][1] == np.iinfo(np.int64).min
    missing = {field.name for field in schema.fields if field.nullable}
    assert missing == {name for name, column in COLUMNS.items() if pd.isna(column).any()}
    for field in schema.fields:
        assert field.is_missing(table[field.name]).tolist() == pd.isna(COLUMNS[field.name]).tolist()


def test_sampled_numbers_are_rounded_and_clipped_to_the_type():
    frame = pd.DataFrame(
        {"u": np.uint8([1, 2]), "i": [1, 2], "b": [True, False], "n": pd.array([1, None], dtype="Int8")}
    )
    schema, table = infer(frame)
    drawn = table.with_columns(
        {"u": np.array([-3.2, 300.0]), "i": np.array([1e30, 1.5]), "n": np.array([-200.0, np.nan])}
    )
    out = restore_table(schema, drawn)
    assert out["u"].tolist() == [0, 255]
    assert out["i"].tolist() == [2**53, 2]
    assert out["n"].tolist() == [-128, pd.NA]
    assert list(out.dtypes) == list(frame.dtypes)


def test_holes_in_plain_int_and_bool_columns_make_them_nullable():
    schema, _ = infer(pd.DataFrame({"i": [1, 2], "u": np.uint8([1, 2]), "b": [True, False]}))
    holes = read_table(schema, pd.DataFrame({"i": [1.0, np.nan], "u": [np.nan, 2.0], "b": [None, True]}))
    out = restore_table(schema, holes)
    assert [str(dtype) for dtype in out.dtypes] == ["Int64", "UInt8", "boolean"]
    assert out["i"].tolist() == [1, pd.NA]


def test_kinds_override():
    frame = pd.DataFrame(
        {"zip": [101, 202], "when": ["2020-01-02", None], "n": ["1.5", "2"], "t": ["a", "b"], "f": [0.0, 1.0]}
    )
    kinds = {"zip": "category", "when": "datetime", "n": "number", "t": "text", "f": "boolean"}
    schema, table = infer(frame, kinds=kinds)
    assert {field.name: field.kind for field in schema.fields} == kinds
    assert schema.field("zip").categories == (101, 202)
    assert table["n"].tolist() == [1.5, 2.0]
    out = restore_table(schema, table)
    assert out["when"][0] == pd.Timestamp("2020-01-02")
    assert out["zip"].tolist() == [101, 202]
    assert out["f"].tolist() == [0.0, 1.0]
    again = read_table(schema, frame)
    assert again["when"].tolist() == table["when"].tolist()
    with pytest.raises(SchemaMismatch, match=r"column 'n', row 1: 'x' is not a number"):
        read_table(schema, frame.assign(n=["1", "x"]))


def test_roles():
    frame = pd.DataFrame(
        {
            "a": [1.0, 2.0],
            "key": [2**60, 2**60 + 1],
            "who": ["p", "q"],
            "w": [1, 2],
            "t": pd.to_datetime(["2020", "2021"]),
            "junk": pd.Series([None, None], dtype=object),
            "goal": [1.0, 3.0],
        }
    )
    roles = {"key": "id", "who": "group", "w": "weight", "t": "time", "junk": "ignore", "goal": "target"}
    schema, table = infer(frame, roles=roles)
    assert [field.name for field in schema.data_fields] == ["a", "goal"]
    assert set(table.columns) == {"a", "key", "who", "w", "t", "goal"}
    assert table["key"].tolist() == [str(2**60), str(2**60 + 1)]
    assert schema.field("who").categories is None
    pd.testing.assert_frame_equal(restore_table(schema, table), frame[["a", "goal"]])
    pd.testing.assert_frame_equal(restore_table(schema, table, ["key", "w"]), frame[["key", "w"]])
    later = read_table(schema, frame[["goal", "a"]])
    assert set(later.columns) == {"a", "goal"}


def test_read_names_what_differs():
    frame = pd.DataFrame(
        {"age": [1, 2], "city": ["Oslo", "Rome"], "when": pd.to_datetime(["2020", "2021"]), "ok": [True, False]}
    )
    schema, _ = infer(frame)
    cases = [
        (frame.rename(columns={"age": "aeg"}), ["'age' is missing", "did you mean 'aeg'"]),
        (frame.drop(columns="city"), ["'city' is missing", "age, when, ok"]),
        (frame.assign(extra=1), ["'extra' is not known", "X.drop"]),
        (
            frame.assign(city=["Oslo", "Romee"]),
            ["city", "'Romee' (row 1)", "did you mean 'Rome'", "Known: 'Oslo', 'Rome'"],
        ),
        (frame.assign(age=[1.5, 2]), ["age", "row 0 has 1.5"]),
        (frame.assign(age=["1", "2"]), ["age", "integer", "'1'", "pd.to_numeric"]),
        (frame.assign(age=[1, np.inf]), ["age", "row 1 is inf"]),
        (frame.assign(age=[1, 2**60]), ["2**53", "row 1"]),
        (frame.assign(ok=[2, 1]), ["ok", "row 0 has 2"]),
        (frame.assign(when=[1, 2]), ["when", "held dates"]),
        (frame.assign(when=pd.to_datetime(["2020", "2021"]).tz_localize("UTC")), ["when", "time zone"]),
        (frame.to_numpy(), ["where a DataFrame with the columns age, city, when, ok"]),
    ]
    for later, words in cases:
        with pytest.raises(SchemaMismatch) as caught:
            read_table(schema, later)
        for word in words:
            assert word in str(caught.value), (word, str(caught.value))


def test_partial_fills_with_missing_cells():
    frame = pd.DataFrame({"a": [1.0, 2.0], "c": ["x", "y"], "b": [True, False], "d": pd.to_datetime(["2020", "2021"])})
    schema, _ = infer(frame)
    table = read_table(schema, frame[["c"]], partial=True)
    assert np.isnan(table["a"]).all()
    assert table["b"].tolist() == [-1, -1]
    assert restore_table(schema, table)["d"].isna().all()
    with pytest.raises(SchemaMismatch, match="'z' is not known"):
        read_table(schema, pd.DataFrame({"z": [1]}), partial=True)


def test_mixed_up_types_that_mean_the_same_are_taken():
    schema, table = infer(pd.DataFrame({"i": [1, 2], "c": [1, 2], "b": [True, False]}), kinds={"c": "category"})
    later = read_table(
        schema,
        pd.DataFrame({"i": pd.array([1, 2], dtype="Int64"), "c": [1.0, 2.0], "b": np.int64([1, 0])}, index=[5, 6]),
    )
    for name in table.columns:
        assert later[name].tolist() == table[name].tolist()
