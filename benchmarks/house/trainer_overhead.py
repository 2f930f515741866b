"""The trainer against a bare loop over the same network, data, noise and optimizer, logging the same loss."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Timing, paired, timed, write
from torch import nn

from reverie.data.sources.load import as_dataset
from reverie.estimator import prepare
from reverie.learning.run import Run
from reverie.learning.training import Training
from reverie.models.deep.gan import GAN
from reverie.models.deep.vae import VAE
from reverie.nn.specs import MLP
from reverie.recording import Job
from reverie.rng import StreamNoise, generator

ROWS, BATCH, LOG = 6_400, 128, 50


def bits(seed: int = 0) -> np.ndarray:
    """Binary pictures, 28x28, in memory."""
    rng = np.random.default_rng(seed)
    return (rng.random((ROWS, 28, 28)) < 0.3).astype(np.uint8) * 255


def points(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, 8)).astype(np.float32)


class Average:
    """The bare loop's running average of weights, written as one would."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.theirs = list(network.parameters())
        self.ours = [p.detach().clone() for p in self.theirs]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.ours, self.theirs, 1 - decay)


def trainer_side(recipe: Any, rows: np.ndarray, steps: int, ema: float) -> Timing:
    training = Training(steps=steps, batch_size=BATCH, log_steps=LOG, ema=ema, progress=False)
    run = Run(seed=0, device=torch.device("cpu"))
    trainer, _ = prepare(Job(recipe, as_dataset(rows), training, None, 0, None), run)
    return timed(lambda: trainer.run() and {"loss": trainer.history[-1]})


def bare_vae(recipe: VAE, rows: np.ndarray, steps: int, ema: float) -> Timing:
    """A VAE loop as a careful user writes it: fused Adam, cosine rate, shuffled rows, binarised per batch."""
    run = Run(seed=0, device=torch.device("cpu"))
    trainer, model = prepare(Job(recipe, as_dataset(rows), Training(steps=1), None, 0, None), run)
    network: Any = trainer.network
    x_all = model.codec.prepare(as_dataset(rows).take(np.arange(ROWS))).x
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    source = generator(0, "training")

    def loop() -> dict[str, Any]:
        network.start(lambda: trainer._whole_batches(trainer.phases[0]))  # the same data-dependent start
        average = Average(network, ema) if ema else None
        done, total, logged = 0, {}, []
        while done < steps:
            order = torch.randperm(ROWS)
            for start in range(0, ROWS, BATCH):
                index = order[start : start + BATCH]
                noise = StreamNoise(source, len(index))
                batch_x = (noise.uniform(784).view(-1, 1, 28, 28) * 255 < x_all[index].float()).float()
                mean, log_variance = network.encoder(batch_x - network.centre.view(1, 1, 28, 28)).chunk(2, 1)
                log_variance = log_variance.clamp(-15, 10)
                z = mean + torch.exp(0.5 * log_variance) * noise.normal(network.code_width)
                logits = network.decoder(z).flatten(1) + network.bias
                misfit = nn.functional.binary_cross_entropy_with_logits(
                    logits, batch_x.flatten(1), reduction="none"
                ).sum(1)
                kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
                parts = {"loss": (misfit + kl).mean(), "misfit": misfit.mean(), "kl": kl.mean()}
                optimizer.zero_grad(set_to_none=True)
                parts["loss"].backward()
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * done / steps))
                optimizer.step()
                if average:
                    average.update()
                for name, value in parts.items():
                    total[name] = total.get(name, 0.0) + value.detach()
                done += 1
                if done % LOG == 0:
                    logged.append({name: float(value) / done for name, value in total.items()})
                if done == steps:
                    break
        return {"loss": logged[-1]}

    return timed(loop)


def bare_gan(recipe: GAN, rows: np.ndarray, steps: int, ema: float) -> Timing:
    """The two-player loop as a careful user writes it."""
    run = Run(seed=0, device=torch.device("cpu"))
    trainer, model = prepare(Job(recipe, as_dataset(rows), Training(steps=1), None, 0, None), run)
    network: Any = trainer.network
    x_all = model.codec.prepare(as_dataset(rows).take(np.arange(ROWS))).x
    make = lambda module: torch.optim.Adam(module.parameters(), lr=1e-3, betas=(0.0, 0.99), fused=True)  # noqa: E731
    critic, artist = make(network.discriminator), make(network.generator)
    source, softplus = generator(0, "training"), nn.functional.softplus

    def loop() -> dict[str, Any]:
        average = Average(network, ema) if ema else None
        done, total, logged = 0, {}, []
        while done < steps:
            order = torch.randperm(ROWS)
            for start in range(0, ROWS, BATCH):
                real = x_all[order[start : start + BATCH]].requires_grad_(True)
                noise = StreamNoise(source, len(real))
                with torch.no_grad():
                    fake = network.generator(noise.normal(network.code_width))
                on_real, on_fake = network.discriminator(real)[:, 0], network.discriminator(fake)[:, 0]
                (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
                loss = softplus(-on_real) + softplus(on_fake) + 0.05 * slope.square().sum(1)
                accuracy = 0.5 * ((on_real > 0).float() + (on_fake <= 0).float())
                rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * done / steps))
                parts = {"d": loss.mean(), "accuracy": accuracy.mean()}
                critic.zero_grad(set_to_none=True)
                parts["d"].backward()
                critic.param_groups[0]["lr"] = rate
                critic.step()
                judged = network.discriminator(network.generator(noise.normal(network.code_width)))[:, 0]
                parts["g"] = softplus(-judged).mean()
                gradients = torch.autograd.grad(parts["g"], list(network.generator.parameters()))
                for parameter, gradient in zip(network.generator.parameters(), gradients, strict=True):
                    parameter.grad = gradient
                artist.param_groups[0]["lr"] = rate
                artist.step()
                if average:
                    average.update()
                for name, value in parts.items():
                    total[name] = total.get(name, 0.0) + value.detach()
                done += 1
                if done % LOG == 0:
                    logged.append({name: float(value) / done for name, value in total.items()})
                if done == steps:
                    break
        return {"loss": logged[-1]}

    return timed(loop)


def main(blocks: int = 24) -> None:
    """VAE MLP batch 128, without and with averaging; GAN. Many short blocks: their median outlives a noisy machine."""
    torch.set_num_threads(1)
    wide = MLP(hidden=(512, 512), activation="gelu")
    vae = VAE(latent=40, pixels="binary", encoder=wide, decoder=wide, warmup=0.0)
    small = MLP(hidden=(128, 128, 128), activation="relu")
    gan = GAN(latent=8, generator=small, discriminator=small)
    images, table = bits(), points()
    cases: list[tuple[str, Any, Any]] = [
        ("VAE MLP, batch 128", lambda: trainer_side(vae, images, 100, 0), lambda: bare_vae(vae, images, 100, 0)),
        (
            "VAE MLP, batch 128, EMA",
            lambda: trainer_side(vae, images, 100, 0.999),
            lambda: bare_vae(vae, images, 100, 0.999),
        ),
        ("GAN MLP, batch 128", lambda: trainer_side(gan, table, 400, 0), lambda: bare_gan(gan, table, 400, 0)),
    ]
    rows = [{"case": name, **paired(a, b, blocks=blocks)} for name, a, b in cases]
    write(
        "trainer_overhead",
        rows,
        note="CPU seconds of the loop alone, one thread. ours = the trainer; other = a bare loop with the same noise.",
    )


if __name__ == "__main__":
    main()
