"""What a retrain does before it trains."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows import retrain as flow
from pipelines import versioning
from pipelines.workspace import Workspace


def _with_a_video(workspace: Workspace, remote: Path) -> None:
    (workspace.videos / "a").write_bytes(b"frames")
    (workspace.root / "masks" / "a").write_bytes(b"mask")
    versioning.dvc(workspace, "remote", "modify", "identified", "url", str(remote))
    for folder in ("videos", "masks"):
        versioning.track(workspace, folder, remote="identified")
    versioning.commit(workspace, ["videos.dvc", "masks.dvc"], "a video")


def test_inputs_are_copied_and_a_remote_that_is_away_stops_no_training(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("test"))
    _with_a_video(workspace, tmp_path / "disk")
    flow._copy_inputs(workspace)
    assert any(path.is_file() for path in (tmp_path / "disk").rglob("*"))
    (tmp_path / "file").touch()
    versioning.dvc(workspace, "remote", "modify", "identified", "url", str(tmp_path / "file" / "none"))
    flow._copy_inputs(workspace)
    assert "not copied yet" in caplog.text
