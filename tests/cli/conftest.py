"""Runs of tiny models, made once for all command line tests, and a way to call the command line in process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reverie.cli import run


@dataclass
class Said:
    """What a command line said and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as the one JSON document it must be."""
        return json.loads(self.out)


Call = Callable[..., Said]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """`cli("fit", "gmm", ...)` in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REVERIE_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: str) -> Said:
        capsys.readouterr()
        code = run([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert code in (0, 1, 2, 130)
        return Said(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs: `digits` (vae, with labels), `iris` (gmm), `moons` (gmm), `mixed` (vae)."""
    root = tmp_path_factory.mktemp("runs")
    table = root / "mixed.csv"
    rows = [f"{i % 7},{'red' if i % 3 else 'blue'},{i / 10}" for i in range(120)]
    table.write_text("\n".join(["count,colour,size", *rows]) + "\n")
    small = ["--encoder", "mlp", "--encoder.hidden", "8", "--decoder", "mlp", "--decoder.hidden", "8", "--latent", "2"]
    for words in (
        ["fit", "vae", "digits", "--max-rows", "120", "--steps", "3", *small, "--out", str(root / "digits")],
        ["fit", "gmm", "iris", "--components", "2", "--epochs", "3", "--out", str(root / "iris")],
        [
            "fit",
            "gmm",
            "two_moons",
            "--max-rows",
            "300",
            "--components",
            "2",
            "--epochs",
            "2",
            "--out",
            str(root / "moons"),
        ],
        ["fit", "vae", str(table), "--steps", "3", *small, "--out", str(root / "mixed")],
    ):
        assert run([*words, "--quiet"]) == 0
    return root
