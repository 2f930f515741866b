"""Pictures as PNG bytes: grids of images and scatter plots of points. numpy, and Pillow when called."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reverie.errors import DataError

Bytes = NDArray[np.uint8]

PAPER, INK, REAL, GENERATED = (255, 255, 255), (226, 226, 230), (100, 116, 139), (194, 86, 45)


def to_uint8(images: Any, high: float | None = None, low: float = 0.0) -> Bytes:
    """Images (n, H, W) or (n, H, W, C) with values low..high as uint8 of the same shape, linearly and clipped.

    `high` defaults to the type's own: 255 for uint8, 65535 for uint16, 1 for bool and floats. Missing pixels (NaN)
    become 0. One, three or four channels; two channels are shown as the first alone, more than four as the first three.
    """
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    array = np.asarray(images)
    if array.ndim not in (3, 4) or array.size == 0:
        raise DataError(f"expected images as (n, H, W) or (n, H, W, C), got shape {array.shape}")
    if high is None:
        high = {"u1": 255.0, "u2": 65535.0}.get(array.dtype.str[1:], 1.0)
    if high <= low:
        raise DataError(f"image values {low}..{high}: high must exceed low")
    if array.ndim == 4:
        channels = array.shape[3]
        array = array[..., :1] if channels == 2 else array[..., :3] if channels > 4 else array
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num((array.astype(np.float64) - low) * (255.0 / (high - low)), nan=0.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def tile(images: Bytes, columns: int | None = None, gap: int = 1, background: int = 128) -> Bytes:
    """One picture (H', W') or (H', W', C) of uint8 images laid out in rows of `columns` (default: near square)."""
    n, height, width = images.shape[:3]
    columns = max(1, min(n, columns or math.ceil(math.sqrt(n))))
    rows = math.ceil(n / columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, *images.shape[3:])
    sheet = np.full(size, background, dtype=np.uint8)
    for position, image in enumerate(images):
        top, left = (position // columns) * (height + gap), (position % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def png(picture: Bytes, scale: int = 1) -> bytes:
    """uint8 picture (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as PNG bytes, each pixel repeated `scale` times."""
    from PIL import Image

    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    if scale > 1:
        picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, format="PNG", optimize=True)
    return out.getvalue()


def grid_png(
    images: Any, high: float | None = None, columns: int | None = None, *, low: float = 0.0, scale: int | None = None
) -> bytes:
    """A grid of images (n, H, W[, C]) as PNG bytes; values low..high. Small images are enlarged whole pixels at a time
    until one is about 40 pixels wide, unless `scale` says otherwise."""
    array = to_uint8(images, high, low)
    if scale is None:
        scale = max(1, round(40 / max(array.shape[1:3])))
    return png(tile(array, columns), scale)


def scatter_png(points: Any, reference: Any = None, *, size: int = 480, radius: int = 2) -> bytes:
    """Points (n, 2) over reference points (m, 2) as PNG bytes; both share one square frame around the reference."""
    from PIL import Image, ImageDraw

    sets = [np.asarray(part, dtype=np.float64) for part in (reference, points) if part is not None]
    if any(part.ndim != 2 or part.shape[1] != 2 for part in sets):
        raise DataError(f"a scatter plot needs points (n, 2), got {[part.shape for part in sets]}")
    finite = sets[0][np.isfinite(sets[0]).all(axis=1)]
    if len(finite) == 0:
        raise DataError("a scatter plot needs at least one finite point")
    centre = (finite.min(axis=0) + finite.max(axis=0)) / 2
    half = max(float((finite.max(axis=0) - finite.min(axis=0)).max()) * 0.58, 1e-9)
    factor = 2  # drawn twice as large and reduced, so dots are round
    canvas = Image.new("RGB", (size * factor, size * factor), PAPER)
    draw = ImageDraw.Draw(canvas)
    colours = [REAL, GENERATED] if reference is not None else [GENERATED]
    for part, colour in zip(sets, colours, strict=True):
        place = (part - centre) / (2 * half) + 0.5
        inside = np.isfinite(place).all(axis=1) & (np.abs(np.nan_to_num(place, nan=9.0) - 0.5) <= 0.5).all(axis=1)
        for x, y in place[inside] * (size * factor):
            r, top = radius * factor, size * factor - y
            draw.ellipse((x - r, top - r, x + r, top + r), fill=colour)
    draw.rectangle((0, 0, size * factor - 1, size * factor - 1), outline=INK, width=factor)
    out = io.BytesIO()
    canvas.resize((size, size), Image.Resampling.LANCZOS).save(out, format="PNG", optimize=True)
    return out.getvalue()
