"""What a model shows of itself in a notebook and in its summary."""

from __future__ import annotations

import numpy as np
import pytest

import reverie as rv
from families import OPTIONS, numeric_rows, rows_for, small_recipes


@pytest.mark.parametrize("family", ["gmm", "table_mixture", "naive_bayes", "rbm", "vae", "gan"])
def test_the_card_of_every_family(family: str) -> None:
    model = small_recipes()[family].fit(rows_for(family), **OPTIONS[family])
    card = model._repr_html_()
    assert card.count("<div>") == card.count("</div>") == 1
    assert f"({family})" in card
    assert "<polyline" in card
    assert "<table" in card
    assert family in model.summary()
    assert "can:" in model.summary()


def test_pictures_for_points_and_images() -> None:
    points = small_recipes()["gmm"].fit(numeric_rows(200, 2), epochs=2)
    assert 'src="data:image/png;base64,' in points._repr_html_()
    digits = rv.load_data("digits", y=False).train
    images = rv.RBM(hidden=8).fit(digits, epochs=2)
    card = images._repr_html_()
    assert 'src="data:image/png;base64,' in card
    assert "&lt;" not in card.split("<svg")[0]


def test_a_model_without_history_has_no_curve() -> None:
    model = small_recipes()["vae"].fit(rows_for("vae"), epochs=0)
    assert "<polyline" not in model._repr_html_()
    assert np.isfinite(model.sample(2, seed=0)).all()
