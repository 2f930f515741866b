"""The command line: `reverie fit | sample | evaluate | compare | models | info | doctor | completion`.

`run(argv)` is the whole of it: it returns the exit code and never raises. Nothing here imports torch until a command
needs it.
"""

from reverie.cli.app import run

__all__ = ["run"]
