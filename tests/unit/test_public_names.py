"""The public names: all importable, the type stub in step with them, and type checkers seeing through it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import reverie
from reverie import catalog

ROOT = Path(reverie.__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def make_stubs() -> ModuleType:
    path = ROOT / "tools" / "make_stubs.py"
    spec = importlib.util.spec_from_file_location("make_stubs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_can_be_had_and_no_other():
    for name in dir(reverie):
        assert getattr(reverie, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = reverie.Nothing


def test_what_is_generated_is_not_stale(make_stubs):
    assert make_stubs.stale() == [], "run python tools/make_stubs.py"


def test_a_missing_or_changed_file_is_found_stale(make_stubs, monkeypatch, tmp_path):
    for name in ("README.md", "CONTRIBUTING.md", "examples/add_a_family.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(make_stubs, "ROOT", tmp_path)
    assert make_stubs.stale() == ["src/reverie/__init__.pyi"]
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text().replace("| `vae` |", "| `ave` |"))
    assert "README.md" in make_stubs.stale()
    monkeypatch.setattr(sys, "argv", ["make_stubs.py", "--check"])
    assert make_stubs.main() == 1


def test_the_stub_has_every_public_name():
    text = (ROOT / "src" / "reverie" / "__init__.pyi").read_text()
    names = {*reverie._NAMES, *reverie._MODULES, *(row.class_name for row in catalog._BUILT_IN), "__version__"}
    assert {name for name in names if f"import {name} as {name}" not in text} == set()


@pytest.mark.slow
def test_type_checkers_see_recipes_through_the_stub(tmp_path):
    (tmp_path / "user.py").write_text(
        "import reverie as rv\nrv.VAE(latent=3)\nreveal_type(rv.VAE())\nrv.VAE(latant=3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert any("user.py:3" in line and "reverie.models.deep.vae.VAE" in line for line in lines)
    assert any("user.py:4" in line and 'Unexpected keyword argument "latant"' in line for line in lines)
    assert not any("user.py:2" in line for line in lines)
