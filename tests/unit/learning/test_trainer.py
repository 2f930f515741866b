"""The loop: budgets and shares, early stopping, clipping, averaging, weights of rows, logs, snapshots, progress."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import reverie as rv
from families import OPTIONS, Stack, numeric_rows, rows_for, small_recipes
from reverie.data.space import Batch
from reverie.errors import Interrupted, InvalidOption
from reverie.learning.rules.averaged import Averaged
from reverie.learning.rules.descent import Descent, schedule
from reverie.learning.rules.gradient import Gradient
from reverie.learning.run import Run, pick_device
from reverie.learning.trainer import Trainer


def test_shares_split_the_budget_and_whole_passes_are_kept() -> None:
    """8 epochs over two equal phases are 4 and 4; 13 steps are 6 and 6 (rounded to even); EM rounds steps up to passes."""
    history = Stack().fit(numeric_rows(), epochs=8).history
    assert [record["phase"] for record in history] == ["first"] * 4 + ["second"] * 4
    assert Stack().fit(numeric_rows(), steps=13).info["steps"] == 12
    mixture = small_recipes()["gmm"].fit(rows_for("gmm"), steps=7, batch_size=100)
    assert mixture.info["steps"] == 10
    assert len(mixture.history) == 2


def test_a_budget_in_minutes_ends_and_is_logged(tmp_path: Path) -> None:
    """0.01 minutes are 0.6 s of training; schedules get the fraction of it that stands in the history."""
    start = time.perf_counter()
    model = small_recipes()["vae"].fit(rows_for("vae"), minutes=0.01, out=str(tmp_path / "run"), batch_size=100)
    assert time.perf_counter() - start < 10
    assert len(model.history) > 1
    fractions = [record["progress"] for record in model.history if "progress" in record]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1


def test_no_epochs_give_the_start() -> None:
    model = small_recipes()["vae"].fit(rows_for("vae"), epochs=0)
    assert model.history == []
    assert model.sample(2, seed=0).shape == (2, 4)


def test_patience_returns_the_best_weights() -> None:
    """A rate that falls apart after a while: the model returned is that of the best epoch, not of the last."""
    recipe = rv.VAE(latent=3, encoder=rv.MLP(hidden=(16,)), decoder=rv.MLP(hidden=(16,)), lr=0.03)
    recipe = rv.VAE(**{**recipe.__dict__, "schedule": "constant", "warmup": 0.0})  # nothing that depends on the budget
    model = recipe.fit(numeric_rows(300), epochs=60, validation=0.3, patience=4, batch_size=50, ema=0)
    losses = [record["validation.loss"] for record in model.history]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 4
    again = recipe.fit(numeric_rows(300), epochs=best + 1, validation=0.3, batch_size=50, ema=0)
    for a, b in zip(model.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_clipping_bounds_the_gradient() -> None:
    run = Run(seed=0, device=torch.device("cpu"), clip=0.5)
    weight = nn.Parameter(torch.zeros(4))
    descent = Descent([weight], run, optimizer="sgd", lr=1.0)
    descent.minimise((weight * torch.tensor([3.0, 4.0, 0.0, 0.0])).sum())
    assert torch.allclose(weight, torch.tensor([-0.3, -0.4, 0.0, 0.0]))  # gradient (3, 4) scaled to length 0.5


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_descends(name: str) -> None:
    run = Run(seed=0, device=torch.device("cpu"))
    weight = nn.Parameter(torch.ones(3))
    descent = Descent([weight], run, optimizer=name, lr=0.05)  # type: ignore[arg-type]
    for _ in range(200):
        descent.minimise(weight.square().sum())
    assert float(weight.detach().abs().max()) < 0.1


def test_schedules() -> None:
    assert [schedule("linear", p) for p in (0.0, 0.5, 1.0)] == [1.0, 0.5, 0.0]
    assert schedule("cosine", 0.5) == pytest.approx(0.5)
    assert schedule("constant", 0.9) == 1.0
    assert schedule("constant", 0.05, warmup=0.1) == pytest.approx(0.5)
    assert schedule("linear", 0.55, warmup=0.1) == pytest.approx(0.5)


class Line(nn.Module):
    """One weight towards each row's value."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def loss(self, batch: Batch, noise: Any, progress: float) -> dict[str, torch.Tensor]:
        return {"loss": 0.5 * (batch.x[:, 0] - self.w).square()}


def test_averaging_follows_its_formula() -> None:
    """Gradient descent w <- w + 0.1 (1 - w), averaged with d_t = min(0.9, (1 + t) / (10 + t)), by hand."""
    run, network = Run(seed=0, device=torch.device("cpu")), Line()
    learner = Averaged(Gradient(network, Descent([network.w], run, optimizer="sgd", lr=0.1), run), 0.9)
    w = average = 0.0
    for t in range(1, 30):
        learner.step(Batch(x=torch.ones(5, 1), rows=5))
        w += 0.1 * (1 - w)
        average += (1 - min(0.9, (1 + t) / (10 + t))) * (w - average)
    assert network.w.item() == pytest.approx(w, rel=1e-5)
    found = learner.averaged()
    assert isinstance(found, Line)
    assert found.w.item() == pytest.approx(average, rel=1e-5)


def test_row_weights_count_as_repeated_rows() -> None:
    """A mixture of rows with weights 1, 2, 3 equals that of the rows repeated so often."""
    rows = numeric_rows(60, 2)
    counts = np.arange(60) % 3 + 1
    frame = pd.DataFrame(rows, columns=["a", "b"])
    weighted = rv.as_dataset(frame.assign(w=counts.astype(float)), roles={"w": "weight"})
    recipe = rv.GaussianMixture(components=1, floor=0.0, tol=0)
    one = recipe.fit(weighted, epochs=2)
    # The jitter keeps repeated rows from looking like a grid.
    repeated = np.repeat(rows, counts, 0) + 1e-7 * np.random.default_rng(0).normal(size=(counts.sum(), 2))
    two = recipe.fit(pd.DataFrame(repeated, columns=["a", "b"]), epochs=2)
    assert np.allclose(one.log_prob(frame), two.log_prob(frame), atol=1e-4)


def test_the_log_and_the_snapshots_of_a_run(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    options = {**OPTIONS["vae"], "log_steps": 2, "snapshot_epochs": 1, "callbacks": (seen.append,)}
    small_recipes()["vae"].fit(numeric_rows(501, 2), out=str(tmp_path / "run"), **options)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records].count("epoch") == 3
    assert [record["step"] for record in records if record["event"] == "step"] == list(range(2, 15, 2))
    assert len(seen) == len(records)
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        "00000005.png",
        "00000010.png",
        "00000015.png",
    ]


def test_tables_are_snapshot_as_rows(tmp_path: Path) -> None:
    small_recipes()["gmm"].fit(rows_for("gmm"), out=str(tmp_path / "run"), **OPTIONS["gmm"])
    (path,) = (tmp_path / "run" / "samples").iterdir()
    assert pd.read_csv(path).shape == (16, 4)


def test_progress_is_shown_on_stderr_only_when_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    small_recipes()["vae"].fit(rows_for("vae"), progress=True, **OPTIONS["vae"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "vae train epoch 3" in shown.err
    assert "loss" in shown.err
    small_recipes()["vae"].fit(rows_for("vae"), progress=False, **OPTIONS["vae"])
    assert capsys.readouterr().err == ""


def test_interrupting_without_a_folder_keeps_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    between = Trainer._between_batches

    def stop(self: Trainer, *, force: bool = False) -> None:
        self.interrupted = self.at.total >= 4
        between(self, force=force)

    monkeypatch.setattr(Trainer, "_between_batches", stop)
    with pytest.raises(Interrupted, match="nothing was written") as caught:
        small_recipes()["vae"].fit(rows_for("vae"), **OPTIONS["vae"])
    assert caught.value.exit_code == 130
    assert caught.value.model.sample(2, seed=0).shape == (2, 4)


def test_a_dry_run_tells_the_cost_and_trains_nothing() -> None:
    cost = rv.dry_run(Stack(), numeric_rows(), epochs=8)
    assert [row["phase"] for row in cost["phases"]] == ["first", "second"]
    assert [row["steps"] for row in cost["phases"]] == [20, 20]
    assert all(row["seconds_per_epoch"] > 0 for row in cost["phases"])
    assert cost["parameters"] == sum(p.numel() for p in Stack().fit(numeric_rows(), epochs=0).network.parameters())


def test_the_best_mixture_is_scored_with_its_own_covariances(tmp_path: Path) -> None:
    """Early stopping puts earlier weights back; nothing derived from later ones may stay behind in the density."""
    rows = numeric_rows(120, 3, seed=1)
    recipe = rv.GaussianMixture(components=8, tol=0, floor=1e-4)
    model = recipe.fit(rows, epochs=60, validation=0.4, patience=3)
    assert len(model.history) < 60
    model.save(tmp_path / "model")
    assert np.array_equal(model.log_prob(rows), rv.load(tmp_path / "model").log_prob(rows))


def test_the_device_of_a_process(monkeypatch):
    """Process r has the r-th CUDA device; a name is taken at its word."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto", 1) == pick_device("cuda", 1) == torch.device("cuda", 1)
    assert pick_device("cpu", 1) == torch.device("cpu")
    assert pick_device("cuda:0", 1) == torch.device("cuda", 0)
    with pytest.raises(InvalidOption, match="torch sees 2 CUDA devices"):
        pick_device("cuda", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto", 1) == torch.device("cpu")
    with pytest.raises(InvalidOption, match="no CUDA device is visible"):
        pick_device("cuda")
