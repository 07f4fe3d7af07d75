"""A registered version, built again from raw video in a place where nothing can be reused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from e2e.line import Line
from faults import mutations

from pipelines import lineage, registry
from pipelines.files import read_json, sha256_file
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


def test_the_champion_is_rebuilt_byte_by_byte(built: Line, tmp_path: Path) -> None:
    report = built.json("reproduce", "@champion", "--keep", str(tmp_path / "again"))
    assert (report["verdict"], report["differing"], report["metrics"]) == ("identical", [], {})
    assert (report["steps"], report["frames_decoded"], report["reused"]) == (["extract", "train", "evaluate"], 180, 0)
    rebuilt = tmp_path / "again" / "workspace" / "models" / "model.safetensors"
    assert sha256_file(rebuilt) == sha256_file(built.root / "models" / "model.safetensors")


def test_a_rebuild_from_the_stored_frames_trains_whatever_checkpoints_a_cluster_keeps(
    built: Line, tmp_path: Path
) -> None:
    line = Line(built.root, Path(built.environment["LCLSC_KEY_FILE"]))
    storage = tmp_path / "storage"
    shutil.copytree(built.root / ".state" / "ray", storage)
    before = sorted(storage.iterdir())
    line.environment |= {"LCLSC_STORAGE": str(storage), "LCLSC_WORKERS": "1"}
    report = line.json("reproduce", "1", "--from", "train", "--keep", str(tmp_path / "again"))
    assert (report["verdict"], report["steps"], report["frames_decoded"]) == ("identical", ["train", "evaluate"], 0)
    assert read_json(Workspace(tmp_path / "again" / "workspace").training_record)["restarts"] == 0
    assert sorted(storage.iterdir()) == before


def test_what_is_lost_or_exchanged_is_said_before_anything_runs(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "workspace")
    for folder in (line.root / ".dvc" / "cache", line.root / "remotes" / "identified"):
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.endswith(".dir"):
                mutations.replace(path, b"other bytes")
    assert line.json("reproduce", "1", expect=3)["error"]["code"] == "object_lost"
    (archive,) = line.root.glob("mlartifacts/models/*/artifacts/source.tar")
    mutations.replace(archive, archive.read_bytes() + b"more")
    assert line.json("reproduce", "1", expect=3)["error"]["code"] == "package_damaged"
    assert line.json("reproduce", "HEAD", expect=2)["error"]["code"] == "no_version"


def test_a_package_that_holds_together_but_is_not_the_registered_one_is_refused(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "workspace")
    (package,) = (path.parent for path in line.root.glob("mlartifacts/models/*/artifacts/lineage.json"))
    record = lineage.read(package)
    lineage.write(package, record | {"previous_sha256": "0" * 64})
    store = registry.connect(Workspace(line.root))
    store.set_version_tag("1", "lineage_sha256", lineage.sha256(lineage.read(package)))
    assert line.json("reproduce", "1", expect=3)["error"]["code"] == "not_as_registered"
