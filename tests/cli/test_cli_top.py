"""The top level: help, version, unknown commands, exit codes, JSON purity, and what becomes of errors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from reverie import __version__, catalog
from reverie.cli import app
from reverie.errors import MissingExtra


def cpu_seconds(*command: str) -> float:
    """User and system seconds of a child, the least of three tries."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(spent)


@pytest.mark.parametrize(
    ("command", "most"),
    [
        (("-m", "reverie", "--help"), 0.3),
        (("-m", "reverie", "--version"), 0.3),
        (("-m", "reverie", "models"), 0.3),
        (("-m", "reverie", "fit", "--help"), 0.3),
        (("-c", "import reverie"), 0.1),
    ],
)
def test_what_needs_no_torch_starts_fast(command, most):
    assert cpu_seconds(*command) < most


def test_torch_is_not_imported_before_a_command_needs_it():
    code = "import sys; from reverie.cli import run; run(['models']); run(['--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "False"


def test_help_lists_every_command_and_goes_to_stdout(cli):
    said = cli("--help")
    assert said.code == 0
    assert all(f"reverie {name}" in said.out for name in app.COMMANDS)
    assert said.err == ""


def test_no_command_is_a_usage_error(cli):
    said = cli()
    assert said.code == 2
    assert said.out == ""
    assert "usage" in said.err


def test_version(cli):
    assert cli("--version").out == f"reverie {__version__}\n"
    assert cli("--json", "--version").json == {"version": __version__}


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_has_help_in_both_forms(cli, name):
    plain, machine = cli(name, "--help"), cli(name, "--help", "--json")
    assert plain.code == machine.code == 0
    assert "usage" in plain.out or name in ("fit",)
    assert machine.json


def test_help_is_plain_text_even_on_a_colour_terminal(cli, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in cli("fit", "gmm", "--help").out


def test_unknown_command_suggests_the_closest(cli):
    said = cli("evalaute", "x")
    assert said.code == 2
    assert "did you mean 'evaluate'?" in said.err
    assert len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "gmm", "nothing.csv"),
        ("fit", "gmm", "iris", "--components", "many"),
        ("fit", "gmm", "iris", "--components", "0"),
        ("fit", "gmm", "iris", "--conponents", "3"),
        ("fit", "gmm", "iris", "surplus"),
        ("fit", "gmm"),
        ("fit",),
        ("fit", "--resume", "nowhere"),
        ("fit", "gmm", "iris", "--epochs", "1", "--steps", "1"),
        ("fit", "gmm", "iris", "--y", "tarjet"),
        ("fit", "naive_bayes", "iris", "--y", "sepal length (cm)"),
        ("fit", "rbm", "iris"),
        ("fit", "gmm", "iris", "--roles", "colour=ignore"),
        ("fit", "gmm", "iris", "--roles", "colour"),
        ("fit", "gmm", "iris", "--progress", "maybe"),
        ("sample", "nowhere"),
        ("sample",),
        ("sample", "--n", "3"),
        ("evaluate", "nowhere", "iris"),
        ("evaluate",),
        ("evaluate", "nowhere", "--out", "report.pdf"),
        ("compare",),
        ("compare", "digits", "--models", "gmn"),
        ("compare", "digits", "--set", "epochs=3"),
        ("info", "nowhere"),
        ("info",),
        ("doctor", "--fix"),
        ("models", "--all"),
        ("completion", "tcsh"),
        ("--quiet",),
        ("-x",),
    ],
)
def test_bad_input_gives_one_line_and_no_traceback(cli, words):
    said = cli(*words)
    assert said.code in (1, 2)
    assert said.out == ""
    if words != ("--quiet",):
        assert len([line for line in said.err.strip().splitlines() if not line.startswith(("warning:", "note:"))]) == 1
        assert said.err.splitlines()[-1].startswith("error: ")


def test_usage_errors_return_2_and_failures_1(cli):
    assert cli("fit", "gmm", "iris", "--components", "0").code == 2
    assert cli("fit", "gmm", "iris", "--nothing").code == 2
    assert cli("fit", "gmm", "missing.csv").code == 1
    assert cli("info", "nowhere").code == 1


def test_errors_are_one_json_document_with_json(cli):
    said = cli("fit", "gmm", "missing.csv", "--json")
    assert said.json["error"]["type"] == "DataError"
    assert said.json["error"]["exit_code"] == said.code == 1
    assert said.err.startswith("error: ")


def test_an_error_after_the_result_does_not_print_a_second_document(cli, monkeypatch):
    from reverie.cli import models

    def work(argv, screen):
        screen.result({"done": True}, "done")
        raise MissingExtra("too late")

    monkeypatch.setattr(models, "run", work)
    said = cli("models", "--json")
    assert said.json == {"done": True}
    assert "too late" in said.err
    assert said.code == 1


def test_unexpected_errors_give_one_line_and_the_traceback_on_request(cli, monkeypatch, capsys):
    from reverie.cli import models

    monkeypatch.setattr(models, "run", lambda argv, screen: 1 // 0)
    said = cli("models")
    assert said.code == 1
    assert (
        said.err
        == "unexpected error: ZeroDivisionError: integer division or modulo by zero (run with REVERIE_DEBUG=1 for the traceback)\n"
    )
    monkeypatch.setenv("REVERIE_DEBUG", "1")
    assert app.run(["models"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (MissingExtra("install it"), 1), (BrokenPipeError(), 1)]
)
def test_interrupts_and_library_errors_have_their_codes(cli, monkeypatch, error, code):
    from reverie.cli import models

    def fail(argv, screen):
        raise error

    monkeypatch.setattr(models, "run", fail)
    monkeypatch.setattr(app, "_close_stdout", lambda: None)
    assert cli("models").code == code


def test_models_fills_the_width_that_columns_asks_for(cli, monkeypatch):
    def widest() -> int:
        return max(len(line) for line in cli("models").out.splitlines() if line.startswith("  "))

    monkeypatch.setenv("COLUMNS", "70")
    assert 60 < widest() <= 70
    monkeypatch.delenv("COLUMNS")
    assert 70 < widest() <= 100


def test_models_prints_the_catalog(cli):
    said = cli("models")
    assert said.code == 0
    assert all(row.name in said.out and row.summary in said.out for row in catalog.families().values())
    listed = cli("models", "--json").json["families"]
    assert [row["name"] for row in listed] == list(catalog.families())
    assert {"can", "kinds", "conditions", "likelihood"} <= set(listed[0])


def test_only_the_first_process_speaks(cli, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    said = cli("models")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_the_installed_command_and_the_module_are_the_same():
    whole = subprocess.run([sys.executable, "-m", "reverie", "--version"], capture_output=True, text=True, check=True)
    assert whole.stdout == f"reverie {__version__}\n"
    wrong = subprocess.run([sys.executable, "-m", "reverie", "no"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_a_closed_pipe_is_no_drama():
    code = f"{sys.executable} -m reverie models | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {code}"], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
