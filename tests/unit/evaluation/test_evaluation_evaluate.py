"""`evaluate` on models whose figures are known."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from evaluation_fakes import FakeEstimator, FakeModel, as_dataset, digits, normal_data, normal_model, people

from reverie.data.sources import toys
from reverie.errors import DataError, InvalidOption, SchemaMismatch
from reverie.evaluation import evaluate


@pytest.fixture(scope="module")
def normals():
    return normal_data(700, 3, seed=1), normal_data(350, 3, seed=2)


@pytest.fixture(scope="module")
def true_report(normals):
    train, test = normals
    return evaluate(normal_model(train), test, train)


def test_the_true_model_is_indistinguishable(true_report):
    row = true_report.row("log p(x)")
    expected = -1.5 * (1 + math.log(2 * math.pi))
    assert row.kind == "exact"
    assert row.measure == "Lebesgue"
    # sd of a row's nats is sqrt(3/2); 4 standard errors at n = 350.
    assert row.value == pytest.approx(expected, abs=4 * math.sqrt(1.5 / 350))
    assert row.high - row.value == pytest.approx(math.sqrt(1.5 / 350), rel=0.25)
    for row in true_report.rows:
        if row.kind in ("distance", "marginals"):
            assert row.n_real == row.n_gen == 350
            assert row.floor_sd > 0
            assert row.z < 4
            assert row.low <= row.value <= row.high
    assert true_report.row("coverage[table]").floor == pytest.approx(0.97, abs=0.02)
    assert true_report.row("nearer to train").p > 0.001
    assert true_report.row("exact copies of train rows").value == 0
    gap = true_report.row("train − test gap of log p(x)")
    assert gap.verdict == "no gap beyond noise"
    assert gap.floor_sd == pytest.approx(math.sqrt(1.5 / 350 + 1.5 / 700), rel=0.15)
    assert not any(finding.tone == "bad" for finding in true_report.summary)
    assert "bits/dim" not in {row.name for row in true_report.rows}
    assert not any("fid" in row.name for row in true_report.rows)


def test_one_seed_one_report(normals, true_report):
    train, test = normals
    again = evaluate(normal_model(train), test, train)
    assert [row.value for row in again.rows] == [row.value for row in true_report.rows]
    assert [row.floor for row in again.rows] == [row.floor for row in true_report.rows]
    other = evaluate(normal_model(train), test, train, seed=1)
    assert other.row("kid[table]").value != again.row("kid[table]").value


def test_a_shift_reads_what_theory_says(normals):
    train, test = normals
    report = evaluate(normal_model(train, shift=0.8), test, train)
    # SW2^2 of a shift is |mu|^2 / d = .64; 128 directions and n = 350 leave some 10 %.
    assert report.row("sliced w2[table]").value ** 2 == pytest.approx(0.64, rel=0.2)
    # KS of two normals 0.8 apart: 2 Phi(0.4) - 1; noise of KS at n = 350 is about .03.
    assert report.row("mean KS of columns").value == pytest.approx(2 * NormalDist().cdf(0.4) - 1, abs=0.06)
    assert "x the floor" in report.row("sliced w2[table]").verdict
    assert report.row("kid[table]").z > 5
    assert any("Furthest off" in finding.text for finding in report.summary)


def test_sets_are_drawn_at_the_same_n_with_different_seeds(normals):
    train, test = normals
    model = normal_model(train)
    report = evaluate(model, test, n=100)
    assert [n for n, _ in model.calls] == [100] * 3
    assert len({seed for _, seed in model.calls}) == 3
    assert report.row("kid[table]").n_gen == report.row("kid[table]").n_real == 100
    # Without training rows a floor at the same n needs two sets of test rows.
    halved = normal_model(train)
    report = evaluate(halved, test, n=300)
    assert halved.calls[0][0] == 175
    assert any("n=300 was asked for" in note for note in report.notes)
    assert any("Nothing is known about copying" in note for note in report.notes)
    assert not any(row.kind == "memorisation" for row in report.rows)
    standard = normal_model(train)
    evaluate(standard, test, n=60, level="standard")
    assert len(standard.calls) == 5


def test_samples_only_means_no_likelihood_row(normals):
    train, test = normals
    model = normal_model(train)
    model.density = None
    report = evaluate(model, test, train)
    assert not any("log p" in row.name for row in report.rows)
    assert any(note.startswith("No likelihood: this family gives samples only") for note in report.notes)
    assert report.per_row is None


@pytest.mark.parametrize(("gap", "shown"), [(1.4, False), (0.3, True), (math.nan, False)])
def test_an_estimate_with_a_wide_gap_is_withheld(normals, gap, shown):
    train, test = normals
    info = {"method": "AIS, 100 chains", "log_z": 3.0, "standard_error": 0.02, "gap": gap}
    report = evaluate(normal_model(train, log_prob_kind="estimate", log_prob_info=info), test, train, n=50)
    names = [row.name for row in report.rows]
    assert ("log p(x)" in names) == shown
    assert any("withheld" in note for note in report.notes) != shown
    if shown:
        assert "3 standard errors 0.060 nats" in report.row("log p(x)").note


def test_unnormalised_keeps_only_the_gap(normals):
    train, test = normals
    report = evaluate(normal_model(train, log_prob_kind="unnormalised"), test, train, n=50)
    names = [row.name for row in report.rows]
    assert "log p(x)" not in names
    assert "train − test gap of log p(x)" in names


def test_overfitting_and_copying_are_said(normals):
    train, test = normals
    known = np.asarray(train.X)
    rows = {row.tobytes() for row in known}
    model = FakeModel(
        train.schema,
        lambda n, rng: known[rng.integers(0, len(known), n)],
        lambda X, y: np.array([-1.0 if row.tobytes() in rows else -5.0 for row in np.asarray(X)]),
    )
    report = evaluate(model, test, train)
    gap = report.row("train − test gap of log p(x)")
    assert gap.value == 4.0
    assert gap.verdict == "overfits by 4 nats"
    nearer = report.row("nearer to train")
    # Half of the 700 training rows are compared: 1/2 + 1/4 in expectation.
    assert nearer.value == pytest.approx(0.75, abs=0.06)
    assert nearer.p == pytest.approx(1 / 1001)
    assert nearer.verdict == "copies its training data"
    copies = report.row("exact copies of train rows")
    assert (copies.value, copies.verdict) == (1.0, "more than test rows have: copies")
    assert report.row("distance to nearest train row").verdict.startswith("closer to train")
    assert any(finding.text.startswith("It copies") and finding.tone == "bad" for finding in report.summary)


@pytest.mark.parametrize(
    ("copied", "verdict"), [(0.2, "leans towards its training data"), (0.9, "copies its training data")]
)
def test_some_copies_are_leaning_and_most_are_copying(copied, verdict):
    """As many training rows as test rows, so that a share c of copies is nearer to train in 1/2 + c/2 of the cases."""
    train, test = normal_data(500, 3, seed=1), normal_data(500, 3, seed=2)
    known = np.asarray(train.X)

    def draw(n, rng):
        fresh, copies = rng.normal(size=(n, 3)), known[rng.integers(0, len(known), n)]
        return np.where(rng.random((n, 1)) < copied, copies, fresh)

    row = evaluate(FakeModel(train.schema, draw), test, train).row("nearer to train")
    assert row.value == pytest.approx(0.5 + copied / 2, abs=0.06)
    assert row.verdict == verdict
    told = float(row.note.rpartition("as if ")[2].partition("%")[0])
    assert told == pytest.approx(100 * copied, abs=12)


@pytest.mark.parametrize(
    ("spread", "gap", "verdict"),
    [(1.0, 0.2, "overfits by 0.200 nats"), (1.0, 0.1, "no gap beyond noise"), (100.0, 7.0, "no gap beyond noise")],
)
def test_a_gap_is_called_overfitting_from_two_standard_errors_on(normals, spread, gap, verdict):
    """Log-densities `spread` above and below their mean in turn: the gap's error is spread * sqrt(1/700 + 1/350)."""
    train, test = normals
    rows = {row.tobytes() for row in np.asarray(train.X)}

    def log_prob(X, y):
        inside = all(row.tobytes() in rows for row in np.asarray(X))
        return (gap if inside else 0.0) + spread * np.where(np.arange(len(X)) % 2, 1.0, -1.0)

    model = FakeModel(train.schema, lambda n, rng: np.asarray(train.X)[:n], log_prob)
    row = evaluate(model, test, train, n=50).row("train − test gap of log p(x)")
    assert row.value == pytest.approx(gap)
    assert row.floor_sd == pytest.approx(spread * math.sqrt(1 / 700 + 1 / 350), rel=0.01)
    assert row.verdict == verdict


def test_a_discrete_probability_above_one_is_called_impossible():
    rng = np.random.default_rng(0)
    import pandas as pd

    frame = pd.DataFrame({"a": pd.Categorical.from_codes(rng.integers(0, 4, 200), list("wxyz"))})
    train = as_dataset(frame)
    model = FakeModel(
        train.schema,
        lambda n, r: pd.DataFrame({"a": pd.Categorical.from_codes(r.integers(0, 4, n), list("wxyz"))}),
        lambda X, y: np.full(len(X), -math.log(4)),
        measure="counting",
    )
    report = evaluate(model, frame)
    bits = report.row("bits/dim")
    assert bits.value == pytest.approx(2.0)
    assert "a uniform model has 2" in bits.note
    assert bits.direction == "down"
    model.density = lambda X, y: np.full(len(X), 0.5)
    report = evaluate(model, frame)
    assert any(note.startswith("Impossible") for note in report.notes)
    model.density = lambda X, y: np.where(np.arange(len(X)) == 3, -np.inf, -1.0)
    report = evaluate(model, frame)
    assert report.row("log p(x)").value == -math.inf
    assert "1 of 200 test rows" in report.row("log p(x)").note
    report.to_json()


def test_tables_with_missing_cells():
    train, test = people(900, 1), people(400, 2)
    schema = as_dataset(train).schema
    same = FakeModel(schema, lambda n, rng: people(n, int(rng.integers(2**31))))
    report = evaluate(same, test, train)
    for name in ("mean KS of columns", "mean TV of columns", "pair association error", "kid[table]"):
        assert report.row(name).z < 4, name
    wrong = FakeModel(schema, lambda n, rng: people(n, int(rng.integers(2**31)), missing=0.5, rho=False))
    report = evaluate(wrong, test, train)
    # 50 % missing against 10 %: the atom below all numbers alone makes the KS distance at least .4 (noise .04).
    income = report.row("income (KS)")
    assert income.value == pytest.approx(0.42, abs=0.08)
    assert next(row for row in report.rows if row.name.endswith(("(KS)", "(TV)"))) == income
    assert report.row("pair association error").z > 4
    assert report.row("member (TV)").z < 3
    titles = [figure.title for figure in report.figures if figure.section == "columns"]
    assert titles == ["age", "income", "job", "member", "since"]
    assert any("missing: " in figure.caption for figure in report.figures)
    pairs = next(figure for figure in report.figures if figure.section == "pairs")
    assert pairs.header[:4] == ("distance", "row", "age", "income")


@pytest.fixture(scope="module")
def digit_data():
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(images))
    a, b = order[:1000], order[1000:1500]
    return (
        as_dataset(images[a], labels[a], "digits"),
        as_dataset(images[b], labels[b], "digits"),
        (images[a], labels[a]),
    )


def test_images_with_dropped_classes(digit_data):
    train, test, (images, labels) = digit_data
    keep = np.flatnonzero(labels < 6)

    def draw(n, rng):
        rows = keep[rng.integers(0, len(keep), n)]
        return images[rows], labels[rows]

    model = FakeModel(train.schema, draw, estimator=FakeEstimator("gan"))
    report = evaluate(model, test, train)
    names = {row.name for row in report.rows}
    for space in ("pixel-pca", "domain-classifier"):
        for stem in ("fd", "kid", "precision", "recall", "density", "coverage"):
            assert f"{stem}[{space}]" in names
        assert report.row(f"recall[{space}]").z > 4
        assert report.row(f"coverage[{space}]").z > 4
        assert report.row(f"fd[{space}]").features == space
    # The floor of fd by simulation agrees with the analytic one in its note, to second-order terms.
    fd = report.row("fd[pixel-pca]")
    analytic = float(fd.note.split("analytic floor ")[1].split(" ")[0])
    assert fd.floor == pytest.approx(analytic, rel=0.15)
    # Four of ten classes are gone: total variation .4, less the classifier's mistakes and sampling noise.
    assert report.row("class balance").value == pytest.approx(0.4, abs=0.06)
    assert report.row("label agreement").value > 0.97
    assert report.row("label agreement").floor > 0.9
    assert any("right on 500 test rows" in note for note in report.notes)
    assert not any("fid" in name for name in names)
    assert [figure.title for figure in report.figures if figure.section == "samples"] == ["Real", "Generated"]
    assert all(figure.png[:4] == b"\x89PNG" for figure in report.figures if figure.section in ("samples", "pairs"))
    assert report.title == "Generative adversarial network on digits"


def test_labels_serve_the_classifier_of_an_unconditional_model(digit_data):
    train, test, (images, _) = digit_data
    plain = as_dataset(images)
    model = FakeModel(
        plain.schema,
        lambda n, rng: images[rng.integers(0, len(images), n)],
        lambda X, y: np.full(len(X), -100.0),
        "lower bound",
        "counting",
    )
    report = evaluate(model, test, train, n=120)
    names = {row.name for row in report.rows}
    assert "fd[domain-classifier]" in names
    assert "label agreement" not in names
    assert report.row("bits/dim").value == pytest.approx(100 / 64 / math.log(2))
    assert report.row("bits/dim").kind == "lower bound"
    assert "a uniform model has 8" in report.row("bits/dim").note
    model.measure = "counting (pixels binarised stochastically)"
    assert "a uniform model has 1" in evaluate(model, test, train, n=60).row("bits/dim").note
    assert "fd[domain-classifier]" not in {row.name for row in evaluate(model, test, n=60).rows}


def test_labels_are_matched_by_name_not_by_code(digit_data):
    train, _, (images, labels) = digit_data
    few = np.flatnonzero((labels == 2) | (labels >= 8))  # codes 0, 1, 2 stand for 2, 8, 9 here
    small = as_dataset(images[few], labels[few])
    model = FakeModel(train.schema, lambda n, rng: (images[:n], labels[:n]))
    report = evaluate(model, small, train, n=60)
    assert report.row("label agreement").floor > 0.9
    assert any(f"right on {len(few)} test rows" in note for note in report.notes)


def test_modes_are_counted_on_the_ring():
    centres = toys.ring_centres()

    def draw(n, rng, modes=8):
        return centres[rng.integers(0, modes, n)] + 0.01 * rng.normal(size=(n, 2))

    train = as_dataset(draw(600, np.random.default_rng(0)), name="ring8")
    test = as_dataset(draw(400, np.random.default_rng(1)), name="ring8.test")
    report = evaluate(FakeModel(train.schema, draw), test, train)
    assert report.row("modes covered").value == 8
    assert report.row("high-quality share").value == pytest.approx(0.989, abs=0.02)
    poor = evaluate(FakeModel(train.schema, lambda n, rng: draw(n, rng, 5)), test, train)
    assert poor.row("modes covered").value == 5
    assert "Real and generated points" in {figure.title for figure in poor.figures}
    assert any("Parts of the data are missing" in finding.text for finding in poor.summary)


def test_sequences_get_likelihood_only():
    texts = ["one", "two", "three", "four"] * 10
    data = as_dataset(texts)
    model = FakeModel(data.schema, lambda n, rng: ["one"] * n, lambda X, y: np.full(len(X), -2.0), measure="counting")
    report = evaluate(model, data, data)
    assert [row.name for row in report.rows] == ["log p(x)", "train − test gap of log p(x)"]
    assert any("text have no sample-based figures" in note for note in report.notes)


def test_a_split_dataset_gives_the_part_of_that_name():
    whole = normal_data(500).split("random", fractions=(0.6, 0.4), seed=0)
    report = evaluate(normal_model(whole), whole, whole)
    assert (report.data["test_rows"], report.data["train_rows"]) == (200, 300)


def test_bad_calls_say_what_to_do(normals):
    train, test = normals
    model = normal_model(train)
    with pytest.raises(InvalidOption, match="did you mean 'quick'"):
        evaluate(model, test, level="quik")
    with pytest.raises(InvalidOption, match="n=3"):
        evaluate(model, test, n=3)
    with pytest.raises(DataError, match="give 16 test rows, or train="):
        evaluate(model, np.zeros((10, 3)))
    with pytest.raises(DataError, match="at least 4"):
        evaluate(model, np.zeros((2, 3)))
    with pytest.raises(SchemaMismatch):
        evaluate(model, np.zeros((50, 4)))
    small = evaluate(model, np.random.default_rng(0).normal(size=(40, 3)))
    assert small.row("kid[table]").verdict == "n too small to rank"
    assert any("nothing can be ranked" in finding.text for finding in small.summary)
