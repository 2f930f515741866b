"""Likelihood rows: what they are of, in which measure, and when there is none."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.errors import ReverieError
from reverie.evaluation.rows import Row, number
from reverie.metrics import mean_error
from reverie.metrics.arrays import FloatArray

if TYPE_CHECKING:
    from reverie.evaluation.protocol import Judged
    from reverie.evaluation.sources import Real

LARGEST_GAP = 1.0
"""Nats between the two estimates of log Z (or of a likelihood) above which the figure is withheld."""


@dataclass
class Likelihood:
    """Rows, notes, and the nats of each test row `(n,)` for paired comparisons."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    per_row: FloatArray | None = None


def likelihood(model: Judged, test: Real, train: Real | None, limit: int) -> Likelihood:
    """Mean log-probability in nats per example +- standard error, bits per dimension for images and discrete data, and
    the train - test gap.

    No row when the model has no likelihood, when only an unnormalised one exists (the gap remains: its constant
    cancels), or when an estimate's two sides lie more than 1 nat apart; a note says why.
    """
    out = Likelihood()
    if "log_prob" not in model.can:
        out.notes.append("No likelihood: this family gives samples only, so there is no probability to report.")
        return out
    test = test.take(slice(0, limit))
    start = time.perf_counter()
    try:
        nats, given = _log_prob(model, test)
    except ReverieError as error:
        out.notes.append(f"No likelihood: {error}")
        return out
    seconds = time.perf_counter() - start
    kind, measure = str(model.log_prob_kind), str(model.measure)
    info = getattr(model, "log_prob_info", None) or {}
    about = _about(info)
    gap = info.get("gap")
    if gap is not None and not abs(float(gap)) <= LARGEST_GAP:
        out.notes.append(
            f"The likelihood is withheld: its two estimates lie {number(abs(float(gap)))} nats apart, more than "
            f"{LARGEST_GAP:.0f}{about}. Give the estimate more work before quoting it."
        )
        return out
    of = "log p(x | y)" if given else "log p(x)"
    common: dict[str, Any] = {"kind": kind, "measure": measure}
    if kind == "unnormalised":
        out.notes.append("The log-probability is unnormalised: only its train - test gap means something.")
    else:
        out.per_row = nats
        out.rows += _level_rows(nats, test, of, seconds, about, common)
    out.notes += _impossible(nats, kind, measure)
    if train is not None:
        row = _gap_row(model, nats, train.take(slice(0, limit)), of, common)
        if row is not None:
            out.rows.append(row)
    return out


def _log_prob(model: Judged, real: Real) -> tuple[FloatArray, bool]:
    """Nats per row `(n,)`, and whether they are given y."""
    if real.labelled and model.schema.conditions:
        return np.asarray(model.log_prob(real.X, y=real.y), dtype=np.float64).reshape(-1), True
    return np.asarray(model.log_prob(real.X), dtype=np.float64).reshape(-1), False


def _level_rows(nats: FloatArray, test: Real, of: str, seconds: float, about: str, common: dict[str, Any]) -> list[Row]:
    mean = mean_error(nats)
    impossible = int((~np.isfinite(nats)).sum())
    note = f"nats per example{about}"
    if impossible:
        note += f"; {impossible} of {len(nats)} test rows have no finite log-probability"
    rows = [
        Row(
            name=of,
            value=mean.value,
            low=mean.value - mean.standard_error,
            high=mean.value + mean.standard_error,
            n_real=len(nats),
            direction="up",
            seconds=seconds,
            note=note,
            **common,
        )
    ]
    cells, uniform = _cells(test, binarised="binarised" in common["measure"])
    if cells and (any(f.kind == "image" for f in test.schema.data_fields) or common["measure"].startswith("counting")):
        scale = -1.0 / (math.log(2.0) * cells)
        error = mean.standard_error * abs(scale)
        against = f"; a uniform model has {uniform:.3g}" if uniform and common["measure"].startswith("counting") else ""
        rows.append(
            Row(
                name="bits/dim given y" if "|" in of else "bits/dim",
                value=mean.value * scale,
                low=mean.value * scale - error,
                high=mean.value * scale + error,
                n_real=len(nats),
                direction="down",
                note=f"bits per observed cell ({cells:.4g} cells){against}",
                **common,
            )
        )
    return rows


def _cells(test: Real, *, binarised: bool) -> tuple[float, float]:
    """Mean number of observed cells per row, and the bits per cell of a uniform model (0 if unknown)."""
    cells, bits, known = 0.0, 0.0, True
    for item in test.schema.data_fields:
        if item.kind in ("sequence", "text"):
            return 0.0, 0.0
        observed = float((~item.is_missing(test.table[item.name])).mean()) * item.width
        cells += observed
        levels = 0.0
        if item.kind == "image" and "float" not in item.dtype and item.high is not None:
            levels = 2.0 if binarised else item.high - (item.low or 0.0) + 1.0
        elif item.kind in ("category", "boolean"):
            levels = 2.0 if item.kind == "boolean" else float(len(item.categories or ()))
        known = known and levels >= 1.0
        bits += observed * math.log2(max(levels, 1.0))
    return cells, bits / cells if known and cells else 0.0


def _gap_row(model: Judged, test_nats: FloatArray, train: Real, of: str, common: dict[str, Any]) -> Row | None:
    """Mean over training rows minus mean over test rows, with its standard error; 0 is what no overfitting gives."""
    start = time.perf_counter()
    try:
        train_nats, _ = _log_prob(model, train)
    except ReverieError:
        return None
    a, b = mean_error(train_nats), mean_error(test_nats)
    gap, error = a.value - b.value, math.hypot(a.standard_error, b.standard_error)
    if not math.isfinite(gap) or not math.isfinite(error):
        return None
    z = gap / error if error > 0 else math.copysign(math.inf, gap) if gap else 0.0
    words = "no gap beyond noise" if z < 2 else f"overfits by {number(gap, error)} nats"
    return Row(
        name=f"train − test gap of {of}",
        value=gap,
        low=gap - error,
        high=gap + error,
        floor=0.0,
        floor_sd=error,
        n_real=min(len(train_nats), len(test_nats)),
        direction="down",
        seconds=time.perf_counter() - start,
        note="nats per example",
        verdict=words,
        **common,
    )


def _impossible(nats: FloatArray, kind: str, measure: str) -> list[str]:
    """A discrete probability above 1 is a fault of scaling or dequantisation, not a good model."""
    if measure.startswith("counting") and kind in ("exact", "lower bound") and len(nats) and np.max(nats) > 1e-6:
        return [f"Impossible: a discrete row has log-probability {number(float(np.max(nats)))} > 0. Do not trust it."]
    return []


def _about(info: dict[str, Any]) -> str:
    """How an estimate was made, as a clause for a note."""
    parts = [str(info["method"])] if info.get("method") else []
    if info.get("standard_error") is not None:
        error = 3 * float(info["standard_error"])
        parts.append(f"3 standard errors {number(error, error)} nats")
    if info.get("gap") is not None:
        gap = abs(float(info["gap"]))
        parts.append(f"gap of its two sides {number(gap, gap)} nats")
    return f" ({', '.join(parts)})" if parts else ""
