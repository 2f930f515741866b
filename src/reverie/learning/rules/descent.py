"""One set of parameters, one optimizer, one schedule: the only place where gradients change weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.learning.phases import State
from reverie.learning.run import Run

OptimizerName = Literal["adam", "adamw", "rmsprop", "sgd", "muon"]
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
    """Optimizer, clipping and schedule of one group of parameters; gradients are summed over processes here.

    "muon" moves matrices by their orthogonalised momentum (Jordan et al. 2024), scaled to steps of Adam's size so that one rate
    serves both (Liu et al. 2025, section 2.2), and the rest by AdamW: vectors, convolutions, and the matrices in `plain`
    (embeddings and output layers, whose rows are no directions of one space).
    """

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
        plain: Collection[nn.Parameter] = (),
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self._run, self._lr, self._decay, self._warmup = run, lr, decay, warmup
        apart = {id(parameter) for parameter in plain}
        matrices = [i for i, p in enumerate(self.parameters) if p.ndim == 2 and id(p) not in apart]
        others = [i for i in range(len(self.parameters)) if i not in set(matrices)]
        groups: list[tuple[OptimizerName, list[int]]] = [("muon", matrices), ("adamw", others)]
        if optimizer != "muon":
            groups = [(optimizer, list(range(len(self.parameters))))]
        groups = [(name, group) for name, group in groups if group or optimizer != "muon"]
        self._groups = [group for _, group in groups]
        self.optimizers = [
            _make(name, [self.parameters[i] for i in group], lr, betas, momentum, weight_decay)
            for name, group in groups
        ]

    def minimise(self, loss: Tensor) -> None:
        """One step down the gradient of this process's share of the global loss."""
        self.add(loss)
        self.step()

    def add(self, loss: Tensor) -> None:
        """Add the gradient of a part of this process's share of the global loss."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)  # fused kernels take it for granted
            if parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None:
                parameter.grad += gradient

    def step(self) -> None:
        """One step down the gradients added since the last one, summed over processes."""
        if self._run.world > 1:
            for parameter in self.parameters:
                if parameter.grad is None:  # zeros, so that every rank sends the same message
                    parameter.grad = torch.zeros_like(parameter)
        self._run.sum_all([p.grad for p in self.parameters if p.grad is not None])
        self._update()

    def apply(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """One step with hand-made gradients that already hold for the global batch; parameters without one stay."""
        for parameter in self.parameters:
            parameter.grad = gradients.get(parameter)
        self._update()

    def _update(self) -> None:
        run = self._run
        if run.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, run.clip)
        elif run.observing:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if run.observing:
            run.gradient_norm = norm if run.gradient_norm is None else torch.maximum(run.gradient_norm, norm)
        if self._decay != "constant" or self._warmup or self._run.lr_scale is not None:
            factor = self._run.lr_scale or schedule(self._decay, self._run.progress, warmup=self._warmup)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self._lr * factor
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state(self) -> State:
        """What the optimizers keep of each parameter, by its number."""
        return {
            str(group[index]): dict(slots)
            for optimizer, group in zip(self.optimizers, self._groups, strict=True)
            for index, slots in optimizer.state_dict()["state"].items()
        }

    def load_state(self, state: State) -> None:
        for optimizer, group in zip(self.optimizers, self._groups, strict=True):
            packed = optimizer.state_dict()
            packed["state"] = {
                index: {name: _like(value, self.parameters[number]) for name, value in state[str(number)].items()}
                for index, number in enumerate(group)
                if str(number) in state
            }
            optimizer.load_state_dict(packed)


def _like(value: Any, parameter: nn.Parameter) -> Any:
    """Saved moments in the memory format of their parameter, which fused kernels take for granted."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


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
        case "muon":
            return torch.optim.Muon(parameters, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
