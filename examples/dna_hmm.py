"""Coding DNA of the chimpanzee as text: nats per base, and gene families told apart. Run me: python examples/dna_hmm.py

First base by base, then codon by codon: every three bases become one letter of an alphabet of their own.
"""

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

import reverie as rv

DATA = Path(os.environ.get("REVERIE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
LETTER = {"".join(codon): chr(0x4E00 + number) for number, codon in enumerate(itertools.product("ACGTN", repeat=3))}


def main(data: Path = DATA, quick: bool = False) -> dict[str, float]:
    """Print nats per base of held-out genes and the accuracy of family by best log_prob; `quick` takes 200 genes."""
    if not data.is_dir():
        raise SystemExit(f"no data in {data}: set REVERIE_DATA to the folder that holds dna_chimp.csv.gz")
    genes = pd.read_csv(data / "dna_chimp.csv.gz").drop_duplicates("sequence")  # 7 genes stand there twice
    if quick:
        genes = genes.sample(200, random_state=0)
    cut = [[text[i : i + 3] for i in range(0, len(text) - len(text) % 3, 3)] for text in genes.sequence]
    genes = genes.assign(bases=genes.sequence, codons=["".join(LETTER[codon] for codon in codons) for codons in cut])
    held_out = np.random.default_rng(0).random(len(genes)) < 0.25
    train, test, found = genes[~held_out], genes[held_out], {}
    for alphabet, states in itertools.product(("bases", "codons"), (1, 4, 8)):
        begin = time.process_time()
        model = rv.HMM(states=states, smoothing=0.1).fit(list(train[alphabet]), epochs=20)
        per_base = test[alphabet].str.len().sum() * (3 if alphabet == "codons" else 1)
        nats = -model.log_prob(list(test[alphabet])).sum() / per_base
        found[f"{alphabet}, {states}"] = float(nats)
        name = "order 0" if states == 1 else f"HMM, {states} states"
        print(f"{alphabet:6s} {name:14s} {nats:.4f} nats per base, {time.process_time() - begin:.1f} CPU s")
    for alphabet, states in (("bases", 4), ("codons", 1), ("codons", 4)):
        begin = time.process_time()
        recipe = rv.HMM(states=states, smoothing=0.5)
        models = {name: recipe.fit(list(rows[alphabet]), epochs=20) for name, rows in train.groupby("class")}
        prior = np.log([(train["class"] == name).mean() for name in models])
        scores = np.column_stack([model.log_prob(list(test[alphabet])) for model in models.values()]) + prior
        right = (np.array(list(models))[scores.argmax(1)] == test["class"]).mean()
        found[f"accuracy, {alphabet}, {states}"] = float(right)
        seconds = time.process_time() - begin
        print(f"family by best log p(x, y), {alphabet}, {states} states: {right:.3f}, {seconds:.1f} CPU s")
    common = (test["class"] == train["class"].mode()[0]).mean()
    print(f"always the commonest family: {common:.3f}")
    return {**found, "commonest": float(common)}


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
