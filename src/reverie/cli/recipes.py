"""Recipes as flags: every option of a family, of its networks and of `Training`, from the recipes' own fields."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from reverie import config
from reverie.cli.flags import Flag, members
from reverie.errors import InvalidOption, did_you_mean
from reverie.learning.training import Training

_NOT_FLAGS = frozenset({"callbacks", "out"})
"""Training options that are functions, or that the command offers itself."""


def training_flags(defaults: Mapping[str, Any]) -> list[Flag]:
    """The fields of `Training` as flags; `defaults` are the family's."""
    return [
        dataclasses.replace(flag, fallback=str(defaults[flag.key]) if flag.key in defaults else flag.fallback)
        for flag in _flags(Training, "training")
        if flag.key not in _NOT_FLAGS
    ]


def recipe_flags(cls: type, networks: Mapping[str, Any]) -> list[Flag]:
    """The fields of a family's recipe as flags. `networks` maps a network option to the spec picked for it, whose own
    fields become `--encoder.channels` and the like."""
    group = cls.__name__
    out: list[Flag] = []
    for flag in _flags(cls, group):
        specs = _specs(cls, flag.key)
        if not specs:
            out.append(flag)
            continue
        names = ("auto", *specs)
        out.append(
            dataclasses.replace(flag, hint=typing.Literal[names], help=f"{flag.help} {_offer(flag.name, specs)}")
        )
        spec = networks.get(flag.key)
        if spec is not None:
            own = _flags(type(spec), flag.name, default=spec)
            out += [dataclasses.replace(f, name=f"{flag.name}.{f.name}") for f in own if f.name != "type"]
    return out


def _offer(name: str, specs: Mapping[str, type]) -> str:
    flags = " ".join(
        f"--{name}.{f.replace('_', '-')}" for f in config.options(next(iter(specs.values()))) if f != "type"
    )
    return f"Pick one to set its own options, as in --{name} {next(iter(specs))} {flags.split()[0]} ..."


def _flags(cls: type, group: str, *, default: Any = None) -> list[Flag]:
    default = cls() if default is None else default
    hints, texts = typing.get_type_hints(cls), config.descriptions(cls)
    return [
        Flag(name.replace("_", "-"), hints[name], getattr(default, name), texts[name], group)
        for name in config.options(cls)
    ]


def _specs(cls: type, name: str) -> dict[str, type]:
    """The network specs that an option takes, by their `type`; empty for an ordinary option."""
    found = {}
    for member in members(typing.get_type_hints(cls)[name]):
        if dataclasses.is_dataclass(member) and isinstance(member, type) and "type" in config.options(member):
            found[str(config.options(member)["type"].default)] = member
    return found


def pick_networks(cls: type, argv: Sequence[str], start: Mapping[str, Any], prog: str) -> dict[str, Any]:
    """Before the parse proper: which spec each network option has, from `--encoder conv` or the configuration.

    `start` holds what a configuration file says. A flag of a spec that was not picked is refused here.
    """
    picked: dict[str, Any] = {}
    for name in config.options(cls):
        specs, flag = _specs(cls, name), f"--{name.replace('_', '-')}"
        if not specs:
            continue
        chosen = _chosen(argv, flag)
        if chosen is None:
            spec = getattr(cls(**{name: start[name]}), name) if name in start else None
            picked[name] = None if isinstance(spec, str) else spec
        elif chosen in specs:
            base = start.get(name)
            same = isinstance(base, Mapping) and base.get("type") == chosen
            picked[name] = getattr(cls(**{name: base}), name) if same else specs[chosen]()
        elif chosen != "auto":
            raise InvalidOption(
                f"{prog}: {flag}: expected one of {', '.join(('auto', *specs))}, got {chosen!r}"
                f"{did_you_mean(chosen, specs)}"
            )
        detail = next((w.partition("=")[0] for w in argv if w.replace("_", "-").startswith(f"{flag}.")), None)
        if detail is not None and picked.get(name) is None:
            wanted = detail.partition(".")[2].replace("-", "_")
            having = [kind for kind, spec in specs.items() if wanted in config.options(spec)]
            raise InvalidOption(f"{prog}: {detail}: pick the network first, as in {flag} {(having or list(specs))[0]}")
    return picked


def _chosen(argv: Sequence[str], flag: str) -> str | None:
    for at, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else argv[at + 1] if at + 1 < len(argv) else ""
    return None


def recipe_options(
    cls: type, typed: Mapping[str, Any], start: Mapping[str, Any], networks: Mapping[str, Any]
) -> dict[str, Any]:
    """The recipe's options: those of a configuration file, with the typed flags over them."""
    options = dict(start)
    for name, spec in networks.items():
        if spec is not None and isinstance(options.get(name), Mapping):
            options[name] = spec
    for key, value in typed.items():
        name, _, part = key.partition("__")
        if not part:
            options[name] = networks.get(name) or value
    for key, value in typed.items():
        name, _, part = key.partition("__")
        if part:
            options[name] = config.replace(options.get(name, networks[name]), **{part: value})
    return options
