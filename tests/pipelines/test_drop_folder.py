"""A drop folder that fills while it is watched."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
from clip_files import frame_folder, pictures

from pipelines import locks, manifest
from pipelines.evidence import forget
from pipelines.files import sha256_file
from pipelines.intake import drop_folder, sources, take_in
from pipelines.intake.batch import IntakeReport
from pipelines.intake.drop_folder import Timing, Visit
from pipelines.workspace import Workspace

NOW = Timing(poll=0.0, settle=0.0)


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


def _pass(workspace: Workspace, drop: Path | str, timing: Timing = NOW) -> dict[str, Visit]:
    visits = drop_folder.watch(workspace, drop, timing, once=True, wait=lambda seconds: False)
    return {visit.batch: visit for visit in visits}


def _batch(folder: Path, *rows: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.csv").write_text("path,patient_id,label,sha256\n" + "".join(f"{row}\n" for row in rows))


def test_a_batch_waits_for_manifest_files_and_stillness_and_is_taken_once(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path]
) -> None:
    long = Timing(settle=3600)
    clip = make_clip(drop / "march" / "a.mp4")
    assert "no manifest.csv" in _pass(workspace, drop)["march"].why
    _batch(drop / "march", "a.mp4,Erika Mustermann,glioma,", "b.mp4,Erika Mustermann,glioma,")
    assert "1 of the files it names are not there" in _pass(workspace, drop)["march"].why
    shutil.copy(clip, clip.with_name("b.mp4"))
    with clip.with_name("b.mp4").open("ab") as file:
        assert "1 of the files it names are being written" in _pass(workspace, drop)["march"].why
        file.write(b"\0\0\0\x08free")
    assert "changing" in _pass(workspace, drop, long)["march"].why
    visit = _pass(workspace, drop)["march"]
    assert visit.state == "taken"
    assert visit.report is not None
    assert len(visit.report.taken) == 2
    before = {path: path.stat().st_atime_ns for path in (drop / "march").iterdir()}
    assert _pass(workspace, drop) == {}
    assert {path.name for path in before} == {"a.mp4", "b.mp4", "manifest.csv"}  # nothing is written there
    notes = "".join(path.read_text() for path in (workspace.state / "drop").iterdir())
    assert all(name not in notes for name in ("march", "Erika", "a.mp4", str(drop)))


def test_a_folder_of_frames_is_waited_for_until_its_last_frame_stands_still(
    workspace: Workspace, drop: Path, tmp_path: Path
) -> None:
    frames = frame_folder(tmp_path / "frames", pictures(4), ".png")
    (frames / "frame 4.png").rename(frames / os.fsdecode(b"frame 4 \xff.png"))
    (drop / "march" / "clip").mkdir(parents=True)
    _batch(drop / "march", "clip,P,glioma,")
    arrived = [frame.rename(drop / "march" / "clip" / frame.name) for frame in sorted(frames.glob("*.png"))[:2]]
    assert "1 of the folders it names have no rate.txt yet" in _pass(workspace, drop)["march"].why
    (frames / "rate.txt").rename(arrived[0].with_name("rate.txt"))
    settling = Timing(settle=0.5)
    assert "changing" in _pass(workspace, drop, settling)["march"].why
    for frame in sorted(frames.glob("*.png")):
        time.sleep(0.6)
        frame.rename(arrived[0].with_name(frame.name))
        assert "changing" in _pass(workspace, drop, settling)["march"].why
    with arrived[1].open("ab"):
        assert "1 of the files it names are being written" in _pass(workspace, drop)["march"].why
    visit = _pass(workspace, drop)["march"]
    assert visit.report is not None
    assert len(visit.report.taken) == 1
    assert _pass(workspace, drop) == {}
    shutil.copy(arrived[0], arrived[0].with_name("frame 7.png"))
    again = _pass(workspace, drop)["march"]
    assert again.report is not None
    assert [error.code for error in again.report.errors] == ["path_reused"]


@pytest.mark.parametrize(
    ("raised", "state"),
    [(OSError(errno.ESTALE, os.strerror(errno.ESTALE), "Erika"), "busy"), (KeyError("Erika"), "failed")],
)
def test_a_batch_that_fails_is_told_tried_again_and_holds_nobody_up(
    workspace: Workspace,
    drop: Path,
    make_clip: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    state: str,
) -> None:
    for number, name in enumerate(("april", "march")):
        make_clip(drop / name / "a.mp4", seed=number)
        _batch(drop / name, "a.mp4,P,glioma,")
    run = take_in.run

    def failing(workspace: Workspace, place: str, **options: Any) -> IntakeReport:
        if Path(place).name == "april":
            raise raised
        return run(workspace, place, **options)

    with monkeypatch.context() as patch:
        patch.setattr(take_in, "run", failing)
        visits = _pass(workspace, drop)
        assert {name: visit.state for name, visit in visits.items()} == {"april": state, "march": "taken"}
        assert "Erika" not in visits["april"].why
        assert _pass(workspace, drop)["april"].state == state
    assert _pass(workspace, drop)["april"].state == "taken"


def test_a_row_that_names_its_own_folder_is_set_aside(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path]
) -> None:
    make_clip(drop / "march" / "a.mp4")
    _batch(drop / "march", ".,P,glioma,", "a.mp4,P,glioma,")
    report = _pass(workspace, drop)["march"].report
    assert report is not None
    assert ([item["reason"] for item in report.quarantined], len(report.taken)) == (["name_escapes"], 1)


def test_checksums_that_hold_need_no_waiting(workspace: Workspace, drop: Path, make_clip: Callable[..., Path]) -> None:
    clip = make_clip(drop / "march" / "a.mp4")
    _batch(drop / "march", f"a.mp4,P,glioma,{'0' * 64}")
    assert _pass(workspace, drop, Timing(settle=3600))["march"].state == "waiting"
    _batch(drop / "march", f"a.mp4,P,glioma,{sha256_file(clip)}")
    assert _pass(workspace, drop, Timing(settle=3600))["march"].state == "taken"


def test_a_drop_folder_takes_in_nothing_of_a_patient_who_withdrew(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path]
) -> None:
    clip = make_clip(drop / "march" / "a.mp4")
    _batch(drop / "march", "a.mp4,Erika,glioma,")
    _pass(workspace, drop)
    (video,) = manifest.read_videos(workspace.manifest)
    forget.run(workspace, video.patient_id)
    make_clip(drop / "april" / "b.mp4", seed=1)
    shutil.copy(clip, drop / "april" / "a.mp4")
    _batch(drop / "april", "a.mp4,Erika,glioma,", "b.mp4,Q,glioma,")
    report = _pass(workspace, drop)["april"].report
    assert report is not None
    assert [(error.row, error.code) for error in report.errors] == [(2, "withdrawn")]
    assert report.taken == [sha256_file(drop / "april" / "b.mp4")]


def test_a_bad_batch_is_said_once_and_stops_nobody(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path]
) -> None:
    (drop / "april").mkdir()
    (drop / "april" / "manifest.csv").write_bytes(b"\xff\xfe")
    (drop / "linked").symlink_to(drop / "april")
    (drop / ".hidden").mkdir()
    make_clip(drop / "march" / "a.mp4")
    _batch(drop / "march", "a.mp4,P,glioma,")
    with locks.one_writer(workspace):
        held = _pass_elsewhere(workspace, drop)
    assert {visit["batch"]: visit["state"] for visit in held} == {"april": "busy", "march": "busy"}
    visits = _pass(workspace, drop)
    assert {name: visit.state for name, visit in visits.items()} == {"april": "failed", "march": "taken"}
    assert [(visit["batch"], visit["state"]) for visit in _pass_elsewhere(workspace, drop)] == [("april", "failed")]
    assert _pass(workspace, drop) == {}  # whoever saw that one need not be called
    assert [visit["batch"] for visit in _pass_elsewhere(workspace, drop)] == ["april"]  # and may see it again
    _batch(drop / "april", "none.mp4,P,glioma,")
    assert _pass(workspace, drop)["april"].state == "waiting"


def test_a_workspace_that_is_broken_for_a_while_costs_no_batch(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path]
) -> None:
    """An upgrade that lacks a parameter, a half-edited file: the batch is good, and goes in afterwards."""
    make_clip(drop / "march" / "a.mp4")
    _batch(drop / "march", "a.mp4,P,glioma,")
    sound = workspace.params.read_text()
    workspace.params.write_text(sound.replace("extract:", "extarct:"))
    assert _pass(workspace, drop)["march"].state == "busy"
    workspace.params.write_text(sound)
    assert _pass(workspace, drop)["march"].state == "taken"


def test_people_are_called_once_about_what_failed_and_what_waits_for_an_hour(
    workspace: Workspace, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _batch(drop / "march", "not-there.mp4,P,glioma,")
    (drop / "april").mkdir()
    (drop / "april" / "manifest.csv").write_bytes(b"\xff\xfe")
    visits = _pass(workspace, drop)
    assert {name: (visit.state, visit.alarm) for name, visit in visits.items()} == {
        "april": ("failed", True),
        "march": ("waiting", False),
    }
    again = _pass(workspace, drop)["april"]
    assert again.alarm  # nobody was reached
    drop_folder.note_told(workspace, drop, [again])
    assert "april" not in _pass(workspace, drop)
    monkeypatch.setattr(drop_folder, "OVERDUE_SECONDS", 0.0)
    late = [_pass(workspace, drop)["march"] for _ in range(2)]
    assert [visit.alarm for visit in late] == [True, True]  # until somebody was reached
    drop_folder.note_told(workspace, drop, late[1:])
    assert not _pass(workspace, drop)["march"].alarm


def test_people_are_called_when_the_workspace_is_busy_for_longer_than_a_training_may_take(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(drop / "march" / "a.mp4")
    _batch(drop / "march", "a.mp4,P,glioma,")
    with locks.one_writer(workspace):
        monkeypatch.setattr(drop_folder, "OVERDUE_SECONDS", 0.0)
        visit = _pass(workspace, drop)["march"]
        assert (visit.state, visit.alarm) == ("busy", False)
        monkeypatch.setattr(drop_folder, "LONGEST_WORK_SECONDS", 0.0)
        assert _pass(workspace, drop)["march"].alarm


def test_what_nobody_foresaw_is_told_once(workspace: Workspace, drop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take_in, "run", lambda *_, **__: 1 / 0)
    _batch(drop / "may", "a.mp4,P,glioma,")
    (drop / "may" / "a.mp4").touch()
    visit = _pass(workspace, drop)["may"]
    assert visit.alarm
    drop_folder.note_told(workspace, drop, [visit])
    assert not _pass(workspace, drop)["may"].alarm


def test_nobody_is_called_about_a_taken_batch_that_is_out_of_sight_for_a_while(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(drop / "march" / "a.mp4")
    _batch(drop / "march", "a.mp4,P,glioma,")
    assert _pass(workspace, drop)["march"].state == "taken"
    monkeypatch.setattr(drop_folder, "OVERDUE_SECONDS", 0.0)
    with monkeypatch.context() as away:
        away.setattr(drop_folder, "_look", lambda _: (_ for _ in ()).throw(TimeoutError("share")))
        visit = _pass(workspace, drop)["march"]
    assert (visit.state, visit.alarm) == ("busy", False)
    assert _pass(workspace, drop) == {}


def test_a_bucket_is_a_drop_folder_too(workspace: Workspace, drop: Path, make_clip: Callable[..., Path]) -> None:
    """As s3fs lists one: no empty folders, and a mark ``clip/`` where somebody made a folder by hand."""
    bucket = fsspec.filesystem("memory")
    address = "memory://ward/drop"
    assert _pass(workspace, address) == {}
    frames = frame_folder(drop / "clip", pictures(4), ".png")
    for path in (*frames.iterdir(), make_clip(drop / "a.mp4")):
        bucket.pipe_file(f"/ward/drop/march/{path.relative_to(drop)}", path.read_bytes())
    bucket.pipe_file("/ward/drop/march/manifest.csv", b"path,patient_id,label\na.mp4,P,glioma\nclip,P,glioma\n")
    visit = _pass(workspace, f"{address}/")["march"]
    assert visit.report is not None
    assert len(visit.report.taken) == 2
    assert _pass(workspace, address) == {}
    bucket.rm("/ward/drop/march", recursive=True)
    assert _pass(workspace, address) == {}


def test_the_mark_of_a_folder_in_a_bucket_is_no_name_in_it() -> None:
    listed = ["ward/drop/clip/", "ward/drop/clip/1.png", "ward/drop/clip/.hidden"]
    assert sources._names(listed, but="ward/drop/clip") == ["1.png"]


def _pass_elsewhere(workspace: Workspace, drop: Path) -> list[dict[str, str]]:
    command = [*_command(workspace, drop), "--once", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    visits: list[dict[str, str]] = json.loads(done.stdout)["visits"]
    return visits


def _command(workspace: Workspace, drop: Path) -> list[str]:
    lclsc = str(Path(sys.executable).with_name("lclsc"))
    return [lclsc, "intake", str(drop), "--watch", "--settle", "0", "--poll", "0.2", "-w", str(workspace.root)]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != locks.OWNER}


def test_a_watcher_sleeps_takes_what_comes_and_ends_when_told(
    workspace: Workspace, drop: Path, make_clip: Callable[..., Path]
) -> None:
    process = subprocess.Popen([*_command(workspace, drop), "--json"], stdout=subprocess.PIPE, env=_environment())
    assert process.stdout is not None
    try:
        make_clip(drop / "march" / "a.mp4")
        _batch(drop / "march", "a.mp4,P,glioma,")
        states = []
        while "taken" not in states:
            states.append(json.loads(process.stdout.readline())["state"])
        before = sum(psutil.Process(process.pid).cpu_times()[:2])
        time.sleep(1)
        assert sum(psutil.Process(process.pid).cpu_times()[:2]) - before < 0.5
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
    assert len(manifest.read_videos(workspace.manifest)) == 1
