"""The families, one a file: the recipe, the network with its maths, and the family's own functions of a Model. `classical` has
what counts and EM learn, `energy` machines and memories, `deep` networks trained by gradients.

A family imports no other family and never the store, the evaluation or the faces. `reverie.models.hmm` is the family's module,
whichever room it stands in.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from reverie import catalog


def __getattr__(name: str) -> ModuleType:
    """A family's module by its own name."""
    for row in catalog.families().values():
        if row.module.rsplit(".", 1)[-1] == name:
            return importlib.import_module(row.module)
    raise AttributeError(f"module 'reverie.models' has no attribute {name!r}")
