"""`evaluate`: judge one model on test data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.data.forms.conditions import read_y
from reverie.data.forms.reading import read_table, restore_table
from reverie.errors import InvalidOption
from reverie.evaluation.likelihood import likelihood
from reverie.evaluation.memory import memory
from reverie.evaluation.pages.exhibits import figures
from reverie.evaluation.report import Report
from reverie.evaluation.rows import Row
from reverie.evaluation.sources import codes_in
from reverie.evaluation.summary import in_words
from reverie.evaluation.yardstick import View, Yardstick
from reverie.metrics import wilson
from reverie.rng import stream

if TYPE_CHECKING:
    from reverie.data.schema import Schema
    from reverie.data.table import Table
    from reverie.evaluation.protocol import Judged


def evaluate(
    model: Judged,
    test: Any,
    train: Any = None,
    *,
    n: int | None = None,
    level: str = "quick",
    seed: int = 0,
) -> Report:
    """Judge a model on rows it has not seen.

    `test` and `train` are Datasets, or anything `load_data` takes; a pair `(X, y)` gives labels; of a Dataset with splits the part
    of that name is used. `train` is the data
    the model learned from: with it come the train - test gap, everything about copying, and classifier features for
    labelled images. `n` rows per comparison (default 1000, or 4000 at level "standard"); fewer when the real rows do
    not suffice for the floor at the same n. Level "standard" also draws 5 generated sets instead of 3. One seed, one
    report, on one machine.

    Raises `InvalidOption`, `DataError` (too few rows), `SchemaMismatch` (not the data the model was trained on).
    """
    return judge(model, Yardstick(model.schema, test, train, n=n, level=level, seed=seed))


def judge(model: Judged, yardstick: Yardstick, title: str | None = None) -> Report:
    """The report of one model against a yardstick that may serve several."""
    start = time.perf_counter()
    tables, labels, views, sampling = _generate(model, yardstick)
    found = likelihood(model, yardstick.test, yardstick.train, yardstick.level.likelihood_rows)
    rows = list(found.rows)
    if yardstick.spaces:
        rows += yardstick.rows(views)
    agreement = _agreement_row(yardstick, views, labels)
    rows += [agreement] if agreement is not None else []
    copied = memory(yardstick, tables, views)
    rows += copied.rows
    notes = [*found.notes, *yardstick.notes, *copied.notes]
    notes += [f"Features {space.name}: {space.note}." for space in yardstick.spaces if space.note]
    warnings = [str(getattr(item, "message", item)) for item in model.warnings]
    findings = list(getattr(model, "findings", []))
    about = describe(model) | {"findings": [finding.to_json() for finding in findings]}
    data = {
        "name": yardstick.test.name,
        "test_rows": yardstick.test.total,
        "train_rows": None if yardstick.train is None else yardstick.train.total,
        "fields": {field.name: field.kind for field in yardstick.schema.data_fields},
        "condition": ", ".join(field.name for field in yardstick.schema.conditions) or None,
    }
    settings = {
        "level": yardstick.level_name,
        "n": yardstick.n,
        "generated_sets": len(tables),
        "floor_repeats": yardstick.level.repeats,
        "seed": yardstick.seed,
        "features": {space.name: space.note for space in yardstick.spaces},
        "sampling_seconds": sampling,
    }
    name = title or f"{about['title']}{' on ' + yardstick.test.name if yardstick.test.name else ''}"
    return Report(
        title=name,
        rows=tuple(rows),
        summary=tuple(in_words(rows, notes, warnings, findings)),
        notes=tuple(notes),
        warnings=tuple(warnings),
        model=about,
        data=data,
        settings=settings,
        seconds=time.perf_counter() - start,
        figures=tuple(figures(model, yardstick, tables, views, copied.pairs)),
        per_row=found.per_row,
    )


def _generate(model: Judged, yardstick: Yardstick) -> tuple[list[Table], np.ndarray | None, list[View], float]:
    """The generated sets as tables, the labels they were drawn for as the classifier's codes, their views, seconds."""
    start = time.perf_counter()
    tables, codes = [], []
    schema, condition = yardstick.schema, model.schema.condition  # None where y is several columns
    names = [field.name for field in yardstick.schema.data_fields]
    for number in range(yardstick.level.sets):
        seed = stream(yardstick.seed, "evaluation", number) % 2**31
        if not model.schema.conditions:
            table = _read(model.sample(yardstick.n, seed=seed), model.schema, schema)
        else:
            made, y = model.sample(yardstick.n, seed=seed, return_y=True)
            table = _read(made, model.schema, schema)
            if condition is not None and condition.kind == "category" and yardstick.classes:
                given = read_y(model.schema, y, table.n)[condition.name].astype(np.int64)
                codes.append(codes_in(given, tuple(condition.categories or ()), yardstick.classes))
        if table.n != yardstick.n:
            raise InvalidOption(f"the model gave {table.n} rows when asked for {yardstick.n}")
        tables.append(table.select(names))
    views = [yardstick.view(table) for table in tables]
    return tables, np.concatenate(codes) if codes else None, views, time.perf_counter() - start


def _read(made: Any, own: Schema, schema: Schema) -> Table:
    """Samples of a model with schema `own` as a table under the common schema.

    Models compared may have learned from containers that differ in what is written down (order of categories, pixel
    range); pixels outside the common range are clipped to it.
    """
    if own.data_fields == schema.data_fields:
        return read_table(schema, made)
    table = read_table(own, made)
    clipped = {
        field.name: np.clip(table[field.name], field.low, field.high).astype(table[field.name].dtype)
        for field in schema.data_fields
        if field.kind == "image" and field.low is not None and field.high is not None
    }
    return read_table(schema, restore_table(own, table.with_columns(clipped)))


def _agreement_row(yardstick: Yardstick, views: list[View], labels: np.ndarray | None) -> Row | None:
    """Share of generated images the domain classifier puts in the class they were drawn for; its floor is the
    classifier's own accuracy on test images."""
    accuracy = yardstick.classifier_accuracy
    if accuracy is None or labels is None:
        return None
    given = np.concatenate([view.classes for view in views if view.classes is not None])
    right = float((given == labels).mean())
    low, high = wilson(round(right * len(labels)), len(labels))
    sd = float(np.sqrt(accuracy * (1 - accuracy) * (1 / yardstick.test.n + 1 / len(labels))))
    worse = (accuracy - right) / sd if sd > 0 else 0.0
    return Row(
        name="label agreement",
        value=right,
        low=low,
        high=high,
        floor=accuracy,
        floor_sd=sd,
        n_real=yardstick.test.n,
        n_gen=len(labels),
        direction="up",
        kind="labels",
        features=yardstick.classifier.name if yardstick.classifier else "",
        note="share the domain classifier puts in the class asked for; its floor is the accuracy on test rows",
        verdict="as on real data" if worse < 2 else f"{right / accuracy:.0%} of the floor" if accuracy else "",
    )


def describe(model: Judged) -> dict[str, Any]:
    """What the model is, as a JSON-ready record: family, title, summary, verbs, likelihood, recipe, training."""
    from reverie import catalog, config

    family = str(getattr(model.estimator, "family", type(model.estimator).__name__))
    about: dict[str, Any] = {"family": family, "title": family, "summary": ""}
    try:
        row = catalog.family(family)
        about.update(title=row.title, summary=row.summary)
    except InvalidOption:
        pass
    can = sorted(model.can)
    about.update(
        can=can,
        log_prob_kind=str(model.log_prob_kind) if "log_prob" in can else None,
        measure=str(model.measure) if "log_prob" in can else None,
        options=config.to_json(model.estimator) if hasattr(model.estimator, "__dataclass_fields__") else {},
        info=dict(model.info),
    )
    return about
