"""Part-of-speech tagging of UD English EWT with an HMM, supervised and not. Run me: python examples/pos_tagging.py

A step is a word. Words seen once in training are "<rare>"; only for these a second column holds the longest ending that
five rare words share (elsewhere it is missing, and costs nothing); a third says how the word is written.
"""

import collections
import gzip
import os
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd

import reverie as rv

DATA = Path(os.environ.get("REVERIE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
TAGS = 17


def read(path: Path, most: int | None) -> pd.DataFrame:
    """A row per word: sentence, word, tag."""
    blocks = gzip.decompress(path.read_bytes()).decode().strip().split("\n\n")[:most]
    rows = [(number, *line.split("\t")[:2]) for number, block in enumerate(blocks) for line in block.split("\n")]
    return pd.DataFrame(rows, columns=["sentence", "word", "tag"])


def written(word: str, first: bool) -> str:
    """How a word is written: digits, symbols, or the case of its letters, and whether it begins the sentence."""
    if re.search(r"\d", word):
        return "digits and letters" if re.search("[A-Za-z]", word) else "digits"
    if not re.search("[A-Za-z]", word):
        return "symbols"
    case = "UPPER" if word.isupper() and len(word) > 1 else "Title" if word[0].isupper() else "lower"
    return case + "-" * ("-" in word) + " first" * first


def steps(words: pd.DataFrame, count: collections.Counter, endings: collections.Counter) -> pd.DataFrame:
    """The columns that the HMM reads."""
    lower, first = words.word.str.lower(), words.sentence.diff().ne(0)
    rare = [count[word] <= 1 for word in lower]
    out = words[["sentence", "tag"]].assign(word=["<rare>" if r else w for w, r in zip(lower, rare, strict=True)])
    ends = [next((w[-n:] for n in (5, 4, 3, 2, 1) if len(w) > n and endings[w[-n:]] >= 5), "-") for w in lower]
    out["ending"] = [end if r else None for end, r in zip(ends, rare, strict=True)]
    return out.assign(written=[written(w, f) for w, f in zip(words.word, first, strict=True)])


def main(data: Path = DATA, quick: bool = False) -> dict[str, float]:
    """Print accuracies on dev and test; `quick` learns from the first 2,000 sentences and tags 500."""
    if not data.is_dir():
        raise SystemExit(f"no data in {data}: set REVERIE_DATA to the folder that holds pos_ewt_train.txt.gz")
    most = {"train": 2000, "dev": 500, "test": 500} if quick else {}
    parts = {part: read(data / f"pos_ewt_{part}.txt.gz", most.get(part)) for part in ("train", "dev", "test")}
    count = collections.Counter(parts["train"].word.str.lower())
    endings = collections.Counter(w[-n:] for w in count if count[w] == 1 for n in (1, 2, 3, 4, 5) if len(w) > n)
    frames = {part: steps(words, count, endings) for part, words in parts.items()}
    begin, found = time.process_time(), {}
    recipe = rv.HMM(states=TAGS, smoothing=0.001, transition_prior=0.1)  # smoothing was chosen on dev
    model = recipe.fit(rv.sequences(frames["train"], by="sentence", y="tag"))
    for part in ("dev", "test"):
        right = np.asarray(model.predict(frames[part].drop(columns="tag"))) == frames[part].tag
        found |= {part: right.mean(), f"{part}, rare words": right[frames[part].word == "<rare>"].mean()}
        print(f"supervised, {part}: {found[part]:.4f} right; of rare words {found[f'{part}, rare words']:.4f}")
    print(f"{time.process_time() - begin:.1f} CPU s")
    begin, recipe = time.process_time(), rv.HMM(states=TAGS, smoothing=0.1, transition_prior=0.1)
    model = recipe.fit(rv.sequences(frames["train"].drop(columns="tag"), by="sentence"), epochs=10 if quick else 50)
    state = model.encode(frames["test"].drop(columns="tag")).argmax(1)
    table = pd.crosstab(state, frames["test"].tag)
    found["many to one"] = table.max(axis=1).sum() / table.to_numpy().sum()
    said = f"unsupervised, {TAGS} states, test: {found['many to one']:.4f} right, every state read as its commonest tag"
    print(f"{said}; {time.process_time() - begin:.1f} CPU s")
    return {name: float(value) for name, value in found.items()}


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
