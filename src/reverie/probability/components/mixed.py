"""Sets side by side, each over columns of its own: tables of mixed columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.probability.exponential_family import Components, Move, Sums, sum_tensors
from reverie.probability.features import SharedFeatures
from reverie.rng import Noise


class Mixed(SharedFeatures):
    """Several sets side by side, each over columns of its own, independent given k: tables of mixed columns."""

    def __init__(self, parts: Sequence[tuple[Tensor, Components]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([part for _, part in parts])
        self.columns = [columns for columns, _ in parts]
        self.size = parts[0][1].size
        self.width = sum(len(columns) for columns, _ in parts)
        self._all_shared = all(isinstance(part, SharedFeatures) for _, part in parts)

    def _pairs(self) -> list[tuple[Tensor, Any]]:
        return list(zip(self.columns, self.parts, strict=True))

    def feature_count(self, holes: bool) -> int:
        return sum(part.feature_count(holes) for _, part in self._pairs())

    def write(self, x: Tensor, observed: Tensor | None, out: Tensor) -> None:
        start = 0
        for columns, part in self._pairs():
            stop = start + part.feature_count(observed is not None)
            part.write(x[columns], None if observed is None else observed[columns], out[start:stop])
            start = stop

    def coefficients(self, holes: bool) -> tuple[Tensor, Tensor]:
        found = [part.coefficients(holes) for _, part in self._pairs()]
        return torch.cat([eta for eta, _ in found], 1), sum_tensors([constant for _, constant in found])

    def base(self, x: Tensor, observed: Tensor | None) -> Tensor | None:
        found = [part.base(x[c], None if observed is None else observed[c]) for c, part in self._pairs()]
        present = [value for value in found if value is not None]
        return sum_tensors(present) if present else None

    def safe(self, dtype: torch.dtype) -> bool:
        return all(part.safe(dtype) for _, part in self._pairs())

    def complete(self, holes: bool) -> bool:
        return self._all_shared and all(part.complete(holes) for _, part in self._pairs())

    def _log_prob_apart(self, x: Tensor, observed: Tensor | None) -> Tensor:
        return sum_tensors([part.log_prob(x[:, c], _columns(observed, c)) for c, part in self._pairs()])

    def _sums_apart(self, x: Tensor, observed: Tensor | None, r: Tensor) -> Sums:
        out: Sums = {}
        for number, (columns, part) in enumerate(self._pairs()):
            found = part.sums(x[:, columns], _columns(observed, columns), r)
            out["count"] = found.pop("count")
            out |= {f"{number}.{name}": value for name, value in found.items()}
        return out

    def read(self, product: Tensor, count: Tensor, holes: bool) -> Sums:
        out: Sums = {}
        start = 0
        for number, (_, part) in enumerate(self._pairs()):
            stop = start + part.feature_count(holes)
            found = part.read(product[:, start:stop], count, holes)
            out |= {f"{number}.{name}": value for name, value in found.items()}
            start = stop
        return out

    def maximise(self, sums: Sums) -> Move:
        moves = [part.maximise(_own(sums, number)) for number, (_, part) in enumerate(self._pairs())]

        def move(sums: Sums) -> Sums:
            out = dict(sums)
            for number, one in enumerate(moves):
                found = one(_own(sums, number))
                out |= {f"{number}.{name}": value for name, value in found.items() if name != "count"}
            return out

        return move

    def _copy(self, source: int, target: int) -> None:
        for _, part in self._pairs():
            part._copy(source, target)

    def _part(self, source: int, target: int) -> None:
        for _, part in self._pairs():
            part._part(source, target)

    def implied(self, count: Tensor) -> Sums:
        out: Sums = {"count": count}
        for number, (_, part) in enumerate(self._pairs()):
            out |= {f"{number}.{name}": value for name, value in part.implied(count).items() if name != "count"}
        return out

    def log_prior(self) -> Tensor:
        return sum_tensors([part.log_prior() for _, part in self._pairs()])

    def free_parameters(self) -> int:
        return sum(part.free_parameters() for _, part in self._pairs())

    def begin(self, rows: Tensor, observed: Tensor | None) -> None:
        for columns, part in self._pairs():
            part.begin(rows[:, columns], _columns(observed, columns))

    def draw(self, k: Tensor, noise: Noise) -> Tensor:
        out = torch.empty(len(k), self.width, dtype=torch.float64, device=k.device)
        for columns, part in self._pairs():
            out[:, columns] = part.draw(k, noise)
        return out

    def means(self) -> Tensor:
        out = torch.empty(self.size, self.width, dtype=torch.float64, device=next(self.buffers()).device)
        for columns, part in self._pairs():
            out[:, columns] = part.means()
        return out

    def draw_given(self, x: Tensor, observed: Tensor, k: Tensor, noise: Noise) -> Tensor:
        out = x.double().clone()
        for columns, part in self._pairs():
            out[:, columns] = part.draw_given(x[:, columns], observed[:, columns], k, noise)
        return out

    def mean_given(self, x: Tensor, observed: Tensor, r: Tensor) -> Tensor:
        out = x.double().clone()
        for columns, part in self._pairs():
            out[:, columns] = part.mean_given(x[:, columns], observed[:, columns], r)
        return out


def _own(sums: Sums, number: int) -> Sums:
    """The sums of one part of a `Mixed` set."""
    prefix = f"{number}."
    own = {name.removeprefix(prefix): value for name, value in sums.items() if name.startswith(prefix)}
    return {"count": sums["count"], **own}


def _columns(observed: Tensor | None, columns: Tensor) -> Tensor | None:
    return None if observed is None else observed[:, columns]
