"""A patient who withdraws is gone, byte by byte; what was made with them says so, and nothing else suffers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from e2e.line import Line

from pipelines import ledger
from pipelines.evidence import forget
from pipelines.serving import Terms
from pipelines.serving.candidate import Source
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def patient(built: Line) -> tuple[str, str, bytes]:
    """(pseudonym, video id, bytes of the video) of somebody in the test split, whom the report page shows."""
    rows = list(csv.DictReader(io.StringIO((built.root / "data" / "test.csv").read_text())))
    video_id = rows[0]["video_id"]
    return rows[0]["patient_id"], video_id, next((built.root / "videos").glob(f"{video_id}*")).read_bytes()


@pytest.fixture(scope="module")
def forgotten(built: Line, patient: tuple[str, str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Line:
    line = built.copy(tmp_path_factory.mktemp("forgotten") / "workspace")
    report = line.json("forget", patient[0], "--yes")
    assert (report["patient_id"], report["versions"], report["aliases"]) == (patient[0], ["1"], {"champion": "1"})
    assert report["objects"] > 0
    return line


def _is_frames_of(path: Path, video_id: str) -> bool:
    """Stored frames or masks of the video; predictions name it too, without a picture."""
    try:
        table = pq.read_table(path)
    except Exception:
        return False
    return "image" in table.column_names and video_id in set(table["video_id"].to_pylist())


def test_no_byte_of_the_patients_frames_is_found(built: Line, forgotten: Line, patient: tuple[str, str, bytes]) -> None:
    _, video_id, video = patient
    chunk = video[len(video) // 2 :][:512]
    held = {
        root: [
            path
            for path in root.rglob("*")
            if path.is_file() and (chunk in path.read_bytes() or _is_frames_of(path, video_id))
        ]
        for root in (built.root, forgotten.root)
    }
    assert len(held[built.root]) >= 6  # video and shard: in the workspace, in the cache, in a remote
    assert held[forgotten.root] == []
    assert not list(forgotten.root.glob("mlartifacts/*/artifacts/report.html"))
    assert not (forgotten.root / "reports" / "saliency_sheet.png").exists()


def test_a_version_that_saw_the_patient_fails_by_that_and_nothing_else(
    forgotten: Line, patient: tuple[str, str, bytes]
) -> None:
    report = forgotten.json("audit", "1", expect=1)
    assert {check["name"] for check in report["checks"] if check["verdict"] != "pass"} == {"withdrawn"}
    assert forgotten.json("trace", "patient", patient[0])["withdrawn"] == [patient[0]]
    assert forgotten.json("reproduce", "1", expect=3)["error"]["code"] == "withdrawn"


def test_a_version_that_was_only_tested_on_the_patient_is_served_with_a_remark(forgotten: Line) -> None:
    """One made from them would be refused, see tests/pipelines/serving."""
    candidate = Source(Workspace(forgotten.root), Terms()).fetch("1")
    assert candidate.remarks == ("1 of its test patients took their consent back since",)


def test_the_data_without_the_patient_audits_clean_and_is_what_is_trained_next(forgotten: Line) -> None:
    assert forgotten.json("audit", "HEAD")["verdict"] == "pass"
    assert forgotten.json("status")["videos"] == 14
    assert forgotten.tool("git", "status", "--porcelain") == ""
    assert "extract" in forgotten.json("retrain", "--dry-run", expect=0)["stale"]


def test_forgetting_again_finishes_and_adds_nothing(forgotten: Line, patient: tuple[str, str, bytes]) -> None:
    before = ledger.read(forgotten.root / "ledger.jsonl")
    assert forget.run(Workspace(forgotten.root), patient[0]).objects == 0
    assert ledger.read(forgotten.root / "ledger.jsonl") == before


def test_gc_keeps_what_registered_versions_need(built: Line, tmp_path: Path) -> None:
    line = built.copy(tmp_path / "workspace")
    stray = line.root / ".dvc" / "cache" / "files" / "md5" / "ab" / ("c" * 30)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"left over")
    assert line.json("gc", "--dry-run")["freed"] >= 1
    assert stray.exists()
    line.json("gc", "--remotes")
    assert not stray.exists()
    assert line.json("audit", "--all")["verdict"] == "pass"
