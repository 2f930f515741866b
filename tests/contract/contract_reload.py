"""Run in a fresh process: load every model named in jobs.json and draw and score again. See test_contract_reload."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
from contract_kit import FORMS, KIT

from reverie.store import load


def results(model, family: str, form: str) -> dict[str, object]:
    """What must be bitwise the same before saving and after loading."""
    data = FORMS[form].make(20, 3)
    out: dict[str, object] = {"sample": model.sample(11, seed=5, **KIT[family].quick_sample)}
    if "log_prob" in model.can:
        out["log_prob"] = model.log_prob(data)
    if "encode" in model.can:
        out["encode"] = model.encode(data)
    if "predict" in model.can:
        out["predict"] = model.predict(data)
        out["predict_proba"] = model.predict_proba(data)
    if "impute" in model.can:
        out["impute"] = model.impute(data, n_draws=1, seed=2)[0]
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    found = {}
    for folder in sorted(root.iterdir()):
        if folder.is_dir():
            family, form = folder.name.split("@")
            model = load(folder)
            found[folder.name] = {**results(model, family, form), "repr": repr(model), "can": model.can}
    (root / "found.pickle").write_bytes(pickle.dumps(found))
