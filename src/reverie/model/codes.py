"""Examples to codes and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.config import check_count
from reverie.data.forms.reading import restore_table
from reverie.data.table import Table
from reverie.errors import InvalidOption
from reverie.model.core import Core, moved


def encode(model: Core, X: Any, y: Any = None) -> Any:
    """See `Model.encode`."""
    model.require("encode")
    found = list(encoded(model, X, y))
    codes = np.concatenate([codes.cpu().numpy() for _, codes, _ in found])
    return model.intake.steps([table for table, _, _ in found], codes) if model.codec.space.sequence else codes


def decode(model: Core, Z: Any, y: Any = None) -> Any:
    """See `Model.decode`."""
    model.require("decode")
    try:
        codes = torch.as_tensor(np.asarray(Z, dtype=np.float64)).to(model.codec.space.torch_dtype)
    except (TypeError, ValueError):
        raise InvalidOption("decode: codes must be an array of numbers (n, d)") from None
    width = int(getattr(model.network, "code_width", codes.shape[-1]))
    if codes.ndim != 2 or codes.shape[1] != width or not torch.isfinite(codes).all():
        raise InvalidOption(f"decode: codes must be finite, of shape (n, {width}); got {tuple(codes.shape)}")
    model.require_y(y)
    condition, _ = model.intake.conditions(y, len(codes), 0)
    with torch.inference_mode():
        x = model.network.decode(codes.to(model.device), moved(condition, model.device))  # type: ignore[operator]
    return restore_table(model.schema, model.codec.decode(x))


def reconstruct(model: Core, X: Any, y: Any = None) -> Any:
    """See `Model.reconstruct`."""
    model.require("reconstruct")
    tables = []
    for _, codes, condition in encoded(model, X, y):
        with torch.inference_mode():
            tables.append(model.codec.decode(model.network.decode(codes, condition)))  # type: ignore[operator]
    return restore_table(model.schema, Table.concat(tables))


def interpolate(model: Core, a: Any, b: Any, steps: int = 8, *, y: Any = None) -> Any:
    """See `Model.interpolate`."""
    model.require("interpolate")
    check_count(steps, "steps", least=2)
    first = torch.cat([codes for _, codes, _ in encoded(model, a, y)])
    second = torch.cat([codes for _, codes, _ in encoded(model, b, y)])
    if first.shape != second.shape:
        raise InvalidOption(f"interpolate: a has {len(first)} rows and b {len(second)}; give as many")
    weights = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device)
    with torch.inference_mode():
        path = torch.stack([model.network.blend(first, second, t) for t in weights], 1).flatten(0, 1)  # type: ignore[operator]
        condition, _ = model.intake.conditions(y, len(first), 0)
        if condition is not None:
            condition = condition.to(model.device).repeat_interleave(steps, 0)
        x = model.network.decode(path, condition)  # type: ignore[operator]
    return restore_table(model.schema, model.codec.decode(x))


def encoded(model: Core, X: Any, y: Any) -> Iterator[tuple[Table, Tensor, Tensor | None]]:
    """(table, codes, condition) chunk by chunk."""
    model.require_y(y)
    for start, table, prepared in model.intake.prepared(X, y, model.chunk):
        if getattr(model.network, "reads_middle", False):
            x = model.codec.middle(prepared.x).to(model.device)
        else:
            x = model.codec.noise(prepared.x, model.noise(0, "binarise", len(prepared), start)).to(model.device)
        condition = moved(prepared.y, model.device)
        with torch.inference_mode():
            codes = model.network.encode(x, moved(prepared.observed, model.device), condition)  # type: ignore[operator]
        yield table, codes, condition
