"""Arrays, tensors, images, texts and sequences come back as they went in."""

import json

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.data.forms.reading import infer, read_table, restore_table
from reverie.data.schema import Schema
from reverie.errors import SchemaMismatch

RNG = np.random.default_rng(0)


def block(dtype):
    values = RNG.integers(0, 2 if dtype is bool else 100, (5, 3))
    return values.astype(dtype)


def test_whole_numbers_0_and_1_are_black_and_white():
    """A model of them sees bits, samples come back as 0 and 1, and 255 is no pixel of theirs."""
    X = (RNG.random((40, 4, 4)) < 0.5).astype(np.uint8)
    field = infer(X)[0].data_fields[0]
    assert (field.low, field.high) == (0.0, 1.0)
    made = rv.RBM(hidden=4).fit(X, epochs=2).sample(20, seed=0)
    assert made.dtype == np.uint8
    assert set(np.unique(made)) == {0, 1}
    with pytest.raises(SchemaMismatch, match="0 to 1 in the schema"):
        read_table(infer(X)[0], X * 255)
    assert infer(X * 2)[0].data_fields[0].high == 255


ARRAYS = [
    (RNG.normal(size=(5, 3)), "number", "array"),
    (RNG.normal(size=5), "number", "array"),
    (np.float32(RNG.normal(size=(5, 3))), "number", "array"),
    (np.float16(RNG.normal(size=(5, 3))), "number", "array"),
    (np.array([[1.0, np.nan], [np.nan, 2.0]]), "number", "array"),
    (RNG.normal(size=(5, 3)).astype(">f8"), "number", "array"),
    *[(block(t), "integer", "array") for t in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64)],
    (block(np.int64)[:, 0], "integer", "array"),
    (block(bool), "boolean", "array"),
    (block(bool)[:, 0], "boolean", "array"),
    (np.array(["2020-01-01", "NaT"], dtype="datetime64[D]"), "datetime", "array"),
    (RNG.integers(0, 256, (5, 4, 6)).astype(np.uint8), "image", "images"),
    *[(RNG.integers(0, 256, (5, 4, 6, c)).astype(np.uint8), "image", "images") for c in (1, 2, 3, 4)],
    (RNG.integers(0, 65536, (5, 4, 6)).astype(np.uint16), "image", "images"),
    (RNG.random((5, 4, 6)) < 0.5, "image", "images"),
    *[(RNG.integers(0, 2, (5, 4, 6)).astype(t), "image", "images") for t in (np.uint8, np.uint16)],
    (RNG.random((5, 4, 6, 3)), "image", "images"),
    (np.float32(RNG.random((5, 4, 6))), "image", "images"),
    (np.where(RNG.random((5, 4, 6)) < 0.2, np.nan, RNG.random((5, 4, 6))), "image", "images"),
]


def back(X, **options):
    schema, table = infer(X, **options)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    again = read_table(schema, X)
    for name in again.columns:
        np.testing.assert_array_equal(again[name], table[name])
    return schema, table, restore_table(schema, table)


@pytest.mark.parametrize(
    ("X", "kind", "container"), ARRAYS, ids=lambda v: f"{v.dtype}{v.shape}" if hasattr(v, "dtype") else v
)
def test_arrays(X, kind, container):
    schema, _, out = back(X)
    assert (schema.fields[0].kind, schema.container) == (kind, container)
    assert schema.fields[0].shape == X.shape[1:]
    assert out.dtype == X.dtype
    np.testing.assert_array_equal(out, X)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 4, 4), (5, 4, 4, 3)])
def test_tensors(dtype, shape):
    if dtype == torch.int64 and len(shape) > 2:
        return
    X = (torch.arange(int(np.prod(shape))).reshape(shape) % 2).to(dtype).requires_grad_(dtype == torch.float32)
    schema, _, out = back(X)
    assert schema.container == "tensor"
    assert out.dtype == dtype
    assert torch.equal(out, X.detach())


def test_pixel_ranges_are_part_of_the_schema():
    image = np.zeros((2, 3, 3), np.uint8)
    for X, wanted in [(image, 255), (image.astype(np.uint16), 65535), (image.astype(bool), 1), (image * 1.0, 1)]:
        field = infer(X)[0].fields[0]
        assert (field.low, field.high) == (0, wanted)
    assert infer(image, value_range=(0, 16))[0].fields[0].high == 16


def test_samples_are_clipped_to_the_pixel_range():
    schema, table = infer(np.zeros((2, 2, 2), np.uint8), value_range=(0, 16))
    out = restore_table(schema, table.with_columns({"x": np.full((2, 2, 2), 17.2)}))
    assert out.dtype == np.uint8
    assert (out == 16).all()


def test_missing_pixels_of_whole_number_images():
    X = RNG.integers(0, 256, (3, 4, 4)).astype(np.uint8)
    schema, _ = infer(X)
    holes = X.astype(float)
    holes[0, 1, 2] = np.nan
    table = read_table(schema, holes)
    assert table["x"].dtype == np.float32
    assert schema.fields[0].is_missing(table["x"]).sum() == 1
    np.testing.assert_array_equal(restore_table(schema, table), holes)


def test_lists():
    for X in (["a", "", "b\u00e9"], np.array(["x", "yy"])):
        schema, table, out = back(X)
        assert (schema.container, schema.fields[0].kind) == ("list", "text")
        assert out == list(X)
        assert table["x"].dtype == object
    ragged = [RNG.normal(size=(t, 2)) for t in (3, 1, 4)]
    for X in (
        ragged,
        [np.int16([1, 2]), np.int16([3])],
        [torch.ones(2, 3), torch.zeros(5, 3)],
        [np.float32([1, np.nan])],
    ):
        schema, table = infer(X)
        out = restore_table(schema, table)
        assert schema.fields[0].kind == "sequence"
        assert table["x"][0].shape == X[0].shape
        for a, b in zip(X, out, strict=True):
            assert type(a) is type(b)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(infer([[1, 2], [3, 4]])[1]["x"], [[1, 2], [3, 4]])
    assert infer([1.5, 2.5])[0].fields[0].shape == ()


def test_kinds_for_arrays():
    X = np.array([[3, 5], [5, 9]])
    schema, table, out = back(X, kinds={"x": "category"})
    assert schema.fields[0].categories == (3, 5, 9)
    assert table["x"].tolist() == [[0, 1], [1, 2]]
    np.testing.assert_array_equal(out, X)
    assert infer(X, kinds={"x": "number"})[0].fields[0].kind == "number"
    assert infer(X > 4, kinds={"x": "integer"})[1]["x"].dtype == np.float64


def test_read_refuses_another_shape_type_or_range():
    grey, _ = infer(RNG.integers(0, 256, (3, 4, 4)).astype(np.uint8))
    sixteen, _ = infer(np.zeros((3, 4, 4), np.uint8), value_range=(0, 16))
    unit, _ = infer(RNG.random((3, 4, 4)))
    flat, _ = infer(np.zeros((3, 4)))
    whole, _ = infer(np.zeros((3, 4), int))
    bits, _ = infer(np.zeros((3, 4), bool))
    text, _ = infer(["a"])
    ragged, _ = infer([np.ones((2, 2))])
    cases = [
        (grey, np.zeros((2, 4, 4, 3), np.uint8), "shape (2, 4, 4, 3) where (n, 4, 4)"),
        (grey, np.zeros((4, 4), np.uint8), "X[None]"),
        (grey, np.zeros((2, 3, 5, 5), np.uint8), "channel-first"),
        (grey, RNG.random((2, 4, 4)), "give (X * 255).round()"),
        (grey, np.full((2, 4, 4), 300), "300"),
        (sixteen, np.full((2, 4, 4), 17, np.uint8), "0 to 16"),
        (unit, np.full((2, 4, 4), 7.0), "0 to 1"),
        (unit, np.zeros((2, 4, 4), np.uint8), "uint8 where float64"),
        (flat, np.zeros((2, 5)), "(n, 4)"),
        (flat, [[1, 2, 3, np.inf]], "infinite"),
        (flat, "digits", "str"),
        (flat, ["a", "b"], "an array is wanted"),
        (whole, np.full((2, 4), 0.5), "not a whole number"),
        (bits, np.full((2, 4), 2), "true or false"),
        (text, np.zeros(3), "a list of texts is wanted"),
        (text, [1, 2], "a list of texts is wanted"),
        (ragged, [np.ones((2, 3))], "(T, 2)"),
        (ragged, ["a"], "sequence 0"),
    ]
    for schema, X, words in cases:
        with pytest.raises(SchemaMismatch) as caught:
            read_table(schema, X)
        assert words in str(caught.value), (words, str(caught.value))


def test_big_arrays_are_checked_piece_by_piece(monkeypatch):
    monkeypatch.setattr("reverie.data.forms.arrays.PIECE", 64)
    X = RNG.normal(size=(100, 3))
    X[:90, 1] = np.nan
    assert infer(X)[0].fields[0].nullable
    X[77, 2] = np.inf
    with pytest.raises(ValueError, match="row 77, column 2"):
        infer(X)
