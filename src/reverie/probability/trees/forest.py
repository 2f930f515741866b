"""A mixture over the leaves of many trees: p(x) = 1/B sum_b sum_l pi_bl prod_j p(x_j | leaf l of tree b).

A tree cuts the space into boxes, so of a whole row one leaf per tree has a density: p(x) costs B leaves. A row with
holes keeps the leaves that its seen columns allow, and its conditional is the mixture of these, exactly.

    number     (1 - e) N(mean, sd^2) + e logistic, each cut to the leaf's box; on a grid the mass of a cell
    category   counts of the leaf smoothed by the training shares, over the levels in the leaf's box
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.data.space import Space
from reverie.inference.pieces import slices
from reverie.probability.trees import densities as cut
from reverie.probability.trees.falling import Nodes
from reverie.probability.trees.growing import Growing
from reverie.probability.trees.variables import Variables
from reverie.rng import Noise

_PAIRS = 2**17
"""(row, leaf) pairs that are worked on at a time."""
_LONE = "nothing is learned yet; fit it for a pass"
_NODES = ("feature", "threshold", "left", "right", "leaf", "roots")


class Forest(Growing):
    """The nodes of the trees (`falling.Nodes`), `share` (L,) of every leaf, `mean`, `sd` and `spread` (the weight of the
    broad density) of every number in every leaf (numbers, L), `chance` of every level in every leaf (levels, L)."""

    likelihood = "exact"
    marginalises = True
    grows = frozenset({*_NODES, "share", "mean", "sd", "spread", "chance"})
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    leaf: Tensor
    roots: Tensor
    share: Tensor
    mean: Tensor
    sd: Tensor
    spread: Tensor
    chance: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.variables, self.width = Variables(space), space.width
        self.offsets = [0]
        for j in self.variables.coded:
            self.offsets.append(self.offsets[-1] + self.variables.all[j].levels)
        gridded = [self.variables.all[j].gridded for j in self.variables.numbers]
        self._grid = [at for at, grid in enumerate(gridded) if grid]
        self._real = [at for at, grid in enumerate(gridded) if not grid]
        for name in ("feature", "left", "right", "leaf", "roots"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        for name in ("threshold", "share"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        for name in ("mean", "sd", "spread"):
            self.register_buffer(name, torch.zeros(len(gridded), 0, dtype=torch.float64))
        self.register_buffer("chance", torch.zeros(self.offsets[-1], 0, dtype=torch.float64))
        self.derive()

    @property
    def nodes(self) -> Nodes:
        return Nodes(*(getattr(self, name) for name in _NODES))

    @property
    def classes(self) -> int:
        return self.variables.classes

    def derive(self) -> None:
        """The ends of every leaf's boxes, about the centres and in the scales of its two densities, and what these need
        to integrate to one; the means."""
        ranges = torch.tensor([v.range for v in self.variables.all], dtype=torch.float64).to(self.share.device)
        numbers = self.variables.numbers
        low, high = (ends.t()[numbers].contiguous() for ends in self.nodes.boxes(ranges[:, 0], ranges[:, 1]))
        near, far = (low - self.mean) / self.sd, (high - self.mean) / self.sd
        own = {
            "low": low,
            "high": high,
            "log_share": self.share.log(),
            "narrow": torch.log1p(-self.spread) - cut.log_normal_mass(near, far),
            "broad": self.spread.log() - cut.log_logistic_mass(low, high),
            "middle": (1 - self.spread) * (self.mean + self.sd * cut.normal_mean(near, far))
            + self.spread * cut.logistic_mean(low, high),
            "log_chance": self.chance.log(),
        }
        for name, value in own.items():
            self.register_buffer(f"own_{name}", value, persistent=False)

    def add(self, nodes: Nodes, learned: dict[str, Tensor]) -> None:
        """More trees, with `share`, `mean`, `sd`, `spread` and `chance` of their leaves; every tree counts the same."""
        before, more, device = len(self.roots), len(nodes.roots), self.share.device
        joined = self.nodes.joined(Nodes(*(getattr(nodes, name).to(device) for name in _NODES)))
        for name in _NODES:
            setattr(self, name, getattr(joined, name))
        learned = {name: value.to(device) for name, value in learned.items()}
        self.share = torch.cat([self.share * (before / (before + more)), learned["share"] * (more / (before + more))])
        for name in ("mean", "sd", "spread", "chance"):
            setattr(self, name, torch.cat([getattr(self, name), learned[name]], 1))
        self.derive()

    # ------------------------------------------------------------------ densities

    def _log_density(self, values: Tensor, seen: Tensor, row: Tensor, leaf: Tensor) -> Tensor:
        """log pi_l p(what is seen of the row | l) of every pair (P,)."""
        own = dict(self.named_buffers())
        total = own["own_log_share"].index_select(0, leaf)
        for at, j in enumerate(self.variables.numbers):
            variable, v = self.variables.all[j], values[:, j].contiguous()
            names = ("mean", "sd", "own_narrow", "own_broad")
            mean, sd, narrow, broad = (own[name][at].index_select(0, leaf) for name in names)
            if variable.gridded:
                low, high = variable.edges(v)
                a, b = ((end.index_select(0, row) - mean) / sd for end in (low, high))
                narrow, wide = narrow + cut.log_normal_mass(a, b), cut.log_logistic_mass(low, high)
            else:
                z = (v.index_select(0, row) - mean) / sd
                narrow, wide = narrow + cut.log_normal(z) - sd.log(), cut.log_logistic(v)
            both = torch.logaddexp(narrow, broad + wide.index_select(0, row))
            total = total + torch.where(seen[:, j].contiguous().index_select(0, row), both, 0.0)
        for first, j in zip(self.offsets, self.variables.coded, strict=False):
            at_leaf = (first + values[:, j].long()).index_select(0, row) * len(self.share) + leaf
            found = own["own_log_chance"].view(-1).index_select(0, at_leaf)
            total = total + torch.where(seen[:, j].contiguous().index_select(0, row), found, 0.0)
        return total

    def _pairs(self, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(row, leaf, log pi_l p(seen | l)) of all leaves that what is seen allows, in the order of rows."""
        if bool(seen.all()):
            leaf = self.nodes.leaves_of(values).flatten()
            row = torch.arange(len(values), device=values.device).repeat_interleave(len(self.roots))
        else:
            row, leaf = self.nodes.reachable(values, seen)
        parts = slices(len(row), _PAIRS)
        return row, leaf, torch.cat([self._log_density(values, seen, row[part], leaf[part]) for part in parts])

    def _pieces(self, seen: Tensor) -> list[slice]:
        """Rows to take at a time: with holes they may reach every leaf."""
        reach = len(self.roots) if bool(seen.all()) else len(self.share)
        return slices(len(seen), max(1, 32 * _PAIRS // max(reach, 1)))

    def _joint(self, values: Tensor, seen: Tensor) -> Tensor:
        """log p(what is seen), (n,)."""
        return torch.cat([self._total(values[part], seen[part]) for part in self._pieces(seen)])

    def _total(self, values: Tensor, seen: Tensor) -> Tensor:
        row, _, weight = self._pairs(values, seen)
        return _log_sum(row, weight, len(values))

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """log p(x_observed), or log p(x_observed | y) where y is known, (n,)."""
        values, seen = self.variables.read(x, observed, y)
        found = self._joint(values, seen)
        if y is None:
            return found
        known = seen[:, -1]
        return torch.where(known, found - self.class_log_prior()[values[:, -1].long()], found)

    def class_log_prior(self) -> Tensor:
        """log P(y) of the classes, (classes,)."""
        return torch.log(self.chance[-self.classes :] @ self.share)

    def classify(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(y | x_observed), (n, classes)."""
        values, seen = self.variables.read(x, observed, None)
        found = [self._averages(values[part], seen[part], self.chance[-self.classes :]) for part in self._pieces(seen)]
        return torch.cat(found).log()

    def _averages(self, values: Tensor, seen: Tensor, of: Tensor) -> Tensor:
        """sum_l p(l | what is seen) of_l for every line of `of` (lines, L), (n, lines)."""
        row, leaf, weight = self._pairs(values, seen)
        share = torch.exp(weight - _log_sum(row, weight, len(values)).index_select(0, row))
        lines = [values.new_zeros(len(values)).scatter_add_(0, row, share * line.index_select(0, leaf)) for line in of]
        return torch.stack(lines, 1)

    # ------------------------------------------------------------------ use

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        """A leaf, by its share (and y), then its columns, each for itself."""
        if y is not None:
            nothing = y.new_zeros((len(y), self.width), dtype=torch.float64)
            return self.conditional(nothing, nothing > 1, y, noise, mean=False)
        u = noise.uniform(1)[:, 0].to(self.share.dtype)
        upto = self.share.cumsum(0)
        leaf = torch.searchsorted(upto, u * upto[-1], right=True).clamp_max(len(upto) - 1)
        return self._draw(leaf, *self._uniforms(noise))

    def conditional(self, x: Tensor, observed: Tensor, y: Tensor | None, noise: Noise, *, mean: bool) -> Tensor:
        """The missing columns given the observed ones, exactly: their means (of levels the chances), or a draw."""
        values, seen = self.variables.read(x, observed, y)
        if mean:
            of = torch.cat([self.get_buffer("own_middle"), self.chance])
            numbers = len(self.variables.numbers)
            found = torch.cat([self._averages(values[part], seen[part], of) for part in self._pieces(seen)])
            filled = self.variables.write(found[:, :numbers], found[:, numbers:], self.width)
        else:
            u = noise.uniform(1).to(self.share.dtype)
            leaf = torch.cat([self._choose(values[part], seen[part], u[part]) for part in self._pieces(seen)])
            filled = self._draw(leaf, *self._uniforms(noise))
        return torch.where(observed, x.to(filled.dtype), filled)

    def _choose(self, values: Tensor, seen: Tensor, u: Tensor) -> Tensor:
        """A leaf for every row by p(l | what is seen), (n,)."""
        row, leaf, weight = self._pairs(values, seen)
        count = torch.bincount(row, minlength=len(values))
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count).index_select(0, row)
        shares = weight.new_full((len(values), int(count.max())), -torch.inf)
        shares.view(-1).scatter_(0, row * shares.shape[1] + place, weight)
        upto = torch.softmax(shares, 1).cumsum(1)
        chosen = (upto <= u * upto[:, -1:]).sum(1).clamp(max=shares.shape[1] - 1).minimum(count - 1)
        return leaf.index_select(0, count.cumsum(0) - count + chosen)

    def _uniforms(self, noise: Noise) -> tuple[Tensor, Tensor]:
        numbers, coded = (
            noise.uniform(2, len(self.variables.numbers) or 1),
            noise.uniform(len(self.variables.coded) or 1),
        )
        return numbers.to(self.share.dtype), coded.to(self.share.dtype)

    def _draw(self, leaf: Tensor, u: Tensor, coded: Tensor) -> Tensor:
        """A row of model space from every leaf (n,), with uniforms u (n, 2, numbers) and (n, coded)."""
        own = dict(self.named_buffers())
        names = ("own_low", "own_high", "mean", "sd", "spread")
        low, high, mean, sd, spread = (own[name].index_select(1, leaf).t() for name in names)
        numbers = len(self.variables.numbers)
        narrow = mean + sd * cut.draw_normal(u[:, 0, :numbers], (low - mean) / sd, (high - mean) / sd)
        broad = cut.draw_logistic(u[:, 0, :numbers], low, high)
        drawn = torch.where(u[:, 1, :numbers] < spread, broad, narrow)
        chances = self.chance.index_select(1, leaf).t().contiguous()
        levels = torch.zeros_like(chances)
        for at, (first, j) in enumerate(zip(self.offsets, self.variables.coded, strict=False)):
            last = first + self.variables.all[j].levels
            upto = chances[:, first:last].cumsum(1)
            code = (upto <= coded[:, at : at + 1] * upto[:, -1:]).sum(1).clamp_max(last - first - 1)
            levels.scatter_(1, first + code[:, None], 1.0)
        return self.variables.write(drawn, levels, self.width)

    def limits(self, space: Space) -> dict[str, str]:
        if not len(self.roots):
            return dict.fromkeys(("sample", "log_prob", "impute", "predict", "predict_proba"), _LONE)
        if not self.classes:
            return dict.fromkeys(("predict", "predict_proba"), "it was trained without y, so there is no class to tell")
        return {}


def _log_sum(row: Tensor, weight: Tensor, rows: int) -> Tensor:
    """log of the sum of exp(weight) within every row, (rows,)."""
    top = weight.new_full((rows,), -torch.inf).scatter_reduce(0, row, weight, "amax")
    sums = weight.new_zeros(rows).scatter_add_(0, row, torch.exp(weight - top.index_select(0, row)))
    return top + sums.log()
