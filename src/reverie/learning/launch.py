"""`devices=N` from Python: start N processes that train together, and bring the first one's result back."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reverie.errors import ReverieError


def launch(world: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run `work(*arguments)` in `world` fresh processes that form one group.

    Both must be importable by name (a script needs the usual `if __name__ == "__main__":`). The first error of any
    process ends all and is raised here.
    """
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    errors = context.SimpleQueue()
    # They meet at a file: a free port found here could be taken before they get to it.
    folder = tempfile.TemporaryDirectory(prefix="reverie-")
    meeting = Path(folder.name, "meeting").as_uri()
    try:
        mp.spawn(_worker, args=(world, meeting, work, arguments, errors), nprocs=world, join=True)  # type: ignore[attr-defined,no-untyped-call]
    except Exception as failure:
        if not errors.empty():
            error = errors.get()
            raise error from None
        raise ReverieError(
            f"a training process died: {str(failure).strip().splitlines()[-1] if str(failure) else failure}. A script "
            'that trains with devices > 1 needs `if __name__ == "__main__":` around its work'
        ) from failure
    finally:
        folder.cleanup()


def _worker(
    rank: int, world: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...], errors: Any
) -> None:
    import torch

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), REVERIE_MEETING=meeting)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    try:
        work(*arguments)
    except ReverieError as error:
        if rank == 0:
            errors.put(_portable(error))
        sys.exit(1)
    # Threads of gloo may still hold the tensors of its last message. One that lets go of them while the interpreter is taken
    # down aborts a process whose work is done, so the interpreter is not taken down.
    atexit.register(os._exit, 0)


def _portable(error: ReverieError) -> ReverieError:
    """The same error without what cannot cross processes."""
    for name in ("model",):
        if getattr(error, name, None) is not None:
            setattr(error, name, None)
    error.__cause__ = error.__context__ = None
    return error
