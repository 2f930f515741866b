"""All paired benchmarks: `python run.py [overhead] [gmm]`. Peers run in their own environment, made by `make peers`."""

from __future__ import annotations

import sys
from pathlib import Path

import gmm_sklearn
import trainer_overhead

PEERS = Path(__file__).resolve().parent.parent / ".peers"


def main() -> None:
    """Run the cases named, or all."""
    asked = sys.argv[1:] or ["overhead", "gmm"]
    unknown = [name for name in asked if name not in ("overhead", "gmm")]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}: choose from overhead, gmm")
    if "overhead" in asked:
        trainer_overhead.main()
    if "gmm" in asked:
        peer = PEERS / "bin" / "python"
        if not peer.exists():
            sys.exit("the peers' environment is missing: run `make peers` first")
        gmm_sklearn.main(str(peer))


if __name__ == "__main__":
    main()
