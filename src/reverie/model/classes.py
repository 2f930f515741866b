"""What y is, given the rest."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from reverie.data.codec.condition import ColumnCondition
from reverie.data.table import Table
from reverie.model.core import Core, moved


def predict_proba(model: Core, X: Any) -> Any:
    """See `Model.predict_proba`."""
    model.require("predict_proba")
    tables, found = classified(model, X)
    return model.intake.steps(tables, found) if model.intake.per_step else found


def predict(model: Core, X: Any) -> Any:
    """See `Model.predict`."""
    model.require("predict")
    tables, found = classified(model, X)
    condition = model.codec.condition
    if isinstance(condition, ColumnCondition) and condition.kind == "vector":
        return model.intake.labels(Table({}, len(found)), condition.decode(found))
    codes = found.argmax(1)
    if model.intake.per_step:
        return model.intake.step_labels(tables, codes)
    return model.intake.labels(Table({}, len(codes)), codes)


def classified(model: Core, X: Any) -> tuple[list[Table], NDArray[Any]]:
    """The tables read, and the probabilities of the classes (or the expected numbers) of all their rows or steps."""
    tables, parts = [], []
    for _, table, prepared in model.intake.prepared(X, None, model.chunk):
        x = model.codec.middle(prepared.x).to(model.device)
        with torch.inference_mode():
            found = model.network.classify(x, moved(prepared.observed, model.device))  # type: ignore[operator]
        tables.append(table)
        numbers = model.codec.condition is not None and model.codec.condition.kind == "vector"
        parts.append((found if numbers else found.exp()).double().cpu())
    return tables, torch.cat(parts).numpy()
