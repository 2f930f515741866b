"""Reverie: build, train, use and judge generative models through one small API.

Names are imported on first use: `import reverie` itself loads neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

from reverie import catalog
from reverie._version import __version__ as __version__

_NAMES = {
    "Training": "reverie.learning.training",
    "Model": "reverie.model.model",
    "Estimator": "reverie.estimator",
    "MLP": "reverie.nn.specs",
    "ConvNet": "reverie.nn.specs",
    "Dataset": "reverie.data.dataset",
    "Schema": "reverie.data.schema",
    "load_data": "reverie.data.sources.load",
    "sequences": "reverie.data.sources.load",
    "as_dataset": "reverie.data.sources.load",
    "load": "reverie.store",
    "resume": "reverie.store",
    "finetune": "reverie.estimator",
    "dry_run": "reverie.estimator",
    "lr_range": "reverie.estimator",
    "evaluate": "reverie.evaluation",
    "compare": "reverie.evaluation",
    "Report": "reverie.evaluation",
    "Comparison": "reverie.evaluation",
    "log_partition": "reverie.evaluation",
    "mixing": "reverie.evaluation",
}
_MODULES = ("catalog", "errors", "metrics", "models")


def _public() -> dict[str, str]:
    families = {row.class_name: row.module for row in catalog.families().values()}
    return {**_NAMES, **families}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"reverie.{name}")
    home = _public().get(name)
    if home is None:
        raise AttributeError(f"module 'reverie' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"__version__", *_public(), *_MODULES})
