"""Specs of networks (`MLP`, `ConvNet`), a user's own module in their place, and `build`, which makes the module.

Every network here maps an input of `in_shape` (and the condition vector y when there is one) to `out_shape`:
`module(x)` without a condition, `module(x, y)` with one.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PlainValidator
from torch import Tensor, nn

from reverie.config import from_json, recipe
from reverie.errors import InvalidOption, did_you_mean

Activation = Literal["relu", "leaky_relu", "tanh", "gelu", "silu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation(name: str) -> nn.Module:
    """The layer of that name; leaky_relu has slope 0.2, as GAN papers use it."""
    return nn.LeakyReLU(0.2) if name == "leaky_relu" else _ACTIVATIONS[name]()


@recipe
class MLP:
    """Fully connected layers; images are flattened."""

    type: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (256, 256)
    """Units of each hidden layer."""
    activation: Activation = "silu"
    """Nonlinearity after each hidden layer."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of hidden units dropped in training."""


@recipe
class ConvNet:
    """Strided convolutions that halve the picture once per entry of `channels` (or double it, when generating)."""

    type: Literal["conv"] = "conv"
    channels: tuple[Annotated[int, Field(ge=1)], ...] = (16, 32)
    """Channels at each resolution, from the picture's down."""
    kernel: Literal[3, 4, 5] = 5
    """Side of the filters that look at the picture; generating uses 4 (3 where a side is odd)."""
    hidden: int = Field(default=256, ge=0)
    """Units of the fully connected layer between the convolutions and the vector; 0 for none."""
    activation: Activation = "silu"
    """Nonlinearity after each convolution."""
    norm: Literal["none", "group"] = "none"
    """Group normalisation after each hidden convolution, or none. Batch statistics are not offered: they would tie
    rows, processes and chunks together."""


SPECS: dict[str, type[MLP] | type[ConvNet]] = {"mlp": MLP, "conv": ConvNet}


def _parse(value: Any) -> Any:
    """What a user may give for a network: "auto", a spec, its name or JSON, or a module."""
    if isinstance(value, MLP | ConvNet | nn.Module) or value == "auto":
        return value
    names = ["auto", *SPECS]
    if isinstance(value, str):
        if value in SPECS:
            return SPECS[value]()
        raise ValueError(
            f"no network spec {value!r}{did_you_mean(value, names) or '.'} Give {', '.join(names)} or a module"
        )
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind == "external":
            raise ValueError(
                f"this model was made with a network of class {value.get('class')}, which is not stored: pass it, as "
                "in reverie.load(path, network=MyNet())"
            )
        if kind in SPECS:
            return from_json(SPECS[kind], value)
        raise ValueError(f"a network's JSON needs a type: one of {', '.join(SPECS)} (got {kind!r})")
    raise ValueError(f"expected {', '.join(names)}, MLP(...), ConvNet(...) or a torch module, got {value!r}")


Network = Annotated[Literal["auto"] | MLP | ConvNet | nn.Module, PlainValidator(_parse)]
"""The type of a recipe's network field."""


def resolve(spec: Any, space_shape: tuple[int, ...] | None, *, mlp: MLP, conv: ConvNet) -> Any:
    """ "auto" -> `conv` when there is a picture of at least 16 pixels a side, else `mlp`; anything else as it is."""
    if spec != "auto":
        return spec
    return conv if space_shape is not None and min(space_shape[1:]) >= 16 else mlp


def build(
    spec: MLP | ConvNet | nn.Module, in_shape: tuple[int, ...], out_shape: tuple[int, ...], condition: int = 0
) -> nn.Module:
    """The module for a spec; a user's module is copied and probed. Raises `InvalidOption` when shapes do not fit."""
    if isinstance(spec, MLP):
        return Dense(spec, in_shape, out_shape, condition)
    if isinstance(spec, ConvNet):
        if len(in_shape) == 3 and len(out_shape) == 1:
            return ConvDown(spec, in_shape, out_shape[0], condition)
        if len(in_shape) == 1 and len(out_shape) == 3:
            return ConvUp(spec, in_shape[0], out_shape, condition)
        raise InvalidOption(
            f"ConvNet needs pictures: here it would map {in_shape} to {out_shape}; use MLP(...) for tables"
        )
    module = copy.deepcopy(spec)
    probe(module, in_shape, out_shape, condition)
    return module


def probe(module: nn.Module, in_shape: tuple[int, ...], out_shape: tuple[int, ...], condition: int = 0) -> None:
    """Run two rows of zeros through a user's module and check what comes out."""
    name = type(module).__name__
    wanted = f"{name} must map (n, {', '.join(map(str, in_shape))})"
    wanted += f" and y of shape (n, {condition})" if condition else ""
    wanted += f" to (n, {', '.join(map(str, out_shape))})"
    inputs = [torch.zeros(2, *in_shape)] + ([torch.zeros(2, condition)] if condition else [])
    training = module.training
    try:
        with torch.no_grad():
            out = module.eval()(*inputs)
    except Exception as error:
        raise InvalidOption(f"{wanted}; it failed with {type(error).__name__}: {error}") from error
    finally:
        module.train(training)
    if not isinstance(out, Tensor) or tuple(out.shape) != (2, *out_shape):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InvalidOption(f"{wanted}; for 2 rows it returned {got}")


class Dense(nn.Module):
    """Linear layers with activations between them; y is appended to the flattened input."""

    def __init__(self, spec: MLP, in_shape: tuple[int, ...], out_shape: tuple[int, ...], condition: int) -> None:
        super().__init__()
        self.out_shape = out_shape
        widths = [_size(in_shape) + condition, *spec.hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), activation(spec.activation)]
            layers += [nn.Dropout(spec.dropout)] if spec.dropout else []
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], _size(out_shape)))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        out: Tensor = self.layers(x if y is None else torch.cat([x, y], 1))
        return out if len(self.out_shape) == 1 else out.view(-1, *self.out_shape)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _sizes(side: int, halvings: int) -> list[int]:
    """The side at each resolution, rounding up: 28 -> 28, 14, 7."""
    sides = [side]
    for _ in range(halvings):
        sides.append((sides[-1] + 1) // 2)
    return sides


def _norm(spec: ConvNet, channels: int) -> list[nn.Module]:
    if spec.norm == "none":
        return []
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
    return [nn.GroupNorm(groups, channels)]


class ConvDown(nn.Module):
    """Picture -> vector f(x) -> out. With y: A f(x) + sum_k y_k B_k f(x), the projection of Miyato & Koyama (2018)."""

    def __init__(self, spec: ConvNet, in_shape: tuple[int, ...], out: int, condition: int) -> None:
        super().__init__()
        before, *sides = in_shape
        layers: list[nn.Module] = []
        padding = 1 if spec.kernel == 4 else spec.kernel // 2
        for after in spec.channels:
            layers += [nn.Conv2d(before, after, spec.kernel, stride=2, padding=padding)]
            layers += [*_norm(spec, after), activation(spec.activation)]
            before, sides = after, [(side + 2 * padding - spec.kernel) // 2 + 1 for side in sides]
        if min(sides) < 1:
            raise InvalidOption(
                f"ConvNet: pictures of {in_shape[1]}x{in_shape[2]} cannot be halved {len(spec.channels)} times"
            )
        width = before * sides[0] * sides[1]
        if spec.hidden:
            layers += [nn.Flatten(), nn.Linear(width, spec.hidden), activation(spec.activation)]
            width = spec.hidden
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(width, out)
        self.by_condition = nn.Linear(width, out * condition) if condition else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        features = self.features(x)
        result: Tensor = self.head(features)
        if y is not None and self.by_condition is not None:
            terms: Tensor = self.by_condition(features).view(len(x), -1, y.shape[1])
            result = result + (terms * y[:, None, :]).sum(2)
        return result


class ConvUp(nn.Module):
    """Vector -> picture, by transposed convolutions from the smallest resolution up; y is appended to the vector."""

    def __init__(self, spec: ConvNet, in_width: int, out_shape: tuple[int, ...], condition: int) -> None:
        super().__init__()
        channels, height, width = out_shape
        depth = len(spec.channels)
        heights, widths = _sizes(height, depth), _sizes(width, depth)
        self._start = (spec.channels[-1], heights[-1], widths[-1])
        layers: list[nn.Module] = []
        for level in range(depth - 1, -1, -1):
            before = spec.channels[level]
            after = spec.channels[level - 1] if level else channels
            # Transposed convolution of stride 2: kernel 4 doubles a side, kernel 3 gives one less.
            kernel = (4 - (heights[level] % 2), 4 - (widths[level] % 2))
            layers.append(nn.ConvTranspose2d(before, after, kernel, stride=2, padding=1))
            if level:
                layers += [*_norm(spec, after), activation(spec.activation)]
        wide = in_width + condition
        first: list[nn.Module] = [nn.Linear(wide, _size(self._start))]
        if spec.hidden:
            first = [
                nn.Linear(wide, spec.hidden),
                activation(spec.activation),
                nn.Linear(spec.hidden, _size(self._start)),
            ]
        self.first = nn.Sequential(*first)
        self.layers = nn.Sequential(activation(spec.activation), *layers)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.first(x if y is None else torch.cat([x, y], 1)).view(-1, *self._start)
        out: Tensor = self.layers(x)
        return out
