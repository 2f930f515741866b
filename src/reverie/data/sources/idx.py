"""IDX files, the format of MNIST: two zero bytes, a type byte, the number of axes, sizes (big-endian), then data."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from reverie.data.sources.loaded import Loaded, join_parts
from reverie.data.table import Array
from reverie.errors import DataError

_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_IMAGES = re.compile(r"^(?P<part>.*?)-?images[-.]idx3-ubyte(\.gz)?$")
_PART_NAMES = {"train": "train", "t10k": "test", "test": "test", "valid": "valid", "val": "valid"}


def is_idx(path: Path) -> bool:
    """Does the name say IDX (train-images-idx3-ubyte, also .gz)?"""
    return re.search(r"[-.]idx\d-ubyte(\.gz)?$", path.name) is not None


def read_array(path: Path) -> Array:
    """The array in an IDX file. Raises `DataError` when the header does not agree with the content."""
    packed = path.suffix == ".gz"
    try:
        with cast("BinaryIO", gzip.open(path) if packed else path.open("rb")) as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 4:
                raise DataError(f"{path} is no IDX file: it begins with {head!r}")
            sizes = file.read(4 * head[3])
            shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
            dtype = np.dtype(_TYPES[head[2]])
            wanted = math.prod(shape) * dtype.itemsize
            content = _read(file, wanted + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} is damaged: {problem}") from None
    if len(shape) != head[3] or len(content) != wanted:
        have = f"{len(content)} bytes" if len(content) <= wanted else "more"
        raise DataError(
            f"{path}: its header says shape {shape} of {dtype.name}, that is {wanted} bytes, but there are {have}: "
            "the file is cut off or damaged, fetch it again"
        )
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read(file: BinaryIO, limit: int) -> bytes:
    """At most `limit` bytes, in pieces, so that a header that lies does not ask for all memory."""
    out = bytearray()
    while len(out) < limit:
        piece = file.read(min(2**24, limit - len(out)))
        if not piece:
            break
        out += piece
    return bytes(out)


def image_files(folder: Path) -> dict[str, Path]:
    """The *-images-idx3-ubyte files of a folder by part: train, test (t10k), valid, or the name's own beginning."""
    out: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        found = _IMAGES.match(path.name)
        if found is not None and path.is_file():
            part = found["part"].lower()
            out.setdefault(_PART_NAMES.get(part, part or "all"), path)
    return out


def _with_labels(images: Path) -> tuple[Array, Array | None]:
    X = read_array(images)
    base = re.sub(r"\.gz$", "", images.name).replace("images", "labels").replace("idx3", "idx1")
    labels = next((images.with_name(name) for name in (base, base + ".gz") if images.with_name(name).exists()), None)
    return X, None if labels is None else read_array(labels)


def read_idx(path: Path) -> Loaded:
    """An IDX file with the labels beside it, or a folder of them: the parts train and t10k become the splits."""
    name = path.name.split("-")[0].split(".")[0] if path.is_file() else path.name
    if path.is_file():
        X, y = _with_labels(path) if "images" in path.name else (read_array(path), None)
        return Loaded(X, y, name)
    files = image_files(path)
    parts: dict[str, tuple[Any, Any]] = {part: _with_labels(file) for part, file in files.items()}
    order = [part for part in ("train", "valid", "test") if part in parts]
    if not order:
        if len(parts) == 1:
            X, y = next(iter(parts.values()))
            return Loaded(X, y, name)
        raise DataError(f"{path} holds several sets, {', '.join(parts)}: give the path of one of the image files")
    X, y, splits = join_parts({part: parts[part] for part in order}, str(path))
    return Loaded(X, y, name, splits=splits)
