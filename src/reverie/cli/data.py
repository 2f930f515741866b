"""The flags of `load_data`, and reading what they name."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reverie.cli.flags import Flag, Parsed
from reverie.data.dataset import Dataset
from reverie.data.sources.bundled import NAMES
from reverie.data.sources.load import load_data
from reverie.errors import InvalidOption

GROUP = "data"
Pairs = tuple[str, ...]

_HELP: dict[str, str] = {
    "y": "Column to condition on, or none to leave out the labels that the data came with.",
    "roles": "Roles of columns: data, condition, target, weight, group, time, id or ignore.",
    "kinds": "Kinds of columns: number, integer, category, boolean, datetime, image, sequence or text.",
    "columns": "Where numbers can lie: real, positive, non-negative, negative, heavy-tailed, or LOW:HIGH.",
    "rules": 'What rows keep: auto, none, rules such as "start <= end" or "total = net + tax", "not ..." for one less.',
    "split": "How rows are split into parts: random, group, time or none.",
    "fractions": "Shares of train and test, or of train, valid and test.",
    "group": "Column whose groups stay whole in one part.",
    "time": "Column by which the earliest rows train.",
    "seed": "Seed of the split and of --max-rows.",
    "root": "Folder with mnist or fashion_mnist.",
    "max_rows": "A random sample of at most so many rows.",
    "in_memory": "Hold the data in memory, or stream them from disk; by default by size.",
    "image_size": "Resize the pictures of a folder to so many pixels, or to height and width.",
    "mode": "Convert the pictures of a folder: L, LA, RGB or RGBA.",
    "missing": "Cells of a CSV that mean missing, besides the usual ones.",
    "sequences": "Rows are steps of the sequences that this column names, sorted by --time; all: one sequence.",
    "texts": "What an example of a text file is: lines, paragraphs or whole.",
}
_HINTS: dict[str, Any] = {
    "y": str | None,
    "roles": Pairs,
    "kinds": Pairs,
    "columns": Pairs,
    "rules": Pairs,
    "fractions": tuple[float, ...],
    "missing": Pairs,
}
_NAMES = {"seed": "split-seed"}
_METAVARS = {
    "roles": "COLUMN=ROLE ...",
    "kinds": "COLUMN=KIND ...",
    "columns": "COLUMN=SUPPORT ...",
    "rules": "RULE ...",
    "y": "COLUMN",
    "group": "COLUMN",
    "time": "COLUMN",
    "sequences": "COLUMN",
}


def data_flags() -> list[Flag]:
    """One flag for each argument of `load_data` but the source."""
    hints = typing.get_type_hints(load_data)
    out = []
    for name, parameter in inspect.signature(load_data).parameters.items():
        if name == "source":
            continue
        hint = _HINTS.get(name, hints[name])
        hint = str | None if hint == str | Path | None else hint
        default = parameter.default
        if hint == Pairs:
            default = () if default is None else (default,) if isinstance(default, str) else default
        flag = Flag(
            _NAMES.get(name, name.replace("_", "-")),
            hint,
            default,
            _HELP[name],
            GROUP,
            aliases=("--target",) if name == "y" else (),
            metavar=_METAVARS.get(name),
            fallback="none" if hint == Pairs else "",
        )
        out.append(flag)
    return out


def arguments() -> list[str]:
    """The names of `load_data`'s arguments."""
    return list(inspect.signature(load_data).parameters)


def source_flag(help: str = "") -> Flag:
    """The positional that says which data."""
    text = f"A path, or one of {', '.join(NAMES)}, hf:owner/name. {help}".rstrip()
    return Flag("data", str | None, None, text, "arguments", positional=True, metavar="DATA")


def data_arguments(parsed: Parsed, flags: list[Flag]) -> dict[str, Any]:
    """What was typed, as arguments of `load_data`."""
    out = parsed.typed(flags)
    if "split_seed" in out:
        out["seed"] = out.pop("split_seed")
    for name in ("roles", "kinds", "columns"):
        if name in out:
            out[name] = _pairs(name, out[name])
    if "columns" in out:
        out["columns"] = {column: _support(wish) for column, wish in out["columns"].items()}
    if out.get("rules") == ("none",):
        out["rules"] = None
    for name in ("y", "split"):
        if out.get(name) == "none":
            out[name] = False if name == "y" else None
    return out


def _pairs(flag: str, words: tuple[str, ...]) -> dict[str, str]:
    out = {}
    for word in words:
        column, equals, value = word.rpartition("=")
        if not equals or not column or not value:
            raise InvalidOption(f"--{flag}: expected column={flag[:-1]}, got {word!r}")
        out[column] = value
    return out


def _support(wish: str) -> Any:
    """A word as it is, LOW:HIGH as two numbers, of which one may be left out."""
    if ":" not in wish:
        return wish
    try:
        low, high = (float(end) if end else None for end in wish.split(":"))
    except ValueError:
        raise InvalidOption(f"--columns: expected LOW:HIGH, got {wish!r}") from None
    return (low, high)


def read(source: str, arguments: Mapping[str, Any]) -> Dataset:
    """`load_data` with these arguments."""
    return load_data(source, **arguments)


def asked_for_y(arguments: Mapping[str, Any]) -> bool:
    """Did the user name a condition?"""
    return bool(arguments.get("y")) or "condition" in dict(arguments.get("roles") or {}).values()
