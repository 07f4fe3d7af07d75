"""Rows of manifest and splits against the ledger: an edit by hand is named, what the ledger tells of is no finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipelines import ledger, manifest, versioning
from pipelines.evidence.commit import Commit
from pipelines.evidence.intake_checks import check_rows
from pipelines.manifest import Video
from pipelines.workspace import Workspace

ONE, TWO, THREE = (
    Video(
        video_id=letter * 64, patient_id=f"kdemo-{letter}", site="a", domain="ex-vivo", label="glioma", mask_sha256=""
    )
    for letter in "abc"
)


def note(workspace: Workspace, event: str, subject: str, **data: object) -> None:
    ledger.append(workspace, actor="tests", event=event, subject=subject, data=data)


def write(workspace: Workspace, *videos: Video, **splits: str) -> str:
    """Tables with these videos; a patient of no split named is in train. Returns their data version."""
    manifest.write_videos(workspace.manifest, videos)
    manifest.write_splits(
        workspace.splits, {one.patient_id: splits.get(one.patient_id[-1], "train") for one in (ONE, TWO, THREE)}
    )
    return manifest.data_version(workspace.manifest, workspace.splits)


def commit(workspace: Workspace) -> None:
    versioning.commit(workspace, ("manifest.csv", "splits.csv", "ledger.jsonl"), "Tables")


def take_in(workspace: Workspace, new: list[Video], *videos: Video) -> None:
    note(workspace, "taken_in", write(workspace, *videos), videos=[one.video_id for one in new], patients=len(new))
    commit(workspace)


def findings(workspace: Workspace, sha: str = "") -> list[tuple[str, str, str]]:
    checks = check_rows(Commit(workspace, sha or versioning.head(workspace)))
    return [(check.object, check.expected, check.found) for check in checks if check.verdict != "pass"]


@pytest.fixture
def taken(workspace: Workspace) -> Workspace:
    take_in(workspace, [ONE, TWO], ONE, TWO)
    assert findings(workspace) == []
    return workspace


def test_a_label_that_was_edited_by_hand_is_named(taken: Workspace) -> None:
    sound = versioning.head(taken)
    write(taken, ONE, replace(TWO, label="healthy"))
    commit(taken)
    assert findings(taken) == [(f"manifest.csv: video {'b' * 12}, label", "glioma", "healthy")]
    assert findings(taken, sound) == []


def test_a_split_that_was_edited_by_hand_and_a_row_that_was_taken_out_are_named(taken: Workspace) -> None:
    write(taken, ONE, b="test")
    commit(taken)
    assert findings(taken) == [
        (f"manifest.csv: video {'b' * 12}", "a row", "no row"),
        ("splits.csv: patient kdemo-b, split", "train", "test"),
    ]


def _corrected(workspace: Workspace) -> None:
    version = write(workspace, ONE, replace(TWO, label="healthy"))
    note(workspace, "relabelled", TWO.video_id, changes={"label": ["glioma", "healthy"]}, data_version=version)


def _withdrawn(workspace: Workspace) -> None:
    note(workspace, "withdrawn", TWO.patient_id, data_version=write(workspace, ONE))


def _come_back(workspace: Workspace) -> None:
    _withdrawn(workspace)
    commit(workspace)
    again = replace(TWO, label="healthy")
    note(workspace, "taken_in", write(workspace, ONE, again), videos=[TWO.video_id], patients=1)


def _of_before(workspace: Workspace) -> None:
    """Corrections did not name the version they left: what came after them cannot be known."""
    note(workspace, "relabelled", TWO.video_id, changes={"label": ["glioma", "healthy"]})
    write(workspace, ONE, replace(TWO, label="healthy"))


def _killed(workspace: Workspace) -> None:
    """Noted, and never written; somebody else commits the ledger."""
    note(workspace, "taken_in", "0" * 12, videos=[ONE.video_id], patients=1)
    note(workspace, "relabelled", ONE.video_id, changes={"label": ["glioma", "healthy"]}, data_version="1" * 12)


@pytest.mark.parametrize("change", [_corrected, _withdrawn, _come_back, _of_before, _killed])
def test_what_the_ledger_tells_of_is_no_finding(taken: Workspace, change: Callable[[Workspace], None]) -> None:
    change(taken)
    commit(taken)
    assert findings(taken) == []


def test_without_the_history_an_edit_is_found_all_the_same(taken: Workspace) -> None:
    write(taken, ONE, replace(TWO, label="healthy"))
    versioning.git(taken, "checkout", "--quiet", "--orphan", "bare")
    versioning.git(taken, "add", "--force", "manifest.csv", "splits.csv", "ledger.jsonl")
    versioning.git(taken, "commit", "--quiet", "--message", "All in one")
    assert [what for what, _, _ in findings(taken)] == ["manifest.csv and splits.csv"]
