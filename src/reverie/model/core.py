"""What a model is made of, and what its verbs lean on: capabilities, devices, noise, checks."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import nn

from reverie import catalog
from reverie.data.codec.maps import Codec
from reverie.data.rules.rule import Rule
from reverie.data.schema import Schema
from reverie.errors import InvalidOption, Unsupported, did_you_mean
from reverie.learning.run import present
from reverie.learning.watching.findings import Finding
from reverie.model.capabilities import discover, keyword_options
from reverie.model.intake import Intake
from reverie.rng import RowNoise, stream

_CHUNK = 1024
_LIGHT_NUMBERS = 2**23


class Core:
    """Recipe, schema, codec, network and history of a trained model: what every verb is a function of."""

    def __init__(
        self,
        estimator: Any,
        schema: Schema,
        codec: Codec,
        network: nn.Module,
        *,
        history: list[dict[str, Any]] | None = None,
        warnings: list[str] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.estimator, self.schema, self.codec = estimator, schema, codec
        self.network = network.eval().requires_grad_(False)
        self.history = history or []
        self.warnings = warnings or []
        self.info = info or {}
        self.chunk = _chunk(network, codec)
        self.intake = Intake(schema, codec, self.family, predicts_y=getattr(network, "predicts_y", False))

    @property
    def family(self) -> str:
        """The catalog name of the family."""
        return str(self.estimator.family)

    @property
    def findings(self) -> list[Finding]:
        """What training noticed about itself: divergence, overfitting, dead units ... with what to do about it."""
        return [Finding(**found) for found in self.info.get("findings", [])]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What all rows keep that the model makes: found in the training rows or asked for, each with its evidence."""
        return self.codec.kept

    @property
    def can(self) -> frozenset[str]:
        """The verbs this very model supports: those of its class, less what its data rule out."""
        return discover(type(self.network)) - set(self._limits())

    def _limits(self) -> dict[str, str]:
        limits = getattr(type(self.network), "limits", None)
        return dict(limits(self.network, self.codec.space)) if callable(limits) else {}

    @property
    def log_prob_kind(self) -> str | None:
        """ "exact", "lower bound", "estimate" or "unnormalised"; None when there is no likelihood."""
        if "log_prob" not in self.can:
            return None
        kind = str(getattr(self.network, "likelihood", "exact"))
        return "lower bound" if kind == "exact" and self.codec.lowers else kind

    @property
    def measure(self) -> str:
        """What the likelihood is a density or probability of; two figures compare only under the same measure."""
        return self.codec.measure

    @property
    def log_prob_info(self) -> dict[str, Any] | None:
        """How the last normalising constant was found (method, log Z, standard error, gap), for families that need one."""
        info = getattr(self.network, "partition_info", None)
        return info() if callable(info) else None

    @property
    def device(self) -> torch.device:
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            return tensor.device
        return torch.device("cpu")

    def to(self, device: str | torch.device) -> Self:
        """A copy of this model on another device."""
        try:
            place = torch.device(device)
        except (RuntimeError, TypeError):
            raise InvalidOption(f"device: no such device as {device!r}; give 'cpu', 'cuda' or 'mps'") from None
        there = copy.copy(self)
        there.network = copy.deepcopy(self.network).to(present(place))
        return there

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes of y, in the order of `predict_proba`'s columns; empty without classes."""
        field = self.schema.condition
        if field is None or field.one_step.kind not in ("category", "boolean"):
            return ()
        return (False, True) if field.one_step.kind == "boolean" else tuple(field.categories or ())

    def require(self, verb: str) -> None:
        """Raise `Unsupported`, with the reason and who can, unless this model has the verb."""
        if verb in self.can:
            return
        reason = self._limits().get(verb)
        have = ", ".join(sorted(self.can))
        if reason:
            raise Unsupported(f"this {self.family} can't {verb}: {reason}. It can: {have}")
        raise Unsupported(
            f"{self.family} can't {verb}; families that can: {catalog.who_can(verb)}. This model can: {have}"
        )

    def require_y(self, y: Any) -> None:
        """Raise `InvalidOption` where encoder and decoder read y and there is none."""
        if self.codec.condition is not None and y is None and not getattr(self.network, "marginalises", False):
            raise InvalidOption("y: this model was trained with y: pass y, which its encoder and decoder also read")

    def check_options(self, verb: str, options: dict[str, Any]) -> None:
        """Raise `InvalidOption` for what is no keyword of the network's method."""
        known = keyword_options(getattr(self.network, verb))
        for name in options:
            if name not in known:
                raise InvalidOption(
                    f"{verb}: {name}: no such option of {self.family}{did_you_mean(name, known) or '.'} "
                    f"Options: {', '.join(known) or 'none'}"
                )

    def noise(self, seed: int, name: str, rows: int, start: int) -> RowNoise:
        """The stream of that name for rows `start ...`, on the model's device."""
        return RowNoise(stream(seed, name), rows, start=start, device=self.device, dtype=self.codec.space.torch_dtype)


def _chunk(network: nn.Module, codec: Codec) -> int:
    """Examples computed at a time: more where the network keeps little beside its input."""
    if not getattr(network, "light", False):
        return _CHUNK
    return max(_CHUNK, min(2**16, _LIGHT_NUMBERS // max(codec.space.width, 1)))


def moved(tensor: Any, device: torch.device) -> Any:
    """The tensor (or `Ragged`) on that device, None staying None."""
    return None if tensor is None else tensor.to(device)
