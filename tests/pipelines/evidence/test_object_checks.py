"""Files in their places: one that others of its folder lack is named, a clone that checked nothing out is sound."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines import versioning
from pipelines.evidence.audit import head
from pipelines.evidence.check import Check
from pipelines.evidence.object_checks import Sample, check_places
from pipelines.files import sha256_bytes
from pipelines.workspace import Workspace


def places(workspace: Workspace, *, moving: bool = False) -> list[Check]:
    here = head(workspace).commit
    found = check_places(
        here, here, sample=Sample(size=1), gone=(), moving=lambda: moving, advance=lambda count: None
    )  # every file is looked for, whatever is drawn to be hashed
    return list(found)


@pytest.fixture
def clips(workspace: Workspace) -> list[Path]:
    """Two of them, committed."""
    paths = [workspace.videos / f"{sha256_bytes(content)}.mp4" for content in (b"one", b"two")]
    for path, content in zip(paths, (b"one", b"two"), strict=True):
        path.write_bytes(content)
    versioning.track(workspace, "videos", remote="identified")
    versioning.commit(workspace, versioning.OWN_INPUTS, "Take in")
    return paths


def test_a_video_that_is_missing_is_named_and_a_folder_never_checked_out_is_told(
    workspace: Workspace, clips: list[Path]
) -> None:
    assert [check.verdict for check in places(workspace)] == ["pass"]
    clips[0].unlink()
    (found,) = places(workspace)
    assert (found.verdict, found.found) == ("fail", "missing")
    assert f"videos/{clips[0].name}" in found.object
    assert [check.verdict for check in places(workspace, moving=True)] == ["unknown"]
    shutil.rmtree(workspace.videos)
    assert [(check.verdict, check.object) for check in places(workspace)] == [
        ("pass", "0 files; videos not checked out")
    ]
