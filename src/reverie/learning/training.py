"""`Training`: how long, on what and how watched. A recipe like an estimator; saved with the run and offered as flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from reverie.config import recipe
from reverie.errors import InvalidOption


@recipe
class Training:
    """How to train. Fields left at None take the family's default, written to the run's config.json."""

    epochs: int | None = Field(default=None, ge=0)
    """Passes over the training rows, for the whole run; phases share them."""
    steps: int | None = Field(default=None, ge=1)
    """Updates for the whole run, instead of epochs."""
    minutes: float | None = Field(default=None, gt=0)
    """Minutes of active training, instead of epochs; resuming such a run is not bitwise."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows of a global batch, over all processes."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training rows kept aside to watch the objective."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs without a better validation objective, and return the best weights."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm; larger gradients are scaled down to it."""
    ema: float | None = Field(default=None, ge=0, lt=1)
    """Decay of the running average of the weights that inference then uses; 0 turns it off."""
    accumulation: int = Field(default=1, ge=1)
    """Parts of a batch computed one after the other, their gradients added before the update: as much less memory."""
    activation_checkpointing: bool = False
    """Layers forget their activations and compute them again for the gradient: less memory for one more forward pass."""
    precision: Literal["float32", "bfloat16", "auto"] | None = None
    """Matrix products and convolutions of gradient steps in float32 or bfloat16; auto measures on a few real steps and
    keeps the faster if the loss agrees. By default float32."""
    compile: Literal["off", "on", "auto"] | None = None
    """Compile networks for training; auto measures, where the run is long enough for that to pay. By default off."""
    channels_last: Literal["off", "on", "auto"] | None = None
    """Keep the channels of a pixel side by side in memory; auto measures. By default off."""
    speed: Literal["plain", "auto"] = "plain"
    """auto: precision, compile and channels_last that are not given are measured, at the start and again when the load of
    the machine changes. Which of them win depends on the machine, so a seed then repeats a run only up to rounding."""
    devices: int = Field(default=1, ge=1)
    """Processes to train on."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where tensors live; auto takes a GPU when there is one."""
    out: str | None = None
    """Run folder: config, log, samples and checkpoints go there, and an interrupted run can be resumed."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """Minutes between checkpoints."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Also write a checkpoint every so many updates."""
    checkpoint_epochs: int | None = Field(default=None, ge=1)
    """Also write a checkpoint every so many epochs."""
    snapshot_epochs: int | None = Field(default=None, ge=1)
    """Draw samples into the run folder every so many epochs."""
    log_steps: int = Field(default=50, ge=1)
    """Updates between lines of the log."""
    progress: bool | None = None
    """Show a progress line on stderr; by default when stderr is a terminal."""
    callbacks: tuple[Callable[[dict[str, Any]], None], ...] = dataclasses.field(
        default=(), metadata={"transient": True}
    )
    """Called with each log record, on the first process only; what they raise ends the run after saving."""

    def __post_init__(self) -> None:
        budgets = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise InvalidOption(f"Training: give one of epochs, steps and minutes, not {' and '.join(budgets)}")
        if self.patience is not None and self.validation == 0:
            raise InvalidOption("Training: patience needs validation rows: set validation=0.1, say")
