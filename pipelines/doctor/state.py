"""The folder itself: disk, locks, leftovers, rights, clock, sockets, parameters, indexes."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from pipelines import dead_locks, ledger, locks, params
from pipelines.doctor.finding import Finding
from pipelines.errors import LclscError
from pipelines.workspace import Workspace, private_folder

MIN_FREE_BYTES = 5 * 2**30
MIN_FREE_FILES = 20_000
CLOCK_SLACK_SECONDS = 120.0


def findings(workspace: Workspace) -> Iterator[Finding]:
    yield _params(workspace)
    yield _disk(workspace)
    yield _lock(workspace)
    yield _orphans(workspace)
    yield _dead_locks(workspace)
    yield _indexes(workspace)
    yield _rights(workspace)
    yield _clock(workspace)
    yield _sockets(workspace)


def _params(workspace: Workspace) -> Finding:
    try:
        params.load(workspace.params)
    except LclscError as error:
        return Finding("params.yaml", False, error.cause, error.remedy)
    return Finding("params.yaml", True, "as this version reads it")


def _disk(workspace: Workspace) -> Finding:
    free = shutil.disk_usage(workspace.root).free
    files = _free_files(workspace.root)
    return Finding(
        "disk",
        free >= MIN_FREE_BYTES and files >= MIN_FREE_FILES,
        f"{free / 2**30:.1f} GiB free" + (f", room for {files} files" if files < MIN_FREE_FILES else ""),
        "Free some disk: a retrain needs at least 5 GiB. `lclsc gc` frees what no model needs.",
    )


def _free_files(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_favail if found.f_files else MIN_FREE_FILES  # some file systems do not count


def _lock(workspace: Workspace) -> Finding:
    holder = locks.holder(workspace)
    text = "free" if holder is None else f"held by process {holder.get('pid')} since {holder.get('since')}"
    return Finding("workspace lock", True, text)


def _orphans(workspace: Workspace) -> Finding:
    """Left by a killed run; the next run ends them too."""
    found = locks.orphans(workspace)
    names = ", ".join(f"{process.name()} ({process.pid})" for process in found)

    def mend() -> str:
        return f"ended {len(locks.end_orphans(workspace))} processes"

    return Finding("orphans", not found, names or "none", "Run `lclsc doctor --repair`, or the next retrain.", mend)


def _dead_locks(workspace: Workspace) -> Finding:
    """Of a git or a DVC that was killed: every later commit, or command of DVC, fails on one."""
    found = dead_locks.found(workspace)

    def mend() -> str:
        return f"removed {', '.join(dead_locks.mend(workspace))}"

    remedy = "Run `lclsc doctor --repair`, or the next retrain."
    return Finding("dead locks", not found, ", ".join(found) or "none", remedy, mend)


def _indexes(workspace: Workspace) -> Finding:
    """Small files of .state that are made again when they are missing, and stop commands when they are broken."""
    found = [*workspace.state.glob("*.json"), *workspace.state.glob("drop/*.json")]
    broken = [path for path in found if not _is_json(path)]

    def mend() -> str:
        for path in broken:
            path.unlink()
        return f"removed {', '.join(path.name for path in broken)}; made again when needed"

    shown = ", ".join(str(path.relative_to(workspace.root)) for path in broken)
    return Finding("indexes", not broken, shown or "readable", "Run `lclsc doctor --repair`.", mend)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _rights(workspace: Workspace) -> Finding:
    """Identified material is its owner's alone."""
    folders = [workspace.videos, workspace.masks, workspace.quarantine, workspace.root / ".dvc" / "cache"]
    folders += [workspace.state, workspace.remotes / "identified"]
    open_ones = [folder for folder in folders if folder.is_dir() and folder.stat().st_mode & 0o077]

    def mend() -> str:
        for folder in open_ones:
            private_folder(folder)
        return f"closed {', '.join(str(folder.relative_to(workspace.root)) for folder in open_ones)}"

    shown = ", ".join(str(folder.relative_to(workspace.root)) for folder in open_ones)
    found = f"others may look into {shown}" if open_ones else "closed to others"
    return Finding("rights", not open_ones, found, "Run `lclsc doctor --repair`, or chmod 700 them.", mend)


def _clock(workspace: Workspace) -> Finding:
    """A clock that went back writes a ledger out of order and lets schedules fire twice."""
    last = max((entry.at for entry in _entries(workspace)), default=None)
    now = datetime.datetime.now(datetime.UTC)
    if last is None:
        return Finding("clock", True, f"{now:%Y-%m-%dT%H:%M:%SZ}")
    ahead = (datetime.datetime.fromisoformat(last) - now).total_seconds()
    return Finding(
        "clock",
        ahead < CLOCK_SLACK_SECONDS,
        f"{now:%Y-%m-%dT%H:%M:%SZ}" + (f", but the ledger is at {last}" if ahead >= CLOCK_SLACK_SECONDS else ""),
        "Set this machine's clock, or let it be kept by NTP.",
    )


def _entries(workspace: Workspace) -> list[ledger.Entry]:
    try:
        return ledger.read(workspace.ledger)
    except LclscError:
        return []


def _sockets(workspace: Workspace) -> Finding:
    """What processes of this workspace listen on: this machine only, unless the user runs a cluster."""
    found = sorted(
        f"{process.name()} on {end.laddr.ip}:{end.laddr.port}"
        for process in locks.members(workspace)
        for end in _listening(process)
        if not end.laddr.ip.startswith("127.") and end.laddr.ip not in ("::1", "::ffff:127.0.0.1")
    )
    return Finding(
        "sockets",
        not found,
        ", ".join(found) or "this machine only",
        "Find out who started it; lclsc opens none of these itself. Close the port to other machines.",
    )


def _listening(process: psutil.Process) -> list[Any]:
    with contextlib.suppress(psutil.Error):
        return [end for end in process.net_connections("inet") if end.status == psutil.CONN_LISTEN]
    return []
