"""A number as a path of left and right: the line cut in two, again and again, each time at the median of what lies there, so
that 2^depth bins hold about as many rows each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reverie.probability.trees.variables import Variable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """`edges` (2^depth + 1,) of the bins of one number, and of the rows in each their `mean`, `sd` and `count`."""

    edges: Floats
    mean: Floats
    sd: Floats
    count: Floats


def bisect(variable: Variable, values: Floats, weight: Floats, depth: int) -> Bins:
    """The bins of a number from its values (n,). Cuts through a grid lie between cells; where all values of a bin are the same it
    is not cut: its left part is the whole, and nothing lies in its right part."""
    bins = 2**depth
    edges = np.empty(bins + 1)
    edges[0], edges[-1] = variable.range
    order = np.argsort(values, kind="stable")
    _cut(variable, values[order], np.cumsum(weight[order]), edges, 0, bins)
    which = np.searchsorted(edges[1:-1], values, side="left")
    count: Floats = np.bincount(which, weights=weight, minlength=bins).astype(np.float64)
    filled = np.maximum(count, 1e-300)
    mean = np.bincount(which, weights=weight * values, minlength=bins) / filled
    low, high = np.maximum(edges[:-1], values.min()), np.minimum(edges[1:], values.max())
    mean = np.where(count > 0, mean, 0.5 * (low + np.maximum(high, low)))
    squares = np.bincount(which, weights=weight * np.square(values - mean[which]), minlength=bins) / filled
    return Bins(edges, mean, np.sqrt(np.maximum(squares, 1e-12)), count)


def _cut(variable: Variable, values: Floats, upto: Floats, edges: Floats, first: int, last: int) -> None:
    """Edges between bins `first` and `last`, whose outer edges stand, from their values in rising order."""
    if last - first < 2:
        return
    middle = (first + last) // 2
    edge, at = edges[last], len(values)
    if len(values) and values[0] < values[-1]:
        half = 0.5 * (upto[0] + upto[-1])
        value = values[min(int(np.searchsorted(upto, half)), len(values) - 1)]
        left, right = int(np.searchsorted(values, value, "left")), int(np.searchsorted(values, value, "right"))
        at = right if right < len(values) and (left == 0 or len(values) / 2 - left > right - len(values) / 2) else left
        below, above = values[at - 1], values[at]
        edge = 0.5 * (below + above)
        if variable.gridded:
            edge = float(variable.edges(torch.tensor(below, dtype=torch.float64))[1])
    edges[middle] = edge
    _cut(variable, values[:at], upto[:at], edges, first, middle)
    _cut(variable, values[at:], upto[at:], edges, middle, last)
