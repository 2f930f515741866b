"""How likely examples are, and what makes them unlikely."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie import catalog
from reverie.config import check_count, check_seed
from reverie.data.codec.maps import Prepared
from reverie.data.forms.reading import restore_table, restore_y
from reverie.data.space import Points
from reverie.data.table import Table
from reverie.errors import InvalidOption, Unsupported
from reverie.model.core import Core, moved
from reverie.rng import LatticeNoise, Noise


def log_prob(
    model: Core, X: Any, y: Any = None, *, seed: int = 0, dequantisation: int = 8, **options: Any
) -> NDArray[Any]:
    """See `Model.log_prob`."""
    model.require("log_prob")
    check_count(dequantisation, "dequantisation")
    seed = check_seed(seed)
    model.check_options("log_prob", options)
    parts = []
    for start, _, prepared in model.intake.prepared(X, y, model.chunk):
        parts.append(log_prob_rows(model, prepared, start, seed, dequantisation, options))
    return torch.cat(parts).numpy() if parts else np.empty(0)


def log_prob_rows(model: Core, rows: Prepared, start: int, seed: int, offsets: int, options: dict[str, Any]) -> Tensor:
    """log p of prepared rows, averaged over the offsets in the cells of dequantised columns."""
    codec, n = model.codec, len(rows)
    draws: list[Noise]
    if codec.noise_width and codec.lowers and codec.space.grid is None:
        draws = [LatticeNoise(n, number, offsets) for number in range(offsets)]
    elif codec.noise_width and codec.lowers:
        draws = [model.noise(seed, f"dequantise {number}", n, start) for number in range(offsets)]
    else:
        draws = [model.noise(seed, "binarise", n, start)]
    total = torch.zeros(n, dtype=torch.float64)
    for number, draw in enumerate(draws):
        x = codec.noise(rows.x, draw)
        further = codec.batch_log_det(x, rows.observed)
        with torch.inference_mode():
            value = marginal(model, x, rows, (seed, f"log_prob {number}", n, start), options).cpu()
        total += value if further is None else value + further
    return total / len(draws) + rows.log_det


def marginal(model: Core, x: Points, rows: Prepared, key: tuple[int, str, int, int], options: dict[str, Any]) -> Tensor:
    """log p(x | y), or log sum_y p(y) p(x | y) with the same noise (`key`) for every class."""
    x, observed = x.to(model.device), moved(rows.observed, model.device)
    density: Any = model.network.log_prob
    alone = getattr(model.network, "marginalises", False)  # sums y out by itself
    if rows.y is not None or model.codec.condition is None or alone:
        given: Tensor = density(x, observed, moved(rows.y, model.device), model.noise(*key), **options)
        return given.double()
    frequencies = model.codec.condition.frequencies
    if frequencies is None:
        raise InvalidOption("log_prob: this model was trained with a y that is no class: pass y to get log p(x | y)")
    terms = []
    (field,) = model.schema.conditions
    for label in np.flatnonzero(frequencies):
        y = model.codec.encode_condition(Table({field.name: np.full(len(rows), label)})).to(model.device)
        value = density(x, observed, y, model.noise(*key), **options).double()
        terms.append(value + math.log(frequencies[label]))
    return torch.logsumexp(torch.stack(terms), 0)


def anomaly_attribution(model: Core, X: Any, y: Any = None, **options: Any) -> Any:
    """See `Model.anomaly_attribution`."""
    model.require("log_prob")
    row = catalog.families().get(model.family)
    if row is not None and not row.holes:
        can = catalog.who_takes(set(), verb="log_prob", holes=True)
        raise Unsupported(
            f"anomaly_attribution leaves out one cell at a time, and {model.family} scores complete rows only; "
            f"families that can: {can}"
        )
    whole = log_prob(model, X, y, **options)
    table = Table.concat([table for _, table in model.intake.tables(X, y, model.chunk)])
    found: dict[str, NDArray[Any]] = {}
    for field in model.schema.data_fields:
        if field.kind in ("image", "sequence", "text"):
            raise Unsupported(f"anomaly_attribution is for the columns of tables, not for {field.kind} data")
        for position in range(max(field.width, 1)):
            hidden = restore_table(
                model.schema, table.with_columns({field.name: field.hidden(table[field.name], position)})
            )
            name = field.name if not field.shape else f"{field.name}[{position}]"
            found[name] = (
                log_prob(model, hidden, (None if y is None else restore_y(model.schema, table)), **options) - whole
            )
    if model.schema.container != "dataframe":
        return np.column_stack(list(found.values()))
    import pandas as pd

    return pd.DataFrame(found, index=getattr(X, "index", None))


def bits_per_dim(model: Core, X: Any, y: Any = None, **options: Any) -> NDArray[Any]:
    """See `Model.bits_per_dim`."""
    cells: Any = sum(math.prod(field.shape) for field in model.schema.data_fields)
    if model.codec.space.sequence:
        tables = [table for _, table in model.intake.tables(X, y, model.chunk)]
        cells = cells * model.intake.lengths(Table.concat(tables))
    return np.asarray(-log_prob(model, X, y, **options) / (math.log(2) * cells))


def energy(model: Core, X: Any) -> NDArray[Any]:
    """See `Model.energy`."""
    model.require("energy")
    parts = []
    for start, _, prepared in model.intake.prepared(X, None, model.chunk):
        if prepared.observed is not None and not bool(prepared.observed.all()):
            raise InvalidOption("energy: a row with missing cells has none; log_prob sums missing cells out")
        x = model.codec.noise(prepared.x, model.noise(0, "binarise", len(prepared), start))
        with torch.inference_mode():
            parts.append(model.network.energy(x.to(model.device)).double().cpu())  # type: ignore[operator]
    return torch.cat(parts).numpy()
