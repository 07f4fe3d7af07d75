"""One writer at a time: who may change the workspace, and how a killed run's leftovers are ended.

The workspace lock is a flock held by the run (the flow, an intake, or a stage started by hand) for as long
as it lives. Stages that write under it hold the *writers* lock in shared mode, so a new run can see that an
orphan of a killed one still writes; Ray's workers end with their raylet, and all of them carry the owner's
mark. DVC closes inherited descriptors, which is why there are two locks instead of one descriptor handed
down (docs/decisions/0002-two-locks.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipelines import dead_locks, processes
from pipelines.errors import OutsideSystemError
from pipelines.files import remove_dead_temporaries, remove_temporaries, remove_temporaries_of_dvc
from pipelines.workspace import Workspace, private_folder

OWNER = "LCLSC_OWNER"
"""Environment of every child of a run: ``<pid>:<start>:<workspace>``. It survives kill -9 of the owner."""

ORPHAN_GRACE_SECONDS = 20.0


def this_process(workspace: Workspace) -> str:
    return f"{os.getpid()}:{processes.start_of(os.getpid())}:{workspace.root}"


def owner_is_alive(owner: str) -> bool:
    """The start tells the owner from a later process with the same id."""
    pid, started, _ = owner.split(":", 2)
    return processes.start_of(int(pid)) == started


def runs_under_an_owner(workspace: Workspace) -> bool:
    """Is this process the child of a run that holds this workspace's lock?"""
    owner = os.environ.get(OWNER, "")
    return owner.endswith(f":{workspace.root}") and owner_is_alive(owner)


@contextlib.contextmanager
def one_writer(workspace: Workspace, *, wait_seconds: float = 2.0) -> Iterator[None]:
    """Hold the workspace; first end what a killed run left behind. OutsideSystemError when it is in use."""
    with _locked(workspace, "workspace", fcntl.LOCK_EX, wait_seconds, _busy(workspace)):
        _note_owner(workspace)
        end_orphans(workspace)
        dead_locks.mend(workspace)
        _sweep(workspace)
        with marked(workspace):
            yield


@contextlib.contextmanager
def one_service(workspace: Workspace) -> Iterator[None]:
    """Held for as long as a process serves the workspace's flows; OutsideSystemError where one does already."""
    busy = OutsideSystemError(
        "served_already",
        "Another process serves the flows of this workspace: two would take turns in setting its deployments.",
        "Stop that one first; `lclsc doctor` and Prefect's page work beside it.",
    )
    with _locked(workspace, "service", fcntl.LOCK_EX, 0.0, busy):
        yield


@contextlib.contextmanager
def marked(workspace: Workspace) -> Iterator[None]:
    """Children started from here on carry this process's mark, so that none can outlive it unseen."""
    before = os.environ.get(OWNER)
    os.environ[OWNER] = this_process(workspace)
    try:
        yield
    finally:
        os.environ.pop(OWNER)
        if before is not None:
            os.environ[OWNER] = before


@contextlib.contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """Held in shared mode by every stage that writes data: its end is what a new run waits for."""
    with _locked(workspace, "writers", fcntl.LOCK_SH, ORPHAN_GRACE_SECONDS, _busy(workspace)):
        yield


def end_orphans(workspace: Workspace) -> list[int]:
    """Kill processes of runs of this workspace whose owner is dead; wait until none of them writes."""
    found = orphans(workspace)
    for orphan in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    psutil.wait_procs(found, timeout=ORPHAN_GRACE_SECONDS)
    with _locked(workspace, "writers", fcntl.LOCK_EX, ORPHAN_GRACE_SECONDS, _busy(workspace)):
        return [orphan.pid for orphan in found]


def orphans(workspace: Workspace) -> list[psutil.Process]:
    """Processes of runs of this workspace whose owner is dead."""
    return [process for process in psutil.process_iter() if _is_orphan(process, workspace)]


def members(workspace: Workspace) -> list[psutil.Process]:
    """Every process that carries this workspace's mark, whoever owns it."""
    return [process for process in psutil.process_iter() if _mark(process).endswith(f":{workspace.root}")]


def holder(workspace: Workspace) -> dict[str, object] | None:
    """Who holds the workspace right now (pid, since), or None when it is free."""
    try:
        file = _lock_file(workspace, "workspace").open("a+")
    except OSError:
        return None  # a medium that cannot be written to holds no writer
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_owner(workspace)
    return None


def _is_orphan(process: psutil.Process, workspace: Workspace) -> bool:
    owner = _mark(process)
    if not owner.endswith(f":{workspace.root}") or process.pid == os.getpid():
        return False
    is_from_here = f":{processes.boot()}/" in owner  # else a worker of another machine's run, with the same path there
    return is_from_here and not owner_is_alive(owner)


def _mark(process: psutil.Process) -> str:
    try:
        return str(process.environ().get(OWNER, ""))
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _sweep(workspace: Workspace) -> None:
    for folder in (
        workspace.root,
        workspace.frames,
        workspace.mask_frames,
        workspace.videos,
        workspace.masks,
        workspace.quarantine,
        workspace.train_table.parent,
        workspace.weights.parent,
        workspace.reports,
        workspace.root / ".dvc" / "tmp",
    ):
        remove_temporaries(folder)
        remove_temporaries_of_dvc(folder)
    remove_dead_temporaries(workspace.state)  # it has writers without this lock


@contextlib.contextmanager
def _locked(
    workspace: Workspace, name: str, mode: int, wait_seconds: float, busy: OutsideSystemError
) -> Iterator[None]:
    deadline = time.monotonic() + wait_seconds
    with _lock_file(workspace, name).open("a+") as file:
        while True:
            try:
                fcntl.flock(file, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise busy from None
                time.sleep(0.1)
        yield


def _lock_file(workspace: Workspace, name: str) -> Path:
    folder = private_folder(workspace.state) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _note_owner(workspace: Workspace) -> None:
    note = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    (_lock_file(workspace, "workspace.owner")).write_text(json.dumps(note))


def _read_owner(workspace: Workspace) -> dict[str, object]:
    try:
        return dict(json.loads(_lock_file(workspace, "workspace.owner").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _busy(workspace: Workspace) -> OutsideSystemError:
    owner = _read_owner(workspace)
    return OutsideSystemError(
        "workspace_busy",
        f"Another run holds this workspace (process {owner.get('pid', '?')}, since {owner.get('since', '?')}).",
        "Wait for it, or end that process and try again.",
        transient=True,
    )
