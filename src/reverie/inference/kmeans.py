"""k-means with k-means++ seeding (Arthur & Vassilvitskii 2007), as a start for mixtures and codebooks."""

from __future__ import annotations

import torch
from torch import Tensor


def kmeans(rows: Tensor, k: int, source: torch.Generator, *, lloyd: int = 10) -> Tensor:
    """Centres (k, d) of rows (n, d): k-means++ seeding, then Lloyd steps; an emptied cluster keeps its centre."""
    rows_cpu = rows.cpu()
    first = int(torch.randint(len(rows_cpu), (), generator=source))
    centres = [rows_cpu[first]]
    nearest = (rows_cpu - centres[0]).square().sum(1)
    for _ in range(k - 1):
        chance = nearest if bool(nearest.sum() > 0) else torch.ones_like(nearest)
        centres.append(rows_cpu[int(torch.multinomial(chance, 1, generator=source))])
        nearest = torch.minimum(nearest, (rows_cpu - centres[-1]).square().sum(1))
    found = torch.stack(centres)
    for _ in range(lloyd):
        labels = torch.cdist(rows_cpu, found).argmin(1)
        sums = torch.zeros_like(found).index_add_(0, labels, rows_cpu)
        counts = torch.bincount(labels, minlength=k).double()[:, None]
        found = torch.where(counts > 0, sums / counts.clamp_min(1), found)
    return found.to(rows.device)
