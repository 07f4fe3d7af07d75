"""What a dead owner leaves: locks whose process is gone, or whose number another process has by now."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable

from pipelines.workspace import Workspace


def plant(place: Workspace, chance: random.Random) -> str:
    """Some of them, under the id of a dead process or of this one; says which."""
    pid = chance.choice((_dead_pid(), os.getpid()))
    chosen = chance.sample(sorted(KINDS), chance.randint(1, len(KINDS)))
    for name in chosen:
        KINDS[name](place, pid)
    return f"{', '.join(chosen)} of {'this' if pid == os.getpid() else 'a dead'} process"


def _dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def _owner(place: Workspace, pid: int) -> None:
    folder = place.state / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workspace.owner").write_text(json.dumps({"pid": pid, "since": "2020-01-01T00:00:00Z"}))


def _git_index(place: Workspace, _: int) -> None:
    (place.root / ".git" / "index.lock").touch()


def _git_branch(place: Workspace, _: int) -> None:
    (place.root / ".git" / "refs" / "heads" / "main.lock").touch()


def _dvc_paths(place: Workspace, pid: int) -> None:
    """DVC's lock of paths, as ``dvc repro`` holds it while a stage runs."""
    info = {"pid": pid, "cmd": "dvc repro"}
    held = {"write": {str(place.frames): info}, "read": {str(place.manifest): [info]}}
    (place.root / ".dvc" / "tmp").mkdir(exist_ok=True)
    (place.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held))


def _dvc_paths_torn(place: Workspace, _: int) -> None:
    (place.root / ".dvc" / "tmp").mkdir(exist_ok=True)
    (place.root / ".dvc" / "tmp" / "rwlock").write_text('{"/data/frames": {"wri')


KINDS: dict[str, Callable[[Workspace, int], None]] = {
    "workspace owner": _owner,
    "git index": _git_index,
    "git branch": _git_branch,
    "DVC paths": _dvc_paths,
    "DVC paths, torn": _dvc_paths_torn,
}
