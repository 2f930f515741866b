"""Charts as small SVG texts (they follow the page's light or dark colours) and grids of images as PNG.

Every figure carries an alternative text. Colours come from CSS variables `--real` and `--made` with fallbacks, so the
same SVG also stands alone.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from reverie.data.pictures import grid_png
from reverie.evaluation.rows import number
from reverie.metrics import Column
from reverie.metrics.arrays import FloatArray

REAL, MADE = "var(--real,#5b6b83)", "var(--made,#c2562d)"
_TEXT = 'fill="currentColor" font-family="inherit" font-size="11"'
_NOT_METRICS = {
    "epoch",
    "step",
    "phase",
    "seconds",
    "minutes",
    "time",
    "rows",
    "examples",
    "world",
    "lr",
    "learning_rate",
}
_MOST_POINTS = 800


@dataclass(frozen=True)
class Figure:
    """One picture or small table. `section` says where it belongs: `samples`, `pairs`, `columns`, `training`."""

    section: str
    title: str
    alt: str
    caption: str = ""
    svg: str = ""
    png: bytes = b""
    header: tuple[str, ...] = ()
    cells: tuple[tuple[str, ...], ...] = ()

    @property
    def uri(self) -> str:
        """The PNG as a data URI, so that a page needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode() if self.png else ""


def image_grid(
    images: Any,
    high: float | None,
    *,
    section: str,
    title: str,
    alt: str,
    columns: int = 8,
    caption: str = "",
    low: float = 0.0,
) -> Figure:
    """A grid of images (n, H, W[, C]) with values low..high, enlarged by whole pixels to about 480 pixels wide."""
    scale = max(1, round(480 / (columns * (np.asarray(images).shape[2] + 1))))
    return Figure(section, title, alt, caption, png=grid_png(images, high, columns, low=low, scale=scale))


def scatter(real: Any, made: Any, names: tuple[str, str] = ("x", "y")) -> Figure:
    """Points (n, 2) and (m, 2), at most 800 each, in the frame of the real ones."""
    a, b = (np.asarray(part, dtype=np.float64)[:_MOST_POINTS] for part in (real, made))
    a, b = (part[np.isfinite(part).all(axis=1)] for part in (a, b))
    spread = np.maximum(a.max(axis=0) - a.min(axis=0), 1e-9)
    low, high = a.min(axis=0) - 0.08 * spread, a.max(axis=0) + 0.08 * spread
    outside = int(((b < low) | (b > high)).any(axis=1).sum())
    frame = _Frame(360, 320, low[0], high[0], low[1], high[1])
    dots = []
    for part, colour, alpha in ((a, REAL, 0.45), (b, MADE, 0.55)):
        inside = part[((part >= low) & (part <= high)).all(axis=1)]
        circles = "".join(f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="1.9"/>' for x, y in inside)
        dots.append(f'<g fill="{colour}" fill-opacity="{alpha}">{circles}</g>')
    alt = (
        f"Scatter plot of {len(a)} real and {len(b)} generated points; {outside} generated ones lie outside the frame."
    )
    caption = f"{outside} of {len(b)} generated points lie outside the frame." if outside else ""
    svg = frame.svg("".join(dots), alt, x_label=names[0], y_label=names[1])
    return Figure("samples", "Real and generated points", alt, caption, svg=svg)


def marginal(real: Column, made: Column, levels: Sequence[str] = (), *, dates: bool = False) -> Figure:
    """A column's real distribution (filled) and the generated one (line): histogram of numbers or bars of categories."""
    draw = _category_bars if real.levels is not None else _histogram
    if real.levels is None and not np.isfinite(real.values).any():
        return Figure("columns", real.name, f"{real.name}: all real cells are missing", header=("",), cells=())
    svg, alt = draw(real, made, levels, dates)
    missing = [float(np.mean(c.values < 0 if c.levels is not None else np.isnan(c.values))) for c in (real, made)]
    caption = f"missing: {missing[0]:.1%} real, {missing[1]:.1%} generated" if any(missing) else ""
    return Figure("columns", real.name, alt, caption, svg=svg)


def _histogram(real: Column, made: Column, levels: Sequence[str], dates: bool) -> tuple[str, str]:
    a, b = (column.values[np.isfinite(column.values)] for column in (real, made))
    low, high = np.quantile(a, [0.005, 0.995])
    low, high = (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)
    edges = np.linspace(low, high, 25)
    heights = [np.histogram(part, edges)[0] / max(len(part), 1) for part in (a, b)]
    top = max(float(max(h.max() for h in heights)), 1e-9) * 1.08
    frame = _Frame(300, 170, low, high, 0.0, top)

    def outline(h: FloatArray) -> str:
        points = [(edges[0], 0.0)]
        for left, right, value in zip(edges[:-1], edges[1:], h, strict=True):
            points += [(left, value), (right, value)]
        points.append((edges[-1], 0.0))
        return " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)

    inside = f'<polygon points="{outline(heights[0])}" fill="{REAL}" fill-opacity=".35"/>'
    inside += f'<polyline points="{outline(heights[1])}" fill="none" stroke="{MADE}" stroke-width="1.8"/>'
    outside = float(np.mean((b < low) | (b > high))) if len(b) else 0.0
    show = _date if dates else _tick
    alt = (
        f"Histogram of {real.name}: median {show(float(np.median(a)))} real, "
        f"{show(float(np.median(b))) if len(b) else 'none'} generated; {outside:.1%} of the generated lie outside the plot."
    )
    return frame.svg(inside, alt, y_ticks=False, show=show), alt


def _category_bars(real: Column, made: Column, levels: Sequence[str], dates: bool) -> tuple[str, str]:
    count = real.levels or 1
    shares = [
        np.bincount(c.values[c.values >= 0], minlength=count) / max(int((c.values >= 0).sum()), 1) for c in (real, made)
    ]
    order = np.argsort(-shares[0], kind="stable")[:8]
    rest = [float(share.sum() - share[order].sum()) for share in shares]
    names = [str(levels[i]) if i < len(levels) else str(i) for i in order]
    pairs = [(shares[0][i], shares[1][i]) for i in order]
    if count > len(order):
        names, pairs = [*names, "all others"], [*pairs, (rest[0], rest[1])]
    top, step, left, width = max(max(pair) for pair in pairs) or 1.0, 24, 104, 190
    parts = []
    for row, (name, (a, b)) in enumerate(zip(names, pairs, strict=True)):
        y = row * step + 4
        short = name if len(name) <= 16 else name[:15] + "…"
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end" {_TEXT}>{escape(short)}</text>')
        parts.append(
            f'<rect x="{left}" y="{y}" width="{a / top * width:.1f}" height="8" fill="{REAL}" fill-opacity=".55"/>'
        )
        parts.append(f'<rect x="{left}" y="{y + 9}" width="{b / top * width:.1f}" height="8" fill="{MADE}"/>')
    alt = f"Shares of {real.name}: " + ", ".join(
        f"{name} {a:.0%} real {b:.0%} generated" for name, (a, b) in zip(names, pairs, strict=True)
    )
    return _svg(300, len(names) * step + 8, "".join(parts), alt), alt


def curves(history: Iterable[Mapping[str, Any]]) -> list[Figure]:
    """Training curves: one panel per metric (at most six), a training and a validation metric of one name together."""
    entries = [entry for entry in history if isinstance(entry, Mapping)]
    series: dict[str, dict[bool, tuple[list[float], list[float]]]] = {}
    unit = (
        "step"
        if len({entry.get("phase") for entry in entries}) > 1 or any("epoch" not in e for e in entries)
        else "epoch"
    )
    for position, entry in enumerate(entries):
        where = entry.get(unit, position)
        for key, value in entry.items():
            if key in _NOT_METRICS or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                continue
            base = re.sub(r"^(valid(ation)?|val|train(ing)?)[ _/.-]+|[ _/.-]+(valid(ation)?|val|train(ing)?)$", "", key)
            held_out = bool(re.search(r"(^|[ _/.-])val(id(ation)?)?($|[ _/.-])", key))
            xs, ys = series.setdefault(base, {}).setdefault(held_out, ([], []))
            xs.append(float(where))
            ys.append(float(value))
    drawn = [(name, parts) for name, parts in series.items() if max(len(xs) for xs, _ in parts.values()) > 1]
    return [_curve(name, parts, unit) for name, parts in drawn[:6]]


def _curve(name: str, parts: Mapping[bool, tuple[list[float], list[float]]], unit: str) -> Figure:
    xs = [x for series in parts.values() for x in series[0]]
    ys = [y for series in parts.values() for y in series[1]]
    # One wild first value must not flatten the rest: the axis spans the 1 % to 99 % quantiles and a margin.
    low, high = (float(q) for q in np.quantile(ys, [0.01, 0.99]))
    margin = 0.06 * (high - low) or max(abs(high) * 0.05, 0.5)
    frame = _Frame(360, 200, min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, low - margin, high + margin)
    lines, words = [], []
    for held_out, (px, py) in sorted(parts.items()):
        step = max(1, len(px) // 400)
        points = " ".join(
            f"{frame.x(x):.1f},{frame.y(min(max(y, low - margin), high + margin)):.1f}"
            for x, y in zip(px[::step], py[::step], strict=True)
        )
        colour, dash = (MADE, "") if held_out else (REAL, "")
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8" {dash}/>')
        words.append(f"{'validation' if held_out else 'training'} from {number(py[0])} to {number(py[-1])}")
    alt = f"{name} over {unit}s: " + "; ".join(words)
    legend = "training grey, validation coloured" if len(parts) > 1 else ""
    return Figure("training", name, alt, legend, svg=frame.svg("".join(lines), alt, x_label=unit))


def loss_curve_svg(history: Iterable[Mapping[str, Any]]) -> str:
    """The first panel of `curves` as SVG text; empty when the history holds no metric twice."""
    drawn = curves(history)
    return drawn[0].svg if drawn else ""


def strip(z: float | None) -> str:
    """A value against its floor on one scale: the band is the floor +- 2 sd, the dot the value, clipped at 12 sd."""
    if z is None:
        return ""
    low, high, width = -5.0, 12.0, 110.0

    def place(value: float) -> float:
        return (min(max(value, low), high) - low) / (high - low) * width

    dot = f'<circle cx="{place(z):.1f}" cy="8" r="4" fill="{MADE}"/>'
    if z > high:
        dot = f'<path d="M{width - 9} 3 L{width - 1} 8 L{width - 9} 13 Z" fill="{MADE}"/>'
    inside = (
        f'<line x1="0" x2="{width}" y1="8" y2="8" stroke="currentColor" stroke-opacity=".2"/>'
        f'<rect x="{place(-2):.1f}" y="3" width="{place(2) - place(-2):.1f}" height="10" rx="2" fill="{REAL}" fill-opacity=".3"/>'
    )
    return (
        f'<svg class="strip" viewBox="-4 0 {width + 8} 16" width="{width + 8}" height="16" aria-hidden="true">'
        f"{inside}{dot}</svg>"
    )


@dataclass(frozen=True)
class _Frame:
    """A plot's frame: pixel size and data range; margins leave room for tick labels."""

    width: int
    height: int
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return 44 + (value - self.x0) / (self.x1 - self.x0) * (self.width - 54)

    def y(self, value: float) -> float:
        return (self.height - 30) - (value - self.y0) / (self.y1 - self.y0) * (self.height - 40)

    def svg(
        self, inside: str, alt: str, *, x_label: str = "", y_label: str = "", y_ticks: bool = True, show: Any = None
    ) -> str:
        show = show or _tick
        parts = []
        bottom, left = self.height - 30, 44
        for value in ticks(self.y0, self.y1, 4) if y_ticks else []:
            y = self.y(value)
            parts.append(
                f'<line x1="{left}" x2="{self.width - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" stroke-opacity=".1"/>'
            )
            parts.append(
                f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" {_TEXT} fill-opacity=".65">{show(value)}</text>'
            )
        marks = [self.x0, self.x1] if show is _date else ticks(self.x0, self.x1, 5)
        for i, value in enumerate(marks):
            anchor = ("start", "end")[i] if show is _date else "middle"
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{bottom + 15}" text-anchor="{anchor}" {_TEXT} fill-opacity=".65">{show(value)}</text>'
            )
        parts.append(
            f'<line x1="{left}" x2="{self.width - 10}" y1="{bottom}" y2="{bottom}" stroke="currentColor" stroke-opacity=".35"/>'
        )
        if x_label:
            parts.append(
                f'<text x="{self.width - 10}" y="{self.height - 3}" text-anchor="end" {_TEXT} fill-opacity=".65">{escape(x_label)}</text>'
            )
        if y_label:
            parts.append(f'<text x="2" y="10" {_TEXT} fill-opacity=".65">{escape(y_label)}</text>')
        return _svg(self.width, self.height, "".join(parts) + inside, alt)


def _svg(width: int, height: int, inside: str, alt: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(alt, {chr(34): "&quot;"})}">{inside}</svg>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten apart) between low and high."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw), 10.0 * power)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    text = f"{value:.4g}"
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{value:,.0f}"
    return text.replace("-", "−")


def _date(value: float) -> str:
    return str(np.datetime64(int(value), "ns").astype("datetime64[D]"))
