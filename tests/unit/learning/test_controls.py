"""Tests of the resume test: leave one thing unrestored, and it must turn red exactly where that thing matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import runs
import torch

import reverie.estimator
from reverie import serial
from reverie.learning.budget import Budget
from reverie.rng import generator


@pytest.fixture(autouse=True)
def _stack(stack_family: None) -> None:
    """The throwaway two-phase family is in the catalog."""


def _generator(state: dict[str, Any]) -> None:
    state["generator"] = generator(0, "training").get_state()


def _optimizer(state: Any) -> None:
    for key, value in list(state.items()):
        if key == "descent" or (key in ("generator", "discriminator") and isinstance(value, dict)):
            state[key] = {}
        elif isinstance(value, dict) and key in ("learner",):
            _optimizer(value)


def _chain(state: dict[str, Any]) -> None:
    learner = state["learner"].get("learner", state["learner"])  # inside the averaging
    if "chains" in learner:
        learner["chains"] = None


def _average(state: dict[str, Any]) -> None:
    if "average" in state["learner"]:
        state["learner"]["average"] = dict(state["network"])


def _finished_phase(state: dict[str, Any]) -> None:
    for name, value in state["network"].items():
        if name.startswith("first."):
            state["network"][name] = torch.full_like(value, 0.01)


def _running(state: dict[str, Any]) -> None:
    sums = state["learner"].get("dicts", {})
    for name in sums:
        sums[name] = {key: 0.5 * value for key, value in sums[name].items()}


BREAK = {
    "generator": _generator,
    "optimizer": _optimizer,
    "chain": _chain,
    "average": _average,
    "finished phase": _finished_phase,
    "running sums": _running,
}

# breakage -> the families that must turn red. A mixture draws nothing after its start and has no optimizer; only the
# table mixture, learned stepwise, has running sums; only the Boltzmann machines have chains; only they, the VAE and the GAN are trained with averaging here; only the stack has a finished phase.
RED = {
    "generator": {"rbm", "boltzmann_machine", "vae", "gan", "stack"},
    "optimizer": {"rbm", "boltzmann_machine", "vae", "gan", "stack"},
    "schedule": {"rbm", "boltzmann_machine", "vae", "gan", "stack"},
    "chain": {"rbm", "boltzmann_machine"},
    "average": {"rbm", "boltzmann_machine", "vae", "gan"},
    "finished phase": {"stack"},
    "running sums": {"table_mixture"},
}


@pytest.mark.parametrize("family", ["gmm", "table_mixture", "rbm", "boltzmann_machine", "vae", "gan", "stack"])
@pytest.mark.parametrize("breakage", list(RED))
def test_control(breakage: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = 13 if family == "stack" else 7  # inside the second phase, or inside the second epoch
    runs.fit(family, tmp_path / "whole")
    want = runs.train_state(tmp_path / "whole")
    runs.stopped(family, tmp_path / "stopped", step)

    if breakage == "schedule":
        progress = Budget.progress
        monkeypatch.setattr(Budget, "progress", lambda self, at, total: max(progress(self, at, total) - 0.3, 0.0))
    else:
        read = serial.read

        def broken(folder: Path, name: str, **options: Any) -> Any:
            document, state = read(folder, name, **options)
            if name == "train" and state["learner"] is not None:
                BREAK[breakage](state)
            return document, state

        monkeypatch.setattr(reverie.estimator.serial, "read", broken)
    runs.resumed(family, tmp_path / "stopped")
    monkeypatch.undo()
    found = runs.differences(want, runs.train_state(tmp_path / "stopped"))
    assert bool(found) == (family in RED[breakage]), found


def test_without_a_breakage_all_are_green(tmp_path: Path) -> None:
    runs.fit("rbm", tmp_path / "whole")
    runs.stopped("rbm", tmp_path / "stopped", 7)
    runs.resumed("rbm", tmp_path / "stopped")
    assert runs.differences(runs.train_state(tmp_path / "whole"), runs.train_state(tmp_path / "stopped")) == []
