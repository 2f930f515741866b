"""A folder of pictures: class subfolders are labels, train and test subfolders are splits. Read, checked, resized."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data.digests import files_digest, table_digest
from reverie.data.forms.conditions import infer_y
from reverie.data.forms.frames import column_options
from reverie.data.schema import Field, Schema
from reverie.data.sources.loaded import Asked, Loaded
from reverie.data.table import Array, Table
from reverie.errors import DataError, InvalidOption

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm")
MODES = ("L", "LA", "RGB", "RGBA")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
_PARTS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
_CHANNELS = {"1": (), "L": (), "I;16": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}
_SAY = {
    "L": "grey",
    "LA": "grey with alpha",
    "RGB": "colour",
    "RGBA": "colour with alpha",
    "1": "black and white",
    "I;16": "16-bit grey",
}


def image_files(folder: Path) -> tuple[list[Path], int]:
    """All pictures below the folder in the order of their paths, and the number of other files. Hidden ones are skipped."""
    found, others = [], 0
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(files):
            if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):
                continue
            if name.lower().endswith(ENDINGS):
                found.append(Path(where) / name)
            else:
                others += 1
    return sorted(found, key=lambda path: path.relative_to(folder).parts), others


def read_folder(folder: Path, asked: Asked) -> Loaded:
    """The pictures of a folder as (n, H, W) or (n, H, W, C) images; big sets stay on disk (see `Asked.in_memory`).

    All must have one size and one mode, unless `image_size` (cut to the shape around the centre, then resized) and
    `mode` (L, LA, RGB, RGBA) say what to make of them. Raises `DataError` naming the file that differs or is damaged.
    """
    size, mode = _size(asked.image_size), asked.mode
    if mode is not None and mode not in MODES:
        raise InvalidOption(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    paths, others = image_files(folder)
    if not paths:
        raise DataError(f"{folder} has no pictures ({', '.join(ENDINGS)})")
    parts, labels = _layout(folder, paths)
    size, mode = _common(paths, size, mode)
    field = _field(size, mode)
    pictures = PictureFolder(tuple(paths), field, size, mode)
    told = [f"{others} other files in {folder} were skipped"] if others else []
    splits: dict[str, Array] | None = None
    if parts is not None:
        order: list[str] = [part for part in ("train", "valid", "test") if part in parts]
        splits = {part: np.array([at for at, p in enumerate(parts) if p == part]) for part in order}
    y = asked.y if asked.y is not None else labels
    if isinstance(y, str):
        raise DataError(
            f"y={y!r} names a column, but {folder} is a folder of pictures: give labels in order of the files"
        )
    if not asked.streams(len(paths) * max(field.width, 1) * (2 if mode == "I;16" else 1)):
        pixels = pictures.pixels(np.arange(len(paths)))
        X = pixels.astype(bool) if mode == "1" else pixels
        return Loaded(X, y, folder.name, splits=splits, warnings=told)
    column_options(asked.roles, "roles", [])
    kinds = column_options(asked.kinds, "kinds", ["x", "y"])
    fields = [field]
    if y is not None:
        beside = infer_y(y, len(paths), taken=["x"], kinds={k: v for k, v in kinds.items() if k != "x"})
        fields += beside
        pictures.extra = Table({item.name: column for item, column in beside.items()}, len(paths))
    return Loaded(ready=(Schema(tuple(fields), "images"), pictures), name=folder.name, splits=splits, warnings=told)


def _size(asked: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(H, W) or None."""
    if asked is None:
        return None
    pair = tuple(asked) if isinstance(asked, tuple | list) else (asked, asked)
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 16384 for v in pair):
        raise InvalidOption(f"image_size: expected pixels, such as 64 or (height, width), got {asked!r}")
    return int(pair[0]), int(pair[1])


def _layout(folder: Path, paths: list[Path]) -> tuple[list[str] | None, list[str] | None]:
    """Part and label of each picture, from the folders it lies in; None where there are none."""
    inner = [path.relative_to(folder).parts[:-1] for path in paths]
    tops = {where[0] if where else "" for where in inner}
    parts = None
    if len(tops) > 1 and all(top.lower() in _PARTS for top in tops):
        parts = [_PARTS[where[0].lower()] for where in inner]
        inner = [where[1:] for where in inner]
    bare = [at for at, where in enumerate(inner) if not where]
    if len(bare) == len(inner):
        return parts, None
    if bare:
        raise DataError(
            f"{paths[bare[0]]} lies beside class folders: put every picture into the folder of its class, or none"
        )
    return parts, [where[0] for where in inner]


def _common(paths: list[Path], size: tuple[int, int] | None, mode: str | None) -> tuple[tuple[int, int], str]:
    """The one size (H, W) and mode of all pictures, from their headers alone."""
    first: tuple[tuple[int, int], str] | None = None
    for path in paths:
        with _opened(path) as picture:
            here = (_upright_size(picture), _mode(picture, path, mode))
        first = first or here
        if size is None and here[0] != first[0]:
            raise DataError(
                f"{path} is {here[0][0]} x {here[0][1]} pixels (height x width) and {paths[0].name} is {first[0][0]} x "
                f"{first[0][1]}: give image_size={min(first[0])} to cut and resize all of them"
            )
        if here[1] != first[1]:
            raise DataError(
                f"{path} is {_SAY[here[1]]} ({here[1]}) and {paths[0].name} is {_SAY[first[1]]} ({first[1]}): "
                f"give mode='RGB' or mode='L' to convert all of them"
            )
    assert first is not None
    return size or first[0], first[1]


class _opened:
    """`with _opened(path) as picture`: Pillow's errors become a `DataError` with the file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        from PIL import Image

        self._quiet = warnings.catch_warnings()
        self._quiet.__enter__()
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            self.picture = Image.open(self.path, formats=_FORMATS)
        except BaseException as problem:
            self._quiet.__exit__(None, None, None)
            if isinstance(problem, Exception):
                raise self._told(problem) from None
            raise
        return self.picture

    def __exit__(self, kind: Any, problem: Any, trace: Any) -> None:
        self.picture.close()
        self._quiet.__exit__(None, None, None)
        if isinstance(problem, Exception) and not isinstance(problem, DataError | InvalidOption):
            raise self._told(problem) from None

    def _told(self, problem: Exception) -> DataError:
        if "DecompressionBomb" in type(problem).__name__:
            return DataError(
                f"{self.path} unpacks to more pixels than Pillow thinks safe (a decompression bomb?): remove it, or "
                "make it smaller with another program"
            )
        return DataError(f"{self.path} cannot be read as a picture, it is damaged or of another format: {problem}")


def _upright_size(picture: Any) -> tuple[int, int]:
    """(H, W) after the turn that a camera noted in the file."""
    turned = picture.format == "JPEG" and picture.getexif().get(0x0112, 1) >= 5
    width, height = picture.size
    return (width, height) if turned else (height, width)


def _mode(picture: Any, path: Path, wanted: str | None) -> str:
    found = str(picture.mode)
    if found.startswith("I"):
        found = "I;16"
    if found == "P":
        found = "RGBA" if "transparency" in picture.info else "RGB"
    if path.suffix.lower() == ".png" and found in ("RGB", "RGBA", "LA"):
        with path.open("rb") as file:
            if file.read(25)[24:25] == b"\x10":
                raise DataError(f"{path} has 16 bits per colour, of which Pillow reads 8: convert it to 8 bits first")
    if wanted is not None:
        return wanted
    if found not in _CHANNELS:
        raise DataError(f"{path} has the mode {found}: give mode='RGB' to convert all pictures")
    return found


def _field(size: tuple[int, int], mode: str) -> Field:
    dtype = {"1": "bool", "I;16": "uint16"}.get(mode, "uint8")
    high = {"1": 1.0, "I;16": 65535.0}.get(mode, 255.0)
    return Field("x", "image", shape=(*size, *_CHANNELS[mode]), dtype=dtype, low=0.0, high=high)


class PictureFolder:
    """Rows decoded from files when they are taken."""

    in_memory = False

    def __init__(self, paths: tuple[Path, ...], field: Field, size: tuple[int, int], mode: str) -> None:
        self.paths, self.field, self.size, self.mode, self.n = paths, field, size, mode, len(paths)
        self.extra = Table({}, len(paths))

    def pixels(self, index: Array) -> Array:
        """Decoded pictures, (len(index), H, W[, C]) uint8 or uint16."""
        out = np.empty((len(index), *self.field.shape), np.uint16 if self.mode == "I;16" else np.uint8)
        for row, at in enumerate(index):
            out[row] = decode(self.paths[at], self.size, self.mode)
        return out

    def take(self, index: Array) -> Table:
        return self.extra.take(index).with_columns({self.field.name: self.pixels(index)})

    def fingerprint(self) -> str:
        extra = table_digest(Schema(()), [self.extra])
        return files_digest(list(self.paths)) + f"{self.size}{self.mode}" + extra


def decode(path: Path, size: tuple[int, int], mode: str) -> Array:
    """One picture, upright, of this size (H, W) and mode. Raises `DataError` naming the file."""
    from PIL import Image, ImageOps

    with _opened(path) as opened:
        picture = opened
        if picture.format == "JPEG":
            picture = ImageOps.exif_transpose(picture)
        deep = picture.mode.startswith("I")
        if deep:
            # Through floats: Pillow resizes 16-bit pictures in that mode only, and clips when it converts them.
            picture = Image.fromarray(np.asarray(picture).astype(np.float32))
        elif picture.mode != mode:
            picture = picture.convert(mode)
        if (picture.height, picture.width) != size:
            method = Image.Resampling.NEAREST if mode == "1" else Image.Resampling.LANCZOS
            picture = _cut(picture, size).resize((size[1], size[0]), method)
        pixels = np.asarray(picture)
        if deep:
            grey = np.clip(np.rint(pixels), 0, 65535)
            if mode == "I;16":
                return np.asarray(grey.astype(np.uint16))
            small = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
            return np.asarray(small.convert(mode))
        return np.asarray(pixels.astype(np.uint8))


def _cut(picture: Any, size: tuple[int, int]) -> Any:
    """The largest piece around the centre that has the shape of `size` (H, W)."""
    width, height = picture.size
    scale = min(height / size[0], width / size[1])
    high, wide = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    left, top = (width - wide) // 2, (height - high) // 2
    return picture.crop((left, top, left + wide, top + high))
