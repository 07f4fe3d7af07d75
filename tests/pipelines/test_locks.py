from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines import locks, processes
from pipelines.errors import OutsideSystemError
from pipelines.workspace import Workspace

OWNER = """
import subprocess, sys, time
from pathlib import Path
from pipelines import locks
from pipelines.workspace import Workspace
with locks.one_writer(Workspace(Path(sys.argv[1]))):
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], close_fds=True)
    print(child.pid, flush=True)
    time.sleep(60)
"""
WRITER = """
import sys, time
from pathlib import Path
from pipelines import locks
from pipelines.workspace import Workspace
place = Workspace(Path(sys.argv[1]))
assert locks.runs_under_an_owner(place)
with locks.writing(place):
    (place.root / "writing").touch()
    time.sleep(60)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def _owner(workspace: Workspace) -> tuple[subprocess.Popen[str], int]:
    """A real run with a real writing child; returns both."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(workspace.root), WRITER], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    deadline = time.monotonic() + 30
    while not (workspace.root / "writing").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return owner, child


def test_a_second_run_is_told_who_works_here(workspace: Workspace) -> None:
    owner, child = _owner(workspace)
    try:
        with (
            pytest.raises(OutsideSystemError, match=f"process {owner.pid}") as caught,
            locks.one_writer(workspace),
        ):
            pass
        assert caught.value.transient
        assert (locks.holder(workspace) or {})["pid"] == owner.pid
    finally:
        owner.kill()
        psutil.Process(child).kill()
        owner.wait()


def test_after_kill_9_of_a_run_its_orphans_are_ended_before_the_next_one_starts(workspace: Workspace) -> None:
    owner, child = _owner(workspace)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert psutil.pid_exists(child)
    with locks.one_writer(workspace):
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def left_by_a_dead_process() -> str:
    """A temporary's name."""
    code = "from pipelines.files import temporary_name; print(temporary_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_sweeps_half_written_files(workspace: Workspace) -> None:
    workspace.frames.mkdir(parents=True)
    (workspace.frames / ".tmp-123-shard.parquet").write_bytes(b"half")
    (workspace.frames / "shard.parquet").write_bytes(b"whole")
    workspace.state.mkdir(exist_ok=True)
    (workspace.state / left_by_a_dead_process()).mkdir()
    (workspace.state / ".tmp-123-of-somebody-else").write_bytes(b"half")
    links = workspace.frames.parent / ".k9qgrQ2u_3WjlFE-08v7kg.tmp"  # DVC tries how it may link, and is killed
    links.write_bytes(b"test")
    with locks.one_writer(workspace):
        assert [path.name for path in workspace.frames.iterdir()] == ["shard.parquet"]
        assert [path.name for path in workspace.state.glob(".tmp-*")] == [".tmp-123-of-somebody-else"]
    assert not links.exists()


def test_a_reused_process_id_is_not_taken_for_the_owner() -> None:
    boot, ticks = str(processes.start_of(os.getpid())).rsplit("/", 1)
    assert locks.owner_is_alive(f"{os.getpid()}:{boot}/{ticks}:/w")
    assert not locks.owner_is_alive(f"{os.getpid()}:{boot}/{int(ticks) - 1}:/w")
    assert not locks.owner_is_alive(f"{os.getpid()}:{boot[::-1]}/{ticks}:/w")


def test_a_worker_of_another_machine_is_nobodys_orphan(workspace: Workspace) -> None:
    """A cluster's node may hold a workspace at the same path as the machine whose training it serves."""
    elsewhere = f"1:00000000-0000-0000-0000-000000000000/7:{workspace.root}"
    with subprocess.Popen(["sleep", "600"], env=os.environ | {locks.OWNER: elsewhere}) as worker:
        assert locks.orphans(workspace) == []
        assert [process.pid for process in locks.members(workspace)] == [worker.pid]
        worker.kill()


def test_the_lock_is_free_again_afterwards(workspace: Workspace) -> None:
    with locks.one_writer(workspace):
        assert os.environ[locks.OWNER].startswith(f"{os.getpid()}:")
    assert locks.OWNER not in os.environ
    assert locks.holder(workspace) is None
