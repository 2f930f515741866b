"""Throwaway families that use one joint of the house each, end to end."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie import catalog, config
from reverie.data.schema import Schema
from reverie.data.space import Batch, Points, Space, Wants
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.descent import Descent
from reverie.learning.rules.gradient import Gradient
from reverie.learning.run import Run
from reverie.nn.conditioning import Conditioner, dropped
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


ROW = catalog.Family(
    name="guided",
    path=f"{__name__}:Guided",
    title="A mean guided by y",
    summary="throwaway",
    can=("sample",),
    kinds=("number", "image"),
    conditions=CONDITIONS,
)
