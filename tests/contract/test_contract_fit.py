"""fit mutates nothing, is a function of its seed, and goes on from a model without touching it."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from contract_kit import (
    FAMILIES,
    FORMS,
    KIT,
    ROWS,
    data_set,
    fit_form,
    fitted,
    forms_of,
    identical,
    labelled,
    learn,
    pairs,
    plain_form,
    recipe_for,
    same_state,
    state,
    y_for,
)

import reverie as rv
from reverie import config
from reverie.errors import InvalidOption, SchemaMismatch
from reverie.learning.training import Training
from reverie.store import recipe_class


def learned(model) -> dict[str, torch.Tensor]:
    """The state but for what scoring caches (the RBM's log Z)."""
    return {name: tensor for name, tensor in state(model).items() if not name.split(".")[-1].startswith("_")}


@pytest.mark.parametrize(("family", "form"), pairs())
def test_fit_twice_is_bitwise_equal_and_another_seed_differs(family, form):
    first = learned(fitted(family, form))
    assert same_state(first, learned(fit_form(family, form)))
    other = fit_form(family, form, seed=7)
    if KIT[family].seeded or (family, form) == ("gmm", "grey images"):
        assert not same_state(first, learned(other))


@pytest.mark.parametrize(("family", "form"), pairs())
def test_fit_changes_nothing_it_was_given(family, form):
    data = FORMS[form].make(ROWS, 0)
    before = data.copy(deep=True) if isinstance(data, pd.DataFrame) else data.copy()
    recipe, training = recipe_for(family, FORMS[form]), Training(**KIT[family].options)
    was, budget = json.dumps(config.to_json(recipe)), json.dumps(config.to_json(training))
    rng, numpy_rng = torch.get_rng_state(), np.random.get_state()[1].copy()
    threads = torch.get_num_threads()
    y = y_for(family, data)
    model = recipe.fit(data, y, training=training, seed=0)
    assert identical(data, before)
    assert json.dumps(config.to_json(recipe)) == was
    assert json.dumps(config.to_json(training)) == budget
    assert torch.equal(torch.get_rng_state(), rng)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_rng)
    assert torch.get_num_threads() == threads
    assert model.estimator is recipe
    # Verbs change neither the data nor the weights.
    weights = learned(model)
    model.sample(5, seed=0, **KIT[family].quick_sample)
    for verb in ("log_prob", "encode", "reconstruct", "impute"):
        if verb in model.can:
            getattr(model, verb)(data)
    assert identical(data, before)
    assert same_state(learned(model), weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_read_only_array_is_enough(family):
    data = FORMS[forms_of(family)[0]].make(ROWS, 0)
    if isinstance(data, np.ndarray):
        data.flags.writeable = False
    learn(family, data)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_history_tells_the_epochs(family):
    model = fitted(family, forms_of(family)[0])
    seen = [(record["phase"], record["epoch"]) for record in model.history]
    each = KIT[family].options["epochs"] // KIT[family].phases
    phases = list(dict.fromkeys(phase for phase, _ in seen))
    assert seen == [(phase, epoch) for phase in phases for epoch in range(1, each + 1)]
    assert len(phases) == KIT[family].phases
    assert all({"phase", "epoch", "step"} <= set(record) for record in model.history)
    assert model.info["seed"] == 0
    assert model.info["training"]["epochs"] == KIT[family].options["epochs"]
    assert model.info["data"]["rows"] == ROWS


@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_returns_a_new_model(family):
    form = forms_of(family)[0]
    model = fitted(family, form)
    before, history = state(model), copy.deepcopy(model.history)
    new_rows = FORMS[form].make(ROWS, 1)
    y = y_for(family, new_rows)
    options = {key: value for key, value in KIT[family].options.items() if key != "epochs"}
    for later in (
        rv.finetune(model, new_rows, y, seed=1, epochs=1, **options),
        model.estimator.fit(new_rows, y, start=model, seed=1, epochs=1, **options),
    ):
        assert later is not model
        assert later.codec is model.codec
        assert not same_state(state(later), before)
        assert len(later.history) == KIT[family].phases  # every phase gets a pass
    assert same_state(state(model), before)
    assert model.history == history
    # No steps: the same weights, in a network of its own.
    still = model.estimator.fit(new_rows, y, start=model, **{**options, "epochs": 0})
    assert still.network is not model.network
    kept = {
        name: tensor for name, tensor in learned(model).items() if not name.endswith("base")
    }  # rates of an RBM are the data's
    assert same_state({name: tensor for name, tensor in learned(still).items() if not name.endswith("base")}, kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_start_must_fit(family):
    form = forms_of(family)[0]
    model, data = fitted(family, form), FORMS[form].make(ROWS, 1)
    y = y_for(family, data)
    other = next(name for name in FAMILIES if name != family and form in forms_of(name))
    with pytest.raises(InvalidOption, match=f"start: a {other} model cannot be the start of a {family}"):
        model.estimator.fit(data, y, start=fitted(other, form))
    with pytest.raises(InvalidOption, match=r"start: expected a Model, got str.*reverie\.load"):
        model.estimator.fit(data, y, start="runs/digits")
    size = KIT[family].size
    if size is not None:
        with pytest.raises(InvalidOption, match=f"other shapes than this recipe's.*{size}"):
            config.replace(model.estimator, **{size: 5}).fit(data, y, start=model)
    with pytest.raises(SchemaMismatch):
        rv.finetune(model, data[:, :1] if isinstance(data, np.ndarray) else data.iloc[:, :1], y, epochs=1)


# ---------------------------------------------------------------------- recipes


def another(cls: type, name: str) -> object:
    """A valid value of that option other than its default."""
    default = config.options(cls)[name].default
    default = getattr(default, "default", default)
    for candidate in ([{"type": "mlp", "hidden": [7, 5], "activation": "tanh"}] if default == "auto" else []) + [
        default + 1 if isinstance(default, int) and not isinstance(default, bool) else None,
        0.37,
        0.0625,
        3,
        True,
        False,
        [5, 4, 3],
    ]:
        if candidate is None or candidate == default or isinstance(candidate, bool) is not isinstance(default, bool):
            continue
        try:
            if getattr(cls(**{name: candidate}), name) != default:
                return candidate
        except InvalidOption:
            continue
    import re

    with pytest.raises(InvalidOption) as caught:
        cls(**{name: "?"})
    for word in re.findall(r"'(\w+)'", str(caught.value)):
        if word != default:
            return word
    raise AssertionError(f"no other value found for {name}")


@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_survive_json_with_no_option_at_its_default(family):
    cls = recipe_class(family)
    values = {name: another(cls, name) for name in config.options(cls)}
    recipe = cls(**values)
    text = json.dumps(config.to_json(recipe))
    back = config.from_json(cls, json.loads(text))
    assert back == recipe
    assert json.dumps(config.to_json(back)) == text
    for name in config.options(cls):
        assert getattr(recipe, name) != getattr(cls(), name), name
    assert config.from_json(cls, config.to_json(cls())) == cls()
    assert config.to_json(recipe) != config.to_json(cls())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_option_is_described_and_checked(family):
    cls = recipe_class(family)
    texts = config.descriptions(cls)
    for name in config.options(cls):
        assert len(texts[name]) > 5, name
        close = name[:-1] + ("x" if name[-1] != "x" else "y")
        hint = "did you mean" if len(name) > 3 else "Options: "
        with pytest.raises(InvalidOption, match=f"{close}: no such option.*{hint}"):
            cls(**{close: 1})
        with pytest.raises(InvalidOption, match=f"{close}.*{hint}"):
            config.from_json(cls, {close: 1})
        with pytest.raises(InvalidOption, match=f"{cls.__name__}: {name}"):
            cls(**{name: object()})


def test_training_survives_json():
    training = Training(
        steps=7, batch_size=3, validation=0.2, patience=4, clip=0.5, ema=0.9, devices=2, device="cpu", out="x",
        checkpoint_minutes=1.5, checkpoint_steps=6, checkpoint_epochs=5, snapshot_epochs=2, log_steps=9, progress=True,
    )  # fmt: skip
    data = json.loads(json.dumps(config.to_json(training)))
    assert "callbacks" not in data  # functions are not saved
    assert config.from_json(Training, data) == training


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_ignored_columns(family):
    """Roles reach every family; an ignored column is not learned."""
    form = plain_form(family)
    rows = FORMS[form].make(100, 0)
    frame = pd.DataFrame(rows, columns=[f"v{j}" for j in range(rows.shape[1])])
    data = data_set(family, frame.assign(w=np.ones(100), note="x"), roles={"w": "weight", "note": "ignore"})
    model = learn(family, data)
    assert list(model.sample(4, seed=0, **KIT[family].quick_sample).columns) == list(frame.columns)


def test_labelled_is_what_it_says():
    X, y = labelled(3000)
    assert abs((y == "a").mean() - 0.5) < 0.05
    assert X.shape == (3000, 2)
