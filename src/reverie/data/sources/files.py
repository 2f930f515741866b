"""Files of tables, arrays and text: CSV, TSV, npy, npz, txt. Plain reading: nothing is ever unpickled."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data.digests import files_digest, table_digest
from reverie.data.forms.arrays import array_column, array_field
from reverie.data.forms.conditions import infer_y
from reverie.data.forms.frames import column_options
from reverie.data.schema import Field, Schema
from reverie.data.sources.loaded import Asked, Loaded, join_parts
from reverie.data.table import Array, Table, hint
from reverie.errors import DataError

_X_KEYS = ("x", "X", "data", "images", "arr_0")
_Y_KEYS = ("y", "Y", "labels", "label", "target", "targets")
_PARTS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, MemoryError, NotImplementedError)


def stem(path: Path) -> str:
    """The file's name without its endings."""
    return path.name.split(".")[0] or path.name


def read_delimited(path: Path, asked: Asked) -> Loaded:
    """A CSV or TSV file with a header line (also .gz). Cells that mean missing: empty, NA, nan, ... and `missing`."""
    import pandas as pd

    tabs = ".tsv" in path.suffixes or ".tab" in path.suffixes
    sep = "\t" if tabs else ","
    _check_header(path, sep)
    try:
        frame = pd.read_csv(path, sep=sep, low_memory=False, na_values=list(asked.missing) or None)
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{path} is not UTF-8 text (byte {problem.start}): save it as UTF-8, or read it yourself with "
            "pd.read_csv(path, encoding=...) and give the DataFrame"
        ) from None
    except (pd.errors.ParserError, ValueError) as problem:
        raise DataError(f"{path} cannot be read as a table: {str(problem).strip()}") from None
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} is damaged: {problem}") from None
    if len(frame) == 0:
        raise DataError(f"{path} has a header but no rows")
    _check_mixed(frame, path, asked)
    return Loaded(frame, name=stem(path))


def _check_header(path: Path, sep: str) -> None:
    import csv

    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=sep)
            names, first = next(lines, []), next(lines, [])
    except UnicodeDecodeError:
        return  # told by the reader, with the byte
    except (OSError, EOFError, zlib.error, csv.Error) as problem:
        raise DataError(f"{path} is damaged: {problem}") from None
    if not names:
        raise DataError(f"{path} is empty: a table needs a header line and rows")
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(f"{path}: two columns are called {name!r}: rename one in the header")
    if len(first) > len(names):
        raise DataError(
            f"{path}: the first row has {len(first)} cells and the header {len(names)} names: name every column"
        )
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        mark = next(mark for mark in ";\t|" if mark in names[0])
        raise DataError(
            f"{path} is separated by {mark!r}: read it with pd.read_csv(path, sep={mark!r}) and give the DataFrame"
        )
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path}: the first line holds numbers ({', '.join(names[:4])}), but a header with column names is needed: "
            "add one, or give np.loadtxt(path, delimiter=',')"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_mixed(frame: Any, path: Path, asked: Asked) -> None:
    """A column that is mostly numbers with some text in it is a mistake more often than a category."""
    import pandas as pd

    told = {str(key) for key in asked.kinds} | {str(key) for key in asked.roles}
    for name in frame.columns:
        series = frame[name]
        if str(name) in told or not (series.dtype == object or isinstance(series.dtype, pd.StringDtype)):
            continue
        present = series.dropna()
        numbers = pd.to_numeric(present, errors="coerce").notna()
        if len(present) and 0.5 < float(numbers.mean()) < 1:
            row = int(np.argmax((~numbers).to_numpy()))
            raise DataError(
                f"{path}: column {name!r} mixes numbers and text: {int((~numbers).sum())} of {len(present)} cells are no "
                f"numbers, such as {present.iloc[row]!r} in row {present.index[row]}. Mend them, give "
                f"missing=({str(present.iloc[row])!r},) if that means missing, or kinds={{{name!r}: 'category'}}"
            )


TEXTS = ("lines", "paragraphs", "whole")


def read_text(path: Path, asked: Asked) -> Loaded:
    """A text file, UTF-8 (also .gz): an example per line, per paragraph (those are apart by empty lines), or the whole."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 text (byte {problem.start}): save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} is damaged: {problem}") from None
    if not text.strip():
        raise DataError(f"{path} has no lines with text: give one example per line")
    if asked.texts == "whole":
        return Loaded([text], name=stem(path))
    if asked.texts == "paragraphs":
        return Loaded(
            [part.strip("\n") for part in re.split(r"\n(?:[ \t]*\n)+", text) if part.strip()], name=stem(path)
        )
    lines = text.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    kept = [line for line in lines if line.strip()]
    skipped = len(lines) - len(kept)
    told = [f"{skipped} empty lines of {path.name} were skipped"] if skipped else []
    if skipped > max(len(kept) // 20, 1):
        told[0] += "; where the file is prose, texts='paragraphs' or 'whole' keeps its lines together"
    return Loaded(kept, name=stem(path), warnings=told)


def _refuse_objects(path: Path, problem: Exception, what: str = "") -> DataError:
    if "pickle" in str(problem).lower() or "object" in str(problem).lower():
        return DataError(
            f"{path}{what} holds pickled Python objects, which are never loaded because unpickling can run any code: "
            "save plain arrays of numbers instead"
        )
    return DataError(
        f"{path}{what} is damaged or no numpy file: {str(problem).splitlines()[0] if str(problem) else problem!r}"
    )


def read_npy(path: Path, asked: Asked) -> Loaded:
    """A .npy file; above the threshold (or with in_memory=False) it stays on disk, memory-mapped."""
    mapped = _map(path)
    if not asked.streams(mapped.nbytes):
        return Loaded(np.array(mapped), name=stem(path))
    if isinstance(asked.y, str):
        raise DataError(f"y={asked.y!r} names a column, but {path} is an array: give the labels themselves")
    column_options(asked.roles, "roles", [])
    kinds = column_options(asked.kinds, "kinds", ["x", "y"])
    field = array_field(mapped, dtype=str(mapped.dtype), kind=kinds.get("x"))
    fields, extra = [field], {}
    if asked.y is not None:
        beside = infer_y(asked.y, len(mapped), taken=["x"], kinds={k: v for k, v in kinds.items() if k != "x"})
        fields += beside
        extra = {item.name: column for item, column in beside.items()}
    schema = Schema(tuple(fields), "images" if field.kind == "image" else "array")
    return Loaded(ready=(schema, NpySource(path, field, Table(extra, len(mapped)))), name=stem(path))


def _map(path: Path) -> Array:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except _DAMAGE as problem:
        raise _refuse_objects(path, problem) from None
    if not isinstance(mapped, np.ndarray):
        raise DataError(f"{path} is no .npy file: rename it to what it is (.npz?)")
    return mapped


class NpySource:
    """Rows of a memory-mapped .npy file, with labels held in memory."""

    in_memory = False

    def __init__(self, path: Path, field: Field, extra: Table) -> None:
        self.path, self.field, self.extra, self.n = path, field, extra, extra.n
        self._mapped: Array | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}

    def take(self, index: Array) -> Table:
        if self._mapped is None:
            self._mapped = _map(self.path)
        if len(self._mapped) != self.n:
            raise DataError(f"{self.path} has changed: it had {self.n} rows and now has {len(self._mapped)}")
        # Read in the order of the file, then put in the order asked for.
        order = np.argsort(index, kind="stable")
        rows = np.empty((len(index), *self._mapped.shape[1:]), self._mapped.dtype)
        rows[order] = self._mapped[index[order]]
        return self.extra.take(index).with_columns({self.field.name: array_column(self.field, rows)})

    def fingerprint(self) -> str:
        return files_digest([self.path]) + table_digest(Schema(()), [self.extra])


def read_npz(path: Path, asked: Asked) -> Loaded:
    """A .npz archive with x (and y), or x_train, y_train, x_test, ... whose parts are kept as splits.

    `asked.y` may name the key that holds the labels.
    """
    with path.open("rb") as file:  # numpy leaves a path it opened itself open when the archive is damaged
        try:
            archive = np.load(file, allow_pickle=False)
        except _DAMAGE as problem:
            raise _refuse_objects(path, problem) from None
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} is a .npy file with another ending: rename it to .npy")
        with archive:
            keys = list(archive.files)

            def get(key: str) -> Array:
                try:
                    entry = archive[key]
                    if not isinstance(entry, np.ndarray):
                        raise ValueError("the entry is no array")
                    return entry
                except _DAMAGE as problem:
                    raise _refuse_objects(path, problem, f", entry {key!r},") from None

            used: list[str] = []
            parts = _npz_parts(keys, get, used)
            if parts:
                X, y, splits = join_parts(parts, str(path))
            else:
                key = next((key for key in _X_KEYS if key in keys), None)
                if key is None:
                    raise DataError(
                        f"{path} has the entries {', '.join(keys[:12]) or 'none'}, but x, X or data (with y or labels), or "
                        "x_train, y_train, x_test, y_test are expected: save it so, or give np.load(path)['...'] itself"
                    )
                label = asked.y if isinstance(asked.y, str) else next((name for name in _Y_KEYS if name in keys), None)
                if label is not None and label not in keys:
                    raise DataError(f"{path}: y={label!r} is no entry{hint(label, keys)} Entries: {', '.join(keys)}")
                X, y, splits = get(key), get(label) if label is not None else None, {}
                used += [key, label or key]
    unused = [key for key in keys if key not in used]
    told = [f"entries of {path.name} that were not used: {', '.join(unused[:8])}"] if unused else []
    return Loaded(X, y, stem(path), splits=splits or None, warnings=told)


def _npz_parts(keys: list[str], get: Callable[[str], Array], used: list[str]) -> dict[str, tuple[Array, Array | None]]:
    found: dict[str, tuple[Array, Array | None]] = {}
    for part, endings in _PARTS.items():
        x = next((f"{x}_{end}" for end in endings for x in ("x", "X") if f"{x}_{end}" in keys), None)
        y = next((f"{y}_{end}" for end in endings for y in ("y", "Y") if f"{y}_{end}" in keys), None)
        if x is not None:
            found[part] = (get(x), get(y) if y is not None else None)
            used += [x, y or x]
    return found
