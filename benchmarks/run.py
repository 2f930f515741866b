"""Paired benchmarks: `python run.py [CASE ...]`, all of them without arguments; the cases stand below.

Peers run in their own environment, made by `make peers`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".peers" / "bin" / "python"

CASES: dict[str, list[list[str]]] = {
    "overhead": [[sys.executable, "house/trainer_overhead.py"]],
    "gmm": [[sys.executable, "speed/gmm_sklearn.py", str(PEER)]],
    "hmm": [[sys.executable, "speed/hmm_hmmlearn.py", str(PEER)]],
    "naive_bayes": [[sys.executable, "speed/naive_bayes_sklearn.py", str(PEER)]],
    "bayesian": [
        [sys.executable, "speed/bayesian_sklearn.py", str(PEER)],
        [sys.executable, "speed/bayesian_sklearn.py", "small"],
    ],
    "rbm": [[sys.executable, "speed/rbm_speed.py", str(PEER)]],
    "imputation": [
        [str(PEER) if part == "peers" else sys.executable, "tables/imputation.py", name, part]
        for name in ("letter", "casp")
        for part in ("ours", "peers", "coverage")
    ],
}


def main() -> None:
    """Run the cases named, or all."""
    asked = sys.argv[1:] or list(CASES)
    unknown = [name for name in asked if name not in CASES]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}: choose from {', '.join(CASES)}")
    if not PEER.exists() and set(asked) != {"overhead"}:
        sys.exit("the peers' environment is missing: run `make peers` first")
    for name in asked:
        for command in CASES[name]:
            subprocess.run(command, cwd=HERE, check=True)


if __name__ == "__main__":
    main()
