"""How rows fall through trees that are stored as arrays: node i asks whether variable `feature[i]` is at most
`threshold[i]`, and passes on to `left[i]` or `right[i]`; where `leaf[i]` is not negative it is a leaf of that number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Nodes:
    """The nodes of all trees, one after the other, (N,) each; `roots` (B,) says where the trees begin."""

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    leaf: Tensor
    roots: Tensor

    def joined(self, other: Nodes) -> Nodes:
        """These trees, and behind them those."""
        nodes, leaves = len(self.leaf), int((self.leaf >= 0).sum())
        ends = other.leaf >= 0
        return Nodes(
            torch.cat([self.feature, other.feature]),
            torch.cat([self.threshold, other.threshold]),
            torch.cat([self.left, torch.where(ends, other.left, other.left + nodes)]),
            torch.cat([self.right, torch.where(ends, other.right, other.right + nodes)]),
            torch.cat([self.leaf, torch.where(ends, other.leaf + leaves, other.leaf)]),
            torch.cat([self.roots, other.roots + nodes]),
        )

    def leaves_of(self, values: Tensor) -> Tensor:
        """(n, variables) -> the leaf of every row in every tree, (n, B)."""
        rows, trees = len(values), len(self.roots)
        flat = values.reshape(-1)
        out = torch.empty(rows * trees, dtype=torch.int64, device=values.device)
        place = torch.arange(rows * trees, device=values.device)
        first = torch.div(place, trees, rounding_mode="floor") * values.shape[1]
        node = self.roots.repeat(rows)
        while len(node):
            leaf = self.leaf.index_select(0, node)
            inner = (leaf < 0).nonzero()[:, 0]
            if len(inner) < len(node):  # deep branches are few: those that have landed are left behind
                out.scatter_(0, place, leaf)
                node, place, first = (part.index_select(0, inner) for part in (node, place, first))
            at = self.feature.index_select(0, node)
            small = flat.index_select(0, first + at) <= self.threshold.index_select(0, node)
            node = torch.where(small, self.left.index_select(0, node), self.right.index_select(0, node))
        return out.view(rows, trees)

    def reachable(self, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """All (row, leaf) that what is seen of the row allows, in the order of rows."""
        trees = len(self.roots)
        row = torch.arange(len(values), device=values.device).repeat_interleave(trees)
        node = self.roots.repeat(len(values))
        flat, flat_seen, width = values.reshape(-1), seen.reshape(-1), values.shape[1]
        rows, leaves = [], []
        while len(node):
            leaf = self.leaf.index_select(0, node)
            ends, inner = (leaf >= 0).nonzero()[:, 0], (leaf < 0).nonzero()[:, 0]
            rows.append(row.index_select(0, ends))
            leaves.append(leaf.index_select(0, ends))
            row, node = row.index_select(0, inner), node.index_select(0, inner)
            at = row * width + self.feature.index_select(0, node)
            small = flat.index_select(0, at) <= self.threshold.index_select(0, node)
            open_ = ~flat_seen.index_select(0, at)
            to_left, to_right = (small | open_).nonzero()[:, 0], (~small | open_).nonzero()[:, 0]
            left, right = self.left.index_select(0, node), self.right.index_select(0, node)
            node = torch.cat([left.index_select(0, to_left), right.index_select(0, to_right)])
            row = torch.cat([row.index_select(0, to_left), row.index_select(0, to_right)])
        row, leaf = torch.cat(rows), torch.cat(leaves)
        order = torch.argsort(row, stable=True)
        return row.index_select(0, order), leaf.index_select(0, order)

    def boxes(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The part of (low, high) (variables,) that every leaf holds: its lower and upper ends, (L, variables)."""
        count = int((self.leaf >= 0).sum())
        lows, highs = low.new_full((count, len(low)), -math.inf), low.new_full((count, len(low)), math.inf)
        node = self.roots
        below, above = low.expand(len(node), -1), high.expand(len(node), -1)
        while len(node):
            leaf = self.leaf[node]
            ends = leaf >= 0
            lows[leaf[ends]], highs[leaf[ends]] = below[ends], above[ends]
            node, below, above = node[~ends], below[~ends], above[~ends]
            at, cut = self.feature[node][:, None], self.threshold[node][:, None]
            cut_above = above.scatter(1, at, torch.minimum(above.gather(1, at), cut))
            cut_below = below.scatter(1, at, torch.maximum(below.gather(1, at), cut))
            node = torch.cat([self.left[node], self.right[node]])
            below, above = torch.cat([below, cut_below]), torch.cat([cut_above, above])
        return lows, highs
