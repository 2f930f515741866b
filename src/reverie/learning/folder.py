"""The run folder: config.json, log.jsonl, samples/, checkpoints/ and the one-line file `latest`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from reverie import serial
from reverie.errors import CheckpointError, RunConflict


class RunFolder:
    """One training run on disk, locked against a second writer while it is open.

    config.json (recipe, training, data source and hash, seed, world size) is written before the first step; each
    checkpoint holds the model for use and the state for going on.
    """

    def __init__(self, root: Path, document: dict[str, Any], *, resume: bool) -> None:
        self.root = root
        serial.make_folder(root)
        config = root / "config.json"
        if not resume and config.exists():
            raise RunConflict(f"{root} already holds a run: resume it, or choose another out")
        if not resume and any(not item.name.startswith(".") for item in root.iterdir()):
            raise RunConflict(f"{root} is not empty and holds no run: choose a new or empty folder for out")
        self._lock = serial.Lock(root)
        self._document = document
        if not resume:
            self.write_config()
        serial.make_folder(root / "samples")
        try:
            self._log = open(root / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - open for the run's life
        except OSError as error:
            raise CheckpointError(f"cannot write {root / 'log.jsonl'}: {error.strerror or error}") from None

    def write_config(self) -> None:
        """Write config.json; on resuming only once the old state is known to be readable."""
        serial.write_json(self.root / "config.json", self._document)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to log.jsonl, with the time."""
        self._log.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
        self._log.flush()

    def close(self) -> None:
        self._log.close()
        self._lock.release()


def read_config(root: Path) -> dict[str, Any]:
    """The config.json of a run. Raises `CheckpointError` when there is none."""
    if not (root / "config.json").exists():
        raise CheckpointError(f"{root} holds no run (no config.json)")
    return serial.read_json(root / "config.json")
