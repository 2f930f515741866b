"""The examples of the classical families, made small: they run, and their figures are of the right size."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import reverie as rv

FOLDER = Path(rv.__file__).resolve().parents[2] / "examples"
Main = Callable[..., dict[str, float]]


def main_of(name: str) -> Main:
    """The function `main` of an example."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Main = module.main
    return main


def test_digits_are_completed_better_than_by_the_mean(tmp_path):
    found = main_of("mixture_digits")(quick=True, picture=tmp_path / "p.png")
    assert found["10 low-rank"] < found["1 Gaussian"] < found["mean pixel"]
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_five_blobs_are_five(tmp_path):
    found = main_of("bayesian_blobs")(quick=True, picture=tmp_path / "p.png")
    assert found["components, EM, best BIC"] == found["components, Bayesian, at most 20"] == 5
    assert found["nats, EM, best BIC"] > found["nats, EM, 20 components"]


def test_a_machine_of_digits(tmp_path):
    found = main_of("rbm_digits")(quick=True, picture=tmp_path / "p.png")
    assert found["nats, machine"] > found["nats, independent pixels"] + 1
    assert abs(found["gap of log Z"]) < 0.2
    assert found["error, machine"] < found["error, mean pixel"]
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_chains_that_mix_and_chains_that_do_not(tmp_path):
    found = main_of("chains")(quick=True, picture=tmp_path / "p.png")
    assert found["small digits"] < 1.1 < 2 < found["bars and stripes"]
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_bells_and_a_wheel(tmp_path):
    found = main_of("temporal_rbm")(quick=True, picture=tmp_path / "p.png")
    assert found["nats per step, temporal machine"] > found["nats per step, hidden Markov model"] + 1
    assert found["error of the wheel, 12 steps on"] < 0.7  # the mean: 0.71
    assert found["bells right, 12 steps on"] > 0.85
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_stacks_of_digits(tmp_path):
    found = main_of("stacks_digits")(quick=True, pictures=tmp_path)
    assert found["dbn, bound on test nats"] > -25.5
    assert found["dbm, bound on test nats"] > -25.5
    assert found["dbn, error of its classifier"] < 0.3
    assert found["autoencoder, plain, squared error"] < found["8 principal components, squared error"]
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_bars_and_stripes(tmp_path):
    found = main_of("bars_and_stripes")(quick=True, picture=tmp_path / "p.png")
    assert found["exact gradient"] < 0.1
    assert found["persistent chains"] < 1.0  # independent bits: 3.6
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_digits_are_remembered(tmp_path):
    found = main_of("hopfield_digits")(picture=tmp_path / "p.png")
    assert found["hebb"] < found["pseudo_inverse"] == 1
    assert found["dense, nearest is the right one"] > 0.99
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_users_with_tastes(tmp_path):
    found = main_of("ratings_rbm")(quick=True, picture=tmp_path / "p.png")
    assert found["error, machine"] < 0.85 * found["error, film's mean"]
    assert found["hits, machine"] > 1.5 * found["hits, popular"]
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_incomes(real_data: Path, tmp_path):
    found = main_of("adult_naive_bayes")(real_data, quick=True, picture=tmp_path / "p.png")
    assert found["accuracy, without repeats"] > 0.82
    assert found["log-loss, without repeats"] < 0.45


def test_regimes_of_an_office(real_data: Path, tmp_path):
    found = main_of("occupancy_hmm")(real_data, quick=True, picture=tmp_path / "p.png")
    assert found["supervised, complete"] > 0.93
    assert found["supervised, 30% missing"] > found["supervised, complete"] - 0.03


def test_tagging(real_data: Path):
    found = main_of("pos_tagging")(real_data, quick=True)
    assert found["test"] > 0.84


@pytest.mark.slow
def test_the_figures_that_the_docs_promise(real_data: Path):
    assert main_of("pos_tagging")(real_data)["test"] >= 0.92
    incomes = main_of("adult_naive_bayes")(real_data)
    assert incomes["accuracy, all columns"] >= 0.83
    assert incomes["log-loss, all columns"] <= 0.45
    office = main_of("occupancy_hmm")(real_data)
    for how in ("supervised", "unsupervised"):
        assert abs(office[f"{how}, complete"] - office[f"{how}, 30% missing"]) < 0.03


def test_taxis(real_data: Path):
    found = main_of("nab_hmm")(real_data)
    assert found["windows"] >= 4
    assert found["false share"] < 0.1


def test_genes(real_data: Path):
    found = main_of("dna_hmm")(real_data, quick=True)
    assert found["bases, 4"] < found["bases, 1"] < 1.39  # ln 4 = 1.386
    assert found["codons, 1"] < found["bases, 1"]


def test_without_the_data_an_example_says_so():
    found = subprocess.run(
        [sys.executable, str(FOLDER / "nab_hmm.py"), "--data", "nowhere"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 1
    assert found.stderr.strip().startswith("no data in nowhere: set REVERIE_DATA")
    assert "Traceback" not in found.stderr
