"""Real phantoms and broken files through intake, in a real workspace."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines import clip_checks, initialise, intake, ledger, manifest
from pipelines.clip_checks import Candidate, Remark
from pipelines.errors import VideoError
from pipelines.locks import one_writer
from pipelines.synth.dataset import PRESETS, write_dataset
from pipelines.video import Frame
from pipelines.workspace import Workspace


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("intake") / "phantoms"
    write_dataset(out, PRESETS["micro"], seed=3, patients_per_class=2)
    return out


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("intake-workspace") / "workspace"
    initialise.run(root, preset="cpu", remote=None)
    return root


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Workspace:
    subprocess.run(["cp", "-a", str(template), str(tmp_path / "w")], check=True)
    return Workspace(tmp_path / "w")


def _take_in(workspace: Workspace, source: Path) -> intake.IntakeReport:
    with one_writer(workspace):
        return intake.run(workspace, source)


def _source(tmp_path: Path, phantoms: Path, *rows: dict[str, str]) -> Path:
    """A folder with one phantom called clip.mp4 and its mask, and these rows."""
    folder = tmp_path / "source"
    folder.mkdir()
    first = next(csv.DictReader((phantoms / "manifest.csv").open()))
    shutil.copy(phantoms / first["path"], folder / "clip.mp4")
    shutil.copy(phantoms / first["mask"], folder / "clip.tif")
    with (folder / "manifest.csv").open("w") as file:
        writer = csv.DictWriter(file, ["path", "patient_id", "label", "split", "mask", "sha256"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_same_batch_again_changes_nothing(workspace: Workspace, phantoms: Path) -> None:
    first = _take_in(workspace, phantoms)
    tables = [path.read_bytes() for path in (workspace.manifest, workspace.splits, workspace.provenance)]
    second = _take_in(workspace, phantoms)
    assert (len(first.taken), first.new_labels) == (6, ["glioma", "healthy", "meningioma"])
    assert (second.taken, len(second.known), second.data_version) == ([], 6, first.data_version)
    assert tables == [path.read_bytes() for path in (workspace.manifest, workspace.splits, workspace.provenance)]
    assert [entry.event for entry in ledger.read(workspace.ledger)] == ["taken_in"]


def test_videos_are_named_by_their_bytes_and_patients_by_pseudonyms(workspace: Workspace, phantoms: Path) -> None:
    _take_in(workspace, phantoms)
    from pipelines.files import sha256_file

    files = workspace.video_files()
    assert all(sha256_file(path) == video_id for video_id, path in files.items())
    assert set(files) == {video.video_id for video in manifest.read_videos(workspace.manifest)}
    assert "PHANTOM" not in workspace.manifest.read_text() + workspace.splits.read_text()


def test_a_cut_video_is_set_aside_whole_with_its_reason(workspace: Workspace, phantoms: Path, tmp_path: Path) -> None:
    source = _source(tmp_path, phantoms, {"path": "clip.mp4", "patient_id": "P", "label": "glioma"})
    clip = source / "clip.mp4"
    clip.write_bytes(clip.read_bytes()[:4000])
    report = _take_in(workspace, source)
    assert [(item["row"], item["reason"]) for item in report.quarantined] == [(2, "truncated")]
    kept = workspace.quarantine / f"{report.quarantined[0]['video_id']}.mp4"
    assert kept.read_bytes() == clip.read_bytes()
    assert (workspace.quarantine / f"{report.quarantined[0]['video_id']}.json").exists()
    assert manifest.read_videos(workspace.manifest) == []


def test_a_mask_of_another_length_is_set_aside_with_its_video(
    workspace: Workspace, phantoms: Path, tmp_path: Path
) -> None:
    import numpy as np
    import tifffile

    row = {"path": "clip.mp4", "patient_id": "P", "label": "glioma", "mask": "clip.tif"}
    source = _source(tmp_path, phantoms, row)
    tifffile.imwrite(source / "clip.tif", np.zeros((3, 96, 96), dtype=bool))
    assert [item["reason"] for item in _take_in(workspace, source).quarantined] == ["mask_mismatch"]


@pytest.mark.parametrize(
    ("cells", "column"),
    [({"sha256": "0" * 64}, "sha256"), ({"label": "healthy"}, "label"), ({"patient_id": "another"}, "patient_id")],
)
def test_a_row_against_its_checksum_or_the_record_is_refused(
    workspace: Workspace, phantoms: Path, tmp_path: Path, cells: dict[str, str], column: str
) -> None:
    _take_in(workspace, phantoms)
    row = {"path": "clip.mp4", "patient_id": "PHANTOM-GLI-0000", "label": "glioma"} | cells
    report = _take_in(workspace, _source(tmp_path, phantoms, row))
    assert [(error.row, error.column) for error in report.errors] == [(2, column)]


def test_a_split_against_the_ledger_of_splits_is_refused(workspace: Workspace, phantoms: Path, tmp_path: Path) -> None:
    _take_in(workspace, phantoms)
    patient = next(video.patient_id for video in manifest.read_videos(workspace.manifest) if video.label == "glioma")
    assert patient
    row = {"path": "clip.mp4", "patient_id": "PHANTOM-GLI-0000", "label": "glioma"}
    wrong = [dict(row, split=split) for split in manifest.SPLITS]
    source = _source(tmp_path, phantoms, *wrong[:1])
    refused = 0
    for cells in wrong:
        with (source / "manifest.csv").open("w") as file:
            writer = csv.DictWriter(file, ["path", "patient_id", "label", "split"])
            writer.writeheader()
            writer.writerow(cells)
        refused += bool(_take_in(workspace, source).errors)
    assert refused == 2


def test_the_published_test_key_takes_phantoms_only(
    workspace: Workspace, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.synth

    published = Path(pipelines.synth.__file__).with_name("published.key")
    monkeypatch.setenv("LCLSC_KEY_FILE", str(published))
    source = _source(tmp_path, phantoms, {"path": "clip.mp4", "patient_id": "P", "label": "glioma"})
    assert "published" in _take_in(workspace, source).errors[0].message
    assert len(_take_in(workspace, phantoms).taken) == 6


class Counting:
    """A look that counts what it is shown."""

    def __init__(self) -> None:
        self.frames = 0

    def see(self, frame: Frame) -> None:
        self.frames += 1

    def summary(self) -> int:
        return self.frames


class Numbering:
    """A judge that remarks on the second clip and sets the third aside."""

    def __init__(self, workspace: Workspace) -> None:
        self.clips = 0
        self.told: list[str] = []

    def judge(self, candidate: Candidate, summary: int) -> list[Remark]:
        assert summary == candidate.frames
        self.clips += 1
        if self.clips == 3:
            raise VideoError("third", "It is the third.", "Send another.")
        return [Remark(code="second", note="It is the second.")] if self.clips == 2 else []

    def taken(self, candidate: Candidate, summary: int) -> None:
        self.told.append(candidate.video_id)


def test_looks_see_every_frame_once_and_the_word_of_judges_decides(
    workspace: Workspace, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Numbering] = []
    check = clip_checks.Check(Counting, lambda place: made.append(Numbering(place)) or made[0])
    monkeypatch.setattr(clip_checks, "CHECKS", (check,))
    report = _take_in(workspace, phantoms)
    assert [(item["row"], item["code"]) for item in report.remarks] == [(3, "second")]
    assert [(item["row"], item["reason"]) for item in report.quarantined] == [(4, "third")]
    assert made[0].told == report.taken
    assert len(report.taken) == 5
