"""What a chain keeps of a batch that comes again in every pass: its steps' features, in the order of the recursions.

Only work that depends on the data alone is kept; nothing here depends on the chain's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.data.space import Batch, Ragged
from reverie.inference import message_passing as mp
from reverie.inference.layout import Layout
from reverie.inference.pieces import in_parallel, threads
from reverie.probability.exponential_family import Sums, sum_tensors
from reverie.probability.features import SharedFeatures

_WORTH = 100_000
"""Multiply-adds of one step of the recursion from which a thread of its own pays: smaller steps wait for one another
(100 x 200 steps with 8 states took twice as long on two threads as on one)."""


@dataclass
class Share:
    """The sequences of a batch that one thread takes."""

    sequences: Tensor  # (n,) their numbers in the batch
    layout: Layout
    features: Tensor  # (F, N) in the layout's order
    base: Tensor  # (n,) log h(x) summed over every sequence, float64
    label: Tensor | None  # (N, K) log-probabilities that labels add


def shares(batch: Batch, emission: SharedFeatures, given: Tensor | None, *, compiled: bool = False) -> list[Share]:
    """The batch cut into one share per thread where that pays, sequences of all lengths in each. `given` (N, K) is what
    its labels add to the emissions' log-probabilities."""
    x: Ragged = batch.x
    whole = Layout(x.lengths, emission.size, device=str(x.device), compiled=compiled)
    # compiled passes are not cut into steps that wait: all of a share counts
    side_by_side = (len(x.values) if whole.compiled else len(whole.size)) * emission.size**2
    count = min(threads(), len(x)) if x.device.type == "cpu" else 1
    if count == 1 or side_by_side < count * _WORTH:
        return [_share(batch, emission, given, torch.arange(len(x)), whole)]
    order = torch.argsort(x.lengths.cpu(), descending=True, stable=True)
    parts = [order[number::count].sort().values for number in range(count)]
    layouts = [Layout(x.lengths[part], emission.size, compiled=compiled) for part in parts]
    return [_share(batch, emission, given, *pair) for pair in zip(parts, layouts, strict=True)]


def _share(batch: Batch, emission: SharedFeatures, given: Tensor | None, sequences: Tensor, layout: Layout) -> Share:
    x: Ragged = batch.x
    rows = x.steps(sequences.to(x.lengths.device))
    assert isinstance(rows, Tensor)
    steps = layout.pack(rows.to(x.device))
    observed = None if batch.observed is None else batch.observed[steps]
    features, base = emission.features(x.values[steps], observed)
    label = None if given is None else given[steps].to(x.dtype)
    return Share(sequences.to(x.device), layout, features, layout.per_sequence(base), label)


def expect(
    parts: list[Share],
    emission: SharedFeatures,
    holes: bool,
    initial: Tensor,
    transition: Tensor,
    weight: Tensor | None,
) -> tuple[Sums, Tensor, Tensor, Tensor]:
    """The E-step over the shares: sums of the emissions, expected moves (K, K) and first states (K,), log p(x) of every
    sequence of the batch (n,). weight (n,) counts the sequences."""

    def one(share: Share) -> tuple[Sums, mp.Posterior]:
        layout, room = share.layout, share.layout.room("emission", emission.size, share.features)
        log_b = emission.log_prob_of(share.features, holes, room).t()
        if share.label is not None:
            log_b = log_b + share.label
        own = None if weight is None else weight[share.sequences]
        found = mp.posteriors(log_b, layout, initial, transition, weights=own, packed=True)
        gamma = found.gamma.t()
        if own is not None:
            gamma = gamma * layout.pack(torch.repeat_interleave(own, layout.lengths)).to(gamma.dtype)
        return emission.sums_of(share.features, gamma, holes), found

    def work(some: Sequence[Share]) -> list[tuple[Sums, mp.Posterior]]:
        return [one(share) for share in some]

    found = [pair for some in in_parallel(work, parts, initial.device) for pair in some]
    log_p = torch.empty(sum(len(share.sequences) for share in parts), dtype=torch.float64, device=initial.device)
    for share, (_, posterior) in zip(parts, found, strict=True):
        log_p[share.sequences] = posterior.log_prob + share.base
    sums = {name: sum_tensors([own[name] for own, _ in found]) for name in found[0][0]}
    moves, first = (sum_tensors([getattr(p, name) for _, p in found]) for name in ("transitions", "first"))
    return sums, moves, first, log_p
