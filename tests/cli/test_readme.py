"""What README.md and docs/cli.md show works, line by line, and the example of a family of one's own keeps its word."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import reverie as rv
from reverie import catalog
from reverie.cli import run

ROOT = Path(rv.__file__).resolve().parents[2]


def block(file: str, heading: str, language: str = "") -> str:
    """The first code block of that language below a heading."""
    text = (ROOT / file).read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = block("README.md", "From Python", "python")
    assert len(code.splitlines()) <= 10
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (16, 8, 8)
    assert names["images"].dtype == np.uint8
    assert names["nats"].shape == (len(names["digits"].test),)
    assert list(names["rows"].columns) == [
        "sepal length (cm)",
        "sepal width (cm)",
        "petal length (cm)",
        "petal width (cm)",
    ]
    assert rv.load("digits-vae").family == "vae"


def test_the_command_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = block("README.md", "From the command line").strip().splitlines()
    assert {shlex.split(line)[1] for line in lines} >= {
        "fit",
        "sample",
        "evaluate",
        "compare",
        "info",
        "models",
        "doctor",
    }
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "reverie"
        code = run(words)
        said = capsys.readouterr()
        assert code == 0, (line, said.err)
        assert said.out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "threes.png").exists()


def test_the_configuration_of_the_docs_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(block("docs/cli.md", "fit", "yaml"))
    assert run(["fit", "--config", "c.yaml", "--max-rows", "200", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resolved"]["encoder"]["channels"] == [16, 32]


def test_the_picture_of_the_readme_is_there():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / name).read_bytes().startswith(b"\x89PNG")


def test_links_between_documents_lead_somewhere():
    for file in ("README.md", "CONTRIBUTING.md", "docs/cli.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / file).read_text(encoding="utf-8")):
            assert ((ROOT / file).parent / target).exists(), f"{file}: {target}"


@pytest.fixture
def coins() -> Iterator[ModuleType]:
    """The example, imported as the module `add_a_family`, and forgotten again."""
    path = ROOT / "examples" / "add_a_family.py"
    spec = importlib.util.spec_from_file_location("add_a_family", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["add_a_family"] = module
    spec.loader.exec_module(module)
    yield module
    catalog.families().pop("coins")
    del sys.modules["add_a_family"]


def test_the_example_family_fits_samples_and_its_probabilities_sum_to_one(coins, tmp_path):
    rows = np.random.default_rng(0).random((400, 3)) < [0.1, 0.5, 0.8]
    model = coins.Coins(prior=0.5).fit(rows)
    theta = (rows.sum(0) + 0.5) / (len(rows) + 1)
    np.testing.assert_allclose(model.network.theta.numpy(), theta, rtol=1e-6)
    every = np.array(list(itertools.product([False, True], repeat=3)))
    assert np.exp(model.log_prob(every)).sum() == pytest.approx(1.0, abs=1e-6)
    assert model.log_prob_kind == "exact"
    assert model.can == set(catalog.family("coins").can)
    drawn = model.sample(20_000, seed=0)
    assert drawn.dtype == bool
    np.testing.assert_allclose(drawn.mean(0), theta, atol=0.015)  # about four standard errors
    again = rv.load(model.save(tmp_path / "coins"))
    np.testing.assert_array_equal(again.sample(10, seed=1), model.sample(10, seed=1))


def test_the_example_family_is_on_the_command_line(coins, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"rain": [True, False] * 20, "wind": [True] * 30 + [False] * 10}).to_csv("t.csv", index=False)
    assert run(["fit", "coins", "t.csv", "--prior", "2", "--out", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["can"] == ["log_prob", "sample"]
    assert run(["models"]) == 0
    assert "Independent coins" in capsys.readouterr().out
