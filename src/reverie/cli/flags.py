"""Flags as data, and one parser for them (tyro underneath) whose complaints are our own one-line errors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from reverie.cli.app import Helped, near
from reverie.errors import InvalidOption, did_you_mean


@dataclass(frozen=True)
class Flag:
    """One flag, or one positional argument. `name` is as typed, without dashes: `max-rows`, `encoder.channels`."""

    name: str
    hint: Any
    default: Any = None
    help: str = ""
    group: str = "command"
    aliases: tuple[str, ...] = ()
    positional: bool = False
    metavar: str | None = None
    fallback: str = ""
    """What the help shows as the default, where it is not `default` itself."""

    @property
    def key(self) -> str:
        return self.name.replace("-", "_").replace(".", "__")

    @property
    def words(self) -> tuple[str, ...]:
        """Every way to type it."""
        if self.positional:
            return ()
        return (f"--{self.name}", *self.aliases, *((f"--no-{self.name}",) if self.pairs else ()))

    @property
    def plain(self) -> Any:
        """The hint without None."""
        rest = [member for member in members(self.hint) if member is not type(None)]
        return rest[0] if len(rest) == 1 else self.hint

    @property
    def switch(self) -> bool:
        return self.plain is bool

    @property
    def pairs(self) -> bool:
        """It has a --no- form: options of recipes and data, which may be on by default."""
        return self.switch and self.group != COMMON

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it may be followed by, when they are few."""
        found = [arg for m in members(self.hint) if typing.get_origin(m) is Literal for arg in typing.get_args(m)]
        return tuple(map(str, found))


COMMON = "command"
JSON = Flag("json", bool, False, "Print one JSON document on stdout, everything else on stderr.")
QUIET = Flag("quiet", bool, False, "Print no progress, notes or warnings.", aliases=("-q",))


@dataclass(frozen=True)
class Parsed:
    """Values by flag name, and which flags were typed."""

    values: dict[str, Any]
    given: frozenset[str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def typed(self, flags: Iterable[Flag]) -> dict[str, Any]:
        """The values of those flags that were typed, by key."""
        return {flag.key: self.values[flag.name] for flag in flags if flag.name in self.given}


def parse(flags: Sequence[Flag], argv: Sequence[str], *, prog: str, description: str) -> Parsed:
    """Parse a command line. Raises `InvalidOption` for anything wrong with it, `Helped`, with the text, for --help."""
    import tyro

    known = {word: flag for flag in flags for word in flag.words}
    words, given = _prepared(argv, known, prog)
    shape: Any = _shape(flags)
    complaint, help_text = io.StringIO(), io.StringIO()  # not terminals: tyro, which ignores NO_COLOR, prints plainly
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(help_text):
            groups: Any = tyro.cli(
                shape, args=words, prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise Helped(help_text.getvalue()) from None
        raise InvalidOption(_sentence(complaint.getvalue(), words, known, prog)) from None
    values = {flag.name: getattr(getattr(groups, _identifier(flag.group)), flag.key) for flag in flags}
    return Parsed(values, frozenset(given | {f.name for f in flags if f.positional and values[f.name] is not None}))


def _identifier(group: str) -> str:
    return re.sub(r"\W", "_", group)


def _shape(flags: Sequence[Flag]) -> type:
    """A dataclass with one nested dataclass per group of flags, which tyro shows as one box each."""
    import tyro

    outer = []
    for group in dict.fromkeys(flag.group for flag in flags):
        inner: list[tuple[str, Any, Any]] = []
        for flag in flags:
            if flag.group != group:
                continue
            marks: list[Any] = [
                tyro.conf.arg(
                    name=None if flag.positional else flag.name,
                    help=flag.help.replace("\n", " "),
                    metavar=flag.metavar or (None if flag.switch and flag.default is not None else spelled(flag.hint)),
                    aliases=flag.aliases or None,
                    help_behavior_hint=_behaviour(flag),
                )
            ]
            if flag.positional:
                marks.append(tyro.conf.Positional)
            if flag.switch and not flag.pairs:
                marks.append(tyro.conf.FlagCreatePairsOff)
            hint = flag.hint if flag.default is not None else flag.hint | None
            field: Any = dataclasses.field(default_factory=functools.partial(_same, flag.default))
            inner.append((flag.key, Annotated[(hint, *marks)], field))
        box = dataclasses.make_dataclass(group, inner)
        outer.append((_identifier(group), box, dataclasses.field(default_factory=box)))
    return dataclasses.make_dataclass("reverie", outer)


def _same(value: Any) -> Any:
    return value


def _behaviour(flag: Flag) -> str:
    if flag.fallback:
        return f"(default: {flag.fallback})"
    if flag.default is None or flag.positional or (flag.switch and not flag.pairs):
        return ""
    value = flag.default
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"(default: {shown})"


def _prepared(argv: Sequence[str], known: dict[str, Flag], prog: str) -> tuple[list[str], set[str]]:
    """The words as tyro wants them, and the names of the flags among them. Unknown flags are refused here."""
    words: list[str] = []
    given: set[str] = set()
    waiting = list(argv)
    while waiting:
        word = waiting.pop(0)
        if not _is_flag(word):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name if name in known else name.replace("_", "-")
        if name in ("-h", "--help"):
            words.append(name)
            continue
        flag = known.get(name)
        if flag is None:
            raise InvalidOption(f"{prog}: no flag {name}{near(name, known)} All flags: {prog} --help")
        given.add(flag.name)
        if flag.switch:
            follows = value if equals else waiting[0] if waiting else ""
            truth = _TRUTH.get(follows.lower())
            if equals and truth is None:
                raise InvalidOption(f"{prog}: {name}: expected true or false, got {value!r}")
            if truth is not None and not equals:
                waiting.pop(0)
            on = (True if truth is None else truth) != name.startswith("--no-")
            if flag.default is None:
                words += [f"--{flag.name}", str(on)]
            elif flag.pairs:
                words.append(f"--{flag.name}" if on else f"--no-{flag.name}")
            elif on:
                words.append(f"--{flag.name}")
            continue
        words += [name, value] if equals else [name]
    return words, given


_TRUTH = {"true": True, "false": False, "yes": True, "no": False}


def _is_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not re.match(r"-\.?\d", word)


def _sentence(box: str, words: list[str], known: dict[str, Flag], prog: str) -> str:
    """tyro's complaint as one line of ours."""
    text = re.sub(r"\s+", " ", re.sub(r"[─│╭╮╰╯┌┐└┘]+|-{3,}", " ", re.sub(r"\x1b\[[0-9;]*m", "", box))).strip()
    unknown = re.search(r"Unrecognized options: (.+?)(?: For full| Perhaps|$)", text)
    if unknown:
        return f"{prog}: unexpected {unknown[1].split(', ')[0]!r}. How it is called: {prog} --help"
    named = re.search(r"(?:Error parsing|argument) '?(-[\w./-]+)", text)
    for name in named[1].rstrip(":.").split("/") if named else ():
        flag = known.get(name)
        if flag is not None:
            typed = _typed(words, flag)
            got = f"got {typed!r}" if typed else "got nothing"
            near = did_you_mean(typed, flag.choices) if typed and flag.choices else ""
            return f"{prog}: --{flag.name}: expected {described(flag.hint)}, {got}{near}"
    return f"{prog}: {text}"


def _typed(words: list[str], flag: Flag) -> str:
    """What followed the flag on the command line."""
    at = max(i for i, word in enumerate(words) if word in flag.words)
    after: list[str] = []
    for word in words[at + 1 :]:
        if _is_flag(word):
            break
        after.append(word)
    return " ".join(after)


def members(hint: Any) -> list[Any]:
    """The members of a union, or the hint itself."""
    if typing.get_origin(hint) is Annotated:
        return members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for arg in typing.get_args(hint) for member in members(arg)]
    return [hint]


_SPELLED: dict[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT", bool: "{True,False}"}
_DESCRIBED: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def spelled(hint: Any) -> str:
    """How the value looks in the help: INT, {a,b}, INT ..."""
    parts = []
    for member in members(hint):
        if member is type(None):
            continue
        args = typing.get_args(member)
        if typing.get_origin(member) is Literal:
            parts.append("{" + ",".join(map(str, args)) + "}")
        elif typing.get_origin(member) is tuple:
            parts.append(f"{spelled(args[0])} ..." if args[-1] is ... else " ".join(map(spelled, args)))
        else:
            parts.append(_SPELLED.get(member, "TEXT"))
    return "|".join(parts)


def described(hint: Any) -> str:
    """What is expected, in words."""
    parts = []
    for member in members(hint):
        if member is type(None):
            continue
        args = typing.get_args(member)
        if typing.get_origin(member) is Literal:
            parts.append(f"one of {', '.join(map(str, args))}")
        elif typing.get_origin(member) is tuple:
            many = described(args[0]).removeprefix("a ")
            parts.append(f"{many}s" if args[-1] is ... else f"{len(args)} {many}s")
        else:
            parts.append(_DESCRIBED.get(member, "text"))
    return " or ".join(parts)
