"""How steps are computed: precision, accumulation, recomputed activations, memory format, measuring; and that none of it changes
what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from torch import nn

import joints
import reverie as rv
from reverie import recording
from reverie.errors import Interrupted, InvalidOption, RunConflict
from reverie.learning import measuring, pace
from reverie.learning.pace import Pace, measure
from reverie.learning.recomputing import recompute
from reverie.learning.rules.descent import Descent
from reverie.learning.run import Run
from reverie.learning.training import Training
from reverie.nn.specs import MLP, ConvNet, build

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(90, 4)).astype(np.float32)
PICTURES = RNG.integers(0, 256, (60, 16, 16)).astype(np.uint8)
CPU = torch.device("cpu")
VAE = rv.VAE(latent=3, encoder=MLP(hidden=(24, 24)), decoder=MLP(hidden=(24, 24)))
CONV = rv.VAE(latent=3, encoder=ConvNet(channels=(4, 8), hidden=16), decoder=ConvNet(channels=(4, 8), hidden=16))


def weights(model: rv.Model) -> list[torch.Tensor]:
    return list(model.network.state_dict().values())


def far(a: rv.Model, b: rv.Model) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(weights(a), weights(b), strict=True))


def test_bfloat16_learns_the_same_in_other_numbers() -> None:
    plain, short = VAE.fit(TABLE, epochs=3), VAE.fit(TABLE, epochs=3, precision="bfloat16")
    assert {p.dtype for p in short.network.parameters()} == {torch.float32}
    assert far(plain, short) > 0
    assert abs(short.history[-1]["loss"] - plain.history[-1]["loss"]) < 0.02 * abs(plain.history[-1]["loss"])
    gan = rv.GAN(generator=MLP(hidden=(8,)), discriminator=MLP(hidden=(8,))).fit(TABLE, epochs=2, precision="bfloat16")
    assert all(np.isfinite(value) for value in gan.history[-1].values() if isinstance(value, float))


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts: int, scribe_family: str) -> None:
    """Without noise parts differ from the whole in the order of sums only. 22 rows a batch: the last of 3 parts has more,
    and 50 parts are one row each."""
    names = ["ann", "bob", "cleo", "dan"] * 11
    whole = joints.Scribe().fit(names, epochs=1, batch_size=22)
    split = joints.Scribe().fit(names, epochs=1, batch_size=22, accumulation=parts)
    assert far(whole, split) < 1e-5
    assert whole.history[-1]["loss"] == pytest.approx(split.history[-1]["loss"], rel=1e-5)


def test_accumulation_is_the_same_for_two_processes() -> None:
    one = VAE.fit(TABLE[:51], epochs=1, batch_size=25, accumulation=3)
    two = VAE.fit(TABLE[:51], epochs=1, batch_size=25, accumulation=3, devices=2)
    assert far(one, two) < 1e-5


def test_weights_of_rows_hold_over_all_parts(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(TABLE, columns=list("abcd")).assign(w=np.linspace(0.1, 3, 90))
    data = rv.as_dataset(frame, roles={"w": "weight"})
    network = build(MLP(hidden=(8,)), (4,), (1,))
    run = Run(seed=0, device=CPU, accumulation=4)
    from reverie.data.space import Batch
    from reverie.learning.rules.gradient import descend

    weight = torch.tensor(frame["w"].to_numpy())
    batch = Batch(torch.from_numpy(TABLE), weight=weight, rows=90)
    descent = Descent(list(network.parameters()), run, optimizer="sgd", lr=1e-9)
    seen = descend(descent, lambda part, noise: {"loss": network(part.x)[:, 0]}, batch, run)
    with torch.no_grad():
        want = (network(batch.x)[:, 0] * weight).sum() / weight.sum()
    assert float(seen["loss"]) == pytest.approx(float(want), rel=1e-5)
    assert len(data) == 90


def kept_bytes(network: nn.Module, x: torch.Tensor) -> tuple[int, list[torch.Tensor]]:
    """Bytes that autograd keeps for the backward pass beyond weights and input, and the gradients."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()} | {x.untyped_storage().data_ptr()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(x).square().sum()
    total = sum(kept.values())
    return total, list(torch.autograd.grad(loss, list(network.parameters())))


def test_recomputed_activations_take_less_memory_and_give_the_same_gradients() -> None:
    """19 layers in 4 stretches, the last of which is kept whole: 3 inputs and 7 outputs remain of 19 outputs."""
    torch.manual_seed(0)
    network = build(MLP(hidden=(64,) * 9), (64,), (64,))
    x = torch.randn(256, 64)
    before, want = kept_bytes(network, x)
    recompute(network)
    after, got = kept_bytes(network, x)
    assert after < 0.55 * before
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b)
    blocks = nn.ModuleList([nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(3)])
    recompute(nn.ModuleDict({"blocks": blocks}))
    assert all("forward" in vars(block) for block in blocks)
    network.eval()
    assert network(x).grad_fn is not None


def test_training_with_recomputed_activations_is_bitwise_the_same() -> None:
    deep = rv.VAE(latent=3, encoder=MLP(hidden=(12,) * 4), decoder=MLP(hidden=(12,) * 4))
    assert far(deep.fit(TABLE, epochs=2), deep.fit(TABLE, epochs=2, activation_checkpointing=True)) == 0


def test_channels_last_learns_the_same_and_resumes_bitwise(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 20, "channels_last": "on"}
    plain = CONV.fit(PICTURES, epochs=2, batch_size=20)
    model = CONV.fit(PICTURES, out=str(tmp_path / "whole"), **options)
    assert far(plain, model) < 1e-3
    want = runs.train_state(tmp_path / "whole")
    for step in (1, 3, 4):
        out = tmp_path / f"stopped-{step}"
        with pytest.raises(Interrupted), runs.stop_after(step):
            CONV.fit(PICTURES, out=str(out), **options)
        rv.resume(out, PICTURES)
        assert runs.differences(want, runs.train_state(out)) == []
    np.testing.assert_array_equal(rv.load(tmp_path / "whole").sample(3, seed=0), model.sample(3, seed=0))


def trials(times: dict[str, float], losses: dict[str, float] | None = None, fails: str = "") -> Any:
    """A stand-in for real steps: seconds and losses by the setting that is on."""

    def tried(chosen: Pace, count: int) -> tuple[float, float]:
        on = [name for name in ("compile", "channels_last") if getattr(chosen, name)]
        on += ["bfloat16"] if chosen.precision == "bfloat16" else []
        if fails in on:
            raise RuntimeError("no double backward\nat all")
        seconds, loss = 0.01, 100.0
        for name in on:
            seconds, loss = seconds * times.get(name, 1.0), loss * (losses or {}).get(name, 1.0)
        return seconds, loss

    return tried


ALL = frozenset({"precision", "compile", "channels_last"})
NET = nn.ModuleDict({"a": nn.Conv2d(1, 1, 3)})


@pytest.fixture
def short_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16 units, whatever this one has."""
    monkeypatch.setattr(pace, "has_bfloat16", lambda device: True)


@pytest.mark.usefixtures("short_numbers")
def test_measuring_keeps_what_is_faster_by_a_tenth_and_agrees() -> None:
    found = measure(Pace(), ALL, trials({"bfloat16": 0.5, "compile": 0.8, "channels_last": 0.95}), NET, CPU, 1e6)
    assert found.pace == Pace("bfloat16", compile=True)
    assert found.refused == {"channels_last": "1.05 times as fast"}
    assert found.seconds["bfloat16"] == pytest.approx(0.005)
    wrong = measure(Pace(), ALL, trials({"bfloat16": 0.5}, {"bfloat16": 1.03}), NET, CPU, 1e6)
    assert wrong.pace.precision == "float32"
    assert "differs by 3.0%" in wrong.refused["precision"]
    nan = measure(Pace(), ALL, trials({"bfloat16": 0.5}, {"bfloat16": float("nan")}), NET, CPU, 1e6)
    assert nan.pace.precision == "float32"
    failing = measure(Pace(), ALL, trials({"compile": 0.1}, fails="compile"), NET, CPU, 1e6)
    assert failing.refused["compile"] == "no double backward"
    only = measure(Pace(channels_last=True), frozenset({"precision"}), trials({"bfloat16": 0.5}), NET, CPU, 1e6)
    assert only.pace == Pace("bfloat16", channels_last=True)


@pytest.mark.usefixtures("short_numbers")
def test_measuring_and_compiling_must_pay() -> None:
    """At 0.01 s a step: 30 steps a timing, so a run of 12,000 steps is the shortest that 8 of them are 2 % of; compiling saves
    a tenth at least of a run, which must be longer than the 40 s that compiling takes."""
    fast = trials({"bfloat16": 0.5, "compile": 0.5})
    assert measure(Pace(), ALL, fast, NET, CPU, 11_900).refused.keys() == {"all"}
    short = measure(Pace(), frozenset({"compile"}), fast, NET, CPU, 43_900)
    assert "pays for its own start" in short.refused["compile"]
    assert measure(Pace(), frozenset({"compile"}), fast, NET, CPU, 44_100).pace.compile


def test_without_short_numbers_or_convolutions_there_is_nothing_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "has_bfloat16", lambda device: False)
    found = measure(Pace(), ALL, trials({"bfloat16": 0.1, "channels_last": 0.1}), nn.Linear(2, 2), CPU, 1e6)
    assert found.pace == Pace()
    assert found.refused["precision"] == "this processor has no bfloat16 units"
    assert found.refused["channels_last"] == "no convolutions"


@pytest.mark.parametrize("recipe", [VAE, rv.GAN(generator=MLP(hidden=(8,)), discriminator=MLP(hidden=(8,)))])
def test_measuring_leaves_no_trace(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting is tried on real steps and none is kept: the run is bit for bit the one that was not measured."""
    plain = recipe.fit(TABLE, epochs=2, batch_size=16)
    monkeypatch.setattr(pace, "_SHARE", 1e9)
    monkeypatch.setattr(pace, "_SECONDS", 1e-9)
    monkeypatch.setattr(pace, "_GAIN", 1e9)
    monkeypatch.setattr(pace, "has_bfloat16", lambda device: True)
    tried = recipe.fit(TABLE, epochs=2, batch_size=16, precision="auto")
    assert "bfloat16" in tried.info["pace"][0]["seconds_per_step"]
    assert far(plain, tried) == 0
    same = [{k: v for k, v in row.items() if k != "seconds"} for row in plain.history]
    assert same == tried.history


def test_a_resumed_run_keeps_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = pace.Measured(Pace("bfloat16"), {"bfloat16": 0.1}, {})
    monkeypatch.setattr(measuring.pace, "measure", lambda *args: chosen)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 32, "speed": "auto"}
    whole = VAE.fit(TABLE, out=str(tmp_path / "whole"), **options)
    with pytest.raises(Interrupted), runs.stop_after(4):
        VAE.fit(TABLE, out=str(tmp_path / "stopped"), **options)

    def never(*args: Any) -> pace.Measured:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring.pace, "measure", never)
    resumed = rv.resume(tmp_path / "stopped", TABLE)
    assert far(whole, resumed) == 0
    assert resumed.info["pace"] == whole.info["pace"]
    assert whole.info["pace"][0]["chosen"]["precision"] == "bfloat16"
    assert '"event": "pace"' in (tmp_path / "whole" / "log.jsonl").read_text()


def test_a_run_resumed_before_its_first_step_keeps_to_its_options(tmp_path: Path) -> None:
    """The state of step 0 is written before any pace is chosen."""
    options: dict[str, Any] = {"epochs": 2, "batch_size": 32, "precision": "bfloat16"}
    whole = VAE.fit(TABLE, out=str(tmp_path / "whole"), **options)
    VAE.fit(TABLE, out=str(tmp_path / "begun"), **options)
    (tmp_path / "begun" / "latest").write_text("checkpoints/00000000\n")
    assert far(whole, rv.resume(tmp_path / "begun", TABLE)) == 0


def test_a_run_from_before_an_option_existed_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted), runs.stop_after(2):
        VAE.fit(TABLE, out=str(tmp_path / "run"), epochs=2, batch_size=32)
    read = recording.read_config

    def older(root: Path) -> dict[str, Any]:
        document = read(root)
        for name in ("accumulation", "speed", "activation_checkpointing"):
            del document["training"][name]
        del document["estimator"]["kl_warmup"]
        return document

    monkeypatch.setattr(recording, "read_config", older)
    assert far(rv.resume(tmp_path / "run", TABLE), VAE.fit(TABLE, epochs=2, batch_size=32)) == 0
    with pytest.raises(RunConflict, match=r"training.accumulation \(1 -> 2\)"):
        VAE.fit(TABLE, resume=tmp_path / "run", epochs=2, batch_size=32, accumulation=2)


def test_a_trial_that_fails_between_two_parts_leaves_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting but the plain one fails in its second part: the run is the one that was not measured."""
    options: dict[str, Any] = {"epochs": 2, "batch_size": 32, "accumulation": 2}
    plain = VAE.fit(TABLE, **options)
    for name, value in (("_SHARE", 1e9), ("_SECONDS", 1e-9), ("has_bfloat16", lambda device: True)):
        monkeypatch.setattr(pace, name, value)
    add, calls = Descent.add, [0]

    def failing(self: Descent, loss: torch.Tensor) -> None:
        calls[0] += 1
        if self._run.pace.precision == "bfloat16" and calls[0] % 2 == 0:
            raise RuntimeError("not here")
        add(self, loss)

    monkeypatch.setattr(Descent, "add", failing)
    tried = VAE.fit(TABLE, precision="auto", **options)
    assert tried.info["pace"][0]["refused"] == {"precision": "not here"}
    assert far(plain, tried) == 0


def test_steps_that_became_slower_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])
    watch = pace.Stopwatch()
    found = []
    for steps, seconds in ((100, 301), (200, 602), (300, 903), (400, 2000), (500, 2301), (510, 2310)):
        clock[0] = seconds
        found.append(watch.changed(steps))
    assert found == [False, False, False, True, False, False]


def test_options_of_gradient_steps_are_refused_elsewhere() -> None:
    for options in (
        {"precision": "bfloat16"},
        {"compile": "on"},
        {"channels_last": "auto"},
        {"accumulation": 2},
        {"activation_checkpointing": True},
        {"speed": "auto"},
    ):
        with pytest.raises(InvalidOption, match=f"{next(iter(options))}: phase 'em' makes no steps down the gradient"):
            rv.GaussianMixture().fit(TABLE, **options)
    with pytest.raises(InvalidOption, match="precision"):
        Training(precision="float16")  # type: ignore[arg-type]


def test_what_cannot_be_compiled_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*args: Any) -> None:
        raise RuntimeError("torch.compile does not support double backward\nmore")

    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    monkeypatch.setattr("reverie.learning.rules.gradient.Gradient.step", step)
    with pytest.raises(InvalidOption, match=r"compile: torch cannot compile this training here \(.*double backward"):
        VAE.fit(TABLE, compile="on")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch itself, while it compiles
def test_compiled_training_learns_the_same() -> None:
    plain, compiled = VAE.fit(TABLE, epochs=2), VAE.fit(TABLE, epochs=2, compile="on")
    assert far(plain, compiled) < 1e-3
    assert compiled.sample(2, seed=0).shape == (2, 4)
    gan = rv.GAN(generator=MLP(hidden=(8,)), discriminator=MLP(hidden=(8,)), r1=0.1)
    with pytest.raises(InvalidOption, match="cannot compile this training here"):  # R1 differentiates twice
        gan.fit(TABLE, epochs=1, compile="on")


def test_muon_moves_matrices_and_adam_the_rest(tmp_path: Path) -> None:
    table = nn.Embedding(5, 6)
    parameters = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.zeros(6)), table.weight]
    before = [p.detach().clone() for p in parameters]
    descent = Descent(parameters, Run(seed=0, device=CPU), optimizer="muon", lr=0.01, plain=[table.weight])
    descent.minimise(sum(((p - 1) * torch.arange(1.0, p.numel() + 1).view_as(p)).square().sum() for p in parameters))
    moved = [(p - b).detach() for p, b in zip(parameters, before, strict=True)]
    # An orthogonalised step has all singular values alike: 0.2 sqrt(6) lr each, up to the iteration's 0.7 to 1.2.
    singular = torch.linalg.svdvals(moved[0]) / (0.2 * 6**0.5 * 0.01)
    assert 0.6 < float(singular.min()) <= float(singular.max()) < 1.3
    for step in moved[1:]:  # Adam's first step is the rate, whatever the gradient
        torch.testing.assert_close(step.abs(), torch.full_like(step, 0.01), rtol=1e-3, atol=1e-6)
    recipe = rv.VAE(latent=3, encoder=MLP(hidden=(12,)), decoder=MLP(hidden=(12,)), optimizer="muon")
    recipe.fit(TABLE, out=str(tmp_path / "whole"), epochs=2, batch_size=32)
    with pytest.raises(Interrupted), runs.stop_after(3):
        recipe.fit(TABLE, out=str(tmp_path / "stopped"), epochs=2, batch_size=32)
    rv.resume(tmp_path / "stopped", TABLE)
    assert runs.differences(runs.train_state(tmp_path / "whole"), runs.train_state(tmp_path / "stopped")) == []


def test_the_range_of_learning_rates() -> None:
    """On a quadratic valley of known curvature the suggested rate lies below the highest, which lies below divergence."""
    X = np.repeat(RNG.normal(size=(40, 4)), 5, axis=0)
    found = rv.lr_range(VAE, X, steps=80, batch_size=50)
    assert 1e-5 < found.suggestion < found.highest < 0.3
    assert len(found.rates) == len(found.losses) <= 80
    assert found.losses[found.rates.index(found.highest)] == min(found.losses)
    assert found == rv.lr_range(VAE, X, steps=80, batch_size=50)
    better = rv.VAE(latent=3, encoder=MLP(hidden=(24,)), decoder=MLP(hidden=(24,)), lr=found.suggestion)
    assert better.fit(X, epochs=1).history  # the suggestion is a rate the recipe takes
    for recipe, message in ((rv.GAN(), "no loss that falls"), (rv.GaussianMixture(), "no learning rate")):
        with pytest.raises(InvalidOption, match=message):
            rv.lr_range(recipe, X)
    with pytest.raises(InvalidOption, match="0 < low < high"):
        rv.lr_range(VAE, X, low=1.0, high=0.1)
