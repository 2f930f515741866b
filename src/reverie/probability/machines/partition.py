"""Machines with an energy: p(x) = exp(-E(x)) / Z. What they share is Z: exact where states can be listed, else annealed.

A cached log Z carries a stamp of the parameters it belongs to, so that it is never read after they changed.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from reverie.rng import Noise

EXACT_BITS = 20
"""States are listed up to as many as this many bits have."""


class Machine(nn.Module, ABC):
    """A machine whose log Z is listed, or estimated by annealed importance sampling forwards and backwards."""

    _partition: Tensor
    _stamp: Tensor

    def __init__(self) -> None:
        super().__init__()
        # method (0 none, 1 exact, 2 AIS), log Z, standard error, log Z backwards, its standard error
        self.register_buffer("_partition", torch.zeros(5, dtype=torch.float64))
        self.register_buffer("_stamp", torch.zeros(32, dtype=torch.uint8))

    @property
    @abstractmethod
    def listable(self) -> bool:
        """log Z can be had exactly."""

    @abstractmethod
    def exact_log_partition(self) -> float:
        """log Z by listing states, in float64. Raises `Unsupported` where there are too many."""

    @abstractmethod
    def annealed_log_partition(
        self, *, chains: int = 200, temperatures: int = 4000, seed: int = 0, burn_in: int = 500
    ) -> dict[str, float]:
        """log Z by annealing from independent units ("log_z", "standard_error", "effective_chains") and back from long
        chains ("log_z_reverse", "standard_error_reverse")."""

    @abstractmethod
    def walk(self, noise: Noise, sweeps: int) -> Any:
        """A generator of `sweeps` states (rows, width) of chains of Gibbs sampling, each with its energy (rows,)."""

    @property
    def likelihood(self) -> str:
        """ "exact" when states can be listed, else "estimate"."""
        return "exact" if self.listable else "estimate"

    def precise(self) -> Self:
        """This machine in float64: itself, or a copy."""
        if all(p.dtype == torch.float64 for p in self.parameters()):
            return self
        return copy.deepcopy(self).double()

    def machine_parameters(self) -> list[nn.Parameter]:
        """The parameters of the energy."""
        return list(self.parameters())

    def stamp(self) -> Tensor:
        """SHA-256 of the energy's parameters, which ties a cached log Z to them."""
        digest = hashlib.sha256()
        for parameter in self.machine_parameters():
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

    def log_partition(self) -> float:
        """log Z of these parameters: from the cache when its stamp fits, else computed and cached."""
        stamp = self.stamp().to(self._stamp.device)
        if self._partition[0] == 0 or not torch.equal(stamp, self._stamp):
            with torch.no_grad():
                if self.listable:
                    values = [1.0, self.exact_log_partition(), 0.0, 0.0, 0.0]
                else:
                    found = self.annealed_log_partition()
                    values = [2.0, *(found[k] for k in ("log_z", "standard_error"))]
                    values += [found["log_z_reverse"], found["standard_error_reverse"]]
                self._partition.copy_(torch.tensor(values, dtype=torch.float64))
                self._stamp.copy_(stamp)
        return float(self._partition[1])

    def partition_info(self) -> dict[str, Any] | None:
        """Method, log Z, standard error, gap (nats, reverse minus forward) and stamp; None before the first log_prob."""
        if self._partition[0] == 0 or not torch.equal(self.stamp().to(self._stamp.device), self._stamp):
            return None
        method, log_z, error, reverse, reverse_error = self._partition.tolist()
        info: dict[str, Any] = {
            "method": "exact" if method == 1 else "AIS",
            "log_z": log_z,
            "standard_error": error,
            "stamp": bytes(self._stamp.cpu().numpy()).hex(),
        }
        if method == 2:
            info |= {"log_z_reverse": reverse, "standard_error_reverse": reverse_error, "gap": reverse - log_z}
        return info
