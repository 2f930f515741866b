"""`reverie compare`: several families trained on the same rows and judged side by side."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie import catalog, config
from reverie.cli import data as cli_data
from reverie.cli.app import OK, near
from reverie.cli.evaluate import FORMS, LEVEL, ROWS, write
from reverie.cli.flags import COMMON, JSON, QUIET, Flag, Parsed, members, parse
from reverie.cli.recipes import pick_networks, recipe_flags, recipe_options, training_flags
from reverie.cli.screen import Screen, duration, table
from reverie.data.dataset import Dataset
from reverie.errors import CheckpointError, DataError, Diverged, InvalidOption, RunConflict, UnsupportedData
from reverie.learning.training import Training

MODELS = Flag("models", tuple[str, ...], (), "Families to compare.", COMMON, fallback="all", metavar="FAMILY ...")
SET = Flag(
    "set",
    tuple[str, ...],
    (),
    "Options of one family: vae.epochs=5 gmm.components=20 vae.encoder=conv vae.encoder.channels=16,32.",
    COMMON,
    metavar="FAMILY.OPTION=VALUE ...",
)
SEED = Flag("seed", int, 0, "Seed of training, of the samples and of the rows chosen.", COMMON)
OUT = Flag(
    "out",
    str | None,
    None,
    "Folder for the report, a picture and the runs; by default runs/compare-DATA-N.",
    COMMON,
    metavar="FOLDER",
)
PROG = "reverie compare"


@dataclass
class Entry:
    """One family of the comparison: its recipe and training, then its model or why there is none."""

    family: str
    estimator: Any
    training: Training
    model: Any = None
    reason: str | None = None
    warnings: list[str] = field(default_factory=list)


def run(argv: list[str], screen: Screen) -> int:
    """Exit code 0 when at least one family was trained and judged."""
    flags_of_data = cli_data.data_flags()
    parsed = parse(
        [cli_data.source_flag(), MODELS, SET, SEED, LEVEL, ROWS, OUT, QUIET, JSON, *flags_of_data],
        argv,
        prog=PROG,
        description="Train families on the same rows and judge them on the same test rows. Labels that the data come "
        "with serve the judges; with --y the models learn from them, too.",
    )
    if parsed["data"] is None:
        raise InvalidOption("reverie compare: give the data: a path or a name, as in reverie compare digits")
    names = list(dict.fromkeys(parsed["models"] or catalog.families()))
    entries = [_entry(catalog.family(name).name, parsed["set"], screen) for name in names]
    arguments = cli_data.data_arguments(parsed, flags_of_data)
    data = cli_data.read(parsed["data"], arguments)
    if "test" not in data.splits:
        raise DataError(f"{data.name} has no test part to judge on: give --split and --fractions, or more rows")
    screen.warn(data.warnings)
    out = _folder(parsed["out"], data.name)
    learn_from = data if cli_data.asked_for_y(arguments) else data.without_y()
    for entry in entries:
        _fit(entry, learn_from, out, parsed["seed"], screen)
    trained = [entry for entry in entries if entry.model is not None]
    left_out = {entry.family: entry.reason or "" for entry in entries if entry.model is None}
    if not trained:
        raise UnsupportedData("; ".join(left_out.values()))
    _judge(trained, left_out, data, parsed, out, screen)
    return OK


def _entry(name: str, settings: tuple[str, ...], screen: Screen) -> Entry:
    """The recipe of a family with what --set says about it."""
    from reverie.store import recipe_class

    for word in settings:
        family, dot, rest = word.partition(".")
        if not dot or "=" not in rest:
            raise InvalidOption(f"--set: expected family.option=value, got {word!r}")
        if family not in catalog.families():
            raise InvalidOption(f"--set {word}: no family {family!r}{near(family, catalog.families())}")
    cls, prog = recipe_class(name), f"{PROG} --set {name}"
    own = [word.partition(".")[2] for word in settings if word.startswith(f"{name}.")]
    typed = [f"--{option.partition('=')[0]}={option.partition('=')[2]}" for option in own]
    networks = pick_networks(cls, typed, {}, prog)
    flags_of_training = training_flags(cls.defaults)
    flags = [*recipe_flags(cls, networks), *flags_of_training]
    tuples = {
        flag.name
        for flag in flags
        if any(hasattr(m, "__origin__") and m.__origin__ is tuple for m in members(flag.hint))
    }
    words: list[str] = []
    for word in typed:
        option, _, value = word.partition("=")
        many = option.removeprefix("--").replace("_", "-") in tuples
        words += [option, *value.split(",")] if many else [word]
    parsed = parse(flags, words, prog=prog, description="")
    own_flags = [flag for flag in flags if flag not in flags_of_training]
    estimator = cls(**recipe_options(cls, parsed.typed(own_flags), {}, networks))
    options = parsed.typed(flags_of_training)
    if screen.quiet:
        options["progress"] = False
    return Entry(name, estimator, Training(**options))


def _folder(given: str | None, data: str) -> Path:
    if given is not None:
        folder = Path(given)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunConflict(f"{folder} is not an empty folder: choose another --out")
        return folder
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"compare-{data}").strip("-.")
    number = 1
    while Path("runs", f"{stem}-{number}").exists():
        number += 1
    return Path("runs", f"{stem}-{number}")


def _fit(entry: Entry, data: Dataset, out: Path, seed: int, screen: Screen) -> None:
    """Train one family; one that cannot learn from these data is left out, with its reason."""
    family = catalog.family(entry.family)
    where = out / entry.family
    try:
        entry.model = entry.estimator.fit(data, training=config.replace(entry.training, out=str(where)), seed=seed)
    except (DataError, Diverged) as error:
        entry.reason = str(error)
        _remove_empty(where)
        screen.note(f"{family.name}: left out: {entry.reason}")
        return
    screen.note(f"{family.name}: trained in {duration(entry.model.info['seconds'])}")
    screen.warn([text for text in entry.model.warnings if text not in data.warnings])


def _remove_empty(folder: Path) -> None:
    for path in (folder, folder.parent):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _judge(
    trained: list[Entry], left_out: dict[str, str], data: Dataset, parsed: Parsed, out: Path, screen: Screen
) -> None:
    from reverie.cli.strip import side_by_side
    from reverie.evaluation import compare

    screen.note(f"judging {', '.join(entry.family for entry in trained)} on {len(data.test)} test rows")
    found = compare(
        {entry.family: entry.model for entry in trained},
        data.test,
        data.train,
        n=parsed["n"],
        level=parsed["level"],
        seed=parsed["seed"],
    )
    missing = " ".join(f"Left out: {name} ({reason})." for name, reason in left_out.items())
    if missing:
        found = dataclasses.replace(found, legend=f"{found.legend} {missing}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot create {out}: {error.strerror or error}") from None
    for suffix, form in FORMS.items():
        write(found, form, out / f"comparison{suffix}")
    picture = side_by_side({entry.family: entry.model for entry in trained}, data.test, seed=parsed["seed"])
    if picture is not None:
        (out / "samples.png").write_bytes(picture)
    fits = [
        {
            "family": entry.family,
            "parameters": entry.model.info["parameters"],
            "epochs": entry.model.history[-1]["epoch"] if entry.model.history else 0,
            "steps": entry.model.info["steps"],
            "seconds": entry.model.info["seconds"],
            "run": str(out / entry.family),
        }
        for entry in trained
    ]
    document = {**found.to_dict(), "fits": fits, "left_out": left_out, "out": str(out)}
    heads = ["family", "parameters", "epochs", "steps", "seconds"]
    spent = table(heads, [[fit[head] for head in heads] for fit in fits])
    screen.result(document, f"{found!r}\n\n{spent}\n\nreport: {out / 'comparison.html'}")
