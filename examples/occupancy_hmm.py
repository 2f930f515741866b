"""Regimes of five sensors in an office, complete and with 30 % of the cells missing. Run me: python examples/occupancy_hmm.py

Every third day is kept for testing. Sensors round; noise of about their resolution makes the columns continuous again.
"""

import os
import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

import reverie as rv
from reverie.models import hmm

DATA = Path(os.environ.get("REVERIE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SENSORS = {"Temperature": 0.05, "Humidity": 0.05, "Light": 5.0, "CO2": 5.0, "HumidityRatio": 1e-5}


def with_holes(frame: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """`share` of the sensors' cells missing at random."""
    values = frame[list(SENSORS)]
    return frame.assign(**values.mask(np.random.default_rng(seed).random(values.shape) < share))


def draw(picture: Path, days: pd.DataFrame, occupied: np.ndarray) -> None:
    """Light and CO2 of two test days, shaded where the model says that somebody is there."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(8, 3.2), sharex="col", layout="constrained")
    for column, day in zip(panels.T, ("02-13", "02-16"), strict=True):
        rows = (days.day == day).to_numpy()
        for panel, name in zip(column, ("Light", "CO2"), strict=True):
            panel.plot(days.date[rows], days[name][rows], ".", markersize=1.5, color="#333333")
            low, high = panel.get_ylim()
            panel.fill_between(days.date[rows], low, high, where=occupied[rows], color="#f0a030", alpha=0.35, lw=0)
            panel.plot(days.date[rows], np.where(days.Occupancy[rows] == 1, high, np.nan), color="#2060c0", lw=4)
            panel.set(ylabel=name, ylim=(low, high))
        column[1].xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H h"))
        column[0].set_title(f"{day}: shaded = the model, blue = the truth", fontsize=8)
    figure.savefig(picture, dpi=70)


def main(data: Path = DATA, quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print how often the states agree with `Occupancy`; `quick` reads every fifth minute."""
    if not data.is_dir():
        raise SystemExit(f"no data in {data}: set REVERIE_DATA to the folder that holds occupancy.csv.gz")
    frame = pd.read_csv(data / "occupancy.csv.gz", parse_dates=["date"]).sort_values("date", ignore_index=True)
    noise = np.random.default_rng(5)
    frame = frame.assign(**{name: frame[name] + noise.normal(size=len(frame)) * s for name, s in SENSORS.items()})
    frame = frame.assign(day=frame.date.dt.strftime("%m-%d"))[:: 5 if quick else 1]
    test = frame.day.isin(sorted(frame.day.unique())[2::3])
    found = {"nobody there": float(1 - frame.Occupancy[test].mean())}
    for share in (0.0, 0.3):
        begin, what = time.process_time(), "complete" if share == 0 else f"{share:.0%} missing"
        train, later = with_holes(frame[~test], share, 1), with_holes(frame[test], share, 2)
        columns, truth = ["day", "date", *SENSORS], later.Occupancy.to_numpy() == 1
        labelled = train[columns].assign(state=np.where(train.Occupancy == 1, "occupied", "empty"))
        model = rv.HMM(states=2).fit(rv.sequences(labelled, by="day", time="date", y="state"))
        said = np.asarray(model.predict(later[columns])) == "occupied"
        found[f"supervised, {what}"] = float((said == truth).mean())
        if picture is not None and share:
            draw(picture, later, said)
        model = rv.HMM(states=2, restarts=5).fit(rv.sequences(train[columns], by="day", time="date"))
        share_occupied = train.Occupancy.groupby(np.asarray(hmm.viterbi(model, train[columns]))).mean()
        said = share_occupied.reindex(hmm.viterbi(model, later[columns])).to_numpy() > 0.5
        found[f"unsupervised, {what}"] = float((said == truth).mean())
        print(f"{what}: {time.process_time() - begin:.1f} CPU s")
    for name, value in found.items():
        print(f"{name:30s} {value:.4f} of the test minutes right")
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
