"""Naive Bayes on the Adult census, then samples and odd rows of a table mixture. Run me: python examples/adult_naive_bayes.py"""

import os
import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

import reverie as rv

DATA = Path(os.environ.get("REVERIE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
REPEATS = ["education-num", "relationship", "race", "native-country"]
"""Columns that other columns nearly say; naive Bayes counts such evidence twice."""


def draw(picture: Path, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """The share of rows that earn more, against the probability said, in ten bins."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4, 3), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#999999", lw=1)
    for (name, (said, true)), marker in zip(curves.items(), "os", strict=True):
        bins = np.minimum((said * 10).astype(int), 9)
        held = [rows for rows in (bins == b for b in range(10)) if rows.any()]
        axes.plot([said[r].mean() for r in held], [true[r].mean() for r in held], marker=marker, ms=4, label=name)
    axes.set(xlabel="P(>50K) said", ylabel="share that earns >50K")
    axes.legend(fontsize=8)
    figure.savefig(picture, dpi=80)


def main(data: Path = DATA, quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """Print accuracy and log-loss on the test file; `quick` takes 4,000 rows of each file."""
    if not data.is_dir():
        raise SystemExit(f"no data in {data}: set REVERIE_DATA to the folder that holds adult_train.csv.gz")
    rows = 4000 if quick else None
    train, test = (
        pd.read_csv(data / f"adult_{part}.csv.gz", na_values="?", nrows=rows).drop(columns="fnlwgt")  # a survey weight
        for part in ("train", "test")
    )
    test = test[test["native-country"].isin(train["native-country"])]  # a mixture refuses values it has never seen
    found, curves, true = {}, {}, (test.income == ">50K").to_numpy()
    for name, left_out in (("all columns", []), ("without repeats", REPEATS)):
        begin = time.process_time()
        model = rv.NaiveBayes().fit(train.drop(columns=left_out), y="income")
        chance = model.predict_proba(test.drop(columns=["income", *left_out]))
        rich = chance[:, model.classes.index(">50K")]
        curves[name] = (rich, true)
        right = ((rich > 0.5) == true).mean()
        loss = -np.log(np.where(true, rich, 1 - rich).clip(1e-15)).mean()
        found |= {f"accuracy, {name}": float(right), f"log-loss, {name}": float(loss)}
        seconds = time.process_time() - begin
        print(f"naive Bayes, {name}: accuracy {right:.4f}, log-loss {loss:.4f} nats, {seconds:.1f} CPU s")
    if picture is not None:
        draw(picture, curves)
    begin = time.process_time()
    mixture = rv.TableMixture(components=20).fit(train, epochs=10 if quick else 50, seed=0)
    nats = mixture.log_prob(test)
    found["nats per row"] = float(nats.mean())
    seconds = time.process_time() - begin
    print(f"\ntable mixture, 20 components: {nats.mean():.2f} nats per test row, {seconds:.1f} CPU s")
    shown = ["age", "education", "marital-status", "relationship", "sex", "hours-per-week", "income"]
    print("drawn:", mixture.sample(5, seed=0)[shown].to_string(), sep="\n")
    odd = test.iloc[np.argsort(nats)[:5]]
    blame = mixture.anomaly_attribution(odd)
    print("the oddest test rows, and the three columns that disagree most with the rest of their row:")
    for (_, row), (_, nat) in zip(odd.iterrows(), blame.iterrows(), strict=True):
        print("  " + ", ".join(f"{c} = {row[c]} ({nat[c]:.1f} nats)" for c in nat.nlargest(3).index))
    return found


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
