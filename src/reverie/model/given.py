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
    condition, alone = model.codec.condition, getattr(model.network, "marginalises", False)
    codes = None
    if condition is not None and y is None and not alone:
        codes = _class_given(model, table, seed)
        (field,) = model.schema.conditions
        table = table.with_columns({field.name: codes})
    elif y is not None:
        table = table.with_columns(model.intake.read_y(y, n).columns)
    chunks = ((start, table.take(slice(start, min(start + model.chunk, n)))) for start in range(0, n, model.chunk))
    with_y = codes is not None or y is not None
    made = completions(model, chunks, with_y, 0, seed, "given")
    examples = restore_table(model.schema, made)
    if not return_y:
        return examples
    if condition is not None and not with_y:
        codes = _class_after(model, made, seed)
        (field,) = model.schema.conditions
        table = table.with_columns({field.name: codes})
    return examples, restore_y(model.schema, table)


def _class_given(model: Core, table: Table, seed: int) -> NDArray[np.int64]:
    """A class for every row from P(y) p(given | y), rows that are given the same being worked out once."""
    condition = model.codec.condition
    if condition is None or condition.frequencies is None or "log_prob" not in model.can:
        raise InvalidOption("y: pass y, which goes with what is given: it cannot be drawn before the rest is known")
    (field,) = model.schema.conditions
    first, of_row = _distinct(table, [f.name for f in model.schema.data_fields])
    rows = table.take(first)
    joint = np.full((rows.n, len(condition.frequencies)), -np.inf)
    for label in np.flatnonzero(condition.frequencies):
        labelled = rows.with_columns({field.name: np.full(rows.n, label)})
        prepared = model.intake.prepare(labelled, True, holes=True)
        found = log_prob_rows(model, prepared, 0, seed, 1, {}).numpy()
        joint[:, label] = found + np.log(condition.frequencies[label])
    return _drawn(joint[of_row], model, seed)


def _class_after(model: Core, table: Table, seed: int) -> NDArray[np.int64]:
    """A class for every whole row from P(y | x), of a network that says so itself."""
    parts = []
    for start in range(0, table.n, model.chunk):
        prepared = model.intake.prepare(table.take(slice(start, start + model.chunk)), False)
        with torch.inference_mode():
            x = model.codec.middle(prepared.x).to(model.device)
            parts.append(model.network.classify(x, None).double().cpu().numpy())  # type: ignore[operator]
    return _drawn(np.concatenate(parts), model, seed)


def _drawn(log_weights: NDArray[np.float64], model: Core, seed: int) -> NDArray[np.int64]:
    noise = RowNoise(stream(seed, "given class"), len(log_weights))
    return noise.categorical(torch.from_numpy(log_weights)).numpy().astype(np.int64)


def _distinct(table: Table, names: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of each kind of row, and the kind of every row."""
    import pandas as pd

    columns = {f"{name} {i}": c for name in names for i, c in enumerate(table[name].reshape(table.n, -1).T)}
    kinds = pd.DataFrame(columns).groupby(list(columns), dropna=False, sort=False).ngroup().to_numpy()
    return np.unique(kinds, return_index=True)[1], kinds
