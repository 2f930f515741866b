"""Filling missing cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.config import check_count, check_seed
from reverie.data.forms.reading import restore_table
from reverie.data.table import Table
from reverie.errors import InvalidOption
from reverie.model.core import Core, moved
from reverie.rng import Chosen, LatticeNoise, Noise


def impute(model: Core, X: Any, y: Any = None, *, n_draws: int | None = None, seed: int = 0) -> Any:
    """See `Model.impute`."""
    model.require("impute")
    seed = check_seed(seed)
    if n_draws is not None:
        check_count(n_draws, "n_draws")
    alone = getattr(model.network, "marginalises", False)
    if model.codec.condition is not None and y is None and not alone:
        raise InvalidOption("y: this model was trained with y: pass y, on which what is missing depends")
    results = [impute_once(model, X, y, None if n_draws is None else draw, seed) for draw in range(n_draws or 1)]
    return results if n_draws is not None else results[0]


def impute_once(model: Core, X: Any, y: Any, draw: int | None, seed: int) -> Any:
    """X with one completion: draw number `draw`, or the best guess for None."""
    tables = model.intake.tables(X, y, model.chunk, filling=True)
    return restore_table(model.schema, completions(model, tables, y is not None, draw, seed))


def completions(
    model: Core, tables: Iterable[tuple[int, Table]], with_y: bool, draw: int | None, seed: int, name: str = "impute"
) -> Table:
    """The rows of these tables, each after the number of its first row, with what they miss filled in; `name` is that of the
    noise."""
    out = []
    for start, raw in tables:
        prepared = model.intake.prepare(raw, with_y, holes=True)
        middle = draw is None and model.codec.lowers  # best guesses start from the middle of every cell
        within: Noise = model.noise(seed, f"{name} noise", len(prepared), start)
        x = model.codec.noise(prepared.x, LatticeNoise(len(prepared), 0, 1) if middle else within)
        observed = prepared.observed
        if observed is not None:
            x, observed, condition = x.to(model.device), observed.to(model.device), moved(prepared.y, model.device)
            chains = getattr(model.network, "mean_chains", 1) if draw is None else 1
            names = [f"{name} {draw}", *(f"{name} {draw}, chain {chain}" for chain in range(1, chains))]
            noises = [model.noise(seed, stream_name, len(prepared), start) for stream_name in names]
            with torch.inference_mode():
                x = completed(model, x, observed, condition, noises, mean=draw is None)
        made = model.codec.decode(x, means=draw is None)
        out.append(model.schema.fill(raw, model.codec.reconcile(raw, made)))
    return Table.concat(out)


def completed(model: Core, x: Any, observed: Tensor, y: Tensor | None, noises: Sequence[Noise], *, mean: bool) -> Any:
    """x with the mean over the noises of what the network puts in for cells that are not observed; where rows are
    tensors, those without such cells are left alone."""
    conditional: Any = model.network.conditional
    holed = None if not isinstance(x, Tensor) else (~observed).flatten(1).any(1).nonzero()[:, 0]
    if holed is not None and len(holed) < len(x):
        if not len(holed):
            return x
        rows, seen, own = x[holed], observed[holed], None if y is None else y[holed]
        found = completed(model, rows, seen, own, [Chosen(noise, holed) for noise in noises], mean=mean)
        return x.index_copy(0, holed, found.to(x.dtype))
    runs = [conditional(x, observed, y, noise, mean=mean) for noise in noises]
    return runs[0] if len(runs) == 1 else torch.where(observed, x, torch.stack(runs).mean(0))
