"""SIGKILL at every write, fsync and rename of the saver, and at random moments: the run loads and ends the same."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs

from reverie import serial, store

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def _in_child(work: Callable[[], Any]) -> int:
    """Run `work` in a forked child; the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return 0


class Saboteur:
    """Counts the saver's system calls and dies at the one numbered `deadly`; a write dies half done."""

    def __init__(self, deadly: int | None) -> None:
        self.deadly, self.count = deadly, 0

    def tick(self) -> bool:
        self.count += 1
        return self.count == self.deadly

    def install(self) -> None:
        fsync, replace, real_open = os.fsync, os.replace, open
        saboteur = self

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def bad_fsync(handle: int) -> None:
            if saboteur.tick():
                die()
            fsync(handle)

        def bad_replace(a: Any, b: Any) -> None:
            if saboteur.tick():
                die()
            replace(a, b)
            if saboteur.tick():
                die()

        class Half:
            def __init__(self, file: Any) -> None:
                self.file = file

            def __enter__(self) -> Half:
                return self

            def __exit__(self, *error: Any) -> None:
                self.file.close()

            def write(self, payload: bytes) -> None:
                if saboteur.tick():
                    self.file.write(payload[: len(payload) // 2])
                    self.file.flush()
                    die()
                self.file.write(payload)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

        def bad_open(path: Any, mode: str = "r", **options: Any) -> Any:
            file = real_open(path, mode, **options)
            return Half(file) if mode == "wb" else file

        serial.os = type("os", (), {**vars(os), "fsync": bad_fsync, "replace": bad_replace})  # type: ignore[attr-defined]
        serial.open = bad_open  # type: ignore[attr-defined]


OPTIONS = {"checkpoint_steps": 4, "epochs": 2}


def _calls(tmp_path: Path) -> int:
    counter = tmp_path / "count"

    def work() -> None:
        saboteur = Saboteur(None)
        saboteur.install()
        runs.fit("rbm", tmp_path / "counted", **OPTIONS)
        counter.write_text(str(saboteur.count))

    _in_child(work)
    return int(counter.read_text())


def _loads_and_ends_alike(out: Path, want: dict[str, Any]) -> None:
    if (out / "latest").exists():
        assert store.load(out).sample(2, seed=0).shape == (2, 12)
    if (out / "config.json").exists():
        runs.resumed("rbm", out)
    else:
        runs.fit("rbm", out, **OPTIONS)
    assert runs.differences(want, runs.train_state(out)) == []


def test_killed_at_every_call_of_the_saver(tmp_path: Path) -> None:
    runs.fit("rbm", tmp_path / "whole", **OPTIONS)
    want = runs.train_state(tmp_path / "whole")
    calls = _calls(tmp_path)
    assert calls > 80
    for deadly in range(1, calls + 1):
        out = tmp_path / f"killed-{deadly}"

        def work(out: Path = out, deadly: int = deadly) -> None:
            Saboteur(deadly).install()
            runs.fit("rbm", out, **OPTIONS)

        assert _in_child(work) == signal.SIGKILL
        _loads_and_ends_alike(out, want)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    options = {"checkpoint_steps": 1, "epochs": 8}
    start = time.perf_counter()
    runs.fit("rbm", tmp_path / "whole", **options)
    length = time.perf_counter() - start
    want = runs.train_state(tmp_path / "whole")
    moments = random.Random(0)
    for number in range(20):
        out = tmp_path / f"killed-{number}"
        pid = os.fork()
        if pid == 0:
            try:
                runs.fit("rbm", out, **options)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0, length))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if (out / "latest").exists():
            store.load(out)
        if (out / "config.json").exists():
            runs.resumed("rbm", out)
        else:
            runs.fit("rbm", out, **options)
        assert runs.differences(want, runs.train_state(out)) == []
