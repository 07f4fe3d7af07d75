"""Locks of the dead are removed, locks of the living are not, whatever number their process has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import dead_locks, locks, versioning
from pipelines.errors import OutsideSystemError
from pipelines.workspace import Workspace


def rwlock(workspace: Workspace, content: str) -> Path:
    path = workspace.root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


def held_by(workspace: Workspace, pid: int) -> Path:
    info = {"pid": pid, "cmd": "dvc repro"}
    held = {"write": {str(workspace.manifest): info}, "read": {str(workspace.dvc_yaml): [info]}}
    return rwlock(workspace, json.dumps(held))


@pytest.mark.parametrize("content", ["", '{"write": {', '{"write": 3}'])
def test_a_torn_file_of_path_locks_is_removed(workspace: Workspace, content: str) -> None:
    path = rwlock(workspace, content)
    with locks.one_writer(workspace):
        assert not path.exists()


def test_the_id_of_a_dead_dvc_may_belong_to_another_process_by_now(workspace: Workspace) -> None:
    path = held_by(workspace, os.getpid())
    with pytest.raises(OutsideSystemError, match="busy"):
        versioning.dvc(workspace, "repro", "extract")
    assert dead_locks.found(workspace) == ["rwlock"]
    assert dead_locks.mend(workspace) == ["rwlock"]
    assert json.loads(path.read_text()) == {"read": {}, "write": {}}
    assert dead_locks.found(workspace) == []


def test_what_a_living_dvc_holds_stays(workspace: Workspace) -> None:
    """Something whose command line says ``dvc``, as the real one's does."""
    living = subprocess.Popen([sys.executable, "-c", "input()", "dvc"], stdin=subprocess.PIPE)
    try:
        before = held_by(workspace, living.pid).read_bytes()
        assert dead_locks.mend(workspace) == []
        assert held_by(workspace, living.pid).read_bytes() == before
    finally:
        living.kill()
        living.wait()


@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock", "refs/heads/main.lock"])
def test_a_commit_is_not_stopped_by_a_git_that_was_killed(workspace: Workspace, name: str) -> None:
    (workspace.root / ".git" / name).touch()
    (workspace.root / "manifest.csv").write_text("new\n")
    assert versioning.commit(workspace, ["manifest.csv"], "after a kill")


def test_what_a_living_git_holds_stays(workspace: Workspace) -> None:
    waiting = subprocess.Popen(["git", "cat-file", "--batch"], cwd=workspace.root, stdin=subprocess.PIPE)
    try:
        lock = workspace.root / ".git" / "index.lock"
        lock.touch()
        assert dead_locks.mend(workspace) == []
        assert lock.exists()
    finally:
        waiting.kill()
        waiting.wait()
    assert dead_locks.mend(workspace) == ["index.lock"]
