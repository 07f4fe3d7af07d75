"""Bytes on disk: hashes, canonical JSON, and writes that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rfc8785

from pipelines import processes

CHUNK_BYTES = 1 << 20
TEMPORARY_PREFIX = ".tmp-"
WRITER = re.compile(r"\.tmp-([0-9a-f]{8}\.\d+\.\d+)-")
"""Of a temporary's name: which start of which machine, process id, start of the process."""
UNSEEN_SECONDS = 86400.0
"""Age at which a temporary is dead whose writer runs where we cannot see it: on another machine, in a container."""


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def md5_bytes(data: bytes) -> str:
    """DVC's name of an object; evidence is SHA-256."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """RFC 8785: one byte sequence for one value, whoever writes it."""
    return rfc8785.dumps(value)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value))


def read_json(path: Path) -> Any:
    """What the file holds. JSONDecodeError names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(f"{path.name}: {error.msg}", error.doc, error.pos) from None
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError(f"{path.name}: {error.reason}", "", error.start) from None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; renamed over ``path`` once it is on disk, removed on failure.

    A killed process leaves at most a ``.tmp-`` file, never half of ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{temporary_name()}-{path.name}")
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, source: Path) -> None:
    """The bytes of ``source`` in place of a file that keeps its mode; whole or not at all."""
    mode = path.stat().st_mode
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)
        temporary.chmod(mode)


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename what is on disk to the last byte: a file, or a folder."""
    _sync_all(temporary)
    if temporary.is_dir():
        remove(path)  # a folder is not renamed over another
    temporary.replace(path)
    _sync(path.parent)


def move_unless_there(temporary: Path, path: Path) -> None:
    """The same with a folder that several processes make alike: the first one's stays, somebody may be reading it."""
    _sync_all(temporary)
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _sync(path.parent)


def remove(path: Path) -> None:
    """A file or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_once(path: Path, secret: bytes) -> None:
    """A secret, readable by its owner alone: whole or absent. Where several make one, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(temporary_name())  # not named like a key: it is read as none
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Indented, key-sorted JSON for files that people read and git compares; same value, same bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def temporary_name() -> str:
    """``.tmp-<writer>-<random>``: what a dead process left is told from what another one is writing."""
    return f"{TEMPORARY_PREFIX}{_writer(os.getpid())}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder to work in, readable by its owner alone; gone afterwards."""
    with tempfile.TemporaryDirectory(dir=parent, prefix=f"{temporary_name()}-") as name:
        yield Path(name)


def remove_temporaries(folder: Path) -> None:
    """Sweep what killed writers left. Only while holding the lock that covers all who write to ``folder``."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        remove(leftover)


def remove_dead_temporaries(folder: Path) -> None:
    """Sweep, at any depth, what processes left that are no more. Without a lock: the living keep theirs."""
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if _is_dead(Path(place) / name):
                remove(Path(place) / name)
        folders[:] = [name for name in folders if not name.startswith(TEMPORARY_PREFIX)]


def _is_dead(path: Path) -> bool:
    found = WRITER.match(path.name)
    if found is None:
        return False
    here, pid = _writer(os.getpid()).split(".")[0], int(found[1].split(".")[1])
    if found[1].startswith(f"{here}."):
        return found[1] != _writer(pid)
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime < max(time.time() - UNSEEN_SECONDS, processes.booted_at())
    return False


def _writer(pid: int) -> str:
    """``<machine's start>.<process>.<its start>``; without the last where no such process runs."""
    machine, _, ticks = (processes.start_of(pid) or "").rpartition("/")
    return f"{sha256_bytes(machine.encode())[:8]}.{pid}.{ticks}"


def remove_temporaries_of_dvc(folder: Path) -> None:
    """Files by which DVC, killed or out of space, tried how it may link here. Only while holding the workspace."""
    for leftover in folder.glob(f".{'?' * 22}.tmp"):  # a short UUID
        remove(leftover)


def _sync_all(path: Path) -> None:
    for part in (*path.rglob("*"), path):
        _sync(part)


def _sync(path: Path) -> None:
    """A file's bytes, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
