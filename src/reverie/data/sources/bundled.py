"""Sets that go by a name: scikit-learn's, the toys, and MNIST and Fashion-MNIST from a folder or the hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data.sources import toys
from reverie.data.sources.files import read_npz
from reverie.data.sources.idx import image_files, read_idx
from reverie.data.sources.loaded import Asked, Loaded, join_parts
from reverie.errors import DataError, MissingExtra, ReverieError

_TABLES = ("iris", "wine", "breast_cancer", "diabetes")
_TOYS: dict[str, Callable[[], Any]] = {"two_moons": toys.two_moons, "ring8": toys.ring8, "grid25": toys.grid25}
_LOCAL = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
NAMES = ("digits", *_TABLES, *_TOYS, *_LOCAL)
_HUB_PARTS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}


def read_named(name: str, asked: Asked, root: str | Path | None) -> Loaded:
    """One of `NAMES`. `root` (or the environment's REVERIE_DATA) is where mnist and fashion_mnist are looked for."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        return Loaded(found.images.astype(np.uint8), np.asarray(found.target), name, value_range=(0.0, 16.0))
    if name in _TABLES:
        return _table(name, asked)
    if name in _TOYS:
        return Loaded(_TOYS[name](), name=name)
    return _local(name, asked, root)


def _table(name: str, asked: Asked) -> Loaded:
    """A DataFrame with the column `target`: class names as the condition, or for diabetes a number of role target."""
    import pandas as pd
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = found.frame
    if name == "diabetes":
        return Loaded(frame, name=name, roles={"target": "target"})
    frame["target"] = pd.Categorical.from_codes(frame["target"], categories=[str(c) for c in found.target_names])
    other = asked.y is not None or "target" in {str(key) for key in asked.roles}
    return Loaded(frame, name=name, roles={} if other else {"target": "condition"})


def _local(name: str, asked: Asked, root: str | Path | None) -> Loaded:
    given = root if root is not None else os.environ.get("REVERIE_DATA")
    looked: list[str] = []
    if given is not None:
        folder = Path(given).expanduser()
        if not folder.exists():
            raise DataError(f"root: {folder} does not exist: give the folder that holds {name}.npz or its IDX files")
        for path in _places(folder, name):
            looked.append(str(path))
            if path.is_file():
                return _called(read_npz(path, asked), name)
            if path.is_dir() and image_files(path):
                return _called(read_idx(path), name)
    try:
        return _called(read_hub(_LOCAL[name], asked), name)
    except ReverieError as problem:
        where = f"looked for {', '.join(looked)}" if looked else "no folder was given"
        raise DataError(
            f"{name} was not found: {where}; the hub could not be used either ({problem}). Put {name}.npz (with x_train, "
            f"y_train, x_test, y_test) or the IDX files into a folder and give it, load_data({name!r}, root='folder'), or "
            "set the environment variable REVERIE_DATA to it"
        ) from None


def _called(loaded: Loaded, name: str) -> Loaded:
    loaded.name = name
    return loaded


def _places(folder: Path, name: str) -> list[Path]:
    """Where the set may be below the folder: an archive, a folder of IDX files, or (mnist) the folder itself."""
    names = [name, name.replace("_", "-"), "MNIST" if name == "mnist" else "FashionMNIST"]
    places = [folder / f"{one}.npz" for one in names[:2]]
    for one in names:
        places += [folder / one, folder / one / "raw"]
    its_own = any(one.lower() == folder.name.lower() for one in names) or name == "mnist"
    return [*places, folder] if its_own else places


def read_hub(name: str, asked: Asked) -> Loaded:
    """A data set of the Hugging Face hub, `owner/name` or `owner/name:configuration`; its splits are kept.

    A set with an image column gives images, labelled by its class column; any other a DataFrame.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra("data sets from the hub need the package datasets: pip install reverie[hub]") from None
    repository, _, configuration = name.partition(":")
    try:
        found = datasets.load_dataset(repository, *([configuration] if configuration else []))
    except Exception as problem:  # the hub client has no common error class
        raise DataError(f"hf:{name} could not be loaded: {type(problem).__name__}: {problem}") from None
    parts = {_HUB_PARTS.get(str(part), ""): found[part] for part in found}
    parts = {part: parts[part] for part in ("train", "valid", "test") if part in parts}
    if not parts:
        raise DataError(f"hf:{name} has the splits {', '.join(map(str, found))}: none is train, validation or test")
    features = next(iter(parts.values())).features
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    image = next((column for column, kind in kinds.items() if kind == "Image"), None)
    label = next((column for column, kind in kinds.items() if kind == "ClassLabel"), None)
    short = repository.split("/")[-1]
    if image is None:
        return _hub_frame(parts, features, kinds, short)
    arrays: dict[str, tuple[Any, Any]] = {}
    for part, rows in parts.items():
        pictures = [np.asarray(picture) for picture in rows[image]]
        if len({picture.shape for picture in pictures}) != 1:
            raise DataError(f"hf:{name}: the pictures differ in size: save them to a folder and give image_size")
        arrays[part] = (np.stack(pictures), np.asarray(rows[label]) if label else None)
    X, y, splits = join_parts(arrays, f"hf:{name}")
    return Loaded(X, y, short, splits=splits)


def _hub_frame(parts: dict[str, Any], features: Any, kinds: dict[str, str], name: str) -> Loaded:
    import pandas as pd

    frames = [rows.to_pandas() for rows in parts.values()]
    frame = pd.concat(frames, ignore_index=True)
    for column, kind in kinds.items():
        if kind == "ClassLabel":
            codes = frame[column].fillna(-1).astype(int)
            frame[column] = pd.Categorical.from_codes(codes, categories=list(features[column].names))
    ends = np.cumsum([len(one) for one in frames])
    splits = {part: np.arange(end - len(one), end) for part, one, end in zip(parts, frames, ends, strict=True)}
    return Loaded(frame, name=name, splits=splits)
