"""`Estimator`: a family's recipe, and the one concrete `fit` that joins data, codec, network, learner and trainer."""

from __future__ import annotations

import copy
import platform
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
from torch import nn

from reverie import config, serial
from reverie._version import __version__
from reverie.data.batches import Batches
from reverie.data.cards import write_snapshot
from reverie.data.codec import fit_codec
from reverie.data.dataset import Dataset, as_dataset
from reverie.data.schema import Schema
from reverie.data.space import Space, Wants
from reverie.errors import Diverged, Interrupted, InvalidOption, RunConflict
from reverie.learning import launch
from reverie.learning.folder import RunFolder, read_config
from reverie.learning.phases import Phase, Position, State
from reverie.learning.progress import Progress
from reverie.learning.run import Run, group_is_open, in_worker, pick_device, start_processes, stop_processes
from reverie.learning.trainer import Hooks, Trainer
from reverie.learning.training import Training
from reverie.model import Model, check_seed, restore
from reverie.rng import generator, stream

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


class Estimator(ABC):
    """A frozen recipe. A family defines `wants`, `build` and `phases`; `fit` is the same for all."""

    family: ClassVar[str]
    """The name in the catalog."""
    defaults: ClassVar[dict[str, Any]] = {"epochs": 20, "batch_size": 128}
    """The family's training defaults, used where the user says nothing."""

    @abstractmethod
    def wants(self, schema: Schema) -> Wants:
        """What this family can live with, for such data. Data only, no maths."""

    def resolve(self, space: Space) -> Self:
        """This recipe with every "auto" replaced by what it means for this space."""
        return self

    @abstractmethod
    def build(self, space: Space) -> nn.Module:
        """The network for this space, freshly initialised from torch's global generator."""

    @abstractmethod
    def phases(self, network: nn.Module, run: Run, *, fresh: bool) -> list[Phase]:
        """The stretches of training; `fresh` is False when the network already holds trained weights."""

    @final
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        training: Training | None = None,
        start: Model | None = None,
        seed: int = 0,
        resume: str | Path | None = None,
        **overrides: Any,
    ) -> Model:
        """Learn from X and return a `Model`; nothing given is changed.

        X: array, DataFrame, tensor, path, name of bundled data, or `Dataset`; y: labels or numbers to condition on, or
        the name of a column. training: a `Training`, whose fields may also be given here by name
        (`fit(X, epochs=10)`). start: a Model whose weights and codec to go on from. resume: a run folder to continue
        exactly. Raises `UnsupportedData`, `DataError`, `InvalidOption`, `RunConflict`, `Diverged`, `Interrupted`.
        """
        training = self._training(training, overrides)
        data = as_dataset(X, y)
        job = _Job(self, data, training, start, check_seed(seed), None if resume is None else Path(resume))
        if training.devices > 1 and not in_worker():
            return _fit_in_processes(job)
        return _fit(job)

    def _training(self, training: Training | None, overrides: dict[str, Any]) -> Training:
        """The user's training options over the family's defaults."""
        if training is not None and not isinstance(training, Training):
            raise InvalidOption(f"training: expected a Training, got {type(training).__name__}")
        chosen = {name: getattr(training, name) for name in config.options(Training)} if training else {}
        asked = Training(**{**{k: v for k, v in chosen.items() if v is not None}, **overrides})
        fill = {name: value for name, value in self.defaults.items() if getattr(asked, name) is None}
        if any(getattr(asked, name) is not None for name in ("epochs", "steps", "minutes")):
            fill = {name: value for name, value in fill.items() if name not in ("epochs", "steps", "minutes")}
        return config.replace(asked, **fill)


@dataclass
class _Job:
    """All that `fit` was asked, in one picklable value."""

    estimator: Estimator
    data: Dataset
    training: Training
    start: Model | None
    seed: int
    resume: Path | None


def prepare(job: _Job, run: Run) -> tuple[Trainer, Model]:
    """Everything up to the first step: splits, codec, network, phases, trainer, and the model that will be returned."""
    estimator, training = job.estimator, job.training
    train, held_out = _split(job.data, training.validation, job.seed)
    if job.start is not None:
        _check_start(job.start, estimator, train)
        schema, codec = job.start.schema, job.start.codec
    else:
        schema = train.schema
        codec = fit_codec(schema, estimator.wants(schema), train)
    resolved = estimator.resolve(codec.space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(job.seed, "init"))
        network = resolved.build(codec.space)
    if job.start is not None:
        network.load_state_dict(copy.deepcopy(job.start.network.state_dict()))
    network = network.to(run.device)
    warnings = [*job.data.warnings]
    if len(train) == 1:
        warnings.append("the training data have a single row: the model can only repeat it")
    info: dict[str, Any] = {
        "resolved": config.to_json(resolved),
        "training": config.to_json(training),
        "seed": job.seed,
        "data": {"name": job.data.name, "rows": len(train), "hash": job.data.hash, "split": job.data.split_info},
        "versions": {"reverie": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    model = Model(estimator, schema, codec, network, warnings=warnings, info=info)
    network.train().requires_grad_(True)
    batches = Batches(train, codec, seed=job.seed, rank=run.rank, world=run.world)
    validation = Batches(held_out, codec, seed=job.seed, rank=run.rank, world=run.world) if held_out else None
    phases = resolved.phases(network, run, fresh=job.start is None)
    return Trainer(run, network, phases, batches, training, validation=validation), model


def _fit(job: _Job) -> Model:
    """One process's part of a fit."""
    training = job.training
    joined = group_is_open()
    rank, world = start_processes(training.device)
    try:
        run = Run(seed=job.seed, device=pick_device(training.device, rank), rank=rank, world=world, clip=training.clip)
        if job.resume is not None:
            _check_resume(job, run)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(job.seed, "torch", rank))
            return _train(job, run)
    finally:
        if not joined:
            stop_processes()


def _train(job: _Job, run: Run) -> Model:
    """Open the run folder if there is one, go on from its state when resuming, train, close."""
    trainer, model = prepare(job, run)
    recorder = _Recorder(job, run, trainer, model)
    try:
        recorder.begin()
        trainer.run()
        recorder.snapshot(trainer.inference_network(), trainer.at)  # a finished run always shows what it makes
    except (Diverged, Interrupted) as error:
        error.model = recorder.model_now()
        raise
    finally:
        recorder.close()
    return recorder.model_now()


class _Recorder:
    """What a fit writes and shows: the run folder (first process only), its checkpoints, samples and log, progress."""

    def __init__(self, job: _Job, run: Run, trainer: Trainer, model: Model) -> None:
        self._job, self._run, self._trainer, self._model = job, run, trainer, model
        self._out = job.resume or (Path(job.training.out) if job.training.out else None)
        self._folder: RunFolder | None = None
        self._progress = Progress(job.training.progress if run.is_main else False, title=job.estimator.family)

    def begin(self) -> None:
        """Open the folder, hook into the trainer, and load the old state or save the state of step 0."""
        job, run, trainer = self._job, self._run, self._trainer
        resuming = job.resume is not None
        if self._out is not None and run.is_main:
            self._folder = RunFolder(self._out, _run_document(job, run), resume=resuming)
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
    return Model(
        model.estimator,
        model.schema,
        model.codec,
        network,
        history=[dict(record) for record in trainer.history],
        warnings=list(model.warnings),
        info=info,
    )


def _run_document(job: _Job, run: Run) -> dict[str, Any]:
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


def _check_resume(job: _Job, run: Run) -> None:
    """Refuse to continue a run with anything that would make it another run; name the fields."""
    assert job.resume is not None
    before, now = read_config(job.resume), _run_document(job, run)
    differs = [name for name in ("family", "seed", "world") if before[name] != now[name]]
    if before["data"]["hash"] != now["data"]["hash"]:
        differs.append("data (other rows or columns)")
    for part, free in (("estimator", frozenset[str]()), ("training", _FREE_TO_CHANGE)):
        old, new = before[part], now[part]
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


def _check_start(start: Model, estimator: Estimator, train: Dataset) -> None:
    if not isinstance(start, Model):
        raise InvalidOption(f"start: expected a Model, got {type(start).__name__}; load a saved one with reverie.load")
    if start.family != estimator.family:
        raise InvalidOption(f"start: a {start.family} model cannot be the start of a {estimator.family}")
    start.schema.check_same(train.schema)
    old, new = start.info.get("resolved"), config.to_json(estimator.resolve(start.codec.space))
    shapes = {k: v.shape for k, v in start.network.state_dict().items()}
    fresh = {k: v.shape for k, v in estimator.resolve(start.codec.space).build(start.codec.space).state_dict().items()}
    if shapes != fresh:
        differs = [key for key in new if isinstance(old, dict) and old.get(key) != new[key]]
        raise InvalidOption(
            f"start: its network has other shapes than this recipe's ({', '.join(differs) or 'network'})"
        )


def _split(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Training rows and the share of them kept aside for validation; whole groups when there is a group column."""
    data = data.train if "train" in data.splits else data
    n = len(data)
    if n == 0:
        raise InvalidOption("X has no rows")
    if not share:
        return data, None
    group = data.schema.with_role("group")
    keys = np.arange(n)
    if group:
        column = data.take(np.arange(n)).columns[group[0].name]
        keys = np.unique(column, return_inverse=True)[1]
    order = torch.randperm(int(keys.max()) + 1, generator=generator(seed, "validation")).numpy()
    out = order[: max(1, round(share * len(order)))]
    mask = np.isin(keys, out)
    if mask.all() or not mask.any():
        raise InvalidOption(f"validation={share}: too few rows ({n}) to keep some aside")
    return data.view(np.flatnonzero(~mask)), data.view(np.flatnonzero(mask))


def dry_run(
    estimator: Estimator, X: Any, y: Any = None, *, training: Training | None = None, seed: int = 0, **overrides: Any
) -> dict[str, Any]:
    """What a fit would cost, from three real steps: parameters, bytes, seconds per epoch, the split by phases."""
    import time

    training = config.replace(estimator._training(training, overrides), out=None)
    data = as_dataset(X, y)
    run = Run(seed=seed, device=pick_device(training.device), clip=training.clip)
    with torch.random.fork_rng(devices=[]):
        trainer, model = prepare(_Job(estimator, data, training, None, seed, None), run)
        plan = trainer.plan()
        seconds = trainer.time_steps(3)
    state = sum(t.numel() * t.element_size() for t in trainer.network.state_dict().values())
    rows = trainer.data.n
    for row in plan:
        row["seconds_per_epoch"] = round(seconds[row["phase"]] * row["batches_per_epoch"], 4)
    total = sum(row["seconds_per_epoch"] * row["epochs"] for row in plan if row["epochs"] is not None)
    return {
        "family": estimator.family,
        "parameters": model.info["parameters"],
        "weights_bytes": state,
        "training_bytes": state * (4 if model.info["parameters"] else 1) + trainer.data.nbytes,
        "data_rows": rows,
        "device": str(run.device),
        "phases": plan,
        "estimated_seconds": round(total, 2) if training.minutes is None else training.minutes * 60,
        "resolved": model.info["resolved"],
        "measured": time.strftime("%Y-%m-%d"),
    }


def finetune(model: Model, X: Any, y: Any = None, **options: Any) -> Model:
    """Continue training `model` on X with its own recipe; returns a new Model (`estimator.fit(X, start=model)`)."""
    return model.estimator.fit(X, y, start=model, **options)  # type: ignore[no-any-return]


def _fit_in_processes(job: _Job) -> Model:
    """Start `devices` processes, let them fit, and load what the first one wrote."""
    world = job.training.devices
    if len(job.data) < world:
        raise InvalidOption(f"devices={world}: more processes than rows ({len(job.data)})")
    with tempfile.TemporaryDirectory(prefix="reverie-") as scratch:
        launch.launch(world, _process, (job, scratch))
        document, state = serial.read(Path(scratch), "model")
        resolved = job.estimator.resolve(_space_of(document))
        return _as_recipe(restore(resolved, document, state), job.estimator)


def _process(job: _Job, scratch: str) -> None:
    model = _fit(job)
    import os

    if int(os.environ["RANK"]) == 0:
        model.write(Path(scratch))


def _space_of(document: dict[str, Any]) -> Space:
    from reverie.data.codec import codec_from_json

    return codec_from_json(Schema.from_json(document["schema"]), document["codec"]).space


def _as_recipe(model: Model, estimator: Estimator) -> Model:
    model.estimator = estimator
    return model
