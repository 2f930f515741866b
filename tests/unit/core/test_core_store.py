"""Catalog, errors, and load: every way a folder can be wrong has its message; save never destroys anything."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from families import OPTIONS, numeric_rows, small_recipes
from reverie import catalog, errors, serial
from reverie.errors import CheckpointError, InvalidOption, ReverieError
from reverie.model.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return small_recipes()["gmm"].fit(numeric_rows(80), epochs=2)


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    return model.save(tmp_path / "model")


# ---------------------------------------------------------------------- catalog and errors


def test_catalog_without_torch():
    code = "import sys, reverie; from reverie import catalog, errors; catalog.families(); dir(reverie)\n"
    code += "assert not {'torch', 'numpy', 'pandas', 'pydantic'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_families_by_name():
    assert catalog.family("vae").class_name == "VAE"
    assert catalog.family("vae").module == "reverie.models.deep.vae"
    with pytest.raises(
        InvalidOption,
        match=r"no family is called 'vea', did you mean 'vae'\? Families: gmm, .*naive_bayes, .*rbm, .*vae, gan",
    ):
        catalog.family("vea")
    with pytest.raises(InvalidOption, match=r"called 'quux'\. Families"):
        catalog.family("quux")


def test_who_can_and_who_takes():
    assert catalog.who_can("energy") == "rbm, rating_rbm, boltzmann_machine, hopfield"
    assert catalog.who_can("fly") == "none in this version"
    assert (
        catalog.who_takes({"category"})
        == "table_mixture, categorical_mixture, adversarial_forest, unmasking_trees, autoencoder, vae, gan"
    )
    assert catalog.who_takes({"image"}, verb="impute", holes=True) == "gmm, bernoulli_mixture, rbm, vae"
    mixtures = "gmm, bayesian_gmm, student_mixture, table_mixture"
    assert (
        catalog.who_takes({"number"}, condition="labels", but="gan")
        == f"{mixtures}, naive_bayes, adversarial_forest, vae"
    )
    assert (
        catalog.who_takes({"number"}) == f"{mixtures}, adversarial_forest, unmasking_trees, autoencoder, vae, gan"
    )  # naive Bayes needs y
    assert (
        catalog.who_takes({"integer"})
        == f"{mixtures}, poisson_mixture, adversarial_forest, unmasking_trees, autoencoder, vae, gan"
    )  # the rbm's must be bits
    assert catalog.who_takes({"number", "sequence"}) == "none in this version"


def test_labels_that_come_with_the_data():
    assert catalog.family("vae").uses_labels
    assert catalog.family("naive_bayes").uses_labels
    assert not catalog.family("gmm").uses_labels
    assert not catalog.family("rbm").uses_labels


def test_every_error_is_a_reverie_error_and_pickles():
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ReverieError)]
    assert len(classes) >= 11
    for cls in classes:
        copy = pickle.loads(pickle.dumps(cls("what to do")))
        assert str(copy) == "what to do"
        assert type(copy) is cls
        assert isinstance(cls.exit_code, int)
    assert issubclass(errors.InvalidOption, ValueError)
    assert errors.InvalidOption.exit_code == 2
    assert errors.Interrupted("x", checkpoint="c").checkpoint == "c"


def test_did_you_mean():
    assert errors.did_you_mean("latnet", ["latent", "beta"]) == ", did you mean 'latent'?"
    assert errors.did_you_mean("zzz", ["latent", "beta"]) == ""


def test_public_names_exist():
    for name in dir(rv):
        assert getattr(rv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = rv.Nonsense


# ---------------------------------------------------------------------- load


def refused(path: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        rv.load(path)


def test_nothing_there(tmp_path):
    refused(tmp_path / "none", r"none does not exist")
    (tmp_path / "file.txt").write_text("x")
    refused(tmp_path / "file.txt", r"is a file, not a saved model")
    (tmp_path / "other").mkdir()
    refused(tmp_path / "other", r"holds no model: expected model\.json, or the file `latest` of a run")


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2"]}')
    (tmp_path / "model.safetensors").write_bytes(b"x")
    refused(tmp_path, "holds no model")
    (tmp_path / "model.json").write_text('{"architectures": ["GPT2"]}')
    refused(tmp_path, "damaged|not written by reverie|no format")


def test_missing_files(saved):
    latest = serial.latest(saved)
    (latest / "model.safetensors").rename(latest / "x")
    refused(saved, r"cannot read .*model\.safetensors")
    (latest / "x").rename(latest / "model.safetensors")
    (latest / "model.json").unlink()
    refused(saved, r"`latest` names 00000000, which has no model\.json")


def reseal(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    serial.write_json(path, {**document, **changes})


def test_another_kind_family_or_version(saved):
    path = serial.latest(saved) / "model.json"
    good = path.read_bytes()
    reseal(path, kind="train")
    refused(saved, "holds no reverie model")
    path.write_bytes(good)
    reseal(path, family="boltzmann")
    refused(saved, r"the family 'boltzmann', which this installation does not have; install .* gmm, .*rbm")
    path.write_bytes(good)
    reseal(path, estimator={"components": 3, "colour": "red"})
    refused(saved, r"options this version does not know: GaussianMixture: colour")
    path.write_bytes(good)
    reseal(path, format=99)
    refused(saved, "has format 99.*Upgrade")
    path.write_bytes(good)
    reseal(path, family="rbm")
    refused(saved, "options this version does not know: RBM: components")


def test_weights_of_other_shapes(saved):
    means = "components.mean"
    latest = serial.latest(saved)
    document, state = serial.read(latest, "model")
    body = {k: v for k, v in document.items() if k not in ("state", "tensors", "format")}
    serial.write(latest, "model", body, {**state, means: state[means][:2]})
    refused(saved, "(?s)saved weights do not fit the network.*components.mean")
    serial.write(latest, "model", body, {name: t for name, t in state.items() if name != means})
    refused(saved, "(?s)saved weights do not fit the network.*components.mean")


def test_a_checkpoint_folder_and_a_run_folder_load_too(tmp_path):
    model = small_recipes()["gmm"].fit(numeric_rows(80), epochs=2, out=str(tmp_path / "run"))
    for path in (tmp_path / "run", str(tmp_path / "run"), serial.latest(tmp_path / "run")):
        np.testing.assert_array_equal(rv.load(path).sample(5, seed=0), model.sample(5, seed=0))
    with pytest.raises(CheckpointError, match="is a training run, which saves itself; choose another folder"):
        model.save(tmp_path / "run", overwrite=True)
    with pytest.raises(CheckpointError, match="holds no run"):
        rv.resume(tmp_path)


# ---------------------------------------------------------------------- save


def test_save_never_replaces_unasked(model, tmp_path):
    path = tmp_path / "deep" / "er" / "m"
    assert model.save(path) == path
    first = serial.latest(path)
    with pytest.raises(CheckpointError, match="already holds a model; pass overwrite=True"):
        model.save(path)
    assert serial.latest(path) == first
    other = small_recipes()["gmm"].fit(numeric_rows(80, seed=5), epochs=1)
    other.save(path, overwrite=True)
    np.testing.assert_array_equal(rv.load(path).sample(5, seed=0), other.sample(5, seed=0))
    assert len(list((path / "checkpoints").iterdir())) == 1


def test_save_into_other_folders(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("do not lose me")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="holds other files and no model; choose a new or empty folder"):
            model.save(tmp_path / "notes", overwrite=overwrite)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "do not lose me"
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file; choose another name"):
        model.save(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")


def test_every_family_saves_with_its_training_options(tmp_path, stack_family):
    for name, recipe in small_recipes().items():
        from families import rows_for

        model = recipe.fit(rows_for(name, 60), **{**OPTIONS[name], "epochs": 2})
        loaded = rv.load(model.save(tmp_path / name))
        assert loaded.info == model.info
        assert loaded.estimator == recipe
