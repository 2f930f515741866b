"""What a model shows of itself: a notebook card, and sample snapshots in a run folder. Duck-typed; pictures as bytes."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from reverie.data.pictures import grid_png, scatter_png

_SHOWN = 16
_NOT_CURVES = ("epoch", "step", "progress", "partial")


def sample_picture(model: Any, *, n: int = _SHOWN, seed: int = 0) -> bytes | None:
    """A PNG of samples: a grid for images, a scatter plot for two numeric columns, else None."""
    fields = model.schema.data_fields
    if len(fields) == 1 and fields[0].kind == "image":
        images = np.asarray(model.sample(n, seed=seed))
        side = images.shape[1]
        return grid_png(images, fields[0].high, scale=max(1, 64 // side))
    width = sum(max(1, int(np.prod(field.shape))) for field in fields)
    if width == 2 and all(field.kind == "number" for field in fields):
        points = np.asarray(model.sample(512, seed=seed), dtype=np.float64).reshape(512, 2)
        return scatter_png(points, size=320)
    return None


def write_snapshot(model: Any, folder: Path, step: int) -> Path:
    """Samples of a model in training, as samples/STEP.png, or the first rows of a table as samples/STEP.csv."""
    picture = sample_picture(model)
    if picture is not None:
        path = folder / f"{step:08d}.png"
        path.write_bytes(picture)
        return path
    path = folder / f"{step:08d}.csv"
    sample_frame(model, _SHOWN).to_csv(path, index=False)
    return path


def sample_frame(model: Any, n: int, *, seed: int = 0) -> Any:
    """`n` samples as a DataFrame; of sequences a row per step, numbered, of texts a row per text."""
    import pandas as pd

    examples = model.sample(n, seed=seed)
    field = model.schema.data_fields[0]
    if field.kind == "text" and isinstance(examples, list):
        return pd.DataFrame({field.name: examples})
    if field.kind != "sequence" or model.schema.container == "long":
        return pd.DataFrame(examples)
    parts = [pd.DataFrame(item if isinstance(item, list | tuple) else np.asarray(item)) for item in examples]
    frame = pd.concat(parts, keys=range(len(parts)), names=["sequence", "step"])
    frame.columns = [field.name if not field.shape else f"{field.name}[{column}]" for column in frame.columns]
    return frame.reset_index()


def curve_svg(history: list[dict[str, Any]], *, width: int = 320, height: int = 120) -> str:
    """The metrics of a history as one small SVG, each scaled to its own range and named with its last value."""
    names = [k for k, v in history[-1].items() if isinstance(v, float) and k not in _NOT_CURVES] if history else []
    lines, colours = [], ("#3d6fb6", "#c2562d", "#5b8c3a", "#8a5aa8", "#7a6a3a", "#3a8c8c")
    for number, name in enumerate(names[:6]):
        values = np.array([record.get(name, np.nan) for record in history], dtype=np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        low, span = float(values.min()), float(np.ptp(values)) or 1.0
        x = np.linspace(6, width - 6, len(values))
        y = height - 20 - (values - low) / span * (height - 34)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        colour = colours[number]
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
        label = f"{html.escape(name)} {values[-1]:.4g}"
        column, row = number % 2, number // 2
        lines.append(
            f'<text x="{6 + column * 156}" y="{height - 10 + row * 10}" font-size="9" fill="{colour}">{label}</text>'
        )
    body, tall = "".join(lines), height + 10 * ((min(len(names), 6) + 1) // 2) - 6
    return (
        f'<svg role="img" aria-label="training curves" viewBox="0 0 {width} {tall}" width="{width}" '
        f'height="{tall}" font-family="sans-serif">{body}</svg>'
    )


def model_card(model: Any) -> str:
    """The HTML a notebook shows for a model: what it is, its curves, samples."""
    title = f"{type(model.estimator).__name__} <small>({html.escape(model.family)})</small>"
    facts = "".join(f"<li>{html.escape(line)}</li>" for line in model.summary().splitlines()[1:])
    parts = [f"<h4 style='margin:0'>{title}</h4><ul style='margin:.3em 0 .6em 1.2em'>{facts}</ul>"]
    if len(model.history) > 1:
        parts.append(curve_svg(model.history))
    picture = sample_picture(model)
    if picture is not None:
        data = base64.b64encode(picture).decode()
        parts.append(f'<img alt="samples of the model" style="max-width:320px" src="data:image/png;base64,{data}"/>')
    else:
        rows = sample_frame(model, 5)
        parts.append(rows.head(_SHOWN).to_html(index=False, border=0, max_cols=12))
    return f"<div>{''.join(parts)}</div>"
