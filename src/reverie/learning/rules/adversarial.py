"""Players in turn, each with its own parameters, loss and optimizer: the rule of GANs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from reverie.data.space import Batch
from reverie.learning.phases import Learner, Metrics, State
from reverie.learning.rules.descent import Descent
from reverie.learning.rules.gradient import descend
from reverie.learning.run import Run
from reverie.learning.watching.findings import Monitor
from reverie.learning.watching.monitors import gradient_monitors
from reverie.rng import Noise


@dataclass
class Player:
    """One side of the game. `loss(batch, noise, round)` gives per-row values (n,); "loss" is minimised over this
    player's parameters only. `updates` of it are made per round."""

    name: str
    descent: Descent
    loss: Callable[[Batch, Noise, int], dict[str, Tensor]]
    updates: int = 1


def _at(player: Player, round_: int) -> Callable[[Batch, Noise], dict[str, Tensor]]:
    """The player's loss in that round."""
    return lambda batch, noise: player.loss(batch, noise, round_)


class Adversarial(Learner):
    """Each step is a round: every player in order makes its updates on the batch. There is no objective to stop on."""

    casts = True

    def __init__(self, network: nn.Module, players: list[Player], run: Run) -> None:
        self.network, self._players, self._run = network, players, run
        self._round = 0

    def monitors(self) -> list[Monitor]:
        return gradient_monitors()

    def step(self, batch: Batch) -> Metrics:
        metrics: Metrics = {}
        for player in self._players:
            for _ in range(player.updates):
                turn = _at(player, self._round)
                means = descend(player.descent, turn, batch, self._run)
            for name, value in means.items():
                metrics[player.name if name == "loss" else f"{player.name}.{name}"] = value
        self._round += 1
        return metrics

    def state(self) -> State:
        return {"round": self._round, **{player.name: player.descent.state() for player in self._players}}

    def load_state(self, state: State) -> None:
        self._round = state["round"]
        for player in self._players:
            player.descent.load_state(state[player.name])
