"""Samples as a DataFrame, for notebooks and for the snapshots of a run: a row per step of a sequence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from reverie.data.cards import sample_frame, write_snapshot
from reverie.data.forms.reading import infer
from reverie.data.sources.load import sequences

LONG = pd.DataFrame({"m": [0, 0, 1], "v": [1.5, 2.5, 3.5]})


def model(X, schema=None):
    return SimpleNamespace(schema=schema or infer(X)[0], sample=lambda n, seed: X[:n])


@pytest.mark.parametrize(
    ("fake", "columns", "rows"),
    [
        (model([np.ones(2), np.zeros(1)]), ["sequence", "step", "x"], [[0, 0, 1], [0, 1, 1], [1, 0, 0]]),
        (
            model([torch.ones(1, 2), torch.ones(1, 2)]),
            ["sequence", "step", "x[0]", "x[1]"],
            [[0, 0, 1, 1], [1, 0, 1, 1]],
        ),
        (model([["a", "b"], ["c"]]), ["sequence", "step", "x"], [[0, 0, "a"], [0, 1, "b"], [1, 0, "c"]]),
        (model(["ab", "c"]), ["x"], [["ab"], ["c"]]),
        (model(LONG, sequences(LONG, by="m").schema), ["m", "v"], LONG.to_numpy().tolist()),
        (model(np.ones((2, 2))), [0, 1], [[1, 1], [1, 1]]),
    ],
    ids=["arrays", "tensors", "symbols", "texts", "long", "table"],
)
def test_samples_as_a_frame(fake, columns, rows, tmp_path):
    frame = sample_frame(fake, 16)
    assert list(frame.columns) == columns
    assert frame.to_numpy().tolist() == rows
    if len(columns) != 2 or columns[0] != 0:  # two plain columns of numbers are drawn instead
        assert write_snapshot(fake, tmp_path, 3).read_text().splitlines()[0] == ",".join(map(str, columns))
