"""The top level: which command, and what becomes of errors. Imports no torch, no numpy, no tyro."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from reverie.cli.screen import Screen
from reverie.errors import Interrupted, InvalidOption, ReverieError, did_you_mean


@dataclass(frozen=True)
class Command:
    """A command: the module that has its `run(argv, screen)`, how it is called, what it does."""

    module: str
    usage: str
    line: str


COMMANDS: dict[str, Command] = {
    "fit": Command("fit", "FAMILY DATA [--out RUN]", "train a model, or go on with one: fit --resume RUN"),
    "sample": Command("sample", "RUN -n 64 [--out FILE]", "draw examples: a picture, a table, an array"),
    "evaluate": Command("evaluate", "RUN [DATA] [--out FILE]", "judge a model on data it has not seen"),
    "compare": Command("compare", "DATA [--models NAMES]", "train several families and judge them side by side"),
    "models": Command("models", "", "the families and what each can do"),
    "info": Command("info", "RUN", "what a run or saved model is and how it came about"),
    "doctor": Command("doctor", "", "check this installation"),
    "completion": Command("completion", "bash|zsh|fish", "print a completion script for your shell"),
}

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Helped(ReverieError):
    """Help was asked for: the message is its text."""

    exit_code = OK


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    screen = Screen(json="--json" in argv, quiet="--quiet" in argv or "-q" in argv)
    try:
        # With --json stdout holds the one document and nothing that a library may print.
        guard = contextlib.redirect_stdout(sys.stderr) if screen.json else contextlib.nullcontext()
        with guard:
            return _dispatch(argv, screen)
    except Helped as help_:
        screen.result({"help": str(help_)}, str(help_))
        return OK
    except BrokenPipeError:
        _close_stdout()
        return FAILED
    except Interrupted as error:
        run_folder = getattr(error, "run", None)
        again = f"\ngo on with: reverie fit --resume {run_folder}" if run_folder else ""
        return _fail(screen, error, f"{error}{again}", INTERRUPTED)
    except ReverieError as error:
        return _fail(screen, error, f"error: {error}", error.exit_code)
    except KeyboardInterrupt as error:
        return _fail(screen, error, "interrupted", INTERRUPTED)
    except Exception as error:
        if os.environ.get("REVERIE_DEBUG"):
            import traceback

            traceback.print_exc(file=screen.err)
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        hint = "" if os.environ.get("REVERIE_DEBUG") else " (run with REVERIE_DEBUG=1 for the traceback)"
        return _fail(screen, error, f"unexpected error: {reason}{hint}", FAILED)


def _dispatch(argv: list[str], screen: Screen) -> int:
    rest = list(argv)
    while rest and rest[0] in ("--json", "--quiet", "-q"):
        rest.append(rest.pop(0))
        if all(word in ("--json", "--quiet", "-q") for word in rest):
            break
    first = rest[0] if rest else ""
    if first in ("-h", "--help", "help"):
        screen.result({"commands": {name: command.line for name, command in COMMANDS.items()}}, overview())
        return OK
    if first in ("-V", "--version"):
        from reverie._version import __version__

        screen.result({"version": __version__}, f"reverie {__version__}")
        return OK
    if first in COMMANDS:
        module = importlib.import_module(f"reverie.cli.{COMMANDS[first].module}")
        code: int = module.run(rest[1:], screen)
        return code
    if not rest:
        screen.problem(overview())
        return USAGE
    if first.startswith("-"):
        raise InvalidOption(f"give a command before {first}: {', '.join(COMMANDS)}. More: reverie --help")
    raise InvalidOption(f"no command {first!r}{near(first, COMMANDS)} Commands: {', '.join(COMMANDS)}")


def overview() -> str:
    """The text of `reverie --help`."""
    calls = {name: f"reverie {name} {command.usage}".rstrip() for name, command in COMMANDS.items()}
    width = max(map(len, calls.values()))
    lines = [f"  {calls[name].ljust(width)}  {command.line}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Build, train, use and judge generative models.",
            "",
            "usage: reverie COMMAND ...",
            "",
            *lines,
            "",
            "Every command takes --help, --json (one JSON document on stdout, the rest on stderr) and --quiet.",
            "The flags of a family: reverie fit FAMILY --help. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.",
        ]
    )


def near(word: str, choices: Iterable[str]) -> str:
    """`, did you mean 'latent'?`, or a full stop when nothing is close."""
    return did_you_mean(word, choices) or "."


def _fail(screen: Screen, error: BaseException, message: str, code: int) -> int:
    screen.problem(message)
    if screen.json and not screen.emitted:
        screen.result({"error": {"type": type(error).__name__, "message": str(error), "exit_code": code}})
    return code


def _close_stdout() -> None:
    """The reader of our output went away: keep the interpreter from complaining about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
