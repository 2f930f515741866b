"""Four bells and a wheel: bits and numbers that depend on several steps before. Run me: python examples/temporal_rbm.py

Needs no files. Bells ring in turn, in one of two orders that a piece keeps to; the wheel turns at a speed of the piece's own,
once in 9 to 15 steps. Speed and order show in the last few steps together, and in none of them alone.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd

import reverie as rv
from reverie.models import temporal_rbm

ROUNDS = np.array([[0, 1, 2, 3], [0, 2, 1, 3]])


def pieces(count: int, steps: int, seed: int) -> pd.DataFrame:
    """A long frame: a row per step with four bells (yes/no) and the wheel's two coordinates."""
    rng = np.random.default_rng(seed)
    frames = []
    for piece in range(count):
        turn, period, tune = rng.integers(4), rng.uniform(9, 15), ROUNDS[rng.integers(2)]
        at = np.arange(steps)
        bells = np.zeros((steps, 4), bool)
        bells[at, tune[(at + turn) % 4]] = True
        bells ^= rng.random(bells.shape) < 0.03
        angle = 2 * np.pi * (at / period + rng.random())
        frame = pd.DataFrame(bells, columns=list("abcd"))
        frame["x"], frame["y"] = np.cos(angle), np.sin(angle)
        frame[["x", "y"]] += 0.05 * rng.normal(size=(steps, 2))
        frames.append(frame.assign(piece=piece, step=at))
    return pd.concat(frames, ignore_index=True)


def draw(picture: Path, rows: dict[str, pd.DataFrame], seen: int) -> None:
    """Bells as dots and the wheel as lines, for what was and what the model makes of it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(rows), figsize=(8, 2.6), sharex="col", layout="constrained")
    for (name, frame), (top, bottom) in zip(rows.items(), panels.T, strict=True):
        step, bell = np.nonzero(frame[list("abcd")].to_numpy(dtype=bool))
        top.scatter(step, bell, s=9, color="black")
        top.set(yticks=range(4), yticklabels=list("abcd"), title=name)
        bottom.plot(frame[["x", "y"]].to_numpy())
        bottom.set(ylim=(-1.6, 1.6))
        if name != "a sample":
            for panel in (top, bottom):
                panel.axvspan(-0.5, seen - 0.5, color="0.92", zorder=0)
    figure.savefig(picture, dpi=80)


def main(quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print nats per step beside a hidden Markov model's, and how well the wheel and the bells are continued."""
    steps, seen, ahead = 60, 36, 12
    train, test = (rv.sequences(pieces(n, steps, s), by="piece", time="step") for n, s in ((150, 0), (40, 1)))
    begin = time.process_time()
    recipe = rv.TemporalRBM(hidden=8, order=4, lr=0.3, momentum=0.9, frames=300, sweeps=3)
    model = recipe.fit(train, epochs=20 if quick else 80, seed=0, progress=False)
    print(f"{time.process_time() - begin:.1f} CPU s, {model.log_prob_kind}, {model.measure}")
    chain = rv.HMM(states=24).fit(train, epochs=10 if quick else 40, progress=False)
    found = {
        "nats per step, temporal machine": float(model.log_prob(test).mean() / steps),
        "nats per step, hidden Markov model": float(chain.log_prob(test).mean() / steps),
    }
    whole = pieces(40, steps, 1)
    short = whole[whole.step < seen]
    went = whole[(whole.step >= seen) & (whole.step < seen + ahead)]
    guess = temporal_rbm.forecast(model, short, ahead, seed=0)[0]
    wheel = (guess[["x", "y"]].to_numpy() - went[["x", "y"]].to_numpy()) ** 2
    found["error of the wheel, 12 steps on"] = float(np.sqrt(wheel.mean()))
    right = guess[list("abcd")].to_numpy(dtype=bool) == went[list("abcd")].to_numpy(dtype=bool)
    found["bells right, 12 steps on"] = float(right.mean())
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    if picture is not None:
        first = short[short.piece == 0]
        drawn = {
            "what was": whole[(whole.piece == 0) & (whole.step < seen + ahead)],
            "grey, and a continuation": pd.concat([first, guess[:ahead]], ignore_index=True),
            "a sample": model.sample(1, length=seen + ahead, seed=2),
        }
        draw(picture, drawn, seen)
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
