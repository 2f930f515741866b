"""Fingerprints: of a table's content, of single rows (to count duplicates), of files on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from reverie.data.schema import Schema
from reverie.data.table import ROWS, Array, Table

_SAMPLE = 2**16
_ROWS = 2**25
_PIECE = 2**19


def table_digest(schema: Schema, tables: Iterable[Table]) -> str:
    """SHA-256 of the schema and every cell, the same however the rows are cut into tables."""
    columns: dict[str, Any] = {}
    for table in tables:
        for name, column in table.columns.items():
            if name == ROWS:  # the order of a long data frame's rows is not part of its sequences
                continue
            _feed(columns.setdefault(name, hashlib.sha256()), column)
    return text_digest(schema.to_json(), {name: digest.hexdigest() for name, digest in columns.items()})


def text_digest(*parts: Any) -> str:
    """SHA-256 of JSON-ready values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _feed(digest: Any, column: Array) -> None:
    """The column's cells into the digest, by pieces that the cache holds: whole columns would be copied twice."""
    if column.dtype == object:
        digest.update(b"".join(_item_bytes(item) for item in column))
        return
    if not column.size:
        return
    step = max(_PIECE // column[:1].nbytes, 1)
    for start in range(0, len(column), step):
        digest.update(_plain(column[start : start + step]).reshape(-1).view(np.uint8))


def _item_bytes(item: Any) -> bytes:
    """One text or sequence with its length in front, so that neighbours cannot run together."""
    if item is None:
        return b"-"
    if isinstance(item, str):
        inside = item.encode("utf-8", "surrogatepass")
        return b"t%d:" % len(inside) + inside
    return f"s{item.dtype.kind}{item.shape}:".encode() + _plain(item).tobytes()


def _plain(column: Array) -> Array:
    """Contiguous, little-endian, with one zero and one NaN."""
    if column.dtype.kind == "f":
        column = column + 0.0
        column = np.where(np.isnan(column), np.array(np.nan, column.dtype), column)
    return np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<"), copy=False))


def row_digests(table: Table, names: Sequence[str]) -> Array:
    """A 64-bit digest per row of these columns, shape (n,): equal rows have equal digests."""
    flat = [table[name] for name in names if table[name].dtype != object]
    loose = [table[name] for name in names if table[name].dtype == object]
    out = bytearray()
    width = sum(column[:1].nbytes for column in flat) or 1
    step = max(_ROWS // width, 1)
    for start in range(0, table.n, step):
        rows = min(step, table.n - start)
        block = np.zeros((rows, 0), np.uint8)
        if flat:
            views = [_plain(column[start : start + rows]).reshape(rows, -1).view(np.uint8) for column in flat]
            block = np.ascontiguousarray(np.concatenate(views, axis=1))
        inside = memoryview(cast("Any", block.reshape(-1)))
        size = block.shape[1]
        for row in range(rows):
            digest = hashlib.blake2b(inside[row * size : (row + 1) * size], digest_size=8)
            for column in loose:
                digest.update(_item_bytes(column[start + row]))
            out += digest.digest()
    return np.frombuffer(bytes(out), dtype="<u8")


def files_digest(paths: Sequence[Path]) -> str:
    """Names, sizes and times of files, and pieces of the content of at most 16 of them."""
    facts = []
    for path in paths:
        found = path.stat()
        facts.append([path.name, found.st_size, found.st_mtime_ns])
    chosen = sorted({round(at) for at in np.linspace(0, len(paths) - 1, 16)}) if paths else []
    return text_digest(facts, [_sampled(paths[at]) for at in chosen])


def _sampled(path: Path) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        for start in sorted({0, max(size // 2 - _SAMPLE // 2, 0), max(size - _SAMPLE, 0)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
