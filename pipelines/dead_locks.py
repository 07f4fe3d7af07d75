"""Locks of git and DVC that a killed process left: every later command fails on one, until it is removed.

git's are files beside what they guard (``index.lock``); DVC's stand in one file, each with a process id. Both tools
take a lock for somebody at work as long as it is there, or as long as *any* process has that id. Here it is
removed when no git is at work in this folder, or when the process of that id is no DVC.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from pipelines.files import write_text
from pipelines.workspace import Workspace

UNSEEN_SECONDS = 60.0
"""Age at which a git lock is dead even though somebody else's git, of which nothing can be seen, may be at work."""


def found(workspace: Workspace) -> list[str]:
    """What is in the way, by name; nothing is changed."""
    return [path.name for path in _of_git(workspace)] + (["rwlock"] if _mended(_of_dvc(workspace)) is not None else [])


def mend(workspace: Workspace) -> list[str]:
    """Remove what is in the way; returns what that was. For whoever holds the workspace."""
    return [*mend_git(workspace), *(["rwlock"] if _mend_dvc(_of_dvc(workspace)) else [])]


def mend_git(workspace: Workspace) -> list[str]:
    """Only git's."""
    dead = _of_git(workspace)
    for path in dead:
        path.unlink(missing_ok=True)
    return [path.name for path in dead]


def _of_git(workspace: Workspace) -> list[Path]:
    folder = workspace.root / ".git"
    locks = [*folder.glob("*.lock"), *folder.glob("refs/**/*.lock"), *folder.glob("objects/**/*.lock")]
    if not locks:
        return []
    at_work = _git_at_work(workspace.root)
    if at_work is True:
        return []
    return [path for path in locks if at_work is False or _age_seconds(path) > UNSEEN_SECONDS]


def _git_at_work(root: Path) -> bool | None:
    """None: there is a git of which we may not see where it works."""
    unseen = False
    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "git" and not str(process.info["name"]).startswith("git-"):
            continue
        try:
            if Path(process.cwd()).is_relative_to(root):
                return True
        except psutil.AccessDenied:
            unseen = True
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return None if unseen else False


def _age_seconds(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0


def _of_dvc(workspace: Workspace) -> Path:
    return workspace.root / ".dvc" / "tmp" / "rwlock"


def _mend_dvc(path: Path) -> bool:
    wanted = _mended(path)
    if wanted is None:
        return False
    if wanted:
        write_text(path, json.dumps(wanted))
    else:
        path.unlink(missing_ok=True)
    return True


def _mended(path: Path) -> dict[str, Any] | None:
    """The file without the dead; empty where it cannot be read; None where nothing has to be done."""
    try:
        held = json.loads(path.read_text())
        living = {
            "read": {
                name: [info for info in infos if _is_dvc(info["pid"])] for name, infos in held.get("read", {}).items()
            },
            "write": {name: info for name, info in held.get("write", {}).items() if _is_dvc(info["pid"])},
        }
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    living["read"] = {name: infos for name, infos in living["read"].items() if infos}
    return None if _count(living) == _count(held) else living


def _count(held: dict[str, Any]) -> int:
    return sum(len(infos) for infos in held.get("read", {}).values()) + len(held.get("write", {}))


def _is_dvc(pid: int) -> bool:
    """Its id may belong to another process by now."""
    try:
        command: Iterable[str] = psutil.Process(pid).cmdline()
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False
    return any(Path(word).name == "dvc" for word in command)
