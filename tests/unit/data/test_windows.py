"""Windows of long sequences: none lost, the same number every pass, groups apart; and lines packed with several sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.data.batches import Batches
from reverie.data.codec.negotiate import fit_codec
from reverie.data.sources.load import as_dataset
from reverie.data.space import Ragged, Wants, Windows
from reverie.data.windows import Cutter
from reverie.errors import InvalidOption
from reverie.nn.sequences import packed, padded

TEXT = Wants(family="scribe", kinds=frozenset({"text", "sequence"}), symbols=True, boundary=True)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.integers(2, 20),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
def test_every_step_is_predicted_once_a_pass(lengths, own, overlap, seed):
    """A step is "fresh" in one window only, the first `overlap` of a window are those before it; no window is longer than
    asked, and every pass has equally many."""
    lengths = np.array(lengths)
    cutter = Cutter(lengths, Windows(own + overlap, overlap))
    rng = np.random.default_rng(seed)
    counts = set()
    for draw in (None, rng, rng):
        cut = cutter.cut(draw)
        counts.add(len(cut))
        fresh, values = [], torch.arange(int(lengths.sum()))[:, None]
        windows = cut.windows(values, torch.arange(len(cut)), cutter.longest)
        assert int(windows.lengths.max()) <= min(own + overlap, int(lengths.max())) == windows.longest
        begins = np.cumsum(lengths) - lengths
        for row, part, at in zip(
            cut.rows, windows.values[:, 0].split(windows.lengths.tolist()), cut.begins, strict=True
        ):
            assert part[0] == begins[row] + at
            assert part.tolist() == list(range(int(part[0]), int(part[0]) + len(part)))
            assert part[-1] < begins[row] + lengths[row]
            fresh += part.tolist() if at == 0 else part[overlap:].tolist()
        assert sorted(fresh) == list(range(int(lengths.sum())))
    assert len(counts) == 1


def test_a_pass_is_cut_elsewhere_than_the_one_before():
    cutter = Cutter(np.array([1000]), Windows(65, 1))
    rng = np.random.default_rng(0)
    assert len({int(cutter.cut(rng).lengths[0]) for _ in range(30)}) > 10


@pytest.mark.parametrize("shuffled", [True, False])
def test_mixed_windows_are_full_and_keep_groups_apart(shuffled):
    lengths, groups = np.array([5, 9, 4, 7, 6, 3]), np.array([0, 1, 0, 1, 0, 1])
    cutter = Cutter(lengths, Windows(6, mixed=True), groups=groups)
    cut = cutter.cut(np.random.default_rng(1) if shuffled else None)
    own = np.repeat(groups, lengths)
    seen = []
    for number in range(len(cut)):
        places = cut.places(torch.tensor([number])).numpy()
        assert len(set(own[places].tolist())) == 1
        seen += places.tolist()
    assert sorted(seen) == list(range(34))
    assert int((cut.lengths == 6).sum()) >= 3
    assert cut.windows(torch.arange(34)[:, None], torch.tensor([0]), 6).begins is None


def test_a_boundary_between_mixed_sequences_stands_once():
    data = as_dataset(["ab", "c", "ddd"])
    codec = fit_codec(data.schema, TEXT.__class__(**{**TEXT.__dict__, "windows": Windows(100, 1, mixed=True)}), data)
    made = Batches(data, codec, seed=0)
    assert made.n == 1
    batch = made.batch(made.slots(None)[0], made.order("p", 0, shuffle=False), None, torch.device("cpu"))
    edge = codec.space.boundary
    assert batch.x.values[:, 0].tolist() == [edge, 0, 1, edge, 2, edge, 3, 3, 3, edge]
    assert made._prepared.x.dtype == torch.uint8
    assert batch.x.dtype == torch.float32


def test_y_and_weight_go_with_every_window_of_a_sequence():
    X = [np.arange(t, dtype=float)[:, None] + 100 * i for i, t in enumerate([7, 2, 12])]
    data = as_dataset(X, ["u", "v", "w"])
    wants = Wants(
        family="f", kinds=frozenset({"sequence"}), discrete="round", density=False, windows=Windows(5, 1),
        conditions=frozenset({"labels"}),
    )  # fmt: skip
    codec = fit_codec(data.schema, wants, data)
    made = Batches(data, codec, seed=0)
    assert made.n == 2 + 1 + 3
    order = made.order("p", 3, shuffle=True)
    batch = made.batch(made.slots(None)[0], order, None, torch.device("cpu"))
    values = codec.decode(batch.x)["x"]
    for y, item, at in zip(batch.y, values, batch.x.begins, strict=True):
        value = round(float(item[0, 0]))
        assert int(y.argmax()) == value // 100
        assert value % 100 == int(at)


def test_windows_too_short_are_refused():
    with pytest.raises(InvalidOption, match="at least two of its own"):
        Windows(3, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 15))
def test_packed_lines_hold_every_step_and_keep_sequences_apart(lengths, width):
    n = sum(lengths)
    x = Ragged(torch.arange(float(n))[:, None], torch.tensor(lengths))
    lines = packed(x, width)
    assert lines.values.shape[1] == max(width, max(lengths))
    torch.testing.assert_close(lines.unpacked(lines.values), x.values)
    row, place = x.places
    assert torch.equal(lines.unpacked(lines.segment), row)
    assert torch.equal(lines.unpacked(lines.place), place)
    assert int((lines.segment >= 0).sum()) == n
    seen = lines.attends(causal=True)
    counts = lines.unpacked(seen.sum(2))
    assert torch.equal(counts, place + 1)  # itself and what came before it in its own sequence
    assert len(lines.values) <= len(lengths)
    steps = padded(x)
    assert torch.equal(steps.values[steps.mask], x.values)
