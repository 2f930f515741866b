"""Configuration files: JSON or YAML, in sections or flat, every key checked by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie.errors import InvalidOption, MissingExtra, did_you_mean

_RUN_ONLY = frozenset({"format", "kind", "schema", "world", "checksum"})
_SECTIONS = ("estimator", "training", "data")


@dataclass
class Settings:
    """What a configuration file says about a fit."""

    family: str | None = None
    source: str | None = None
    seed: int | None = None
    out: str | None = None
    estimator: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def read_file(path: str) -> dict[str, Any]:
    """The object in a JSON or YAML file. Raises `InvalidOption`, or `MissingExtra` for YAML without its package."""
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InvalidOption(f"--config {path}: cannot be read: {reason}") from None
    try:
        if file.suffix.lower() in (".yaml", ".yml"):
            document = _yaml(text)
        elif file.suffix.lower() == ".json":
            document = json.loads(text)
        else:
            raise InvalidOption(f"--config {path}: a configuration file ends in .json, .yaml or .yml")
    except json.JSONDecodeError as error:
        raise InvalidOption(f"--config {path}: not valid JSON: {error.msg} at line {error.lineno}") from None
    except _YAMLError as error:
        raise InvalidOption(f"--config {path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict):
        raise InvalidOption(f"--config {path}: expected an object with options, got {type(document).__name__}")
    return document


class _YAMLError(Exception):
    """What the YAML reader found wrong."""


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingExtra("a YAML configuration needs the package pyyaml: pip install reverie[yaml]") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise _YAMLError(f"{getattr(error, 'problem', None) or error}{where}") from None


def sort(
    document: Mapping[str, Any], path: str, *, estimator: Iterable[str], training: Iterable[str], data: Iterable[str]
) -> Settings:
    """Sort the keys of a configuration into recipe, training and data. A run's own config.json is one, too.

    Keys may stand in the sections `estimator`, `training`, `data`, or flat at the top. Raises `InvalidOption` for an
    unknown key, with the closest known one.
    """
    known = {"estimator": set(estimator), "training": set(training), "data": {*data, "source"}}
    out = Settings()
    is_run = document.get("kind") == "run"
    for key, value in document.items():
        name = str(key).replace("-", "_")
        if is_run and name in _RUN_ONLY:
            continue
        if name in ("family", "seed", "out"):
            _check(name, value, path)
            setattr(out, name, value)
        elif name == "data" and isinstance(value, str):
            out.source = value
        elif name in _SECTIONS:
            _section(out, name, value, known[name], path, is_run)
        else:
            home = [section for section in _SECTIONS if name in known[section]]
            if not home:
                everything = {*_SECTIONS, "family", "seed", "out"}.union(*known.values())
                raise InvalidOption(f"--config {path}: {name}: no such option{did_you_mean(name, everything)}")
            _set(out, home[0], name, value)
    return out


def _section(out: Settings, section: str, value: Any, known: set[str], path: str, is_run: bool) -> None:
    if section == "data" and is_run:
        value = (value or {}).get("source") or {}
    if not isinstance(value, Mapping):
        raise InvalidOption(f"--config {path}: {section}: expected an object with options, got {value!r}")
    for key, item in value.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise InvalidOption(f"--config {path}: {section}.{name}: no such option{did_you_mean(name, known)}")
        _set(out, section, name, item)


def _set(out: Settings, section: str, name: str, value: Any) -> None:
    if section == "data" and name == "source":
        out.source = value
    elif section == "training" and name == "out":
        out.out = value
    else:
        getattr(out, section)[name] = value


def _check(name: str, value: Any, path: str) -> None:
    wanted = int if name == "seed" else str
    if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
        raise InvalidOption(
            f"--config {path}: {name}: expected {'a whole number' if wanted is int else 'text'}, got {value!r}"
        )
