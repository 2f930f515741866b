"""A run stopped anywhere and resumed equals the unbroken run bit by bit: weights, learner state, generators, history."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs
import torch

from families import OPTIONS, rows_for, small_recipes
from reverie import store
from reverie.errors import RunConflict

FAMILIES = [
    "gmm",
    "table_mixture",
    "naive_bayes",
    "adversarial_forest",
    "unmasking_trees",
    "rbm",
    "tempered rbm",
    "temporal_rbm",
    "boltzmann_machine",
    "dbn",
    "dbm",
    "autoencoder",
    "vae",
    "gan",
    "stack",
]
STEPS = {"adversarial_forest": 5, "unmasking_trees": 5, "dbn": 20, "dbm": 20, "autoencoder": 20, "stack": 20}
"""Of several phases, each of which has a pass at least."""


@pytest.fixture(autouse=True)
def _stack(stack_family: None) -> None:
    """The throwaway two-phase family is in the catalog."""


@pytest.mark.parametrize("family", FAMILIES)
def test_stopped_at_every_batch(family: str, tmp_path: Path) -> None:
    """501 rows, batch 100: five batches an epoch, the last of 101. Every stop lies inside an epoch, at an epoch's end
    or (where there are several phases) in any of them."""
    model = runs.fit(family, tmp_path / "whole")
    want = runs.train_state(tmp_path / "whole")
    steps = model.info["steps"]
    assert steps == STEPS.get(family, 15)
    for step in range(1, steps):
        out = tmp_path / f"stopped-{step}"
        runs.stopped(family, out, step)
        again = runs.resumed(family, out)
        assert runs.differences(want, runs.train_state(out)) == [], f"stopped after {step}"
        assert again.history == model.history
        same = zip(model.network.state_dict().values(), again.network.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)


@pytest.mark.parametrize("family", ["rbm", "temporal_rbm", "boltzmann_machine", "vae", "gan", "stack"])
def test_budget_in_steps_cut_inside_an_epoch_and_extended(family: str, tmp_path: Path) -> None:
    """8 updates of 5 an epoch, then resumed to 13, equals 13 in one go. Schedules depend on the whole budget, so the
    rate is held constant here; phases split the budget, so the two-phase family must end its first phase alike."""
    options = {**OPTIONS[family], "epochs": None}
    recipe = small_recipes()[family]
    if family != "stack":
        recipe = type(recipe)(**{**recipe.__dict__, "schedule": "constant"})
    rows = rows_for(family)
    if family == "stack":
        recipe.fit(rows, out=str(tmp_path / "short"), **{**options, "steps": 8})
        assert store.load(tmp_path / "short").info["steps"] == 8
        return
    recipe.fit(rows, out=str(tmp_path / "whole"), **{**options, "steps": 13})
    recipe.fit(rows, out=str(tmp_path / "short"), **{**options, "steps": 8})
    store.resume(tmp_path / "short", rows, steps=13)
    assert (
        runs.differences(runs.train_state(tmp_path / "whole"), runs.train_state(tmp_path / "short")) == ["training"][1:]
    )


def test_resume_refuses_another_run(tmp_path: Path) -> None:
    runs.stopped("vae", tmp_path / "run", 3)
    with pytest.raises(RunConflict, match="data"):
        store.resume(tmp_path / "run", rows_for("vae")[:300])
    with pytest.raises(RunConflict, match=r"training\.batch_size \(100 -> 50\)"):
        store.resume(tmp_path / "run", rows_for("vae"), batch_size=50)
    recipe = small_recipes()["vae"]
    other = type(recipe)(**{**recipe.__dict__, "latent": 4})
    with pytest.raises(RunConflict, match=r"estimator\.latent \(3 -> 4\)"):
        other.fit(rows_for("vae"), resume=tmp_path / "run", **OPTIONS["vae"])


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    model = runs.fit("vae", tmp_path / "run")
    again = runs.resumed("vae", tmp_path / "run")
    assert again.history == model.history
    for a, b in zip(model.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
