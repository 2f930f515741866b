"""Conditions and codes: y by label and by column name, marginals, encode, decode, reconstruct, interpolate, impute."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from contract_kit import (
    FORMS,
    KIT,
    ROWS,
    class_prior,
    conditional,
    draws,
    fitted,
    fitted_conditional,
    forms_of,
    labelled,
    learn,
    numbers,
    plain_form,
    same_form,
    with_verb,
)

from reverie import catalog
from reverie.errors import InvalidOption, SchemaMismatch

CONDITIONAL = conditional()
VECTORS = [family for family in CONDITIONAL if "vector" in catalog.family(family).conditions]
CODED = [family for family in CONDITIONAL if family in with_verb("decode") and family in with_verb("encode")]
SCORED = [family for family in CONDITIONAL if family in with_verb("log_prob")]


# ---------------------------------------------------------------------- y


@pytest.mark.parametrize("family", CONDITIONAL)
def test_sampling_with_y(family):
    model = fitted_conditional(family)
    one, y = model.sample(30, y="b", seed=0, return_y=True)
    assert one.shape == (30, 2)
    assert list(y) == ["b"] * 30
    each, y = model.sample(3, y=["c", "a", "b"], seed=0, return_y=True)
    assert list(y) == ["c", "a", "b"]
    assert each.shape == (3, 2)
    assert not np.array_equal(model.sample(30, y="a", seed=0), one)
    assert (y.dtype if isinstance(y, np.ndarray) else None) == labelled()[1].dtype


@pytest.mark.parametrize("family", CONDITIONAL)
def test_unasked_y_is_drawn_as_often_as_in_training(family):
    """n = 3000 draws: each class within 4 standard errors 4 sqrt(p (1 - p) / n) of its training frequency."""
    model = fitted_conditional(family)
    _, labels = labelled()
    n = 3000
    X, y = model.sample(n, seed=3, return_y=True)
    assert len(X) == len(y) == n
    for label in "abc":
        p = (labels == label).mean()
        assert abs((np.asarray(y) == label).mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
    _, head = model.sample(100, seed=3, return_y=True)
    np.testing.assert_array_equal(head, y[:100])


@pytest.mark.parametrize("family", CONDITIONAL)
def test_y_drives_the_sample(family):
    """Trained long enough, the class means come out in order (they lie 3 sd apart in training)."""
    X, y = labelled(400)
    options = {"ema": 0} if "ema" in KIT[family].options else {}
    model = learn(family, X, y, seed=0, epochs=80, **options)
    means = [float(model.sample(400, y=label, seed=0).mean()) for label in ("c", "a", "b")]
    assert means[0] + 0.5 < means[1] < means[2] - 0.5


@pytest.mark.parametrize("family", SCORED)
def test_the_marginal_is_the_sum_over_classes(family):
    """p(x) = sum_y p(y) p(x | y), with the same noise for every class: to rounding."""
    model, (X, y) = fitted_conditional(family), labelled()
    some = X[:25]
    prior = np.log(class_prior(model))
    terms = [model.log_prob(some, y=label, seed=2) + prior["abc".index(label)] for label in "abc"]
    np.testing.assert_allclose(model.log_prob(some, seed=2), np.logaddexp.reduce(terms), rtol=1e-9)
    each = model.log_prob(some, y=list(y[:25]), seed=2)
    by_label = {label: model.log_prob(some, y=label, seed=2) for label in "abc"}
    np.testing.assert_allclose(each, [by_label[label][row] for row, label in enumerate(y[:25])], rtol=1e-4)


@pytest.mark.parametrize("family", SCORED)
@pytest.mark.parametrize("label", ["a", "c", None])
def test_conditionals_and_the_marginal_integrate_to_one(family, label):
    """As in test_contract_density: exp of an importance-weighted bound is unbiased, so totals average 1."""
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b", "c"], 300)
    X = rng.normal(size=(300, 1)) + 2.0 * (y == "b")[:, None]
    model = learn(family, X, y, seed=0)
    grid = np.linspace(-12, 14, 1001)
    step = grid[1] - grid[0]
    options = draws(model, 8)
    totals = [np.exp(model.log_prob(grid[:, None], y=label, seed=s, **options)).sum() * step for s in range(8)]
    error = np.std(totals, ddof=1) / np.sqrt(8)
    assert abs(np.mean(totals) - 1) < 4 * error + 1e-3


@pytest.mark.parametrize("family", VECTORS)
def test_a_numeric_y(family):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 2))
    X = y @ rng.normal(size=(2, 3)) + rng.normal(size=(200, 3)) * 0.1
    model = learn(family, X, y, seed=0)
    sample, used = model.sample(50, seed=0, return_y=True)
    assert sample.shape == (50, 3)
    pool = {tuple(row) for row in y.tolist()}
    assert all(tuple(row) in pool for row in used.tolist())  # drawn from the training values
    assert model.sample(4, y=[0.1, 0.2], seed=0).shape == (4, 3)
    if "log_prob" in model.can:
        assert np.isfinite(model.log_prob(X[:5], y[:5])).all()
        with pytest.raises(InvalidOption, match="a y that is no class"):
            model.log_prob(X[:5])


@pytest.mark.parametrize("family", CONDITIONAL)
def test_y_by_column_name_end_to_end(family):
    """y is a column of the DataFrame: not among the samples' columns, given by value, returned as that column."""
    rng = np.random.default_rng(0)
    income = pd.Categorical(rng.choice(["<=50K", ">50K"], 300, p=[0.75, 0.25]), categories=["<=50K", ">50K", "?"])
    frame = pd.DataFrame({"age": rng.integers(18, 80, 300), "income": income, "hours": rng.normal(40, 5, 300)})
    frame["age"] = frame["age"] + 10 * (frame["income"] == ">50K")
    model = learn(family, frame, "income", seed=0)
    sample, y = model.sample(2000, seed=0, return_y=True)
    assert list(sample.columns) == ["age", "hours"]
    assert list(sample.dtypes) == [frame["age"].dtype, frame["hours"].dtype]
    assert isinstance(y, pd.Series)
    assert y.name == "income"
    assert y.dtype == frame["income"].dtype
    p = (frame["income"] == ">50K").mean()
    assert abs((y == ">50K").mean() - p) < 4 * np.sqrt(p * (1 - p) / 2000)
    assert not (y == "?").any()  # a class without rows is never drawn
    rich, given = model.sample(10, y=">50K", seed=0, return_y=True)
    assert (given == ">50K").all()
    assert len(rich) == 10
    if "log_prob" in model.can:
        head, many = frame.head(20), draws(model, 64)
        given_y = model.log_prob(head, y="income", **many)
        marginal = model.log_prob(head, **many)
        assert np.isfinite(given_y).all()
        np.testing.assert_allclose(marginal, model.log_prob(head.drop(columns="income"), **many))
        np.testing.assert_allclose(given_y, model.log_prob(head, y=head["income"], **many))
        assert not np.allclose(given_y, marginal)
    if "encode" in model.can:
        assert model.encode(frame.head(20), y="income").shape[0] == 20
    if "reconstruct" in model.can:
        same_form(model.reconstruct(frame.head(20), y="income"), sample)


@pytest.mark.parametrize("family", CODED)
def test_codes_of_a_conditional_model_need_y(family):
    model, (X, y) = fitted_conditional(family), labelled()
    for call in (
        lambda: model.encode(X),
        lambda: model.reconstruct(X),
        lambda: model.interpolate(X[:2], X[2:4]),
        lambda: model.decode(np.zeros((2, 2))),
    ):
        with pytest.raises(InvalidOption, match="was trained with y: pass y"):
            call()
    assert model.encode(X, y).shape == (240, 2)
    assert model.decode(np.zeros((2, 2)), y="a").shape == (2, 2)
    assert model.interpolate(X[:2], X[2:4], steps=3, y="b").shape == (6, 2)


@pytest.mark.parametrize("family", SCORED)
def test_a_dataset_brings_its_own_y(family):
    from reverie.data.sources.load import as_dataset

    model, (X, y) = fitted_conditional(family), labelled()
    data = as_dataset(X[:30], y[:30])
    np.testing.assert_allclose(model.log_prob(data), model.log_prob(X[:30]))
    np.testing.assert_allclose(model.log_prob(data, y="y"), model.log_prob(X[:30], y[:30]))
    with pytest.raises(InvalidOption, match="a Dataset, which brings its own y"):
        model.log_prob(data, y=y[:30])
    other = as_dataset(X[:30], np.where(y[:30] == "a", "b", "c"))
    with pytest.raises(SchemaMismatch, match=r"differs from the one of training|categories"):
        model.log_prob(other, y="y")


# ---------------------------------------------------------------------- classes


def bayes(model, data) -> np.ndarray:
    """P(y | x) from p(x | y) and P(y), (n, classes)."""
    joint = np.column_stack([model.log_prob(data, y=label) for label in model.classes]) + np.log(class_prior(model))
    return np.exp(joint - np.logaddexp.reduce(joint, 1)[:, None])


CLASSIFIED = ("float table", "holey table", "bool table", "integer table", "code frame")


@pytest.mark.parametrize(
    ("family", "form"), [(f, n) for f in with_verb("predict") for n in CLASSIFIED if n in forms_of(f)]
)
def test_classes_follow_bayes_rule(family, form):
    """As many components as classes, every row labelled: P(y | x) = P(y) p(x | y) / p(x) with the same model's parts."""
    data = FORMS[form].make(150, 3)
    y = np.array(["low", "mid", "top"])[np.argsort(np.argsort(np.nan_to_num(numbers(data)).sum(1))) // 50]
    model = learn(family, data, y, seed=0)
    proba = model.predict_proba(data)
    assert proba.shape == (150, 3)
    assert model.classes == ("low", "mid", "top")
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-9)
    if model.log_prob_kind == "exact":
        np.testing.assert_allclose(proba, bayes(model, data), atol=1e-8)
    predicted = model.predict(data)
    assert predicted.dtype == y.dtype
    np.testing.assert_array_equal(predicted, np.array(model.classes)[proba.argmax(1)])
    if not KIT[family].long_chains:  # a machine's few quick steps teach it little
        assert (predicted == y).mean() > 0.5
    model.chunk = 7
    np.testing.assert_allclose(model.predict_proba(data), proba, rtol=1e-9)


@pytest.mark.parametrize("family", [f for f in with_verb("predict") if not catalog.family(f).needs_y])
def test_no_classes_without_y(family):
    from reverie.errors import Unsupported

    model, data = fitted(family, plain_form(family)), FORMS[plain_form(family)].make(9, 1)
    assert "predict" not in model.can
    assert model.classes == ()
    for verb in (model.predict, model.predict_proba):
        with pytest.raises(Unsupported, match="trained without y"):
            verb(data)


@pytest.mark.parametrize("family", with_verb("predict"))
def test_rows_without_a_label(family):
    """A missing label is no error: such rows are learned from and predicted for."""
    form = plain_form(family)
    data = FORMS[form].make(ROWS, 2)
    y = pd.Series(np.where(np.arange(ROWS) % 2, "p", "q")).where(np.arange(ROWS) % 4 < 2)
    model = learn(family, data, y, seed=0)
    assert set(model.predict(data)) <= {"p", "q"}
    np.testing.assert_allclose(model.predict_proba(data).sum(1), 1)


# ---------------------------------------------------------------------- codes


@pytest.mark.parametrize(("family", "form"), [(f, n) for f in with_verb("encode") for n in forms_of(f)])
def test_codes(family, form):
    model, data = fitted(family, form), FORMS[form].make(9, 4)
    codes = model.encode(data)
    assert codes.ndim == 2
    assert len(codes) == 9
    assert codes.shape[1] == model.network.code_width
    assert np.isfinite(codes).all()
    np.testing.assert_array_equal(model.encode(data), codes)


@pytest.mark.parametrize(("family", "form"), [(f, n) for f in with_verb("decode") for n in forms_of(f)])
def test_decoding_gives_the_users_form(family, form):
    model = fitted(family, form)
    width = model.network.code_width
    sample = model.sample(1, seed=0, **KIT[family].quick_sample)
    out = model.decode(np.linspace(0, 1, 4 * width).reshape(4, width))
    assert len(out) == 4
    same_form(out, sample)
    assert len(model.decode([[0.5] * width])) == 1


@pytest.mark.parametrize(("family", "form"), [(f, n) for f in with_verb("reconstruct") for n in forms_of(f)])
def test_reconstruction_is_encode_then_decode(family, form):
    model, data = fitted(family, form), FORMS[form].make(9, 4)
    out = model.reconstruct(data)
    same_form(out, model.sample(1, seed=0, **KIT[family].quick_sample))
    np.testing.assert_allclose(numbers(out), numbers(model.decode(model.encode(data))), rtol=1e-6)


@pytest.mark.parametrize(("family", "form"), [(f, n) for f in with_verb("interpolate") for n in forms_of(f)])
def test_interpolation_runs_from_row_to_row(family, form):
    model, a, b = fitted(family, form), FORMS[form].make(3, 4), FORMS[form].make(3, 5)
    path = model.interpolate(a, b, steps=5)
    assert len(path) == 15
    same_form(path, model.reconstruct(a))
    # Rounding may move a grey level or a bit that sits on an edge; numbers agree to float32.
    ends = numbers(path)
    for rows, want in ((ends[0::5], model.reconstruct(a)), (ends[4::5], model.reconstruct(b))):
        off = np.abs(rows - numbers(want)) > 1e-4 * (1 + np.abs(rows))
        assert off.mean() < 0.01


@pytest.mark.parametrize("family", with_verb("energy"))
def test_energy_is_minus_log_prob_up_to_a_constant(family):
    model, data = fitted(family, "bool table"), FORMS["bool table"].make(30, 4)
    gap = model.energy(data) + model.log_prob(data)
    assert np.ptp(gap) < 1e-9


# ---------------------------------------------------------------------- holes


@pytest.mark.parametrize(("family", "form"), [(f, n) for f in with_verb("impute") for n in forms_of(f)])
def test_imputation_fills_holes_and_nothing_else(family, form):
    data = FORMS[form].make(14, 6)
    model = fitted(family, form)
    if isinstance(data, pd.DataFrame):
        holes = data.copy()
    elif data.dtype == bool or data.dtype.kind in "iu":
        holes = data.astype(float)
        holes[np.random.default_rng(0).random(holes.shape) < 0.2] = np.nan
    else:
        holes = data.copy()
        holes[np.random.default_rng(0).random(holes.shape) < 0.2] = np.nan
    before = holes.copy()
    results = [model.impute(holes), *model.impute(holes, n_draws=2, seed=1)]
    assert len(results) == 3
    for filled in results:
        if isinstance(data, pd.DataFrame):
            assert not filled.isna().any().any()
            assert list(filled.dtypes) == list(data.dtypes)
            for name in data.columns:
                kept = data[name].notna()
                pd.testing.assert_series_equal(filled.loc[kept, name], data.loc[kept, name])
        else:
            assert filled.dtype == data.dtype
            seen = ~np.isnan(holes)
            assert np.isfinite(filled.astype(float)).all()
            np.testing.assert_array_equal(filled[seen], data[seen])
    if isinstance(holes, pd.DataFrame):
        pd.testing.assert_frame_equal(holes, before)
    else:
        np.testing.assert_array_equal(holes, before)
    assert not np.array_equal(numbers(results[1]), numbers(results[2]))
    again = model.impute(holes, n_draws=2, seed=1)[1]
    np.testing.assert_array_equal(numbers(again), numbers(results[2]))


@pytest.mark.parametrize("family", with_verb("impute"))
def test_imputing_complete_rows_gives_them_back(family):
    form = next(name for name in forms_of(family) if not FORMS[name].holes)
    data = FORMS[form].make(8, 6)
    np.testing.assert_array_equal(fitted(family, form).impute(data), data)
