"""What goes wrong is said: a named error, a message with what to do, nothing written over, and nothing else changed.

Each row of CAUSES is one cause for the families it touches. Broken files are in tests/unit/data; broken checkpoints byte
by byte in tests/unit/core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract_kit import (
    FAMILIES,
    FORMS,
    KIT,
    colour_images,
    conditional,
    data_set,
    fitted,
    fitted_conditional,
    float_table,
    grey_images,
    integer_table,
    labelled,
    labelled_families,
    learn,
    mixed_frame,
    plain_form,
    with_verb,
    y_for,
)

import reverie as rv
from reverie import serial
from reverie.config import replace
from reverie.data.sources.load import as_dataset
from reverie.errors import (
    CheckpointError,
    DataError,
    Diverged,
    InvalidOption,
    ReverieError,
    RunConflict,
    SchemaMismatch,
    Unsupported,
    UnsupportedData,
)
from reverie.learning.training import Training

NUMERIC = [family for family in FAMILIES if "number" in rv.catalog.family(family).kinds]
BITS = [family for family in FAMILIES if rv.catalog.family(family).bits]
WHOLE = [family for family in FAMILIES if not rv.catalog.family(family).holes]
BITS_WHOLE = [family for family in BITS if family in WHOLE]
SCORERS = with_verb("log_prob")
NUMERIC_SCORERS = [family for family in SCORERS if family in NUMERIC]
FRAMES = [family for family in SCORERS if {"number", "category"} <= set(rv.catalog.family(family).kinds)]
LABELS = labelled_families()
FREE = [family for family in LABELS if not rv.catalog.family(family).needs_y]
NO_LABELS = [family for family in FAMILIES if family not in LABELS]
MIXTURES = [family for family in FAMILIES if KIT[family].size == "components"]
EM = [*MIXTURES, "naive_bayes"]
CLASSIFIERS = with_verb("predict")
"""They live with rows whose class is not given."""
DENSE = ["gmm", "bayesian_gmm", "student_mixture"]
PICTURES = [family for family in SCORERS if "image" in rv.catalog.family(family).kinds]
DECODERS = with_verb("decode")
ONE_PASS = ["naive_bayes", "hopfield", "adversarial_forest", "unmasking_trees"]
LEARNED_BY_STEPS = [family for family in FAMILIES if family not in EM and family not in ONE_PASS]
SIZED = [family for family in FAMILIES if KIT[family].size is not None]


@dataclass(frozen=True)
class Cause:
    name: str
    families: list[str]
    call: Callable[[str], Any]
    error: type[ReverieError]
    message: str


def data_of(family: str, n: int = 60) -> np.ndarray:
    return FORMS[plain_form(family)].make(n, 0)


def fit(family: str, X: Any = None, y: Any = None, recipe: dict[str, Any] | None = None, **options: Any) -> Any:
    made = replace(KIT[family].recipe, **(recipe or {}))
    return learn(family, data_of(family) if X is None else X, y, recipe=made, **options)


def quick(family: str, **options: Any) -> Any:
    """The kit's recipe without the kit's budget."""
    X = data_of(family)
    return KIT[family].recipe.fit(X, y_for(family, X), **options)


def model(family: str) -> Any:
    return fitted(family, plain_form(family))


def score(family: str, form: str, X: Any) -> Any:
    """`log_prob`, or `energy` where the data rule the first out."""
    trained = fitted(family, form)
    return trained.log_prob(X) if "log_prob" in trained.can else trained.energy(X)


def sized(family: str, value: Any) -> Any:
    """The recipe with another value of the option that sets its size."""
    return replace(KIT[family].recipe, **{str(KIT[family].size): value})


def poke(X: np.ndarray, value: float) -> np.ndarray:
    X = X.astype(float)
    X[3, 1] = value
    return X


def frame(**changes: Any) -> pd.DataFrame:
    return mixed_frame(20, 4, holes=0).assign(**changes)


CAUSES = [
    # ------------------------------------------------------------------ data to learn from
    Cause("no rows", FAMILIES, lambda f: fit(f, data_of(f)[:0]), DataError, r"shape \(0, \d\): there is nothing to learn"),
    Cause("no rows in a frame", FAMILIES, lambda f: fit(f, pd.DataFrame({"a": []})), DataError, "DataFrame has no rows"),
    Cause("no columns", FAMILIES, lambda f: fit(f, np.zeros((5, 0))), DataError, "nothing to learn"),
    Cause("a frame without columns", FAMILIES, lambda f: fit(f, pd.DataFrame(index=range(3))), DataError, "no columns"),
    Cause("a single number", FAMILIES, lambda f: fit(f, np.float64(3)), DataError, "single number|give a DataFrame"),
    Cause("None", FAMILIES, lambda f: f and KIT[f].recipe.fit(None), DataError, "X is a NoneType: give a DataFrame, an array"),
    Cause("a dictionary", FAMILIES, lambda f: fit(f, {"a": [1, 2]}), DataError, r"give pd\.DataFrame\(X\)"),
    Cause("a Series", FAMILIES, lambda f: fit(f, pd.Series([1.0, 2.0])), DataError, r"give X\.to_frame\(\)"),
    Cause("infinity", NUMERIC, lambda f: fit(f, poke(data_of(f), np.inf)), DataError, "row 3, column 1 is infinite: replace"),
    Cause("holes in bits", BITS_WHOLE, lambda f: fit(f, as_dataset(poke(data_of(f), np.nan), kinds={"x": "boolean"})),
          UnsupportedData, r"missing cells, which \w+ does not take\. Drop or fill.*imputes: table_mixture, .*vae$"),
    Cause("a column without values", NUMERIC, lambda f: fit(f, np.column_stack([np.zeros(9), np.full(9, np.nan)])),
          DataError, "column 1 has no value in any row: drop it"),
    Cause("a constant column", DENSE, lambda f: fit(f, np.column_stack([data_of(f), np.full(60, 2.5)])),
          UnsupportedData, r"constant \(2\.5\).*Drop it or give it the role ignore.*: table_mixture, .*vae, gan"),
    Cause("mixed objects", FAMILIES, lambda f: fit(f, pd.DataFrame({"a": [1, "x", 2.5]})), DataError,
          r"column 'a' mixes types, such as 1 and 'x'.*astype\(str\).*to_numeric"),
    Cause("an array of objects", FAMILIES, lambda f: fit(f, np.array([[1, "x"], [2, "y"]], dtype=object)), DataError,
          r"holds Python objects: give X\.astype\(float\)"),
    Cause("an array of text", FAMILIES, lambda f: fit(f, np.array([["a", "b"]])), DataError, r"pd\.DataFrame\(X\)"),
    Cause("rows of unequal length", FAMILIES, lambda f: fit(f, [[1.0, 2.0], [3.0]]), DataError, "length|sequence"),
    Cause("complex numbers", FAMILIES, lambda f: fit(f, np.ones((4, 2), complex)), DataError, "real and imaginary parts"),
    Cause("channels first", PICTURES, lambda f: fit(f, np.zeros((9, 3, 16, 16), np.uint8)), DataError,
          r"channel-first.*give np\.moveaxis\(X, 1, -1\)"),
    Cause("five channels", PICTURES, lambda f: fit(f, np.zeros((9, 8, 8, 5), np.uint8)), DataError, "1 to 4 channels"),
    Cause("float pictures up to 255", PICTURES, lambda f: fit(f, colour_images(9, 0).astype(float)), DataError,
          r"must lie in \[0, 1\].*divide by 255"),
    Cause("integers that are no bits", BITS, lambda f: fit(f, integer_table(60, 0)), UnsupportedData,
          r"values other than 0 and 1.*: gmm, .*table_mixture, poisson_mixture, .*vae, gan$"),
    Cause("numbers for bits", BITS, lambda f: fit(f, float_table(60, 0)), UnsupportedData,
          r"\w+ cannot learn from 'x' \(number\): it takes boolean, image, integer.*: gmm, .*table_mixture, .*vae, gan$"),
    Cause("numbers that another option takes", ["rbm"], lambda f: fit(f, float_table(60, 0)), UnsupportedData,
          r"visible='mixed' takes numbers and categories too\. Families"),
    Cause("integers that another option takes", ["rbm"], lambda f: fit(f, integer_table(60, 0)), UnsupportedData,
          r"values other than 0 and 1; visible='mixed' takes"),
    Cause("numbers for counts", ["poisson_mixture"], lambda f: fit(f, float_table(60, 0)), UnsupportedData,
          r"poisson_mixture cannot learn from 'x' \(number\): it takes integer\."),
    Cause("counts below 0", ["poisson_mixture"], lambda f: fit(f, integer_table(60, 0) - 9), UnsupportedData,
          r"column 'x\[0\]' holds numbers below 0, which are no counts: leave it out, or use table_mixture"),
    Cause("numbers for categories", ["categorical_mixture"], lambda f: fit(f, frame()), UnsupportedData,
          r"cannot learn from 'size' \(number\).*it takes boolean, category\. Families that can: table_mixture, .*vae, gan$"),
    Cause("categories for numbers", DENSE, lambda f: fit(f, frame()), UnsupportedData,
          r"cannot learn from 'colour' \(category\), 'paid' \(boolean\).*: table_mixture, .*vae, gan$"),
    Cause("ids above 2**24", [f for f in NUMERIC if f not in EM and f not in ONE_PASS],
          lambda f: fit(f, np.random.default_rng(0).integers(0, 2**40, 99)), UnsupportedData,
          "more than float32 can tell apart.*role id"),
    Cause("two columns of one name", FAMILIES, lambda f: fit(f, pd.DataFrame(np.ones((3, 2)), columns=["a", "a"])),
          DataError, "two columns are called 'a': rename"),
    Cause("only ignored columns", FAMILIES, lambda f: fit(f, as_dataset(frame()[["size"]], roles={"size": "ignore"})),
          DataError, "no column (is left to learn from|with the role data)"),
    Cause("negative weights", NUMERIC,
          lambda f: fit(f, data_set(f, pd.DataFrame({"a": [1.0, 2.0, 4.0], "w": [1.0, -1.0, 1.0]}), roles={"w": "weight"})),
          DataError, "weight.*(>= 0|not negative)"),
    # ------------------------------------------------------------------ y
    Cause("y of another length", LABELS, lambda f: fit(f, y=["a"] * 59), DataError, "y has 59 rows and X has 60"),
    Cause("y for a family without", NO_LABELS, lambda f: fit(f, y=["a", "b"] * 30), UnsupportedData,
          r"does not learn from y.*Leave y out.*: .*naive_bayes.*vae, gan$"),
    Cause("no y for a family of classes", ["naive_bayes"], lambda f: KIT[f].recipe.fit(data_of(f)), UnsupportedData,
          r"naive_bayes needs y, the class of each row: fit\(X, y\)\. Without classes use a mixture"),
    Cause("numbers as y of classes", MIXTURES, lambda f: fit(f, y=np.linspace(0, 1, 60)), ReverieError,
          r"vector condition.*Leave y out, or give it the role ignore"),
    Cause("numbers as y of naive Bayes", ["naive_bayes"], lambda f: fit(f, y=np.linspace(0, 1, 60)), UnsupportedData,
          r"naive_bayes needs classes as y, and 'y' holds numbers: cut them into classes.*kinds="),
    Cause("more classes than components", MIXTURES, lambda f: fit(f, y=np.tile(list("abcd"), 15)), DataError,
          r"components=3: y has 4 classes, .*ask for at least as many"),
    Cause("not one label", EM, lambda f: fit(f, y=pd.Series([None] * 60, dtype="category")), DataError,
          "no label in any training row|no value"),
    Cause("float labels", LABELS, lambda f: fit(f, y=np.tile([0.0, 1.0], 30)), DataError,
          r"classes or numbers\? Give y\.astype\(int\).*kinds="),
    Cause("a missing label", [f for f in LABELS if f not in CLASSIFIERS], lambda f: fit(f, y=[None] + ["a"] * 59), DataError, "no value in row 0"),
    Cause("a single label", LABELS, lambda f: fit(f, y=3), DataError, "y is the single value 3"),
    Cause("y names no column", LABELS, lambda f: fit(f, frame(), y="sise"), DataError,
          r"y='sise' is no column, did you mean 'size'\?"),
    Cause("y names a column of an array", LABELS, lambda f: fit(f, y="income"), DataError, "names a column, but X is an array"),
    Cause("one-hot labels", LABELS, lambda f: fit(f, y=np.eye(2, dtype=int)[np.tile([0, 1], 30)]), DataError, "argmax"),
    Cause("an unknown label", conditional(), lambda f: fitted_conditional(f).sample(3, y="d"), SchemaMismatch,
          r"no class 'd'.*Classes: 'a', 'b', 'c'"),
    Cause("labels of another length", conditional(), lambda f: fitted_conditional(f).sample(3, y=["a", "b"]), SchemaMismatch,
          "y has 2 rows where 3 are wanted"),
    Cause("y without having been trained so", [f for f in FAMILIES if f not in LABELS or f in FREE], lambda f: model(f).sample(3, y="a"), InvalidOption,
          "was trained without y. Fit it with y, or leave y out"),
    Cause("scoring with y without having been trained so", [f for f in SCORERS if f not in LABELS or f in FREE], lambda f: model(f).log_prob(data_of(f), y=["a"] * 60),
          ReverieError, "without (y|a condition).*[Ll]eave y out|leave y out"),
    Cause("encoding without y", [f for f in LABELS if f in with_verb("reconstruct") and f not in CLASSIFIERS],
          lambda f: fitted_conditional(f).encode(labelled()[0]), InvalidOption, "trained with y: pass y"),
    Cause("decoding without y", [f for f in LABELS if f in DECODERS and f not in CLASSIFIERS],
          lambda f: fitted_conditional(f).decode(np.zeros((2, KIT[f].recipe.latent))), InvalidOption, "trained with y: pass y"),
    # ------------------------------------------------------------------ data to score
    Cause("a renamed column", FRAMES, lambda f: fitted(f, "mixed frame").log_prob(frame().rename(columns={"size": "sizes"})),
          SchemaMismatch, "column 'size' is missing, did you mean 'sizes'"),
    Cause("a missing column", FRAMES, lambda f: fitted(f, "mixed frame").log_prob(frame().drop(columns="count")),
          SchemaMismatch, "column 'count' is missing.*Columns given"),
    Cause("an extra column", FRAMES, lambda f: fitted(f, "mixed frame").log_prob(frame(extra=1.0)), SchemaMismatch,
          r"column 'extra' is not known.*Drop it"),
    Cause("an unseen category", [f for f in FRAMES if f != "naive_bayes"], lambda f: fitted(f, "mixed frame").log_prob(frame(colour="pink")), SchemaMismatch,
          r"colour.*pink"),
    Cause("text for numbers", FRAMES, lambda f: fitted(f, "mixed frame").log_prob(frame(size="big")), SchemaMismatch, "size"),
    Cause("fractions for integers", FRAMES, lambda f: fitted(f, "mixed frame").log_prob(frame(count=1.5)), SchemaMismatch,
          "count"),
    Cause("an array for a frame", FRAMES, lambda f: fitted(f, "mixed frame").log_prob(np.zeros((3, 6))), SchemaMismatch,
          "where a DataFrame with the columns size, count"),
    Cause("a frame for an array", SCORERS, lambda f: model(f).log_prob(pd.DataFrame(data_of(f))), SchemaMismatch,
          r"give X\.to_numpy\(\)"),
    Cause("too few columns", SCORERS, lambda f: model(f).log_prob(data_of(f)[:, :1]), SchemaMismatch,
          r"shape \(60, 1\) where \(n, \d\) is wanted"),
    Cause("one row without its axis", SCORERS, lambda f: model(f).log_prob(data_of(f)[0]), SchemaMismatch, r"give X\[None\]"),
    Cause("no rows to score", SCORERS, lambda f: model(f).log_prob(data_of(f)[:0]), InvalidOption, "X has no rows"),
    Cause("infinity to score", NUMERIC_SCORERS, lambda f: model(f).log_prob(poke(data_of(f), -np.inf)), SchemaMismatch,
          "row 3, column 1 is infinite"),
    Cause("other values than bits", BITS, lambda f: model(f).log_prob(poke(data_of(f), 2.0)), SchemaMismatch,
          "true or false .1 or 0. here, but has other values"),
    Cause("holes to score", [f for f in SCORERS if f in WHOLE], lambda f: model(f).log_prob(poke(data_of(f), np.nan)), UnsupportedData,
          r"missing cells, which \w+ does not take\. Drop or fill"),
    Cause("pictures of another size", PICTURES, lambda f: score(f, "grey images", grey_images(3, 0)[:, :15]),
          SchemaMismatch, r"\(3, 15, 12\) where \(n, 16, 12\) is wanted"),
    Cause("pictures with other channels", PICTURES, lambda f: score(f, "colour images", colour_images(3, 0)[..., 0]),
          SchemaMismatch, r"where \(n, 8, 8, 3\) is wanted"),
    Cause("float pictures for uint8", PICTURES, lambda f: score(f, "grey images", grey_images(3, 0) / 255),
          SchemaMismatch, r"give \(X \* 255\)\.round\(\)"),
    Cause("another data set", FAMILIES, lambda f: rv.finetune(model(f), data_set(f, data_of(f)[:, :1]), epochs=1),
          SchemaMismatch, "shape"),
    Cause("holes where training had none", ["gan"], lambda f: rv.finetune(model(f), poke(data_of(f), np.nan), epochs=1),
          UnsupportedData, "missing cells, which gan does not take. Drop or fill"),
    # ------------------------------------------------------------------ verbs
    *(
        Cause(f"sample of {n!r}", FAMILIES, lambda f, n=n: model(f).sample(n), InvalidOption,
              "n: expected a whole number of at least 1")
        for n in (0, -3, True, 2.5, "3", None, np.nan)
    ),
    *(
        Cause(f"seed {seed!r}", FAMILIES, lambda f, seed=seed: model(f).sample(2, seed=seed), InvalidOption,
              "seed: expected a whole number")
        for seed in (1.5, "1", True)
    ),
    Cause("a text as seed of log_prob", SCORERS, lambda f: model(f).log_prob(data_of(f), seed="a"), InvalidOption, "seed"),
    Cause("a text as seed of impute", with_verb("impute"), lambda f: model(f).impute(data_of(f), seed="a"), InvalidOption, "seed"),
    Cause("no draws", with_verb("impute"), lambda f: model(f).impute(data_of(f), n_draws=0), InvalidOption, "n_draws"),
    Cause("an unknown option of sample", FAMILIES, lambda f: model(f).sample(2, temprature=1), InvalidOption,
          r"sample: temprature: no such option of \w+.*Options: "),
    Cause("an unknown option of log_prob", SCORERS, lambda f: model(f).log_prob(data_of(f), smaples=3), InvalidOption,
          "log_prob: smaples: no such option"),
    Cause("no dequantisation", SCORERS, lambda f: model(f).log_prob(data_of(f), dequantisation=0), InvalidOption,
          "dequantisation: expected a whole number of at least 1"),
    Cause("no sweeps", ["rbm", "hopfield"], lambda f: model(f).sample(2, sweeps=0), InvalidOption, "sweeps: expected a whole number"),
    Cause("half a draw", ["vae"], lambda f: model(f).log_prob(data_of(f), samples=1.5), InvalidOption, "samples: expected"),
    Cause("codes of another width", DECODERS, lambda f: model(f).decode(np.zeros((2, 77))), InvalidOption,
          r"of shape \(n, \d+\); got \(2, 77\)"),
    Cause("codes on one axis", DECODERS, lambda f: model(f).decode(np.zeros(3)), InvalidOption, r"got \(3,\)"),
    Cause("codes with NaN", DECODERS, lambda f: model(f).decode(np.full((1, model(f).network.code_width), np.nan)),
          InvalidOption, "finite"),
    Cause("codes of text", DECODERS, lambda f: model(f).decode([["a"]]), InvalidOption, "array of numbers"),
    Cause("ragged codes", DECODERS, lambda f: model(f).decode([[1.0], [1.0, 2.0]]), InvalidOption, "array of numbers"),
    Cause("unequal ends", with_verb("interpolate"), lambda f: model(f).interpolate(data_of(f)[:3], data_of(f)[:2]),
          InvalidOption, "a has 3 rows and b 2; give as many"),
    Cause("one step", with_verb("interpolate"), lambda f: model(f).interpolate(data_of(f), data_of(f), steps=1),
          InvalidOption, "steps: expected a whole number of at least 2"),
    Cause("attribution by a family of complete rows", ["dbm", "hopfield"], lambda f: model(f).anomaly_attribution(data_of(f)), Unsupported,
          r"\w+ scores complete rows only; families that can: gmm, .*vae$"),
    Cause("attribution without scores", ["gan"], lambda f: model(f).anomaly_attribution(data_of(f)), Unsupported,
          r"gan can't log_prob; families that can: gmm"),
    Cause("attribution of pictures", [f for f in PICTURES if rv.catalog.family(f).holes],
          lambda f: fitted(f, "grey images").anomaly_attribution(grey_images(3, 0)), Unsupported, "columns of tables, not for image"),
    Cause("a device that is not there", [] if torch.cuda.is_available() else FAMILIES, lambda f: model(f).to("cuda"), InvalidOption,
          "device 'cuda': no CUDA device is visible"),
    Cause("a device of no such name", FAMILIES, lambda f: model(f).to("banana"), InvalidOption, "no such device as 'banana'"),
    Cause("densities of repeated values", ["naive_bayes"],
          lambda f: fit(f, integer_table(60, 0), recipe={"numeric": "density"}).log_prob(integer_table(60, 0)), Unsupported,
          r"this naive_bayes can't log_prob: 'x\[0\]' was given a density.*numeric='exact'"),
    Cause("classes asked of a mixture without names", MIXTURES, lambda f: model(f).predict(data_of(f)), Unsupported,
          r"can't predict: it was trained without y"),
    Cause("another number of columns to classify", ["naive_bayes"], lambda f: model(f).predict(data_of(f)[:, :2]), SchemaMismatch,
          r"shape \(60, 2\)"),
    Cause("a factor for every column", ["gmm"], lambda f: fit(f, recipe={"covariance": "low-rank", "rank": 3}), InvalidOption,
          "rank=3: must be below the number of columns, 3"),
    Cause("a negative floor", ["gmm", "student_mixture", "table_mixture", "naive_bayes"],
          lambda f: replace(KIT[f].recipe, floor=-1.0), InvalidOption, "floor: .*greater than or equal to 0"),
    Cause("a negative memory", [f for f in MIXTURES if f != "bayesian_gmm"], lambda f: replace(KIT[f].recipe, memory=-1.0),
          InvalidOption, "memory: .*greater than or equal to 0"),
    Cause("a memory of nothing", [f for f in MIXTURES if f != "bayesian_gmm"],
          lambda f: replace(KIT[f].recipe, memory=5.0).fit(data_of(f)), InvalidOption, r"memory: .*fit\(X, start=model\)"),
    Cause("no restarts", MIXTURES, lambda f: replace(KIT[f].recipe, restarts=0), InvalidOption, "restarts: .*equal to 1"),
    Cause("too few degrees of freedom", ["student_mixture"], lambda f: replace(KIT[f].recipe, degrees=0.1), InvalidOption,
          "degrees: .*equal to 0.5"),
    Cause("imputing without the verb", [f for f in FAMILIES if f not in with_verb("impute")],
          lambda f: model(f).impute(data_of(f)), Unsupported, r"can't impute; families that can: gmm, .*rbm, .*vae"),
    Cause("scoring without the verb", [f for f in FAMILIES if f not in SCORERS], lambda f: model(f).log_prob(data_of(f)),
          Unsupported, r"\w+ can't log_prob; families that can: gmm, .*rbm, .*vae\. This model can: decode, .*sample"),
    # ------------------------------------------------------------------ recipes and training
    Cause("an unknown option of a recipe", FAMILIES, lambda f: type(KIT[f].recipe)(latnet=3), InvalidOption, "no such option"),
    Cause("True for a number", SIZED, lambda f: sized(f, True), InvalidOption,
          "expected a number, got True"),
    Cause("text for a number", SIZED, lambda f: sized(f, "3"), InvalidOption,
          "expected a number, got the text '3'"),
    Cause("no units", SIZED, lambda f: sized(f, 0), InvalidOption, "greater than or equal to 1"),
    Cause("a negative learning rate", LEARNED_BY_STEPS, lambda f: replace(KIT[f].recipe, lr=-1.0), InvalidOption, "lr: .*greater than 0"),
    Cause("an infinite learning rate", LEARNED_BY_STEPS, lambda f: replace(KIT[f].recipe, lr=float("inf")), InvalidOption, "lr: .*finite"),
    Cause("an unknown option of training", FAMILIES, lambda f: fit(f, epoch=3), InvalidOption,
          r"Training: epoch: no such option, did you mean 'epochs'\?"),
    Cause("a dictionary for Training", FAMILIES, lambda f: fit(f, training={"epochs": 3}), InvalidOption,
          "training: expected a Training, got dict"),
    Cause("True epochs", FAMILIES, lambda f: fit(f, epochs=True), InvalidOption, "epochs: expected a number, got True"),
    Cause("half an epoch", FAMILIES, lambda f: fit(f, epochs=2.5), InvalidOption, "epochs"),
    Cause("negative epochs", FAMILIES, lambda f: fit(f, epochs=-1), InvalidOption, "epochs: .*greater than or equal to 0"),
    Cause("no steps", FAMILIES, lambda f: quick(f, steps=0), InvalidOption, "steps"),
    Cause("no minutes", FAMILIES, lambda f: quick(f, minutes=0), InvalidOption, "minutes"),
    Cause("no rows in a batch", FAMILIES, lambda f: fit(f, batch_size=0), InvalidOption, "batch_size"),
    Cause("two budgets", FAMILIES, lambda f: fit(f, steps=3), InvalidOption, "give one of epochs, steps and minutes"),
    Cause("two budgets, one in Training", FAMILIES, lambda f: quick(f, training=Training(minutes=1), steps=3),
          InvalidOption, "not steps and minutes"),
    Cause("patience without validation", FAMILIES, lambda f: fit(f, patience=3), InvalidOption, "set validation=0.1"),
    Cause("patience without objective", ["rbm", "gan"], lambda f: fit(f, patience=3, validation=0.2), InvalidOption,
          "patience: phase 'train' has no objective to watch.*leave patience out"),
    Cause("ema for EM", EM, lambda f: fit(f, ema=0.9), InvalidOption, r"ema: phase '\w+' has no gradient steps.*leave ema out"),
    Cause("all rows for validation", FAMILIES, lambda f: fit(f, validation=1.0), InvalidOption, "validation: .*less than 1"),
    Cause("validation leaves nothing", FAMILIES, lambda f: fit(f, data_of(f)[:2], validation=0.99), InvalidOption,
          r"too few rows \(2\)"),
    Cause("more components than rows", MIXTURES, lambda f: fit(f, recipe={"components": 61}), DataError,
          "components=61: there are only 60 training rows; ask for at most as many"),
    Cause("no such device", FAMILIES, lambda f: fit(f, device="gpu"), InvalidOption, "'auto', 'cpu', 'cuda' or 'mps'"),
    Cause("a device that is not here", [] if torch.cuda.is_available() else FAMILIES, lambda f: fit(f, device="cuda"),
          InvalidOption, "no CUDA device is visible.*use device='cpu'"),
    Cause("no devices", FAMILIES, lambda f: fit(f, devices=0), InvalidOption, "devices"),
    Cause("more devices than rows", FAMILIES, lambda f: fit(f, data_of(f)[:3], devices=4), InvalidOption,
          r"devices=4: more processes than rows \(3\)"),
    Cause("callbacks that cannot be called", FAMILIES, lambda f: fit(f, callbacks=(3,)), InvalidOption, "callbacks"),
    Cause("a convolution for a table", ["vae", "gan"], lambda f: fit(f, recipe={"encoder" if f == "vae" else "generator": "conv"}),
          InvalidOption, r"ConvNet needs pictures.*use MLP"),
]  # fmt: skip

ROWS = [(cause, family) for cause in CAUSES for family in cause.families]


def test_there_are_sixty_causes_and_more():
    assert len({cause.name for cause in CAUSES}) == len(CAUSES) >= 60


@pytest.mark.parametrize(("cause", "family"), ROWS, ids=[f"{cause.name}-{family}" for cause, family in ROWS])
def test_cause(cause: Cause, family: str):
    with pytest.raises(cause.error, match=f"(?s){cause.message}") as caught:
        cause.call(family)
    text = str(caught.value)
    assert "\n" not in text or cause.error is InvalidOption
    assert 8 < len(text) < 600, text


@pytest.mark.parametrize("family", FAMILIES)
def test_one_row_is_allowed_and_warned_of_or_refused(family):
    try:
        made = fit(family, data_of(family)[:1])
    except DataError as error:
        assert "constant" in str(error) or "only 1 training rows" in str(error)  # noqa: PT017
    else:
        assert any("single row" in text for text in made.warnings)


# ---------------------------------------------------------------------- folders


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def refuse_out(root: Path, out: Path, error: type[ReverieError], message: str) -> None:
    before = tree(root)
    with pytest.raises(error, match=message):
        fit("gmm", out=str(out))
    assert tree(root) == before


def test_out_that_holds_a_run(tmp_path):
    fit("gmm", out=str(tmp_path / "run"))
    refuse_out(tmp_path, tmp_path / "run", RunConflict, "already holds a run: resume it, or choose another out")


def test_out_that_is_not_empty(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    refuse_out(tmp_path, tmp_path, RunConflict, "is not empty and holds no run: choose a new or empty folder")


def test_out_that_is_a_saved_model(tmp_path):
    model("gmm").save(tmp_path / "m")
    refuse_out(tmp_path, tmp_path / "m", RunConflict, "is not empty")


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    refuse_out(tmp_path, tmp_path / "file", CheckpointError, "cannot create .*Choose a folder you may write to")
    refuse_out(tmp_path, tmp_path / "file" / "deeper", CheckpointError, "cannot create")


def test_out_that_is_read_only(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    if os.access(tmp_path / "locked", os.W_OK):
        refuse_out(tmp_path, Path("/proc/reverie"), CheckpointError, "cannot create /proc/reverie")
    else:
        refuse_out(tmp_path, tmp_path / "locked" / "run", CheckpointError, "cannot create")
        refuse_out(tmp_path, tmp_path / "locked", CheckpointError, "cannot write")


def test_two_writers_on_one_run(tmp_path):
    X = data_of("gmm")
    fit("gmm", X, out=str(tmp_path / "run"))
    lock = serial.Lock(tmp_path / "run")
    before = tree(tmp_path)
    with pytest.raises(RunConflict, match="being written by another process: wait for it"):
        rv.resume(tmp_path / "run", X, epochs=9)
    lock.release()
    assert tree(tmp_path) == before
    assert len(rv.resume(tmp_path / "run", X, epochs=5).history) == 5


def test_two_runs_at_once_into_one_folder(tmp_path):
    """The second one starts while the first trains."""
    seen: list[ReverieError] = []

    def second(record: dict[str, Any]) -> None:
        if not seen:
            with pytest.raises(RunConflict) as caught:
                fit("gmm", out=str(tmp_path / "run"))
            seen.append(caught.value)

    fit("gmm", out=str(tmp_path / "run"), callbacks=(second,))
    assert "already holds a run" in str(seen[0])
    assert rv.load(tmp_path / "run").history


@pytest.mark.parametrize("family", FAMILIES)
def test_resume_refuses_another_run_and_names_the_fields(family, tmp_path):
    X = data_of(family)
    run = tmp_path / "run"
    fit(family, X, out=str(run), seed=3)
    before = tree(tmp_path)
    recipe, options = KIT[family].recipe, KIT[family].options
    data = data_set(family, X)
    attempts = [
        (lambda: recipe.fit(data, seed=4, resume=run, **options), "other seed"),
        (lambda: learn(family, X[:-1], seed=3, resume=run), r"data \(other rows or columns\)"),
        (lambda: rv.resume(run, data, batch_size=7), "training.batch_size .*-> 7"),
        (lambda: rv.resume(run, data, clip=1.0), r"training.clip \(None -> 1.0\)"),
    ]
    if KIT[family].size is not None:
        other = sized(family, 5)
        named = f"estimator.{KIT[family].size} .*-> 5"
        attempts.append((lambda: other.fit(data, seed=3, resume=run, **options), named))
    for attempt, message in attempts:
        with pytest.raises(RunConflict, match=f"cannot resume .*{message}.*Start a new run"):
            attempt()
    with pytest.raises(InvalidOption, match="trained on data given in memory: pass them again"):
        rv.resume(run)
    with pytest.raises(InvalidOption, match="give one of epochs, steps"):
        rv.resume(run, data, epochs=9, steps=4)
    assert tree(tmp_path) == before
    if family not in ONE_PASS:  # they have counted, stored or split every row and are done
        phases = KIT[family].phases
        further = rv.resume(run, data, epochs=options["epochs"] + phases)
        assert further.history[-1]["epoch"] == options["epochs"] // phases + 1


def test_resume_in_another_world_size(tmp_path, monkeypatch):
    X = data_of("gmm")
    fit("gmm", X, out=str(tmp_path / "run"))
    config = tmp_path / "run" / "config.json"
    serial.write_json(config, {**serial.read_json(config), "world": 2})
    with pytest.raises(RunConflict, match="other world"):
        rv.resume(tmp_path / "run", X, epochs=9)


def test_resume_of_nothing(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no run \(no config.json\)"):
        rv.resume(tmp_path / "none", data_of("gmm"))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "train.safetensors", "train.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_checkpoint_is_never_resumed_as_if_whole(name, damage, tmp_path):
    X = data_of("gmm")
    run = tmp_path / "run"
    fit("gmm", X, out=str(run))
    path = serial.latest(run) / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        half = len(content) // 2
        broken = (
            content[:half]
            if damage == "truncated"
            else content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        )
        path.write_bytes(broken)
    verb = (lambda: rv.load(run)) if name.startswith("model") else (lambda: rv.resume(run, X, epochs=9))
    with pytest.raises(CheckpointError, match=r"damaged|cannot read|no model.json"):
        verb()


def test_a_failed_resume_lets_go_of_the_folder(tmp_path):
    """While the error is being looked at (a notebook keeps it), the next attempt must not be told of another writer."""
    X, run = data_of("gmm"), tmp_path / "run"
    fit("gmm", X, out=str(run))
    (serial.latest(run) / "train.json").write_text("{")
    config = (run / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="damaged") as caught:
        rv.resume(run, X, epochs=9)
    serial.Lock(run).release()
    assert "train.json" in str(caught.value)
    assert (run / "config.json").read_bytes() == config


# ---------------------------------------------------------------------- training that goes wrong


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ONE_PASS])
def test_a_callback_that_raises_ends_the_run_after_saving(family, tmp_path):
    class Boom(Exception):
        pass

    def callback(record: dict[str, Any]) -> None:
        if record.get("epoch") == 2:
            raise Boom("stop here")

    X, run = data_of(family), tmp_path / "run"
    with pytest.raises(Boom, match="stop here"):
        fit(family, X, epochs=6, out=str(run), callbacks=(callback,))
    assert len(rv.load(run).history) == 2
    resumed = rv.resume(run, X)
    whole = fit(family, X, epochs=6)
    assert len(resumed.history) == 6
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor), name


@pytest.mark.parametrize("family", [f for f in LEARNED_BY_STEPS if f not in BITS])
@pytest.mark.parametrize("ema", [0, 0.9])
@pytest.mark.parametrize("saved", [True, False])
def test_divergence_keeps_the_last_good_state(family, ema, saved, tmp_path):
    """lr = 1e30 with plain descent overflows at once: a named error with advice, and finite weights in its hands."""
    out = {"out": str(tmp_path / "run")} if saved else {}
    with pytest.raises(Diverged, match=r"not finite.*smaller learning rate") as caught:
        fit(family, recipe={"lr": 1e30, "optimizer": "sgd"}, epochs=5, ema=ema, **out)
    assert caught.value.model is not None
    for name, tensor in caught.value.model.network.state_dict().items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("family", [f for f in LEARNED_BY_STEPS if f not in BITS])
@pytest.mark.parametrize("ema", [0, 0.9])
def test_divergence_leaves_a_loadable_run(family, ema, tmp_path):
    """What is on disk is the last good state, and it samples."""
    with pytest.raises(Diverged, match=r"smaller learning rate, clip=1\.0"):
        fit(family, recipe={"lr": 1e30, "optimizer": "sgd"}, epochs=5, ema=ema, out=str(tmp_path / "run"))
    kept = rv.load(tmp_path / "run")
    for tensor in kept.network.state_dict().values():
        assert torch.isfinite(tensor).all()
    assert np.isfinite(kept.sample(3, seed=0)).all()


def test_divergence_names_the_checkpoint_of_step_0(tmp_path):
    with pytest.raises(Diverged) as caught:
        fit("vae", recipe={"lr": 1e30, "optimizer": "sgd"}, epochs=5, out=str(tmp_path / "run"))
    assert str(tmp_path / "run") in str(caught.value)
    rv.load(caught.value.checkpoint)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_failed_fit_leaves_no_half_a_model(family, tmp_path):
    """Refusals before the first step write nothing at all."""
    run = tmp_path / "run"
    with pytest.raises(ReverieError):
        fit(family, poke(data_of(family), np.inf), out=str(run))
    with pytest.raises(ReverieError):
        fit(family, pd.DataFrame({"a": [b"x", b"y"]}), out=str(run))
    assert not run.exists()


def test_options_a_rule_cannot_honour_are_refused_before_anything_is_written(tmp_path):
    for family, options in (
        ("gan", {"validation": 0.1}),
        ("gan", {"validation": 0.1, "patience": 2}),
        ("gmm", {"ema": 0.9}),
    ):
        with pytest.raises(InvalidOption, match=r"leave (validation|patience|ema) out"):
            fit(family, data_of(family), out=str(tmp_path / "run"), **options)
        assert not (tmp_path / "run").exists()
