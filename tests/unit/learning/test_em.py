"""When EM stops, and when it asks for changes: on a network whose likelihood is a script."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.rules.em import ExpectationMaximisation
from reverie.learning.run import Run


class Scripted(nn.Module):
    """`value` grows towards 1 by halves; a proposal accepted from pass `useful` on lifts it by 1, an earlier one lowers
    it by 1."""

    value: Tensor

    def __init__(self, useful: int) -> None:
        super().__init__()
        self.useful, self.passes, self.asked, self.changed = useful, 0, [], False
        self.register_buffer("value", torch.zeros((), dtype=torch.float64))

    def statistics(self, batch: Batch) -> dict[str, Tensor]:
        return {"log_likelihood": self.value.clone(), "rows": torch.ones((), dtype=torch.float64)}

    def maximise(self, sums: dict[str, Tensor]) -> None:
        if "proposed" in sums:
            better = self.passes >= self.useful and not self.changed
            self.changed |= better
            self.value += 1.0 if better else -1.0
        elif not self.changed:
            self.value.copy_((1 + self.value) / 2)

    def propose(self, sums: dict[str, Tensor], most: int) -> dict[str, Tensor]:
        self.asked.append(most)
        return {**sums, "proposed": torch.ones(())}


def run(useful: int, most: int = 200) -> Scripted:
    network = Scripted(useful)
    learner = ExpectationMaximisation(network, Run(seed=0, device=torch.device("cpu")), tol=1e-3, fresh=False)
    batch = Batch(x=torch.zeros(1, 1), rows=1)
    for _ in range(most):
        learner.step(batch)
        learner.epoch_end()
        network.passes += 1
        if learner.finished:
            break
    assert learner.finished
    return network


def test_a_change_is_asked_for_once_more_before_the_end():
    """Early changes fail, and a quarter as many are asked for each time; at standstill a single one, and it helps."""
    network = run(useful=12)
    assert network.asked[:5] == [64, 16, 4, 1, 1]
    assert network.changed
    assert float(network.value) > 1.5


def test_it_ends_when_the_last_change_fails():
    network = run(useful=10**6)
    assert network.asked == [64, 16, 4, 1, 1]
    assert 0.99 < float(network.value) <= 1.0
