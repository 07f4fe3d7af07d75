"""A registered version, built again from raw video in a place where nothing can be reused."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.line import Line
from faults import mutations

from pipelines.files import sha256_file

pytestmark = pytest.mark.slow


def test_the_champion_is_rebuilt_byte_by_byte(built: Line, tmp_path: Path) -> None:
    report = built.json("reproduce", "@champion", "--keep", str(tmp_path / "again"))
    assert (report["verdict"], report["differing"], report["metrics"]) == ("identical", [], {})
    assert (report["steps"], report["frames_decoded"], report["reused"]) == (["extract", "train", "evaluate"], 180, 0)
    rebuilt = tmp_path / "again" / "workspace" / "models" / "model.safetensors"
    assert sha256_file(rebuilt) == sha256_file(built.root / "models" / "model.safetensors")


def test_a_rebuild_from_the_stored_frames_starts_at_training(built: Line) -> None:
    report = built.json("reproduce", "1", "--from", "train")
    assert (report["verdict"], report["steps"], report["frames_decoded"]) == ("identical", ["train", "evaluate"], 0)


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
