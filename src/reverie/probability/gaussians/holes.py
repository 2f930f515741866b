"""Rows with missing cells, sorted by which cells they miss, so that rows alike are computed together.

Rows with the same pattern share matrices; patterns that miss equally many cells, with about equally many rows, go into
one padded block, so that data with as many patterns as rows cost no Python loop over patterns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """P patterns that each miss m cells, with up to R rows each.

    rows (P, R) row numbers; valid (P, R) False where padded; missing (P, m) column numbers; seen (P, d) 1 where observed.
    """

    rows: Tensor
    valid: Tensor
    missing: Tensor
    seen: Tensor


def blocks(observed: Tensor, most_rows: int, most_missing: int) -> Iterator[Block]:
    """All rows of `observed` (n, d) in blocks of at most `most_rows` rows, padding included, and at most
    `most_missing` numbers of (P, m, m) matrices (one pattern at least)."""
    patterns, inverse = _unique(observed)
    order = torch.argsort(inverse, stable=True)
    counts = torch.bincount(inverse, minlength=len(patterns))
    starts = counts.cumsum(0) - counts
    missed = (~patterns).sum(1)
    height = 2 ** torch.ceil(torch.log2(counts.double())).long()
    height = height.clamp_max(most_rows)
    keys = missed * (most_rows + 1) + height
    for key in torch.unique(keys).tolist():
        m, tall = divmod(key, most_rows + 1)
        own = torch.nonzero(keys == key)[:, 0]
        wide = max(1, min(most_rows // tall, most_missing // max(m * m, 1)))
        for first in range(0, len(own), wide):
            chosen = own[first : first + wide]
            yield from _cut(patterns[chosen], order, starts[chosen], counts[chosen], m, tall)


def _cut(patterns: Tensor, order: Tensor, starts: Tensor, counts: Tensor, m: int, tall: int) -> Iterator[Block]:
    """Blocks of these patterns: several when one has more rows than `tall`."""
    hidden = torch.nonzero(~patterns)[:, 1].view(len(patterns), m)
    for offset in range(0, int(counts.max()), tall):
        place = offset + torch.arange(tall, device=order.device)
        valid = place < counts[:, None]
        rows = order[(starts[:, None] + torch.minimum(place, counts[:, None] - 1)).flatten()].view(len(patterns), tall)
        yield Block(rows, valid, hidden, patterns.double())


def _unique(observed: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows, and the number of each row's; bits packed into one float64 where they fit, which sorts faster."""
    d = observed.shape[1]
    if d > 52:
        patterns, inverse = torch.unique(observed, dim=0, return_inverse=True)
        return patterns, inverse
    powers = 2.0 ** torch.arange(d, dtype=torch.float64, device=observed.device)
    codes, inverse = torch.unique(observed.double() @ powers, return_inverse=True)
    bits = codes.long()[:, None] >> torch.arange(d, device=observed.device)
    return (bits & 1).bool(), inverse
