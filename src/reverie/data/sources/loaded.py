"""What a reader hands to `load_data`: data in a user's form, or a schema with a source that streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie.data.dataset import Source
from reverie.data.schema import Schema
from reverie.data.table import Array
from reverie.errors import DataError

STREAM_ABOVE = 2**30
"""Bytes in memory above which a source that can stream does so by itself."""


@dataclass
class Loaded:
    """`X` and `y` as for `infer`, or `ready` = (schema, source). `splits` are parts the source came with."""

    X: Any = None
    y: Any = None
    name: str = "data"
    ready: tuple[Schema, Source] | None = None
    splits: dict[str, Array] | None = None
    warnings: list[str] = field(default_factory=list)
    value_range: tuple[float, float] | None = None
    roles: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """The options of `load_data` that readers look at."""

    y: Any = None
    roles: Mapping[Any, str] = field(default_factory=dict)
    kinds: Mapping[Any, str] = field(default_factory=dict)
    in_memory: bool | None = None
    image_size: int | tuple[int, int] | None = None
    mode: str | None = None
    missing: tuple[str, ...] = ()
    texts: str = "lines"

    def streams(self, nbytes: int) -> bool:
        """Should a source of this many bytes in memory stay on disk?"""
        return nbytes > STREAM_ABOVE if self.in_memory is None else not self.in_memory


def join_parts(parts: Mapping[str, tuple[Any, Any]], what: str) -> tuple[Array, Array | None, dict[str, Array]]:
    """Parts given apart, {"train": (x, y), ...}, as one array, its labels (or None) and the rows of each part."""
    xs = {part: x for part, (x, _) in parts.items()}
    ys = {part: y for part, (_, y) in parts.items()}
    first = next(iter(xs.values()))
    for part, x in xs.items():
        if x.shape[1:] != first.shape[1:] or x.dtype != first.dtype:
            raise DataError(
                f"{what}: the {part} part has shape {x.shape} and type {x.dtype}, another one {first.shape} and "
                f"{first.dtype}: all parts must be alike"
            )
    unlabelled = [part for part, y in ys.items() if y is None]
    if unlabelled and len(unlabelled) < len(ys):
        raise DataError(f"{what}: the {unlabelled[0]} part has no labels, though others have: add or remove them")
    for part, y in ys.items():
        if y is not None and len(y) != len(xs[part]):
            raise DataError(f"{what}: the {part} part has {len(xs[part])} rows and {len(y)} labels")
    ends = np.cumsum([len(x) for x in xs.values()])
    splits = {part: np.arange(end - len(x), end) for (part, x), end in zip(xs.items(), ends, strict=True)}
    labels = None if unlabelled else np.concatenate(list(ys.values()))
    return np.concatenate(list(xs.values())), labels, splits
