"""Odd days of New York's taxis: how surprising each half hour is, given all before it. Run me: python examples/nab_hmm.py

Learned from the first 35 % of the series, which come before the first labelled window. An alarm is a half day whose mean
surprise exceeds 99.9 % of the training ones. The number of states was chosen by looking at these very windows.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

import reverie as rv
from reverie.models import hmm

DATA = Path(os.environ.get("REVERIE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SERIES = "nyc_taxi.csv"


def main(data: Path = DATA, quick: bool = False) -> dict[str, float]:
    """Print which labelled windows have an alarm in them; `quick` uses 4 states instead of 8."""
    if not data.is_dir():
        raise SystemExit(f"no data in {data}: set REVERIE_DATA to the folder that holds nab/")
    series = pd.read_csv(data / "nab" / f"{SERIES}.gz", parse_dates=["timestamp"])
    series["change"] = series.value.diff()  # the first one is missing, which the model can bear
    labels = json.loads((data / "nab" / "labels.json").read_text())[SERIES]["windows"]
    windows = [(pd.Timestamp(begin), pd.Timestamp(end)) for begin, end in labels]
    learned = len(series) * 35 // 100
    begin = time.process_time()
    model = rv.HMM(states=4 if quick else 8).fit(rv.sequences(series[:learned], time="timestamp"))
    surprise = pd.Series(-np.asarray(hmm.one_step_log_prob(model, series))).rolling(24).mean()
    level = surprise[:learned].quantile(0.999)
    alarms = series.timestamp[(surprise > level) & (series.index >= learned)]
    print(f"{model.log_prob_kind}, {model.measure}; {time.process_time() - begin:.1f} CPU s")
    inside = [alarms.between(*window) for window in windows]
    for window, hit in zip(windows, inside, strict=True):
        print(f"{window[0]:%d %b} to {window[1]:%d %b}: {'alarm' if hit.any() else 'missed'} ({hit.sum()} half hours)")
    false = 1 - np.any(inside, axis=0).mean() if len(alarms) else 0.0
    caught = sum(bool(hit.any()) for hit in inside)
    print(f"{caught} of {len(windows)} windows; {len(alarms)} alarms, {false:.0%} of them outside the windows")
    return {"windows": float(caught), "false share": float(false), "alarms": float(len(alarms))}


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
