"""`reverie evaluate`: one model judged on rows it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from reverie.cli import data as cli_data
from reverie.cli.app import OK
from reverie.cli.flags import COMMON, JSON, QUIET, Flag, Parsed, parse
from reverie.cli.sample import RUN
from reverie.cli.screen import Screen
from reverie.data.dataset import Dataset
from reverie.errors import CheckpointError, InvalidOption

LEVEL = Flag("level", Literal["quick", "standard"], "quick", "How thorough: standard draws more rows and sets.", COMMON)
ROWS = Flag(
    "n", int | None, None, "Rows per comparison; by default 1000, or 4000 at level standard.", COMMON, aliases=("-n",)
)
SEED = Flag("seed", int, 0, "Seed of the samples drawn and rows chosen.", COMMON)
OUT = Flag(
    "out",
    tuple[str, ...],
    (),
    "Write the report: .html, .json or .md; several may be named.",
    COMMON,
    metavar="FILE ...",
)
PROG = "reverie evaluate"
FORMS = {".html": "to_html", ".json": "to_json", ".md": "to_markdown"}


def run(argv: list[str], screen: Screen) -> int:
    """Exit code 0 when the report is made."""
    flags_of_data = cli_data.data_flags()
    source = cli_data.source_flag("By default the data of the run.")
    parsed = parse(
        [RUN, source, LEVEL, ROWS, SEED, OUT, QUIET, JSON, *flags_of_data],
        argv,
        prog=PROG,
        description="Judge a trained model on rows it has not seen. The run's own data give its test part.",
    )
    if parsed["run"] is None:
        raise InvalidOption("reverie evaluate: give the run, as in reverie evaluate runs/digits")
    files = [(Path(name), _form(name)) for name in parsed["out"]]
    from reverie import store
    from reverie.evaluation import evaluate

    model = store.load(parsed["run"])
    test, train = test_and_train(model, parsed, flags_of_data, screen)
    report = evaluate(model, test, train, n=parsed["n"], level=parsed["level"], seed=parsed["seed"])
    for file, form in files:
        write(report, form, file)
    screen.result(report.to_dict(), "\n".join([repr(report), *(f"written to {file}" for file, _ in files)]))
    return OK


def _form(name: str) -> str:
    form = FORMS.get(Path(name).suffix.lower())
    if form is None:
        raise InvalidOption(f"--out {name}: reports are written as {', '.join(FORMS)}")
    return form


def write(report: Any, form: str, file: Path) -> None:
    """One form of a report, into a file."""
    try:
        getattr(report, form)(file)
    except OSError as error:
        raise CheckpointError(f"cannot write {file}: {error.strerror or error}") from None


def test_and_train(model: Any, parsed: Parsed, flags: list[Flag], screen: Screen) -> tuple[Dataset, Dataset | None]:
    """Rows to judge on, and the rows of training when they are known.

    The run's own data: its test and train parts, by the split of training. Other data: their test part if they come
    with one, else all rows. Labels the model did not learn from are kept: the judges can use them.
    """
    origin = _origin(parsed["run"])
    typed = cli_data.data_arguments(parsed, flags)
    name = parsed["data"]
    own = origin is not None and (name is None or _same(name, origin["source"]))
    if name is None and origin is None:
        raise InvalidOption("reverie evaluate: this model does not say where its data are: give DATA")
    if own:
        assert origin is not None
        arguments = {**origin, **typed}
        if arguments.get("y") is False and "y" not in typed:
            del arguments["y"]
        source = arguments.pop("source")
        data = cli_data.read(source, arguments)
        if "test" not in data.splits:
            raise InvalidOption("reverie evaluate: the run's data have no test part: give other data to judge on")
        _check_split(model, data, screen)
        return data.test, data.train
    data = cli_data.read(name, {"split": None, **typed} if not _parts_asked(typed) else typed)
    train = None
    if origin is not None:
        source = origin["source"]
        known = cli_data.read(source, {key: value for key, value in origin.items() if key != "source"})
        train = known.train if "train" in known.splits else known
    return (data.test if "test" in data.splits else data), train


def _parts_asked(typed: dict[str, Any]) -> bool:
    return bool({"split", "fractions", "group", "time"} & set(typed))


def _origin(run: str) -> dict[str, Any] | None:
    """Where the run's data came from, if it says so."""
    from reverie.learning.folder import read_config

    if not (Path(run) / "config.json").exists():
        return None
    found: dict[str, Any] | None = read_config(Path(run))["data"].get("source")
    return found


def _same(name: str, source: str) -> bool:
    return name == source or (Path(name).exists() and str(Path(name).expanduser().resolve()) == source)


def _check_split(model: Any, data: Dataset, screen: Screen) -> None:
    then, now = model.info.get("data", {}).get("split", {}), data.split_info
    if any(then.get(key) != now.get(key) for key in ("method", "seed", "fractions", "column", "sizes")):
        screen.note("warning: the data are split otherwise than in training: test rows may have been trained on")
