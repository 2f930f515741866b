"""A report: rows with floors, words, figures, and the forms it is printed in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie.evaluation.pages.page import report_fragment, report_page
from reverie.evaluation.pages.pictures import Figure
from reverie.evaluation.rows import ARROWS, READING, Row, finite, floor_text, range_text, value_text
from reverie.evaluation.summary import Sentence
from reverie.metrics.arrays import FloatArray

FORMAT = "reverie report 1"


@dataclass(frozen=True)
class Report:
    """What `evaluate` returns.

    `rows` the figures; `summary` the sentences; `notes` what is absent and why; `model`, `data` and `settings` JSON
    records of what was judged, on what and how; `per_row` the nats of each test row, for paired comparison.
    """

    title: str
    rows: tuple[Row, ...]
    summary: tuple[Sentence, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    figures: tuple[Figure, ...] = field(default=(), repr=False)
    per_row: FloatArray | None = field(default=None, repr=False, compare=False)

    def row(self, name: str) -> Row:
        """The row of that name. Raises `KeyError` naming the rows there are."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}. Rows: {', '.join(row.name for row in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: everything but the figures."""
        return {
            "format": FORMAT,
            "title": self.title,
            "summary": [{"text": item.text, "tone": item.tone} for item in self.summary],
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "model": _plain(self.model),
            "data": _plain(self.data),
            "settings": _plain(self.settings),
            "seconds": self.seconds,
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON text, written to `path` if one is given."""
        return write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Summary, table and notes as Markdown, written to `path` if one is given."""
        lines = [f"# {self.title}", ""]
        lines += [f"- {item.text}" for item in self.summary]
        lines += ["", f"| {' | '.join(HEADER)} |", "|---|--:|--:|--:|:--|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in self.rows]
        lines += ["", READING]
        noted = [f"- {row.name}: {row.note}" for row in self.rows if row.note]
        lines += ["", "## Notes", "", *noted, *(f"- {note}" for note in (*self.notes, *self.warnings))]
        return write_text("\n".join(lines) + "\n", path)

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page (no other files, no requests), written to `path` if one is given."""
        return write_text(report_page(self), path)

    def __repr__(self) -> str:
        lines = [self.title, *(f"  {item.text}" for item in self.summary), ""]
        return "\n".join([*lines, *aligned(HEADER, [cells(row) for row in self.rows]), *self.notes])

    def _repr_html_(self) -> str:
        return report_fragment(self)


HEADER = ("figure", "value", "range", "floor", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, one cell for each entry of `HEADER`."""
    words = row.verdict or (f"{row.kind}; {ARROWS[row.direction]}" if row.direction else row.kind)
    return (row.name, value_text(row), range_text(row), floor_text(row), words)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Text lines of a table: the first and last column to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]

    def line(parts: Sequence[str]) -> str:
        out = [
            part.ljust(width) if i in (0, len(parts) - 1) else part.rjust(width)
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        return "  ".join(out).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]


def _plain(value: Any) -> Any:
    """JSON-ready copy: tuples to lists, keys to text, unknown objects to their text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return finite(value) if value is None or isinstance(value, bool | int | float | str) else str(value)


def write_text(text: str, path: str | Path | None) -> str:
    """The text itself, written to `path` if one is given."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    return text
