"""The ledger: what happened to this workspace's models, in order, and nothing rewritten.

One line an event, ``{seq, prev, at, actor, event, subject, data}`` in canonical JSON; ``prev`` is the SHA-256
of the line before (without its newline), 64 zeros before the first. Changing or dropping a line breaks every
later ``prev``. Only pseudonyms, ids and counts go in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import io
import json
import mmap
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import StageError
from pipelines.files import canonical_json, sha256_bytes
from pipelines.workspace import Workspace

FIRST_PREV = "0" * 64
EVENT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    seq: int  # from 1
    prev: str  # SHA-256 of the line before
    at: str  # UTC, ISO 8601, whole seconds
    actor: str
    event: str  # snake_case
    subject: str  # what it happened to: "version 3", a video_id, a commit
    data: dict[str, Any]

    def line(self) -> bytes:
        """The stored bytes, without the newline."""
        return canonical_json(dataclasses.asdict(self))


FIELDS = {"seq": int, "prev": str, "at": str, "actor": str, "event": str, "subject": str, "data": dict}


def append(
    workspace: Workspace, *, actor: str, event: str, subject: str, data: dict[str, Any], at: str | None = None
) -> Entry:
    """Add one event; it is on disk when this returns. A line torn by a killed writer is mended first."""
    if not EVENT.fullmatch(event):
        raise ValueError(f"event is {event!r}: it must be snake_case")
    with exclusive(workspace, "ledger"), workspace.ledger.open("a+b", buffering=0) as file:
        last = _mend(file)
        entry = Entry(
            seq=_seq(last) + 1,
            prev=sha256_bytes(last) if last else FIRST_PREV,
            at=at or now(),
            actor=actor,
            event=event,
            subject=subject,
            data=data,
        )
        _write(file, entry.line() + b"\n")
    return entry


def read(path: Path) -> list[Entry]:
    """Every whole line; none where the file is missing. StageError for a line that is no entry."""
    return parse(path.read_bytes()) if path.exists() else []


def parse(content: bytes) -> list[Entry]:
    """Every whole line of a ledger's bytes; StageError for a line that is no entry."""
    return [_parse(line, number) for number, line in enumerate(_lines(content), start=1)]


def scan(content: bytes) -> Iterator[Entry | None]:
    """Each whole line of a ledger's bytes; None for one that is no entry. For auditors, who go on behind it."""
    for number, line in enumerate(_lines(content), start=1):
        try:
            yield _parse(line, number)
        except StageError:
            yield None


def verify(path: Path) -> list[str]:
    """What is wrong with the chain, one sentence a problem; empty when every line follows from the last."""
    problems = []
    prev = FIRST_PREV
    for number, line in enumerate(_lines(path.read_bytes()) if path.exists() else [], start=1):
        problems += _line_problems(line, number, prev)
        prev = sha256_bytes(line)
    if path.exists() and _torn(path.read_bytes()):
        problems.append("The last line is incomplete: its writer was killed. The next event mends it.")
    return problems


@contextlib.contextmanager
def exclusive(workspace: Workspace, name: str) -> Iterator[None]:
    """Hold ``.state/locks/<name>``; for work that ends soon, so it waits instead of failing."""
    folder = workspace.state / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def held_still(workspace: Workspace, name: str, *, wait_seconds: float = 5.0) -> Iterator[bool]:
    """For readers: hold the lock too, so that what they read belongs together. False: its owner is at work."""
    path = workspace.state / "locks" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError:
        yield True  # a medium that cannot be written to holds no writer
        return
    with file:
        yield _locked_within(file.fileno(), wait_seconds)


def _locked_within(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def _line_problems(line: bytes, number: int, prev: str) -> list[str]:
    try:
        entry = _parse(line, number)
    except StageError as error:
        return [error.cause]
    problems = []
    if entry.line() != line:
        problems.append(f"Line {number} is not canonical JSON: it was edited.")
    if entry.seq != number:
        problems.append(f"Line {number} has seq {entry.seq}: lines were removed, added or moved.")
    if entry.prev != prev:
        problems.append(f"Line {number} does not follow from the line before it: one of the two was changed.")
    return problems


def _parse(line: bytes, number: int) -> Entry:
    """An entry whose fields are of their types and whose values have a stored form: NaN, say, has none."""
    try:
        entry = Entry(**json.loads(line, parse_int=_exact))
        json.dumps(vars(entry), ensure_ascii=False, allow_nan=False).encode()  # tells as ``line`` would, and is fast
    except (ValueError, TypeError, RecursionError):
        raise _damaged(f"Line {number} of the ledger") from None
    if any(type(getattr(entry, name)) is not kind for name, kind in FIELDS.items()):
        raise _damaged(f"Line {number} of the ledger")
    return entry


def _exact(digits: str) -> int:
    """JSON's numbers are doubles: larger integers are not kept."""
    number = int(digits)
    if abs(number) >= 2**53:
        raise ValueError("no canonical JSON for such an integer")
    return number


def _seq(last: bytes) -> int:
    """Number of the last entry; refuses to continue a chain from something that is no entry."""
    if not last:
        return 0
    try:
        return int(json.loads(last)["seq"])
    except (ValueError, TypeError, KeyError):
        raise _damaged("The last line of the ledger") from None


def _damaged(where: str) -> StageError:
    return StageError("ledger_damaged", f"{where} is not an entry.", "Restore ledger.jsonl with git.")


def _mend(file: io.FileIO) -> bytes:
    """The last whole line. A torn one is completed if only its newline is missing, else cut off."""
    last, rest = _tail(file)
    if not rest:
        return last
    if _is_next(rest, last):
        _write(file, b"\n")
        return rest
    file.truncate(file.seek(0, os.SEEK_END) - len(rest))
    return last


def _is_next(rest: bytes, last: bytes) -> bool:
    """Is this unterminated line a whole entry that follows ``last``? A recorded event is never dropped."""
    try:
        entry = _parse(rest, 0)
    except StageError:
        return False
    return entry.prev == (sha256_bytes(last) if last else FIRST_PREV) and entry.line() == rest


def _tail(file: io.FileIO) -> tuple[bytes, bytes]:
    """(last terminated line, unterminated rest), reading only the end of the file."""
    if file.seek(0, os.SEEK_END) == 0:
        return b"", b""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        end = view.rfind(b"\n")
        if end < 0:
            return b"", view[:]
        return view[view.rfind(b"\n", 0, end) + 1 : end], view[end + 1 :]


def _write(file: io.FileIO, data: bytes) -> None:
    """All of ``data`` on disk, or (disk full, Ctrl-C) the file as it was: no buffer writes what failed later on."""
    length = file.seek(0, os.SEEK_END)
    try:
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(length)
        raise


def _lines(content: bytes) -> list[bytes]:
    return content.split(b"\n")[:-1]


def _torn(content: bytes) -> bool:
    return bool(content) and not content.endswith(b"\n")


def now() -> str:
    """UTC, to the second, as every line and record writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
