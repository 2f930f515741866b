"""Throwaway families that use one joint of the house each, end to end."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie import catalog, config
from reverie.data.schema import Schema
from reverie.data.space import Batch, Points, Ragged, Space, TokenKind, Wants, Windows
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.descent import Descent
from reverie.learning.rules.gradient import Gradient
from reverie.learning.run import Run
from reverie.nn.conditioning import Conditioner, dropped
from reverie.nn.sequences import padded
from reverie.rng import Noise

CONDITIONS = ("labels", "vector", "columns", "picture", "sequence")


@config.recipe
class Guided(Estimator):
    """x ~ N(mean(y), s^2) for pictures and rows, from y of any kind, which is dropped for a share of rows in training."""

    family: ClassVar[str] = "guided"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 3, "batch_size": 64}
    drop: float = Field(default=0.1, ge=0, lt=1)
    """Share of rows that learn without their y."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"number", "image"}),
            images="symmetric",
            discrete="round",
            density=False,
            mixed=False,
            conditions=frozenset(CONDITIONS),
        )

    def build(self, space: Space) -> nn.Module:
        return GuidedNetwork(space, self.drop)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return [Phase("train", lambda: Gradient(network, Descent(list(network.parameters()), run, lr=3e-3), run))]


class GuidedNetwork(nn.Module):
    """One convolution (or linear layer) on the features of y."""

    def __init__(self, space: Space, drop: float) -> None:
        super().__init__()
        assert space.condition is not None
        self.shape, self.drop = space.shape or (space.width,), drop
        self.conditioner = Conditioner(space.condition, 16, channels=8)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True, bias=False)
        self.query = nn.Parameter(torch.zeros(1, 16))
        wide = self.shape[0]
        self.out: nn.Module = nn.Conv2d(32, wide, 3, padding=1) if space.shape else nn.Linear(32, wide)
        self.log_sd = nn.Parameter(torch.zeros(wide))

    def mean(self, y: Points, given: Tensor | None) -> Tensor:
        """The feature of y in the form that x has, beside what attention makes of y as a sequence."""
        steps = self.conditioner.steps(y, given)
        query = self.query.expand(len(steps.values), 1, 16)
        seen = self.attend(query, steps.values, steps.values, key_padding_mask=~steps.mask, need_weights=False)[0][:, 0]
        if len(self.shape) == 1:
            return self.out(torch.cat([self.conditioner.vector(y, given), seen], 1))  # type: ignore[no-any-return]
        local = self.conditioner.map(y, self.shape[1:], given)
        seen = seen[:, :, None, None].expand(-1, -1, *self.shape[1:])
        return self.out(torch.cat([local, seen], 1))  # type: ignore[no-any-return]

    def sd(self) -> Tensor:
        return self.log_sd.exp().view(-1, *(1,) * (len(self.shape) - 1))

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]:
        given = dropped(len(batch.x), self.drop, noise.uniform())
        z = (batch.x - self.mean(batch.y, given)) / self.sd()
        size = batch.x[0].numel() // len(self.log_sd)
        return {"loss": 0.5 * z.flatten(1).square().sum(1) + size * self.log_sd.sum()}

    def sample(self, noise: Noise, y: Points, *, guidance: float = 1.0) -> Tensor:
        """mean(y) pushed away from the mean without y by `guidance` > 1, plus the spread."""
        mean = self.mean(y, None)
        if guidance != 1.0:
            without = self.mean(y, torch.zeros(len(mean), dtype=torch.bool))
            mean = without + guidance * (mean - without)
        return mean + self.sd() * noise.normal(*self.shape)


@config.recipe
class Scribe(Estimator):
    """Every step from those before it, by one recurrent layer: tokens of texts, symbols, or numbers of a series."""

    family: ClassVar[str] = "scribe"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 3, "batch_size": 16}
    tokens: TokenKind = "characters"
    """What texts are cut into."""
    vocabulary: int = Field(default=300, ge=256)
    """Byte pairs at most."""
    window: int = Field(default=20, ge=2)
    """Steps predicted per window."""
    mixed: bool = False
    """Several sequences may share a window."""
    unseen: Literal["refuse", "unknown"] = "refuse"
    """Tokens that training did not have."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(
            family=self.family,
            kinds=frozenset({"text", "sequence"}),
            discrete="round",
            density=False,
            symbols=True,
            tokens=self.tokens,
            vocabulary=self.vocabulary,
            boundary=True,
            unseen=self.unseen,
            windows=Windows(self.window + 1, overlap=1, mixed=self.mixed),
        )

    def build(self, space: Space) -> nn.Module:
        return ScribeNetwork(space)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return [Phase("train", lambda: Gradient(network, Descent(list(network.parameters()), run, lr=2e-3), run))]


class ScribeNetwork(nn.Module):
    """A gated recurrent layer of 24 units."""

    likelihood = "exact"

    def __init__(self, space: Space) -> None:
        super().__init__()
        assert space.windows is not None
        self.levels = space.blocks[0].levels
        self.boundary, self.limit, self.width = space.boundary, space.windows.length, space.width
        self.read: nn.Module = nn.Embedding(self.levels, 24) if self.levels else nn.Linear(space.width, 24)
        self.recur = nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(24, self.levels or space.width)

    def embed(self, values: Tensor) -> Tensor:
        return self.read(values[..., 0].long() if self.levels else values)  # type: ignore[no-any-return]

    def errors(self, x: Ragged) -> Tensor:
        """(n,) -log p of the steps after the first (unit variance and no constant for numbers)."""
        steps = padded(x)
        out = self.head(self.recur(self.embed(steps.values[:, :-1]))[0])
        aim = steps.values[:, 1:]
        if self.levels:
            each = nn.functional.cross_entropy(out.transpose(1, 2), aim[..., 0].long(), reduction="none")
        else:
            each = 0.5 * (out - aim).square().sum(2)
        return (each * steps.mask[:, 1:]).sum(1)

    def loss(self, batch: Batch, noise: Noise, progress: float) -> dict[str, Tensor]:
        return {"loss": self.errors(batch.x)}

    def counts(self, batch: Batch) -> Tensor:
        return batch.x.lengths - 1  # type: ignore[no-any-return]

    def log_prob(self, x: Ragged, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        return -self.errors(x)

    def sample(self, noise: Noise, y: Points | None, *, lengths: Tensor | None = None) -> Ragged:
        limit = self.limit if lengths is None else int(lengths.max())
        rows = noise.rows if lengths is None else len(lengths)
        last = torch.full((rows, 1, 1), float(self.boundary or 0)) if self.levels else torch.zeros(rows, 1, self.width)
        ends, state, out = torch.full((rows,), limit), None, []
        for step in range(limit):
            hidden, state = self.recur(self.embed(last), state)
            found = self.head(hidden[:, 0])
            if self.levels:
                chance = found.softmax(1)
                if lengths is not None and self.boundary is not None:
                    chance[:, self.boundary] = 0
                share = chance.cumsum(1) / chance.sum(1, keepdim=True)
                found = (noise.uniform()[:, None] > share).sum(1, keepdim=True).clamp_max(self.levels - 1).float()
                ends = torch.where((found[:, 0] == self.boundary) & (ends == limit), step, ends)
            else:
                found = found + noise.normal(self.width)
            out.append(found)
            last = found[:, None]
        ends = ends if lengths is None else lengths
        values = torch.stack(out, 1)
        return Ragged(torch.cat([row[: int(end)] for row, end in zip(values, ends, strict=True)]), ends)


SCRIBE_ROW = catalog.Family(
    name="scribe",
    path=f"{__name__}:Scribe",
    title="A recurrent layer",
    summary="throwaway",
    can=("sample", "log_prob"),
    kinds=("text", "sequence"),
)
ROW = catalog.Family(
    name="guided",
    path=f"{__name__}:Guided",
    title="A mean guided by y",
    summary="throwaway",
    can=("sample",),
    kinds=("number", "image"),
    conditions=CONDITIONS,
)
