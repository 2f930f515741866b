"""Saved models and runs: load, resume, and family recipes by name. The only importer of families, by catalog path."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from reverie import catalog, config, serial
from reverie.errors import CheckpointError, InvalidOption
from reverie.estimator import Estimator
from reverie.learning.folder import read_config
from reverie.learning.training import Training
from reverie.model.model import Model, restore


def recipe_class(name: str) -> type[Estimator]:
    """The estimator class of a family of the catalog."""
    row = catalog.family(name)
    return getattr(importlib.import_module(row.module), row.class_name)  # type: ignore[no-any-return]


def load(path: str | Path, *, network: nn.Module | dict[str, nn.Module] | None = None) -> Model:
    """Load a model from a folder made by `Model.save`, a run folder (its latest checkpoint) or one checkpoint.

    network: the module(s) that the recipe was given instead of a spec, when it was: one module, or a dictionary by
    option name (`{"encoder": ..., "decoder": ...}`). They are never stored or imported by name. Raises
    `CheckpointError` for anything missing, damaged or too new.
    """
    folder = model_folder(Path(path))
    document, state = serial.read(folder, "model")
    if document.get("kind") != "model":
        raise CheckpointError(f"{folder} holds no reverie model")
    family = document["family"]
    if family not in catalog.families():
        raise CheckpointError(
            f"{folder} holds a model of the family {family!r}, which this installation does not have; install the "
            f"package that provides it. Families here: {', '.join(catalog.families())}"
        )
    modules = _modules(document["info"].get("resolved", document["estimator"]), network, folder)
    cls = recipe_class(family)
    try:
        resolved = config.from_json(cls, {**document["info"].get("resolved", document["estimator"]), **modules})
        asked = config.from_json(cls, {**document["estimator"], **modules})
    except InvalidOption as error:
        raise CheckpointError(f"{folder} was saved with options this version does not know: {error}") from None
    model = restore(resolved, document, state)
    model.estimator = asked
    return model


def model_folder(path: Path) -> Path:
    """The folder with model.json: the path itself, or the latest checkpoint of a run."""
    if (path / "model.json").exists():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist" if not path.exists() else f"{path} is a file, not a saved model")
    latest = serial.latest(path)
    if latest is None:
        raise CheckpointError(f"{path} holds no model: expected model.json, or the file `latest` of a run")
    if not (latest / "model.json").exists():
        raise CheckpointError(f"{path} is damaged: `latest` names {latest.name}, which has no model.json")
    return latest


def _modules(recipe: dict[str, Any], network: Any, folder: Path) -> dict[str, nn.Module]:
    """The modules that stand for options saved as external, from what the user passed."""
    external = {
        name: value["class"]
        for name, value in recipe.items()
        if isinstance(value, dict) and value.get("type") == "external"
    }
    given = network if isinstance(network, dict) else {}
    if isinstance(network, nn.Module):
        if len(external) > 1:
            raise CheckpointError(
                f"{folder} needs {len(external)} modules: pass network={{{', '.join(f'{n!r}: ...' for n in external)}}}"
            )
        given = dict.fromkeys(external, network)
    missing = [f"{name} ({cls})" for name, cls in external.items() if name not in given]
    if missing:
        raise CheckpointError(
            f"{folder} was trained with your own module for {', '.join(missing)}, which is not stored with it. Pass a "
            "fresh instance: reverie.load(path, network=...)"
        )
    extra = [name for name in given if name not in external]
    if (network is not None and not external) or extra:
        raise CheckpointError(f"{folder} needs no module for {', '.join(extra) or 'any option'}; leave network out")
    return given


def resume(path: str | Path, X: Any = None, y: Any = None, *, network: Any = None, **changes: Any) -> Model:
    """Continue a run exactly, from its latest checkpoint: same recipe, data, seed and number of processes.

    X may be left out when the run recorded where its data came from. changes: training options that may differ, such
    as a larger `epochs`. Raises `RunConflict` naming the fields when anything else differs.
    """
    root = Path(path)
    document = read_config(root)
    cls = recipe_class(document["family"])
    estimator = config.from_json(cls, {**document["estimator"], **_modules(document["estimator"], network, root)})
    if X is None:
        source = document["data"].get("source")
        if source is None:
            raise InvalidOption(f"{root} was trained on data given in memory: pass them again as X")
        from reverie.data.sources.load import load_data

        X = load_data(**source)
    saved = dict(document["training"])
    if any(changes.get(name) is not None for name in ("epochs", "steps", "minutes")):
        for name in ("epochs", "steps", "minutes"):
            saved[name] = None
    training = config.from_json(Training, {**saved, "out": None, **changes})
    return estimator.fit(X, y, training=training, seed=document["seed"], resume=root)
