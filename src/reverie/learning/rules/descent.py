"""One set of parameters, one optimizer, one schedule: the only place where gradients change weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from reverie.learning.phases import State
from reverie.learning.run import Run

OptimizerName = Literal["adam", "adamw", "rmsprop", "sgd"]
ScheduleName = Literal["constant", "linear", "cosine"]


def schedule(name: ScheduleName, progress: float, *, warmup: float = 0.0) -> float:
    """Factor on the learning rate after `progress` (0..1) of the budget: linear warm-up, then constant, linear to 0 or
    cosine to 0."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    left = 1 - (progress - warmup) / max(1 - warmup, 1e-12)
    left = min(max(left, 0.0), 1.0)
    if name == "constant":
        return 1.0
    return left if name == "linear" else 0.5 * (1 - math.cos(math.pi * left))


class Descent:
    """Optimizer, clipping and schedule of one group of parameters; gradients are summed over processes here."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        run: Run,
        *,
        optimizer: OptimizerName = "adam",
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay: ScheduleName = "constant",
        warmup: float = 0.0,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self._run, self._lr, self._decay, self._warmup = run, lr, decay, warmup
        self.optimizer = _make(optimizer, self.parameters, lr, betas, momentum, weight_decay)

    def minimise(self, loss: Tensor) -> None:
        """One step down the gradient of this process's share of the global loss."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # An unused parameter gets zeros, so that every rank sends the same message.
            parameter.grad = torch.zeros_like(parameter) if gradient is None and self._run.world > 1 else gradient
        self._run.sum_all([p.grad for p in self.parameters if p.grad is not None])
        self._update()

    def apply(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """One step with hand-made gradients that already hold for the global batch; parameters without one stay."""
        for parameter in self.parameters:
            parameter.grad = gradients.get(parameter)
        self._update()

    def _update(self) -> None:
        if self._run.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self._run.clip)
        if self._decay != "constant" or self._warmup:
            factor = schedule(self._decay, self._run.progress, warmup=self._warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr * factor
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> State:
        packed = self.optimizer.state_dict()
        return {str(index): dict(slots) for index, slots in packed["state"].items()}

    def load_state(self, state: State) -> None:
        packed = self.optimizer.state_dict()
        packed["state"] = {int(index): dict(slots) for index, slots in state.items()}
        self.optimizer.load_state_dict(packed)


def _make(
    name: OptimizerName,
    parameters: list[nn.Parameter],
    lr: float,
    betas: tuple[float, float],
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    # Fused kernels: one call for all tensors instead of a dozen per tensor, on CPU too.
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    match name:
        case "adam":
            return torch.optim.Adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=lr, alpha=betas[1], momentum=momentum, weight_decay=weight_decay)
        case "sgd":
            return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
