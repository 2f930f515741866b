"""Smooth increasing maps from a column's support onto the real line, in standard units: what model space sees of a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WarpKind = Literal["identity", "asinh", "log", "softplus", "probit", "logit"]

_LN2 = math.log(2)


@dataclass(frozen=True)
class Warp:
    """x = tail((g(v) - mean) / sd), where g maps the open interval (low, high) onto the real line.

    With r = v - low (high - v where `mirrored`, then g is negated) and u = (v - low) / (high - low), g is
      identity  v
      asinh     asinh((v - centre) / scale)              two heavy tails (Burbidge et al. 1988)
      log       log r                                    one heavy tail
      softplus  scale log(exp(r / scale) - 1)            r itself, but for what is close to the end
      probit    the standard normal quantile of u        uniform numbers become normal ones
      logit     log(u / (1 - u))
    and tail leaves |x| <= limit as it is and goes on as limit (1 + log(|x| / limit)), with a slope without a step, so that no
    number is out of reach of float32. Where v lies outside (low, high) it counts as the nearest number inside.
    """

    kind: WarpKind = "identity"
    low: float = -math.inf
    high: float = math.inf
    centre: float = 0.0
    scale: float = 1.0
    mirrored: bool = False
    mean: float = 0.0
    sd: float = 1.0
    limit: float = math.inf

    def forward(self, v: Tensor) -> Tensor:
        """Data -> model units."""
        return self._tail(((self._raw(self.inside(v)) - self.mean) / self.sd).clamp(-1e300, 1e300))

    def inverse(self, x: Tensor) -> Tensor:
        """Model -> data units; never outside the support."""
        if math.isfinite(self.limit):
            far = x.abs() > self.limit
            stretched = self.limit * torch.exp((x.abs() / self.limit - 1).clamp(0, 600))
            x = torch.where(far, torch.copysign(stretched, x), x)
        return self.inside(self._back(x * self.sd + self.mean))

    def log_slope(self, v: Tensor) -> Tensor:
        """log |dx / dv|, in nats."""
        v = self.inside(v)
        slope = self._log_slope(v) - math.log(self.sd)
        if math.isfinite(self.limit):
            plain = ((self._raw(v) - self.mean) / self.sd).abs().clamp_max(1e300)
            slope = slope - torch.where(plain > self.limit, torch.log(plain / self.limit), 0.0)
        return slope

    def inside(self, v: Tensor) -> Tensor:
        """The nearest number of the open support."""
        if math.isfinite(self.low):
            v = v.clamp_min(math.nextafter(self.low, math.inf) if self.low else 1e-300)
        if math.isfinite(self.high):
            v = v.clamp_max(math.nextafter(self.high, -math.inf) if self.high else -1e-300)
        return v

    def edges(self, x: Tensor, width: float, origin: float) -> tuple[Tensor, Tensor]:
        """Where in model units the cells of `width` data units around grid points x, one of which is `origin` in the data,
        begin and end; the cells at an end of the support are open."""
        v = origin + torch.round((self.inverse(x) - origin) / width) * width  # x may have been rounded
        lower, upper = v - width / 2, v + width / 2
        slack = 1e-6 * width
        return (
            torch.where(lower <= self.low + slack, -torch.inf, self.forward(lower)),
            torch.where(upper >= self.high - slack, torch.inf, self.forward(upper)),
        )

    def _tail(self, x: Tensor) -> Tensor:
        if not math.isfinite(self.limit):
            return x
        far = self.limit * (1 + torch.log((x.abs() / self.limit).clamp_min(1.0)))
        return torch.where(x.abs() > self.limit, torch.copysign(far, x), x)

    def _raw(self, v: Tensor) -> Tensor:
        if self.kind == "identity":
            return v
        if self.kind == "asinh":
            return torch.asinh((v - self.centre) / self.scale)
        if self.kind in ("probit", "logit"):
            u = (v - self.low) / (self.high - self.low)
            # From the nearer end, as 1 - u has no digits left close to 1.
            w = ((self.high - v) / (self.high - self.low)).clamp_min(1e-300)
            u = u.clamp_min(1e-300)
            if self.kind == "logit":
                return u.log() - w.log()
            return torch.where(u < 0.5, torch.special.ndtri(u), -torch.special.ndtri(w))
        r = self._distance(v)
        raw = torch.log(r) if self.kind == "log" else self.scale * _inverse_softplus(r / self.scale)
        return -raw if self.mirrored else raw

    def _back(self, raw: Tensor) -> Tensor:
        if self.kind == "identity":
            return raw
        if self.kind == "asinh":
            return self.centre + torch.sinh(raw.clamp(-700, 700)) * self.scale
        if self.kind in ("probit", "logit"):
            low, high = self.low, self.high
            share: Callable[[Tensor], Tensor] = torch.sigmoid if self.kind == "logit" else torch.special.ndtr
            return torch.where(raw < 0, low + (high - low) * share(raw), high - (high - low) * share(-raw))
        raw = -raw if self.mirrored else raw
        r = (
            raw.clamp(-700, 700).exp()
            if self.kind == "log"
            else self.scale * torch.logaddexp(raw / self.scale, torch.zeros_like(raw))
        )
        return self.high - r if self.mirrored else self.low + r

    def _log_slope(self, v: Tensor) -> Tensor:
        if self.kind == "identity":
            return torch.zeros_like(v)
        if self.kind == "asinh":
            z = ((v - self.centre) / self.scale).abs()
            # log sqrt(1 + z^2), without squaring what is huge
            return -math.log(self.scale) - torch.where(
                z > 1e100, z.log(), 0.5 * torch.log1p(z.clamp_max(1e100).square())
            )
        if self.kind == "probit":
            raw = self._raw(v)
            return 0.5 * raw.square() + 0.5 * math.log(2 * math.pi) - math.log(self.high - self.low)
        if self.kind == "logit":
            return math.log(self.high - self.low) - (v - self.low).log() - (self.high - v).log()
        r = self._distance(v)
        if self.kind == "log":
            return -r.log()
        return -torch.log(-torch.expm1(-r / self.scale))

    def _distance(self, v: Tensor) -> Tensor:
        return ((self.high - v) if self.mirrored else (v - self.low)).clamp_min(1e-300)

    def to_json(self) -> dict[str, Any]:
        """Every field that differs from its default."""
        plain = Warp()
        return {name: value for name, value in asdict(self).items() if value != getattr(plain, name)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Warp:
        return cls(**data)

    @property
    def formula(self) -> str:
        """How the map is told to a person."""
        if self.kind == "identity":
            return "as it is"
        if self.kind == "asinh":
            return f"asinh((x - {self.centre:.4g}) / {self.scale:.4g})"
        if self.kind in ("probit", "logit"):
            return f"{self.kind} of the place between {self.low:.6g} and {self.high:.6g}"
        distance = f"{self.high:.6g} - x" if self.mirrored else f"x - {self.low:.6g}" if self.low else "x"
        return f"log({distance})" if self.kind == "log" else f"softplus scale of {distance}"


def _inverse_softplus(z: Tensor) -> Tensor:
    """log(exp(z) - 1), z > 0, without overflow."""
    return torch.where(z > _LN2, z + torch.log(-torch.expm1(-z)), torch.log(torch.expm1(z.clamp_max(1.0))))


def on_arrays(function: Callable[[Tensor], Tensor], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A method of a warp on a numpy array; what is missing (NaN) stays so."""
    return function(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))).numpy()
