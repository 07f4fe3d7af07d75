"""What a retrain does before it trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from flows import planning
from flows import retrain as flow
from pipelines import registry, versioning
from pipelines.errors import OutsideSystemError, StageError
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


def test_a_tracking_store_that_cannot_be_written_to_ends_no_training(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace.tracking_database.write_bytes(b"no database" * 100)
    output = flow._Output(workspace, "train", "0" * 32)
    output.logger = logging.getLogger("test")
    output._log({"epoch": 1.0, "loss": 0.5})
    assert "not logged live" in caplog.text
    assert [path.name for path in workspace.root.glob("mlflow.db*")] == ["mlflow.db"]


def test_what_ended_a_training_is_told_and_its_run_does_not_look_as_if_it_went_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    plan = planning.Plan(retrain_key="k" * 64, data_version="0" * 12, stale={}, version=None)

    def build(end: Callable[[], NoReturn]) -> None:
        monkeypatch.setattr(flow, "_run_stages", lambda *_: end())
        flow._build(workspace, plan, "test")

    def stopped() -> NoReturn:
        raise KeyboardInterrupt

    def without_mlflow() -> NoReturn:
        workspace.tracking_database.write_bytes(b"no database" * 100)
        raise StageError("x", "The reason.", "The remedy.")

    with pytest.raises(KeyboardInterrupt):
        build(stopped)
    store = registry.connect(workspace)
    assert store.client.get_run(store.find_run(plan.retrain_key)).info.status == "FAILED"
    with pytest.raises(StageError, match="The reason"):
        build(without_mlflow)


def test_a_bucket_that_timed_out_is_not_taken_for_the_end_of_the_hours(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_a_bucket(*_: object) -> NoReturn:
        raise TimeoutError("of a bucket")

    def for_ever(*_: object) -> NoReturn:
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(flow, "_bring_up_to_date", of_a_bucket)
    with pytest.raises(TimeoutError, match="of a bucket"):
        flow.retrain.fn(workspace.root, limit_hours=48.0)
    monkeypatch.setattr(flow, "_bring_up_to_date", for_ever)
    with pytest.raises(OutsideSystemError, match="after its"):
        flow.retrain.fn(workspace.root, limit_hours=1.0 / 3600)
