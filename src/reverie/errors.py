"""Every error this library raises on purpose. A message says what was wrong and what to do about it.

`ReverieError` is the root; the command line prints any of them as one line, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ReverieError(Exception):
    """Root of all errors raised on purpose. `exit_code` is what the command line returns for it."""

    exit_code = 1


class InvalidOption(ReverieError, ValueError):
    """A recipe field, flag or argument has a value that cannot be used (exit code 2)."""

    exit_code = 2


class DataError(ReverieError, ValueError):
    """The data cannot be read, or do not say what they should."""


class UnsupportedData(DataError):
    """The data are fine, but this family cannot learn from them; the message names the families that can."""


class SchemaMismatch(DataError):
    """The data differ from what the model was trained on: columns, shapes, types or unseen categories."""


class Unsupported(ReverieError):
    """This model has no such capability; the message names the families that have it."""


class CheckpointError(ReverieError):
    """A saved model or run is missing, damaged, of another family or from a later version."""


class RunConflict(ReverieError):
    """A run folder is in the way: it exists, is being written, or was started with another recipe."""


class MissingExtra(ReverieError, ImportError):
    """An optional package is needed; the message gives the install line."""


class Diverged(ReverieError, ArithmeticError):
    """Training met a non-finite number. `model` holds the last good state (or None); `checkpoint` its folder."""

    def __init__(self, message: str, *, model: Any = None, checkpoint: str | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.checkpoint = checkpoint


class Interrupted(ReverieError, KeyboardInterrupt):
    """Training was stopped by Ctrl-C after saving. `model` holds the weights so far; `checkpoint` their folder."""

    exit_code = 130

    def __init__(self, message: str, *, model: Any = None, checkpoint: str | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.checkpoint = checkpoint


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`, did you mean 'latent'?` when a choice is close to the word, else the empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
