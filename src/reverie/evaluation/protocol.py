"""What evaluation needs of a model. Anything with these members can be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from reverie.data.schema import Schema


class Judged(Protocol):
    """The part of `reverie.model.model.Model` that evaluation uses."""

    @property
    def estimator(self) -> Any: ...

    @property
    def schema(self) -> Schema: ...

    @property
    def can(self) -> frozenset[str]: ...

    @property
    def log_prob_kind(self) -> Any: ...

    @property
    def measure(self) -> Any: ...

    @property
    def history(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def warnings(self) -> Sequence[Any]: ...

    @property
    def info(self) -> Mapping[str, Any]: ...

    def sample(self, n: int, *, y: Any = None, seed: int | None = None, return_y: bool = False) -> Any: ...

    def log_prob(self, X: Any, y: Any = None) -> Any: ...
