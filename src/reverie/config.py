"""Recipes: frozen, validated, keyword-only records that are at once the constructor, the JSON and the flags.

`@recipe` turns an annotated class into one. Nothing else in the library checks types of options.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from reverie.errors import InvalidOption, did_you_mean

T = TypeVar("T")

_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field, dataclasses.field))
def recipe(cls: type[T]) -> type[T]:
    """Make `cls` a recipe: frozen, keyword-only, validated, unknown names refused with the closest known one.

    Booleans and text are refused where a number is wanted (`latent=True` is a mistake, not 1); numpy scalars, as
    sweeps produce them, are taken as the number they are. Raises `InvalidOption`, one line per wrong option.
    """
    built: Any = pydantic_dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)
    plain_init = built.__init__
    names = [field.name for field in dataclasses.fields(built) if field.init]

    @functools.wraps(plain_init)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        title = cls.__name__
        if args:
            raise InvalidOption(f"{title}: options go by name, as in {title}({names[0] if names else 'name'}=...)")
        for name in options:
            if name not in names:
                raise InvalidOption(
                    f"{title}: {name}: no such option{did_you_mean(name, names) or '.'} Options: {', '.join(names) or 'none'}"
                )
        hints = _hints(built)
        cleaned = {name: _clean(title, name, value, hints[name]) for name, value in options.items()}
        try:
            plain_init(self, **cleaned)
        except pydantic.ValidationError as error:
            raise InvalidOption(_readable(title, error)) from None

    built.__init__ = __init__
    return typing.cast("type[T]", built)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=False)


def options(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a recipe class by name, in order."""
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def descriptions(cls: type) -> dict[str, str]:
    """Option name -> its one-paragraph description, from the string under the field, here or in a base recipe."""
    found = dict.fromkeys(options(cls), "")
    for base in reversed(cls.__mro__):
        for name, info in vars(base).get("__pydantic_fields__", {}).items():
            found[name] = (info.description or "").strip() or found[name]
    return found


def replace(recipe: T, **changes: Any) -> T:
    """A copy with some options changed, validated again."""
    return type(recipe)(**{**{name: getattr(recipe, name) for name in options(type(recipe))}, **changes})


def to_json(recipe: Any) -> Any:
    """The recipe as JSON-ready data. Nested recipes become dictionaries that carry their `type` field."""
    if dataclasses.is_dataclass(recipe) and not isinstance(recipe, type):
        return {
            name: to_json(getattr(recipe, name))
            for name, field in options(type(recipe)).items()
            if not field.metadata.get("transient")
        }
    if isinstance(recipe, tuple | list):
        return [to_json(item) for item in recipe]
    if isinstance(recipe, Mapping):
        return {str(key): to_json(value) for key, value in recipe.items()}
    if hasattr(recipe, "__recipe_json__"):
        return recipe.__recipe_json__()
    if recipe is None or isinstance(recipe, bool | int | float | str):
        return recipe
    cls = type(recipe)
    return {"type": "external", "class": f"{cls.__module__}.{cls.__qualname__}"}


def from_json(cls: type[T], data: Any) -> T:
    """Rebuild a recipe from `to_json`. Unknown keys are refused with the closest known one (`InvalidOption`)."""
    if not isinstance(data, Mapping):
        raise InvalidOption(f"{cls.__name__}: expected an object with options, got {_short(data)}")
    return cls(**{str(key): value for key, value in data.items()})


def preset(cls: Callable[..., T], **fixed: Any) -> Callable[..., T]:
    """A constructor with some options filled in; what it returns is a plain `cls` and is saved as one."""
    return functools.partial(cls, **fixed)


def _clean(title: str, name: str, value: Any, hint: Any) -> Any:
    """Refuse bool and text for numbers; unwrap numpy scalars; accept one value where a tuple is wanted."""
    members = _members(hint)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    plain = {m for m in members if isinstance(m, type)}
    takes_text = str in plain or any(typing.get_origin(m) is typing.Literal for m in members)
    wants_number = bool(plain & {int, float})
    if wants_number and bool not in plain and isinstance(value, bool):
        raise InvalidOption(f"{title}: {name}: expected a number, got {value}")
    if wants_number and not takes_text and isinstance(value, str):
        raise InvalidOption(f"{title}: {name}: expected a number, got the text {value!r}")
    if bool in plain and not wants_number and not isinstance(value, bool) and value is not None:
        raise InvalidOption(f"{title}: {name}: expected True or False, got {_short(value)}")
    if any(typing.get_origin(m) is tuple for m in members):
        if isinstance(value, int | float) and not isinstance(value, bool) and not wants_number:
            value = (value,)
        if type(value).__module__ == "numpy":
            value = value.tolist()
        if isinstance(value, tuple | list) and _holds_numbers(members):
            value = tuple(item.item() if type(item).__module__ == "numpy" else item for item in value)
            if any(isinstance(item, bool | str) for item in value):
                raise InvalidOption(f"{title}: {name}: expected numbers, got {_short(value)}")
    return value


def _holds_numbers(members: list[Any]) -> bool:
    """Whether a tuple among these types holds numbers."""
    items = [
        item for m in members if typing.get_origin(m) is tuple for arg in typing.get_args(m) for item in _members(arg)
    ]
    return bool({int, float} & {item for item in items if isinstance(item, type)})


def _members(hint: Any) -> list[Any]:
    """The members of a (possibly nested, possibly annotated) union."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for arg in typing.get_args(hint) for member in _members(arg)]
    return [hint]


def _readable(title: str, error: pydantic.ValidationError) -> str:
    lines: dict[str, str] = {}
    for problem in error.errors():
        location = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "tuple["))]
        if not location and problem["type"] == "value_error":  # raised by the recipe itself, with its own words
            lines.setdefault("", problem["msg"].removeprefix("Value error, "))
            continue
        name = ".".join(location[:1]) or "options"
        message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        got = f" (got {_short(problem['input'])})" if problem["type"] != "value_error" else ""
        lines.setdefault(name, f"{title}: {'.'.join(location) or name}: {message}{got}")
    return "\n".join(lines.values())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------------- options of calls


def check_positive(value: Any, name: str) -> None:
    """Raise `InvalidOption` unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < math.inf:
        raise InvalidOption(f"{name}: expected a number above 0, got {value!r}")


def check_count(n: Any, name: str, *, least: int = 1) -> None:
    """Raise `InvalidOption` unless it is a whole number of at least `least`."""
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < least:
        raise InvalidOption(f"{name}: expected a whole number of at least {least}, got {n!r}")


def check_seed(seed: Any) -> int:
    """A seed as a whole number, or `InvalidOption`."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise InvalidOption(f"seed: expected a whole number, got {seed!r}")
    return int(seed)
