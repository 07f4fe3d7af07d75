"""Numbers what the processes of one run change, and does something to them at one such place.

Installed by ``sitecustomize`` in every Python process whose environment holds ``FAULTS``, and by ``cases`` in the
process that a point is about. Standard library only: it is there before anything else is.

A *place* is: a file opened for writing, a file or folder made, renamed or removed, an fsync, a child process
started, a transaction about to be committed, one just committed. Places are numbered over all processes of a run,
in the order in which they are reached.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

VARIABLE = "FAULTS"
WIDTH = 160  # bytes of a record: a place's number follows from the size of the file of records
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
INTO_PLACE = {"os.rename", "os.link"}
ERRORS = {"full": errno.ENOSPC, "io": errno.EIO, "readonly": errno.EROFS}
CACHE = "/.dvc/cache/"
SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT, "hup": signal.SIGHUP}
DAY_SECONDS = 86400.0

_plan: dict[str, Any] = {}
_here = threading.local()
_true_time = time.time


def install(plan: dict[str, Any]) -> None:
    """``plan``: ``records`` (a file), ``root`` (what lies elsewhere does not count), ``at``, ``what``.

    ``at`` 0 strikes nowhere and only counts.
    """
    _plan.update(plan)
    fsync = os.fsync

    def counted(descriptor: Any) -> None:
        _reach("fsync", "")
        fsync(descriptor)

    os.fsync = counted
    sys.addaudithook(_listen)


def places(records: Path) -> list[str]:
    """What was reached, in order."""
    content = records.read_bytes() if records.exists() else b""
    return [content[start : start + WIDTH].decode(errors="replace").strip() for start in range(0, len(content), WIDTH)]


def _listen(name: str, arguments: tuple[Any, ...]) -> None:
    if getattr(_here, "busy", False):
        return
    if name == "open":
        path, _, flags = arguments
        if flags & WRITES and isinstance(path, str) and _is_ours(path):
            _reach("write", path)
    elif name in CHANGES:
        path = os.fspath(arguments[1] if name in INTO_PLACE else arguments[0])
        if _is_ours(path):
            _reach(name[3:], path)
    elif name == "subprocess.Popen":
        _reach("start", " ".join(str(word) for word in arguments[1]), may_fail=False)
    elif name == "sqlite3.connect":
        _count_commits()


def _is_ours(path: Any) -> bool:
    return isinstance(path, str) and (not path.startswith("/") or path.startswith(_plan["root"]))


def _count_commits() -> None:
    engine = sys.modules.get("sqlalchemy.engine.default")
    if engine is None or hasattr(engine, "places_are_counted"):
        return
    engine.places_are_counted = True  # type: ignore[attr-defined]
    commit = engine.DefaultDialect.do_commit

    def counted(self: Any, connection: Any) -> None:
        _reach("commit", "")
        commit(self, connection)
        _reach("committed", "", may_fail=False)

    engine.DefaultDialect.do_commit = counted


def _reach(kind: str, what: str, *, may_fail: bool = True) -> None:
    _here.busy = True
    try:
        number = _record(f"{os.getpid()} {kind} {what.removeprefix(_plan['root'])}")
        if 0 < _plan["at"] <= number:
            _strike(_plan["what"], what if may_fail else None, is_first=number == _plan["at"])
    finally:
        _here.busy = False


def _note_struck() -> bool:
    """That something happened; whether it is the first time."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(_struck(_plan["records"]), os.O_CREAT | os.O_EXCL))
        return True
    return False


def was_struck(records: Path) -> bool:
    return Path(_struck(records)).exists()


def _struck(records: Path | str) -> str:
    return f"{records}.struck"


def _record(text: str) -> int:
    """Number of this place, from 1."""
    line = text.encode(errors="replace")[: WIDTH - 1].ljust(WIDTH - 1) + b"\n"
    descriptor = os.open(_plan["records"], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, line)
        return os.fstat(descriptor).st_size // WIDTH
    finally:
        os.close(descriptor)


def _strike(what: str, path: str | None, *, is_first: bool) -> None:
    """At the first place, once; a named process as soon as there is one; errors at places that can fail."""
    if what in ERRORS:
        _fail(what, path)
    elif what.startswith("named:"):
        _kill_named(what[6:])
    elif is_first:
        _note_struck()
        if what == "all":
            _kill([*_family(), _leader(), os.getpid()])
        elif what == "alone":
            _kill([_leader()])
        elif what == "self":
            _kill([os.getpid()])
        elif what == "clock":
            _turn_back()
        elif what in SIGNALS:
            os.kill(_leader(), SIGNALS[what])


def _fail(what: str, path: str | None) -> None:
    """A full disk stays full, a read-only cache read-only; an input/output error happens once."""
    if path is None or (what == "readonly" and CACHE not in path):
        return
    if _note_struck() or what != "io":
        raise OSError(ERRORS[what], os.strerror(ERRORS[what]), path or None)


def _kill_named(name: str) -> None:
    """All of that name, once."""
    if not was_struck(_plan["records"]):
        pids = [pid for pid in _family() if name in _command(pid)]
        if pids and _note_struck():
            _kill(pids)


def _leader() -> int:
    """The process that the step began with."""
    return int(Path(f"{_plan['records']}.leader").read_text())


def _kill(pids: list[int]) -> None:
    """Stopped first, so that none sees another one's death and tidies up."""
    own = os.getpid()
    ordered = [pid for pid in pids if pid != own] + [pid for pid in pids if pid == own][:1]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in ordered:
            if pid != own or number == signal.SIGKILL:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


def _family() -> list[int]:
    """All processes that were started with this plan in their environment, but for this one."""
    token = _plan["records"].encode()
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _has(entry.name, token)]


def _has(pid: str, token: bytes) -> bool:
    try:
        return int(pid) != os.getpid() and token in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _turn_back() -> None:
    """The clock of this process is a day behind from now on."""
    import datetime

    time.time = lambda: _true_time() - DAY_SECONDS
    true = datetime.datetime

    class Behind(true):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return true.now(tz) - datetime.timedelta(seconds=DAY_SECONDS)

    for name, module in list(sys.modules.items()):
        if name.startswith(("pipelines.", "flows.")) and getattr(module, "datetime", None) is datetime:
            module.datetime = _Module(datetime, Behind)  # type: ignore[attr-defined]


class _Module:
    """``datetime`` with another clock."""

    def __init__(self, module: Any, clock: Any) -> None:
        self._module, self.datetime = module, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def install_from_environment() -> None:
    text = os.environ.get(VARIABLE)
    if text:
        install(json.loads(text))
