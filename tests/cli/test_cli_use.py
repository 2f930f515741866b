"""`sample`, `evaluate`, `compare`, `info`, `doctor`, `completion`: what they print and write."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reverie import catalog, store
from reverie.cli import app, doctor, sample, strip
from reverie.errors import CheckpointError, InvalidOption


def picture_size(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_sample_draws_a_grid_of_pictures(cli, runs):
    said = cli(
        "sample", runs / "digits", "-n", "9", "--out", "deep/grid.png", "--y", "3", "--seed", "1", "--columns", "9"
    )
    assert said.code == 0
    width, height = picture_size("deep/grid.png")
    assert width > 8 * height


def test_sample_writes_arrays_tables_and_folders(cli, runs):
    expected = store.load(runs / "iris").sample(5, seed=2)
    assert cli("sample", runs / "iris", "-n", "5", "--seed", "2", "--out", "a.csv").code == 0
    pd.testing.assert_frame_equal(pd.read_csv("a.csv"), expected)
    assert cli("sample", runs / "iris", "-n", "5", "--seed", "2", "--out", "a.npy").code == 0
    np.testing.assert_array_equal(np.load("a.npy"), expected.to_numpy())
    assert cli("sample", runs / "iris", "-n", "5", "--seed", "2", "--out", "a.npz").code == 0
    with np.load("a.npz") as arrays:
        np.testing.assert_array_equal(arrays["sepal width (cm)"], expected["sepal width (cm)"])
    assert cli("sample", runs / "iris", "-n", "5", "--seed", "2", "--out", "folder/").code == 0
    pd.testing.assert_frame_equal(pd.read_csv("folder/samples.csv"), expected)


def test_sample_of_labelled_pictures_keeps_the_labels(cli, runs, tmp_path):
    assert cli("sample", runs / "digits", "-n", "3", "--y", "1", "2", "3", "--seed", "0", "--out", "p/").code == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["0.png", "1.png", "2.png", "labels.csv"]
    assert (tmp_path / "p" / "labels.csv").read_text().splitlines() == ["file,y", "0.png,1", "1.png,2", "2.png,3"]
    assert cli("sample", runs / "digits", "-n", "2", "--y", "7", "--out", "x.npz").code == 0
    with np.load("x.npz") as arrays:
        assert arrays["x"].shape == (2, 8, 8)
        assert arrays["y"].tolist() == [7, 7]


def test_sample_without_a_file_prints_a_table(cli, runs):
    said = cli("sample", runs / "mixed", "-n", "4", "--seed", "0")
    frame = pd.read_csv(io.StringIO(said.out))
    assert list(frame.columns) == ["count", "colour", "size"]
    assert set(frame["colour"]) <= {"red", "blue"}
    records = cli("sample", runs / "mixed", "-n", "4", "--seed", "0", "--json").json["samples"]
    assert [row["colour"] for row in records] == list(frame["colour"])


def test_points_in_the_plane_can_be_drawn(cli, runs):
    assert cli("sample", runs / "moons", "-n", "100", "--out", "points.png").code == 0
    assert picture_size("points.png") == (480, 480)


def test_sampling_options_of_the_family_are_flags(cli, runs):
    assert "--mean" in cli("sample", runs / "digits", "--help").out
    words = ("sample", runs / "mixed", "-n", "2", "--seed", "0", "--mean", "True")
    assert cli(*words).code == 0
    said = cli("sample", runs / "mixed", "--sweeps", "3")
    assert said.code == 2
    assert "no flag --sweeps" in said.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("digits", "--y", "33", "--out", "a.png"), "no class '33', did you mean '3'? Classes: 0, 1, 2"),
        (("iris", "--y", "3"), "trained without y"),
        (("digits",), "pictures need a file"),
        (("digits", "--out", "a.csv"), "pictures do not go into a table"),
        (("iris", "--out", "a.png"), "only pictures and points in the plane can be drawn"),
        (("iris", "--out", "a.xls"), "files ending in .xls are not written"),
        (("mixed", "--out", "a.npy"), "not all numbers"),
        (("iris", "-n", "0"), "n: expected a whole number of at least 1, got 0"),
        (("iris", "-n", "some"), "--n: expected a whole number, got 'some'"),
    ],
)
def test_sample_refuses_with_the_mend(cli, runs, words, expected):
    said = cli("sample", str(runs / words[0]), *words[1:])
    assert said.code == 2
    assert expected in said.err


def test_sampling_on_numbers(cli, tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    frame = pd.DataFrame(rows, columns=["a", "b", "goal"])
    frame.to_csv("t.csv", index=False)
    small = ("--encoder", "mlp", "--encoder.hidden", "4", "--decoder", "mlp", "--decoder.hidden", "4")
    assert cli("fit", "vae", "t.csv", "--y", "goal", "--steps", "1", *small, "--out", "r").code == 0
    drawn = pd.read_csv(io.StringIO(cli("sample", "r", "-n", "2", "--y", "1.5").out))
    assert drawn["goal"].tolist() == [1.5, 1.5]
    assert "expected numbers, got 'high'" in cli("sample", "r", "--y", "high").err
    assert "expected 1 numbers" in cli("sample", "r", "--y", "1,2").err


def test_panels_side_by_side_have_room_all_round(monkeypatch):
    """A gap before, between and behind panels; titles above."""

    def panel(*_):
        out = io.BytesIO()
        Image.new("RGB", (50, 40), (255, 0, 0)).save(out, format="PNG")
        return out.getvalue()

    monkeypatch.setattr(strip, "_panel", panel)
    sheet = np.asarray(Image.open(io.BytesIO(strip._strip({"test data": 0, "a": 0, "b": 0}, {"a": None}))))
    red = (sheet == [255, 0, 0]).all(2)
    assert sheet.shape[:2] == (40 + 34 + 16, 3 * 50 + 4 * 16)
    assert red[34:74].all(0).nonzero()[0].tolist() == [*range(16, 66), *range(82, 132), *range(148, 198)]


def test_columns_are_fixed_by_what_is_typed(cli, runs, tmp_path):
    words = ("sample", runs / "mixed", "-n", "3", "--seed", "0")
    drawn = pd.read_csv(io.StringIO(cli(*words, "--given", "colour=red", "count=4").out))
    assert drawn["colour"].tolist() == ["red"] * 3
    assert drawn["count"].tolist() == [4] * 3
    assert "--given: no class 'rod', did you mean 'red'? Classes: " in cli(*words, "--given", "colour=rod").err
    assert "--given: expected numbers, got 'many'" in cli(*words, "--given", "count=many").err
    assert "--given: expected COLUMN=VALUE, got 'color=red', did you mean" in cli(*words, "--given", "color=red").err
    rows = np.random.default_rng(0).random((60, 3))
    frame = pd.DataFrame(
        {"on": rows[:, 0] < 0.5, "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(rows[:, 1], "D")}
    )
    model = store.recipe_class("vae")(latent=2).fit(frame, steps=1, progress=False)
    found = sample.fixed(model, ("on=false", "when=2024-01-01 06:00"))
    assert found["on"] is False
    assert found["when"].tolist() == [pd.Timestamp("2024-01-01 06:00")]
    array = store.recipe_class("gmm")(components=1).fit(rows, epochs=1, progress=False)
    assert sample.fixed(array, ("2=0.5",)) == {2: 0.5}
    with pytest.raises(InvalidOption, match="expected COLUMN=VALUE, got 'x=1'"):
        sample.fixed(array, ("x=1",))


def test_evaluate_on_the_runs_own_test_part(cli, runs):
    said = cli("evaluate", runs / "iris", "--out", "r.html", "r.json", "r.md")
    assert said.code == 0
    assert "log p(x)" in said.out
    document = json.loads(Path("r.json").read_text())
    assert document["data"]["test_rows"] == 30
    assert document["data"]["train_rows"] == 120
    assert "<html" in Path("r.html").read_text()
    assert Path("r.md").read_text().startswith("# ")
    again = cli("evaluate", runs / "iris", "iris", "--json").json
    assert without_seconds(again["rows"]) == without_seconds(document["rows"])


def test_evaluate_uses_labels_the_model_did_not_learn(cli):
    assert (
        cli("fit", "gmm", "digits", "--max-rows", "400", "--components", "1", "--epochs", "1", "--out", "r").code == 0
    )
    names = [row["name"] for row in cli("evaluate", "r", "--json", "-n", "60").json["rows"]]
    assert any("domain-classifier" in name for name in names)


def test_evaluate_on_other_data_takes_all_their_rows(cli, runs):
    frame = store.load(runs / "iris").sample(40, seed=9)
    frame.to_csv("other.csv", index=False)
    data = cli("evaluate", runs / "iris", "other.csv", "--json").json["data"]
    assert (data["test_rows"], data["train_rows"]) == (40, 120)


def test_evaluate_warns_of_another_split(cli, runs):
    said = cli("evaluate", runs / "iris", "--split-seed", "5", "--json")
    assert "split otherwise than in training" in said.err
    assert "split otherwise" not in cli("evaluate", runs / "iris", "--json").err


def test_evaluate_a_saved_model_needs_data(cli, runs):
    store.load(runs / "iris").save("saved")
    said = cli("evaluate", "saved")
    assert said.code == 2
    assert "give DATA" in said.err
    assert cli("evaluate", "saved", "iris", "--json").code == 0


def test_compare_trains_judges_and_writes(cli, tmp_path):
    settings = (
        "gmm.components=2",
        "gmm.epochs=3",
        "vae.steps=3",
        "vae.encoder=mlp",
        "vae.encoder.hidden=8,9",
        "vae.decoder=mlp",
    )
    words = ("compare", "iris", "--models", "gmm", "rbm", "vae", "--set", *settings, "--out", "c")
    said = cli(*words, "--json")
    assert said.code == 0
    document = said.json
    assert [fit["family"] for fit in document["fits"]] == ["gmm", "vae"]
    assert "rbm cannot learn from" in document["left_out"]["rbm"]
    assert "rbm: left out" in said.err
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "comparison.html",
        "comparison.json",
        "comparison.md",
        "gmm",
        "vae",
    }
    assert "Left out: rbm" in (tmp_path / "c" / "comparison.md").read_text()
    assert store.load("c/vae").estimator.encoder.hidden == (8, 9)
    assert store.load("c/vae").schema.condition is None
    again = cli(*words)
    assert again.code == 1
    assert "c is not an empty folder" in again.err


def test_compare_prints_the_table_and_draws_pictures(cli, tmp_path):
    words = ("--models", "gmm", "--set", "gmm.components=2", "gmm.epochs=1", "--max-rows", "200")
    said = cli("compare", "digits", *words)
    assert said.code == 0
    assert "gmm" in said.out
    assert said.out.rstrip().endswith("report: runs/compare-digits-1/comparison.html")
    assert picture_size("runs/compare-digits-1/samples.png")[0] > 400
    assert cli("compare", "two_moons", *words, "--out", "m").code == 0
    assert (tmp_path / "m" / "samples.png").exists()


def test_compare_with_y_leaves_out_who_takes_none(cli):
    small = ("vae.steps=2", "vae.encoder=mlp", "vae.encoder.hidden=4", "vae.decoder=mlp", "vae.decoder.hidden=4")
    words = ("--models", "rbm", "gmm", "naive_bayes", "vae", "--set", "gmm.components=2", *small, "--json")
    document = cli("compare", "iris", "--y", "target", *words).json
    assert list(document["left_out"]) == ["rbm", "gmm"]
    assert "components=2: y has 3 classes" in document["left_out"]["gmm"]
    assert [fit["family"] for fit in document["fits"]] == ["naive_bayes", "vae"]
    for fit in document["fits"]:
        assert store.load(fit["run"]).schema.condition.name == "target"


def test_compare_without_y_leaves_out_who_needs_it(cli):
    words = ("--models", "gmm", "naive_bayes", "table_mixture", "--set", "gmm.components=2", "gmm.epochs=2", "--json")
    document = cli("compare", "iris", *words).json
    assert list(document["left_out"]) == ["naive_bayes"]
    assert "needs y" in document["left_out"]["naive_bayes"]
    assert [fit["family"] for fit in document["fits"]] == ["gmm", "table_mixture"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("iris", "--models", "rbm"), 1, "rbm cannot learn from"),
        (("iris", "--set", "gmm"), 2, "expected family.option=value, got 'gmm'"),
        (("iris", "--set", "gmn.epochs=2"), 2, "no family 'gmn', did you mean 'gmm'?"),
        (("iris", "--set", "gmm.epoch=2"), 2, "did you mean '--epochs'?"),
        (("iris", "--split", "none"), 1, "no test part"),
    ],
)
def test_compare_refuses(cli, words, code, expected):
    said = cli("compare", *words)
    assert said.code == code
    assert expected in said.err


def test_info_says_what_was_asked_and_what_it_became(cli, runs):
    said = cli("info", runs / "digits")
    assert said.code == 0
    for words in (
        "encoder = mlp(hidden=8",
        "latent = 2",
        "read from: source=digits",
        "the last",
        "likelihood: lower bound",
        "100%",
    ):
        assert words in said.out
    document = cli("info", runs / "digits", "--json").json
    assert document["kind"] == "run"
    assert document["phases"] == [
        {"phase": "train", "share": 1.0, "budget": "3 steps", "epochs_done": document["epochs"]}
    ]
    assert document["bytes"] > 1000
    assert document["asked"]["latent"] == 2


def test_info_shows_what_auto_became_and_warnings(cli):
    assert cli("fit", "vae", "iris", "--steps", "1", "--out", "r").code == 0
    said = cli("info", "r").out
    assert "encoder = auto  ->  mlp(hidden=256 256" in said
    assert "warning: duplicates" in said


def test_info_of_a_saved_model_and_of_one_whose_network_is_not_here(cli, runs, monkeypatch):
    store.load(runs / "iris").save("saved")
    assert cli("info", "saved", "--json").json["kind"] == "model"

    def refuse(path, **options):
        raise CheckpointError("needs your own module")

    monkeypatch.setattr(store, "load", refuse)
    said = cli("info", "saved")
    assert said.code == 0
    assert "not loaded: needs your own module" in said.out


def test_doctor_finds_a_sound_installation_sound(cli):
    said = cli("doctor", "--json")
    assert said.code == 0
    assert said.json["ok"]
    names = [check["name"] for check in said.json["checks"]]
    assert {"reverie", "python", "torch", "device", "threads", "runs folder", "extra yaml", "trial"} <= set(names)
    assert "all is well" in cli("doctor").out


def test_doctor_returns_1_when_something_is_broken(cli, monkeypatch):
    def broken():
        raise RuntimeError("no such device")

    monkeypatch.setattr(doctor, "_device", broken)
    monkeypatch.setattr(doctor, "_trial", list)
    said = cli("doctor")
    assert said.code == 1
    assert "broken: device" in said.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command_family_and_flag(cli, shell):
    script = cli("completion", shell).out
    flag = "-l kl-warmup" if shell == "fish" else "--kl-warmup"
    assert all(word in script for word in (*app.COMMANDS, *catalog.families(), flag, "digits", "non_saturating"))
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands_families_flags_and_values(cli, tmp_path):
    (tmp_path / "c.bash").write_text(cli("completion", "bash").out)

    def completed(*words):
        listed = " ".join(f"'{word}'" for word in words)
        code = f"source c.bash; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _reverie; echo ${{COMPREPLY[@]}}"
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert completed("reverie", "eva") == ["evaluate"]
    assert completed("reverie", "fit", "va") == ["vae"]
    assert completed("reverie", "fit", "vae", "--kl") == ["--kl-warmup"]
    assert completed("reverie", "fit", "vae", "--pixels", "th") == ["threshold"]
    assert completed("reverie", "fit", "gmm", "dig") == ["digits"]
