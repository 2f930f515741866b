"""Every family x every form of data: it fits and samples come back in that form, or the refusal names families that can."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from contract_kit import (
    FAMILIES,
    FORMS,
    KIT,
    ROWS,
    fitted,
    forms_of,
    learn,
    numbers,
    pairs,
    recipe_for,
    same_form,
    takes,
)

from reverie import catalog
from reverie.data.sources.load import as_dataset
from reverie.errors import UnsupportedData
from reverie.model.capabilities import discover

DAYS = pd.date_range("2024-01-01", periods=30, freq="D", tz="UTC", unit="us")
REFUSED = [(family, name) for family in FAMILIES for name, form in FORMS.items() if not takes(family, form)]


def test_every_family_has_a_kit():
    assert set(KIT) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_takes_something_of_every_declared_kind(family):
    covered = set().union(*(FORMS[name].kinds for name in forms_of(family)))
    missing = set(catalog.family(family).kinds) - covered
    assert missing <= {"datetime"}, f"no form covers {missing}"


@pytest.mark.parametrize(("family", "name"), pairs())
def test_samples_come_back_in_the_form_of_the_data(family, name):
    data = FORMS[name].make(ROWS, 0)
    model = fitted(family, name)
    sample = model.sample(37, seed=0, **KIT[family].quick_sample)
    assert len(sample) == 37
    if isinstance(data, pd.DataFrame):
        pd.testing.assert_index_equal(sample.columns, data.columns)
        assert list(sample.dtypes) == list(data.dtypes)
    same_form(sample, data)
    seen = numbers(sample)
    assert np.isfinite(seen[~np.isnan(seen)]).all()
    same_form(model.sample(1, seed=1, **KIT[family].quick_sample), data)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["number", "integer", "category", "boolean", "datetime"])
def test_a_one_column_frame_keeps_its_type(family, kind):
    column = {
        "number": pd.Series(np.random.default_rng(0).normal(size=80)),
        "integer": pd.Series(np.random.default_rng(0).integers(0, 2, 80), dtype="int16"),
        "category": pd.Series(np.random.default_rng(0).choice(["x", "y"], 80)),
        "boolean": pd.Series(np.random.default_rng(0).random(80) < 0.5),
        "datetime": pd.Series(DAYS[np.random.default_rng(0).integers(0, 30, 80)]),
    }[kind]
    frame = pd.DataFrame({"only": column})
    if kind in catalog.family(family).kinds:
        model = learn(family, frame)
        sample = model.sample(9, seed=0, **KIT[family].quick_sample)
        assert list(sample.dtypes) == list(frame.dtypes)
        if kind == "datetime" and "log_prob" in model.can:  # repeated days are a grid: whole days come back
            assert (sample["only"] == sample["only"].dt.normalize()).all()
    else:
        with pytest.raises(UnsupportedData, match="Families that can"):
            learn(family, frame)


@pytest.mark.parametrize(("family", "name"), REFUSED)
def test_a_refusal_names_families_that_really_can(family, name):
    with pytest.raises(UnsupportedData) as caught:
        learn(family, FORMS[name].make(ROWS, 0), recipe=recipe_for(family, FORMS[name]))
    text = str(caught.value)
    found = re.search(r"(?:Families that can|a family that imputes|Families that impute): ([a-z_, ]+)", text)
    assert found, text
    named = [word.strip() for word in found[1].split(",")]
    assert family not in named
    assert named == [other for other in FAMILIES if other in named]
    assert named, text
    for other in named:
        assert len(fitted(other, name).sample(2, seed=0, **KIT[other].quick_sample)) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_declared_capabilities_are_the_discovered_ones(family):
    row, name = catalog.family(family), forms_of(family)[0]
    model = fitted(family, name)
    assert discover(type(model.network)) == set(row.can)
    assert model.can <= set(row.can)
    assert model.family == row.name
    assert (model.log_prob_kind is None) == (row.likelihood == "none")
    wants = KIT[family].recipe.wants(model.schema)
    assert wants.kinds == set(row.kinds)
    assert wants.conditions == set(row.conditions)
    assert (wants.missing != "refuse") == row.holes
    assert wants.family == family
    assert (wants.discrete == "binary") == row.bits
    if row.needs_y:
        with pytest.raises(UnsupportedData, match=f"{family} needs y.*fit\\(X, y\\)"):
            KIT[family].recipe.wants(as_dataset(FORMS[name].make(9, 0)).schema)
    for function in row.functions:
        module, name = function.split(".")
        assert callable(getattr(__import__(row.module, fromlist=[name]), name))
        assert row.module.endswith(module)


@pytest.mark.parametrize("family", FAMILIES)
def test_undeclared_verbs_raise_and_name_the_families_that_can(family):
    from reverie.errors import Unsupported

    name = forms_of(family)[0]
    model, data = fitted(family, name), FORMS[name].make(6, 1)
    calls = {
        "log_prob": lambda: model.log_prob(data),
        "encode": lambda: model.encode(data),
        "decode": lambda: model.decode(np.zeros((2, 2))),
        "reconstruct": lambda: model.reconstruct(data),
        "interpolate": lambda: model.interpolate(data, data),
        "impute": lambda: model.impute(data),
        "energy": lambda: model.energy(data),
        "predict": lambda: model.predict(data),
        "predict_proba": lambda: model.predict_proba(data),
    }
    for verb, call in calls.items():
        if verb in catalog.family(family).can:  # its data may rule a verb out; the reason is then the message
            continue
        with pytest.raises(Unsupported) as caught:
            call()
        for other in FAMILIES:
            if verb in catalog.family(other).can:
                assert other in str(caught.value)
    if "log_prob" not in model.can:
        for call in (model.score_samples, model.anomaly_score, model.bits_per_dim):
            with pytest.raises(Unsupported):
                call(data)


def test_the_throwaway_family_lives_only_where_asked(stack_family):
    from families import OPTIONS, numeric_rows, small_recipes
    from reverie.store import recipe_class

    model = small_recipes()["stack"].fit(numeric_rows(60), **OPTIONS["stack"])
    assert model.sample(3, seed=0).shape == (3, 4)
    assert recipe_class("stack") is type(model.estimator)


def test_the_catalog_forgets_the_throwaway_family():
    assert "stack" not in catalog.families()
