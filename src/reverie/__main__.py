"""`python -m reverie` and the `reverie` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from reverie.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
