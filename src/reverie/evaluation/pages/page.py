"""The HTML forms: one self-contained page per report or comparison, and the fragment notebooks show."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import groupby
from typing import Any, Protocol

from reverie._version import __version__
from reverie.evaluation.pages.pictures import Figure, strip
from reverie.evaluation.rows import ARROWS, LIKELIHOOD_KINDS, READING, Row, floor_text, number, range_text, value_text


class Report(Protocol):
    """What a page shows of a report."""

    @property
    def rows(self) -> tuple[Row, ...]: ...
    @property
    def figures(self) -> tuple[Figure, ...]: ...
    @property
    def model(self) -> dict[str, Any]: ...
    @property
    def data(self) -> dict[str, Any]: ...
    @property
    def settings(self) -> dict[str, Any]: ...


class Comparison(Protocol):
    """What a page shows of a comparison."""

    @property
    def lines(self) -> Sequence[Any]: ...
    @property
    def reports(self) -> Mapping[str, Report]: ...


def report_page(report: Report) -> str:
    """The whole page of one report."""
    return _render(
        "report.html",
        report=report,
        facts=_facts(report),
        groups=_grouped(report.rows),
        samples=_section(report.figures, "samples"),
        pairs=_section(report.figures, "pairs"),
        columns=_section(report.figures, "columns"),
        training=_section(report.figures, "training"),
        reading=READING,
    )


def report_fragment(report: Report) -> str:
    """Summary and table for a notebook cell, with its own small style sheet."""
    return _render("fragment.html", report=report, groups=_grouped(report.rows))


def comparison_page(comparison: Comparison) -> str:
    """The whole page of a comparison."""
    shown = _side_by_side(comparison)
    return _render("compare.html", comparison=comparison, lines=comparison.lines, reading=READING, shown=shown)


def _side_by_side(comparison: Comparison) -> list[tuple[str, Figure]]:
    """Real samples once, then those of each model, as name and figure."""
    out: list[tuple[str, Figure]] = []
    for name, report in comparison.reports.items():
        for figure in _section(report.figures, "samples"):
            real = figure.title in ("Real", "Real rows")
            if not real or not any(known == "Real data" for known, _ in out):
                out.append(("Real data" if real else name, figure))
    return sorted(out, key=lambda item: item[0] != "Real data")


@functools.cache
def _environment() -> Any:
    import jinja2

    folder = resources.files("reverie.evaluation.pages") / "templates"
    names = ("style.css", "parts.html", "report.html", "fragment.html", "compare.html")
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=lambda name: name is None or name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=number, plural=_plural)
    environment.globals.update(
        value_text=value_text,
        range_text=range_text,
        floor_text=floor_text,
        strip=strip,
        arrows=ARROWS,
        likelihood_kinds=LIKELIHOOD_KINDS,
        tone_of=tone_of,
        version=__version__,
    )
    return environment


def _render(template: str, **values: Any) -> str:
    text: str = _environment().get_template(template).render(**values)
    return text


def tone_of(row: Row) -> str:
    """`good`, `bad` or `plain`, for the colour of a verdict (the words say the same)."""
    words = row.verdict
    if not words or words.startswith(("n too small", "no verdict", "above real", "farther")):
        return "plain"
    if words.startswith(("indistinguishable", "no ", "none", "as on")):
        return "good"
    return "bad"


def _grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows under their headings, in the order of the headings' first appearance."""
    order = list(dict.fromkeys(row.group for row in rows))
    ranked = sorted(rows, key=lambda row: order.index(row.group))
    return [(name, list(part)) for name, part in groupby(ranked, key=lambda row: row.group)]


def _section(figures: Sequence[Figure], section: str) -> list[Figure]:
    return [figure for figure in figures if figure.section == section]


def _facts(report: Report) -> list[tuple[str, str]]:
    """What the model is and what it was judged on, as label and text."""
    info, data, out = report.model.get("info", {}), report.data, []
    if report.model.get("summary"):
        out.append(("Model", f"{report.model.get('title')}: {report.model['summary']}"))
    options = _options(report.model.get("options", {}))
    if options:
        out.append(("Recipe", options))
    parameters = info.get("parameters")
    if isinstance(parameters, int) and parameters > 0:
        out.append(("Size", f"{parameters:,} parameters"))
    training = (
        [f"{number(float(info['seconds']), float(info['seconds']))} s"]
        if isinstance(info.get("seconds"), int | float)
        else []
    )
    if info.get("seed") is not None:
        training.append(f"seed {info['seed']}")
    if training:
        out.append(("Training", ", ".join(training)))
    rows = f"{data.get('test_rows', 0):,} test rows"
    if data.get("train_rows"):
        rows += f", {data['train_rows']:,} training rows"
    out.append(("Data", f"{data['name']}: {rows}" if data.get("name") else rows))
    settings = report.settings
    if settings:
        sets = settings.get("generated_sets")
        out.append(("Judged", f"{sets} generated sets of {settings.get('n'):,} rows, level {settings.get('level')}, seed {settings.get('seed')}"))  # fmt: skip
    return out


def _options(options: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in options.items() if name not in ("family", "type") and value != ""}
    parts = [f"{name} {value}" for name, value in shown.items() if isinstance(value, int | float | str)]
    text = ", ".join(parts)
    return text if len(text) <= 240 else text[:239] + "…"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
