"""Where work goes on a cluster, and what a cluster without a common disk is told; the cluster itself: make cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipelines import cluster, train
from pipelines.errors import OutsideSystemError
from pipelines.workspace import Workspace


def node(name: str, cpus: float) -> dict[str, Any]:
    return {"NodeID": name * 56, "NodeManagerAddress": f"10.0.0.{ord(name)}", "Resources": {"CPU": cpus}}


def test_ray_chooses_among_nodes_that_all_see_the_workspace() -> None:
    assert cluster.placements([(node("a", 2), True), (node("b", 3), True)]) == ["DEFAULT"] * 5


def test_a_node_with_a_disk_of_its_own_gets_no_item() -> None:
    places = cluster.placements([(node("a", 1), True), (node("b", 8), False), (node("c", 2), True)])
    assert [place.node_id for place in places] == ["a" * 56, "c" * 56, "c" * 56]
    assert not any(place.soft for place in places)


def test_items_are_still_taken_where_the_only_node_that_sees_them_has_no_processor_to_spare() -> None:
    assert len(cluster.placements([(node("a", 0.5), True)])) == 1
    assert len(cluster.placements([(node("a", 0.5), True), (node("b", 4), False)])) == 1


def test_nodes_that_do_not_see_the_storage_are_named_before_training(tmp_path: Path) -> None:
    asked: list[Path] = []

    def blind_nodes(folder: Path) -> list[str]:
        asked.append(folder)
        return ["10.0.0.2", "10.0.0.3"]

    with pytest.raises(OutsideSystemError, match=r"2 nodes .* do not see .*10\.0\.0\.2, 10\.0\.0\.3") as told:
        train.require_shared(str(tmp_path / "ray"), blind_nodes)
    assert told.value.code == "storage_not_shared"
    assert "LCLSC_STORAGE" in told.value.remedy
    assert asked == [tmp_path / "ray"]


def test_a_bucket_is_shared_by_its_nature(tmp_path: Path) -> None:
    train.require_shared("s3://bucket/checkpoints", lambda _: ["10.0.0.2"])
    train.require_shared(str(tmp_path), lambda _: [])


def test_a_folder_of_somebody_else_under_the_name_of_ours_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workspace = Workspace(tmp_path / "w")
    parent = cluster._session_folder(workspace).parent
    assert parent.stat().st_mode & 0o777 == 0o700
    mine = tmp_path / "mine"
    (mine / "4194304").mkdir(parents=True)  # no process has so high an id
    mine.chmod(0o755)
    parent.rmdir()
    parent.symlink_to(mine)
    with pytest.raises(OutsideSystemError, match="is a link"):
        cluster._session_folder(workspace)
    assert (mine / "4194304").is_dir()
    assert mine.stat().st_mode & 0o777 == 0o755


def test_training_settings_reach_workers_on_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "77")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    passed = cluster.worker_environment()["env_vars"]
    assert passed["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "77"
    assert "MLFLOW_TRACKING_PASSWORD" not in passed
