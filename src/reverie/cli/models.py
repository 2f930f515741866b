"""`reverie models`: the catalog as a table. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
import shutil
import textwrap

from reverie import catalog
from reverie.cli.app import OK
from reverie.cli.flags import JSON, QUIET, parse
from reverie.cli.screen import Screen, table


def run(argv: list[str], screen: Screen) -> int:
    """Print the families."""
    if [word for word in argv if word not in ("--json", "--quiet", "-q")]:
        parse([JSON, QUIET], argv, prog="reverie models", description="The families and what each can do.")
    rows = catalog.families().values()
    document = {"families": [dataclasses.asdict(row) for row in rows]}
    head = table(
        ["family", "title", "likelihood", "y", "holes"],
        [[row.name, row.title, row.likelihood, _condition(row), "yes" if row.holes else "-"] for row in rows],
    )
    width = min(shutil.get_terminal_size((100, 24)).columns, 120) if "COLUMNS" in os.environ else 100
    notes = []
    for row in rows:
        notes += [
            "",
            f"{row.name}: {row.summary}",
            *_wrapped("can", row.can, width),
            *_wrapped("data", row.kinds, width),
        ]
    screen.result(document, "\n".join([head, *notes]))
    return OK


def _condition(row: catalog.Family) -> str:
    return (" ".join(row.conditions) or "-") + (" (needed)" if row.needs_y else "")


def _wrapped(title: str, words: tuple[str, ...], width: int) -> list[str]:
    return textwrap.wrap(f"{title}: {', '.join(words)}", width, initial_indent="  ", subsequent_indent="    ")
