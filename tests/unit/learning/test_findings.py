"""Findings: each comes where its failure is planted, is kept and told, survives a resume, and nothing of it changes training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from torch import nn

import reverie as rv
from reverie.cli.info import facts, text
from reverie.errors import Interrupted
from reverie.learning.phases import Learner
from reverie.learning.watching.findings import Finding, Monitor, Seen, Watch
from reverie.learning.watching.monitors import (
    ChainsStuck,
    DeadUnits,
    Diverging,
    LikelihoodFell,
    NothingLearned,
    Overfitting,
)
from reverie.nn.specs import MLP
from reverie.probability.latent.mixture import Mixture

RNG = np.random.default_rng(0)
BLOBS = RNG.normal(size=(120, 4)) + 4 * RNG.integers(0, 2, (120, 1))
SMALL = MLP(hidden=(16, 16), activation="relu")
VAE = rv.VAE(latent=2, encoder=SMALL, decoder=SMALL)


class Rule(Learner):
    """A rule of nothing, that monitors can be told of."""

    objective = "loss"

    def __init__(self, chains: torch.Tensor | None = None, fell: float | None = None) -> None:
        self._chains, self.fell = chains, fell

    def step(self, batch: Any) -> Any: ...
    def state(self) -> Any: ...
    def load_state(self, state: Any) -> None: ...

    def chains(self) -> torch.Tensor | None:
        return self._chains


def seen(learner: Learner | None = None, progress: float = 1.0, step: int = 0, **metrics: float) -> Seen:
    return Seen(
        {name.replace("__", "."): value for name, value in metrics.items()}, progress, step, 0, learner or Rule()
    )


def first(monitor: Monitor, losses: list[float], progress: float = 1.0) -> int | None:
    """After which of these losses the monitor finds something."""
    for number, loss in enumerate(losses):
        if monitor.step(seen(progress=progress, loss=loss)):
            return number
    return None


def test_divergence_is_seen_while_numbers_are_finite() -> None:
    falling = [100 - n for n in range(40)]
    assert first(Diverging(), falling) is None
    # Of 100 the best median of three is 62, less than half is won: 50 are the scale, and 100 above 62 is the threshold.
    assert first(Diverging(), [*falling, 163, 163, 163, 163]) == 42
    assert first(Diverging(), [*falling, 161, 161, 161, 161]) is None
    assert first(Diverging(), [*falling, 1e9, 60, 1e9, 60]) is None  # single batches
    assert first(Diverging(), [1.0, 1e12, 1e11, 1e9, 1e10, 1e10, 1e9, 1e9]) == 7


def test_exploding_gradients_are_seen() -> None:
    monitor = Diverging()
    norms = [1.0] * 20 + [299.0] * 4 + [301.0] * 3
    found = []
    for norm in norms:
        look = seen(loss=1.0)
        look.gradient_norm = norm
        found.append(monitor.step(look))
    assert [number for number, item in enumerate(found) if item][:1] == [26]
    assert found[26].value == pytest.approx(301)


def test_a_loss_that_stays_where_it_was_has_learned_nothing() -> None:
    noise = RNG.normal(size=200)
    assert first(NothingLearned(), list(10 + noise), progress=0.49) is None
    assert first(NothingLearned(), list(10 + noise)) is not None
    fallen = NothingLearned()
    for value in 10 + noise[:100] - np.linspace(0, 8, 100):
        fallen.step(seen(progress=0.1, loss=float(value)))
    assert fallen.step(seen(loss=2.0)) is None
    passes = NothingLearned()
    assert [bool(passes.epoch(seen(loss=value))) for value in (5.0,) * 9] == [False] * 7 + [True] * 2


def test_overfitting_is_a_held_out_loss_that_rises_while_training_goes_on() -> None:
    def when(train: list[float], held: list[float]) -> int | None:
        monitor = Overfitting()
        for number, (a, b) in enumerate(zip(train, held, strict=True)):
            if monitor.epoch(seen(loss=a, validation__loss=b)):
                return number
        return None

    falling = [10.0 - n for n in range(10)]
    assert when(falling, [10.0, 8, 7, 6.5, 6.7, 6.9, 7.1, 7.3, 7.5, 7.7]) == 6
    assert when(falling, [10.0, 8, 7, 6.5, 6.4, 6.3, 6.2, 6.1, 6.0, 5.9]) is None
    assert when(falling, [10.0, 8, 7, 6.5, 6.51, 6.52, 6.53, 6.54, 6.55, 6.56]) is None  # a sixtieth of what was won
    assert when([10.0] * 10, [10.0, 8, 7, 6.5, 6.7, 6.9, 7.1, 7.3, 7.5, 7.7]) is None
    assert Overfitting().epoch(seen(loss=1.0)) is None


def test_dead_units_are_those_off_in_three_looks() -> None:
    network = nn.Sequential(nn.Linear(4, 10), nn.ReLU())
    with torch.no_grad():
        network[0].bias[:6] = -1e3
    monitor, found = DeadUnits(), []
    for _ in range(3):
        undo = monitor.watch(network)
        assert undo is not None
        network(torch.randn(32, 4))
        undo()
        found.append(monitor.step(seen()))
    assert found[:2] == [None, None]
    assert found[2].value == pytest.approx(0.6)
    assert "1" in found[2].basis
    network(torch.randn(3, 4))
    assert monitor.step(seen()) is None  # no hook is left
    assert DeadUnits().watch(nn.Linear(2, 2)) is None


def test_chains_that_stay_where_they_were_do_not_mix() -> None:
    start = (torch.rand(40, 30, generator=torch.Generator().manual_seed(0)) < 0.5).float()

    def when(flip: float) -> int | None:
        monitor, source = ChainsStuck(), torch.Generator().manual_seed(1)
        for step in range(50, 400, 50):
            noisy = (start - (torch.rand(40, 30, generator=source) < flip).float()).abs()
            if monitor.step(seen(Rule(chains=noisy), step=step)):
                return step
        return None

    assert when(0.02) == 200  # a first look, and three high ones
    assert when(0.25) is None  # correlation (1 - 2 * 0.25)^2 = 0.25
    assert ChainsStuck().step(seen(step=50)) is None


def test_em_must_not_fall() -> None:
    assert LikelihoodFell().epoch(seen(Rule(fell=1e-6)))
    assert LikelihoodFell().epoch(seen(Rule(fell=1e-9))) is None
    assert LikelihoodFell().epoch(seen(Rule(fell=None))) is None


def test_planted_in_whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [found.code for found in VAE.fit(BLOBS, epochs=60, batch_size=16).findings]
    assert codes == []
    wild = rv.VAE(latent=2, encoder=SMALL, decoder=SMALL, lr=0.5, warmup=0.0, schedule="constant")
    assert "training.diverging" in [found.code for found in wild.fit(BLOBS, epochs=20, batch_size=16).findings]
    still = rv.VAE(latent=2, encoder=SMALL, decoder=SMALL, lr=1e-9)
    assert "training.nothing_learned" in [f.code for f in still.fit(BLOBS, epochs=40, batch_size=16).findings]
    mute = rv.GAN(latent=2, generator=SMALL, discriminator=SMALL, lr=1e-9)
    assert "training.nothing_learned" in [f.code for f in mute.fit(BLOBS, epochs=60, batch_size=16).findings]

    whole = Mixture.maximise

    def maximise(self: Any, sums: Any) -> Any:
        move = whole(self, sums)
        self.components.mean += 0.3
        return move

    monkeypatch.setattr(Mixture, "maximise", maximise)
    found = rv.GaussianMixture(components=2).fit(BLOBS, epochs=15).findings
    assert [item.code for item in found] == ["em.decreased"]


def test_a_finding_is_told_once_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = rv.VAE(latent=2, encoder=SMALL, decoder=SMALL, lr=0.5, warmup=0.0, schedule="constant")
    model = wild.fit(BLOBS, epochs=20, batch_size=16, out=str(tmp_path / "run"), progress=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    told = [line for line in lines if line["event"] == "finding" and line["code"] == "training.diverging"]
    assert len(told) == 1
    assert capsys.readouterr().err.count("training.diverging") == 1
    loaded = rv.load(tmp_path / "run")
    assert loaded.findings == model.findings
    assert isinstance(loaded.findings[0], Finding)
    assert [found.step for found in loaded.findings if found.code == "training.diverging"] == [told[0]["step"]]
    assert "finding: training.diverging at step" in text(facts(tmp_path / "run"))
    report = rv.evaluate(model, BLOBS[:60], n=60)
    assert any("Training noticed training.diverging" in sentence.text for sentence in report.summary)
    assert "training.diverging" in [item["code"] for item in report.to_dict()["model"]["findings"]]


def test_watching_changes_nothing_and_goes_on_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are bit for bit those of a run that nobody watched, and a run stopped anywhere finds what the whole one found."""
    recipe, options = rv.VAE(latent=2, encoder=SMALL, decoder=SMALL, lr=1e-9), {"epochs": 12, "batch_size": 20}
    watched = recipe.fit(BLOBS, out=str(tmp_path / "whole"), **options)
    assert [found.code for found in watched.findings] == ["training.nothing_learned"]
    for step in (7, 30, 50):
        out = tmp_path / f"stopped-{step}"
        with pytest.raises(Interrupted), runs.stop_after(step):
            recipe.fit(BLOBS, out=str(out), **options)
        assert rv.resume(out, BLOBS).findings == watched.findings
        assert runs.differences(runs.train_state(tmp_path / "whole"), runs.train_state(out)) == []
    for family in (rv.GAN(latent=2, generator=SMALL, discriminator=SMALL), recipe):
        plain = family.fit(BLOBS, **options)
        with monkeypatch.context() as patched:
            patched.setattr(Watch, "before", lambda self, network, at: False)
            unwatched = family.fit(BLOBS, **options)
        for a, b in zip(plain.network.parameters(), unwatched.network.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_family_may_bring_monitors_of_its_own() -> None:
    class Late(Monitor):
        code = "test.late"

        def judge(self, seen: Seen) -> Finding | None:
            assert seen.samples is not None
            assert seen.held_out is not None
            drawn, kept = seen.samples(7), seen.held_out(7)
            assert drawn.shape == kept.x.shape == (7, 4)
            return Finding(self.code, "note", 1.0, 0.0, "a figure", "Nothing.")

    phases = rv.VAE.phases

    class Own(rv.VAE):
        def phases(self, network: nn.Module, run: Any, *, fresh: bool) -> Any:
            from dataclasses import replace

            return [replace(phase, monitors=lambda: [Late()]) for phase in phases(self, network, run, fresh=fresh)]

    model = Own(latent=2, encoder=SMALL, decoder=SMALL).fit(BLOBS, epochs=3)
    assert [(found.code, found.phase, found.step) for found in model.findings] == [("test.late", "train", 1)]


WATCHED = {
    "gmm": {"em.decreased", "training.overfitting"},
    "rbm": {"training.diverging", "training.overfitting", "chains.not_mixing"},
    "temporal_rbm": {"training.diverging", "training.overfitting"},
    "vae": {"training.diverging", "training.nothing_learned", "training.overfitting", "network.dead_units"},
    "gan": {"training.diverging", "training.nothing_learned", "training.overfitting", "network.dead_units"},
    "boltzmann_machine": {
        "training.diverging", "training.nothing_learned", "training.overfitting", "chains.not_mixing",
    },
}  # fmt: skip


@pytest.mark.parametrize("family", WATCHED)
def test_rules_have_their_monitors(family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened, watching = Watch.open, set[str]()

    def noted(self: Watch, phase: Any, learner: Learner) -> None:
        opened(self, phase, learner)
        watching.update(monitor.code for monitor in self._monitors)

    monkeypatch.setattr(Watch, "open", noted)
    runs.fit(family, tmp_path / "run", epochs=1)
    assert watching == WATCHED[family]
