"""Map-style torch Datasets: their items stacked into arrays, tensors or lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reverie.data.sources.loaded import Loaded
from reverie.errors import DataError


def is_torch_dataset(source: Any) -> bool:
    """A torch Dataset (not one of ours)."""
    return isinstance(source, torch.utils.data.Dataset)


def read_torch(source: Any) -> Loaded:
    """A map-style torch Dataset whose items are x or (x, y): tensors, arrays, pictures, numbers or texts.

    Channel-first picture tensors (C, H, W), as torch has them, become (H, W, C), and (H, W) for one channel.
    """
    if isinstance(source, torch.utils.data.IterableDataset) or not hasattr(source, "__len__"):
        raise DataError(
            "an IterableDataset has no length: give a map-style Dataset, or list(islice(data, n)) as arrays"
        )
    if len(source) == 0:
        raise DataError("the torch Dataset is empty")
    items, labels = [], []
    for at in range(len(source)):
        item = source[at]
        if isinstance(item, tuple | list):
            if len(item) not in (1, 2):
                raise DataError(f"item {at} of the torch Dataset has {len(item)} parts: x or (x, y) is expected")
            labels += [item[1]] if len(item) == 2 else []
            item = item[0]
        items.append(item)
    if labels and len(labels) != len(items):
        raise DataError("some items of the torch Dataset have labels and others have none")
    return Loaded(_stack(items), _labels(labels) if labels else None, type(source).__name__)


def _stack(items: list[Any]) -> Any:
    first = items[0]
    if isinstance(first, str):
        return items
    if isinstance(first, dict):
        raise DataError("items of the torch Dataset are dictionaries: x or (x, y) is expected")
    if not isinstance(first, torch.Tensor | np.ndarray | int | float | np.generic) and hasattr(first, "getbands"):
        items = [np.asarray(picture) for picture in items]
        first = items[0]
    if isinstance(first, torch.Tensor | np.ndarray):
        shapes = {tuple(item.shape) for item in items}
        if len(shapes) > 1:
            if (
                first.ndim <= 2
                and len({item.ndim for item in items}) == 1
                and len({shape[1:] for shape in shapes}) == 1
            ):
                return items
            raise DataError(f"items of the torch Dataset differ in shape: {sorted(shapes)[:3]}: make them one size")
        if isinstance(first, torch.Tensor):
            block = torch.stack(items)
            if block.ndim == 4 and block.shape[1] in (1, 2, 3, 4) and block.shape[3] not in (1, 2, 3, 4):
                block = block.permute(0, 2, 3, 1).contiguous()
                block = block[..., 0] if block.shape[3] == 1 else block
            return block
        return np.stack(items)
    return items


def _labels(labels: list[Any]) -> Any:
    if isinstance(labels[0], torch.Tensor):
        return torch.stack(labels)
    return np.stack(labels) if isinstance(labels[0], np.ndarray) else labels
