"""`reverie fit`: flags from recipes, networks, configuration files, run folders, dry runs, resuming, interrupts."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reverie import catalog, config, store
from reverie.cli import data as cli_data
from reverie.cli import run
from reverie.cli.recipes import recipe_flags, training_flags
from reverie.data.sources.load import load_data
from reverie.learning.training import Training

GMM = ("fit", "gmm", "iris", "--components", "2", "--epochs", "2")
TINY = ("--encoder", "mlp", "--encoder.hidden", "8", "--decoder", "mlp", "--decoder.hidden", "8", "--latent", "2")


@pytest.mark.parametrize("family", list(catalog.families()))
def test_every_option_of_a_recipe_is_a_flag_with_its_help(cli, family):
    cls = store.recipe_class(family)
    text = " ".join(cli("fit", family, "--help").out.replace("│", " ").split())
    for name, meaning in {**config.descriptions(cls), **config.descriptions(Training)}.items():
        if name not in ("callbacks", "out"):
            assert f"--{name.replace('_', '-')}" in text
            assert meaning.replace("\n", " ") in text


@pytest.mark.parametrize("family", list(catalog.families()))
def test_no_two_flags_have_the_same_name(family):
    from reverie.cli import fit

    cls = store.recipe_class(family)
    flags = [*fit.ITS_OWN, *recipe_flags(cls, {}), *training_flags(cls.defaults), *cli_data.data_flags()]
    words = [word for flag in flags for word in flag.words]
    assert len(words) == len(set(words))


def test_data_flags_are_the_arguments_of_load_data():
    known = {name for name in inspect.signature(load_data).parameters if name != "source"}
    assert set(cli_data._HELP) == known
    assert {flag.name.replace("split-seed", "seed").replace("-", "_") for flag in cli_data.data_flags()} == known


def test_fit_writes_a_run_that_loads(cli, tmp_path):
    said = cli(*GMM, "--seed", "3", "--out", "here")
    assert said.code == 0
    assert "saved in here" in said.out
    model = store.load(tmp_path / "here")
    assert (model.family, model.estimator.components, model.info["seed"]) == ("gmm", 2, 3)


def test_without_out_the_first_free_folder_under_runs_is_taken(cli):
    first, second = cli(*GMM, "--json"), cli(*GMM, "--json")
    assert [first.json["run"], second.json["run"]] == ["runs/gmm-iris-1", "runs/gmm-iris-2"]


def test_json_is_one_document_and_the_rest_is_on_stderr(cli):
    said = cli(*GMM, "--json")
    assert set(said.json) >= {"run", "family", "parameters", "epochs", "steps", "seconds", "last", "can", "warnings"}
    assert "warning: duplicates" in said.err
    assert "\x1b" not in said.err


def test_quiet_leaves_stderr_empty(cli):
    said = cli(*GMM, "--quiet")
    assert said.err == ""
    assert said.code == 0


def test_values_after_space_or_equals_and_words_in_any_order(cli):
    a = cli("fit", "gmm", "--components=3", "iris", "--epochs", "1", "--out=a", "--json").json
    b = cli("fit", "gmm", "iris", "--epochs=1", "--components", "3", "--out", "b", "--json").json
    assert a["last"] == b["last"]


def test_networks_are_picked_first_and_then_have_flags_of_their_own(cli, tmp_path):
    said = cli(
        "fit",
        "vae",
        "digits",
        "--max-rows",
        "60",
        "--steps",
        "1",
        "--encoder=conv",
        "--encoder.channels",
        "4",
        "8",
        "--out",
        "r",
    )
    assert said.code == 0
    model = store.load(tmp_path / "r")
    assert config.to_json(model.estimator)["encoder"]["channels"] == [4, 8]
    assert config.to_json(model.estimator)["decoder"] == "auto"
    text = cli("fit", "vae", "--encoder", "conv", "--help").out
    assert "--encoder.channels" in text
    assert "--decoder.hidden INT" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--encoder.channels", "3"), "--encoder.channels: pick the network first, as in --encoder conv"),
        (("--encoder", "convv"), "--encoder: expected one of auto, mlp, conv, got 'convv', did you mean 'conv'?"),
        (("--encoder", "mlp", "--encoder.channels", "3"), "no flag --encoder.channels"),
        (("--encoder", "mlp", "--encoder.hiden", "3"), "did you mean '--encoder.hidden'?"),
        (("--encoder", "mlp", "--encoder.hidden", "a"), "--encoder.hidden: expected whole numbers, got 'a'"),
        (("--latent",), "--latent: expected a whole number, got nothing"),
        (
            ("--pixels", "nativ"),
            "--pixels: expected one of native, binary, threshold, got 'nativ', did you mean 'native'?",
        ),
        (("--lr", "fast"), "--lr: expected a number, got 'fast'"),
        (("--lr", "-1"), "VAE: lr: should be greater than 0 (got -1.0)"),
        (("--validation", "0.1", "--patience", "0"), "Training: patience: should be greater than or equal to 1"),
    ],
)
def test_wrong_flags_name_the_flag_the_value_and_the_mend(cli, words, expected):
    said = cli("fit", "vae", "digits", *words)
    assert said.code == 2
    assert expected in said.err


def test_data_flags_reach_load_data(cli, tmp_path):
    rows = "\n".join(f"{i},{i % 2},{'ab'[i % 2]}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"size,flag,name\n{rows}\n")
    words = (
        "--roles",
        "flag=ignore",
        "--kinds",
        "size=number",
        "--target",
        "name",
        "--fractions",
        "0.5",
        "0.5",
        "--split-seed",
        "4",
    )
    said = cli("fit", "vae", "t.csv", *words, "--steps", "1", *TINY, "--out", "r", "--json")
    assert said.code == 0
    model = store.load("r")
    assert [field.name for field in model.schema.data_fields] == ["size"]
    assert model.schema.condition.name == "name"
    assert model.info["data"]["split"]["sizes"] == {"train": 20, "test": 20}
    origin = json.loads((tmp_path / "r" / "config.json").read_text())["data"]["source"]
    assert origin["source"] == str(tmp_path / "t.csv")
    assert origin["seed"] == 4


def test_labels_that_come_with_the_data_are_left_out_where_a_family_takes_none(cli):
    said = cli("fit", "gmm", "digits", "--max-rows", "50", "--components", "1", "--epochs", "1", "--out", "r")
    assert said.code == 0
    assert "labels of digits, if any, are left out of gmm: --y COLUMN would name its components" in said.err
    assert store.load("r").schema.condition is None
    said = cli("fit", "hopfield", "digits", "--max-rows", "50", "--out", "s")
    assert "labels of digits, if any, are left out of hopfield: it does not learn from labels" in said.err
    refused = cli("fit", "hopfield", "digits", "--y", "y", "--out", "q")
    assert refused.code == 1
    assert "Families that take it: gmm, bernoulli_mixture, naive_bayes, rbm, dbn, dbm, vae, gan" in refused.err


def test_labels_name_the_components_of_a_mixture_when_asked(cli):
    few = cli("fit", "gmm", "iris", "--y", "target", "--components", "2", "--out", "q")
    assert few.code == 1
    assert "components=2: y has 3 classes" in few.err
    assert cli("fit", "gmm", "iris", "--y", "target", "--components", "3", "--out", "r").code == 0
    assert store.load("r").classes == ("setosa", "versicolor", "virginica")


def test_naive_bayes_from_a_file_with_labels(cli, tmp_path):
    rows = [f"{i % 7},{'red' if i % 3 else 'blue'},{i / 10},{'yes' if i % 2 else 'no'}" for i in range(90)]
    (tmp_path / "data.csv").write_text("\n".join(["count,colour,size,label", *rows]) + "\n")
    said = cli("fit", "naive_bayes", "data.csv", "--y", "label", "--smoothing", "0.5", "--out", "r")
    assert said.code == 0, said.err
    model = store.load("r")
    assert model.classes == ("no", "yes")
    assert model.estimator.smoothing == 0.5
    assert "predict" in said.out
    refused = cli("fit", "naive_bayes", "data.csv", "--out", "q")
    assert refused.code == 1
    assert "naive_bayes needs y, the class of each row" in refused.err
    assert cli("fit", "naive_bayes", "iris", "--out", "s").code == 0  # the labels of iris come with it
    assert cli("sample", "r", "-n", "5").code == 0
    assert cli("info", "r").code == 0
    assert cli("evaluate", "s", "--json").code == 0


def test_y_none_leaves_labels_out(cli):
    assert cli("fit", "vae", "iris", "--y", "none", "--steps", "1", *TINY, "--out", "r").code == 0
    assert store.load("r").schema.condition is None


CONFIGS = {
    "sections": {
        "family": "gmm",
        "seed": 5,
        "estimator": {"components": 3},
        "training": {"epochs": 1},
        "data": {"source": "iris"},
    },
    "flat": {"family": "gmm", "seed": 5, "components": 3, "epochs": 1, "data": "iris"},
}


@pytest.mark.parametrize("shape", list(CONFIGS))
@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_configuration_files_in_sections_or_flat(cli, tmp_path, shape, ending):
    (tmp_path / f"c.{ending}").write_text(json.dumps(CONFIGS[shape]))  # JSON is YAML
    assert cli("fit", "--config", f"c.{ending}", "--out", "r").code == 0
    model = store.load("r")
    assert (model.estimator.components, model.info["seed"], model.info["steps"]) == (3, 5, 1)


def test_flags_override_the_configuration(cli, tmp_path):
    spec = {"type": "mlp", "hidden": [5], "dropout": 0.5}
    document = {
        "latent": 3,
        "beta": 2.0,
        "encoder": spec,
        "decoder": spec,
        "epochs": 3,
        "source": "iris",
        "max_rows": 60,
    }
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert (
        cli(
            "fit",
            "vae",
            "--config",
            "c.json",
            "--latent",
            "4",
            "--steps",
            "2",
            "--encoder.hidden",
            "6",
            "7",
            "--out",
            "r",
        ).code
        == 0
    )
    model = store.load("r")
    assert (model.estimator.latent, model.estimator.beta, model.info["steps"]) == (4, 2.0, 2)
    assert config.to_json(model.estimator.encoder) | {"activation": ""} == {**spec, "hidden": [6, 7], "activation": ""}
    assert model.estimator.decoder.hidden == (5,)


def test_the_configuration_of_a_run_starts_the_same_run_again(cli, runs):
    assert cli("fit", "--config", str(runs / "iris" / "config.json"), "--out", "again").code == 0
    again, before = store.load("again"), store.load(runs / "iris")
    assert np.array_equal(again.sample(5, seed=0), before.sample(5, seed=0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"latnt": 3}', "latnt: no such option, did you mean 'latent'?"),
        ('{"estimator": {"latnt": 3}}', "estimator.latnt: no such option, did you mean 'latent'?"),
        ('{"training": {"epoch": 3}}', "training.epoch: no such option, did you mean 'epochs'?"),
        ('{"data": {"sed": 3}}', "data.sed: no such option, did you mean 'seed'?"),
        ('{"estimator": 3}', "estimator: expected an object with options, got 3"),
        ('{"seed": "x"}', "seed: expected a whole number, got 'x'"),
        ('{"family": "gmm"}', "the configuration is for the family 'gmm', the command says 'vae'"),
        ('{"latent": "x"}', "VAE: latent: expected a number, got the text 'x'"),
        ("[1]", "expected an object with options, got list"),
        ("{", "not valid JSON"),
    ],
)
def test_wrong_configurations_are_usage_errors(cli, tmp_path, text, expected):
    (tmp_path / "c.json").write_text(text)
    said = cli("fit", "vae", "iris", "--config", "c.json")
    assert said.code == 2
    assert expected in said.err


def test_configuration_files_that_cannot_be_read(cli, tmp_path, monkeypatch):
    (tmp_path / "c.toml").write_text("")
    (tmp_path / "c.yaml").write_text("a: [1")
    assert "cannot be read" in cli("fit", "vae", "iris", "--config", "none.json").err
    assert "ends in .json, .yaml or .yml" in cli("fit", "vae", "iris", "--config", "c.toml").err
    assert "not valid YAML" in cli("fit", "vae", "iris", "--config", "c.yaml").err
    monkeypatch.setitem(sys.modules, "yaml", None)
    said = cli("fit", "vae", "iris", "--config", "c.yaml")
    assert (said.code, "pip install reverie[yaml]" in said.err) == (1, True)


def test_dry_run_says_what_it_would_cost_and_writes_nothing(cli, tmp_path):
    words = ("fit", "vae", "digits", "--max-rows", "100", "--epochs", "4", *TINY, "--dry-run")
    said = cli(*words)
    assert said.code == 0
    assert "parameters" in said.out
    assert "phase" in said.out
    cost = cli(*words, "--json").json
    assert cost["phases"][0]["epochs"] == 4
    assert cost["parameters"] > 0
    assert list(tmp_path.iterdir()) == []


def test_resume_goes_on_and_refuses_other_options(cli):
    whole = cli(*GMM[:-2], "--epochs", "4", "--tol", "0", "--out", "whole", "--json").json
    cli(*GMM, "--tol", "0", "--out", "part")
    said = cli("fit", "--resume", "part", "--epochs", "4", "--json")
    assert said.json["last"] == whole["last"]
    refused = cli("fit", "--resume", "part", "--batch-size", "7")
    assert refused.code == 1
    assert "training.batch_size" in refused.err
    assert "data flags go with DATA" in cli("fit", "--resume", "part", "--max-rows", "7").err


def test_a_run_from_memory_needs_its_data_again(cli, tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 2))
    np.save(tmp_path / "rows.npy", rows)
    data = load_data(tmp_path / "rows.npy", split=None)
    data.origin = None
    store.recipe_class("gmm")(components=1, tol=0).fit(data, epochs=1, out="r")
    assert "pass them again" in cli("fit", "--resume", "r", "--epochs", "2").err
    assert cli("fit", "--resume", "r", "rows.npy", "--split", "none", "--epochs", "2").code == 0


def test_an_existing_run_is_not_overwritten(cli):
    cli(*GMM, "--out", "r")
    said = cli(*GMM, "--out", "r")
    assert said.code == 1
    assert "r already holds a run" in said.err


LONG = ["fit", "vae", "iris", "--epochs", "4000", "--ema", "0", *TINY, "--log-steps", "1", "--out", "stopped"]


def test_ctrl_c_saves_exits_130_and_can_be_resumed(tmp_path, capsys, monkeypatch):
    child = subprocess.Popen(
        [sys.executable, "-m", "reverie", *LONG],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log, deadline = tmp_path / "stopped" / "log.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 3):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "saved to" in err
    assert err.rstrip().endswith("go on with: reverie fit --resume stopped")
    monkeypatch.chdir(tmp_path)
    steps = store.load("stopped").info["steps"]
    epochs = steps // 1 + 2
    assert run(["fit", "--resume", "stopped", "--epochs", str(epochs), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == epochs


@pytest.mark.slow
def test_two_processes_by_torchrun_speak_with_one_voice(tmp_path):
    words = ["fit", "vae", "iris", "--steps", "2", *TINY, "--out", "r", "--json"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "reverie",
            *words,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert store.load(tmp_path / "r").info["steps"] == 2
