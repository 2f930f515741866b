"""The pages of docs/families: their code runs, their links and pictures are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import reverie as rv

ROOT = Path(rv.__file__).resolve().parents[2]
PAGES = sorted(page for page in (ROOT / "docs" / "families").glob("*.md") if page.stem != "README")


def test_there_are_pages():
    assert {page.stem for page in PAGES} >= {"naive_bayes", "mixtures", "bayesian_mixture", "hmm", "hopfield"}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "docs" / "training.md", ROOT / "docs" / "tables.md"], ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, object] = {}
    for number, code in enumerate(blocks):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_of_a_page_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures
    for name in pictures:
        content = (page.parent / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 60_000
