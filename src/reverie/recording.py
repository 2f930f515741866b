"""What a fit was asked (`Job`), and what it writes and shows while it runs (`Recorder`): run folder, samples, progress."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from reverie import config, serial
from reverie.data.cards import write_snapshot
from reverie.data.dataset import Dataset
from reverie.errors import RunConflict
from reverie.learning.folder import RunFolder, read_config
from reverie.learning.hooks import Hooks
from reverie.learning.phases import Position, State
from reverie.learning.progress import Progress
from reverie.learning.run import Run
from reverie.learning.trainer import Trainer
from reverie.learning.training import Training
from reverie.model.model import Model

_FREE_TO_CHANGE = frozenset(
    [
        "epochs",
        "steps",
        "minutes",
        "out",
        "progress",
        "log_steps",
        "checkpoint_minutes",
        "checkpoint_steps",
        "checkpoint_epochs",
        "snapshot_epochs",
        "patience",
        "devices",
        "device",
    ]
)
"""Training options that may differ when a run is resumed: they do not change what a step does."""


@dataclass
class Job:
    """All that `fit` was asked, in one picklable value."""

    estimator: Any
    data: Dataset
    training: Training
    start: Model | None
    seed: int
    resume: Path | None


class Recorder:
    """What a fit writes and shows: the run folder (first process only), its checkpoints, samples and log, progress."""

    def __init__(self, job: Job, run: Run, trainer: Trainer, model: Model) -> None:
        self._job, self._run, self._trainer, self._model = job, run, trainer, model
        self._out = job.resume or (Path(job.training.out) if job.training.out else None)
        self._folder: RunFolder | None = None
        self._progress = Progress(job.training.progress if run.is_main else False, title=job.estimator.family)

    def begin(self) -> None:
        """Open the folder, hook into the trainer, and load the old state or save the state of step 0."""
        job, run, trainer = self._job, self._run, self._trainer
        resuming = job.resume is not None
        trainer.check()
        if self._out is not None and run.is_main:
            self._folder = RunFolder(self._out, run_document(job, run), resume=resuming)
        run.broadcast(None)  # nobody goes on before the folder is there
        trainer.hooks = Hooks(progress=self._progress.show)
        if self._out is None:
            return
        trainer.hooks.save = self.save
        if self._folder is not None:
            trainer.hooks.log, trainer.hooks.snapshot = self._folder.log, self.snapshot
        latest = serial.latest(self._out) if resuming else None
        if latest is not None:
            trainer.load_state(serial.read(latest, "train")[1])
            trainer.checkpoint = str(latest)
        if self._folder is not None and resuming:
            self._folder.write_config()
        if latest is None:
            trainer.checkpoint = self.save(trainer.state(), trainer.at)  # loadable from step 0

    def save(self, state: State, at: Position) -> str | None:
        """Write a checkpoint: the model for use, the state for going on. Other processes only lent their state."""
        if self._folder is None:
            return None

        def writers(target: Path) -> None:
            self.model_now().write(target)
            serial.write(target, "train", {"kind": "train"}, state)

        return str(serial.commit(self._folder.root, at.total, writers))

    def snapshot(self, network: nn.Module, at: Position) -> None:
        """Draw samples of this network into the run folder."""
        if self._folder is not None:
            model = _with(self._model, copy.deepcopy(network), self._trainer)
            write_snapshot(model, self._folder.root / "samples", at.total)

    def model_now(self) -> Model:
        """A model of the weights inference would use at this moment, independent of further training."""
        return _with(self._model, copy.deepcopy(self._trainer.inference_network()), self._trainer)

    def close(self) -> None:
        """End the progress line and let go of the folder."""
        self._progress.close()
        if self._folder is not None:
            self._folder.close()


def _with(model: Model, network: nn.Module, trainer: Trainer) -> Model:
    """`model` with these weights and what the trainer knows so far."""
    info = {**model.info, "seconds": round(trainer.seconds(), 3), "steps": trainer.at.total}
    info["cpu_seconds"] = round(trainer.cpu_seconds(), 3)
    info["findings"] = [finding.to_json() for finding in trainer.watch.found]
    if trainer.pacing.history:
        info["pace"] = trainer.pacing.history
    return Model(
        model.estimator,
        model.schema,
        model.codec,
        network,
        history=[dict(record) for record in trainer.history],
        warnings=list(model.warnings),
        info=info,
    )


def run_document(job: Job, run: Run) -> dict[str, Any]:
    return {
        "format": serial.FORMAT,
        "kind": "run",
        "family": job.estimator.family,
        "estimator": config.to_json(job.estimator),
        "training": config.to_json(job.training),
        "data": {"source": getattr(job.data, "origin", None), "name": job.data.name, "hash": job.data.hash},
        "schema": job.data.schema.to_json(),
        "seed": job.seed,
        "world": run.world,
    }


def check_resume(job: Job, run: Run) -> None:
    """Refuse to continue a run with anything that would make it another run; name the fields."""
    assert job.resume is not None
    before, now = read_config(job.resume), run_document(job, run)
    differs = [name for name in ("family", "seed", "world") if before[name] != now[name]]
    if before["data"]["hash"] != now["data"]["hash"]:
        differs.append("data (other rows or columns)")
    for part, free in (("estimator", frozenset[str]()), ("training", _FREE_TO_CHANGE)):
        new = now[part]
        # A run from before an option existed was what the option's default now is.
        old = {**config.to_json(type(getattr(job, part))()), **before[part]}
        differs += [
            f"{part}.{key} ({old.get(key)!r} -> {new.get(key)!r})"
            for key in sorted({*old, *new} - free)
            if old.get(key) != new.get(key)
        ]
    if differs:
        raise RunConflict(
            f"cannot resume {job.resume}: it was started with other {'; '.join(differs)}. Start a new run, or go on "
            "from its weights with fit(X, start=model)"
        )
