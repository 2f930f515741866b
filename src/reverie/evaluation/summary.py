"""What the rows say, in sentences: the first thing a reader of a report sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reverie.evaluation.rows import LIKELIHOOD_KINDS, Row, number, value_text
from reverie.learning.watching.findings import Finding
from reverie.metrics.floors import SMALL_N

SAME = "indistinguishable at this n"


@dataclass(frozen=True)
class Sentence:
    """One sentence; `tone` is `good`, `bad` or `plain`."""

    text: str
    tone: Literal["good", "bad", "plain"] = "plain"


def in_words(
    rows: Sequence[Row], notes: Sequence[str], warnings: Sequence[str], findings: Sequence[Finding] = ()
) -> list[Sentence]:
    """Likelihood, samples, coverage, memorisation, what training noticed, warnings: a sentence or two on each."""
    judged = [*_likelihood(rows, notes), *_samples(rows), *_coverage(rows), *_memory(rows, notes)]
    noticed = [Sentence(f"Training noticed {finding}", "bad") for finding in findings]
    return [*judged, *noticed, *_warned(warnings)]


def _likelihood(rows: Sequence[Row], notes: Sequence[str]) -> list[Sentence]:
    out = []
    for row in rows:
        if row.name.startswith("log p("):
            given = " given y" if "|" in row.name else ""
            out.append(
                Sentence(f"{value_text(row)} nats per test example{given} ({row.kind}; measure: {row.measure}).")
            )
        elif row.kind in LIKELIHOOD_KINDS and "gap" in row.name:
            if row.verdict.startswith("overfits"):
                out.append(
                    Sentence(f"It fits its training rows better than test rows by {value_text(row)} nats.", "bad")
                )
            else:
                out.append(Sentence("Training and test rows are equally likely to it, within noise.", "good"))
    out += [Sentence(note) for note in notes if note.startswith(("No likelihood", "The likelihood is withheld"))]
    out += [Sentence(note, "bad") for note in notes if note.startswith("Impossible")]
    return out


def _samples(rows: Sequence[Row]) -> list[Sentence]:
    judged = [
        row
        for row in rows
        if row.kind in ("distance", "labels", "modes", "marginals") and row.z is not None and not _single_column(row)
    ]
    if not judged:
        return []
    n = min(row.n_gen for row in judged)
    if n < SMALL_N:
        return [Sentence(f"With {n} rows on each side nothing can be ranked; bring at least {SMALL_N}.", "bad")]
    off = sorted((row for row in judged if (row.z or 0) >= 2), key=lambda row: -(row.z or 0))
    if not off:
        closer = [row.name for row in judged if (row.z or 0) < -3]
        extra = f" Closer to the real data than other real data are: {', '.join(closer)}." if closer else ""
        return [
            Sentence(
                f"All {len(judged)} sample figures are indistinguishable from real data at n = {n:,}.{extra}", "good"
            )
        ]
    same = len(judged) - len(off)
    worst = "; ".join(f"{row.name} at {number(row.value)}, {row.verdict}" for row in off[:3])
    head = f"{same} of {len(judged)} sample figures cannot be told from real data" if same else (
        f"All {len(judged)} sample figures differ from real data"
    )  # fmt: skip
    return [Sentence(f"{head} at n = {n:,}. Furthest off: {worst}.", "bad" if same < len(judged) / 2 else "plain")]


def _single_column(row: Row) -> bool:
    return row.kind == "marginals" and row.name.endswith((" (KS)", " (TV)"))


def _coverage(rows: Sequence[Row]) -> list[Sentence]:
    for row in rows:
        if row.name.startswith("coverage[") and row.floor is not None and row.n_gen >= SMALL_N:
            text = (
                f"The samples reach {row.value:.0%} of the places where real rows lie; real rows reach {row.floor:.0%}"
            )
            if (row.z or 0) >= 2 and row.value < 0.8 * row.floor:
                return [Sentence(f"{text}. Parts of the data are missing from the samples.", "bad")]
            return [Sentence(f"{text} ({row.features} features).")]
    return []


def _memory(rows: Sequence[Row], notes: Sequence[str]) -> list[Sentence]:
    by_name = {row.name: row for row in rows if row.kind == "memorisation"}
    nearer, copies = by_name.get("nearer to train"), by_name.get("exact copies of train rows")
    if nearer is None or nearer.p is None:
        return [Sentence(note) for note in notes if note.startswith("Nothing is known about copying")]
    detail = f"{nearer.value:.1%} of the samples lie nearer to training than to test rows (p = {nearer.p:.2g})"
    if copies is not None:
        detail += f", {copies.value:.1%} are exact copies"
        if copies.floor:
            detail += f" (test rows: {copies.floor:.1%})"
    if nearer.verdict.startswith("copies") or (copies is not None and copies.verdict.endswith("copies")):
        return [Sentence(f"It copies its training data: {detail}. Read the distances with that in mind.", "bad")]
    if nearer.verdict.startswith("leans"):
        return [Sentence(f"It leans towards its training data: {detail}.", "bad")]
    if nearer.verdict.startswith("n too small"):
        return [Sentence(f"Too few rows to tell whether it copies: {detail}.")]
    return [Sentence(f"No sign of copying: {detail}.", "good")]


def _warned(warnings: Sequence[str]) -> list[Sentence]:
    if not warnings:
        return []
    more = f" and {len(warnings) - 1} more below" if len(warnings) > 1 else ""
    return [Sentence(f"Warned while training: {warnings[0]}{more}.".replace("..", "."), "bad")]
