"""A family of one's own, whole: independent coins, one for each yes/no column. Run me: python examples/add_a_family.py"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie import catalog, config
from reverie.data.schema import Schema
from reverie.data.space import Batch, Space, Wants
from reverie.estimator import Estimator
from reverie.learning.phases import Phase
from reverie.learning.rules.em import ExpectationMaximisation
from reverie.learning.run import Run
from reverie.rng import Noise


@config.recipe
class Coins(Estimator):
    """p(x) = prod_j theta_j^x_j (1 - theta_j)^(1 - x_j), with theta the smoothed share of ones."""

    family: ClassVar[str] = "coins"
    defaults: ClassVar[dict[str, Any]] = {"epochs": 1, "batch_size": 4096}
    prior: float = Field(default=1.0, gt=0)
    """Ones and zeros that each column is credited with before counting (Laplace smoothing)."""

    def wants(self, schema: Schema) -> Wants:
        return Wants(family=self.family, kinds=frozenset({"boolean", "integer"}), discrete="binary", mixed=False)

    def build(self, space: Space) -> nn.Module:
        return CoinsNetwork(space.width, self.prior)

    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        return [Phase("count", lambda: ExpectationMaximisation(network, run, tol=0.0, fresh=fresh))]


class CoinsNetwork(nn.Module):
    """theta (d,) as a buffer: it is counted, not descended to."""

    likelihood = "exact"
    theta: Tensor

    def __init__(self, width: int, prior: float) -> None:
        super().__init__()
        self.prior = prior
        self.register_buffer("theta", torch.full((width,), 0.5))

    def start(self, batches: Any, seed: int) -> None:
        """Nothing to prepare: one pass of counting is the answer."""

    def statistics(self, batch: Batch) -> dict[str, Tensor]:
        rows = torch.tensor(float(len(batch.x)), dtype=torch.float64)
        return {"ones": batch.x.double().sum(0), "rows": rows, "log_likelihood": self.throws(batch.x).double().sum()}

    def maximise(self, sums: dict[str, Tensor]) -> None:
        self.theta.copy_((sums["ones"] + self.prior) / (sums["rows"] + 2 * self.prior))

    def throws(self, x: Tensor) -> Tensor:
        """log p(x), (n,)."""
        return (x * self.theta.log() + (1 - x) * torch.log1p(-self.theta)).sum(1)

    def log_prob(self, x: Tensor, observed: Tensor | None, y: Tensor | None, noise: Noise) -> Tensor:
        """What `Model.log_prob` calls; there are no holes here (`observed`), no condition (`y`), nothing to draw."""
        return self.throws(x)

    def sample(self, noise: Noise, y: Tensor | None) -> Tensor:
        """One throw of each coin, (n, d)."""
        return noise.bernoulli(self.theta.expand(noise.rows, -1))


catalog.register(
    catalog.Family(
        name="coins",
        path=f"{__name__}:Coins",
        title="Independent coins",
        summary="every yes/no column for itself",
        can=("sample", "log_prob"),
        kinds=("boolean", "integer"),
        likelihood="exact",
    )
)

if __name__ == "__main__":
    import numpy as np

    rows = np.random.default_rng(0).random((500, 3)) < [0.1, 0.5, 0.9]
    model = Coins().fit(rows)
    print(model.summary(), model.sample(3, seed=0), model.log_prob(rows[:3]), sep="\n")
