"""State to files and back: safetensors for tensors, JSON for the rest, written so that a crash loses nothing.

Never pickle. Every document carries its own SHA-256 and that of its tensor file, so a flipped bit or a truncated file is
found before a number is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from reverie.errors import CheckpointError, RunConflict

FORMAT = 1
_MARK = "__tensor__"
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Format number -> the function that turns such a document into the next format."""


def split(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """A nested state -> (the same with tensors replaced by marks, tensors by mark)."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {_MARK: path}
        if isinstance(value, dict):
            return {str(key): walk(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item, f"{path}.{number}") for number, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"state at {path!r} holds a {type(value).__name__}, which is neither tensor nor JSON")

    return walk(state, ""), tensors


def join(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """Inverse of `split`."""
    if isinstance(skeleton, dict):
        if set(skeleton) == {_MARK}:
            return tensors[skeleton[_MARK]]
        return {key: join(item, tensors) for key, item in skeleton.items()}
    if isinstance(skeleton, list):
        return [join(item, tensors) for item in skeleton]
    return skeleton


def write(folder: Path, name: str, document: dict[str, Any], state: Any) -> None:
    """Write `name.safetensors` and `name.json` into an existing folder, each whole or not at all."""
    from safetensors.torch import save

    skeleton, tensors = split(state)
    # One copy per tensor: safetensors refuses shared memory, and tied weights come back tied through load_state_dict.
    payload = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()})
    write_bytes(folder / f"{name}.safetensors", payload)
    sealed = {
        **document,
        "format": FORMAT,
        "state": skeleton,
        "tensors": hashlib.sha256(payload).hexdigest(),
    }
    write_json(folder / f"{name}.json", sealed)


def read(folder: Path, name: str, *, device: str | torch.device = "cpu") -> tuple[dict[str, Any], Any]:
    """Read what `write` wrote: (document, state). Raises `CheckpointError` for anything missing or damaged."""
    from safetensors.torch import load

    document = migrate(read_json(folder / f"{name}.json"), folder / f"{name}.json")
    path = folder / f"{name}.safetensors"
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    if hashlib.sha256(payload).hexdigest() != document.get("tensors"):
        raise CheckpointError(
            f"{path} is damaged: its content does not match the checksum in {name}.json (truncated copy or flipped "
            "bits). Copy it again, or load an earlier checkpoint of the run"
        )
    try:
        tensors = load(payload)
    except Exception as error:  # safetensors raises its own untyped errors
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    return document, join(document.get("state"), {key: tensor.to(device) for key, tensor in tensors.items()})


def migrate(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Bring a document up to today's format, one migration per step."""
    found = document.get("format")
    if not isinstance(found, int):
        raise CheckpointError(f"{path} has no format number: it was not written by reverie")
    if found > FORMAT:
        raise CheckpointError(
            f"{path} has format {found}; this version of reverie reads up to {FORMAT}. Upgrade reverie to load it"
        )
    while found < FORMAT:
        document = MIGRATIONS[found](document)
        found = document["format"]
    return document


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON object with a checksum of itself, atomically."""
    body = {key: value for key, value in document.items() if key != "checksum"}
    text = json.dumps({**body, "checksum": _checksum(body)}, indent=1, ensure_ascii=False)
    write_bytes(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; refuses a damaged or edited file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} is damaged: not UTF-8 text") from None
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is damaged: not valid JSON ({error.msg} at line {error.lineno})") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a reverie document")
    body = {key: value for key, value in document.items() if key != "checksum"}
    if document.get("checksum") != _checksum(body):
        raise CheckpointError(f"{path} is damaged or was edited: its checksum does not match its content")
    return body


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_bytes(path: Path, payload: bytes) -> None:
    """Write a file so that after a crash it holds the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}. What was saved before is untouched; free some space or "
            "choose another folder"
        ) from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable (POSIX; Windows has no such call)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------- checkpoints of a run


def make_folder(path: Path) -> None:
    """Create a folder and its parents, with a named error when that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot create {path}: {error.strerror or error}. Choose a folder you may write to"
        ) from None


def commit(root: Path, number: int, writers: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Write checkpoint `number` under `root/checkpoints` with `writers(folder)` and point `latest` at it.

    The folder is complete and synced before the one-line file `latest` is replaced; a crash at any moment leaves the
    previous checkpoint loadable. Older checkpoints beyond `keep` are removed last.
    """
    checkpoints = root / "checkpoints"
    make_folder(checkpoints)
    current = latest(root)
    name = f"{number:08d}"
    while current is not None and current.name == name:  # never write into the checkpoint that `latest` names
        name = _successor(name)
    folder = checkpoints / name
    if folder.exists():
        shutil.rmtree(folder)  # a leftover of a crash: `latest` does not name it
    make_folder(folder)
    writers(folder)
    _sync_folder(folder)
    _sync_folder(checkpoints)
    write_bytes(root / "latest", f"checkpoints/{name}\n".encode())
    kept = {folder, *([current] if current else [])} if keep > 1 else {folder}
    for old in checkpoints.iterdir():
        if old.is_dir() and old not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _successor(name: str) -> str:
    stem, _, tail = name.partition("-")
    return f"{stem}-{int(tail or 0) + 1}"


def latest(root: Path) -> Path | None:
    """The checkpoint folder that `root/latest` names, or None when there is none yet."""
    try:
        line = (root / "latest").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {root / 'latest'}: {error}") from None
    if not re.fullmatch(r"checkpoints/[0-9]+(-[0-9]+)?", line):
        raise CheckpointError(f"{root / 'latest'} is damaged: it should name a folder under checkpoints/")
    return root / line


def _lock_file(file: IO[str]) -> None:
    """Lock an open file for this process, or raise OSError at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Lock:
    """One writer per run folder: an advisory lock that the system drops when the process dies."""

    def __init__(self, root: Path) -> None:
        try:
            self._file = open(root / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held for the run's life
        except OSError as error:
            raise CheckpointError(f"cannot write in {root}: {error.strerror or error}") from None
        try:
            _lock_file(self._file)
        except OSError:
            self._file.close()
            raise RunConflict(
                f"{root} is being written by another process: wait for it or choose another out"
            ) from None

    def release(self) -> None:
        self._file.close()
