"""Seeds and chunks: what row i receives depends on the seed and on i, not on the chunk, n, or the call before."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from contract_kit import FAMILIES, FORMS, KIT, fitted, forms_of, identical, numbers, pairs, plain_form, with_verb

from reverie.errors import InvalidOption

CHUNKS = (1, 7, 64, 1000)


def assert_close(a, b, family: str) -> None:
    """The same sample: 1e-4 relative in float32 (1e-10 in float64). Codes, bits and levels are equal but where a number
    within rounding of a boundary falls on the other side: for one in a thousand at most."""
    a, b = numbers(a), numbers(b)
    assert a.shape == b.shape
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    scale = np.nan_to_num(a).std(0) + 1e-12
    rtol = 1e-10 if KIT[family].float64 else 1e-4
    off = np.abs(np.nan_to_num(a - b)) > rtol * (scale + np.abs(np.nan_to_num(a)))
    assert off.mean() <= 1e-3, f"{off.mean():.2%} of the numbers differ"


@pytest.mark.parametrize(("family", "form"), pairs())
def test_noise_does_not_depend_on_the_chunk(family, form):
    model = fitted(family, form)
    model.chunk = 100_000
    whole = model.sample(130, seed=4, **KIT[family].quick_sample)
    for chunk in CHUNKS:
        model.chunk = chunk
        assert_close(model.sample(130, seed=4, **KIT[family].quick_sample), whole, family)


@pytest.mark.parametrize(("family", "form"), pairs())
def test_a_sample_is_the_head_of_a_larger_one(family, form):
    model = fitted(family, form)
    large = model.sample(150, seed=9, **KIT[family].quick_sample)
    for n in (1, 10, 65, 129):
        head = large.head(n) if isinstance(large, pd.DataFrame) else large[:n]
        assert_close(model.sample(n, seed=9, **KIT[family].quick_sample), head, family)


@pytest.mark.parametrize("family", [family for family in FAMILIES if KIT[family].long_chains])
def test_long_chains_agree_in_law(family):
    """500 sweeps in chunks of 1 and 1000: the two samples' column means differ by less than 5 standard errors of a
    difference, 5 sqrt(2 / 4 / n) at most (p (1 - p) <= 1/4), here n = 400."""
    model = fitted(family, "bool table")
    whole = numbers(model.sample(400, seed=0))
    model.chunk = 150
    cut = numbers(model.sample(400, seed=0))
    assert np.abs(whole.mean(0) - cut.mean(0)).max() < 5 * np.sqrt(2 / 4 / 400)


@pytest.mark.parametrize(("family", "form"), pairs())
def test_one_seed_one_sample(family, form):
    model, options = fitted(family, form), KIT[family].quick_sample
    a = model.sample(40, seed=1, **options)
    torch.manual_seed(123)
    np.random.seed(5)
    assert identical(model.sample(40, seed=1, **options), a)
    assert not identical(model.sample(40, seed=2, **options), a)
    assert not identical(model.sample(40, **options), model.sample(40, **options))
    assert identical(model.sample(40, seed=np.int64(1), **options), a)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_leaves_the_global_generators_alone(family):
    model = fitted(family, forms_of(family)[0])
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    model.sample(20, seed=0, **KIT[family].quick_sample)
    model.sample(20, **KIT[family].quick_sample)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize(("family", "form"), [(f, n) for f in with_verb("log_prob") for n in forms_of(f)])
def test_scores_do_not_depend_on_the_chunk(family, form):
    model, data = fitted(family, form), FORMS[form].make(90, 8)
    score = model.log_prob if "log_prob" in model.can else model.energy  # of many bits the energy alone is known
    options = KIT[family].quick_score if score == model.log_prob else {}
    whole = score(data, **options)
    head = data.head(33) if isinstance(data, pd.DataFrame) else data[:33]
    np.testing.assert_allclose(score(head, **options), whole[:33], rtol=1e-4, atol=1e-3)
    for chunk in (1, 7, 64):
        model.chunk = chunk
        np.testing.assert_allclose(score(data, **options), whole, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", with_verb("impute"))
def test_completions_do_not_depend_on_the_chunk(family):
    form = "holey table" if "holey table" in forms_of(family) else plain_form(family)
    model = fitted(family, form)
    data = numbers(FORMS[form].make(70, 8)).copy()
    data[np.random.default_rng(0).random(data.shape) < 0.2] = np.nan
    whole = numbers(model.impute(data, n_draws=1, seed=3)[0])
    small = copy.copy(model)
    small.chunk = 7
    other = numbers(small.impute(data, n_draws=1, seed=3)[0])
    if KIT[family].long_chains:  # 200 sweeps: in law. 100 holes: 5 standard errors of a share
        assert abs(whole.mean() - other.mean()) < 5 * np.sqrt(0.25 / np.isnan(data).sum())
    else:
        off = np.abs(whole - other) > 1e-3 * (1 + np.abs(whole))
        assert off.mean() < 0.01  # a resampled proposal may flip within rounding


@pytest.mark.parametrize("family", FAMILIES)
def test_sample_options_are_checked(family):
    model = fitted(family, forms_of(family)[0])
    with pytest.raises(InvalidOption, match="no such option"):
        model.sample(3, sweepz=4)
    assert isinstance(model.sample_options, dict)
    for name, default in model.sample_options.items():
        assert len(model.sample(2, seed=0, **{name: default})) == 2
