"""Sequences for networks, proved by a throwaway family: tokens, windows of one long text, series; fitted, sampled, scored, saved,
killed and resumed, and trained by two processes as by one."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch

import joints
import reverie as rv
from reverie.data.codec.negotiate import fit_codec
from reverie.data.sources.load import as_dataset
from reverie.errors import DataError, Interrupted, InvalidOption, SchemaMismatch, UnsupportedData

pytestmark = pytest.mark.usefixtures("scribe_family")

NAMES = ["ann", "bob", "cleo", "dan", "eve", "fay", "gus", "hal", "ida", "jo"] * 4
STORY = "".join(f"{name} met {other}.\n" for name, other in zip(NAMES, NAMES[3:] + NAMES[:3], strict=True))
MOLECULES = ["CCO", "c1ccccc1Cl", "C[C@H](N)C(=O)O", "BrC%12CCCC%12", "[nH]1cccc1"] * 6


def series(n: int = 12) -> list[np.ndarray]:
    """Noisy sines of 5 to 70 irregularly many steps."""
    rng = np.random.default_rng(4)
    return [
        np.sin(np.arange(t)[:, None] * [0.3, 0.5]) + rng.normal(0, 0.1, (t, 2)) for t in rng.integers(5, 70, n).tolist()
    ]


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "characters": (NAMES, {}),
    "one long text": (STORY, {}),
    "bytes of a long text": ("naïve café\n" * 30, {"tokens": "bytes"}),
    "molecules": (MOLECULES, {"tokens": "smiles"}),
    "names in mixed windows": (NAMES, {"mixed": True}),
    "symbols": ([list(name) for name in NAMES], {}),
    "series": (series(), {}),
}


def parts(name: str) -> tuple[Any, joints.Scribe]:
    data, options = CASES[name]
    return data, joints.Scribe(**options)


@pytest.mark.parametrize("name", CASES)
def test_fit_sample_save_load(name: str, tmp_path: Path) -> None:
    X, recipe = parts(name)
    model = recipe.fit(X, epochs=2)
    made = model.sample(5, seed=3)
    again = rv.load(model.save(tmp_path / "model"))
    same = again.sample(5, seed=3)
    for a, b in zip(made, same, strict=True):
        assert type(a) is type(as_dataset(X).X[0])
        np.testing.assert_array_equal(a, b)
    for a, b in zip(made[:2], model.sample(2, seed=3), strict=True):
        assert a == b if name != "series" else np.allclose(a, b, atol=1e-4)  # a network rounds by the size of its batch
    assert [len(item) for item in model.sample(3, seed=1, length=7)] == [7] * 3 or "bytes" in name or "mol" in name
    np.testing.assert_array_equal(model.log_prob(X), again.log_prob(X))


@pytest.mark.parametrize("name", CASES)
def test_stopped_at_every_batch_resumes_bitwise(name: str, tmp_path: Path) -> None:
    (X, recipe), options = parts(name), {"epochs": 2, "batch_size": 8, "ema": 0.9}
    recipe.fit(X, out=str(tmp_path / "whole"), **options)
    want = runs.train_state(tmp_path / "whole")
    for step in range(1, want["at"]["total"], 3):
        out = tmp_path / f"stopped-{step}"
        with pytest.raises(Interrupted), runs.stop_after(step):
            recipe.fit(X, out=str(out), **options)
        rv.resume(out, X)
        assert runs.differences(want, runs.train_state(out)) == []


@pytest.mark.parametrize("name", ["one long text", "names in mixed windows"])
def test_two_processes_equal_one(name: str) -> None:
    X, recipe = parts(name)
    one = recipe.fit(X, epochs=1, batch_size=5)
    two = recipe.fit(X, epochs=1, batch_size=5, devices=2)
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_killed_by_the_system_in_the_middle_of_a_text_it_resumes_bitwise(tmp_path: Path) -> None:
    """SIGKILL leaves no time to say goodbye: the run goes on from its last checkpoint to the same weights."""
    code = (
        "import sys; sys.path[:0] = {path!r}; import torch; torch.set_num_threads(1)\n"
        "import joints; from reverie import catalog; catalog.register(joints.SCRIBE_ROW)\n"
        "import test_joints_sequences as t\n"
        "joints.Scribe().fit(t.STORY, out={out!r}, epochs=40, batch_size=8, checkpoint_steps=7)\n"
    )
    out, options = tmp_path / "killed", {"epochs": 40, "batch_size": 8, "checkpoint_steps": 7}
    script = code.format(path=[p for p in sys.path if "tests" in p or p.endswith("src")], out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 60
    while not (out / "latest").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "latest").exists()
    rv.resume(out, STORY)
    joints.Scribe().fit(STORY, out=str(tmp_path / "whole"), **options)
    assert runs.differences(runs.train_state(tmp_path / "whole"), runs.train_state(out)) == []


def test_the_probabilities_of_short_texts_sum_to_less_than_one_and_most_of_it() -> None:
    """Over two letters and the end: all texts of at most 7 letters hold what is not longer."""
    model = joints.Scribe().fit(["a", "ab", "b", "aab"] * 10, epochs=30)
    texts = [""]
    for _ in range(7):
        texts += [text + letter for text in texts if len(text) == len(texts[-1]) for letter in "ab"]
    texts = sorted(set(texts), key=len)
    total = float(np.exp(model.log_prob(texts)).sum())
    assert 0.95 < total < 1 + 1e-6
    made = model.sample(3000, seed=0)
    share = np.mean([text == "ab" for text in made])
    chance = float(np.exp(model.log_prob(["ab"]))[0])
    assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / 3000)


def test_a_long_text_is_split_and_held_out_by_cutting_it(tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    file.write_text(STORY)
    data = rv.load_data(file, texts="whole", fractions=(0.9, 0.1))
    assert data.train.X[0] + data.test.X[0] == STORY
    assert abs(len(data.test.X[0]) - 0.1 * len(STORY)) <= 0.5
    assert not as_dataset(["a text"], ["one y"], kinds={"y": "text"}).one_sequence  # y is of the whole of it
    model = joints.Scribe().fit(data.train, validation=0.25, epochs=2, patience=2)
    assert all(np.isfinite(row["validation.loss"]) for row in model.history)
    blocks = tmp_path / "blocks.txt"
    blocks.write_text("one\ntwo\n\n \n\nthree\n")
    assert rv.load_data(blocks, texts="paragraphs", split=None).X == ["one\ntwo", "three"]
    lines = rv.load_data(blocks, split=None)
    assert lines.X == ["one", "two", "three"]
    assert "paragraphs" in lines.warnings[0]


def test_an_unknown_character_is_refused_or_kept_as_the_family_wants() -> None:
    with pytest.raises(SchemaMismatch, match="text 1, character 2: 'z'"):
        joints.Scribe().fit(NAMES, epochs=1).log_prob(["ann", "anz"])
    kept = joints.Scribe(unseen="unknown").fit([*NAMES, "q"], epochs=1)
    assert np.isfinite(kept.log_prob(["anz"])).all()
    np.testing.assert_array_equal(kept.log_prob(["anz"]), kept.log_prob(["anq"]))  # seen once is as good as never
    assert set("".join(kept.sample(300, seed=0, length=4))) <= {*"".join(NAMES), "�"}


def test_wrong_texts_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"text 1, character 2: '!' begins no atom.*read the texts as characters"):
        joints.Scribe(tokens="smiles").fit(["CC", "CC!"])
    wants = replace(joints.Scribe(mixed=True).wants(as_dataset(NAMES).schema), conditions=frozenset({"labels"}))
    labelled = as_dataset(NAMES, [name[0] for name in NAMES])
    with pytest.raises(UnsupportedData, match=r"mix sequences in one window.*'y' \(condition\)"):
        fit_codec(labelled.schema, wants, labelled)
    with pytest.raises(InvalidOption, match="texts is for text files"):
        rv.load_data("digits", texts="whole")
    with pytest.raises(InvalidOption, match="no way 'line' to read a text file, did you mean 'lines'"):
        rv.load_data(tmp_path / "a.txt", texts="line")
    with pytest.raises(DataError, match="cannot be cut into 2 parts"):
        as_dataset("a\n").split(fractions=(0.9, 0.1))
    with pytest.raises(InvalidOption, match="window"):
        joints.Scribe(window=1)


def test_bpe_is_stored_in_the_model(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="byte pairs need the extra: pip install reverie[text]")
    model = joints.Scribe(tokens="bpe", vocabulary=280).fit(STORY, epochs=1)
    again = rv.load(model.save(tmp_path / "model"))
    assert model.sample(4, seed=0) == again.sample(4, seed=0)
    np.testing.assert_array_equal(model.log_prob(["日本 ann\n"]), again.log_prob(["日本 ann\n"]))
    with pytest.raises(InvalidOption, match="256"):
        joints.Scribe(tokens="bpe", vocabulary=255)
