"""`devices=N` from Python: start N processes that train together, and bring the first one's result back."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        mp.spawn(_worker, args=(world, port, work, arguments, errors), nprocs=world, join=True)  # type: ignore[attr-defined,no-untyped-call]
    except Exception as failure:
        if not errors.empty():
            error = errors.get()
            raise error from None
        raise ReverieError(
            f"a training process died: {str(failure).strip().splitlines()[-1] if str(failure) else failure}. A script "
            'that trains with devices > 1 needs `if __name__ == "__main__":` around its work'
        ) from failure


def _worker(
    rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...], errors: Any
) -> None:
    import torch

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    try:
        work(*arguments)
    except ReverieError as error:
        if rank == 0:
            errors.put(_portable(error))
        sys.exit(1)


def _portable(error: ReverieError) -> ReverieError:
    """The same error without what cannot cross processes."""
    for name in ("model",):
        if getattr(error, name, None) is not None:
            setattr(error, name, None)
    error.__cause__ = error.__context__ = None
    return error
