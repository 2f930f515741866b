"""The one training loop. It knows phases, budgets, checkpoints and stopping; it never asks what kind of model it has."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from reverie.data.batches import Batches, Order, Slot
from reverie.data.space import Batch
from reverie.errors import Diverged, Interrupted, InvalidOption
from reverie.learning.budget import Budget
from reverie.learning.hooks import Hooks, Stopping, Sums, interrupts
from reverie.learning.measuring import Pacing
from reverie.learning.pace import refuse
from reverie.learning.phases import Learner, Phase, Position, State
from reverie.learning.rules.averaged import Averaged
from reverie.learning.run import Run
from reverie.learning.training import Training
from reverie.learning.watching.findings import Finding, Watch
from reverie.learning.watching.rows import draws, first_rows
from reverie.rng import StreamNoise, generator

STATE_FORMAT = 1


class Trainer:
    """Runs the phases of one network over `data` within the budget, from wherever `load_state` put it."""

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        phases: list[Phase],
        data: Batches,
        training: Training,
        hooks: Hooks | None = None,
        validation: Batches | None = None,
    ) -> None:
        self.run_, self.network, self.phases, self.data = run, network, phases, data
        self.training, self.hooks, self.validation = training, hooks or Hooks(), validation
        self.budget = Budget(training, phases, data, run, lambda: self.seconds())
        self.at = Position()
        self.history: list[dict[str, Any]] = []
        self.stopping = Stopping()
        self.sums = Sums()
        self._learner: Learner | None = None
        self._callback_error: Exception | None = None
        self._pending: State | None = None
        self.interrupted = False
        """Ctrl-C was pressed: stop between batches."""
        self._last_saved = self._clock = time.perf_counter()
        self._cpu = time.process_time()
        self._good: State | None = None
        self.checkpoint: str | None = None
        self.pacing = Pacing(self)
        held_out = first_rows(validation or data, run)
        self.watch = Watch(run, draws(network, data.codec.space, run, held_out), held_out, self._tell)

    # ------------------------------------------------------------------ the loop

    def run(self) -> nn.Module:
        """Train to the end of the budget and return the network that inference should use."""
        with interrupts(self):
            self._clock = self._last_saved = time.perf_counter()
            self._cpu = time.process_time()
            while self.at.phase < len(self.phases) and not self.at.done:
                self._run_phase(self.phases[self.at.phase])
                if self.at.phase + 1 < len(self.phases):
                    self._close_history()
                    self._hand_over()
                    self.at.phase, self.at.epoch, self.at.batch, self.at.step = self.at.phase + 1, 0, 0, 0
                    self._learner, self.stopping = None, Stopping()
                else:
                    self.at.done = True
            self._save()
        self._close_history()
        self._raise_callback_error()
        return self.inference_network()

    def inference_network(self) -> nn.Module:
        """The network with the weights inference uses: the best ones when early stopping kept them, else the averaged
        ones, else those being trained."""
        averaged = self._learner.averaged() if self._learner else None
        network = averaged if averaged is not None else self.network
        if self.stopping.weights is not None:
            network = copy.deepcopy(network)
            network.load_state_dict(self.stopping.weights)
        return network

    def _hand_over(self) -> None:
        """A phase leaves to the next one the weights that inference would use."""
        network = self.inference_network()
        if network is not self.network:
            self.network.load_state_dict(network.state_dict())

    def _run_phase(self, phase: Phase) -> None:
        slots = self.data.slots(self.budget.batch_size(phase))
        learner = self.open(phase)
        total = self.budget.steps(self.at.phase, len(slots), learner)
        self.network.train()
        learner = self._learner = self.pacing.open(phase, learner, slots, total)
        self.watch.open(phase, learner)
        self._keep_good()
        while not self.budget.spent(self.at, total) and not learner.finished and not self._waited_enough():
            order = self.data.order(phase.name, self.at.epoch, shuffle=phase.shuffle)
            for number in range(self.at.batch, len(slots)):
                self.step(learner, phase, slots[number], order, total)
                self.at.batch = number + 1
                if self.at.batch == len(slots):
                    break
                self._between_batches()
                if self.pacing.stale():
                    learner = self._learner = self.pacing.measure(phase, learner, slots, total)
                if self.budget.spent(self.at, total) and not learner.per_pass:
                    break
            if self.at.batch == len(slots):
                self._epoch_end(phase, learner)

    def step(self, learner: Learner, phase: Phase, slot: Slot, order: Order, total: int | None) -> None:
        run, at = self.run_, self.at
        run.progress = self.budget.progress(self.at, total)
        noise = run.noise(slot.rows, self.data.codec.space.torch_dtype)
        batch = self.data.batch(slot, order, None if phase.middle else noise, run.device)
        if phase.transform is not None:
            batch = phase.transform(batch, noise)
        batch.x = run.pace.laid_out(batch.x)
        watching = not self.pacing.measuring and self.watch.before(self.network, at)
        metrics = learner.step(batch)
        self.sums.add(metrics, slot.rows)
        at.step += 1
        at.total += 1
        if watching:
            self.watch.after(metrics, learner, at)
        if at.total % self.training.log_steps == 0 and not self.pacing.measuring:
            self._log_step(phase, total)

    def _epoch_end(self, phase: Phase, learner: Learner) -> None:
        at = self.at
        late = learner.epoch_end()
        means = self.sums.means(self.run_)
        self.sums = Sums()
        if late:
            stacked = torch.stack([value.double() for value in late.values()])
            means.update(zip(late, self.run_.sum(stacked).tolist(), strict=True))
        self._refuse_non_finite(means)
        held_out = self._validate(phase, learner)
        means.update({f"validation.{name}": value for name, value in held_out.items()})
        at.epoch, at.batch = at.epoch + 1, 0
        record = {"phase": phase.name, "epoch": at.epoch, "step": at.total, **means}
        if self.training.minutes is not None:
            record["progress"] = self.run_.progress
        self.history.append(record)
        if learner.objective and learner.objective in held_out:
            self._watch(held_out[learner.objective])
        self.report({"event": "epoch", **record})
        self.watch.epoch(means, learner, at)
        self._keep_good()
        every = self.training.snapshot_epochs
        if every and self.hooks.snapshot and self.run_.is_main and at.epoch % every == 0:
            self.hooks.snapshot(self.inference_network(), at)
        each = self.training.checkpoint_epochs
        self._between_batches(force=bool(each and at.epoch % each == 0))

    # ------------------------------------------------------------------ phases and budgets

    def open(self, phase: Phase) -> Learner:
        """The phase's learner: fresh and begun, or restored when a state is pending."""
        learner = self._learner = self.make(phase)
        if self._pending is not None:
            learner.load_state(self._pending)
            self._pending = None
        elif self.at.step == 0 and self.at.batch == 0:
            learner.begin(lambda: self._whole_batches(phase))
        return learner

    def make(self, phase: Phase) -> Learner:
        """The phase's rule, its weights averaged where that is asked for."""
        learner = phase.learner()
        self._check_options(phase, learner)
        return Averaged(learner, self.training.ema) if self.training.ema else learner

    def check(self) -> None:
        """Refuse options that the first phase's rule cannot honour, before anything is written."""
        self._check_options(self.phases[0], self.phases[0].learner())

    def _check_options(self, phase: Phase, learner: Learner) -> None:
        if not learner.casts and len(self.phases) == 1:
            refuse(self.training, phase.name)
        if self.training.ema and not learner.averages:
            raise InvalidOption(f"ema: phase {phase.name!r} has no gradient steps to average; leave ema out")
        if self.training.patience and learner.objective is None:
            raise InvalidOption(
                f"patience: phase {phase.name!r} has no objective to watch (a GAN's losses do not measure progress); "
                "leave patience out and compare checkpoints with evaluate"
            )
        if self.validation is not None and not learner.validates:
            raise InvalidOption(
                f"validation: phase {phase.name!r} has no loss that means anything on held-out rows; leave validation "
                "out and judge the model with evaluate"
            )

    def _whole_batches(self, phase: Phase) -> Iterator[Batch]:
        """All rows as global batches, the same on every rank, with a noise stream of their own."""
        size = self.budget.batch_size(phase)
        source = generator(self.run_.seed, "begin", phase.name, device=self.run_.device)
        for slot in self.data.slots(size):
            noise = StreamNoise(source, slot.rows, dtype=self.data.codec.space.torch_dtype)
            batch = self.data.batch(slot, Order(), None if phase.middle else noise, self.run_.device, whole=True)
            yield batch if phase.transform is None else phase.transform(batch, noise)

    def _close_history(self) -> None:
        """Record an epoch that the budget cut short. Its sums stay in the saved state, so a larger budget goes on."""
        if self.sums.values:
            means = self.sums.means(self.run_)
            self._refuse_non_finite(means)
            phase = self.phases[self.at.phase].name
            record = {"phase": phase, "epoch": self.at.epoch + 1, "step": self.at.total, "partial": True, **means}
            self.history = [*self.history, record]
            self.sums = Sums()

    def time_steps(self, count: int) -> dict[str, float]:
        """Seconds per update of each phase, measured on `count` real ones (the network's weights change)."""
        seconds = {}
        for number, phase in enumerate(self.phases):
            self.at = Position(phase=number)
            learner = self.open(phase)
            self.network.train()
            slots = self.data.slots(self.budget.batch_size(phase))
            order = self.data.order(phase.name, 0, shuffle=phase.shuffle)
            self.step(learner, phase, slots[0], order, None if self.training.minutes else 1)  # warm-up, not counted
            start = time.perf_counter()
            for step in range(count):
                self.step(learner, phase, slots[(step + 1) % len(slots)], order, None if self.training.minutes else 1)
            seconds[phase.name] = (time.perf_counter() - start) / count
        return seconds

    # ------------------------------------------------------------------ watching

    def _validate(self, phase: Phase, learner: Learner) -> dict[str, float]:
        if self.validation is None:
            return {}
        # The same noise every epoch: differences between epochs are then differences of the weights.
        source = generator(self.run_.seed, "validation", phase.name, device=self.run_.device)
        sums = Sums()
        self.network.eval()
        for slot in self.validation.slots(max(self.training.batch_size or 0, 512)):
            dtype = self.data.codec.space.torch_dtype
            noise = StreamNoise(source, slot.rows, rank=self.run_.rank, world=self.run_.world, dtype=dtype)
            batch = self.validation.batch(slot, Order(), None if phase.middle else noise, self.run_.device)
            if phase.transform is not None:
                batch = phase.transform(batch, noise)
            with self.run_.pace.plainly(self.network):
                sums.add(learner.validate(batch, noise), slot.rows)
        self.network.train()
        return sums.means(self.run_)

    def _tell(self, finding: Finding) -> None:
        self.report({"event": "finding", **finding.to_json()})

    def _watch(self, value: float) -> None:
        if not self.training.patience:
            return
        if value < self.stopping.best:
            averaged = self._learner.averaged() if self._learner else None
            weights = (averaged if averaged is not None else self.network).state_dict()
            kept = {name: tensor.clone() for name, tensor in weights.items()}
            self.stopping = Stopping(value, self.at.epoch, 0, kept)
        else:
            self.stopping.waited += 1

    def _waited_enough(self) -> bool:
        return bool(self.training.patience and self.stopping.waited >= self.training.patience)

    def seconds(self) -> float:
        """Active seconds of the run so far, what came before a resume included."""
        return self.at.seconds + time.perf_counter() - self._clock

    def cpu_seconds(self) -> float:
        """CPU seconds of this process in the run so far, all threads, what came before a resume included."""
        return self.at.cpu_seconds + time.process_time() - self._cpu

    def _log_step(self, phase: Phase, total: int | None) -> None:
        means = self.sums.means(self.run_)
        self._refuse_non_finite(means)
        seconds = self.seconds()
        record: dict[str, Any] = {"event": "step", "phase": phase.name, "epoch": self.at.epoch, "step": self.at.total}
        record |= {**means, "seconds": round(seconds, 3), "rate": round(self.at.total / max(seconds, 1e-9), 2)}
        if total:
            record["of"] = total
        self.report(record)

    def report(self, record: dict[str, Any]) -> None:
        if self.run_.is_main:
            self.hooks.log(record)
            self.hooks.progress(record)
            for callback in self.training.callbacks:
                try:
                    callback(dict(record))
                except Exception as error:
                    self._callback_error = self._callback_error or error

    def _refuse_non_finite(self, means: dict[str, float]) -> None:
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if not bad:
            return
        kept = f" The last good state is in {self.checkpoint}." if self.checkpoint else ""
        if self._good is not None:
            self.network.load_state_dict(self._good)
        self._learner, self.stopping = None, Stopping()  # their weights may be the bad ones
        raise Diverged(
            f"training diverged at step {self.at.total}: {', '.join(bad)} is not finite.{kept} "
            "Try a smaller learning rate, clip=1.0, or look for extreme values in the data.",
            checkpoint=self.checkpoint,
        )

    def _keep_good(self) -> None:
        """Remember the weights inference would use, known to be finite, for `Diverged.model`."""
        self._good = {name: tensor.clone() for name, tensor in self.inference_network().state_dict().items()}

    # ------------------------------------------------------------------ saving

    def _between_batches(self, *, force: bool = False) -> None:
        """Rank 0 decides whether to stop or save here; all ranks follow."""
        every = self.training.checkpoint_steps
        due = force or bool(every and self.at.total % every == 0)
        due = due or time.perf_counter() - self._last_saved > self.training.checkpoint_minutes * 60
        stop, due = self.run_.broadcast((self.interrupted or self._callback_error is not None, due))
        if stop:
            self._save()
            self._raise_callback_error()
            raise Interrupted(
                f"stopped at epoch {self.at.epoch}, step {self.at.total}"
                + (f"; saved to {self.checkpoint}" if self.checkpoint else "; nothing was written (no out folder)"),
                checkpoint=self.checkpoint,
            )
        if due and self.hooks.save is not None:
            self._save()

    def _raise_callback_error(self) -> None:
        if self._callback_error is not None:
            raise self._callback_error

    def _save(self) -> None:
        if self.hooks.save is None:
            return
        if self.sums.values:
            self._refuse_non_finite(self.sums.means(self.run_))
        state = self.state()
        if self.run_.is_main:
            self.checkpoint = self.hooks.save(state, self.at)
        self._last_saved = time.perf_counter()

    def state(self) -> State:
        """Everything needed to go on exactly. Collective."""
        now = time.perf_counter()
        self.at.seconds, self._clock = self.at.seconds + now - self._clock, now
        self.at.cpu_seconds, self._cpu = self.cpu_seconds(), time.process_time()
        stacked = {name: self.run_.gather_ranks(value) for name, value in self.sums.values.items()}
        return {
            "format": STATE_FORMAT,
            "at": asdict(self.at),
            "network": dict(self.network.state_dict()),
            "learner": self._learner.state() if self._learner else None,
            "generator": self.run_.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "stopping": asdict(self.stopping),
            "history": self.history,
            "sums": {"rows": self.sums.rows, "values": stacked},
            "world": self.run_.world,
            "pacing": self.pacing.state(),
            "watch": self.watch.state(),
        }

    def load_state(self, state: State) -> None:
        """Continue from `state`; the phase's learner is restored when the phase opens."""
        self.at = Position(**state["at"])
        self.network.load_state_dict(state["network"])
        self.run_.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        self.stopping = Stopping(**state["stopping"])
        self.history = list(state["history"])
        rank, device = self.run_.rank, self.run_.device
        values = {name: value[rank].to(device).clone() for name, value in state["sums"]["values"].items()}
        self.sums = Sums(state["sums"]["rows"], values)
        self._pending = state["learner"]
        self.pacing.load_state(state.get("pacing"))
        self.watch.load_state(state.get("watch"))
        self.at.done = False  # a larger budget may go on from here
