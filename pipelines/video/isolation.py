"""Decoding in a child process with limits: a decoder that crashes, hangs or swells costs one clip, not the run.

A process that wants something decoded starts a *nursery*: an interpreter that has imported the readers and
nothing heavy. For each call the nursery forks a child, which costs milliseconds, and only that child touches
hostile bytes: limited in memory, time and file size, without core dumps, silent, dead when its nursery is.
Questions and answers are JSON, one line each; what is large goes through files that the caller names.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from pipelines import errors
from pipelines.errors import LclscError, OutsideSystemError, VideoError
from pipelines.video.faults import fault

KIB, MIB = 1 << 10, 1 << 20
ANSWER_BYTES = 16 * MIB
INTERPRETER_MIB = 1024  # address space, more than the nursery takes with all its libraries
OPEN_FILES = 64
GRACE_SECONDS = 30.0  # beyond a child's time, for a busy nursery to say that it ended it
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 * MIB), "MALLOC_MMAP_THRESHOLD_": str(32 * MIB)}
"""A freed frame is used again: handed back and asked for anew, each of its pages costs a fault."""
PLAIN_POOL = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Arrow's own allocator takes a GiB of addresses at once, which the limit on them cannot tell from use."""
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38  # linux/prctl.h

Ended = dict[str, Any]
"""How a child ended: ``exit`` code, ``signal`` (0: none), ``timed_out``, and its ``answer`` in JSON."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one child may use; ``memory_mib`` is address space beyond what the interpreter itself takes."""

    memory_mib: int = 1024
    cpu_seconds: int = 600
    wall_seconds: int = 1800
    file_mib: int = 4096


def run_isolated(function: Callable[..., Any], *arguments: Any, limits: Limits | None = None) -> Any:
    """``function(*arguments)`` in a child of its own; raises its LclscError, or the VideoError of how it ended.

    ``function`` is importable by name. Arguments and result are JSON: paths arrive as strings.
    """
    limits = limits or Limits()
    _require_room(limits)
    question = json.dumps([_name(function), arguments, asdict(limits)], default=os.fspath).encode() + b"\n"
    for _ in (1, 2):
        ended = _asked(question, limits.wall_seconds + GRACE_SECONDS)
        if ended is not None:
            return _result(ended, limits)
    raise OutsideSystemError(
        "decoder_lost",
        "The process that decodes videos was ended from outside, twice.",
        "Free memory and run it again: the system may have killed it.",
        transient=True,
    )


# --- the caller's side --------------------------------------------------------------------------------


def _require_room(limits: Limits) -> None:
    """A clip must not be blamed for what this process itself may not use."""
    for kind, needed, unit, option in (
        (resource.RLIMIT_AS, (INTERPRETER_MIB + limits.memory_mib) * MIB, KIB, "-v"),
        (resource.RLIMIT_FSIZE, limits.file_mib * MIB, KIB, "-f"),
        (resource.RLIMIT_CPU, limits.cpu_seconds + 5, 1, "-t"),
        (resource.RLIMIT_NOFILE, OPEN_FILES, 1, "-n"),
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise OutsideSystemError(
                "low_limit",
                f"`ulimit -H {option}` is {hard // unit} here, and decoding a clip may take {needed // unit}.",
                f"Raise that limit of the account or the batch system to {needed // unit} at least, and run it again.",
            )


class _Nursery:
    """A running nursery. It answers one question at a time; callers in several threads have one each."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.lines = self.socket.makefile("rb")
        path = [str(Path(entry).resolve()) for entry in sys.path]  # a packaged model decodes with its own code
        start = f"import sys; sys.path[:] = {path!r}; from {__name__} import serve; serve({theirs.fileno()})"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", start],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | ONE_THREAD | KEEPS_MEMORY | PLAIN_POOL,
            )

    def ask(self, question: bytes, seconds: float) -> Ended | None:
        """None when the nursery is gone."""
        self.socket.settimeout(seconds)
        try:
            self.socket.sendall(question)
            line = self.lines.readline()
        except OSError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> None:
        self.lines.close()
        self.socket.close()
        self.process.kill()
        self.process.wait()


_idle: list[_Nursery] = []
os.register_at_fork(after_in_child=_idle.clear)


def _asked(question: bytes, seconds: float) -> Ended | None:
    nursery = _idle.pop() if _idle else _Nursery()
    ended = None
    try:
        ended = nursery.ask(question, seconds)
    finally:
        if ended is None:  # gone, or the caller was interrupted: its child must not run on
            nursery.end()
        else:
            _idle.append(nursery)
    return ended


def _result(ended: Ended, limits: Limits) -> Any:
    """The function's value, or an error that says how its child ended."""
    if ended["timed_out"] or ended["signal"] == signal.SIGXCPU:
        allowed = f"{limits.cpu_seconds} s of processor time or {limits.wall_seconds} s in all"
        raise fault("over_decode_time", f"Decoding took longer than {allowed}.")
    if ended["signal"] or ended["exit"]:
        how = signal.Signals(ended["signal"]).name if ended["signal"] else f"exit code {ended['exit']}"
        raise fault("decoder_crashed", f"The decoder crashed on this file ({how}).")
    answer = json.loads(ended["answer"])
    if "error" not in answer:
        return answer["value"]
    kind = getattr(errors, answer["kind"])
    assert issubclass(kind, LclscError)
    raise kind(**answer["error"])


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


# --- the nursery --------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork a child for each question until the caller closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's; a nursery ends with its socket
    caller = socket.socket(fileno=descriptor)
    with caller, caller.makefile("rb") as lines:
        while line := lines.readline():
            caller.sendall(json.dumps(_ended(caller, *json.loads(line))).encode() + b"\n")


def _ended(caller: socket.socket, name: str, arguments: list[Any], limits: dict[str, int]) -> Ended:
    function = _named(name)  # imported here once, not in every child
    answer = os.memfd_create("answer")
    try:
        child = os.fork()
        if child == 0:
            caller.close()
            _run(function, arguments, Limits(**limits), answer)
        return _await(child, caller, limits["wall_seconds"]) | {"answer": os.pread(answer, ANSWER_BYTES, 0).decode()}
    finally:
        os.close(answer)


def _named(name: str) -> Callable[..., Any]:
    module, qualified = name.split(":")
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part)
    return cast(Callable[..., Any], found)


def _await(child: int, caller: socket.socket, seconds: float) -> Ended:
    """Until the child ends, its time is up, or nobody waits for it any more."""
    handle = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    waiting.register(caller, select.POLLRDHUP)
    ready = dict(waiting.poll(seconds * 1000))
    os.close(handle)
    if handle not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"exit": max(code, 0), "signal": max(-code, 0), "timed_out": not ready}


# --- the child ----------------------------------------------------------------------------------------


def _run(function: Callable[..., Any], arguments: list[Any], limits: Limits, answer: int) -> NoReturn:
    """Never returns: only its exit code and JSON leave the child."""
    status = 1
    try:
        _confine(limits)
        said = _written(_said(function, arguments))
        if os.write(answer, said) == len(said):
            status = 0
    finally:
        os._exit(status)


def _confine(limits: Limits) -> None:
    """No more than the limits, no core dump, no new rights, no voice, no life without the nursery."""
    nursery = os.getppid()
    for option, value in ((PR_SET_PDEATHSIG, signal.SIGKILL), (PR_SET_DUMPABLE, 0), (PR_SET_NO_NEW_PRIVS, 1)):
        LIBC.prctl(option, value, 0, 0, 0)
    if os.getppid() != nursery:
        os._exit(1)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # decoders quote what they read on stderr
        os.dup2(silence, stream)
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, soft, hard in (
        (resource.RLIMIT_AS, address_space + limits.memory_mib * MIB, None),
        (resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 5),  # SIGXCPU first, which tells why
        (resource.RLIMIT_FSIZE, limits.file_mib * MIB, None),
        (resource.RLIMIT_NOFILE, OPEN_FILES, None),
        (resource.RLIMIT_CORE, 0, None),
    ):
        resource.setrlimit(kind, (soft, soft if hard is None else hard))


def _written(said: dict[str, Any]) -> bytes:
    """As JSON; an error instead of what is more than the nursery reads."""
    content = json.dumps(said).encode()
    if len(content) <= ANSWER_BYTES:
        return content
    return _written(_raised(fault("over_answer", "What was found in this file is too much to be handed on.")))


def _said(function: Callable[..., Any], arguments: list[Any]) -> dict[str, Any]:
    """The function's value, or its error in a shape that quotes nothing of the file."""
    try:
        return {"value": function(*arguments)}
    except LclscError as error:
        raised = error
    except MemoryError:
        raised = _over_memory()
    except OSError as error:
        raised = _of_the_system(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
        raised = fault("decoder_failed", f"The decoder gave up on this file ({where}).")
    return _raised(raised)


def _raised(error: LclscError) -> dict[str, Any]:
    return {"kind": type(error).__name__, "error": error.as_json()}


def _of_the_system(error: OSError) -> LclscError:
    """A full disk is no fault of the clip; what the limits stopped is."""
    if error.errno == errno.ENOMEM:
        return _over_memory()
    if error.errno == errno.EFBIG:
        return fault("over_output", "What comes out of this file is larger than allowed.")
    return OutsideSystemError(
        "disk",
        f"A file could not be read or written: {os.strerror(error.errno or errno.EIO)}.",
        "Free space on the disk or mend its rights, and run it again.",
        transient=True,
    )


def _over_memory() -> VideoError:
    return fault("over_memory", "Decoding needs more memory than allowed.")
