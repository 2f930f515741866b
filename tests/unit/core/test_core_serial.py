"""State on disk: what is written comes back, and nothing damaged, half-written or foreign is ever read as if it were whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from reverie import serial
from reverie.errors import CheckpointError, RunConflict

STATE = {
    "weights": {"a.b": torch.arange(6.0).reshape(2, 3), "empty": torch.empty(0, 3), "bits": torch.tensor([1, 0], dtype=torch.bool)},
    "list": [1, 2.5, None, True, "text with ü", {"deep": torch.tensor(3, dtype=torch.int64)}],
    "double": torch.tensor([1 / 3, 1e300, float("nan"), float("inf")], dtype=torch.float64),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "number": 0.1 + 0.2,
}  # fmt: skip


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    serial.write(tmp_path, "model", {"kind": "model", "note": "ü"}, STATE)
    return tmp_path


def test_round_trip(folder):
    document, state = serial.read(folder, "model")
    assert same(STATE, state)
    assert document["kind"] == "model"
    assert document["note"] == "ü"
    assert document["format"] == serial.FORMAT
    assert sorted(item.name for item in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_tied_and_strided_tensors_are_written_whole(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    serial.write(tmp_path, "m", {}, {"a": base, "b": base.t(), "c": base[:, ::2], "d": base})
    _, state = serial.read(tmp_path, "m")
    for name, want in (("a", base), ("b", base.t()), ("c", base[:, ::2]), ("d", base)):
        assert torch.equal(state[name], want)


def test_what_is_neither_tensor_nor_json_is_a_programming_error(tmp_path):
    with pytest.raises(TypeError, match=r"state at 'a\.1' holds a set"):
        serial.write(tmp_path, "m", {}, {"a": [1, {1}]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("bit", [0, 5])
def test_a_flipped_bit_anywhere_is_found(folder, name, bit):
    """Every ~50th byte (another residue for each bit). A flip may be harmless in JSON only (e -> E in a number): then the
    very same content must come back."""
    path = folder / name
    good = path.read_bytes()
    harmless = 0
    for at in range(bit, len(good), 47):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])
        try:
            document, state = serial.read(folder, "model")
        except CheckpointError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            harmless += 1
            assert document == {
                "kind": "model",
                "note": "ü",
                "format": 1,
                **{k: document[k] for k in ("state", "tensors")},
            }
            assert same(STATE, state)
    assert harmless <= (2 if name.endswith("json") else 0)
    path.write_bytes(good)
    serial.read(folder, "model")


def test_a_flip_in_the_word_checksum_is_found(folder):
    path = folder / "model.json"
    text = path.read_text()
    path.write_text(text.replace('"checksum"', '"checksul"'))
    with pytest.raises(CheckpointError, match="checksum does not match"):
        serial.read(folder, "model")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_truncation_is_found(folder, name):
    path = folder / name
    good = path.read_bytes()
    for length in [*range(0, len(good), max(1, len(good) // 40)), len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"damaged|format|document"):
            serial.read(folder, "model")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*No such file"):
        serial.read(folder, "model")


def test_the_tensors_of_another_model_are_refused(folder, tmp_path):
    serial.write(tmp_path, "other", {}, {"x": torch.ones(3)})
    shutil.copy(tmp_path / "other.safetensors", folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"does not match the checksum in model.json"):
        serial.read(folder, "model")


def test_an_edited_document_is_refused(folder):
    path = folder / "model.json"
    document = json.loads(path.read_text())
    document["state"]["number"] = 7
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="was edited"):
        serial.read(folder, "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a reverie document"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"a": 1}', "checksum does not match"),
    ],
)
def test_foreign_json(tmp_path, text, message):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        serial.read(tmp_path, "model")


def test_a_future_format_asks_for_an_upgrade(folder):
    document = json.loads((folder / "model.json").read_text())
    serial.write_json(folder / "model.json", {**document, "format": serial.FORMAT + 1})
    with pytest.raises(
        CheckpointError, match=rf"has format {serial.FORMAT + 1}; .*reads up to {serial.FORMAT}.*Upgrade"
    ):
        serial.read(folder, "model")
    serial.write_json(folder / "model.json", {k: v for k, v in document.items() if k != "format"})
    with pytest.raises(CheckpointError, match="no format number"):
        serial.read(folder, "model")


def test_an_old_format_is_migrated_step_by_step(folder, monkeypatch):
    document = json.loads((folder / "model.json").read_text())
    serial.write_json(folder / "model.json", {**document, "format": -1, "kind": "old"})
    monkeypatch.setitem(serial.MIGRATIONS, -1, lambda d: {**d, "format": 0, "kind": "older"})
    monkeypatch.setitem(serial.MIGRATIONS, 0, lambda d: {**d, "format": 1, "kind": d["kind"] + " still"})
    assert serial.read(folder, "model")[0]["kind"] == "older still"


# ---------------------------------------------------------------------- checkpoints


def writer(value: int):
    return lambda folder: serial.write(folder, "model", {"value": value}, {"x": torch.tensor(value)})


def value(root: Path) -> int:
    latest = serial.latest(root)
    assert latest is not None
    return int(serial.read(latest, "model")[1]["x"])


def test_commit_keeps_the_newest_two(tmp_path):
    assert serial.latest(tmp_path) is None
    for number in range(5):
        folder = serial.commit(tmp_path, number, writer(number))
        assert serial.latest(tmp_path) == folder
        assert value(tmp_path) == number
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000003", "00000004"]
    serial.commit(tmp_path, 9, writer(9), keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000009"]


def test_the_named_checkpoint_is_never_written_into(tmp_path):
    for number in range(4):
        named = serial.latest(tmp_path)
        assert serial.commit(tmp_path, 3, writer(number)) != named
        assert value(tmp_path) == number
        assert named is None or named.exists()  # the one before is kept


@pytest.mark.parametrize("fail_at", range(6))
def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch, fail_at):
    """The disk fills up at the k-th write of the second checkpoint: a named error, and the first one loads."""
    serial.commit(tmp_path, 1, writer(1))
    count = 0
    real = os.fsync

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > fail_at and not os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(  # noqa: PT012
        CheckpointError, match=r"cannot write .*No space left.*before is untouched.*free some space"
    ) as caught:
        for number in range(2, 9):
            serial.commit(tmp_path, number, writer(number))
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert value(tmp_path) >= 1
    assert not list(tmp_path.rglob("*.tmp"))
    serial.commit(tmp_path, 20, writer(20))
    assert value(tmp_path) == 20


def test_a_writer_that_raises_leaves_the_old_checkpoint(tmp_path):
    serial.commit(tmp_path, 1, writer(1))

    def half(folder: Path) -> None:
        (folder / "model.json").write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serial.commit(tmp_path, 2, half)
    assert value(tmp_path) == 1
    serial.commit(tmp_path, 2, writer(2))  # the leftover folder is cleared away
    assert value(tmp_path) == 2


@pytest.mark.parametrize(
    "line", ["", "checkpoints/../../etc", "/etc/passwd", "checkpoints/x", "checkpoints/1\ncheckpoints/2"]
)
def test_a_damaged_latest(tmp_path, line):
    (tmp_path / "latest").write_text(line)
    with pytest.raises(CheckpointError, match="latest is damaged"):
        serial.latest(tmp_path)
    (tmp_path / "latest").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot read"):
        serial.latest(tmp_path)


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"cannot create .*Choose a folder"):
        serial.make_folder(tmp_path / "file" / "run")
    with pytest.raises(CheckpointError, match="cannot create"):
        serial.make_folder(Path("/proc/nothing/here"))


def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere (root)")
        with pytest.raises(CheckpointError, match="cannot write"):
            serial.write(tmp_path, "m", {}, {})
        with pytest.raises(CheckpointError, match="cannot write"):
            serial.Lock(tmp_path)
    finally:
        tmp_path.chmod(0o755)


# ---------------------------------------------------------------------- one writer


def test_two_writers_conflict(tmp_path):
    lock = serial.Lock(tmp_path)
    with pytest.raises(RunConflict, match="being written by another process"):
        serial.Lock(tmp_path)
    lock.release()
    serial.Lock(tmp_path).release()


def test_the_lock_holds_across_processes_and_dies_with_them(tmp_path):
    code = "import sys, time; from pathlib import Path; from reverie.serial import Lock; "
    code += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunConflict):
            serial.Lock(tmp_path)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    serial.Lock(tmp_path).release()


def test_threads_conflict_too(tmp_path):
    lock = serial.Lock(tmp_path)
    errors = []

    def attempt() -> None:
        try:
            serial.Lock(tmp_path)
        except RunConflict as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    lock.release()
    assert len(errors) == 1
