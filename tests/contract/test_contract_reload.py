"""save -> load: the same samples and densities bitwise in a fresh process; own modules come back only when passed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from contract_kit import (
    FAMILIES,
    KIT,
    fitted,
    float_table,
    forms_of,
    identical,
    learn,
    module_shapes,
    network_options,
    pairs,
)
from contract_reload import results
from torch import nn

import reverie as rv
from reverie.config import replace
from reverie.errors import CheckpointError, InvalidOption

PAIRS = pairs()
OPTIONS = [(family, option) for family in FAMILIES for option in network_options(family)]


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("models")
    for family, form in PAIRS:
        fitted(family, form).save(root / f"{family}@{form}")
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run(
        [sys.executable, str(here / "contract_reload.py"), str(root)], env=environment, check=True, timeout=300
    )
    return pickle.loads((root / "found.pickle").read_bytes())


@pytest.mark.parametrize(("family", "form"), PAIRS)
def test_a_fresh_process_gives_the_same_bits(family, form, reloaded):
    model, found = fitted(family, form), reloaded[f"{family}@{form}"]
    assert found["repr"] == repr(model)
    assert found["can"] == model.can
    for name, value in results(model, family, form).items():
        assert identical(value, found[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_known_about_a_model_is_saved(family, tmp_path):
    model = fitted(family, forms_of(family)[-1])
    loaded = rv.load(model.save(tmp_path / "m"))
    for name in ("estimator", "schema", "history", "warnings", "info", "log_prob_kind", "measure", "can", "family"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.codec.to_json() == model.codec.to_json()
    assert loaded.codec.space == model.codec.space
    assert loaded.summary() == model.summary()


def own_module(family: str, option: str, *, out: int = 0) -> nn.Module:
    wide, narrow = module_shapes(family, option)
    return nn.Sequential(nn.Linear(wide, 9), nn.Tanh(), nn.Linear(9, narrow + out))


@pytest.mark.parametrize(("family", "option"), OPTIONS)
def test_own_modules_come_back_only_when_passed(family, option, tmp_path):
    module = own_module(family, option)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    data = float_table(60, 0)
    model = learn(family, data, recipe=replace(KIT[family].recipe, **{option: module}))
    assert all((module.state_dict()[name] == tensor).all() for name, tensor in before.items())
    assert module.training
    assert model.info["resolved"][option] == {"type": "external", "class": "torch.nn.modules.container.Sequential"}
    path = model.save(tmp_path / "m")
    with pytest.raises(CheckpointError, match=rf"your own module for {option} .*Sequential.*network=\.\.\."):
        rv.load(path)
    for given in (own_module(family, option), {option: own_module(family, option)}):
        loaded = rv.load(path, network=given)
        assert identical(loaded.sample(9, seed=1), model.sample(9, seed=1))
    with pytest.raises(CheckpointError, match="needs no module for nonsense"):
        rv.load(path, network={option: own_module(family, option), "nonsense": nn.Identity()})
    with pytest.raises(InvalidOption, match=r"must map \(n, \d+\) to \(n, \d+\).*returned \(2, \d+\)"):
        rv.load(path, network=own_module(family, option, out=1))


@pytest.mark.parametrize(("family", "option"), OPTIONS)
def test_a_module_of_the_wrong_shape_says_got_and_wanted(family, option):
    wide, narrow = module_shapes(family, option)
    X = float_table(60, 0)
    with pytest.raises(
        InvalidOption, match=rf"\(n, {wide}\) to \(n, {narrow}\); for 2 rows it returned \(2, {narrow + 1}\)"
    ):
        learn(family, X, recipe=replace(KIT[family].recipe, **{option: own_module(family, option, out=1)}))
    with pytest.raises(InvalidOption, match=rf"\(n, {wide}\) to \(n, {narrow}\); it failed with RuntimeError"):
        learn(family, X, recipe=replace(KIT[family].recipe, **{option: nn.Linear(wide + 1, narrow)}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_own_modules_refuses_one(family, tmp_path):
    path = fitted(family, forms_of(family)[0]).save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="needs no module"):
        rv.load(path, network=nn.Identity())


@pytest.mark.parametrize("family", [family for family in FAMILIES if len(network_options(family)) > 1])
def test_two_own_modules_go_by_name(family, tmp_path):
    names = network_options(family)
    recipe = replace(KIT[family].recipe, **{name: own_module(family, name) for name in names})
    model = learn(family, float_table(60, 0), recipe=recipe)
    path = model.save(tmp_path / "m")
    with pytest.raises(CheckpointError, match="needs 2 modules"):
        rv.load(path, network=nn.Identity())
    loaded = rv.load(path, network={name: own_module(family, name) for name in names})
    np.testing.assert_array_equal(loaded.sample(5, seed=0), model.sample(5, seed=0))


@pytest.mark.parametrize("family", sorted({family for family, _ in OPTIONS}))
def test_auto_stays_auto_and_what_it_meant_is_recorded(family, tmp_path):
    recipe = replace(KIT[family].recipe, **dict.fromkeys(network_options(family), "auto"))
    model = learn(family, float_table(40, 0), recipe=recipe, epochs=1)
    loaded = rv.load(model.save(tmp_path / "m"))
    assert loaded.estimator == recipe
    for name in network_options(family):
        assert getattr(loaded.estimator, name) == "auto"
        assert loaded.info["resolved"][name]["type"] in ("mlp", "conv")
    assert identical(loaded.sample(5, seed=0), model.sample(5, seed=0))
