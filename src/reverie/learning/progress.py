"""A progress line on stderr: where the run is, its rate, when it ends, its losses."""

from __future__ import annotations

import sys
from typing import Any

from reverie.learning.watching.findings import Finding


class Progress:
    """Shows trainer records through rich when `wanted` (None: when stderr is a terminal)."""

    def __init__(self, wanted: bool | None, *, title: str) -> None:
        self._on = sys.stderr.isatty() if wanted is None else wanted
        self._title = title
        self._bar: Any = None
        self._task: Any = None

    def show(self, record: dict[str, Any]) -> None:
        """Update from a record of the trainer."""
        if not self._on:
            return
        if self._bar is None:
            self._open()
        if record["event"] == "finding":
            self._bar.console.print(
                f"{record['severity']}: {Finding(**_without_event(record))}", markup=False, highlight=False
            )
            return
        if record["event"] == "pace":
            return
        losses = "  ".join(f"{k} {v:.4g}" for k, v in record.items() if isinstance(v, float) and k not in _NOT_LOSSES)
        epoch = record["epoch"] + (record["event"] == "step")
        text = f"{self._title} {record['phase']} epoch {epoch}  {losses}"
        self._bar.update(self._task, description=text, completed=record["step"], total=record.get("of"))

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _rate_column(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=False,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=None)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _without_event(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "event"}


_NOT_LOSSES = ("seconds", "rate", "progress")


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        """Updates per second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.0f} steps/s")

    return Rate()
