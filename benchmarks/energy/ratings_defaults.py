"""Ratings of many shapes: the rating RBM as it comes against tuned user and item biases, and its time against size.

`python ratings_defaults.py [--data FOLDER] [--sets NAME ...] [--seeds N] [--part test|validation] [--scaling]`. Every set is cut at
random, 80 % to train, 10 % to validate, 10 % to test; the biases' two penalties are chosen on the validation part, and nothing of
the machine is chosen here: its defaults were, on validation parts. Writes results/ratings_defaults.json, one set after the other.

movielens    943 users, 1,682 items, 1 to 5
wide         610 of those users; every film is cut into six, of which a user's rating names one: about 9,000 items, most of few ratings,
             on half stars: a rating moves by half a star with a chance that is the user's own
turned       the films as users and the users as items, 1 to 5
zipf         low rank by construction: 610 users, 9,724 items of popularity 1 / rank, 100,000 ratings on ten half stars
jester       low rank by construction: 2,500 users, 100 items, 1 to 10, 36 of 100 filled
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, machine

import reverie as rv
from reverie.models import rating_rbm

SETS = ("movielens", "wide", "turned", "zipf", "jester")
PULLS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)


def movielens(folder: Path) -> pd.DataFrame:
    """user, item (numbers from 0) and rating, as they are."""
    rows = pd.read_csv(folder / "movielens100k_ratings.csv.gz")
    return pd.DataFrame({"user": rows.user - 1, "item": rows["item"] - 1, "rating": rows.rating.astype(float)})


def wide(folder: Path, seed: int = 0, parts: int = 6) -> pd.DataFrame:
    """610 users, films cut into parts of unlike popularity, ratings moved to half stars by the user's own habit."""
    rng = np.random.default_rng(100 + seed)
    rows = movielens(folder)
    rows = rows[rows.user.isin(rng.choice(943, 610, replace=False))].reset_index(drop=True)
    share = 1 / np.arange(1, parts + 1)
    part = rng.choice(parts, len(rows), p=share / share.sum())
    habit = rng.normal(0, 0.5, 943)[rows.user]  # above 0: rounds up more often than down
    moved = np.clip(np.round(habit + 0.6 * rng.normal(size=len(rows))), -1, 1) / 2
    return rows.assign(item=rows["item"] * parts + part, rating=np.clip(rows.rating + moved, 0.5, 5))


def low_rank(
    users: int, items: int, ratings: int, grid: tuple[float, float, float], *, zipf: float, seed: int
) -> pd.DataFrame:
    """Biases of users and items, five factors and noise, on a grid of (first, last, step); items by popularity 1 / rank^zipf, users
    of unlike zeal."""
    rng = np.random.default_rng(200 + seed)
    first, last, step = grid
    fame = 1 / np.arange(1, items + 1) ** zipf
    zeal = rng.lognormal(0, 0.8 if zipf else 0.2, users)
    user = rng.choice(users, 3 * ratings, p=zeal / zeal.sum())
    item = rng.choice(items, 3 * ratings, p=fame / fame.sum())
    pair = pd.DataFrame({"user": user, "item": item}).drop_duplicates().head(ratings).reset_index(drop=True)
    span = last - first
    left, right = rng.normal(size=(users, 5)), rng.normal(size=(items, 5)) / 5**0.5
    score = (
        0.1 * rng.normal(size=users)[pair.user]
        + 0.1 * rng.normal(size=items)[pair["item"]]
        + 0.12 * (left[pair.user] * right[pair["item"]]).sum(1)
        + 0.15 * rng.normal(size=len(pair))
    )
    rating = first + span * (0.62 + score)
    return pair.assign(rating=np.clip(first + step * np.round((rating - first) / step), first, last))


def rows_of(name: str, folder: Path, seed: int) -> pd.DataFrame:
    """The ratings of a set."""
    if name == "movielens":
        return movielens(folder)
    if name == "wide":
        return wide(folder, seed)
    if name == "turned":
        return movielens(folder).rename(columns={"user": "item", "item": "user"})
    if name == "zipf":
        return low_rank(610, 9724, 100_000, (0.5, 5, 0.5), zipf=1.0, seed=seed)
    return low_rank(2500, 100, 90_000, (1, 10, 1), zipf=0.0, seed=seed)


def split(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(train, validation, test), items and users as numbers."""
    place = np.random.default_rng(seed).permutation(len(rows))
    cut = np.array([0.8, 0.9]) * len(rows)
    return rows[place < cut[0]], rows[(place >= cut[0]) & (place < cut[1])], rows[place >= cut[1]]


class Biases:
    """mu + b_user + b_item by alternating means, each shrunk by so many ratings of none."""

    def __init__(self, train: pd.DataFrame, pull: tuple[float, float], sweeps: int = 30) -> None:
        user, item = train.user.to_numpy(), train["item"].to_numpy()
        users, items, self.mean = user.max() + 1, item.max() + 1, train.rating.mean()
        rest, self.user, self.item = train.rating.to_numpy() - self.mean, np.zeros(users), np.zeros(items)
        for _ in range(sweeps):
            self.item = np.bincount(item, rest - self.user[user], items) / np.maximum(
                np.bincount(item, minlength=items) + pull[1], 1e-9
            )
            self.user = np.bincount(user, rest - self.item[item], users) / np.maximum(
                np.bincount(user, minlength=users) + pull[0], 1e-9
            )

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Of users and items that training did not have: without their bias."""
        parts = ((self.user, rows.user.to_numpy()), (self.item, rows["item"].to_numpy()))
        return np.asarray(self.mean + sum(np.append(b, 0.0)[np.where(at < len(b), at, len(b))] for b, at in parts))


def rmse(found: np.ndarray, rows: pd.DataFrame) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((found - rows.rating.to_numpy()) ** 2)))


def tuned(train: pd.DataFrame, valid: pd.DataFrame) -> tuple[Biases, tuple[float, float]]:
    """The biases whose penalties predict the validation part best, and those."""
    pulls = [(user, item) for user in PULLS for item in PULLS]
    best = min(pulls, key=lambda pull: rmse(Biases(train, pull, 8).predict(valid), valid))
    return Biases(train, best), best


def judged(name: str, folder: Path, seed: int, part: str) -> dict[str, Any]:
    """Errors of both on one part, on the same rows: items that training does not have are left to the biases by both."""
    train, valid, test = split(rows_of(name, folder, seed), seed)
    rows = valid if part == "validation" else test
    biases, pull = tuned(train, valid)
    plain = np.clip(biases.predict(rows), train.rating.min(), train.rating.max())
    known = train.assign(item=train["item"].astype(str))
    start, clock = time.process_time(), time.perf_counter()
    model = rv.RatingRBM().fit(rv.sequences(known, by="user"), seed=seed, progress=False)
    cpu, wall = time.process_time() - start, time.perf_counter() - clock
    asked = rows.assign(item=rows["item"].astype(str))
    found = rating_rbm.predict_ratings(model, known, asked, unseen="missing")
    new = np.isnan(found)
    return {
        "set": name,
        "seed": seed,
        "ratings to train": len(train),
        "users": int(train.user.nunique()),
        "items": int(train["item"].nunique()),
        "median ratings of an item": float(train["item"].value_counts().median()),
        "share of unseen items": float(new.mean()),
        "penalties": pull,
        "rmse, biases": rmse(plain, rows),
        "rmse, machine": rmse(np.where(new, plain, found), rows),
        "cpu_seconds": round(cpu, 1),
        "seconds": round(wall, 1),
        "parameters": model.info["parameters"],
    }


def scaling() -> list[dict[str, Any]]:
    """CPU seconds of a fit at its defaults: more users at 80 ratings each; more items at 40,000 ratings of 500 users."""
    rows = []
    for users, items in ((250, 4000), (500, 4000), (1000, 4000), (2000, 4000), (500, 1000), (500, 8000), (500, 16000)):
        ratings = 80 * users
        data = low_rank(users, items, ratings, (0.5, 5, 0.5), zipf=0.6, seed=0)
        frame = rv.sequences(data.assign(item=data["item"].astype(str)), by="user")
        start = time.process_time()
        rv.RatingRBM().fit(frame, seed=0, progress=False)
        seconds = time.process_time() - start
        met = int(data["item"].nunique())
        rows.append({"users": users, "items": met, "ratings": len(data), "cpu_seconds": round(seconds, 1)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """All sets, or time against size, into one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("REVERIE_DATA", "../shared/data"))
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--scaling", action="store_true", help="time against size in place of errors")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "ratings_defaults.json"
    document = json.loads(file.read_text()) if file.exists() else {"case": "ratings_defaults"}
    if arguments.scaling:
        document["scaling"] = {"machine": machine(), "rows": scaling()}
    else:
        runs = []
        for seed in range(arguments.seeds):
            for name in arguments.sets:
                runs.append(judged(name, Path(arguments.data), seed, arguments.part))
                print(json.dumps(runs[-1]), flush=True)
        if arguments.part == "validation":
            return
        document["recipe"] = rv.config.to_json(rv.RatingRBM())
        document["errors"] = {"machine": machine(), "part": arguments.part, "runs": runs}
    file.write_text(json.dumps(document, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
