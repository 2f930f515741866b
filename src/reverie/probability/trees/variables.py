"""What trees split on: one variable for every column of a table, categories as the code of their level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.data.space import Block, Space
from reverie.probability.cells import cell_edges


@dataclass(frozen=True)
class Variable:
    """One column as a tree sees it: a number (`levels` 0), on a grid where its block is "integer", or a code 0 ..
    levels - 1. It fills `width` model columns from `start` on; y, which is no column of model space, starts at -1."""

    block: Block | None
    start: int
    width: int
    levels: int

    @property
    def gridded(self) -> bool:
        return self.block is not None and self.block.kind == "integer"

    def edges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where the cells of grid points x (...) begin and end."""
        assert self.block is not None
        low, high = cell_edges(x[..., None], self.block)
        return low[..., 0], high[..., 0]

    @property
    def range(self) -> tuple[float, float]:
        """All there can be: the outer edges of the first and the last cell of a bounded grid, else everything."""
        if not self.gridded or self.block is None:
            return (-0.5, self.levels - 0.5) if self.levels else (-math.inf, math.inf)
        low = -math.inf if self.block.low is None else float(self.edges(_scalar(self.block.low))[0])
        high = math.inf if self.block.high is None else float(self.edges(_scalar(self.block.high))[1])
        return low, high


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class Variables:
    """The variables of a space, in its order, with the classes of y behind them where there are any."""

    def __init__(self, space: Space) -> None:
        found: list[Variable] = []
        for block in space.blocks:
            if block.kind == "category":
                found.append(Variable(block, block.start, block.width, block.width))
                continue
            levels = {"binary": 2, "symbol": block.levels}.get(block.kind, 0)
            found += [Variable(block, column, 1, levels) for column in range(block.start, block.stop)]
        self.classes = space.condition.width if space.condition else 0
        if self.classes:
            found.append(Variable(None, -1, self.classes, self.classes))
        self.all = tuple(found)
        self.numbers = [j for j, variable in enumerate(found) if not variable.levels]
        self.coded = [j for j, variable in enumerate(found) if variable.levels]
        names = [(v.block.name if v.block is not None else "", bool(v.levels)) for v in found]
        self.gates = [
            (j, j + 1) for j in range(len(found) - 1) if names[j] == (names[j + 1][0], True) and not names[j + 1][1]
        ]
        """(category, number) of columns some of whose values are kept apart: the number is there for the last level only."""

    def __len__(self) -> int:
        return len(self.all)

    def read(self, x: Tensor, observed: Tensor | None, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows of model space, (n, width) -> values (n, variables) in float64 and which of them are seen."""
        values = x.new_zeros((len(x), len(self)), dtype=torch.float64)
        seen = torch.ones((len(x), len(self)), dtype=torch.bool, device=x.device)
        for j, variable in enumerate(self.all):
            if variable.start < 0:
                seen[:, j] = False if y is None else y.sum(1) > 0
                if y is not None:
                    values[:, j] = y.argmax(1).double()
                continue
            own = x[:, variable.start : variable.start + variable.width]
            values[:, j] = own.argmax(1).double() if variable.width > 1 else own[:, 0].double()
            if observed is not None:
                seen[:, j] = observed[:, variable.start]
            if variable.levels == 1:
                values[:, j] = 0.0
        return values, seen

    def write(self, numbers: Tensor, chances: Tensor, width: int) -> Tensor:
        """Model space (n, width) of values of the numbers (n, numbers), and of the chances of all levels side by side,
        (n, levels in all): 0 or 1 for draws, and for best guesses the middle of what there may be."""
        out = numbers.new_zeros((len(numbers), width))
        for at, j in enumerate(self.numbers):
            out[:, self.all[j].start] = numbers[:, at]
        first = 0
        for j in self.coded:
            variable = self.all[j]
            own = chances[:, first : first + variable.levels]
            first += variable.levels
            if variable.start < 0:
                continue
            if variable.width > 1 or variable.levels == 1:
                out[:, variable.start : variable.start + variable.width] = own
            elif variable.levels == 2:
                out[:, variable.start] = own[:, 1]
            else:
                out[:, variable.start] = own.argmax(1).to(out.dtype)
        return out
