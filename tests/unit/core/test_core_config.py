"""Recipes: what is refused, what is taken as the number it is, JSON there and back."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from pydantic import Field

from reverie import config
from reverie.config import recipe
from reverie.errors import InvalidOption
from reverie.nn.specs import MLP, ConvNet, Network


@recipe
class Toy:
    """A recipe with an option of every sort."""

    size: int = Field(4, ge=1)
    """Whole number."""
    rate: float = Field(0.1, gt=0, lt=10)
    """Real number."""
    limit: float | None = None
    """A number or nothing."""
    name: str = "x"
    """Text."""
    flag: bool = False
    """Yes or no."""
    mode: Literal["a", "b"] = "a"
    """A choice."""
    either: int | Literal["auto"] = "auto"
    """A number or a word."""
    sizes: tuple[int, ...] = (1, 2)
    """Numbers."""
    network: Network = "auto"
    """A network."""


REFUSED = [
    ({"size": True}, r"size: expected a number, got True"),
    ({"size": "4"}, r"size: expected a number, got the text '4'"),
    ({"size": 2.5}, r"size: .*valid integer.*2\.5"),
    ({"size": 0}, r"size: .*greater than or equal to 1 \(got 0\)"),
    ({"size": None}, r"size: .*integer.*None"),
    ({"size": np.True_}, r"size: expected a number, got True"),
    ({"rate": False}, r"rate: expected a number, got False"),
    ({"rate": "fast"}, r"rate: expected a number, got the text 'fast'"),
    ({"rate": 0}, r"rate: .*greater than 0"),
    ({"rate": 10}, r"rate: .*less than 10"),
    ({"rate": math.nan}, r"rate: .*(greater|finite)"),
    ({"rate": math.inf}, r"rate: .*(less|finite)"),
    ({"limit": math.inf}, r"limit: .*finite"),
    ({"limit": math.nan}, r"limit: .*finite"),
    ({"limit": True}, r"limit: expected a number, got True"),
    ({"name": 3}, r"name: .*string"),
    ({"flag": 1}, r"flag: expected True or False, got 1"),
    ({"flag": "yes"}, r"flag: expected True or False, got 'yes'"),
    ({"flag": np.int64(1)}, r"flag: expected True or False, got 1"),
    ({"mode": "c"}, r"mode: .*'a' or 'b'"),
    ({"either": True}, r"either: expected a number"),
    ({"either": "never"}, r"either"),
    ({"sizes": (1, True)}, r"sizes: expected numbers"),
    ({"sizes": ("16",)}, r"sizes: expected numbers, got \('16',\)"),
    ({"sizes": (1.5,)}, r"sizes.*integer.*1\.5"),
    ({"sizes": "12"}, r"sizes: .*tuple"),
    ({"network": "mlpp"}, r"network: no network spec 'mlpp', did you mean 'mlp'\?"),
    ({"network": 3}, r"network: expected auto, mlp, conv.*got 3"),
    ({"network": {"hidden": [3]}}, r"needs a type: one of mlp, conv \(got None\)"),
    ({"network": {"type": "external", "class": "a.B"}}, r"class a\.B, which is not stored"),
    ({"network": {"type": "mlp", "hiden": [3]}}, r"hiden: no such option, did you mean 'hidden'\?"),
    ({"siz": 3}, r"Toy: siz: no such option, did you mean 'size'\? Options: size, rate"),
    ({"zzz": 3}, r"Toy: zzz: no such option\. Options: size"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refused(options, message):
    with pytest.raises(InvalidOption, match=message):
        Toy(**options)


def test_all_wrong_options_are_listed_one_a_line():
    with pytest.raises(InvalidOption) as caught:
        Toy(size=0, rate=-1.0)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Toy: size")
    assert lines[1].startswith("Toy: rate")


def test_options_go_by_name():
    with pytest.raises(InvalidOption, match=r"by name, as in Toy\(size=\.\.\.\)"):
        Toy(4)


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"size": np.int64(3)}, "size", 3),
        ({"size": np.array(3)}, "size", 3),
        ({"size": 3.0}, "size", 3),
        ({"rate": np.float32(0.5)}, "rate", 0.5),
        ({"rate": 1}, "rate", 1.0),
        ({"limit": None}, "limit", None),
        ({"flag": np.bool_(True)}, "flag", True),
        ({"either": 3}, "either", 3),
        ({"sizes": 7}, "sizes", (7,)),
        ({"sizes": [3, 4]}, "sizes", (3, 4)),
        ({"sizes": (np.int64(3), 4)}, "sizes", (3, 4)),
        ({"sizes": np.array([3, 4])}, "sizes", (3, 4)),
        ({"network": "mlp"}, "network", MLP()),
        ({"network": {"type": "conv", "channels": [4]}}, "network", ConvNet(channels=(4,))),
    ],
)
def test_taken(options, name, value):
    found = getattr(Toy(**options), name)
    assert found == value
    assert type(found) is type(value)


def test_frozen_and_comparable():
    toy = Toy(size=3)
    with pytest.raises(Exception, match=r"frozen|assign"):
        toy.size = 4
    assert toy == Toy(size=3)
    assert hash(Toy(size=3)) == hash(toy)
    assert toy != Toy(size=4)
    assert "size=3" in repr(toy)


def test_replace_validates_again_and_leaves_the_original():
    toy = Toy(size=3, rate=0.5)
    other = config.replace(toy, size=5)
    assert (other.size, other.rate, toy.size) == (5, 0.5, 3)
    with pytest.raises(InvalidOption, match="size"):
        config.replace(toy, size=0)
    with pytest.raises(InvalidOption, match="did you mean 'size'"):
        config.replace(toy, siez=1)


def test_json_there_and_back():
    toy = Toy(size=3, limit=2.5, sizes=(4, 5), network=ConvNet(channels=(3, 4), norm="group"))
    data = config.to_json(toy)
    assert data["network"].items() >= {"type": "conv", "channels": [3, 4], "norm": "group"}.items()
    assert config.from_json(Toy, data) == toy
    with pytest.raises(InvalidOption, match=r"Toy: expected an object with options, got \[1\]"):
        config.from_json(Toy, [1])
    with pytest.raises(InvalidOption, match="nonsense: no such option"):
        config.from_json(Toy, {**data, "nonsense": 1})


def test_a_module_is_named_and_not_stored():
    from torch import nn

    module = nn.Linear(2, 2)
    assert config.to_json(Toy(network=module))["network"] == {
        "type": "external",
        "class": "torch.nn.modules.linear.Linear",
    }


def test_a_preset_is_the_class():
    small = config.preset(Toy, size=2)
    assert type(small()) is Toy
    assert small(rate=0.3) == Toy(size=2, rate=0.3)
    assert small(size=9).size == 9


def test_descriptions_are_the_strings_under_the_fields():
    assert config.descriptions(Toy)["rate"] == "Real number."
    assert list(config.options(Toy))[:2] == ["size", "rate"]
