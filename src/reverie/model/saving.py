"""A model as a folder."""

from __future__ import annotations

from pathlib import Path

from reverie import config, serial
from reverie.errors import CheckpointError
from reverie.model.core import Core


def save(model: Core, path: str | Path, *, overwrite: bool = False) -> Path:
    """See `Model.save`."""
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise CheckpointError(f"{root} is a file; choose another name for the model's folder")
    current = serial.latest(root) if root.exists() else None
    if root.exists() and current is None and any(root.iterdir()):
        raise CheckpointError(f"{root} holds other files and no model; choose a new or empty folder")
    if current is not None and (root / "config.json").exists():
        raise CheckpointError(f"{root} is a training run, which saves itself; choose another folder for a copy")
    if current is not None and not overwrite:
        raise CheckpointError(f"{root} already holds a model; pass overwrite=True to replace it")
    serial.make_folder(root)
    serial.commit(root, 0, lambda folder: write(model, folder), keep=1)
    return root


def write(model: Core, folder: Path) -> None:
    """See `Model.write`."""
    document = {
        "kind": "model",
        "family": model.family,
        "estimator": config.to_json(model.estimator),
        "schema": model.schema.to_json(),
        "codec": model.codec.to_json(),
        "history": model.history,
        "warnings": model.warnings,
        "info": model.info,
    }
    serial.write(folder, "model", document, dict(model.network.state_dict()))
