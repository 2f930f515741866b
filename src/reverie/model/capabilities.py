"""Which verbs a network gives its model: read off the methods of its class."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

NEEDS: dict[str, tuple[str, ...]] = {
    "sample": ("sample",),
    "log_prob": ("log_prob",),
    "encode": ("encode",),
    "decode": ("decode",),
    "reconstruct": ("encode", "decode"),
    "interpolate": ("encode", "decode", "blend"),
    "impute": ("conditional",),
    "energy": ("energy",),
    "predict": ("classify",),
    "predict_proba": ("classify",),
}
"""Verb -> the methods a network's class must have for it."""


def discover(network_type: type[nn.Module]) -> frozenset[str]:
    """The verbs a network class supports, from its methods (never from its attributes or submodules)."""
    return frozenset(
        verb
        for verb, methods in NEEDS.items()
        if all(callable(getattr(network_type, method, None)) for method in methods)
    )


def keyword_options(method: Any) -> dict[str, Any]:
    """The keyword-only parameters of a network's method, with their defaults: the options a user may give."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
