"""Every family on a second device, which is pretended: tensors that say they are on CUDA and refuse to meet those of the CPU. What
runs here mixes no devices, and gives the very figures of the CPU. tools/gpu_check.py asks the same of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import runs
import torch

import devices
import reverie as rv
from elsewhere import There, elsewhere
from families import OPTIONS, rows_for, small_recipes
from reverie.errors import Interrupted


def _cases() -> list[Any]:
    """Every family once, on its first form, and the rest as slow ones."""
    first = dict(reversed(devices.cases()))
    return [
        pytest.param(family, form, marks=[] if first[family] == form and family not in SLOW else pytest.mark.slow)
        for family, form in devices.cases()
    ]


SLOW = ("boltzmann_machine",)  # thousands of small steps, each of which the pretended device looks at


@pytest.mark.parametrize(("family", "form"), _cases())
def test_trained_there_it_is_what_it_is_here(family: str, form: str) -> None:
    here = devices.fit(family, form, "cpu")
    with elsewhere():
        there = devices.fit(family, form, "cuda")
        assert there.device.type == "cuda"
        back = there.to("cpu")
        state = here.network.state_dict()
        # Machine code runs on the CPU alone: what a chain learns by it, tensor operations repeat but for rounding.
        rounding = 1e-9 if bool(state.get("compiled", False)) else 0.0
        for name, tensor in state.items():
            torch.testing.assert_close(back.network.state_dict()[name], tensor, rtol=rounding, atol=rounding)
        moved = here.to("cuda")
        found = devices.differences(here, moved, family, form)
    assert max(found.values(), default=0.0) <= rounding, found
    assert found or not here.can & {"sample", "log_prob"}


@pytest.mark.parametrize("family", ["gmm", "rbm", "dbm", "vae", "gan"])
def test_stopped_there_it_goes_on_there_and_here(family: str, tmp_path: Path) -> None:
    """A run of the second device resumes on it bit for bit, and its files are those of any device."""
    options = {**OPTIONS[family], "epochs": 2}
    recipe, data = small_recipes()[family], rows_for(family, 150)
    with elsewhere():
        recipe.fit(data, out=str(tmp_path / "whole"), device="cuda", **options)
        with pytest.raises(Interrupted), runs.stop_after(2):
            recipe.fit(data, out=str(tmp_path / "stopped"), device="cuda", **options)
        rv.resume(tmp_path / "stopped", data, device="cuda")
    want = runs.train_state(tmp_path / "whole")
    assert runs.differences(want, runs.train_state(tmp_path / "stopped")) == []
    loaded = rv.load(tmp_path / "stopped")
    assert not any(isinstance(tensor, There) for tensor in loaded.network.state_dict().values())
    with elsewhere(), pytest.raises(Interrupted), runs.stop_after(2):
        recipe.fit(data, out=str(tmp_path / "moved"), device="cuda", **options)
    rv.resume(tmp_path / "moved", data, device="cpu")
    assert runs.differences(want, runs.train_state(tmp_path / "moved")) == []


def test_the_pretended_device_refuses_what_a_real_one_refuses() -> None:
    """The instrument itself: without this nothing above could fail."""
    with elsewhere():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert (there.device.type, (there + 1).device.type, there.cpu().device.type) == ("cuda", "cuda", "cpu")
        for mixed in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here[there.long()], there.numpy):
            with pytest.raises((RuntimeError, TypeError), match=r"cuda:0|CUDA|cpu"):
                mixed()
        assert there[torch.tensor([0])].tolist() == [1.0]  # CUDA tensors may be indexed from the CPU
        assert (there + torch.tensor(1.0)).tolist() == [2.0] * 3  # and meet single numbers
        linear = torch.nn.Linear(3, 1).to("cuda")
        (gradient,) = torch.autograd.grad(linear(there).sum(), [linear.weight])
        assert gradient.device.type == "cuda"
