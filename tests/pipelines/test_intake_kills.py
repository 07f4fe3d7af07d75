"""``kill -9`` in the middle of a release, an update and a watched drop folder: the same command again finishes it.

A sample of the moments in CI; ``LCLSC_KILLS=all`` tries every one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipelines import hand_edits, intake, ledger, manifest, params_file, staging
from pipelines.intake import drop_folder, quarantine
from pipelines.intake.drop_folder import Timing
from pipelines.locks import one_writer
from pipelines.workspace import Workspace

SAMPLE = 3
KEY = "patients.key"
Command = Callable[[Workspace, Path], None]


def _rows(folder: Path, *rows: str) -> None:
    (folder / "manifest.csv").write_text("path,patient_id,label,site\n" + "".join(f"{row}\n" for row in rows))


def _take(workspace: Workspace, folder: Path, *, update: bool = False) -> None:
    with one_writer(workspace):
        intake.run(workspace, folder, update=update)


def _release(workspace: Workspace, folder: Path) -> None:
    """Of the long clip; one that was through already is in quarantine no more."""
    try:
        with one_writer(workspace):
            intake.release(workspace, quarantine.listing(workspace)[0].quarantine_id, "seen by a doctor")
    except IndexError:
        pass


def _update(workspace: Workspace, folder: Path) -> None:
    _rows(folder, "short.mp4,Ada,healthy,north", "long.mp4,Berta,healthy,north")
    _take(workspace, folder, update=True)


def _watch(workspace: Workspace, folder: Path) -> None:
    """The batch is in a drop folder of its own, with a second one beside it."""
    list(drop_folder.watch(workspace, folder.parent, Timing(poll=0, settle=0), once=True, wait=lambda _: False))


COMMANDS: dict[str, Command] = {"release": _release, "update": _update, "watch": _watch}


@pytest.fixture(scope="module")
def template(empty_workspace: Path, make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one short clip in and a long one in quarantine; the batch it came from; one more to come."""
    root = tmp_path_factory.mktemp("kills")
    subprocess.run(["cp", "-a", str(empty_workspace), str(root / "w")], check=True)
    workspace = Workspace(root / "w")
    params_file.write(
        workspace.params, workspace.params, {"intake": {"max_frames": 8, "labels": ["glioma", "healthy"]}}
    )
    make_clip(root / "drop" / "march" / "short.mp4", seed=1)
    make_clip(root / "drop" / "march" / "long.mp4", seed=2, frames=12)
    make_clip(root / "drop" / "april" / "more.mp4", seed=3)
    _rows(root / "drop" / "march", "short.mp4,Ada,glioma,", "long.mp4,Berta,glioma,")
    _rows(root / "drop" / "april", "more.mp4,Cora,healthy,")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCLSC_KEY_FILE", str(root / KEY))
        _take(workspace, root / "drop" / "march")
    assert [record.reason for record in quarantine.listing(workspace)] == ["over_frames"]
    return root


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_intake_is_finished_by_the_same_command(
    name: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCLSC_KEY_FILE", str(template / KEY))
    whole, moments = _undisturbed(name, template, tmp_path)
    expected = _state(whole)
    before = _state(Workspace(template / "w"))
    assert expected != before
    assert moments > 5
    every = os.environ.get("LCLSC_KILLS") == "all"
    chosen = range(1, moments + 1) if every else sorted({moments * part // SAMPLE for part in range(1, SAMPLE + 1)})
    for moment in chosen:
        workspace, folder = _copy(template, tmp_path / f"{moment}")
        assert _run_and_die(COMMANDS[name], workspace, folder, moment) == -signal.SIGKILL, moment
        assert ledger.verify(workspace.ledger) == []
        found = _state(_as_a_retrain_finds_it(workspace, tmp_path / f"{moment}" / "retrained"))
        assert _data(found) in (_data(before), _data(expected)), moment
        COMMANDS[name](workspace, folder)
        assert _state(workspace) == expected, moment
        assert ledger.verify(workspace.ledger) == []


def _as_a_retrain_finds_it(workspace: Workspace, to: Path) -> Workspace:
    """In a copy: what it does first."""
    subprocess.run(["cp", "-a", str(workspace.root), str(to)], check=True)
    place = Workspace(to)
    with one_writer(place):
        staging.take_back(place)
        hand_edits.refuse(place)
    return place


def _copy(template: Path, to: Path) -> tuple[Workspace, Path]:
    subprocess.run(["cp", "-a", str(template), str(to)], check=True)
    return Workspace(to / "w"), to / "drop" / "march"


def _undisturbed(name: str, template: Path, tmp_path: Path) -> tuple[Workspace, int]:
    """What a run that nobody ends makes, and how many files it moves or removes, and programs it starts."""
    workspace, folder = _copy(template, tmp_path / "whole")
    counted = tmp_path / "moments"
    assert _run_and_die(COMMANDS[name], workspace, folder, 0, counted) == 0
    return workspace, int(counted.read_text())


def _run_and_die(command: Command, workspace: Workspace, folder: Path, at: int, counted: Path | None = None) -> int:
    """In a forked child that ends itself at its ``at``-th moment; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        done, status = 0, 1

        def count(event: str, _: Any) -> None:
            nonlocal done
            if event in ("os.rename", "os.remove", "subprocess.Popen"):
                done += 1
                if done == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            command(workspace, folder)
            if counted:
                counted.write_text(str(done))
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _state(workspace: Workspace) -> dict[str, Any]:
    """What a workspace holds, without times."""
    entries = sorted((entry.event, entry.subject) for entry in ledger.read(workspace.ledger))
    assert len(entries) == len(set(entries)), "an event is noted once"
    return {
        "videos": [asdict(video) for video in manifest.read_videos(workspace.manifest)],
        "splits": manifest.read_splits(workspace.splits),
        "sources": {row.video_id: row.source_name_hmac for row in manifest.read_provenance(workspace.provenance)},
        "files": sorted(path.name for path in workspace.videos.iterdir()),
        "pointer": workspace.root.joinpath("videos.dvc").read_text(),
        "quarantine": sorted(path.name for path in workspace.quarantine.iterdir()),
        "ledger": entries,
    }


def _data(state: dict[str, Any]) -> dict[str, Any]:
    """All of it or nothing; the ledger may tell of a batch before it is in."""
    return {name: state[name] for name in ("videos", "splits", "sources", "files", "pointer")}
