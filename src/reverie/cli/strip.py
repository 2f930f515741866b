"""One picture with test rows and the samples of several models side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from reverie.cli.sample import picture_range
from reverie.data import pictures
from reverie.data.dataset import Dataset

_SIDE = 8
_GAP, _HEAD = 16, 34


def side_by_side(models: Mapping[str, Any], test: Dataset, *, seed: int = 0) -> bytes | None:
    """PNG bytes: a panel of test rows and one panel for each model, with its name. For pictures and points in the
    plane; None for other data."""
    fields = next(iter(models.values())).schema.data_fields
    if fields[0].kind == "image":
        return _strip({"test data": test.head(_SIDE**2), **_drawn(models, _SIDE**2, seed)}, models)
    if sum(max(field.width, 1) for field in fields) == 2 and {field.kind for field in fields} == {"number"}:
        return _strip({"test data": test.head(1000), **_drawn(models, 1000, seed)}, models)
    return None


def _drawn(models: Mapping[str, Any], n: int, seed: int) -> dict[str, Any]:
    return {name: model.sample(n, seed=seed) for name, model in models.items()}


def _strip(panels: Mapping[str, Any], models: Mapping[str, Any]) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    first = next(iter(models.values()))
    drawn = {
        title: Image.open(io.BytesIO(_panel(first, rows, panels))).convert("RGB") for title, rows in panels.items()
    }
    width = sum(image.width + _GAP for image in drawn.values()) + _GAP
    sheet = Image.new("RGB", (width, max(image.height for image in drawn.values()) + _HEAD + _GAP), (255, 255, 255))
    pen, font, left = ImageDraw.Draw(sheet), ImageFont.load_default(size=18), _GAP
    for title, image in drawn.items():
        pen.text((left + image.width / 2, _HEAD / 2), title, fill=(40, 40, 46), font=font, anchor="mm")
        sheet.paste(image, (left, _HEAD))
        left += image.width + _GAP
    out = io.BytesIO()
    sheet.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _panel(model: Any, rows: Any, panels: Mapping[str, Any]) -> bytes:
    if model.schema.data_fields[0].kind == "image":
        high, low = picture_range(model)
        side = max(np.asarray(rows).shape[1:3])
        return pictures.grid_png(rows, high, _SIDE, low=low, scale=max(1, round(24 / side)))
    reference = np.asarray(next(iter(panels.values())), dtype=np.float64).reshape(-1, 2)
    return pictures.scatter_png(np.asarray(rows, dtype=np.float64).reshape(-1, 2), reference, size=260)
