"""Each thing that can be wrong with a workspace is named with its remedy; what is safe to mend is mended."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from bad_disk import change_a_byte

from pipelines import doctor, ledger, locks, object_stores, processes, versioning
from pipelines.doctor import machine
from pipelines.files import md5_bytes
from pipelines.workspace import Workspace


def finding(workspace: Workspace, name: str) -> doctor.Finding:
    (found,) = [one for one in doctor.run(workspace) if one.name == name]
    return found


def test_a_new_workspace_is_well_but_for_what_was_never_pushed(workspace: Workspace) -> None:
    findings = doctor.run(workspace)
    assert [one.name for one in findings if not one.ok] == ["DVC remotes"]
    assert all(one.remedy for one in findings if not one.ok)


def test_a_workspace_without_its_dvc_folder_has_a_finding_and_no_traceback(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / ".dvc")
    assert finding(workspace, "DVC remotes").remedy == "Restore it: `git checkout -- .dvc`."


def _git_lock(workspace: Workspace) -> None:
    (workspace.root / ".git" / "index.lock").touch()


def _torn_path_lock(workspace: Workspace) -> None:
    path = workspace.root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"a": ')


def _broken_index(workspace: Workspace) -> None:
    workspace.state.mkdir(mode=0o700, exist_ok=True)
    (workspace.state / "shards.json").write_text("{")


def _open_folder(workspace: Workspace) -> None:
    workspace.videos.chmod(0o755)


def _chatty_dvc(workspace: Workspace) -> None:
    path = workspace.root / ".dvc" / "config"
    path.write_text(path.read_text().replace("analytics = false", "analytics = true"))


@pytest.mark.parametrize(
    "spoils",
    [
        {"dead locks": _git_lock, "indexes": _broken_index, "rights": _open_folder, "DVC telemetry": _chatty_dvc},
        {"dead locks": _torn_path_lock},
    ],
)
def test_what_is_safe_to_mend_is_mended(workspace: Workspace, spoils: dict[str, Callable[[Workspace], None]]) -> None:
    for spoil in spoils.values():
        spoil(workspace)
    before = {one.name: one for one in doctor.run(workspace)}
    repaired = {one.name: one for one in doctor.repair(workspace)}
    after = {one.name: one for one in doctor.run(workspace)}
    for name in spoils:
        assert (before[name].ok, before[name].as_json()["repairable"]) == (False, True), name
        assert repaired[name].ok, repaired[name].found
        assert after[name].ok, after[name].found


def test_an_orphan_of_a_dead_owner_is_named_and_ended(workspace: Workspace) -> None:
    mark = f"1:{processes.boot()}/-1:{workspace.root}"  # process 1 did not start before the machine
    process = subprocess.Popen([sys.executable, "-c", "input()"], env=os.environ | {locks.OWNER: mark}, stdin=-1)
    try:
        assert str(process.pid) in finding(workspace, "orphans").found
        doctor.repair(workspace)
        assert not psutil.pid_exists(process.pid)
    finally:
        process.kill()
    assert finding(workspace, "orphans").ok


def test_a_socket_that_other_machines_can_reach_is_named(workspace: Workspace) -> None:
    code = "import socket; s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True); input()"
    environment = os.environ | {locks.OWNER: locks.this_process(workspace)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        found = finding(workspace, "sockets")
        assert not found.ok
        assert f"0.0.0.0:{port}" in found.found
    finally:
        process.kill()
        process.wait()
    assert finding(workspace, "sockets").ok


def test_a_clock_behind_the_ledger_is_told(workspace: Workspace) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
    at = later.strftime("%Y-%m-%dT%H:%M:%SZ")
    ledger.append(workspace, actor="test", event="taken_in", subject="x", data={}, at=at)
    found = finding(workspace, "clock")
    assert not found.ok
    assert at in found.found


def test_a_changed_ledger_and_a_damaged_database_are_told(workspace: Workspace) -> None:
    ledger.append(workspace, actor="test", event="taken_in", subject="x", data={})
    ledger.append(workspace, actor="test", event="taken_in", subject="y", data={})
    workspace.ledger.write_bytes(workspace.ledger.read_bytes().replace(b'"x"', b'"z"'))
    assert not finding(workspace, "ledger").ok
    workspace.tracking_database.write_bytes(b"not a database" * 100)
    found = finding(workspace, "MLflow database")
    assert (found.ok, found.mend) == (False, None)
    assert "backup" in found.remedy


def test_a_damaged_database_is_told_whatever_its_folder_is_called(workspace: Workspace, tmp_path: Path) -> None:
    moved = Workspace(workspace.root.rename(tmp_path / "q#1?x%41"))
    moved.tracking_database.write_bytes(b"not a database" * 100)
    assert "damaged" in finding(moved, "MLflow database").found
    assert [path.name for path in tmp_path.iterdir()] == ["q#1?x%41"]


def test_a_database_of_another_schema_is_told(workspace: Workspace, empty_database: Path) -> None:
    shutil.copyfile(empty_database, workspace.tracking_database)
    assert finding(workspace, "MLflow database").ok
    with contextlib.closing(sqlite3.connect(workspace.tracking_database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'older'")
    found = finding(workspace, "MLflow database")
    assert (found.ok, found.as_json()["repairable"]) == (False, True)


def test_telemetry_that_somebody_turned_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    (found,) = [one for one in machine.findings() if one.name == "telemetry"]
    assert (found.ok, found.remedy) == (False, "Unset RAY_USAGE_STATS_ENABLED.")


def test_a_remote_that_is_away_is_told(workspace: Workspace, tmp_path: Path) -> None:
    config = workspace.root / ".dvc" / "config"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config.write_text(config.read_text().replace("url = ../remotes/storage", f"url = http://127.0.0.1:{port}/none"))
    assert f"{port}" in config.read_text()
    assert not finding(workspace, "DVC remotes").ok


def test_an_object_of_the_last_commit_that_the_cache_lacks_is_told_and_fetched(workspace: Workspace) -> None:
    (workspace.videos / "clip.mp4").write_bytes(b"a clip")
    versioning.track(workspace, "videos", remote="identified")
    versioning.commit(workspace, versioning.OWN_INPUTS, "Take in")
    versioning.push_inputs(workspace)
    assert finding(workspace, "DVC cache").ok
    lost = workspace.root / ".dvc" / "cache" / object_stores.place(md5_bytes(b"a clip"))
    lost.unlink()
    found = finding(workspace, "DVC cache")
    assert (found.ok, found.found) == (False, "1 objects of identified missing")
    assert found.mend is not None
    assert found.mend() == "fetched from the remotes"
    assert finding(workspace, "DVC cache").ok
    shutil.rmtree(workspace.root / ".dvc" / "cache" / "files")
    assert finding(workspace, "DVC cache").ok, "a clone need not fetch what it may not see"


def _with_a_video(workspace: Workspace) -> None:
    (workspace.videos / "a").write_bytes(b"frames")
    versioning.track(workspace, "videos", remote="identified")
    versioning.commit(workspace, ["videos.dvc"], "a video")
    versioning.push_objects(workspace)


def test_a_remote_that_lost_objects_gets_them_again(workspace: Workspace) -> None:
    _with_a_video(workspace)
    assert finding(workspace, "DVC remotes").ok
    for path in (workspace.remotes / "identified").rglob("*"):
        if path.is_file():
            path.unlink()
    found = finding(workspace, "DVC remotes")
    assert "objects missing" in found.found
    assert found.mend is not None
    assert found.mend() == "pushed again"
    assert finding(workspace, "DVC remotes").ok


@pytest.mark.parametrize("places", [("cache",), ("identified",), ("workspace",), ("cache", "identified")])
def test_a_damaged_object_is_found_by_hashing_and_replaced_by_a_sound_copy(
    workspace: Workspace, places: tuple[str, ...]
) -> None:
    _with_a_video(workspace)
    stored = object_stores.place(md5_bytes(b"frames"))
    copies = {
        "cache": workspace.root / ".dvc" / "cache" / stored,
        "identified": workspace.remotes / "identified" / stored,
        "workspace": workspace.videos / "a",
    }
    for place in places:
        change_a_byte(copies[place])
    modes = {name: path.stat().st_mode for name, path in copies.items()}
    versioning.dvc(workspace, "fetch")
    versioning.dvc(workspace, "push")
    damaged = {place for place, path in copies.items() if path.read_bytes() != b"frames"}
    assert damaged == set(places), "DVC does not look again at what it has"
    (found,) = [one for one in doctor.run(workspace, deep=True) if one.name == "DVC objects"]
    assert found.found.startswith(f"{len(places)} damaged: {places[0]}: videos/a")
    (mended,) = [one for one in doctor.repair(workspace, deep=True) if one.name == "DVC objects"]
    assert (mended.ok, mended.found) == (True, f"{len(places)} replaced by a sound copy")
    assert [path.read_bytes() for path in copies.values()] == [b"frames"] * 3
    assert {name: path.stat().st_mode for name, path in copies.items()} == modes
    assert doctor.run(workspace, deep=True)[-2].ok
    assert not list(workspace.state.glob("tmp*"))


def test_of_two_damaged_objects_the_one_without_a_sound_copy_is_told(workspace: Workspace) -> None:
    (workspace.videos / "b").write_bytes(b"others")
    _with_a_video(workspace)
    for path in (workspace.root / ".dvc" / "cache" / object_stores.place(md5_bytes(b"others")), workspace.videos / "a"):
        change_a_byte(path)
    for name in ("cache", "identified"):
        root = workspace.root / ".dvc" / "cache" if name == "cache" else workspace.remotes / name
        change_a_byte(root / object_stores.place(md5_bytes(b"frames")))
    (mended,) = [one for one in doctor.repair(workspace, deep=True) if one.name == "DVC objects"]
    assert not mended.ok
    assert "1 were replaced; 3 have no sound copy: cache: videos/a, identified: videos/a" in mended.found


def test_an_unmounted_disk_is_not_pushed_into(workspace: Workspace, tmp_path: Path) -> None:
    versioning.dvc(workspace, "remote", "modify", "identified", "url", str(tmp_path / "disk" / "videos"))
    _with_a_video(workspace)
    shutil.rmtree(tmp_path / "disk")
    found = finding(workspace, "DVC remotes")
    assert (found.ok, found.mend) == (False, None)
    assert "identified is not there" in found.found
    assert "Mount it" in found.remedy


def test_servers_are_asked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for name in ("Prefect server", "MLflow server"):
        found = finding(workspace, name)
        assert not found.ok
        assert "does not answer" in found.found
