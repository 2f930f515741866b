"""ImageCodec: every mode there and back, log-determinants by numerical derivatives, all pixel types."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.data.codec.negotiate import codec_from_json, fit_codec
from reverie.data.codec.pixels import ImageCodec
from reverie.data.forms.reading import read_table, restore_table
from reverie.data.sources.load import as_dataset
from reverie.data.space import Wants
from reverie.errors import UnsupportedData
from reverie.rng import RowNoise

RNG = np.random.default_rng(0)
WANTS = Wants(family="vae", kinds=frozenset({"image"}), missing="mask")
MODES = ("native", "dequantise", "logit", "symmetric", "binary", "threshold")

PICTURES = {
    "uint8": RNG.integers(0, 256, (40, 4, 3), dtype=np.uint8),
    "colour": RNG.integers(0, 256, (40, 4, 3, 3), dtype=np.uint8),
    "uint16": RNG.integers(0, 65536, (40, 4, 3), dtype=np.uint16),
    "bool": RNG.random((40, 4, 3)) < 0.5,
    "float of 255ths": (RNG.integers(0, 256, (40, 4, 3)) / 255).astype(np.float32),
    "double of 255ths": RNG.integers(0, 256, (40, 4, 3)) / 255,
    "digits": (RNG.integers(0, 17, (40, 4, 3)) / 16).astype(np.float32),
    "continuous": RNG.random((40, 4, 3)).astype(np.float32),
    "tensor": torch.from_numpy(RNG.integers(0, 256, (40, 4, 3), dtype=np.uint8)),
    "float tensor": torch.from_numpy(RNG.random((40, 4, 3)).astype(np.float32)),
    "double tensor": torch.from_numpy(RNG.random((40, 4, 3, 1))),
    "uint16 tensor": torch.from_numpy(RNG.integers(0, 65536, (40, 4, 3), dtype=np.uint16)),
    "bool tensor": torch.from_numpy(RNG.random((40, 4, 3)) < 0.5),
}


def fit(X, mode: str, **options) -> ImageCodec:
    data = as_dataset(X)
    codec = fit_codec(data.schema, replace(WANTS, images=mode, **options), data)
    assert isinstance(codec, ImageCodec)
    return codec


def model_space(codec: ImageCodec, X) -> tuple[torch.Tensor, torch.Tensor]:
    prepared = codec.prepare(read_table(codec.schema, X))
    noise = RowNoise(0, len(prepared), dtype=codec.space.torch_dtype)
    return codec.noise(prepared.x, noise), prepared.log_det


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flat", [True, False])
def test_there_and_back(name, mode, flat):
    X = PICTURES[name]
    codec = fit(X, mode, flat=flat, dtype="float64" if "uint16" in name else "float32")
    x, _ = model_space(codec, X)
    assert x.shape == codec.space.batch_shape(40)
    assert x.dtype == codec.space.torch_dtype
    back = restore_table(codec.schema, codec.decode(x))
    assert type(back) is type(X)
    assert back.dtype == X.dtype
    assert back.shape == X.shape
    a, b = np.asarray(back, dtype=float), np.asarray(X, dtype=float)
    if mode == "binary":
        assert set(np.unique(a)) <= {0.0, float(codec.field.high)}
    elif mode == "threshold":
        np.testing.assert_array_equal(a, (b > 0.5 * codec.field.high) * codec.field.high)
    elif "float" in str(X.dtype):
        np.testing.assert_allclose(a, b, atol=3e-6)
    else:
        np.testing.assert_array_equal(a, b)
    again = codec_from_json(codec.schema, codec.to_json())
    assert again.space == codec.space
    assert (again.measure, again.lowers, again.levels) == (codec.measure, codec.lowers, codec.levels)
    assert torch.equal(model_space(again, X)[0], x)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("uint8", 256),
        ("uint16", 65536),
        ("bool", 2),
        ("float of 255ths", 256),
        ("double of 255ths", 256),
        ("digits", 17),
    ],
)
def test_levels_are_found(name, levels):
    codec = fit(PICTURES[name], "dequantise")
    assert codec.levels == levels
    assert codec.lowers
    assert codec.measure == "counting"
    native = fit(PICTURES[name], "native")
    assert native.space.blocks[0].kind == ("binary" if levels == 2 else "integer")
    assert not native.lowers


def test_continuous_pixels_have_a_density():
    codec = fit(PICTURES["continuous"], "dequantise")
    assert codec.levels == 0
    assert codec.measure == "Lebesgue"
    assert not codec.lowers
    assert codec.noise_width == 0
    assert fit(PICTURES["continuous"], "native").space.blocks[0].kind == "real"


@pytest.mark.parametrize("name", ["uint8", "float of 255ths", "bool", "digits"])
def test_dequantised_cells_tile_the_line(name):
    """Neighbouring grey levels' cells meet: the log-determinant per pixel is the log of a cell's width in x."""
    codec = fit(PICTURES[name], "dequantise", dtype="float64")
    high = codec.field.high
    step = high / (codec.levels - 1)

    class At:
        def __init__(self, u):
            self.u = u

        def uniform(self, *shape):
            return torch.full((1, *shape), self.u, dtype=torch.float64)

    zeros = torch.zeros(1, 1, 4, 3, dtype=torch.float64)
    top, bottom = codec.noise(zeros, At(1.0)), codec.noise(zeros + step, At(0.0))
    np.testing.assert_allclose(top, bottom)
    width = float((codec.noise(zeros, At(1.0)) - codec.noise(zeros, At(0.0)))[0, 0, 0, 0])
    log_det = float(codec.prepare(read_table(codec.schema, PICTURES[name][:1])).log_det[0])
    assert log_det == pytest.approx(12 * math.log(width))


def test_the_logit_log_det_is_the_derivative():
    """log |dx/dv| of x = logit(m + (1 - 2m)(v + u) / 256) summed over pixels, by a central difference in v."""
    codec = fit(PICTURES["uint8"], "logit", dtype="float64")
    X = PICTURES["uint8"][:5]
    v = torch.from_numpy(X[:, None].astype(np.float64))
    h = 1e-4
    up = codec.noise(v + h, RowNoise(0, 5, dtype=torch.float64))
    down = codec.noise(v - h, RowNoise(0, 5, dtype=torch.float64))
    numeric = torch.log((up - down) / (2 * h)).flatten(1).sum(1)
    x = codec.noise(v, RowNoise(0, 5, dtype=torch.float64))
    total = codec.prepare(read_table(codec.schema, X)).log_det + codec.batch_log_det(x)
    np.testing.assert_allclose(total, numeric, rtol=1e-7)


def test_the_affine_log_det_is_the_derivative():
    X = PICTURES["continuous"].astype(np.float64)
    for mode, slope in (("dequantise", None), ("native", 2.0)):
        codec = fit(X, mode, dtype="float64")
        v = torch.from_numpy(X[:2, None])
        d = (codec.noise(v + 1e-5, RowNoise(0, 2)) - codec.noise(v - 1e-5, RowNoise(0, 2))) / 2e-5
        log_det = codec.prepare(read_table(codec.schema, X[:2])).log_det
        np.testing.assert_allclose(log_det, torch.log(d).flatten(1).sum(1), rtol=1e-5)
        assert slope is None or float(d.mean()) == pytest.approx(slope)


def test_binarisation_is_a_bernoulli_of_the_grey_level():
    """4000 pictures of one grey level g: share of ones within 4 sqrt(p (1 - p) / N), p = g / 255; black and white stay."""
    for grey in (0, 64, 128, 255):
        X = np.full((4000, 1, 2), grey, dtype=np.uint8)
        X[0, 0, 0], X[0, 0, 1] = 0, 255
        x, _ = model_space(fit(X, "binary"), X)
        p = grey / 255
        share = float(x[1:].mean())
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / (2 * 3999))
    assert fit(X, "binary").measure == "counting (pixels binarised stochastically)"


def test_dequantised_pixels_stay_in_their_cell():
    X = PICTURES["uint8"]
    codec = fit(X, "dequantise", dtype="float64")
    prepared = codec.prepare(read_table(codec.schema, X))
    assert prepared.x.dtype == torch.uint8  # kept small; noise makes it float
    for seed in range(5):
        x = codec.noise(prepared.x, RowNoise(seed, 40, dtype=torch.float64))
        np.testing.assert_array_equal(restore_table(codec.schema, codec.decode(x)), X)


def test_missing_pixels():
    X = PICTURES["float of 255ths"].copy()
    X[0, 0, 0] = X[1, 2] = np.nan
    codec = fit(X, "dequantise")
    prepared = codec.prepare(read_table(codec.schema, X))
    assert codec.space.missing
    assert (~prepared.observed).flatten(1).sum(1).tolist()[:3] == [1, 3, 0]
    per_pixel = prepared.log_det[2] / 12
    np.testing.assert_allclose(prepared.log_det[:2], torch.tensor([11, 9]) * per_pixel)
    with pytest.raises(UnsupportedData, match=r"missing pixels.*impute: gmm"):
        fit(X, "native", missing="flag")
    with pytest.raises(UnsupportedData, match=r"does not take images.*gmm, .*rbm, .*gan"):
        fit(X, "refuse")


def test_whatever_a_network_says_is_a_picture():
    for mode in MODES:
        codec = fit(PICTURES["colour"], mode)
        wild = torch.randn(6, *codec.space.shape, generator=torch.Generator().manual_seed(0)) * 100
        back = restore_table(codec.schema, codec.decode(wild))
        assert back.shape == (6, 4, 3, 3)
        assert back.dtype == np.uint8
