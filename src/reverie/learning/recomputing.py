"""Activation checkpointing (Chen et al. 2016): layers forget what they computed and compute it again for the gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

_LEAST = 4
"""Layers that a sequence must have for forgetting between them to save memory."""


class _Forgetful:
    """The forward of a module that keeps its input only; of a sequence of n layers, the inputs of sqrt(n) stretches. Outside
    of training it is the plain forward."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        if not (module.training and torch.is_grad_enabled()):
            return type(module).forward(module, *args, **kwargs)
        if isinstance(module, nn.Sequential):
            (x,) = args
            assert isinstance(x, Tensor)
            pieces = round(math.sqrt(len(module)))
            return checkpoint_sequential(list(module), pieces, x, use_reentrant=False)  # type: ignore[no-untyped-call]
        return checkpoint(type(module).forward, module, *args, use_reentrant=False, **kwargs)


def recompute(network: nn.Module) -> None:
    """Make the blocks of every list of blocks, and the stretches of every long sequence of layers, recompute their
    activations: memory for these falls from all layers' to about sqrt(layers), for one more forward pass of time."""
    for child in network.children():
        if (isinstance(child, nn.Sequential) and len(child) >= _LEAST) or (
            isinstance(network, nn.ModuleList) and next(child.parameters(), None) is not None
        ):
            child.forward = _Forgetful(child)
        else:
            recompute(child)
