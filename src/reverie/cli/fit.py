"""`reverie fit`: train a family on data, or go on with a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reverie import catalog
from reverie.cli.app import OK
from reverie.cli.flags import COMMON, JSON, QUIET, Flag, Parsed, parse
from reverie.cli.screen import Screen, duration, size, table
from reverie.cli.settings import Settings, read_file, sort
from reverie.errors import Interrupted, InvalidOption

SEED = Flag("seed", int, 0, "Seed of everything random in training.", COMMON)
OUT = Flag(
    "out", str | None, None, "Run folder; by default runs/FAMILY-DATA-N, the first that is free.", COMMON, metavar="RUN"
)
CONFIG = Flag(
    "config", str | None, None, "Read options from a JSON or YAML file; flags go before it.", COMMON, metavar="FILE"
)
DRY_RUN = Flag("dry-run", bool, False, "Train a few steps only, and print what the whole would cost.", COMMON)
RESUME = Flag("resume", str | None, None, "Go on with this run, from its latest checkpoint.", COMMON, metavar="RUN")
ITS_OWN = [OUT, SEED, CONFIG, DRY_RUN, QUIET, JSON]


def run(argv: list[str], screen: Screen) -> int:
    """Exit code 0 when training went to its end."""
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        return _resume(argv, screen)
    document, path = _config_file(argv)
    name, rest = _family(argv, document)
    if name is None:
        if any(word in ("-h", "--help") for word in argv):
            screen.result({"families": list(catalog.families())}, _help())
            return OK
        raise InvalidOption(f"reverie fit: give a family: {', '.join(catalog.families())}")
    return _fit(catalog.family(name), rest, document, path, screen)


def _help() -> str:
    width = max(map(len, catalog.families()))
    rows = [f"  {row.name.ljust(width)}  {row.summary}" for row in catalog.families().values()]
    lines = [
        "usage: reverie fit FAMILY DATA [flags]        train a model; flags: reverie fit FAMILY --help",
        "       reverie fit --resume RUN [--epochs N]  go on with a run",
        "",
        "families:",
        *rows,
    ]
    return "\n".join(lines)


def _config_file(argv: Sequence[str]) -> tuple[dict[str, Any], str]:
    for at, word in enumerate(argv):
        if word == "--config" or word.startswith("--config="):
            path = word.partition("=")[2] if "=" in word else argv[at + 1] if at + 1 < len(argv) else ""
            return read_file(path), path
    return {}, ""


def _family(argv: list[str], document: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The family, from the first word or the configuration file, and the rest of the words."""
    named = document.get("family")
    first = argv[0] if argv and not argv[0].startswith("-") else None
    if named is not None and (first is None or first not in catalog.families()):
        return str(named), argv
    if first is not None and named is not None and first != named:
        raise InvalidOption(f"reverie fit: the configuration is for the family {named!r}, the command says {first!r}")
    return first, argv[1:] if first is not None else argv


def _fit(row: catalog.Family, argv: list[str], document: dict[str, Any], path: str, screen: Screen) -> int:
    from reverie import config
    from reverie.cli import data as cli_data
    from reverie.cli.recipes import pick_networks, recipe_flags, recipe_options, training_flags
    from reverie.estimator import dry_run
    from reverie.learning.training import Training
    from reverie.store import recipe_class

    cls, prog = recipe_class(row.name), f"reverie fit {row.name}"
    flags_of_data, flags_of_training = cli_data.data_flags(), training_flags(cls.defaults)
    settings = sort(
        document,
        path,
        estimator=config.options(cls),
        training=[name for name in config.options(Training) if name != "callbacks"],
        data=[name for name in cli_data.arguments() if name != "source"],
    )
    networks = pick_networks(cls, argv, settings.estimator, prog)
    own = recipe_flags(cls, networks)
    flags = [cli_data.source_flag(), *ITS_OWN, *own, *flags_of_training, *flags_of_data]
    parsed = parse(flags, argv, prog=prog, description=f"{row.title}: {row.summary}.")
    estimator = cls(**recipe_options(cls, parsed.typed(own), settings.estimator, networks))
    source = parsed["data"] or settings.source
    if source is None:
        raise InvalidOption(f"{prog}: give the data: a path or a name, as in {prog} digits")
    arguments = {**settings.data, **cli_data.data_arguments(parsed, flags_of_data)}
    if not row.uses_labels and not cli_data.asked_for_y(arguments):
        arguments["y"] = False
    data = cli_data.read(source, arguments)
    if arguments.get("y") is False and "y" not in settings.data and "y" not in parsed.given:
        _note_labels(row, source, screen)
    screen.warn(data.warnings)
    training = _training({**settings.training, **parsed.typed(flags_of_training)}, settings.training, screen)
    seed = parsed["seed"] if "seed" in parsed.given or settings.seed is None else settings.seed
    if parsed["dry-run"]:
        cost = dry_run(estimator, data, training=training, seed=seed)
        screen.result(cost, cost_text(cost))
        return OK
    out = _out_folder(parsed, settings, row.name, data.name)
    try:
        model = estimator.fit(data, training=config.replace(training, out=str(out)), seed=seed)
    except Interrupted as error:
        raise _resumable(error, out) from None
    _report(model, out, screen)
    return OK


def _note_labels(row: catalog.Family, source: str, screen: Screen) -> None:
    from reverie.data.sources.bundled import NAMES

    if source in NAMES or source.startswith("hf:"):
        use = "let it learn them too, and predict them" if row.machine else "name its components by them"
        why = f"--y COLUMN would {use}" if row.conditions else "it does not learn from labels"
        screen.note(f"note: the labels of {source}, if any, are left out of {row.name}: {why}")


def _training(options: dict[str, Any], start: dict[str, Any], screen: Screen) -> Any:
    """`Training` from the configuration and the flags; a budget typed replaces the configuration's."""
    from reverie.learning.training import Training

    budgets = ("epochs", "steps", "minutes")
    typed = [name for name in budgets if name in options and options[name] != start.get(name)]
    if typed:
        options = {k: v for k, v in options.items() if k not in budgets or k in typed}
    if screen.quiet:
        options["progress"] = False
    return Training(**options)


def _out_folder(parsed: Parsed, settings: Settings, family: str, data: str) -> Path:
    given = parsed["out"] or settings.out
    if given:
        return Path(given)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{family}-{data}").strip("-.")
    number = 1
    while Path("runs", f"{stem}-{number}").exists():
        number += 1
    return Path("runs", f"{stem}-{number}")


def _resumable(error: Interrupted, out: Path) -> Interrupted:
    error.run = str(out) if error.checkpoint else None  # type: ignore[attr-defined]
    return error


def _report(model: Any, out: Path, screen: Screen) -> None:
    screen.warn([text for text in model.warnings if not text.startswith("duplicates:")])
    screen.warn([str(finding) for finding in model.findings])
    last = model.history[-1] if model.history else {}
    document = {
        "run": str(out),
        "family": model.family,
        "parameters": model.info["parameters"],
        "epochs": last.get("epoch", 0),
        "steps": model.info["steps"],
        "seconds": model.info["seconds"],
        "last": last,
        "can": sorted(model.can),
        "warnings": model.warnings,
        "findings": [finding.to_json() for finding in model.findings],
    }
    facts = f"{document['epochs']} epochs, {document['steps']} steps, {duration(document['seconds'])}"
    screen.result(document, f"{model.summary()}\ntrained: {facts}\nsaved in {out}")


def _resume(argv: list[str], screen: Screen) -> int:
    from reverie import store
    from reverie.cli import data as cli_data
    from reverie.cli.recipes import training_flags
    from reverie.learning.folder import read_config

    flags_of_training, flags_of_data = training_flags({}), cli_data.data_flags()
    source = cli_data.source_flag("Only needed for a run whose data were in memory.")
    parsed = parse(
        [source, RESUME, QUIET, JSON, *flags_of_training, *flags_of_data],
        argv,
        prog="reverie fit --resume",
        description="Go on with a run exactly where it stopped: same recipe, data and seed; a budget may grow.",
    )
    root = Path(parsed["resume"])
    changes = parsed.typed(flags_of_training)
    if screen.quiet:
        changes["progress"] = False
    else:
        changes.setdefault("progress", None)
    X = None
    if parsed["data"]:
        read_config(root)
        X = cli_data.read(parsed["data"], cli_data.data_arguments(parsed, flags_of_data))
    elif any(flag.name in parsed.given for flag in flags_of_data):
        raise InvalidOption("reverie fit --resume: the run knows its data; data flags go with DATA given anew")
    try:
        model = store.resume(root, X, **changes)
    except Interrupted as error:
        raise _resumable(error, root) from None
    _report(model, root, screen)
    return OK


def cost_text(cost: dict[str, Any]) -> str:
    """A dry run's figures as text."""
    rows = []
    for phase in cost["phases"]:
        budget = f"{phase['minutes']:.3g} min" if phase["epochs"] is None else f"{phase['epochs']:.3g}"
        steps = phase["steps"] if phase["steps"] is not None else None
        rows.append([phase["phase"], f"{phase['share']:.0%}", budget, steps, duration(phase["seconds_per_epoch"])])
    return "\n".join(
        [
            f"{cost['family']} on {cost['data_rows']:,} rows, {cost['device']}",
            f"parameters {cost['parameters']:,}; weights {size(cost['weights_bytes'])}; "
            f"memory in training about {size(cost['training_bytes'])}",
            "",
            table(["phase", "share", "epochs", "steps", "per epoch"], rows),
            "",
            f"about {duration(cost['estimated_seconds'])} in all",
        ]
    )
