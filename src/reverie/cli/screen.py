"""What a command says: results on stdout, everything else on stderr; with `--json` exactly one document on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO


@dataclass
class Screen:
    """Where a command's words go. Only the first process of a distributed run says anything."""

    json: bool = False
    quiet: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    silent: bool = field(default_factory=lambda: int(os.environ.get("RANK", "0")) > 0)
    emitted: bool = False

    def result(self, document: dict[str, Any], text: str = "") -> None:
        """The outcome: the document with --json, else the text."""
        if self.silent:
            return
        if self.json:
            self.out.write(json.dumps(plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            self.emitted = True
        elif text:
            self.out.write(text.rstrip("\n") + "\n")
        self.out.flush()

    def note(self, text: str) -> None:
        """Something worth knowing, on stderr; left out with --quiet."""
        if not self.quiet:
            self.problem(text)

    def warn(self, warnings: Sequence[str]) -> None:
        for text in warnings:
            self.note(f"warning: {text}")

    def problem(self, text: str) -> None:
        """Something wrong, on stderr."""
        if not self.silent:
            self.err.write(text.rstrip("\n") + "\n")
            self.err.flush()


def plain(value: Any) -> Any:
    """A JSON-ready copy: numpy numbers unwrapped, non-finite numbers None, anything unknown as text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns: numbers to the right, words to the left."""
    cells = [["" if cell is None else _cell(cell) for cell in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(header))]
    widths = [max(len(line[i]) for line in (header, *cells)) for i in range(len(header))]

    def line(parts: Sequence[str]) -> str:
        placed = zip(parts, widths, right, strict=True)
        return "  ".join(part.rjust(w) if r else part.ljust(w) for part, w, r in placed).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, cells)])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(count: float) -> str:
    """Bytes for people: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds for people: 3.2 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
