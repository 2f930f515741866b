"""Drawing examples."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.config import check_count, check_seed
from reverie.data.codec.sequences import SequenceCodec
from reverie.data.forms.conditions import label_lengths
from reverie.data.forms.reading import restore_table
from reverie.data.space import rows_of
from reverie.data.table import Table
from reverie.errors import InvalidOption
from reverie.model.core import Core, moved
from reverie.model.given import sample_given
from reverie.model.intake import one_hot
from reverie.rng import RowNoise, stream


def sample(
    model: Core,
    n: int,
    *,
    y: Any = None,
    seed: int | None = None,
    return_y: bool = False,
    length: int | None = None,
    given: Any = None,
    **options: Any,
) -> Any:
    """See `Model.sample`."""
    model.require("sample")
    check_count(n, "n")
    model.check_options("sample", options)
    seed = secrets.randbits(62) if seed is None else check_seed(seed)
    if given is not None and not (hasattr(given, "__len__") and len(given) == 0):
        if options or length is not None:
            extra = ", ".join([*options, *["length"] * (length is not None)])
            raise InvalidOption(f"{extra}: beside given there are no such options; leave them out")
        return sample_given(model, n, given, y, seed, return_y)
    if model.codec.space.sequence:
        return sample_sequences(model, n, y, seed, return_y, length, options)
    if length is not None:
        raise InvalidOption(f"length: this {model.family} learned rows, not sequences; leave length out")
    condition, user_y = model.intake.conditions(y, n, seed)
    tables = []
    for start in range(0, n, model.chunk):
        rows = min(model.chunk, n - start)
        part = moved(rows_of(condition, slice(start, start + rows)), model.device)
        with torch.inference_mode():
            x = model.network.sample(model.noise(seed, "sample", rows, start), part, **options)  # type: ignore[operator]
        tables.append(model.codec.decode(x))
    examples = restore_table(model.schema, Table.concat(tables))
    return (examples, user_y) if return_y else examples


def sample_sequences(
    model: Core, n: int, y: Any, seed: int, return_y: bool, length: int | None, options: dict[str, Any]
) -> Any:
    """`sample` for sequences; labels per step are drawn from the chain when y is not given."""
    codec, network = model.codec, model.network
    assert isinstance(codec, SequenceCodec)
    if length is not None:
        check_count(length, "length")
    condition, user_y = model.intake.conditions(y, n, seed)
    lengths: Tensor | None
    if condition is not None and model.intake.per_step:
        lengths = torch.from_numpy(label_lengths(model.schema, y, n))
        if length is not None:
            raise InvalidOption("length: y gives every sequence its length; leave length out")
    elif length is not None:
        lengths = torch.full((n,), length)
    elif codec.space.boundary is not None:
        lengths = None  # the network says where each ends
    else:
        lengths = codec.draw_lengths(RowNoise(stream(seed, "lengths"), n))
    starts = None if lengths is None else lengths.cumsum(0) - lengths
    tables, codes = [], []
    for start in range(0, n, model.chunk):
        rows = min(model.chunk, n - start)
        own = None if lengths is None else lengths[start : start + rows]
        noise = model.noise(seed, "sample", rows, start)
        part = condition
        if condition is not None and starts is not None and own is not None and model.intake.per_step:
            part = condition[starts[start] : starts[start] + own.sum()]
        elif condition is not None:
            part = rows_of(condition, slice(start, start + rows))
        with torch.inference_mode():
            if part is None and model.intake.per_step:
                drawn = network.draw_labels(model.noise(seed, "labels", rows, start), own)  # type: ignore[operator]
                codes.append(drawn.cpu().numpy())
                part = one_hot(drawn, codec.space.condition_width, codec.space.torch_dtype)
            x = network.sample(noise, moved(part, model.device), lengths=own, **options)  # type: ignore[operator]
        tables.append(codec.decode(x))
    examples = restore_table(model.schema, Table.concat(tables))
    if not return_y:
        return examples
    return (examples, model.intake.step_labels(tables, np.concatenate(codes)) if codes else user_y)
