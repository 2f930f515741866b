"""What must hold between two devices, for every family: trained on one it works on the other, with the same figures. Used by the
contract tests on a device that is only pretended (`elsewhere`), and by tools/gpu_check.py on a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import contract_kit as ck
import numpy as np
import pandas as pd
import torch

import reverie as rv
from families import numeric_rows, walks
from reverie.model.model import Model
from reverie.models.classical.hmm import HMM
from reverie.models.deep.vae import VAE
from reverie.models.energy.rating_rbm import RatingRBM
from reverie.models.energy.temporal_rbm import TemporalRBM


def ratings(n: int = 30) -> Any:
    """Stars of `n` users for 12 items."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((n, 12)) < 0.5)
    stars = rng.integers(1, 6, len(user))
    frame = pd.DataFrame({"user": user, "item": [f"i{number}" for number in item], "rating": stars})
    return rv.sequences(frame, by="user", kinds={"item": "category", "rating": "category"})


SPECIAL: dict[str, tuple[Any, Callable[[], Any], dict[str, Any]]] = {
    "hmm of numbers": (HMM(states=2, tol=0), lambda: walks(40), {"epochs": 2}),
    "hmm of texts": (HMM(states=2, tol=0), lambda: ["abba", "cab", "abc"] * 8, {"epochs": 2}),
    "temporal_rbm": (TemporalRBM(hidden=4), lambda: walks(40), {"epochs": 2}),
    "rating_rbm": (RatingRBM(hidden=4), ratings, {"epochs": 2}),
    "vae with labels": (
        VAE(latent=2, encoder=ck.SMALL, decoder=ck.SMALL),
        lambda: rv.as_dataset(numeric_rows(60), np.repeat(["a", "b"], 30)),
        {"epochs": 2},
    ),
}
"""Recipes beyond the forms of the contract kit: sequences, and labels."""


def cases() -> list[tuple[str, str]]:
    """(family, form) for every family on every form it takes, and the special ones."""
    return [*ck.pairs(), *((name, "") for name in SPECIAL)]


def fit(family: str, form: str, device: str, **options: Any) -> Model:
    if not form:
        recipe, data, budget = SPECIAL[family]
        model: Model = recipe.fit(data(), **{**budget, **options}, device=device)
        return model
    return ck.fit_form(family, form, device=device, **{"epochs": 2, **options})


def rows(family: str, form: str) -> Any:
    return SPECIAL[family][1]() if not form else ck.FORMS[form].make(40, 1)


def verbs(model: Model, family: str, form: str) -> dict[str, Callable[[], Any]]:
    """The calls to compare, by name."""
    X = rows(family, form)
    quick, score = (ck.KIT[family].quick_sample, ck.KIT[family].quick_score) if form else ({}, {})
    y = {"y": X.y} if isinstance(X, rv.Dataset) and X.y is not None else {}
    plain = X.X if y else X
    calls: dict[str, Callable[[], Any]] = {
        "sample": lambda: model.sample(5, seed=1, **quick),
        "log_prob": lambda: model.log_prob(plain, seed=0, **y, **score),
        "encode": lambda: model.encode(plain, **y),
        "reconstruct": lambda: model.reconstruct(plain, **y),
        "impute": lambda: model.impute(plain, seed=0, **y),
        "predict_proba": lambda: model.predict_proba(plain),
        "energy": lambda: model.energy(plain),
    }
    return {name: call for name, call in calls.items() if name in model.can}


def differences(a: Model, b: Model, family: str, form: str) -> dict[str, float]:
    """How far the figures of the same model on two devices are from each other, by verb, relative to 1 + their size; of samples
    the share of cells that differ by more than a thousandth."""
    ours, theirs = verbs(a, family, form), verbs(b, family, form)
    out = {}
    for name, call in ours.items():
        try:
            want = call()
        except rv.errors.ReverieError:  # a verb that these data rule out, on both
            continue
        x, z = _numbers(want), _numbers(theirs[name]())
        with np.errstate(invalid="ignore"):
            off = np.abs(x - z) / (1 + np.abs(x))
        off = np.where((x == z) | (np.isnan(x) & np.isnan(z)), 0.0, off)
        drawn = name in ("sample", "impute")
        out[name] = float((off > 1e-3).mean() if drawn else off.max()) if off.size else 0.0
    return out


def saved_and_loaded(model: Model, folder: Path, device: str) -> Model:
    """The model, by way of a file, on that device."""
    loaded: Model = rv.load(model.save(folder)).to(device)
    return loaded


def _numbers(value: Any) -> np.ndarray:
    """Any result as numbers: categories and texts by their hash-free codes."""
    if isinstance(value, pd.DataFrame):
        columns = [value[name] for name in value.columns]
        return np.concatenate([_numbers(column) for column in columns]) if columns else np.empty(0)
    if isinstance(value, pd.Series):
        if pd.api.types.is_numeric_dtype(value) or pd.api.types.is_bool_dtype(value):
            return value.to_numpy(dtype=float, na_value=np.nan)
        if pd.api.types.is_datetime64_any_dtype(value):
            return value.astype("int64").to_numpy() / 1e18
        return np.array([float(sum(map(ord, str(item)))) for item in value])
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return np.array([float(sum(map(ord, item)) + len(item)) for item in value])
        return np.concatenate([_numbers(item) for item in value]) if value else np.empty(0)
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    return np.asarray(value, dtype=float).reshape(-1)
