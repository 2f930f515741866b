"""How the steps of gradient training are computed: number format, compiled networks, memory format, recomputed activations. Chosen
by the user, or measured on real steps of this very run, on this machine, under its present load."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.errors import InvalidOption
from reverie.learning.training import Training

_GAIN = 1.1
"""What must be won for a setting to be kept: less may be noise, and plain steps are easier to reason about."""
_AGREES = 0.02
"""Largest relative difference in loss, over the same steps on the same noise, at which a setting counts as the same."""
_SECONDS = 0.3
"""Seconds of steps that one timing takes, of which each setting has two."""
_SHARE = 0.02
"""Share of the run that measuring may take: shorter runs are not measured."""
_COMPILING = 40.0
"""Seconds that compiling may take before the first step; the rest of the run must be long enough for it to pay."""


@dataclass(frozen=True)
class Pace:
    """One way to compute steps."""

    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    channels_last: bool = False

    def apply(self, network: nn.Module) -> None:
        """Prepare a network for steps of this kind."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=layout)
        for part in network.children():
            part._compiled_call_impl = None
            if self.compile and next(part.parameters(), None) is not None:
                part.compile()

    @contextlib.contextmanager
    def plainly(self, network: nn.Module) -> Iterator[None]:
        """For as long as held-out rows are scored: networks compiled for training would be compiled anew for that."""
        parts = [(part, part._compiled_call_impl) for part in network.children()]
        for part, _ in parts:
            part._compiled_call_impl = None
        try:
            yield
        finally:
            for part, compiled in parts:
                part._compiled_call_impl = compiled

    def casting(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Within it matrix products and convolutions are of this precision, sums and losses float32."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def laid_out(self, x: Any) -> Any:
        """A batch of pictures in the memory format of the network."""
        pictures = self.channels_last and isinstance(x, Tensor) and x.ndim == 4
        return x.contiguous(memory_format=torch.channels_last) if pictures else x

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Measured:
    """What measuring found: the pace kept, seconds a step of every pace tried, and why others were not kept."""

    pace: Pace
    seconds: dict[str, float]
    refused: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"chosen": self.pace.to_json(), "seconds_per_step": self.seconds, "refused": self.refused}


def asked(training: Training) -> tuple[Pace, frozenset[str]]:
    """The pace that the options fix, and which of its parts are to be measured."""
    chosen: dict[str, Any] = {}
    free = set()
    for name in ("precision", "compile", "channels_last"):
        value = getattr(training, name) or ("auto" if training.speed == "auto" else None)
        if value == "auto":
            free.add(name)
        elif value is not None:
            chosen[name] = value if name == "precision" else value == "on"
    return Pace(**chosen), frozenset(free)


def has_bfloat16(device: torch.device) -> bool:
    """Does this device compute in bfloat16, instead of imitating it (2.5 to 3.4 times slower than float32)?"""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


Try = Callable[[Pace, int], tuple[float, float]]
"""(pace, steps) -> seconds a step and mean loss of that many real steps from where training stands, which are undone."""


def measure(
    fixed: Pace, free: frozenset[str], tried: Try, network: nn.Module, device: torch.device, left: float
) -> Measured:
    """Try what is free, one part after the other, and keep what makes steps faster by a tenth with the same loss. `left`:
    steps that remain, from which follows what measuring and compiling may cost."""
    seconds, base_loss = tried(fixed, 3)
    found = Measured(fixed, {_name(fixed): seconds}, {})
    steps = int(min(max(_SECONDS / max(seconds, 1e-6), 3), 50))
    if 8 * steps > _SHARE * left:
        found.refused["all"] = f"a run of {left:.0f} more steps is over before measuring pays"
        return found
    tries: tuple[tuple[str, Any], ...] = (("precision", "bfloat16"), ("channels_last", True), ("compile", True))
    for name, value in tries:
        if name not in free or (reason := _useless(name, network, device)):
            if name in free:
                found.refused[name] = reason
            continue
        if name == "compile" and left * found.seconds[_name(found.pace)] * (1 - 1 / _GAIN) < _COMPILING:
            found.refused[name] = "the run is over before compiling pays for its own start"
            continue
        other = replace(found.pace, **{name: value})
        try:
            tried(other, 2)
            timings = [(tried(pace, steps), pace) for pace in (found.pace, other, other, found.pace)]
        except (RuntimeError, NotImplementedError, TypeError) as problem:  # what torch raises where it cannot
            found.refused[name] = str(problem).strip().splitlines()[0][:200]
            continue
        was = median(t for (t, _), pace in timings if pace is not other)
        now = median(t for (t, _), pace in timings if pace is other)
        losses = [loss for (_, loss), pace in timings if pace is other]
        plain = [loss for (_, loss), pace in timings if pace is not other]
        found.seconds |= {_name(found.pace): was, _name(other): now}
        apart = abs(median(losses) - median(plain)) / max(abs(median(plain)), abs(base_loss), 1e-6)
        if not apart <= _AGREES:
            found.refused[name] = f"its loss differs by {apart:.1%}"
        elif was < _GAIN * now:
            found.refused[name] = f"{was / now:.2f} times as fast"
        else:
            found.pace = other
    return found


def _useless(name: str, network: nn.Module, device: torch.device) -> str:
    """Why a setting need not be tried here; empty when it may help."""
    if name == "precision" and not has_bfloat16(device):
        return "this processor has no bfloat16 units"
    if name == "channels_last" and not any(p.ndim == 4 for p in network.parameters()):
        return "no convolutions"
    if name == "compile" and not any(next(part.parameters(), None) is not None for part in network.children()):
        return "no parts to compile"
    return ""


def _name(pace: Pace) -> str:
    extras = [name for name in ("compile", "channels_last") if getattr(pace, name)]
    return "+".join([pace.precision, *extras])


class Stopwatch:
    """Notices that steps have become much slower or faster than when they were measured: other work came or went."""

    _EVERY, _CHANGE = 300.0, 1.5

    def __init__(self) -> None:
        self._since, self._steps, self._usual = time.perf_counter(), 0, 0.0

    def changed(self, steps: int) -> bool:
        """Called now and then with the updates made so far: has the time a step takes changed by half, over minutes?"""
        now = time.perf_counter()
        if now - self._since < self._EVERY or steps <= self._steps:
            return False
        recent = (now - self._since) / (steps - self._steps)
        usual, self._usual = self._usual, self._usual or recent
        self._since, self._steps = now, steps
        if not usual or 1 / self._CHANGE < recent / usual < self._CHANGE:
            return False
        self._usual = 0.0
        return True


def refuse(training: Training, phase: str) -> None:
    """Refuse options of gradient steps where the rule of a phase makes no such steps."""
    plain: dict[str, tuple[Any, ...]] = {
        "precision": (None, "float32"),
        "compile": (None, "off"),
        "channels_last": (None, "off"),
    }
    plain |= {"accumulation": (1,), "activation_checkpointing": (False,), "speed": ("plain",)}
    for name, values in plain.items():
        if getattr(training, name) not in values:
            raise InvalidOption(
                f"{name}: phase {phase!r} makes no steps down the gradient of a network's loss; leave {name} out"
            )
