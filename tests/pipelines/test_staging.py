"""What an intake that was killed left is taken back, and what a person put there is refused: the two are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import exchange, hand_edits, intake, ledger, manifest, mask_stack, staging, versioning
from pipelines.errors import OutsideSystemError, WrongUseError
from pipelines.evidence import forget
from pipelines.locks import one_writer
from pipelines.workspace import Workspace

HEADER = "path,patient_id,label,mask\n"


@pytest.fixture
def batch(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    """A clip with its mask, of Ada's."""
    folder = tmp_path / "batch"
    folder.mkdir()
    make_clip(folder / "a.mp4", seed=1)
    mask_stack.write(folder / "a.tif", np.ones((6, 64, 64), dtype=bool))
    (folder / "manifest.csv").write_text(f"{HEADER}a.mp4,Ada,glioma,a.tif\n")
    return folder


@pytest.fixture
def other(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    make_clip(folder / "b.mp4", seed=2)
    (folder / "manifest.csv").write_text(f"{HEADER}b.mp4,Berta,healthy,\n")
    return folder


def take(workspace: Workspace, folder: Path) -> None:
    with one_writer(workspace):
        assert intake.run(workspace, folder).clean


OWNERS: dict[str, Any] = {"track": versioning, "end": staging, "commit": versioning}


@contextmanager
def killed_before(function: str) -> Iterator[None]:
    """DVC is asked, a table is written, or the note is removed: nobody tidies up behind a SIGKILL."""

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OWNERS.get(function, manifest), function, kill)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("function", ["track", "write_videos"])
def test_a_batch_whose_tables_were_never_written_is_taken_back_whole(
    function: str, workspace: Workspace, batch: Path, other: Path
) -> None:
    with killed_before(function):
        take(workspace, batch)
    assert list(workspace.videos.glob("[!.]*")) != []
    with one_writer(workspace):
        staging.take_back(workspace)
    assert [*workspace.videos.iterdir(), *workspace.masks.iterdir()] == []
    hand_edits.refuse(workspace)
    changed = versioning.changed_files(workspace, versioning.OWN_INPUTS)
    assert set(changed) <= {"workspace.json"}  # the key that pseudonyms are made with
    assert not any(one.stage.endswith(".dvc") for one in versioning.stale_stages(workspace))
    take(workspace, other)  # of another label; the first batch was withdrawn by its sender
    (video,) = manifest.read_videos(workspace.manifest)
    assert [path.name for path in workspace.videos.iterdir()] == [f"{video.video_id}.mp4"]


def test_a_batch_whose_manifest_was_written_stays_in(workspace: Workspace, batch: Path) -> None:
    with killed_before("end"):
        take(workspace, batch)
    with one_writer(workspace):
        staging.take_back(workspace)
    hand_edits.refuse(workspace)
    (video,) = manifest.read_videos(workspace.manifest)
    names = [path.name for folder in (workspace.videos, workspace.masks) for path in folder.iterdir()]
    assert names == [f"{video.video_id}.mp4", f"{video.video_id}.tif"]


def test_a_mask_that_came_late_is_taken_back_without_its_video(workspace: Workspace, batch: Path) -> None:
    sent = (batch / "manifest.csv").read_text()
    (batch / "manifest.csv").write_text(sent.replace(",a.tif", ","))
    take(workspace, batch)
    (batch / "manifest.csv").write_text(sent)
    with killed_before("write_videos"), one_writer(workspace):
        intake.run(workspace, batch, update=True)
    assert len(list(workspace.masks.iterdir())) == 1
    with one_writer(workspace):
        staging.take_back(workspace)
    assert list(workspace.masks.iterdir()) == []
    assert len(list(workspace.videos.iterdir())) == 1
    assert versioning.changed_files(workspace, versioning.OWN_INPUTS) == []


def test_a_file_that_a_person_put_there_is_refused_and_never_removed(
    workspace: Workspace, batch: Path, other: Path
) -> None:
    (other / "manifest.csv").write_text(f"{HEADER}b.mp4,Berta,glioma,\n")
    take(workspace, other)
    with killed_before("write_videos"):
        take(workspace, batch)
    by_hand = workspace.videos / "by-hand.mp4"
    by_hand.write_bytes(b"somebody's")
    patient = manifest.read_videos(workspace.manifest)[0].patient_id
    for command in (lambda: intake.run(workspace, batch), lambda: forget.run(workspace, patient)):
        with one_writer(workspace), pytest.raises(WrongUseError, match="1 in it were never taken in") as caught:
            command()
        assert caught.value.code == "videos_changed"
    assert by_hand.read_bytes() == b"somebody's"
    by_hand.unlink()
    take(workspace, batch)
    assert {path.name.split(".")[0] for path in workspace.videos.iterdir()} == {
        video.video_id for video in manifest.read_videos(workspace.manifest)
    }


def test_a_batch_that_was_not_committed_is_committed_and_pushed_when_it_comes_again(
    workspace: Workspace, batch: Path, tmp_path: Path
) -> None:
    versioning.git(workspace, "init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    versioning.git(workspace, "remote", "add", "origin", str(tmp_path / "origin.git"))
    with killed_before("commit"):
        take(workspace, batch)
    take(workspace, batch)
    assert versioning.changed_files(workspace, versioning.OWN_INPUTS) == []
    pushed = versioning.git(workspace, "ls-remote", "origin", f"refs/heads/{versioning.branch(workspace)}")
    assert pushed.split()[0] == versioning.head(workspace)


def test_a_batch_that_was_not_pushed_is_pushed_when_it_comes_again(
    workspace: Workspace, other: Path, tmp_path: Path
) -> None:
    versioning.git(workspace, "remote", "add", "origin", str(tmp_path / "origin.git"))
    take(workspace, other)  # its remote is away
    versioning.git(workspace, "init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    take(workspace, other)
    pushed = versioning.git(workspace, "ls-remote", "origin", f"refs/heads/{versioning.branch(workspace)}")
    assert pushed.split()[0] == versioning.head(workspace)


@pytest.fixture
def clone(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A second one, over a git host and remotes that both see."""
    for remote in ("storage", "identified"):
        versioning.dvc(workspace, "remote", "modify", remote, "url", str(tmp_path / "remotes" / remote))
    versioning.commit(workspace, [".dvc/config"], "Remotes beside it")
    versioning.push_inputs(workspace)
    versioning.git(workspace, "clone", "--quiet", "--bare", str(workspace.root), str(tmp_path / "origin.git"))
    versioning.git(workspace, "remote", "add", "origin", str(tmp_path / "origin.git"))
    versioning.git(workspace, "clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / "clone"))
    return Workspace(tmp_path / "clone")


def test_an_intake_goes_on_from_what_another_clone_took_in(
    workspace: Workspace, clone: Workspace, batch: Path, other: Path
) -> None:
    """On older tables it would start a second history, and track videos/ anew without theirs."""
    take(clone, batch)
    (other / "manifest.csv").write_text(f"{HEADER}b.mp4,Berta,glioma,\n")
    take(workspace, other)
    assert len(manifest.read_videos(workspace.manifest)) == len(list(workspace.videos.iterdir())) == 2
    patient = next(row.patient_id for row in manifest.read_videos(workspace.manifest) if not row.mask_sha256)
    with one_writer(clone):
        forget.run(clone, patient)
    assert len(manifest.read_videos(clone.manifest)) == 1
    assert versioning.is_ancestor(clone, versioning.head(workspace), "HEAD")


def test_of_two_clones_that_could_not_see_each_other_one_takes_its_batch_in_again(
    workspace: Workspace, clone: Workspace, batch: Path, other: Path, tmp_path: Path
) -> None:
    """As docs/recovery.md has it: two ledgers are never merged."""
    (other / "manifest.csv").write_text(f"{HEADER}b.mp4,Berta,glioma,\n")
    exchange.take_over(clone)
    host = tmp_path / "origin.git"
    away = host.rename(tmp_path / "away.git")
    take(clone, batch)
    away.rename(host)
    take(workspace, other)
    with pytest.raises(OutsideSystemError, match=r"ledger\.jsonl") as told:
        take(clone, batch)
    assert told.value.code == "history_diverged"
    start_again(clone)
    take(clone, batch)
    assert len(manifest.read_videos(clone.manifest)) == len(list(clone.videos.iterdir())) == 2
    assert exchange.is_pushed(clone)


def start_again(clone: Workspace) -> None:
    """From what the promoting clone pushed."""
    versioning.git(clone, "branch", "before-the-merge")
    versioning.git(clone, "fetch", "origin")
    versioning.git(clone, "reset", "--hard", "origin/main")
    versioning.dvc(clone, "pull", "videos.dvc", "masks.dvc", "--force")


def test_an_intake_elsewhere_beside_a_line_of_the_promoters_ledger_is_settled(
    workspace: Workspace, clone: Workspace, batch: Path, other: Path
) -> None:
    """An approval, an audit, or a training that ends: as docs/recovery.md has it."""
    (other / "manifest.csv").write_text(f"{HEADER}b.mp4,Berta,glioma,\n")
    take(workspace, other)
    take(clone, batch)
    ledger.append(workspace, actor="audit", event="audited", subject="champion", data={})
    with one_writer(workspace), pytest.raises(OutsideSystemError, match=r"ledger\.jsonl"):
        exchange.take_over(workspace)
    own = versioning.head(workspace)
    versioning.git(workspace, "fetch", "origin")
    versioning.git(workspace, "commit", "--all", "--message", "Own lines of the ledger")
    versioning.git(workspace, "merge", "--strategy", "ours", "origin/main")
    versioning.git(workspace, "push", "origin", "HEAD:main")
    start_again(clone)
    assert ledger.verify(clone.ledger) == []
    take(clone, batch)
    with one_writer(workspace):
        exchange.take_over(workspace)
    assert len(manifest.read_videos(workspace.manifest)) == len(list(workspace.videos.iterdir())) == 2
    assert ledger.verify(workspace.ledger) == []
    assert versioning.is_ancestor(workspace, own, "HEAD")
