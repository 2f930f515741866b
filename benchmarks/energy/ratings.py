"""MovieLens-100k, first official split: rating error and ranking of the rating RBM, beside what simple methods reach.

`python ratings.py [--data FOLDER] [--epochs N] [--search OPTIONS ...]`. The first 20,000 rows of the ratings are the test part (u1.test), the
others train; no test rating is ever an input. `--search` cuts a part of the 80,000 for validation instead (40 % of the
ratings of half of the users) and tries settings there: those in use were chosen so. Writes results/ratings.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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

LIKED = 4


def parts(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(train, test), with items as categories that both share."""
    rows = pd.read_csv(folder / "movielens100k_ratings.csv.gz").drop(columns="timestamp")
    rows["item"] = pd.Categorical(rows["item"].astype(str))
    test, train = rows[:20_000], rows[20_000:]
    assert (test.user.nunique(), test["item"].nunique(), train.user.nunique()) == (459, 1410, 943)
    return train, test


def validation(train: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """40 % of the ratings of half of the users, held out as the test part's are."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(train.user.unique())[:471]
    out = np.isin(train.user, users) & (rng.random(len(train)) < 0.4)
    return train[~out], train[out]


def rmse(found: np.ndarray, test: pd.DataFrame) -> float:
    """Root mean squared error over the test ratings."""
    return float(np.sqrt(np.mean((found - test.rating.to_numpy()) ** 2)))


def ndcg(ranked: dict[Any, list[Any]], test: pd.DataFrame, n: int = 10) -> float:
    """Mean over users with a liked test item of the discounted gain of their first `n`, over the best possible one."""
    liked = test[test.rating >= LIKED].groupby("user")["item"].agg(set)
    discount = 1 / np.log2(np.arange(n) + 2)
    gains = []
    for user, items in liked.items():
        hits = np.array([item in items for item in ranked.get(user, [])[:n]], dtype=float)
        gains.append(float(hits @ discount[: len(hits)] / discount[: min(n, len(items))].sum()))
    return float(np.mean(gains))


def best_of(score: np.ndarray, train: pd.DataFrame, users: np.ndarray, n: int = 10) -> dict[Any, list[Any]]:
    """The first n items of every user by (users + 1, items) scores, those rated in training left out."""
    score = score.copy()
    score[train.user, train["item"].cat.codes] = -np.inf
    names = train["item"].cat.categories
    return {user: list(names[np.argsort(-score[user], kind="stable")[:n]]) for user in users}


def biases(train: pd.DataFrame, pull: tuple[float, float] = (10.0, 10.0)) -> np.ndarray:
    """mu + b_user + b_item for every pair, regularised by so many ratings each."""
    user, item = train.user.to_numpy(), train["item"].cat.codes.to_numpy()
    users, items, mean = user.max() + 1, len(train["item"].cat.categories), train.rating.mean()
    rest, b_user, b_item = train.rating.to_numpy() - mean, np.zeros(users), np.zeros(items)
    for _ in range(15):
        b_item = np.bincount(item, rest - b_user[user], items) / (np.bincount(item, minlength=items) + pull[1])
        b_user = np.bincount(user, rest - b_item[item], users) / (np.bincount(user, minlength=users) + pull[0])
    return np.asarray(mean + b_user[:, None] + b_item[None])


def factors(train: pd.DataFrame, base: np.ndarray, rank: int = 20, pull: float = 10.0) -> np.ndarray:
    """Alternating least squares on what `base` leaves, for every pair."""
    user, item = train.user.to_numpy(), train["item"].cat.codes.to_numpy()
    rest, rng = train.rating.to_numpy() - base[user, item], np.random.default_rng(0)
    left, right = (0.1 * rng.normal(size=(size, rank)) for size in base.shape)
    for _ in range(15):
        for own, other, mine, theirs in ((left, right, user, item), (right, left, item, user)):
            for row in np.unique(mine):
                at = mine == row
                x = other[theirs[at]]
                own[row] = np.linalg.solve(x.T @ x + pull * np.eye(rank), x.T @ rest[at])
    return np.asarray(base + left @ right.T)


def simple(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """What has no machine: means, biases, factors, popularity."""
    user, item, users = test.user.to_numpy(), test["item"].cat.codes.to_numpy(), test.user.unique()
    base = biases(train)
    full = factors(train, base)
    popular = np.bincount(train["item"].cat.codes, minlength=base.shape[1]).astype(float)
    flat = np.broadcast_to(popular, base.shape).astype(float)
    return {
        "global mean, rmse": rmse(np.full(len(test), train.rating.mean()), test),
        "user and item biases, rmse": rmse(base[user, item], test),
        "ALS on their residuals, 20 factors, rmse": rmse(full[user, item], test),
        "popularity, ndcg@10": ndcg(best_of(flat, train, users), test),
        "ALS, expected rating, ndcg@10": ndcg(best_of(full, train, users), test),
    }


def judge(model: rv.Model, train: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    """Both forms of the prediction, all scores for ranking, and their cost."""
    out: dict[str, Any] = {}
    for how in ("exact", "mean-field"):
        start = time.process_time()
        out[f"rmse, {how}"] = rmse(rating_rbm.predict_ratings(model, train, test, how=how), test)
        out[f"pairs a CPU second, {how}"] = round(len(test) / (time.process_time() - start))
    for score in ("both", "liked", "rating"):
        start = time.process_time()
        best = rating_rbm.recommend(model, train, 10, score=score, like=LIKED)
        out[f"users a CPU second, {score}"] = round(train.user.nunique() / (time.process_time() - start))
        out[f"ndcg@10, {score}"] = ndcg(best.groupby("user")["item"].agg(list).to_dict(), test)
    return out


def run(recipe: rv.RatingRBM, epochs: int | None, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Any]:
    """One fit and what it reaches."""
    budget = {} if epochs is None else {"epochs": epochs}
    model = recipe.fit(rv.sequences(train, by="user"), seed=seed, progress=False, **budget)
    found = judge(model, train, test)
    return {"seed": seed, "cpu_seconds": model.info["cpu_seconds"], "parameters": model.info["parameters"], **found}


def by_item(rows: pd.DataFrame, users: pd.Index) -> pd.DataFrame:
    """The same ratings with the parts of users and items exchanged: a machine per item, over the users who rated it."""
    user = pd.Categorical(rows.user, categories=users).rename_categories(str)
    return pd.DataFrame({"item": rows["item"].astype(str), "user": user, "rating": rows.rating})


def run_by_item(epochs: int | None, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> dict[str, Any]:
    """One fit of the machine per item, and its error."""
    users = pd.Index(sorted(train.user.unique()))
    budget = {} if epochs is None else {"epochs": epochs}
    known, asked = by_item(train, users), by_item(test, users)
    model = rv.RatingRBM(choice=0).fit(rv.sequences(known, by="item"), seed=seed, progress=False, **budget)
    error = rmse(rating_rbm.predict_ratings(model, known, asked), test)
    return {"seed": seed, "cpu_seconds": model.info["cpu_seconds"], "rmse, exact": error}


def main() -> None:
    """Judge the recipe in use on the test part (two seeds), or settings on the validation part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("REVERIE_DATA", "../shared/data"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--validation", action="store_true", help="the machine per item, judged on validation")
    parser.add_argument("--search", nargs="*", metavar="OPTIONS", help="such as 'hidden=50,lr=0.002'; on validation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, test = parts(Path(arguments.data))
    if arguments.validation:
        print(json.dumps(run_by_item(arguments.epochs, *validation(train), 0)))
        return
    if arguments.search is not None:
        train, test = validation(train)
        for options in arguments.search:
            chosen = dict(pair.split("=") for pair in options.split(",") if pair)
            recipe = rv.RatingRBM(**{name: json.loads(value) for name, value in chosen.items()})
            print(options, json.dumps(run(recipe, arguments.epochs, train, test, 0)), flush=True)
        return
    recipe = rv.RatingRBM()
    rows = [run(recipe, arguments.epochs, train, test, seed) for seed in range(arguments.seeds)]
    document = {
        "case": "ratings",
        "machine": machine(),
        "data": "MovieLens-100k, u1: 80,000 ratings to train, 20,000 to test (459 users, 1,410 items)",
        "recipe": rv.config.to_json(recipe),
        "simple": simple(train, test),
        "runs": rows,
        "runs by item": [run_by_item(arguments.epochs, train, test, seed) for seed in range(arguments.seeds)],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ratings.json").write_text(json.dumps(document, indent=1, default=str) + "\n")
    print(json.dumps({k: v for k, v in document.items() if k != "machine"}, indent=1, default=str))


if __name__ == "__main__":
    main()
