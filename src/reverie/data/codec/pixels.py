"""The codec of images: levels of a pixel to bits, to dequantised reals, to a bounded grid, or to [-1, 1]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reverie.data.codec.condition import ConditionCodec
from reverie.data.codec.maps import Codec, Prepared, others, sample_weights
from reverie.data.space import Block, Space, Wants
from reverie.data.table import Table
from reverie.errors import UnsupportedData
from reverie.rng import Noise

if TYPE_CHECKING:
    from reverie.data.schema import Schema

_LOGIT_MARGIN = 0.05


class ImageCodec(Codec):
    """One image field. `mode` as in `Wants.images`; `levels` counts the grey levels of a pixel (0: continuous).

    native       x = 2 v / high - 1 on `levels` points (integer block), counting measure; bits when there are two levels
    dequantise   x = ((v + u) / levels - mean) / sd, lower bound for the counting measure
    logit        x = logit(m + (1 - 2m) (v + u) / levels), m = 0.05; lower bound likewise (Dinh et al. 2017, section 4.1)
    symmetric    x = 2 v / high - 1 (real block), no likelihood
    binary       x ~ Bernoulli(v / high), anew each time: the data change, and the measure says so
    threshold    x = [v / high > 1/2]
    """

    def __init__(
        self,
        schema: Schema,
        mode: str,
        *,
        levels: int,
        mean: float,
        sd: float,
        flat: bool,
        dtype: str,
        missing: bool,
        refuses_holes: str | None,
        condition: ConditionCodec | None,
    ) -> None:
        self.schema, self.mode, self.levels, self.condition = schema, mode, levels, condition
        self.mean, self.sd, self._flat, self._refuses_holes = mean, sd, flat, refuses_holes
        field = schema.data_fields[0]
        self.field, self._high = field, float(field.high if field.high is not None else 1.0)
        height, width, *channels = field.shape
        grid = (channels[0] if channels else 1, height, width)
        self._pixels = math.prod(grid)
        self._per_level = self._high / (levels - 1) if levels else 1.0
        self.noise_width = (
            self._pixels if mode in ("dequantise", "logit", "binary") and (levels or mode == "binary") else 0
        )
        self.space = Space(
            blocks=(self._block(),),
            shape=None if flat else grid,
            grid=grid,
            missing=missing,
            condition=condition.slot if condition else None,
            dtype=dtype,
        )

    def _block(self) -> Block:
        name, width = self.field.name, self._pixels
        if self.mode in ("binary", "threshold") or (self.mode == "native" and self.levels == 2):
            return Block(name, "binary", 0, width)
        if self.mode == "native" and self.levels:
            return Block(name, "integer", 0, width, step=(2 / (self.levels - 1),), low=-1.0, high=1.0)
        scale = self.sd * self.levels * self._per_level if self.mode == "dequantise" else self._high / 2
        bounded = (-1.0, 1.0) if self.mode in ("symmetric", "native") else (None, None)
        return Block(name, "real", 0, width, scale=(scale,) * width, low=bounded[0], high=bounded[1])

    @classmethod
    def fit(cls, schema: Schema, wants: Wants, sample: Table, condition: ConditionCodec | None) -> ImageCodec:
        field = schema.data_fields[0]
        if wants.images == "refuse":
            raise UnsupportedData(f"{wants.family} does not take images. Families that can: {others(schema, wants)}")
        values = sample.columns[field.name]
        high = float(field.high if field.high is not None else 1.0)
        floating = values.dtype.kind == "f"
        holes = bool(floating and np.isnan(values).any())
        if holes and wants.missing != "mask":
            raise UnsupportedData(
                f"images with missing pixels (NaN) are not for {wants.family}. Families that impute: "
                + others(schema, wants, verb="impute", holes=True)
            )
        levels = _float_levels(values, high) if floating else round(high) + 1
        mode = wants.images
        if mode in ("dequantise", "logit") and not levels:
            mode = "dequantise"  # continuous pixels need no noise and have no levels: an affine map
        unit = _unit(values, levels, high)
        return cls(
            schema,
            mode,
            levels=levels,
            mean=float(np.nanmean(unit)) if mode == "dequantise" else 0.0,
            sd=max(float(np.nanstd(unit)), 1e-3) if mode == "dequantise" else 1.0,
            flat=wants.flat,
            dtype=wants.dtype,
            missing=holes,
            refuses_holes=None if wants.missing == "mask" else wants.family,
            condition=condition,
        )

    @property
    def measure(self) -> str:
        if self.mode == "binary":
            return "counting (pixels binarised stochastically)"
        if self.mode == "threshold":
            return "counting (pixels binarised at one half)"
        return "counting" if self.levels else "Lebesgue"

    @property
    def lowers(self) -> bool:
        return self.mode in ("dequantise", "logit") and self.levels > 0

    def prepare(self, table: Table, *, holes: bool = False) -> Prepared:
        values = table.columns[self.field.name]
        values = values[:, None] if values.ndim == 3 else np.moveaxis(values, 3, 1)
        observed = None
        if values.dtype.kind == "f":
            seen = ~np.isnan(values)
            if not seen.all():
                if self._refuses_holes and not holes:
                    raise UnsupportedData(
                        f"images have missing pixels (NaN), which {self._refuses_holes} does not take"
                    )
                observed, values = torch.from_numpy(seen), np.nan_to_num(values)
        if values.dtype == np.uint16:
            values = values.astype(np.int32)
        x = torch.from_numpy(np.ascontiguousarray(values))
        pixels = self._pixels if observed is None else observed.flatten(1).sum(1).double()
        log_det = torch.zeros(table.n, dtype=torch.float64) + self._pixel_log_det() * pixels
        y = self.condition_of(table)
        if self._flat:
            x, observed = x.flatten(1), None if observed is None else observed.flatten(1)
        return Prepared(x, observed, y, sample_weights(self.schema, table), log_det)

    def _pixel_log_det(self) -> float:
        """log |dx / dv| per pixel, or log (cell width in x) for dequantised levels; constants only."""
        if self.mode == "dequantise":
            # levels: v has cells of one level; continuous: x = (v / high - mean) / sd
            return -math.log(self.sd * self.levels) if self.levels else -math.log(self.sd * self._high)
        if self.mode == "logit":
            return math.log1p(-2 * _LOGIT_MARGIN) - math.log(self.levels)
        if self.mode == "native" and not self.levels:
            return math.log(2 / self._high)
        return 0.0

    def middle(self, x: Tensor) -> Tensor:
        return x.to(self.space.torch_dtype) / self._high if self.mode == "binary" else super().middle(x)

    def noise(self, x: Tensor, noise: Noise) -> Tensor:
        v = x.to(self.space.torch_dtype)
        u = None
        if self.noise_width:
            u = noise.uniform(*x.shape[1:]).to(v.device, v.dtype)
        match self.mode:
            case "binary":
                assert u is not None
                return (u * self._high < v).to(v.dtype)
            case "threshold":
                return (v > 0.5 * self._high).to(v.dtype)
            case "native" if self.levels == 2:
                return v / self._high
            case "native" | "symmetric":
                return v * (2 / self._high) - 1
            case "logit":
                assert u is not None
                p = _LOGIT_MARGIN + (1 - 2 * _LOGIT_MARGIN) * (v / self._per_level + u) / self.levels
                return torch.log(p) - torch.log1p(-p)
        unit = v / self._high if u is None else (v / self._per_level + u) / self.levels
        return (unit - self.mean) / self.sd

    def batch_log_det(self, x: Tensor, observed: Tensor | None = None) -> Tensor | None:
        if self.mode != "logit":
            return None
        # d logit(p) / dp = 1 / (p (1 - p)) = e^x + 2 + e^-x
        return (torch.nn.functional.softplus(x) + torch.nn.functional.softplus(-x)).flatten(1).double().sum(1)

    def decode(self, x: Tensor, *, means: bool = False) -> Table:
        model = x.detach().to("cpu", torch.float64)
        match self.mode:
            case "binary" | "threshold":
                v = model * self._high
            case "native" if self.levels == 2:
                v = model * self._high
            case "native" | "symmetric":
                v = (model + 1) * (self._high / 2)
            case "logit":
                p = (torch.sigmoid(model) - _LOGIT_MARGIN) / (1 - 2 * _LOGIT_MARGIN)
                v = torch.floor(p * self.levels) * self._per_level
            case _:
                unit = model * self.sd + self.mean
                v = torch.floor(unit * self.levels) * self._per_level if self.levels else unit * self._high
        images = v.clamp(0.0, self._high).numpy().reshape(len(v), *(self.space.grid or ()))
        images = images[:, 0] if len(self.field.shape) == 2 else np.moveaxis(images, 1, 3)
        stored = _stored(self.field.dtype)
        if stored != "float32":
            images = np.round(images)
        return Table({self.field.name: images.astype(stored)}, len(v))

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "image",
            "mode": self.mode,
            "levels": self.levels,
            "mean": self.mean,
            "sd": self.sd,
            "flat": self._flat,
            "dtype": self.space.dtype,
            "missing": self.space.missing,
            "refuses_holes": self._refuses_holes,
            "condition": self.condition.to_json() if self.condition else None,
        }

    @classmethod
    def from_json(cls, schema: Schema, data: dict[str, Any], condition: ConditionCodec | None) -> ImageCodec:
        rest = {key: value for key, value in data.items() if key not in ("type", "mode", "condition")}
        return cls(schema, data["mode"], condition=condition, **rest)


def _stored(dtype: str) -> str:
    """The array type in which a Table keeps images that the user has as `dtype` (`torch.uint8`, `float64`, ...)."""
    name = dtype.removeprefix("torch.")
    return "float32" if "float" in name else "uint16" if name == "uint16" else "uint8"


def _float_levels(values: np.ndarray[Any, Any], high: float) -> int:
    """Grey levels of float images that came from integers (2, 17, 256 or 65,536 multiples of high / (levels - 1))."""
    flat = values.reshape(-1)[:: max(1, values.size // 100_000)].astype(np.float64)
    flat = flat[~np.isnan(flat)]
    for levels in (2, 17, 256):
        k = flat / high * (levels - 1)
        if np.abs(k - np.round(k)).max() < 1e-3:
            return levels
    return 0


def _unit(values: np.ndarray[Any, Any], levels: int, high: float) -> np.ndarray[Any, Any]:
    """Pixels on [0, 1], at the centre of their cell when they have levels; a sample of at most 10,000 images."""
    some = values[:: max(1, len(values) // 10_000)].astype(np.float64)
    return (some * ((levels - 1) / high) + 0.5) / levels if levels else some / high
