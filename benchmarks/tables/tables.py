"""Do generated rows keep what any person sees in real ones? Shares of samples that leave a support or break a rule, on five made
tables and on real ones; rules made up on independent columns; held-out nats with and without supports."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, machine

import reverie as rv

warnings.simplefilter("ignore")
Checks = dict[str, Callable[[pd.DataFrame], pd.Series]]
"""Name of a fault -> which rows have it."""


def rides(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, Checks]:
    """Taxi rides: drop-off after pick-up, zones within boroughs, no tip in cash, a total of its parts."""
    zones = {f"{name} {i}": name for name in ("Harbour", "Hill", "Old town", "Airport") for i in range(6)}
    pickup = pd.Timestamp("2023-05-01") + pd.to_timedelta(rng.integers(0, 30 * 86_400, n), unit="s")
    minutes = rng.lognormal(2.5, 0.6, n)
    zone, pay = rng.choice(list(zones), n), rng.choice(["cash", "card"], n, p=[0.3, 0.7])
    fare = np.round(3 + 0.9 * minutes * rng.lognormal(0, 0.2, n), 2)
    tip = np.where(pay == "cash", 0.0, np.round(fare * rng.beta(2, 8, n), 2))
    toll = np.where(rng.random(n) < 0.1, 6.12, 0.0)
    frame = pd.DataFrame(
        {
            "pickup": pickup,
            "dropoff": pickup + pd.to_timedelta((minutes * 60).round(), unit="s"),
            "zone": zone,
            "borough": pd.Series(zone).map(zones),
            "pay": pay,
            "fare": fare,
            "tip": tip,
            "toll": toll,
            "total": np.round(fare + tip + toll, 2),
        }
    )
    return frame, {
        "order": lambda s: s.dropoff < s.pickup,
        "combination": lambda s: s.borough != s.zone.map(zones),
        "constant": lambda s: (s.pay == "cash") & (s.tip != 0),
        "sum": lambda s: (s.fare + s.tip + s.toll - s.total).abs() > 0.0051,
        "support": lambda s: (s[["fare", "tip", "toll", "total"]] < 0).any(axis=1),
    }


def bills(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, Checks]:
    """Amounts in cents, counts, unit prices and discounts."""
    count, unit = rng.poisson(3, n) + 1, np.round(rng.lognormal(3, 1.5, n), 2)
    frame = pd.DataFrame(
        {
            "count": count,
            "unit": unit,
            "amount": np.round(count * unit, 2),
            "discount": np.round(rng.beta(1, 6, n), 3),
            "days": rng.geometric(0.1, n),
        }
    )
    return frame, {
        "product": lambda s: (s["count"] * s.unit - s.amount).abs() > 0.0051,
        "support": lambda s: (
            (s[["unit", "amount"]] <= 0).any(axis=1) | (s.discount < 0) | (s["count"] < 1) | (s.days < 1)
        ),
        "cents": lambda s: (s.unit - s.unit.round(2)).abs() > 1e-9,
    }


def patients(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, Checks]:
    """Admission, operation and discharge in order; pressure between two others; a stage per grade."""
    admitted = pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.integers(0, 700, n), unit="D")
    operated = admitted + pd.to_timedelta(rng.poisson(1.5, n), unit="D")
    low = np.round(rng.normal(75, 10, n).clip(40)).astype(int)
    high = low + np.round(rng.gamma(8, 5, n)).astype(int) + 5
    grade = rng.integers(1, 6, n)
    frame = pd.DataFrame(
        {
            "admitted": admitted,
            "operated": operated,
            "discharged": operated + pd.to_timedelta(rng.geometric(0.25, n), unit="D"),
            "low": low,
            "high": high,
            "grade": grade,
            "stage": np.array(["I", "I", "II", "II", "III"])[grade - 1],
            "saturation": np.round(100 * rng.beta(30, 1.5, n), 1),
            "score": rng.integers(0, 11, n),
        }
    )
    return frame, {
        "order": lambda s: (s.operated < s.admitted) | (s.discharged < s.operated) | (s.high <= s.low),
        "combination": lambda s: s.stage != s.grade.map({1: "I", 2: "I", 3: "II", 4: "II", 5: "III"}),
        "support": lambda s: (s.saturation > 100) | ~s.score.between(0, 10) | ~s.grade.between(1, 5),
    }


def weather(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, Checks]:
    """Rain that is often 0, shares of cloud and humidity, least and largest temperatures in two units."""
    least = np.round(rng.normal(8, 6, n), 1)
    most = np.round(least + rng.gamma(4, 2, n) + 0.1, 1)
    frame = pd.DataFrame(
        {
            "rain": np.where(rng.random(n) < 0.6, 0.0, np.round(rng.gamma(0.7, 6, n) + 0.1, 1)),
            "cloud": rng.beta(0.5, 0.5, n),
            "humidity": rng.integers(20, 101, n),
            "least": least,
            "most": most,
            "most_f": np.round(1.8 * most + 32, 2),
        }
    )
    return frame, {
        "support": lambda s: (s.rain < 0) | ~s.cloud.between(0, 1) | (s.humidity > 100) | (s.humidity < 0),
        "order": lambda s: s.most < s.least,
        "units": lambda s: (1.8 * s.most + 32 - s.most_f).abs() > 0.0051,
    }


def staff(rng: np.random.Generator, n: int) -> tuple[pd.DataFrame, Checks]:
    """Salary of base and bonus, a department per job, no bonus for trainees, a manager who earns more."""
    jobs = {
        "clerk": "office",
        "typist": "office",
        "smith": "works",
        "welder": "works",
        "trainee": "works",
        "agent": "sales",
    }
    job = rng.choice(list(jobs), n)
    base = np.round(rng.lognormal(7.8, 0.35, n)).astype(int)
    bonus = np.where(job == "trainee", 0, np.round(base * rng.beta(1, 9, n))).astype(int)
    frame = pd.DataFrame(
        {
            "job": job,
            "department": pd.Series(job).map(jobs),
            "base": base,
            "bonus": bonus,
            "salary": base + bonus,
            "manager": np.round((base + bonus) * (1.05 + rng.exponential(0.4, n))).astype(int),
            "age": np.clip(np.round(rng.normal(38, 13, n)), 16, 67).astype(int),
        }
    )
    return frame, {
        "combination": lambda s: s.department != s.job.map(jobs),
        "constant": lambda s: (s.job == "trainee") & (s.bonus != 0),
        "sum": lambda s: s.base + s.bonus != s.salary,
        "order": lambda s: s.manager < s.salary,
        "support": lambda s: (s[["base", "bonus", "salary", "manager"]] < 0).any(axis=1) | (s.age < 16),
    }


MADE = {"rides": rides, "bills": bills, "patients": patients, "weather": weather, "staff": staff}


def families(numeric: bool) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Recipes at their defaults with short budgets; those of reals only where all columns are numbers."""
    out: dict[str, tuple[Any, dict[str, Any]]] = {
        "table_mixture": (rv.TableMixture(components=10), {}),
        "vae": (rv.VAE(), {"epochs": 20}),
        "gan": (rv.GAN(), {"epochs": 20}),
        "adversarial_forest": (rv.AdversarialForest(trees=10), {}),
    }
    if numeric:
        out |= {
            "gmm": (rv.GaussianMixture(components=10), {}),
            "student_mixture": (rv.StudentMixture(components=5), {}),
        }
    return out


def faults(seeds: int) -> dict[str, Any]:
    """Share of 5,000 sampled rows with each fault, the worst over seeds, and whether fresh rows are all finite."""
    found: dict[str, Any] = {}
    for name, make in MADE.items():
        train, checks = make(np.random.default_rng(0), 3000)
        fresh, _ = make(np.random.default_rng(99), 2000)
        for family, (recipe, options) in families(all(kind.kind in "fi" for kind in train.dtypes)).items():
            worst = dict.fromkeys(checks, 0.0)
            infinite, started = 0, time.perf_counter()
            for seed in range(seeds):
                model = recipe.fit(train, seed=seed, progress=False, **options)
                rows = model.sample(5000, seed=seed)
                worst = {fault: max(worst[fault], float(check(rows).mean())) for fault, check in checks.items()}
                if "log_prob" in model.can:
                    infinite += int((~np.isfinite(model.log_prob(fresh))).sum())
            seconds = (time.perf_counter() - started) / seeds
            found[f"{name} {family}"] = {**worst, "infinite": infinite, "seconds": round(seconds, 1)}
            print(name, family, found[f"{name} {family}"], flush=True)
        found[f"{name} rules"] = [rule.text for rule in model.rules]
    return found


def real_tables(root: Path) -> dict[str, pd.DataFrame]:
    """Real tables without their names, tickets and dates as text."""
    out = {}
    for name in ("titanic", "penguins", "adult_train", "occupancy"):
        frame = pd.read_csv(root / f"{name}.csv.gz").head(8000)
        texts = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c]) and frame[c].nunique() > 200]
        out[name] = frame.drop(columns=texts)
    return out


def real(seeds: int, root: Path) -> dict[str, Any]:
    """Samples of other sign than all training rows, and training rows without a finite score; the rules found."""
    found: dict[str, Any] = {}
    for name, train in real_tables(root).items():
        numbers = [c for c in train.select_dtypes("number") if train[c].min() >= 0]
        for family, (recipe, options) in families(False).items():
            negative, infinite = 0.0, 0
            for seed in range(seeds):
                model = recipe.fit(train, seed=seed, progress=False, **options)
                rows = model.sample(3000, seed=seed)
                negative = max(negative, float((rows[numbers] < 0).any(axis=1).mean()))
                broken = [rule.broken(_floats(model, rows)) for rule in model.rules]
                if "log_prob" in model.can:
                    infinite += int((~np.isfinite(model.log_prob(train))).sum())
            share = max([float((units > 0).mean()) for units in broken], default=0.0)
            found[f"{name} {family}"] = {"negative": negative, "rules broken": share, "infinite": infinite}
            print(name, family, found[f"{name} {family}"], flush=True)
        found[f"{name} rules"] = [f"{rule.text} ({rule.evidence.rows} rows)" for rule in model.rules]
    return found


def _floats(model: rv.Model, rows: pd.DataFrame) -> dict[str, Any]:
    from reverie.data.codec.columns import to_float
    from reverie.data.forms.reading import read_table

    table = read_table(model.schema, rows)
    return {field.name: to_float(field, table[field.name]) for field in model.schema.data_fields}


def nats(seeds: int, root: Path) -> dict[str, Any]:
    """Held-out nats, numbers as they are (columns="real", no rules) against supports, per family and set."""
    with np.load(root / "protein_casp.npz") as file:
        casp = tuple(
            pd.DataFrame(file[f"x_{part}"].astype(float)[:rows]) for part, rows in (("train", 15_000), ("test", 5000))
        )
    sets = {"casp": casp, "adult": tuple(pd.read_csv(root / f"adult_{p}.csv.gz") for p in ("train", "test"))}
    for name in ("letter", "mammography"):
        frame = pd.read_csv(root / f"{name}.csv.gz").sample(frac=1, random_state=0)
        sets[name] = (frame[: int(0.8 * len(frame))], frame[int(0.8 * len(frame)) :])
    found: dict[str, Any] = {}
    for name, (train, test) in sets.items():
        numbers = list(train.select_dtypes("number"))
        for family, recipe, columns in (
            ("gmm", rv.GaussianMixture(components=10), numbers),
            ("table_mixture", rv.TableMixture(components=10), list(train)),
        ):
            for label, options in (("plain", {"columns": "real", "rules": None}), ("supports", {})):
                scores = []
                for seed in range(seeds):
                    model = recipe.fit(train[columns][:15_000], seed=seed, progress=False, **options)
                    scores.append(float(model.log_prob(test[columns][:5000]).mean()))
                found[f"{name} {family} {label}"] = scores
                print(name, family, label, scores, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=["faults", "real", "nats"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case = arguments.case
    found = faults(arguments.seeds) if case == "faults" else globals()[case](arguments.seeds, arguments.data)
    path = RESULTS / f"tables_{case}.json"
    path.write_text(json.dumps({"machine": machine(), "seeds": arguments.seeds, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
