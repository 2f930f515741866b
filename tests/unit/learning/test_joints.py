"""The joints of the house, each proved by a throwaway family: fitted, sampled, saved, loaded, killed and resumed, and trained by
two processes as by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import runs
import torch
import torch.nn.functional as F

import joints
import reverie as rv
from reverie.data.codec.negotiate import codec_from_json, fit_codec
from reverie.data.dataset import Dataset
from reverie.data.sources.load import as_dataset
from reverie.data.space import Block, Condition, Space
from reverie.errors import DataError, Interrupted, SchemaMismatch, UnsupportedData
from reverie.nn.conditioning import Conditioner


@pytest.fixture(autouse=True)
def _guided(guided_family: str) -> None:
    """The throwaway family is in the catalog."""


def pictures(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy bright columns at a random place: (n, 8, 8) uint8, and where they are."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 8, n)
    X = rng.integers(0, 60, (n, 8, 8)).astype(np.uint8)
    X[np.arange(n), :, place] = 230
    return X, place


def case(name: str, n: int = 200) -> Dataset:
    """Examples whose x follows from y: the same picture dark on bright and half as large, a caption, or two columns."""
    X, place = pictures(n)
    if name == "picture to picture":
        return as_dataset(255 - X, X[:, ::2, ::2])
    if name == "text to picture":
        return as_dataset(X, ["a bar at " + "i" * int(p) + "." for p in place], kinds={"y": "text"})
    if name == "sequence to row":
        rng = np.random.default_rng(1)
        y = [rng.normal(loc=p, size=(int(rng.integers(2, 6)), 2)) for p in place]
        return as_dataset(np.array([[item.mean(), item.max()] for item in y]), y)
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"sex": np.where(place > 3, "F", "M"), "age": rng.normal(40, 9, n)})
    frame["height"] = np.where(frame["sex"] == "F", 165.0, 178.0) + rng.normal(size=n)
    frame["pay"] = frame["age"] * 2 + rng.normal(size=n)
    return as_dataset(frame, ["sex", "age"])


CASES = ["picture to picture", "text to picture", "sequence to row", "class and number to row"]


@pytest.mark.parametrize("name", CASES)
def test_fit_sample_save_load(name: str, tmp_path: Path) -> None:
    data = case(name)
    model = joints.Guided().fit(data, epochs=2)
    made, y = model.sample(7, seed=3, return_y=True)
    assert len(made) == len(y) == 7
    pd.testing.assert_frame_equal(
        pd.DataFrame({"x": flat(made)}), pd.DataFrame({"x": flat(model.sample(7, y=y, seed=3))})
    )
    again = rv.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(flat(made), flat(again.sample(7, seed=3)))
    np.testing.assert_array_equal(flat(model.sample(9, y=y[:1], seed=1)[:5]), flat(model.sample(5, y=y[:1], seed=1)))
    assert not np.array_equal(flat(made), flat(model.sample(7, seed=3, guidance=2.0)))


def flat(examples: Any) -> np.ndarray:
    return np.asarray(examples, dtype=np.float64).reshape(-1)


def test_samples_follow_their_condition() -> None:
    """A row drawn for y has mean E[x | y]: 1000 draws, each of spread below 3, so within 0.5 (5 standard errors) of it, but
    for what a net of one layer makes of it."""
    data = case("class and number to row", 1500)
    model = joints.Guided(drop=0.2).fit(data, epochs=60)
    for sex, height in (("F", 165.0), ("M", 178.0)):
        made = model.sample(1000, y={"sex": sex, "age": 50.0}, seed=0)
        assert abs(made["height"].mean() - height) < 1.0
        assert abs(made["pay"].mean() - 100.0) < 3.0
    strong = model.sample(1000, y={"sex": "F", "age": 50.0}, seed=0, guidance=2.0)
    assert strong["height"].mean() < 163.0  # further from the mean of all, about 172, than the mean of women is


def test_without_y_it_is_drawn_as_in_training() -> None:
    """Rows of y are drawn from those of training: their share of women is one of 200 rows' within 5 sd of 1000 draws."""
    data = case("class and number to row")
    _, y = joints.Guided().fit(data, epochs=1).sample(1000, seed=0, return_y=True)
    share = float((data.y["sex"] == "F").mean())
    assert abs(float((y["sex"] == "F").mean()) - share) < 5 * (share * (1 - share) / 1000) ** 0.5
    known = set(zip(data.y["sex"], data.y["age"], strict=True))
    assert set(zip(y["sex"], y["age"], strict=True)) <= known


@pytest.mark.parametrize("name", CASES)
def test_stopped_at_every_batch_resumes_bitwise(name: str, tmp_path: Path) -> None:
    data, options = case(name, 90), {"epochs": 2, "batch_size": 32, "ema": 0.9}
    joints.Guided().fit(data, out=str(tmp_path / "whole"), **options)
    want = runs.train_state(tmp_path / "whole")
    for step in range(1, want["at"]["total"]):
        out = tmp_path / f"stopped-{step}"
        with pytest.raises(Interrupted), runs.stop_after(step):
            joints.Guided().fit(data, out=str(out), **options)
        rv.resume(out, data)
        assert runs.differences(want, runs.train_state(out)) == []


@pytest.mark.parametrize("name", CASES[:2])
def test_two_processes_equal_one(name: str) -> None:
    data = case(name, 101)
    one = joints.Guided().fit(data, epochs=1, batch_size=50)
    two = joints.Guided().fit(data, epochs=1, batch_size=50, devices=2)
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (3, 11), (16, 16)])
def test_a_picture_becomes_a_map_of_any_size(size: tuple[int, int]) -> None:
    """And a row without its y gets the same learned feature everywhere, in every form."""
    slot = Condition("picture", 64, Space((Block("y", "real", 0, 64),), shape=(1, 8, 8)))
    reader = Conditioner(slot, 6)
    torch.nn.init.normal_(reader.absent)
    y, given = torch.randn(3, 1, 8, 8), torch.tensor([True, False, True])
    found = reader.map(y, size, given)
    assert found.shape == (3, 6, *size)
    torch.testing.assert_close(found[1], reader.absent[:, None, None].expand(6, *size))
    torch.testing.assert_close(found[0], reader.map(y, size)[0])
    torch.testing.assert_close(reader.vector(y, given)[1], reader.absent)
    steps = reader.steps(y, given)
    assert steps.mask.sum(1).tolist() == [64, 1, 64]
    torch.testing.assert_close(steps.values[1, 0], reader.absent)


def test_what_a_family_of_doubles_sees_of_y_is_double() -> None:
    data = case("class and number to row", 40)
    codec = fit_codec(data.schema, replace(joints.Guided().wants(data.schema), dtype="float64"), data)
    assert codec.encode_condition(data.whole()).dtype == torch.float64
    again = codec_from_json(data.schema, codec.to_json())
    assert torch.equal(again.encode_condition(data.whole()), codec.encode_condition(data.whole()))


def test_wrong_conditions_say_what_to_do() -> None:
    columns = joints.Guided().fit(case("class and number to row", 40), epochs=1)
    for y, words in [
        ({"sex": "F"}, "lacks 'age'"),
        ({"sex": "F", "age": 1.0, "x": 2}, "no column 'x'"),
        ({"sex": "Q", "age": 1.0}, "no class 'Q'"),
        ("F", "give y={'sex'"),
        ({"sex": ["F", "M"], "age": 1.0}, "2 rows where 3"),
    ]:
        with pytest.raises(SchemaMismatch, match=words):
            columns.sample(3, y=y)
    captions = joints.Guided().fit(case("text to picture", 40), epochs=1)
    with pytest.raises(SchemaMismatch, match="'Z' does not occur"):
        captions.sample(2, y="a bar at Z")
    with pytest.raises(SchemaMismatch, match="text is wanted"):
        captions.sample(2, y=[3, 4])
    drawn = joints.Guided().fit(case("picture to picture", 40), epochs=1)
    with pytest.raises(SchemaMismatch, match="shape"):
        drawn.sample(2, y=np.zeros((2, 5, 5), np.uint8))
    with pytest.raises(DataError, match=r"y has 3 rows and X has 4|3 rows"):
        as_dataset(np.zeros((4, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(UnsupportedData, match=r"picture condition.*guided"):
        rv.RBM().fit(np.ones((4, 8, 8), bool), np.zeros((4, 8, 8), np.uint8))


def test_a_map_of_pictures_that_are_not_square_fits_either_side():
    """Smaller pictures are enlarged; one that is larger in either direction is averaged down."""
    slot = Condition("picture", 24, Space((Block("y", "real", 0, 24),), shape=(1, 6, 4)))
    conditioner = Conditioner(slot, 5, channels=4)
    y = torch.rand(3, 1, 6, 4, generator=torch.Generator().manual_seed(0))
    own = conditioner.reader(y)
    height, width = own.shape[2:]
    for size, resize in [
        ((height + 4, width + 1), lambda f, to: F.interpolate(f, to, mode="bilinear", align_corners=False)),
        ((height - 1, width + 3), F.adaptive_avg_pool2d),
        ((height + 3, width - 1), F.adaptive_avg_pool2d),
        ((height, width), lambda f, to: f),
    ]:
        torch.testing.assert_close(conditioner.map(y, size), resize(own, size))
