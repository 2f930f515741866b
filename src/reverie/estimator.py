"""`Estimator`: a family's recipe, and the one concrete `fit` that joins data, codec, network, learner and trainer."""

from __future__ import annotations

import math
import platform
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
from torch import nn

from reverie import config, serial
from reverie._version import __version__
from reverie.config import check_seed
from reverie.data.batches import Batches
from reverie.data.codec.negotiate import fit_codec, with_condition
from reverie.data.dataset import Dataset
from reverie.data.schema import Schema
from reverie.data.sources.load import as_dataset, as_dataset_like
from reverie.data.space import Space, Wants
from reverie.errors import Diverged, Interrupted, InvalidOption
from reverie.learning import launch
from reverie.learning.phases import Phase
from reverie.learning.probing import LRRange, probe
from reverie.learning.run import Run, group_is_open, in_worker, pick_device, start_processes, stop_processes
from reverie.learning.trainer import Trainer
from reverie.learning.training import Training
from reverie.model.model import Model, restore
from reverie.recording import Job, Recorder, check_resume
from reverie.rng import generator, stream


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

    def inherit(self, network: nn.Module, trained: nn.Module) -> bool:
        """Give a fresh network the weights of a trained one; False when they do not fit."""
        return inherit_but(network, trained)

    def tuned(self, *, labelled: bool) -> Self:
        """The recipe that goes on with a model of this one, on data with y when `labelled`."""
        return self

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
        columns: Mapping[Any, Any] | str | None = None,
        rules: Sequence[str] | str | None = "auto",
        **overrides: Any,
    ) -> Model:
        """Learn from X and return a `Model`; nothing given is changed.

        X: array, DataFrame, tensor, path, name of bundled data, or `Dataset`; y: labels or numbers to condition on, or
        the name of a column. training: a `Training`, whose fields may also be given here by name
        (`fit(X, epochs=10)`). start: a Model whose weights and codec to go on from. resume: a run folder to continue
        exactly. columns: where the values of numeric columns can lie, for those whose values do not show it
        (`Dataset.supporting`). rules: what rows keep (`Dataset.keeping`); by default what the training rows show. Raises `UnsupportedData`, `DataError`, `InvalidOption`, `RunConflict`, `Diverged`, `Interrupted`.
        """
        training = self._training(training, overrides)
        data = as_dataset(X, y) if not isinstance(start, Model) else as_dataset_like(start.schema, X, y)
        if columns is not None:
            if isinstance(start, Model):
                raise InvalidOption("columns: a start keeps the supports it was trained with; leave columns out")
            data = data.supporting(columns)
        if rules != "auto":
            if isinstance(start, Model):
                raise InvalidOption("rules: a start keeps the rules it was trained with; leave rules out")
            data = data.keeping(rules)
        job = Job(self, data, training, start, check_seed(seed), None if resume is None else Path(resume))
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


def inherit_but(network: nn.Module, trained: nn.Module, new: str | None = None) -> bool:
    """Copy a trained network's weights into a fresh one, in which those whose names begin with `new` may be new; False
    when the others do not fit."""
    theirs, own = trained.state_dict(), network.state_dict()
    grows: frozenset[str] = getattr(network, "grows", frozenset())  # tensors as long as the data
    fresh = [name for name in own if name not in theirs and (new is None or not name.startswith(new))]
    same = {name: name in own and (name in grows or own[name].shape == value.shape) for name, value in theirs.items()}
    if fresh or not all(same.values()):
        return False
    network.load_state_dict({**own, **{name: value.clone() for name, value in theirs.items()}})
    return True


def prepare(job: Job, run: Run) -> tuple[Trainer, Model]:
    """Everything up to the first step: splits, codec, network, phases, trainer, and the model that will be returned."""
    estimator, training = job.estimator, job.training
    train, held_out = _split(job.data, training.validation, job.seed)
    if job.start is not None:
        _check_start(job.start, estimator, train)
        schema, codec = job.start.schema, job.start.codec
        if not schema.conditions and train.schema.conditions:
            schema = train.schema
            codec = with_condition(codec, schema, estimator.wants(schema), train)
    else:
        schema = train.schema
        codec = fit_codec(schema, estimator.wants(schema), train)
    resolved = estimator.resolve(codec.space)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(job.seed, "init"))
        network = resolved.build(codec.space)
    if job.start is not None and not resolved.inherit(network, job.start.network):
        _refuse_start(job.start, resolved, codec.space)
    network = network.to(run.device)
    warnings = [*job.data.warnings]
    if len(train) == 1 and not codec.space.sequence:
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
    if batches.n < run.world:
        raise InvalidOption(f"devices={run.world}: more processes than rows ({batches.n})")
    validation = Batches(held_out, codec, seed=job.seed, rank=run.rank, world=run.world) if held_out else None
    phases = resolved.phases(network, run, fresh=job.start is None)
    return Trainer(run, network, phases, batches, training, validation=validation), model


def _fit(job: Job) -> Model:
    """One process's part of a fit."""
    training = job.training
    joined = group_is_open()
    rank, world = start_processes(training.device)
    try:
        run = Run(
            seed=job.seed,
            device=pick_device(training.device, rank),
            rank=rank,
            world=world,
            clip=training.clip,
            accumulation=training.accumulation,
        )
        if job.resume is not None:
            check_resume(job, run)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(job.seed, "torch", rank))
            return _train(job, run)
    finally:
        if not joined:
            stop_processes()


def _train(job: Job, run: Run) -> Model:
    """Open the run folder if there is one, go on from its state when resuming, train, close."""
    trainer, model = prepare(job, run)
    recorder = Recorder(job, run, trainer, model)
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


def _check_start(start: Model, estimator: Estimator, train: Dataset) -> None:
    if not isinstance(start, Model):
        raise InvalidOption(f"start: expected a Model, got {type(start).__name__}; load a saved one with reverie.load")
    if start.family != estimator.family:
        raise InvalidOption(f"start: a {start.family} model cannot be the start of a {estimator.family}")
    start.schema.check_same(train.schema)


def _refuse_start(start: Model, resolved: Estimator, space: Space) -> None:
    """Say which options make the recipe's network another one than the start's."""
    old, new = start.info.get("resolved"), config.to_json(resolved)
    differs = [key for key in new if isinstance(old, dict) and old.get(key) != new[key]]
    if space.condition != start.codec.space.condition:
        differs.append("y")
    raise InvalidOption(f"start: its network has other shapes than this recipe's ({', '.join(differs) or 'network'})")


def _split(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Training rows and the share of them kept aside for validation; whole groups when there is a group column."""
    data = data.train if "train" in data.splits else data
    n = len(data)
    if n == 0:
        raise InvalidOption("X has no rows")
    if not share:
        return data, None
    if data.one_sequence:
        parts = data.split("random", fractions=(1 - share, share))
        return parts.train, parts.test
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
    run = Run(seed=seed, device=pick_device(training.device), clip=training.clip, accumulation=training.accumulation)
    with torch.random.fork_rng(devices=[]):
        trainer, model = prepare(Job(estimator, data, training, None, seed, None), run)
        plan = trainer.budget.plan()
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


def lr_range(
    estimator: Estimator,
    X: Any,
    y: Any = None,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    training: Training | None = None,
    seed: int = 0,
    **overrides: Any,
) -> LRRange:
    """Which learning rates suit this recipe and these data: a short training at rates that rise from `low` to `high`.

    Costs `steps` updates; nothing is kept. Returns the smoothed loss at every rate, and a suggestion for `lr` (Smith 2017, section
    3.3). Raises `InvalidOption` for families without a learning rate or without a loss that says how training goes.
    """
    lr = getattr(estimator, "lr", None)
    if not isinstance(lr, float):
        raise InvalidOption(f"lr_range: {estimator.family} has no learning rate")
    if not 0 < low < high < math.inf:
        raise InvalidOption(f"lr_range: low and high must be 0 < low < high, got {low!r} and {high!r}")
    config.check_count(steps, "steps")
    training = config.replace(estimator._training(training, overrides), out=None)
    run = Run(seed=seed, device=pick_device(training.device), clip=training.clip, accumulation=training.accumulation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "torch", 0))
        trainer, _ = prepare(Job(estimator, as_dataset(X, y), training, None, seed, None), run)
        return probe(trainer, lr, low, high, steps)


def finetune(model: Model, X: Any, y: Any = None, **options: Any) -> Model:
    """Continue training `model` on X; returns a new Model (`estimator.fit(X, y, start=model)`).

    With its own recipe, but for options of it given here beside those of training; a family that can be trained further
    with labels (a deep belief net's layers unrolled into a classifier, say) is, when y comes to a model without.
    """
    data = as_dataset_like(model.schema, X, y)
    recipe = model.estimator.tuned(labelled=bool(data.schema.conditions) and not model.schema.conditions)
    changes = {name: options.pop(name) for name in list(options) if name in config.options(type(recipe))}
    return config.replace(recipe, **changes).fit(data, start=model, **options)  # type: ignore[no-any-return]


def _fit_in_processes(job: Job) -> Model:
    """Start `devices` processes, let them fit, and load what the first one wrote."""
    world = job.training.devices
    windowed = (
        job.estimator.wants(job.data.schema).windows is not None
    )  # then rows are windows, of which there are more
    if len(job.data) < world and not windowed:
        raise InvalidOption(f"devices={world}: more processes than rows ({len(job.data)})")
    with tempfile.TemporaryDirectory(prefix="reverie-") as scratch:
        launch.launch(world, _process, (job, scratch))
        document, state = serial.read(Path(scratch), "model")
        resolved = job.estimator.resolve(_space_of(document))
        return _as_recipe(restore(resolved, document, state), job.estimator)


def _process(job: Job, scratch: str) -> None:
    model = _fit(job)
    import os

    if int(os.environ["RANK"]) == 0:
        model.write(Path(scratch))


def _space_of(document: dict[str, Any]) -> Space:
    from reverie.data.codec.negotiate import codec_from_json

    return codec_from_json(Schema.from_json(document["schema"]), document["codec"]).space


def _as_recipe(model: Model, estimator: Estimator) -> Model:
    model.estimator = estimator
    return model
