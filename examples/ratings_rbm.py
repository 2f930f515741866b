"""Users with tastes rate films: predictions, recommendations and drawn users. Run me: python examples/ratings_rbm.py

Needs no files: a user likes one or two of four genres, rates what they like more often and better, and some are generous.
"""

import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

import reverie as rv
from reverie.models import rating_rbm

GENRES = 4


def users(count: int, films: int = 60, seed: int = 0) -> pd.DataFrame:
    """A row per rating: user, film, stars from 1 to 5; film 0 is of genre 0, film 1 of genre 1, and so on."""
    rng = np.random.default_rng(seed)
    genre, fame = np.arange(films) % GENRES, rng.normal(size=films)
    parts = []
    for user in range(count):
        liked = rng.random(GENRES) < 0.4
        seen = rng.random(films) < 1 / (1 + np.exp(1.5 - 1.5 * liked[genre] - 0.7 * fame))
        stars = 2.4 + 1.7 * liked[genre] + 0.3 * fame + 0.4 * rng.normal() + 0.5 * rng.normal(size=films)
        rows = {"user": f"u{seed}-{user}", "film": [f"f{film:02d}" for film in np.flatnonzero(seen)]}
        parts.append(pd.DataFrame({**rows, "stars": np.clip(np.round(stars[seen]), 1, 5).astype(int)}))
    return pd.concat(parts, ignore_index=True)


def main(quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print errors and hits for users the model has never met; `quick` makes few passes."""
    train, new = users(200 if quick else 600), users(100, seed=1)
    recipe = rv.RatingRBM(hidden=20, choice=12, lr=0.02, choice_lr=0.02, weight_decay=2.0, choice_decay=0.002)
    begin = time.process_time()
    model = recipe.fit(rv.sequences(train, by="user"), epochs=60 if quick else 90, seed=0, progress=False)
    print(f"{time.process_time() - begin:.1f} CPU s")
    hidden = np.random.default_rng(0).random(len(new)) < 0.3
    known, rest = new[~hidden], new[hidden]
    mean = train.groupby("film").stars.mean()
    guess = rating_rbm.predict_ratings(model, known, rest)
    found = {
        "error, machine": float(np.sqrt(np.mean((guess - rest.stars) ** 2))),
        "error, film's mean": float(np.sqrt(np.mean((rest.film.map(mean) - rest.stars) ** 2))),
    }
    liked = set(map(tuple, rest[rest.stars >= 4][["user", "film"]].to_numpy()))
    best = rating_rbm.recommend(model, known, 5)
    found["hits, machine"] = float(np.mean([pair in liked for pair in zip(best.user, best.film, strict=True)]))
    popular = train.film.value_counts().index
    seen = known.groupby("user").film.agg(set)
    common = [(user, film) for user, films in seen.items() for film in [f for f in popular if f not in films][:5]]
    found["hits, popular"] = float(np.mean([pair in liked for pair in common]))
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    print(best.head(5).to_string(index=False))
    if picture is not None:
        draw(picture, {"users given": train, "users drawn": model.sample(300, seed=0)})
    return found


def draw(picture: Path, frames: dict[str, pd.DataFrame]) -> None:
    """Mean stars by genre, for forty users: which genres go together is not taught, only films are."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(frames), 1, figsize=(7, 2.4), layout="constrained", sharex=True)
    for panel, (name, frame) in zip(panels, frames.items(), strict=True):
        genre = frame.film.str[1:].astype(int) % GENRES
        table = frame.assign(genre=genre).pivot_table("stars", "genre", "user").dropna(axis=1).iloc[:, :40]
        panel.imshow(table, cmap="RdBu", vmin=1, vmax=5, aspect="auto")
        panel.set(ylabel="genre", title=name, xticks=[], yticks=range(GENRES))
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
