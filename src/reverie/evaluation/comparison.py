"""A comparison: a column per model, a row per figure, and the forms it is printed in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reverie.evaluation.pages.page import comparison_page
from reverie.evaluation.report import Report, aligned, write_text
from reverie.evaluation.rows import Row, finite, floor_text, value_text

FORMAT = "reverie comparison 1"
SYMBOLS = {"best": "★", "tie": "=", "not comparable": "≁", "": ""}


@dataclass(frozen=True)
class Cell:
    """One model's figure. `mark`: `best`, `tie` (with the best, within noise), `not comparable`, or empty."""

    row: Row | None
    mark: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """The value and its mark, as in `12.3 ★`."""
        if self.row is None:
            return "–"
        return f"{value_text(self.row)} {SYMBOLS[self.mark]}".rstrip()

    @property
    def short(self) -> str:
        """The same without the standard error, for narrow terminals."""
        if self.row is None:
            return "–"
        return f"{value_text(self.row).split(' ±')[0]} {SYMBOLS[self.mark]}".rstrip()


@dataclass(frozen=True)
class Line:
    """One figure of all models."""

    name: str
    group: str
    direction: Literal["up", "down"] | None
    cells: Mapping[str, Cell]
    note: str = ""

    @property
    def floor(self) -> str:
        """The real-vs-real floor, the same for all models; empty without one."""
        if self.group in ("Likelihood", "Memorisation"):
            return ""
        return next((floor_text(cell.row) for cell in self.cells.values() if cell.row is not None), "")

    @property
    def reasons(self) -> list[str]:
        """Why cells are not comparable, or among what they were ranked."""
        return [
            f"{name}: {cell.mark + ', ' if cell.mark else ''}{cell.reason}"
            for name, cell in self.cells.items()
            if cell.reason
        ]


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns: `lines` the table, `reports` the full report of each model."""

    title: str
    reports: Mapping[str, Report]
    lines: tuple[Line, ...]
    seconds: float = 0.0
    legend: str = field(
        default="★ best; = tied with the best within noise; ≁ not comparable; floor: real against real at the same n.",
        repr=False,
    )

    @property
    def models(self) -> list[str]:
        return list(self.reports)

    def line(self, name: str) -> Line:
        """The line of that name. Raises `KeyError` naming the lines there are."""
        for line in self.lines:
            if line.name == name:
                return line
        raise KeyError(f"no line {name!r}. Lines: {', '.join(line.name for line in self.lines)}")

    def best(self, name: str) -> list[str]:
        """The models marked best or tied on that line."""
        return [model for model, cell in self.line(name).cells.items() if cell.mark in ("best", "tie")]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: the table with marks and reasons, and every report."""
        lines = [
            {
                "name": line.name,
                "group": line.group,
                "direction": line.direction,
                "note": line.note,
                "cells": {
                    name: {
                        "value": None if cell.row is None else finite(cell.row.value),
                        "mark": cell.mark,
                        "reason": cell.reason,
                    }
                    for name, cell in line.cells.items()
                },
            }
            for line in self.lines
        ]
        reports = {name: report.to_dict() for name, report in self.reports.items()}
        return {"format": FORMAT, "title": self.title, "lines": lines, "reports": reports, "seconds": self.seconds}

    def to_json(self, path: str | Path | None = None) -> str:
        """The comparison as JSON text, written to `path` if one is given."""
        return write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The table with its legend and reasons as Markdown, written to `path` if one is given."""
        out = [f"# {self.title}", "", f"| {' | '.join(self._header())} |", "|---|" + "--:|" * (len(self.models) + 1)]
        out += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self._table()]
        out += ["", self.legend, "", *(f"- {reason}" for reason in self.reasons)]
        return write_text("\n".join(out) + "\n", path)

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page with samples of all models side by side, written to `path` if one is given."""
        return write_text(comparison_page(self), path)

    def to_terminal(self, console: Any = None) -> None:
        """Print the table with rich; `console` is a `rich.console.Console` (default: a new one)."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = console if console is not None else Console()
        table = Table(title=self.title, title_justify="left", title_style="bold", header_style="dim")
        for i, name in enumerate(self._header()):
            table.add_column(Text(name), justify="left" if i == 0 else "right", overflow="fold")
        group = ""
        for line, texts in zip(self.lines, self._table(), strict=True):
            if line.group != group:
                table.add_section()
                group = line.group
            styled = [
                Text(
                    cell.short, style={"best": "bold green", "tie": "green", "not comparable": "dim"}.get(cell.mark, "")
                )
                for cell in line.cells.values()
            ]
            table.add_row(Text(texts[0]), *styled, Text(line.floor.split(" ±")[0], style="dim"))
        console.print(table)
        console.print(Text(self.legend, style="dim"))
        for reason in self.reasons:
            console.print(Text(f"  {reason}", style="dim"))

    @property
    def reasons(self) -> list[str]:
        """Everything that was not ranked, and why; then what each model's report leaves out."""
        said: dict[str, list[str]] = {}
        for line in self.lines:
            for reason in line.reasons:
                said.setdefault(reason, []).append(line.name)
        out = [
            f"{reason} ({', '.join(names) if len(names) <= 2 else f'{len(names)} figures'})"
            for reason, names in said.items()
        ]
        for name, report in self.reports.items():
            out += [f"{name}: {note}" for note in report.notes if note.startswith(("No likelihood", "The likelihood"))]
        return out

    def _header(self) -> list[str]:
        return ["figure", *self.models, "floor"]

    def _table(self) -> list[list[str]]:
        arrow = {"up": " ↑", "down": " ↓", None: ""}
        return [
            [line.name + arrow[line.direction], *(cell.text for cell in line.cells.values()), line.floor]
            for line in self.lines
        ]

    def __repr__(self) -> str:
        return "\n".join([self.title, "", *aligned(self._header(), self._table()), "", self.legend, *self.reasons])

    def _repr_html_(self) -> str:
        from html import escape

        head = "".join(f"<th>{escape(name)}</th>" for name in self._header())
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._table())
        notes = "<br>".join(escape(reason) for reason in (self.legend, *self.reasons))
        return f"<p><b>{escape(self.title)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{notes}</p>"
