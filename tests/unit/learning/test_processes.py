"""Two processes (gloo): the same result as one, exact resume, no hang on a tail of one row, errors that come back."""

from __future__ import annotations

import json
from pathlib import Path

import group_work
import pytest
import torch

from families import OPTIONS, rows_for, small_recipes
from reverie.errors import DataError, InvalidOption
from reverie.learning.launch import launch

# Sums of float32 gradients in another order differ by rounding, which a few updates amplify; EM sums are float64.
TOLERANCE = {
    "gmm": 1e-12,
    "table_mixture": 1e-12,
    "naive_bayes": 1e-12,
    "adversarial_forest": 0.0,
    "unmasking_trees": 0.0,
    "dbn": 2e-4,
    "dbm": 2e-4,
    "autoencoder": 2e-4,
    "rbm": 1e-6,
    "tempered rbm": 1e-6,
    "temporal_rbm": 1e-6,
    "boltzmann_machine": 1e-6,
    "vae": 1e-6,
    "gan": 1e-6,
    "stack": 1e-6,
}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("group")
    launch(2, group_work.work, (str(scratch),))
    return scratch


@pytest.mark.parametrize("family", list(TOLERANCE))
def test_two_processes_equal_one(family: str, group: Path, stack_family: None) -> None:
    """n = 501, batch 100; the mixture's rows have holes, the VAE and the GAN average their weights."""
    two = torch.load(group / f"{family}.pt", weights_only=True)
    one = small_recipes()[family].fit(rows_for(family), **OPTIONS[family]).network.state_dict()
    worst = max(float((one[name].double() - two[name].double()).abs().max()) for name in one if one[name].numel())
    assert worst <= TOLERANCE[family]


def test_two_processes_resume_bitwise(group: Path) -> None:
    findings = json.loads((group / "findings.json").read_text())
    assert findings["world"] == 2
    assert len(findings["differences"]) == sum(len(stops) for stops in group_work.STOPS.values())
    assert {name: found for name, found in findings["differences"].items() if found} == {}


def test_devices_from_python() -> None:
    recipe, rows = small_recipes()["vae"], rows_for("vae", 101)
    one = recipe.fit(rows, epochs=1, batch_size=50)
    two = recipe.fit(rows, epochs=1, batch_size=50, devices=2)
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert two.sample(3, seed=0).shape == (3, 4)


def test_errors_of_a_process_come_back() -> None:
    with pytest.raises(DataError, match="components=3: there are only 2"):
        small_recipes()["gmm"].fit(rows_for("gan", 2), devices=2)
    with pytest.raises(InvalidOption, match="more processes than rows"):
        small_recipes()["vae"].fit(rows_for("vae", 2), devices=3)


def test_a_process_whose_work_is_done_cannot_fail_any_more() -> None:
    """Threads of gloo now and then abort an interpreter that is being taken down."""
    launch(1, group_work.leave_something_late, ())
