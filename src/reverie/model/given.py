"""Drawing examples of which some columns are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reverie.data.forms.given import given_table
from reverie.data.forms.reading import restore_table, restore_y
from reverie.data.table import Table
from reverie.errors import InvalidOption
from reverie.model.classes import predict_proba
from reverie.model.core import Core
from reverie.model.filling import completions
from reverie.model.scoring import log_prob_rows
from reverie.rng import RowNoise, stream


def sample_given(model: Core, n: int, given: Any, y: Any, seed: int, return_y: bool) -> Any:
    """x ~ p(the other columns | the columns given, y), the given ones as they are; see `Model.sample`.

    Without y of a model that has one, y ~ p(y | given) comes first where y is a class: from P(y) p(given | y), or where the
    network sums y out by itself, after x, from P(y | x).
    """
    model.require("impute")
    table = given_table(model.schema, given, n)
    alone = getattr(model.network, "marginalises", False)
    has_y = model.codec.condition is not None and not model.intake.predicts_y
    if y is not None:
        table = table.with_columns(model.intake.read_y(y, n).columns)
    elif has_y and not alone:
        table = table.with_columns(_class_given(model, table, seed))
    chunks = ((start, table.take(slice(start, min(start + model.chunk, n)))) for start in range(0, n, model.chunk))
    with_y = has_y and (y is not None or not alone)
    made = completions(model, chunks, with_y, 0, seed, "given")
    examples = restore_table(model.schema, made)
    if not return_y:
        return examples
    if has_y and not with_y:
        table = table.with_columns(_class_after(model, examples, seed))
    return examples, restore_y(model.schema, table)


def _class_given(model: Core, table: Table, seed: int) -> dict[str, NDArray[np.int64]]:
    """A class for every row from P(y) p(given | y), rows that are given the same being worked out once."""
    condition = model.codec.condition
    if condition is None or condition.frequencies is None or "log_prob" not in model.can:
        raise InvalidOption("y: pass y, which goes with what is given: it cannot be drawn before the rest is known")
    (field,) = model.schema.conditions
    first, of_row = _distinct(table, [f.name for f in model.schema.data_fields])
    joint = np.full((len(first), len(condition.frequencies)), -np.inf)
    for start in range(0, len(first), model.chunk):
        rows = table.take(first[start : start + model.chunk])
        for label in np.flatnonzero(condition.frequencies):
            labelled = rows.with_columns({field.name: np.full(rows.n, label)})
            prepared = model.intake.prepare(labelled, True, holes=True)
            prepared.log_det.zero_()  # the same for every class, also where a value is off its grid
            found = log_prob_rows(model, prepared, start, seed, 1, {}).numpy()
            joint[start : start + rows.n, label] = found + np.log(condition.frequencies[label])
    return {field.name: _drawn(joint[of_row], seed)}


def _class_after(model: Core, examples: Any, seed: int) -> dict[str, NDArray[np.int64]]:
    """A class for every whole row from P(y | x), of a network that says so itself."""
    (field,) = model.schema.conditions
    with np.errstate(divide="ignore"):
        return {field.name: _drawn(np.log(predict_proba(model, examples)), seed)}


def _drawn(log_weights: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    noise = RowNoise(stream(seed, "given class"), len(log_weights))
    return noise.categorical(torch.from_numpy(log_weights)).numpy().astype(np.int64)


def _distinct(table: Table, names: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of each kind of row, and the kind of every row."""
    import pandas as pd

    columns = {f"{name} {i}": c for name in names for i, c in enumerate(table[name].reshape(table.n, -1).T)}
    kinds = pd.DataFrame(columns).groupby(list(columns), dropna=False, sort=False).ngroup().to_numpy()
    return np.unique(kinds, return_index=True)[1], kinds
