"""`load_data`: anything with examples in it, from a name, a path or memory, as a `Dataset`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data.dataset import Dataset
from reverie.data.forms.conditions import infer_y
from reverie.data.forms.long import infer_long
from reverie.data.forms.reading import data_warnings, infer, is_frame, read_table, step_lengths
from reverie.data.schema import Schema
from reverie.data.sources.bundled import NAMES, read_hub, read_named
from reverie.data.sources.files import TEXTS, read_delimited, read_npy, read_npz, read_text
from reverie.data.sources.idx import image_files, is_idx, read_idx
from reverie.data.sources.images import ENDINGS, read_folder
from reverie.data.sources.loaded import Asked, Loaded
from reverie.data.sources.parquet import read_parquet
from reverie.data.sources.torch_sets import is_torch_dataset, read_torch
from reverie.data.splits import METHODS
from reverie.data.table import Array, hint
from reverie.errors import DataError, InvalidOption
from reverie.rng import stream

_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Bytes that a part of a path, and a path, may have."""
_READ = "csv, tsv, txt (each also .gz), parquet, npz, npy, IDX, or a folder of pictures, Parquet or IDX files"


def load_data(
    source: Any,
    y: Any = None,
    *,
    roles: Mapping[Any, str] | None = None,
    kinds: Mapping[Any, str] | None = None,
    columns: Mapping[Any, Any] | str | None = None,
    rules: Sequence[str] | str | None = "auto",
    split: str | None = "random",
    fractions: Sequence[float] = (0.8, 0.2),
    group: str | None = None,
    time: str | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    max_rows: int | None = None,
    in_memory: bool | None = None,
    image_size: int | tuple[int, int] | None = None,
    mode: str | None = None,
    missing: Sequence[str] = (),
    sequences: str | None = None,
    texts: str = "lines",
) -> Dataset:
    """Examples from a name, a path or memory, split and ready for `fit(data.train)`.

    Args:
        source: a name (digits, iris, wine, breast_cancer, diabetes, two_moons, ring8, grid25, mnist, fashion_mnist,
            `hf:owner/name`), a path (CSV, TSV, txt, Parquet, npz, npy, IDX; a folder of pictures), or a DataFrame,
            array, tensor, list of texts or arrays, torch Dataset. A name wins over a file; say `./digits` for the file. A
            string with a line break, or longer than a path may be, is a text itself.
        y: labels or numbers, one per row, or the name of a column or npz entry; False leaves out the labels that the
            source came with.
        roles, kinds: per column, see `infer`. columns: where values can lie, see `Dataset.supporting`. rules: see
            `Dataset.keeping`. A column named by `group` or `time` gets that role.
        split: random, group or time; None for no parts. A set that comes with parts keeps them unless group or time
            is asked for; columns of role group or time are used when there are any.
        fractions: (train, test) or (train, valid, test). seed: of the split and of `max_rows`.
        root: where mnist and fashion_mnist lie (default: the environment variable REVERIE_DATA).
        max_rows: a random sample of at most so many rows.
        in_memory: False streams picture folders, Parquet and npy from disk; None does so above 1 GB.
        image_size, mode: resize (pixels or (height, width)) and convert (L, LA, RGB, RGBA) the pictures of a folder.
        missing: cells of a CSV that mean missing, besides the usual ones.
        sequences: the rows of a table are the steps of sequences that this column names, sorted by `time`; `all` when
            they are one sequence. See `reverie.sequences`.
        texts: what an example of a text file is: each of its `lines`, its `paragraphs`, or the `whole` file, which is
            split by cutting it (its beginning trains).

    Raises:
        DataError: what cannot be read, with file, column, row and what to do. InvalidOption: a wrong option.
        MissingExtra: Parquet without pyarrow, the hub without datasets.
    """
    if isinstance(source, Dataset):
        raise InvalidOption("source is a Dataset already: use data.split(...) for other parts")
    if split is not None and split not in METHODS:
        raise InvalidOption(f"split: no method {split!r}{hint(str(split), METHODS)} Methods: {', '.join(METHODS)}")
    if texts not in TEXTS:
        raise InvalidOption(
            f"texts: no way {texts!r} to read a text file{hint(str(texts), TEXTS)} Ways: {', '.join(TEXTS)}"
        )
    if max_rows is not None and (isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1):
        raise InvalidOption(f"max_rows: expected a whole number of at least 1, got {max_rows!r}")
    for what, value in (("roles", roles), ("kinds", kinds)):
        if value is not None and not isinstance(value, Mapping):
            raise DataError(f"{what}: expected a mapping from column to {what[:-1]}, got {type(value).__name__}")
    asked_roles = {str(key): value for key, value in (roles or {}).items()}
    for column, role in ((group, "group"), (time, "time")):
        if column is not None and sequences is None:
            asked_roles.setdefault(str(column), role)
    asked = Asked(
        None if y is False else y, asked_roles, dict(kinds or {}), in_memory, image_size, mode, tuple(missing), texts
    )
    loaded, order = _open([source] if is_text(source) else source, asked, root), time
    if sequences is None:
        data = _dataset(loaded, asked)
    else:
        data, time = _long(loaded, asked, sequences, time), None  # time sorts the steps; it splits nothing
    if columns is not None:
        data = data.supporting(columns)
    if rules != "auto":
        data = data.keeping(rules)
    data = _sampled(data.without_y() if y is False else data, loaded.splits, max_rows, seed)
    data = _parted(data, split, fractions, group, time, seed)
    if (isinstance(source, Path) or _names_source(source)) and (y is None or isinstance(y, str | bool)):
        given: dict[str, Any] = {
            "y": y,
            "roles": roles,
            "kinds": kinds,
            "columns": columns,
            "rules": rules,
            "split": split,
            "fractions": fractions,
            "group": group,
        }
        given |= {"time": order, "seed": seed, "root": root, "max_rows": max_rows, "in_memory": in_memory}
        given |= {"image_size": image_size, "mode": mode, "missing": missing, "sequences": sequences}
        given |= {"texts": texts}
        data.origin = _origin(source, given)
    return data


def as_dataset(
    X: Any, y: Any = None, *, roles: Mapping[Any, str] | None = None, kinds: Mapping[Any, str] | None = None
) -> Dataset:
    """Anything a user may hand to `fit`, as a Dataset.

    X: a Dataset (returned as it is), a path or name (see `load_data`, with its splits), a torch Dataset, a DataFrame,
    an array, a tensor, a list of texts or arrays (without splits). Raises `DataError` for what cannot be read.
    """
    if isinstance(X, Dataset):
        if y is not None or roles or kinds:
            raise DataError("X is a Dataset already, with its own schema: give y, roles and kinds when you make it")
        return X
    if is_text(X):
        X = [X]
    if isinstance(X, str | Path) or is_torch_dataset(X):
        return load_data(X, y, roles=roles, kinds=kinds, split="random" if isinstance(X, str | Path) else None)
    schema, table = infer(X, y, roles=roles, kinds=kinds)
    return Dataset(schema, table, warnings=data_warnings(schema, table))


def as_dataset_like(schema: Schema, X: Any, y: Any = None) -> Dataset:
    """`as_dataset` of rows that continue data of this schema: what comes without one of its own (frames, arrays, lists) is read
    by it, so that ranges of pixels and categories are the old ones though these rows may not show them all.

    Raises `SchemaMismatch` where they are other data.
    """
    own = isinstance(X, Dataset | Path) or _names_source(X) or is_torch_dataset(X)
    inside = y is not None and not schema.conditions and isinstance(y, str | int | list | tuple) and is_frame(X)
    if own or inside:
        return as_dataset(X, y)
    fresh = y is not None and not schema.conditions
    table = read_table(schema, X, None if fresh else y)
    if fresh:
        first = schema.data_fields[0]
        lengths = step_lengths(first, table[first.name])
        beside = infer_y(y, table.n, taken=schema.names, kinds={}, lengths=lengths)
        schema = dataclasses.replace(schema, fields=(*schema.fields, *beside))
        table = table.with_columns({field.name: column for field, column in beside.items()})
    return Dataset(schema, table, warnings=data_warnings(schema, table))


def is_text(source: Any) -> bool:
    """Is this a text, and not a path or a name: it has a line break, or is longer than a path (or a part of one) may be."""
    if not isinstance(source, str):
        return False
    part = max((len(part.encode()) for part in source.replace("\\", "/").split("/")), default=0)
    return "\n" in source or "\r" in source or part > _LONGEST_NAME or len(source.encode()) > _LONGEST_PATH


def _names_source(X: Any) -> bool:
    return isinstance(X, str) and not is_text(X)


def sequences(
    df: Any,
    by: str | int | None = None,
    time: str | int | None = None,
    y: str | int | None = None,
    *,
    kinds: Mapping[Any, str] | None = None,
    roles: Mapping[Any, str] | None = None,
) -> Dataset:
    """Sequences from a long DataFrame, which has a row per step: one example per value of the column `by`.

    Args:
        df: the rows, in any order. Every column that is not named here is learned from, whatever its kind (number,
            integer, category, boolean, datetime); cells may be missing.
        by: the column that names the sequences; None: all rows are one sequence.
        time: the column to sort the steps by (numbers or dates); None: the order of the rows.
        y: a column of labels, one per step; a missing label is an unlabelled step.
        kinds, roles: per column, see `infer`. Of the roles, weight and group need one value per sequence.

    Samples come back as such a DataFrame: `by` numbers the sequences from 0, and `time` counts on from the earliest
    training time when the steps are regular, else it is left out. Given rows keep their own, in the user's order.
    `sequences(...).split(...)` deals out whole sequences.

    Raises `DataError` for what cannot be read, with column, row and what to do.
    """
    if not is_frame(df):
        raise DataError(
            f"sequences: expected a long DataFrame, got a {type(df).__name__}; a list of sequences goes to fit as it is"
        )
    schema, table = infer_long(df, by=by, time=time, y=y, roles=roles, kinds=kinds)
    return Dataset(schema, table, warnings=data_warnings(schema, table))


def _origin(source: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that differ from their defaults, JSON-ready, with absolute paths."""
    defaults = {name: item.default for name, item in inspect.signature(load_data).parameters.items()}
    known = isinstance(source, str) and (source.startswith("hf:") or source in NAMES)
    out: dict[str, Any] = {"source": source if known else str(Path(source).expanduser().resolve())}
    for name, value in given.items():
        if isinstance(value, Mapping):
            value = {str(key): item for key, item in value.items()} or None
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = tuple(value)
        if value != defaults[name]:
            out[name] = str(Path(value).expanduser().resolve()) if name == "root" else value
    return {name: list(value) if isinstance(value, tuple) else value for name, value in out.items()}


def _parted(
    data: Dataset, split: str | None, fractions: Sequence[float], group: str | None, time: str | None, seed: int
) -> Dataset:
    """The parts asked for; those the source came with, unless group or time is."""
    if group is not None or time is not None:
        return data.split(fractions=fractions, group=group, time=time, seed=seed)
    if split is None:
        return data.split(None)
    if data.splits and split == "random":
        return data
    if split == "random" and data.schema.container != "long":
        split = next((role for role in ("group", "time") if data.schema.with_role(role)), "random")
    if split == "random" and len(data) < len(fractions) and not data.one_sequence:
        data.warnings.append(f"{len(data)} rows are too few to split")
        return data
    return data.split(split, fractions=fractions, seed=seed)


def _open(source: Any, asked: Asked, root: str | Path | None) -> Loaded:
    """Find the reader for a source."""
    if asked.texts != "lines" and not (isinstance(source, str | Path) and _is_text_file(Path(source))):
        raise InvalidOption("texts is for text files: this source is none")
    pictures = isinstance(source, str | Path) and Path(source).expanduser().is_dir() and source not in NAMES
    if (asked.image_size is not None or asked.mode is not None) and not pictures:
        raise InvalidOption("image_size and mode are for folders of pictures: this source is none")
    if isinstance(source, str):
        if source.startswith("hf:"):
            return read_hub(source[3:], asked)
        if source in NAMES:
            return read_named(source, asked, root)
    if isinstance(source, str | Path):
        return _open_path(source, asked)
    if is_torch_dataset(source):
        return read_torch(source)
    return Loaded(source)


def _is_text_file(path: Path) -> bool:
    last = [ending.lower() for ending in path.suffixes[-2:] if ending.lower() != ".gz"]
    return bool(last) and last[-1] in (".txt", ".text")


def _open_path(source: str | Path, asked: Asked) -> Loaded:
    path = Path(source).expanduser()
    if not str(source) or not path.exists():
        raise DataError(_absent(source, path))
    if path.is_dir():
        return _open_folder(path, asked)
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    last = endings[-2] if len(endings) > 1 and endings[-1] == ".gz" else (endings or [""])[-1]
    if is_idx(path):
        return read_idx(path)
    if last in (".csv", ".tsv", ".tab"):
        return read_delimited(path, asked)
    if last in (".txt", ".text"):
        return read_text(path, asked)
    if last in (".parquet", ".pq"):
        return read_parquet([path], path.stem, asked)
    if last == ".npz":
        return read_npz(path, asked)
    if last == ".npy":
        return read_npy(path, asked)
    if last in ENDINGS:
        raise DataError(f"{path} is a single picture: give the folder that holds the pictures")
    if last in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise DataError(f"{path} is a pickle, which can run any code and is never loaded: save a npz or Parquet file")
    raise DataError(f"{path}: files ending in {last or 'nothing'} are not read. Known: {_READ}")


def _open_folder(folder: Path, asked: Asked) -> Loaded:
    if image_files(folder):
        return read_idx(folder)
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".parquet", ".pq"))
    if tables:
        return read_parquet(tables, folder.name, asked)
    inside = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not inside:
        raise DataError(f"{folder} is an empty folder")
    readable = [name for name in inside if name.lower().endswith((".csv", ".tsv", ".npz", ".npy", ".txt", ".gz"))]
    if readable and not any(name.lower().endswith(ENDINGS) for name in inside):
        raise DataError(f"{folder} is a folder with {', '.join(readable[:6])}: give the path of one of these files")
    return read_folder(folder, asked)


def _absent(source: str | Path, path: Path) -> str:
    parent = path.parent if path.parent.is_dir() else None
    near = sorted(entry.name for entry in parent.iterdir()) if parent is not None else []
    name = hint(str(source), NAMES)
    file = hint(path.name, near)
    meant = name if name != "." else file
    where = f"no file {path}" if parent is not None else f"no file {path} (nor a folder {path.parent})"
    return f"{where}, and no data set has this name{meant} Names: {', '.join(NAMES)}, hf:owner/name"


def _dataset(loaded: Loaded, asked: Asked) -> Dataset:
    if loaded.ready is not None:
        schema, source = loaded.ready
        return Dataset(schema, source, name=loaded.name, warnings=loaded.warnings)
    y = loaded.y if loaded.y is not None and (asked.y is None or isinstance(asked.y, str)) else asked.y
    roles = {**loaded.roles, **asked.roles}
    if asked.roles and not is_frame(loaded.X):
        column = next(iter(asked.roles))
        raise DataError(f"column {column!r}: roles, group and time name columns of a table, but this source has none")
    kinds = {**loaded.kinds, **asked.kinds}
    schema, table = infer(loaded.X, y, roles=roles or None, kinds=kinds or None, value_range=loaded.value_range)
    return Dataset(schema, table, name=loaded.name, warnings=[*loaded.warnings, *data_warnings(schema, table)])


def _long(loaded: Loaded, asked: Asked, by: str, time: str | None) -> Dataset:
    """The table's rows as steps of sequences."""
    if not is_frame(loaded.X):
        raise InvalidOption("sequences: names a column of a table whose rows are steps, but this source is no table")
    column = None if by == "all" and by not in loaded.X.columns else by
    data = sequences(loaded.X, column, time, asked.y, kinds=asked.kinds or None, roles=asked.roles or None)
    data.name = loaded.name
    data.warnings = [*loaded.warnings, *data.warnings]
    return data


def _sampled(data: Dataset, splits: Mapping[str, Array] | None, max_rows: int | None, seed: int) -> Dataset:
    """At most `max_rows` rows at random, in their order, with the parts the source came with."""
    parts = dict(splits or {})
    if max_rows is not None and max_rows < len(data):
        rng = np.random.Generator(np.random.PCG64(stream(seed, "max_rows")))
        rows = np.sort(rng.choice(len(data), max_rows, replace=False))
        data = data.view(rows)
        parts = {part: np.flatnonzero(np.isin(rows, index)) for part, index in parts.items()}
        parts = {part: index for part, index in parts.items() if len(index)}
    if not parts:
        return data
    return data.with_splits(parts, {"method": "given", "seed": None, "fractions": None, "column": None})
