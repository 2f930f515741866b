"""Likeliest paths of hidden chains: compiled loops (the extra `fast`) against tensor operations, taken in turns in one process.

`python hmm_paths.py [RUNS]` writes results/hmm_paths.json: CPU seconds a call, medians; and whether the paths are the same.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import RESULTS, machine

from reverie.inference.layout import Layout
from reverie.inference.message_passing import viterbi

CASES = {"1 x 20,000, K=8": ([20_000], 8), "100 x 200, K=8": ([200] * 100, 8), "1 x 20,000, K=32": ([20_000], 32)}
SEED = 0


def main(runs: int = 15) -> None:
    torch.set_num_threads(1)
    rows = []
    for name, (lengths, states) in CASES.items():
        source = torch.Generator().manual_seed(SEED)
        log_b = -15 * torch.rand(sum(lengths), states, generator=source, dtype=torch.float64) ** 2
        moves = torch.rand(states, states, generator=source, dtype=torch.float64) + 3 * torch.eye(states)
        moves /= moves.sum(1, keepdim=True)
        initial = torch.full((states,), 1 / states, dtype=torch.float64)
        layouts = {way: Layout(lengths, states, compiled=way == "compiled") for way in ("compiled", "tensors")}
        found = {way: viterbi(log_b, layout, initial, moves) for way, layout in layouts.items()}
        times: dict[str, list[float]] = {way: [] for way in layouts}
        for _ in range(runs):
            for way, layout in layouts.items():
                begin = time.process_time()
                viterbi(log_b, layout, initial, moves)
                times[way].append(time.process_time() - begin)
        ratio = statistics.median(a / b for a, b in zip(times["compiled"], times["tensors"], strict=True))
        same = torch.equal(found["compiled"].states, found["tensors"].states)
        medians = {f"{way}, CPU s": round(statistics.median(values), 6) for way, values in times.items()}
        rows.append({"case": name, "seed": SEED, "runs": runs, **medians, "ratio": round(ratio, 4), "same paths": same})
        print(rows[-1])
    (RESULTS / "hmm_paths.json").write_text(json.dumps({"rows": rows, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
