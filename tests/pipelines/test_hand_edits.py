"""Labels and splits have one writer: what an editor changed is refused, what a killed intake left is taken along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import hand_edits, intake, ledger, manifest, staging, versioning
from pipelines.errors import StageError
from pipelines.evidence.commit import Commit
from pipelines.evidence.intake_checks import check_rows
from pipelines.locks import one_writer
from pipelines.workspace import Workspace

HEADER = "path,patient_id,label\n"


@pytest.fixture
def batch(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    folder = tmp_path / "batch"
    folder.mkdir()
    for n in range(2):
        make_clip(folder / f"{n}.mp4", seed=n)
    (folder / "manifest.csv").write_text(f"{HEADER}0.mp4,A,glioma\n1.mp4,B,healthy\n")
    return folder


@pytest.fixture
def stocked(workspace: Workspace, batch: Path) -> Workspace:
    take(workspace, batch)
    return workspace


def take(workspace: Workspace, batch: Path, **options: Any) -> None:
    with one_writer(workspace):
        report = intake.run(workspace, batch, **options)
    assert not report.errors


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_label_or_a_split_changed_by_hand_is_refused_by_whoever_would_commit_it(
    stocked: Workspace, batch: Path
) -> None:
    hand_edits.refuse(stocked)
    replaced(stocked.manifest, "glioma", "healthy")
    with pytest.raises(StageError, match=r"by hand: manifest.csv.*--update"):
        take(stocked, batch)
    versioning.git(stocked, "checkout", "manifest.csv")
    side = next(iter(manifest.read_splits(stocked.splits).values()))
    replaced(stocked.splits, side, next(name for name in manifest.SPLITS if name != side))
    with pytest.raises(StageError, match=r"by hand: splits.csv"):
        hand_edits.refuse(stocked)


def test_a_row_taken_away_or_lines_of_the_ledger_beside_an_edit_excuse_nothing(stocked: Workspace) -> None:
    ledger.append(stocked, actor="test", event="published", subject="version 1", data={"files": {}})
    stocked.manifest.write_text("".join(stocked.manifest.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(StageError, match=r"by hand: manifest.csv"):
        hand_edits.refuse(stocked)


@pytest.mark.parametrize("killed_in", ["write_splits", "write_videos"])
@pytest.mark.parametrize("what", ["new videos", "a correction"])
@pytest.mark.parametrize("commits_before", ["", "the ledger", "all"])
def test_what_a_killed_intake_left_is_no_hand_edit(
    commits_before: str,
    what: str,
    killed_in: str,
    stocked: Workspace,
    batch: Path,
    make_clip: Callable[..., Path],
    monkeypatch: Any,
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    if what == "new videos":
        make_clip(batch / "2.mp4", seed=2)
        text = f"{HEADER}0.mp4,A,healthy\n1.mp4,B,healthy\n2.mp4,C,glioma\n"
    else:
        text = f"{HEADER}0.mp4,A,healthy\n1.mp4,B,healthy\n"
    (batch / "manifest.csv").write_text(text)
    with monkeypatch.context() as patch:
        after_it = getattr(manifest, killed_in)
        patch.setattr(manifest, killed_in, lambda *given: (after_it(*given), kill()))
        with pytest.raises(Killed):
            take(stocked, batch, update=True)
    half = what == "new videos" and killed_in == "write_splits"
    if half:
        with pytest.raises(StageError, match=r"by hand: splits.csv"):
            hand_edits.refuse(stocked)
        staging.take_back(stocked)
        hand_edits.refuse(stocked)
    else:
        hand_edits.refuse(stocked)
        if commits_before:  # as a retrain does, or a repair
            paths = ("ledger.jsonl",) if commits_before == "the ledger" else (*versioning.OWN_INPUTS, "ledger.jsonl")
            versioning.commit(stocked, paths, "Before")
            hand_edits.refuse(stocked)
    take(stocked, batch, update=True)
    assert {video.label for video in manifest.read_videos(stocked.manifest) if video.label != "glioma"} == {"healthy"}
    hand_edits.refuse(stocked)
    versioning.commit(stocked, (*versioning.OWN_INPUTS, "ledger.jsonl"), "After")
    (check,) = check_rows(Commit(stocked, versioning.head(stocked)))
    assert check.verdict == "pass", check


def test_a_killed_withdrawal_may_be_finished_or_committed(stocked: Workspace) -> None:
    gone = manifest.read_videos(stocked.manifest)[0].patient_id
    kept = [video for video in manifest.read_videos(stocked.manifest) if video.patient_id != gone]
    version = manifest.version_of(kept, manifest.read_splits(stocked.splits))
    data = {"videos": [], "versions": [], "purged": [], "data_version": version}
    ledger.append(stocked, actor="forget", event="withdrawn", subject=gone, data=data)
    manifest.write_videos(stocked.manifest, kept)
    versioning.commit(stocked, ("ledger.jsonl",), "Repair")
    hand_edits.refuse(stocked)


@pytest.mark.parametrize("content", [None, b"video_id,label\nx,y\n", b"\xff\xfe"])
def test_tables_that_cannot_be_read_are_refused_in_words(stocked: Workspace, content: bytes | None) -> None:
    if content is None:
        stocked.manifest.unlink()
    else:
        stocked.manifest.write_bytes(content)
    with pytest.raises(StageError, match=r"by hand: manifest.csv"):
        hand_edits.refuse(stocked)


def test_a_torn_last_line_that_was_committed_is_no_changed_line(stocked: Workspace) -> None:
    with stocked.ledger.open("ab") as file:
        file.write(b'{"seq": 2, "torn')
    versioning.commit(stocked, ("ledger.jsonl",), "Torn")
    ledger.append(stocked, actor="test", event="published", subject="version 1", data={"files": {}})
    versioning.commit(stocked, ("ledger.jsonl",), "Mended")
    versioning.require_kept_lines(stocked)


def test_the_ledgers_committed_lines_cannot_be_committed_changed(stocked: Workspace) -> None:
    replaced(stocked.ledger, "intake", "nobody")
    ledger_before = versioning.file_at(stocked, "HEAD", "ledger.jsonl")
    with pytest.raises(StageError, match="changed or taken away"):
        versioning.commit(stocked, ("ledger.jsonl",), "Repair")
    assert versioning.file_at(stocked, "HEAD", "ledger.jsonl") == ledger_before
