"""Boosted trees as arrays: sums of the values in which rows end, many models side by side. Where a row has no value a node
sends it the way that learning found best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PAIRS = 2**18


@dataclass(frozen=True)
class Boosted:
    """Nodes of all trees (N,): `feature` (-1 in a leaf), `threshold`, `left`, `right`, `value`, `missing` (1: to the left);
    trees (T,) begin at `roots`, those of model m are `first[m]` .. `first[m + 1]`; `base` (M,) is what each starts from."""

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    missing: Tensor
    roots: Tensor
    first: Tensor
    base: Tensor

    def score(self, model: int, values: Tensor, bounds: list[int]) -> Tensor:
        """base + the values of the leaves, (n,), for rows (n, variables) with NaN where nothing is known; `bounds` is
        `first` as a list."""
        trees = self.roots[bounds[model] : bounds[model + 1]]
        base = self.base[model]
        if not len(trees) or not len(values):
            return base.expand(len(values))
        size = max(1, _PAIRS // len(trees))
        return torch.cat([base + self._sums(trees, part) for part in torch.split(values, size)])

    def _sums(self, trees: Tensor, values: Tensor) -> Tensor:
        rows, count = len(values), len(trees)
        flat, width = values.reshape(-1), values.shape[1]
        place = torch.arange(rows * count, device=values.device)
        first = torch.div(place, count, rounding_mode="floor") * width
        node = trees.repeat(rows)
        out = values.new_zeros(rows * count)
        while len(node):
            at = self.feature.index_select(0, node)
            inner = (at >= 0).nonzero()[:, 0]
            if len(inner) < len(node):
                out.scatter_(0, place, self.value.index_select(0, node))
                node, place, first, at = (part.index_select(0, inner) for part in (node, place, first, at))
            own = flat.index_select(0, first + at)
            known_left = own <= self.threshold.index_select(0, node)
            to_left = torch.where(own.isnan(), self.missing.index_select(0, node) > 0, known_left)
            node = torch.where(to_left, self.left.index_select(0, node), self.right.index_select(0, node))
        return out.view(rows, count).sum(1)


class Collected:
    """Models as they are learned, to become `Boosted`."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._roots: list[int] = []
        self._first: list[int] = [0]
        self._base: list[float] = []
        self._nodes = 0

    def constant(self, base: float) -> None:
        self._add([], base)

    def fitted(
        self, machine: Any, present: NDArray[np.int64] | None = None, levels: int = 1, absent: float = 0.0
    ) -> None:
        """The model of a fitted HistGradientBoostingClassifier, or one for each of several `levels`, of which those not
        `present` are rarer by `absent` than the commonest."""
        by_class, bases = list(zip(*machine._predictors, strict=True)), machine._baseline_prediction.ravel()
        places = {0: 0} if present is None else {int(level): at for at, level in enumerate(present)}
        for level in range(levels):
            if level in places:
                at = places[level]
                self._add([tree.nodes for tree in by_class[at]], float(bases[at]))
            else:
                self._add([], float(bases.max()) + absent)

    def _add(self, trees: list[NDArray[Any]], base: float) -> None:
        for nodes in trees:
            self._roots.append(self._nodes)
            leaf = nodes["is_leaf"].astype(bool)
            table = np.empty((6, len(nodes)))
            table[0] = np.where(leaf, -1, nodes["feature_idx"])
            table[1] = np.where(leaf, 0.0, nodes["num_threshold"])
            table[2] = np.where(leaf, 0, nodes["left"].astype(np.int64) + self._nodes)
            table[3] = np.where(leaf, 0, nodes["right"].astype(np.int64) + self._nodes)
            table[4] = np.where(leaf, nodes["value"], 0.0)
            table[5] = nodes["missing_go_to_left"]
            self._parts.append(table)
            self._nodes += len(nodes)
        self._first.append(len(self._roots))
        self._base.append(base)

    def tensors(self) -> dict[str, Tensor]:
        """The fields of `Boosted` by name."""
        table = torch.from_numpy(np.concatenate([np.empty((6, 0)), *self._parts], 1))
        return {
            "feature": table[0].long(),
            "threshold": table[1].clone(),
            "left": table[2].long(),
            "right": table[3].long(),
            "value": table[4].clone(),
            "missing": table[5].long(),
            "roots": torch.tensor(self._roots, dtype=torch.int64),
            "first": torch.tensor(self._first, dtype=torch.int64),
            "base": torch.tensor(self._base, dtype=torch.float64),
        }
