"""`compare`: several models against one yardstick, ranked only where ranking means something."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.errors import InvalidOption, SchemaMismatch
from reverie.evaluation.comparison import Cell, Comparison, Line
from reverie.evaluation.evaluate import judge
from reverie.evaluation.report import Report
from reverie.evaluation.rows import LIKELIHOOD_KINDS, Row, number
from reverie.evaluation.yardstick import Yardstick
from reverie.metrics import mean_error
from reverie.metrics.floors import SMALL_N

if TYPE_CHECKING:
    from reverie.evaluation.protocol import Judged


def compare(
    models: Mapping[str, Judged],
    test: Any,
    train: Any = None,
    *,
    n: int | None = None,
    level: str = "quick",
    seed: int = 0,
) -> Comparison:
    """Judge several models on the same rows, features and floors.

    A figure is ranked only among models where it is comparable: likelihoods when kind *and* measure agree, sample
    figures when the model does not copy its training data. Differences within the noise are ties: two paired standard
    errors for likelihoods, two floor sd for sample figures. A sample figure at its floor cannot be beaten: going below
    it is no merit. Arguments as in `evaluate`. Raises `InvalidOption` for no models, `SchemaMismatch` when the models
    were trained on different columns.
    """
    if not models:
        raise InvalidOption("compare: give at least one model, as compare({'name': model, ...}, test)")
    first = next(iter(models))
    fields = [(field.name, field.kind, field.shape) for field in models[first].schema.data_fields]
    for name, model in models.items():
        if [(field.name, field.kind, field.shape) for field in model.schema.data_fields] != fields:
            raise SchemaMismatch(
                f"{name!r} and {first!r} were trained on different columns: "
                f"{', '.join(model.schema.names)} against {', '.join(models[first].schema.names)}"
            )
    start = time.perf_counter()
    schema = next((m.schema for m in models.values() if m.schema.conditions), models[first].schema)
    yardstick = Yardstick(schema, test, train, n=n, level=level, seed=seed)
    reports = {name: judge(model, yardstick, name) for name, model in models.items()}
    on = f" on {yardstick.test.name}" if yardstick.test.name else ""
    return Comparison(
        title=f"{len(models)} models{on}",
        reports=reports,
        lines=tuple(rank(reports)),
        seconds=time.perf_counter() - start,
    )


def rank(reports: Mapping[str, Report]) -> list[Line]:
    """One line per figure, in the order of the reports; the figures of single columns are left to the reports."""
    names: dict[str, Row] = {}
    for report in reports.values():
        for row in report.rows:
            if row.kind != "marginals" or not row.name.endswith((" (KS)", " (TV)")):
                names.setdefault(row.name, row)
    copiers = {name for name, report in reports.items() if _copies(report)}
    groups = list(dict.fromkeys(row.group for row in names.values()))
    lines = []
    for name, example in sorted(names.items(), key=lambda item: groups.index(item[1].group)):
        rows = {m: row for m, report in reports.items() for row in report.rows if row.name == name}
        if example.kind == "memorisation" or "gap" in name:
            cells, note = {m: Cell(row) for m, row in rows.items()}, "a check, not ranked"
        elif example.kind in LIKELIHOOD_KINDS:
            cells, note = _rank_likelihood(rows, reports), ""
        else:
            cells, note = _rank_samples(rows, copiers)
        absent = {m: Cell(None) for m in reports if m not in cells}
        lines.append(Line(name, example.group, example.direction, {m: {**cells, **absent}[m] for m in reports}, note))
    return lines


def _copies(report: Report) -> bool:
    return any(row.kind == "memorisation" and "copies" in row.verdict for row in report.rows)


def _rank_likelihood(rows: Mapping[str, Row], reports: Mapping[str, Report]) -> dict[str, Cell]:
    """Rank inside each group of equal kind and measure; a model alone in its group is not comparable."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, row in rows.items():
        groups.setdefault((row.kind, row.measure), []).append(name)
    cells: dict[str, Cell] = {}
    for (kind, measure), members in groups.items():
        if len(groups) > 1 and len(members) == 1:
            others = "; ".join(f"{k}, {m}" for k, m in groups if (k, m) != (kind, measure))
            cells[members[0]] = Cell(rows[members[0]], "not comparable", f"{kind}, {measure}; others are {others}")
            continue
        sign = -1.0 if rows[members[0]].direction == "up" else 1.0
        best = min(members, key=lambda name: _finite(sign * rows[name].value))
        tied = [name for name in members if name == best or not _differ(reports[best], reports[name])]
        among = f"among {kind}, {measure}" if len(groups) > 1 else ""
        for name in members:
            cells[name] = Cell(rows[name], _mark(name, tied, len(members)), among)
    return cells


def _differ(a: Report, b: Report) -> bool:
    """Do the nats of the same test rows differ on average by more than two paired standard errors."""
    if a.per_row is None or b.per_row is None or a.per_row.shape != b.per_row.shape:
        return False
    if not (np.isfinite(a.per_row).all() and np.isfinite(b.per_row).all()):
        return bool(np.isfinite(a.per_row).all() != np.isfinite(b.per_row).all())
    gap = mean_error(a.per_row - b.per_row)
    return abs(gap.value) > 2 * gap.standard_error


def _rank_samples(rows: Mapping[str, Row], copiers: set[str]) -> tuple[dict[str, Cell], str]:
    """Rank by distance to the floor, counted from the floor; copiers and too few rows are not ranked."""
    cells: dict[str, Cell] = {}
    for name in rows:
        if name in copiers:
            cells[name] = Cell(rows[name], "not comparable", "copies its training data")
    ranked = {name: row for name, row in rows.items() if name not in copiers and row.floor is not None}
    if any(min(row.n_real, row.n_gen) < SMALL_N for row in rows.values()):
        return {name: Cell(row) for name, row in rows.items()}, "n too small to rank"
    if ranked:
        worse = {name: _finite(_excess(row)) for name, row in ranked.items()}
        best = min(worse, key=lambda name: worse[name])
        noise = 2 * max(max(_finite(row.floor_sd or 0.0), _half_range(row)) for row in (ranked[best],))
        tied = [name for name, excess in worse.items() if excess - worse[best] <= noise]
        for name, row in ranked.items():
            cells[name] = Cell(row, _mark(name, tied, len(ranked)))
        note = f"ties within {number(noise, noise)}"
    else:
        note = ""
    return {name: cells.get(name, Cell(row)) for name, row in rows.items()}, note


def _excess(row: Row) -> float:
    """How far on the wrong side of the floor, never below 0."""
    if row.floor is None or not math.isfinite(row.value):
        return math.inf
    return max(row.value - row.floor if row.direction == "down" else row.floor - row.value, 0.0)


def _half_range(row: Row) -> float:
    return 0.0 if row.low is None or row.high is None else (row.high - row.low) / 2


def _mark(name: str, tied: list[str], members: int) -> str:
    if members < 2 or name not in tied:
        return ""
    return "best" if len(tied) == 1 else "tie"


def _finite(value: float) -> float:
    """NaN ranks last."""
    return math.inf if math.isnan(value) else value
