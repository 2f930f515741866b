"""Folders of pictures: modes, layouts, sizes, damage."""

import numpy as np
import pytest
from PIL import Image

from reverie.data.sources.load import load_data
from reverie.errors import DataError, InvalidOption

RNG = np.random.default_rng(0)
SHAPES = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}


def picture(mode="RGB", size=(6, 5)):
    if mode == "I;16":
        return RNG.integers(0, 65536, size).astype(np.uint16)
    if mode == "1":
        return RNG.random(size) < 0.5
    return RNG.integers(0, 256, (*size, *SHAPES[mode])).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def refused(source, *words, error=DataError, **options):
    with pytest.raises(error) as caught:
        load_data(source, **options)
    assert type(caught.value) is error
    for word in words:
        assert str(word) in str(caught.value), (word, str(caught.value))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "1"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_every_mode(tmp_path, mode, in_memory):
    saved = np.stack([save(tmp_path / f"{i}.png", picture(mode)) for i in range(4)])
    data = load_data(tmp_path, in_memory=in_memory, split=None)
    assert data.in_memory is in_memory
    assert data.X.dtype == saved.dtype
    np.testing.assert_array_equal(data.X, saved)
    field = data.schema.fields[0]
    assert field.high == {"I;16": 65535, "1": 1}.get(mode, 255)
    assert field.shape == saved.shape[1:]


def test_bmp_and_jpeg(tmp_path):
    saved = save(tmp_path / "b" / "a.bmp", picture())
    np.testing.assert_array_equal(load_data(tmp_path / "b").X[0], saved)
    smooth = np.full((8, 8, 3), 120, np.uint8)
    save(tmp_path / "j" / "a.JPG", smooth)
    save(tmp_path / "j" / "b.jpeg", smooth)
    assert abs(load_data(tmp_path / "j").X.astype(int) - 120).max() <= 2


def test_palette_pictures_become_colour(tmp_path):
    pixels = picture()
    Image.fromarray(pixels).quantize(16).save(tmp_path / "p.png")
    assert load_data(tmp_path).X.shape == (1, 6, 5, 3)


def test_a_camera_turn_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    left = np.zeros((8, 16, 3), np.uint8)
    left[:, :8] = 255
    Image.fromarray(left).save(tmp_path / "a.jpg", exif=exif)
    out = load_data(tmp_path).X[0]
    assert out.shape == (16, 8, 3)
    assert out[:6].mean() > 240
    assert out[10:].mean() < 15


def test_layouts(tmp_path):
    flat = tmp_path / "flat"
    for i in (2, 10, 1):
        save(flat / f"{i:02}.png", np.full((4, 4), 25 * i, np.uint8))
    (flat / "notes.md").write_text("x")
    (flat / ".hidden.png").write_bytes(b"junk")
    data = load_data(flat, split=None)
    assert data.X[:, 0, 0].tolist() == [25, 50, 250]
    assert data.schema.condition is None
    assert data.warnings == [f"1 other files in {flat} were skipped"]
    assert load_data(flat, [0, 1, 0], split=None).y == [0, 1, 0]
    labelled = tmp_path / "labelled"
    for name in ("dog", "cat"):
        for i in range(3):
            save(labelled / name / "deep" / f"{i}.png", picture("L"))
    data = load_data(labelled, split=None)
    assert data.schema.condition.categories == ("cat", "dog")
    assert data.y == ["cat"] * 3 + ["dog"] * 3
    parts = tmp_path / "parts"
    for part, n in (("train", 3), ("test", 2), ("val", 1)):
        for name in "ab":
            for i in range(n):
                save(parts / part / name / f"{i}.png", picture("L"))
    for in_memory in (True, False):
        data = load_data(parts, in_memory=in_memory)
        assert {part: len(rows) for part, rows in data.splits.items()} == {"train": 6, "valid": 2, "test": 4}
        assert data.valid.y == ["a", "b"]
        assert data.split_info["method"] == "given"
    save(labelled / "stray.png", picture("L"))
    refused(labelled, "stray.png", "beside class folders")


def test_sizes_and_modes_must_agree(tmp_path):
    save(tmp_path / "a.png", picture("RGB", (6, 5)))
    save(tmp_path / "b.png", picture("RGB", (7, 5)))
    refused(tmp_path, "b.png is 7 x 5", "a.png is 6 x 5", "image_size=5")
    assert load_data(tmp_path, image_size=4).X.shape == (2, 4, 4, 3)
    assert load_data(tmp_path, image_size=(3, 9)).X.shape == (2, 3, 9, 3)
    save(tmp_path / "b.png", picture("L", (6, 5)))
    refused(tmp_path, "b.png is grey (L)", "a.png is colour (RGB)", "mode='RGB'")
    assert load_data(tmp_path, mode="L").X.shape == (2, 6, 5)
    assert load_data(tmp_path, mode="RGBA", in_memory=False).X.shape == (2, 6, 5, 4)
    refused(tmp_path, "mode: expected one of", mode="HSV", error=InvalidOption)
    for wrong in (0, -3, "64", (1, 2, 3), 1.5, True):
        with pytest.raises((InvalidOption, DataError)):
            load_data(tmp_path, image_size=wrong)


def test_resizing_cuts_around_the_centre_and_keeps_16_bits(tmp_path):
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    save(tmp_path / "w" / "a.png", wide)
    out = load_data(tmp_path / "w", image_size=4).X[0]
    assert (out == 200).all()
    save(tmp_path / "d" / "a.png", np.full((8, 8), 40000, np.uint16))
    assert (load_data(tmp_path / "d", image_size=4).X == 40000).all()
    assert load_data(tmp_path / "d", image_size=4).X.dtype == np.uint16
    assert (round(40000 / 257) == load_data(tmp_path / "d", mode="L").X).all()
    assert load_data(tmp_path / "d", mode="RGB").X.shape == (1, 8, 8, 3)


@pytest.mark.parametrize("in_memory", [True, False])
def test_damaged_pictures_are_named(tmp_path, in_memory):
    save(tmp_path / "a.png", picture("RGB", (64, 64)))
    bad = tmp_path / "b.png"
    save(bad, picture("RGB", (64, 64)))
    whole = bad.read_bytes()
    bad.write_bytes(b"no picture")
    refused(tmp_path, bad, "damaged", in_memory=in_memory)
    bad.write_bytes(b"")
    refused(tmp_path, bad, "damaged", in_memory=in_memory)
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        _ = load_data(tmp_path, in_memory=in_memory).X
    assert str(bad) in str(caught.value)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "a.png", picture("L", (40, 40)))
    for limit in (1000, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(tmp_path, "a.png", "decompression bomb")


def test_sixteen_bit_colour_is_not_quietly_cut(tmp_path):
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(4 * 6) for _ in range(4))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(content)
    refused(tmp_path, "deep.png", "16 bits per colour")


def test_modes_that_need_converting(tmp_path):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "a.jpg")
    refused(tmp_path, "a.jpg has the mode CMYK", "mode='RGB'")
    assert load_data(tmp_path, mode="RGB").X.shape == (1, 6, 5, 3)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.md").write_text("x")
    refused(other, "no pictures")
