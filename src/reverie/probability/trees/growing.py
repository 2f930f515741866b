"""Networks whose tensors are as long as what was learned."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class Growing(nn.Module):
    """A network some of whose tensors (`grows`) have the length of the data: loading a state makes room for them, and
    `derive` then works out what follows from them."""

    grows: ClassVar[frozenset[str]] = frozenset()

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        for name in self.grows:
            if prefix + name in state:
                setattr(self, name, getattr(self, name).new_empty(state[prefix + name].shape))
        super()._load_from_state_dict(state, prefix, *rest)
        self.derive()

    def derive(self) -> None:
        """What is computed once from the tensors and not saved."""
