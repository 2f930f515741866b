"""`reverie sample`: examples from a trained model, to a picture, a table, an array or the terminal."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

from reverie.cli.app import OK
from reverie.cli.flags import COMMON, JSON, QUIET, Flag, Parsed, parse
from reverie.cli.screen import Screen, plain
from reverie.errors import CheckpointError, InvalidOption, did_you_mean

RUN = Flag("run", str | None, None, "A run folder or a saved model.", "arguments", positional=True, metavar="RUN")
FLAGS = [
    RUN,
    Flag("n", int, 64, "How many examples.", COMMON, aliases=("-n",)),
    Flag(
        "out",
        str | None,
        None,
        "Where to: .png (a grid of pictures), .csv (a table), .npy, .npz, or a folder. Without it tables go to stdout.",
        COMMON,
        metavar="FILE",
    ),
    Flag(
        "y",
        tuple[str, ...],
        (),
        "The value to condition on: one for all, or one for each example.",
        COMMON,
        fallback="as often as in training",
    ),
    Flag(
        "given",
        tuple[str, ...],
        (),
        "Columns to fix, as in --given city=Rome age=40; the others are drawn given these.",
        COMMON,
        metavar="COLUMN=VALUE",
    ),
    Flag("seed", int | None, None, "Seed; the same seed gives the same examples.", COMMON),
    Flag("columns", int | None, None, "Pictures in a row of the grid.", COMMON),
    QUIET,
    JSON,
]
PROG = "reverie sample"


def run(argv: list[str], screen: Screen) -> int:
    """Exit code 0 when the examples are written."""
    path = argv[0] if argv and not argv[0].startswith("-") else None
    if path is None:
        parse(FLAGS, argv, prog=PROG, description="Draw examples from a trained model.")
        raise InvalidOption("reverie sample: give the run first, as in reverie sample runs/digits -n 64")
    from reverie import store

    model = store.load(path)
    own = family_flags(model)
    parsed = parse([*FLAGS, *own], argv, prog=PROG, description=f"Draw examples from {path} ({model.family}).")
    n, out = parsed["n"], parsed["out"]
    target = None if out is None else Path(out)
    kind = _kind(model, out)
    y = condition(model, parsed["y"]) if parsed["y"] else None
    given = fixed(model, parsed["given"]) if parsed["given"] else None
    examples, labels = model.sample(n, y=y, seed=parsed["seed"], return_y=True, given=given, **parsed.typed(own))
    document: dict[str, Any] = {"family": model.family, "n": n, "seed": parsed["seed"], "out": out}
    if target is None:
        text = _csv(model, examples, labels)
        document["samples"] = _records(model, examples, labels)
        screen.result(document, text)
        return OK
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[kind](model, examples, labels, target, parsed)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror or error}") from None
    screen.result(document, f"{n} examples in {target}")
    return OK


def family_flags(model: Any) -> list[Flag]:
    """The family's sampling options as flags, from the signature of its network's `sample`."""
    method = type(model.network).sample
    hints, parameters = typing.get_type_hints(method), inspect.signature(method).parameters
    text = inspect.cleandoc(method.__doc__ or "").replace("\n", " ")
    return [
        Flag(name.replace("_", "-"), hints[name], parameters[name].default, text, model.family)
        for name in model.sample_options
    ]


def condition(model: Any, words: tuple[str, ...]) -> Any:
    """What was typed after --y as the model's y: class labels by their text, or numbers."""
    fields = model.schema.conditions
    if not fields:
        raise InvalidOption(f"--y: this {model.family} was trained without y. Leave --y out")
    if len(fields) == 1:
        return _values(fields[0], words)
    typed: dict[str, list[str]] = {}
    names = [field.name for field in fields]
    for word in words:
        name, found, value = word.partition("=")
        if not found or name not in names:
            raise InvalidOption(
                f"--y: y consists of the columns {', '.join(names)}: give {' '.join(f'{n}=...' for n in names)}"
            )
        typed.setdefault(name, []).append(value)
    return {field.name: _values(field, tuple(typed[field.name])) for field in fields if field.name in typed}


def fixed(model: Any, words: tuple[str, ...]) -> dict[Any, Any]:
    """What was typed after --given as `given`: column names (numbers of columns for an array) and their values."""
    fields = {field.name: field for field in model.schema.data_fields}
    frame = model.schema.container == "dataframe"
    out: dict[Any, Any] = {}
    for word in words:
        name, found, value = word.partition("=")
        known = name in fields if frame else name.isdigit()
        if not found or not known:
            close = did_you_mean(name, fields) if frame else ""
            raise InvalidOption(
                f"--given: expected COLUMN=VALUE, got {word!r}{close or '.'} Columns: {', '.join(fields)}"
            )
        field = fields[name] if frame else next(iter(fields.values()))
        if field.kind == "datetime":
            import pandas as pd

            out[field.column_name] = pd.to_datetime(pd.Series([value]))
        elif field.kind in ("category", "boolean") and not field.shape:
            out[field.column_name] = _values(field, (value,), flag="--given")
        else:
            out[field.column_name if frame else int(name)] = _numbers((value,), 0, flag="--given")
    return out


def _values(field: Any, words: tuple[str, ...], flag: str = "--y") -> Any:
    """The words typed for one condition column as its values."""
    if field.kind == "text":
        return words[0] if len(words) == 1 else list(words)
    if field.kind in ("image", "sequence"):
        raise InvalidOption(f"--y: {field.name!r} is a {field.kind}, which cannot be typed: sample from Python, y=...")
    if field.kind == "category":
        by_text = {str(value): value for value in field.categories or ()}
    elif field.kind == "boolean":
        by_text = {"True": True, "False": False, "true": True, "false": False, "1": True, "0": False}
    else:
        return _numbers(words, field.width if field.shape else 0)
    for word in words:
        if word not in by_text:
            shown = ", ".join(list(by_text)[:20])
            raise InvalidOption(f"{flag}: no class {word!r}{did_you_mean(word, by_text) or '.'} Classes: {shown}")
    values = [by_text[word] for word in words]
    return values[0] if len(values) == 1 else values


def _numbers(words: tuple[str, ...], width: int, flag: str = "--y") -> Any:
    import numpy as np

    try:
        values = np.array([[float(part) for part in word.split(",")] for word in words])
    except ValueError:
        raise InvalidOption(f"{flag}: expected numbers, got {' '.join(words)!r}") from None
    if values.shape[1] != max(width, 1):
        raise InvalidOption(f"{flag}: expected {max(width, 1)} numbers with commas between, got {words[0]!r}")
    if width:
        return values[0] if len(values) == 1 else values
    return float(values[0, 0]) if len(values) == 1 else values[:, 0]


def _pictures(model: Any) -> bool:
    return any(field.kind == "image" for field in model.schema.data_fields)


def _kind(model: Any, out: str | None) -> str:
    """How to write, from the file's ending and what the model makes; refused before anything is drawn."""
    if out is None:
        if _pictures(model):
            raise InvalidOption("--out: pictures need a file, as in --out grid.png (or .npy, .npz, a folder/)")
        return "csv"
    suffix = Path(out).suffix.lower()
    kind = "folder" if out.endswith("/") or Path(out).is_dir() or not suffix else suffix.removeprefix(".")
    if kind not in _WRITERS:
        raise InvalidOption(f"--out {out}: files ending in {suffix} are not written. Known: {', '.join(_WRITERS)}")
    if kind == "csv" and _pictures(model):
        raise InvalidOption(f"--out {out}: pictures do not go into a table; use .png, .npy, .npz or a folder/")
    if kind == "png" and not _pictures(model) and not _points(model):
        raise InvalidOption(f"--out {out}: only pictures and points in the plane can be drawn; use .csv, .npy or .npz")
    return kind


def _points(model: Any) -> bool:
    fields = model.schema.data_fields
    return sum(max(field.width, 1) for field in fields) == 2 and {f.kind for f in fields} <= {"number", "integer"}


def _frame(model: Any, examples: Any, labels: Any) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(examples, pd.DataFrame):
        frame = examples.copy()
    else:
        values = examples.numpy() if hasattr(examples, "numpy") else np.asarray(examples)
        names = [field.name for field in model.schema.data_fields]
        flat = values.reshape(len(values), -1)
        names = names if len(names) == flat.shape[1] else [f"{names[0]}{i}" for i in range(flat.shape[1])]
        frame = pd.DataFrame(flat, columns=names)
    return frame if labels is None else _with_labels(model, frame, labels)


def _with_labels(model: Any, columns: Any, labels: Any) -> Any:
    """A data frame of these columns and those of y that fit into cells."""
    import pandas as pd

    frame = pd.DataFrame(columns)
    for field in model.schema.conditions:
        values = labels[field.column_name] if isinstance(labels, pd.DataFrame) else labels
        if field.kind not in ("image", "sequence") and not field.shape:
            frame[field.column_name] = list(values)
    return frame


def _csv(model: Any, examples: Any, labels: Any) -> str:
    return str(_frame(model, examples, labels).to_csv(index=False))


def _records(model: Any, examples: Any, labels: Any) -> Any:
    return plain(_frame(model, examples, labels).astype(object).to_dict(orient="records"))


def _array(examples: Any) -> Any:
    import numpy as np

    array = np.asarray(examples)
    if array.dtype == object:
        raise InvalidOption(
            "--out: these columns are not all numbers: use .csv or .npz, which keeps each column's type"
        )
    return array


def _write_csv(model: Any, examples: Any, labels: Any, target: Path, parsed: Parsed) -> None:
    target.write_text(_csv(model, examples, labels), encoding="utf-8")


def _write_npy(model: Any, examples: Any, labels: Any, target: Path, parsed: Parsed) -> None:
    import numpy as np

    np.save(target, _array(examples), allow_pickle=False)


def _write_npz(model: Any, examples: Any, labels: Any, target: Path, parsed: Parsed) -> None:
    import numpy as np

    if hasattr(examples, "columns"):
        arrays = {str(name): np.asarray(examples[name]) for name in examples.columns}
        arrays = {name: values.astype(str) if values.dtype == object else values for name, values in arrays.items()}
    else:
        arrays = {"x": _array(examples)}
    if labels is not None:
        for field in model.schema.conditions:
            values = np.asarray(labels[field.column_name] if hasattr(labels, "columns") else labels)
            name = "y" if field.name in arrays else field.name
            arrays[name] = values.astype(str) if values.dtype == object else values
    np.savez_compressed(target, allow_pickle=False, **arrays)


def _write_png(model: Any, examples: Any, labels: Any, target: Path, parsed: Parsed) -> None:
    from reverie.data import pictures

    if _pictures(model):
        high, low = picture_range(model)
        target.write_bytes(pictures.grid_png(examples, high, parsed["columns"], low=low))
    else:
        target.write_bytes(pictures.scatter_png(_array(examples).reshape(len(examples), 2)))


def picture_range(model: Any) -> tuple[float | None, float]:
    """Highest and lowest pixel value of the model's pictures."""
    field = model.schema.data_fields[0]
    return field.high, 0.0 if field.low is None else field.low


def _write_folder(model: Any, examples: Any, labels: Any, target: Path, parsed: Parsed) -> None:
    from reverie.data import pictures

    target.mkdir(parents=True, exist_ok=True)
    if not _pictures(model):
        _write_csv(model, examples, labels, target / "samples.csv", parsed)
        return
    high, low = picture_range(model)
    digits = len(str(max(len(examples) - 1, 0)))
    for number, picture in enumerate(pictures.to_uint8(examples, high, low)):
        (target / f"{number:0{digits}d}.png").write_bytes(pictures.png(picture))
    if labels is not None:
        files = {"file": [f"{number:0{digits}d}.png" for number in range(len(examples))]}
        _with_labels(model, files, labels).to_csv(target / "labels.csv", index=False)


_WRITERS = {"png": _write_png, "csv": _write_csv, "npy": _write_npy, "npz": _write_npz, "folder": _write_folder}
