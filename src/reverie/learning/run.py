"""The one place that knows devices and processes: sums over ranks, decisions by rank 0, training noise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reverie.errors import InvalidOption
from reverie.learning.pace import Pace
from reverie.rng import StreamNoise, generator

_TIMEOUT = timedelta(minutes=10)


class Run:
    """Device, processes and randomness of one training run.

    One process: rank 0 of world 1, and every collective is the identity. `generator` gives the training noise; it is
    the same on all ranks, each of which draws the global batch's noise and keeps its rows.
    """

    def __init__(
        self,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        clip: float | None = None,
        accumulation: int = 1,
    ) -> None:
        self.seed, self.device, self.rank, self.world, self.clip = seed, device, rank, world, clip
        self.generator = generator(seed, "training", device=device)
        self.progress = 0.0
        """Fraction of the phase's budget that is spent, for schedules."""
        self.pace = Pace()
        """How gradient steps are computed."""
        self.accumulation = accumulation
        """Parts of a batch that are computed one after the other."""
        self.observing = False
        """This step is looked at: descents note the norm of their gradient."""
        self.gradient_norm: Tensor | None = None
        """The largest norm of a gradient in this step, where it was observed."""
        self.lr_scale: float | None = None
        """Every learning rate as a multiple of its highest, whatever the schedule says, for probing."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def noise(self, rows: int, dtype: torch.dtype = torch.float32) -> StreamNoise:
        """The noise of a global batch of `rows` rows, of which this process keeps its own."""
        return StreamNoise(self.generator, rows, rank=self.rank, world=self.world, dtype=dtype)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum_all(self, tensors: Sequence[Tensor]) -> None:
        """Sum many tensors over processes in one message per type, in place."""
        if self.world == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for group in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            parts = torch.split(flat, [t.numel() for t in group])
            for tensor, part in zip(group, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value of a small Python object, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def own_rows(self, rows: Tensor) -> Tensor:
        """This process's share of global rows: `rank::world`."""
        return rows if self.world == 1 else rows[self.rank :: self.world].clone()

    def gather_rows(self, own: Tensor, total: int) -> Tensor:
        """Inverse of `own_rows`: all processes' rows in global order, on every rank."""
        if self.world == 1:
            return own
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, own.cpu())
        out = own.new_empty(total, *own.shape[1:])
        for rank, part in enumerate(parts):
            out[rank :: self.world] = part.to(own.device)
        return out

    def gather_ranks(self, own: Tensor) -> Tensor:
        """Every process's tensor, stacked in order of rank: what partial sums need to go on exactly."""
        if self.world == 1:
            return own[None].clone()
        parts = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)


def pick_device(name: str, rank: int = 0) -> torch.device:
    """The device of that name; "auto" takes CUDA when present. Raises `InvalidOption` when it is not there."""
    if name == "auto":
        return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    return present(torch.device("cuda", rank) if name == "cuda" else torch.device(name))


def present(device: torch.device) -> torch.device:
    """The device itself. Raises `InvalidOption` when this machine, or this build of torch, has none like it."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidOption("device 'cuda': no CUDA device is visible to torch; use device='cpu' or 'auto'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidOption(f"device '{device}': torch sees {torch.cuda.device_count()} CUDA devices, numbered from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidOption("device 'mps': not available on this machine; use device='cpu' or 'auto'")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InvalidOption(f"device: no such device as '{device}' here; give 'cpu', 'cuda' or 'mps'")
    return device


def in_worker() -> bool:
    """Whether this process was started as one of several (by torchrun, or by `devices=N`)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def group_is_open() -> bool:
    """Whether this process already belongs to a process group."""
    return bool(dist.is_available() and dist.is_initialized())


def start_processes(device: str) -> tuple[int, int]:
    """Join the process group named by the environment (RANK, WORLD_SIZE, and torchrun's address or `launch`'s meeting
    place); returns (rank, world)."""
    if not in_worker():
        return 0, 1
    if not dist.is_initialized():
        on_gpu = device != "cpu" and torch.cuda.is_available()
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=os.environ.get("REVERIE_MEETING"),  # None: torchrun's address
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=_TIMEOUT,
        )
    return dist.get_rank(), dist.get_world_size()


def stop_processes() -> None:
    """Leave the process group, if in one."""
    if dist.is_initialized():
        dist.destroy_process_group()
