"""A patient who withdraws is gone, byte by byte; what was made with them says so, and nothing else suffers."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from e2e.line import Line

from pipelines import ledger
from pipelines.evidence import audit, forget
from pipelines.evidence.object_checks import Sample
from pipelines.serving import Terms
from pipelines.serving.candidate import Source
from pipelines.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def patient(built: Line) -> tuple[str, str]:
    """(pseudonym, video id) of somebody in the test split, whom the report page shows."""
    rows = list(csv.DictReader(io.StringIO((built.root / "data" / "test.csv").read_text())))
    return rows[0]["patient_id"], rows[0]["video_id"]


@pytest.fixture(scope="module")
def forgotten(built: Line, patient: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Line:
    line = built.copy(tmp_path_factory.mktemp("forgotten") / "workspace")
    report = line.json("forget", patient[0], "--yes")
    assert (report["patient_id"], report["versions"], report["aliases"]) == (patient[0], ["1"], {"champion": "1"})
    assert report["objects"] > 0
    return line


def _held(root: Path, video_id: str, chunks: list[bytes]) -> list[Path]:
    """Files of the patient's, found by what is in them: bytes of their files, or rows of their frames."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in files if any(map(path.read_bytes().__contains__, chunks)) or _is_frames_of(path, video_id)]


def _chunks(root: Path, video_id: str) -> list[bytes]:
    """Of the video, its shard and its mask's."""
    return [
        _chunk(path)
        for folder in ("videos", "data/frames", "data/masks")
        for path in (root / folder).glob(f"{video_id}*")
    ]


def _chunk(path: Path) -> bytes:
    """512 bytes from the middle of a file."""
    content = path.read_bytes()
    return content[len(content) // 2 :][:512]


def _is_frames_of(path: Path, video_id: str) -> bool:
    """Stored frames or masks of the video; predictions name it too, without a picture."""
    try:
        table = pq.read_table(path)
    except Exception:
        return False
    return "image" in table.column_names and video_id in set(table["video_id"].to_pylist())


def test_no_byte_of_the_patients_frames_is_found(built: Line, forgotten: Line, patient: tuple[str, str]) -> None:
    _, video_id = patient
    chunks = _chunks(built.root, video_id)
    assert len(_held(built.root, video_id, chunks)) >= 6  # video and shard: in the workspace, in the cache, in a remote
    assert _held(forgotten.root, video_id, chunks) == []
    assert not list(forgotten.root.glob("mlartifacts/*/artifacts/report.html"))
    assert not (forgotten.root / "reports" / "saliency_sheet.png").exists()


def test_a_version_that_saw_the_patient_fails_by_that_and_nothing_else(
    forgotten: Line, patient: tuple[str, str]
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


def test_forgetting_again_finishes_and_adds_nothing(forgotten: Line, patient: tuple[str, str]) -> None:
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


def test_of_two_versions_only_the_one_made_with_the_patient_suffers(
    built: Line, grown: tuple[Line, Any], tmp_path: Path
) -> None:
    """The second batch's patients were in version 2's training; version 1 never held them."""
    line = grown[0].copy(tmp_path / "workspace")
    known = {path.name for path in (built.root / "videos").iterdir()}
    video_id = next(path.stem for path in (line.root / "videos").iterdir() if path.name not in known)
    patient_id = line.json("trace", "video", video_id)["videos"][0]["patient_id"]
    chunks = _chunks(line.root, video_id)
    assert len(_held(line.root, video_id, chunks)) >= 6
    report = line.json("forget", patient_id, "--yes")
    assert (report["versions"], report["aliases"]) == (["2"], {"challenger": "2"})
    assert _held(line.root, video_id, chunks) == []
    assert _not_passed(line, "1") == set()
    assert _not_passed(line, "2") == {("withdrawn", "fail")}
    assert line.json("reproduce", "2", expect=3)["error"]["code"] == "withdrawn"


def test_a_patient_of_a_later_evaluation_is_forgotten_and_does_not_end_the_model(
    built: Line, phantoms: Path, tmp_path: Path
) -> None:
    """New test patients alone make no new version: version 1 met them in its second evaluation, after its commit."""
    line = built.copy(tmp_path / "workspace")
    batch = _for_testing(phantoms / "more", tmp_path / "batch")
    taken = line.json("intake", str(batch))
    assert taken["patients"] == {"test": 3}
    report = line.json("retrain", "--workers", "1")
    assert (report["status"], report["version"]) == ("up_to_date", "1")
    video_id = taken["taken"][0]
    data_version = line.json("status")["data_version"]
    target = audit.find_target(Workspace(line.root), [], data_version)
    assert video_id in {row["video_id"] for row in target.commit.tables}  # as built from these data, not as taken in

    report = line.json("forget", line.json("trace", "video", video_id)["videos"][0]["patient_id"], "--yes")
    assert report["versions"] == ["1"]
    assert not list(line.root.glob("mlartifacts/*/artifacts/report.html"))
    assert _not_passed(line, "1") == {("withdrawn", "fail")}

    report = line.json("retrain", "--workers", "1")
    assert (report["status"], report["version"]) == ("registered", "2")
    assert _not_passed(line, "2") == set()


def _for_testing(batch: Path, folder: Path) -> Path:
    """The same batch, all of whose patients its manifest puts on the test side."""
    shutil.copytree(batch, folder)
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]] if "split" in rows[0] else [*rows[0], "split"])
        writer.writeheader()
        writer.writerows(row | {"split": "test"} for row in rows)
    return folder


def _not_passed(line: Line, version: str) -> set[tuple[str, str]]:
    report = audit.run(Workspace(line.root), [version], sample=Sample(), record=False)
    return {(check.name, check.verdict) for check in report.checks if check.verdict != "pass"}
