"""Real phantoms and broken files through intake, in a real workspace."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import intake, ledger, manifest, mask_stack, versioning
from pipelines.errors import OutsideSystemError, StageError, VideoError, WrongUseError
from pipelines.evidence import forget
from pipelines.files import sha256_file
from pipelines.intake import clip_checks, quarantine, sources, take_in
from pipelines.intake.batch import Batch, IntakeReport
from pipelines.intake.book import Book
from pipelines.intake.candidate import Candidate, Remark
from pipelines.locks import one_writer
from pipelines.synth.dataset import PRESETS, write_dataset
from pipelines.video.frame import Frame
from pipelines.video.isolation import Limits
from pipelines.workspace import Workspace


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("intake") / "phantoms"
    write_dataset(out, PRESETS["micro"], seed=3, patients_per_class=2)
    return out


def _take_in(workspace: Workspace, source: Path) -> IntakeReport:
    with one_writer(workspace):
        return intake.run(workspace, source)


def _take_in_with_updates(workspace: Workspace, source: Path) -> IntakeReport:
    with one_writer(workspace):
        return intake.run(workspace, source, update=True)


@pytest.fixture(scope="module")
def phantoms_in(empty_workspace: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace ``w`` that took the phantoms in, beside its key."""
    root = tmp_path_factory.mktemp("phantoms-in")
    subprocess.run(["cp", "-a", str(empty_workspace), str(root / "w")], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCLSC_KEY_FILE", str(root / "patients.key"))
        _take_in(Workspace(root / "w"), phantoms)
    return root


@pytest.fixture
def stocked(phantoms_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of it."""
    subprocess.run(["cp", "-a", str(phantoms_in), str(tmp_path / "stocked")], check=True)
    monkeypatch.setenv("LCLSC_KEY_FILE", str(tmp_path / "stocked" / "patients.key"))
    return Workspace(tmp_path / "stocked" / "w")


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


def test_videos_are_named_by_their_bytes_and_patients_by_pseudonyms(stocked: Workspace) -> None:
    files = stocked.video_files()
    assert len(files) == 6
    assert all(sha256_file(path) == video_id for video_id, path in files.items())
    assert set(files) == {video.video_id for video in manifest.read_videos(stocked.manifest)}
    assert "PHANTOM" not in stocked.manifest.read_text() + stocked.splits.read_text()


def test_a_cut_video_is_set_aside_whole_with_its_reason(workspace: Workspace, phantoms: Path, tmp_path: Path) -> None:
    source = _source(tmp_path, phantoms, {"path": "clip.mp4", "patient_id": "P", "label": "glioma"})
    clip = source / "clip.mp4"
    clip.write_bytes(clip.read_bytes()[:4000])
    report = _take_in(workspace, source)
    assert [(item["row"], item["reason"]) for item in report.quarantined] == [(2, "truncated")]
    kept = workspace.quarantine / f"{report.quarantined[0]['id']}.mp4"
    assert kept.read_bytes() == clip.read_bytes()
    assert (workspace.quarantine / f"{report.quarantined[0]['id']}.json").exists()
    assert manifest.read_videos(workspace.manifest) == []


def test_a_mask_of_another_length_is_set_aside_with_its_video(
    workspace: Workspace, phantoms: Path, tmp_path: Path
) -> None:
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
    stocked: Workspace, phantoms: Path, tmp_path: Path, cells: dict[str, str], column: str
) -> None:
    row = {"path": "clip.mp4", "patient_id": "PHANTOM-GLI-0000", "label": "glioma"} | cells
    report = _take_in(stocked, _source(tmp_path, phantoms, row))
    assert [(error.row, error.column) for error in report.errors] == [(2, column)]


def test_a_split_against_the_ledger_of_splits_is_refused(stocked: Workspace, phantoms: Path, tmp_path: Path) -> None:
    patient = next(video.patient_id for video in manifest.read_videos(stocked.manifest) if video.label == "glioma")
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
        refused += bool(_take_in(stocked, source).errors)
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


@pytest.fixture
def clip(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    """A batch ``source/`` of one good clip, without its manifest."""
    return make_clip(tmp_path / "source" / "clip.mp4")


def _write_manifest(folder: Path, *rows: str) -> None:
    (folder / "manifest.csv").write_text("path,patient_id,label,domain,site\n" + "\n".join(rows) + "\n")


def test_what_is_no_plain_finished_file_is_set_aside_untouched(workspace: Workspace, clip: Path) -> None:
    folder = clip.parent
    (folder / "link.mp4").symlink_to(clip)
    (folder / "linked").symlink_to(folder)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket.mp4"))
    (folder / "device").symlink_to("/dev")
    (folder / "open.mp4").write_bytes(b"half")
    names = ("link.mp4", "linked/clip.mp4", "folder.mp4", "pipe.mp4", "socket.mp4", "device/zero", "open.mp4")
    _write_manifest(folder, *(f"{name},P,glioma" for name in (*names, "../clip.mp4", "none.mp4")))
    with listener, (folder / "open.mp4").open("ab"):
        report = _take_in(workspace, folder)
    assert [item["reason"] for item in sorted(report.quarantined, key=lambda item: int(item["row"]))] == [
        "symlink", "symlink", "no_frames", "fifo", "socket", "symlink", "still_written", "name_escapes"
    ]  # fmt: skip
    assert [(error.row, error.code) for error in report.errors] == [(10, "path_missing")]
    assert all(not record.file for record in quarantine.listing(workspace))
    assert [path.name for path in workspace.quarantine.iterdir() if path.suffix != ".json"] == []
    _write_manifest(folder, "link.mp4,P,glioma")
    again = _take_in(workspace, folder)
    assert [(item["reason"], item["again"]) for item in again.quarantined] == [("symlink", True)]
    assert [record.path for record in quarantine.listing(workspace)] == ["link.mp4"]  # the other rows were mended


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught, sources.open_plain(Path("/dev"), "zero"):
        raise AssertionError
    assert caught.value.code == "device"


def test_the_same_bytes_again_in_quarantine_are_a_no_op_that_says_so(workspace: Workspace, clip: Path) -> None:
    clip.write_bytes(clip.read_bytes()[:800])
    _write_manifest(clip.parent, "clip.mp4,P,glioma")
    first, second = _take_in(workspace, clip.parent), _take_in(workspace, clip.parent)
    assert [item["again"] for item in (*first.quarantined, *second.quarantined)] == [False, True]
    assert first.quarantined[0] | {"again": True} == second.quarantined[0]
    record = quarantine.get(workspace, first.quarantined[0]["id"])
    assert record is not None
    assert (workspace.quarantine / record.file).read_bytes() == clip.read_bytes()
    with pytest.raises(VideoError) as caught:
        _release(workspace, record.quarantine_id)
    assert caught.value.code == record.reason
    assert quarantine.get(workspace, record.quarantine_id) == record


def test_a_corrected_row_is_what_a_release_takes_in(
    workspace: Workspace, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    check = clip_checks.Check(Nothing, lambda _: Refusing("text_in_picture", judged))
    monkeypatch.setattr(clip_checks, "CHECKS", (check,))
    _write_manifest(clip.parent, "clip.mp4,WRONG,glioma,ex-vivo,south")
    (item,) = _take_in(workspace, clip.parent).quarantined
    before = quarantine.get(workspace, item["id"])
    _write_manifest(clip.parent, "clip.mp4,P,healthy,ex-vivo,south")
    (again,) = _take_in(workspace, clip.parent).quarantined
    assert (again["again"], len(judged)) == (False, 2)  # it might have been set aside for its patient
    april = clip.parent.rename(clip.parent.with_name("april"))
    (april / "clip.mp4").rename(april / "anew.mp4")
    _write_manifest(april, "anew.mp4,P,healthy,in-vivo,north")
    (again,) = _take_in(workspace, april).quarantined
    assert (again["again"], len(judged)) == (True, 2)  # nothing that is weighed is otherwise
    after = quarantine.get(workspace, item["id"])
    assert before is not None
    assert after is not None
    assert after.path == "anew.mp4"
    assert after.batch != before.batch
    _release(workspace, item["id"])
    (video,) = manifest.read_videos(workspace.manifest)
    assert video.patient_id == after.row["patient_id"] != before.row["patient_id"]
    assert (video.label, video.domain, video.site) == ("healthy", "in-vivo", "north")


def test_bytes_set_aside_anew_leave_no_copy_that_nothing_names(
    workspace: Workspace, phantoms: Path, tmp_path: Path
) -> None:
    row = {"path": "clip.mp4", "patient_id": "P", "label": "glioma", "mask": "clip.tif"}
    source = _source(tmp_path, phantoms, row)
    (source / "clip.tif").write_bytes(b"no TIFF")
    (item,) = _take_in(workspace, source).quarantined
    folder, video_id = workspace.quarantine, item["id"]
    assert {path.name for path in folder.iterdir()} == {f"{video_id}{end}" for end in (".json", ".mp4", ".mask.tif")}
    (source / "clip.mp4").rename(source / "clip.mov")
    (source / "manifest.csv").write_text("path,patient_id,label,mask\nclip.mov,P,glioma,clip.tif\n")
    (source / "clip.tif").write_bytes(b"no TIFF either")
    _take_in(workspace, source)
    assert {path.name for path in folder.iterdir()} == {f"{video_id}{end}" for end in (".json", ".mov", ".mask.tif")}
    (folder / f"{video_id}.mp4").write_bytes(b"left by an older version")
    (record,) = quarantine.listing(workspace)
    quarantine.discard(workspace, record)
    assert list(folder.iterdir()) == []


def test_folders_of_one_name_keep_their_records_apart(workspace: Workspace, clip: Path, tmp_path: Path) -> None:
    north, south = (tmp_path / site / "march" for site in ("north", "south"))
    for folder in (north, south):
        folder.mkdir(parents=True)
        shutil.copy(clip, folder)
    (north / "link.mp4").symlink_to(clip)
    _write_manifest(north, "link.mp4,P,glioma")
    _write_manifest(south, "clip.mp4,P,glioma")
    (record,) = (_take_in(workspace, north), quarantine.listing(workspace))[1]
    _take_in(workspace, south)
    assert quarantine.listing(workspace) == [record]
    assert not any(part in json.dumps(record.as_json()) for part in ("north", "march"))
    _write_manifest(north, "clip.mp4,P,glioma")
    _take_in(workspace, north)
    assert quarantine.listing(workspace) == []


def test_a_place_has_one_id_however_it_is_named(workspace: Workspace, clip: Path) -> None:
    def place_id(address: str) -> str:
        return Batch.open(workspace, sources.of(address), address).place_id

    folder = clip.parent
    same = {place_id(name) for name in (str(folder), f"file://{folder}", f"{folder}/../{folder.name}/")}
    others = {place_id(name) for name in ("memory://a/source", "memory://b/source", str(folder.parent))}
    assert (len(same), len(others), same & others) == (1, 3, set())
    assert place_id("memory://a/source/") in others


def test_a_record_of_an_older_version_goes_when_its_row_is_mended(workspace: Workspace, clip: Path) -> None:
    _write_manifest(clip.parent, "clip.mp4,P,glioma")
    _take_in(workspace, clip.parent)
    by_name = Book.open(workspace).batch_id("source")
    text = dict.fromkeys(("at", "cause", "remedy", "file", "mask", "attempt"), "")
    named = {"quarantine_id": quarantine.named_id(by_name, "link.mp4"), "batch": by_name, "path": "link.mp4"}
    quarantine.set_aside(workspace, quarantine.Record(**text, **named, reason="symlink", row={}))
    _take_in(workspace, clip.parent)
    assert quarantine.listing(workspace) == []


def test_a_mask_that_comes_later_is_reported_and_added_only_when_asked(
    workspace: Workspace, phantoms: Path, tmp_path: Path
) -> None:
    row = {"path": "clip.mp4", "patient_id": "P", "label": "glioma"}
    source = _source(tmp_path, phantoms, row)
    (video_id,) = _take_in(workspace, source).taken
    (source / "manifest.csv").write_text("path,patient_id,label,mask\nclip.mp4,P,glioma,clip.tif\n")
    (error,) = _take_in(workspace, source).errors
    assert (error.row, error.column, error.code) == (2, "mask", "mask_not_taken")
    good = (source / "clip.tif").read_bytes()
    (source / "clip.tif").write_bytes(b"no TIFF")
    (error,) = _take_in_with_updates(workspace, source).errors
    assert (error.column, error.code) == ("mask", "mask_unreadable")
    assert list(workspace.masks.iterdir()) == []
    (source / "clip.tif").write_bytes(good)
    report = _take_in_with_updates(workspace, source)
    (video,) = manifest.read_videos(workspace.manifest)
    assert (report.corrected, report.clean) == ([video_id], True)
    assert video.mask_sha256 == sha256_file(workspace.masks / f"{video_id}.tif")
    last = ledger.read(workspace.ledger)[-1]
    assert (last.event, last.subject) == ("corrected", video_id)
    version = manifest.data_version(workspace.manifest, workspace.splits)
    assert last.data == {"changes": {"mask_sha256": ["", video.mask_sha256]}, "data_version": version}
    assert versioning.git(workspace, "status", "--porcelain") == ""
    assert "masks" in versioning.git(workspace, "show", "--stat", "HEAD")
    for take in (_take_in, _take_in_with_updates):
        assert (take(workspace, source).known, len(ledger.read(workspace.ledger))) == ([video_id], 2)


def test_a_mask_is_kept_page_by_page(tmp_path: Path) -> None:
    shape_FHW = (800, 512, 512)  # 200 MiB as pixels
    page_HW = np.eye(512, dtype=bool)
    mask_stack.write(tmp_path / "sent.tif", (page_HW for _ in range(800)))
    mask_stack.rewrite(tmp_path / "sent.tif", tmp_path / "kept.tif", shape_FHW, Limits(memory_mib=128))
    assert sha256_file(tmp_path / "kept.tif") == sha256_file(tmp_path / "sent.tif")
    (tmp_path / "kept.tif").unlink()
    with pytest.raises(VideoError) as caught:  # told by its last page, when all before it are written
        mask_stack.rewrite(tmp_path / "sent.tif", tmp_path / "kept.tif", (801, 512, 512), Limits(memory_mib=128))
    assert caught.value.code == "mask_mismatch"
    assert [path.name for path in tmp_path.iterdir()] == ["sent.tif"]


def test_what_was_taken_in_before_a_source_failed_is_kept(
    workspace: Workspace, clip: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(clip.with_name("two.mp4"), seed=1)
    make_clip(clip.with_name("three.mp4"), seed=2)
    copy = sources.copy

    def failing(source: sources.Source, path: str, *others: Any) -> str:
        if path == "three.mp4":
            raise OutsideSystemError("source_unreachable", "It is away.", "Wait.", transient=True)
        return copy(source, path, *others)

    monkeypatch.setattr(take_in.sources, "copy", failing)
    _write_manifest(clip.parent, "clip.mp4,P,glioma", "three.mp4,Q,healthy")
    with pytest.raises(OutsideSystemError):
        _take_in(workspace, clip.parent)
    assert manifest.read_videos(workspace.manifest) == []  # else glioma were the only label allowed
    _write_manifest(clip.parent, "clip.mp4,P,glioma")
    _take_in(workspace, clip.parent)
    _write_manifest(clip.parent, "clip.mp4,P,glioma", "two.mp4,P,glioma", "three.mp4,P,glioma")
    with pytest.raises(OutsideSystemError):
        _take_in(workspace, clip.parent)
    kept = {sha256_file(clip), sha256_file(clip.with_name("two.mp4"))}
    assert {video.video_id for video in manifest.read_videos(workspace.manifest)} == kept
    assert versioning.git(workspace, "status", "--porcelain") == ""


def _release(workspace: Workspace, prefix: str) -> IntakeReport:
    with one_writer(workspace):
        return intake.release(workspace, prefix, "checked by eye")


class Nothing:
    """A look at nothing."""

    def see(self, frame: Frame) -> None: ...

    def summary(self) -> None: ...


class Refusing:
    """A judge that sets every clip aside."""

    def __init__(self, code: str, judged: list[str] | None = None) -> None:
        self.code = code
        self.judged = [] if judged is None else judged

    def judge(self, candidate: Candidate, summary: None) -> list[Remark]:
        self.judged.append(candidate.patient_id)
        raise VideoError(self.code, "So it says.", "Look at it.")

    def taken(self, candidate: Candidate, summary: None) -> None: ...


def test_a_person_overrules_a_check_but_patients_never_move(
    workspace: Workspace, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = {"clip.mp4": "text_in_picture", "other.mp4": "near_copy_across_split"}
    shutil.copy(clip, clip.with_name("other.mp4"))
    with clip.with_name("other.mp4").open("ab") as file:
        file.write(struct.pack(">I4s", 8, b"free"))
    ids = {}
    for name, code in reasons.items():
        monkeypatch.setattr(clip_checks, "CHECKS", (clip_checks.Check(Nothing, lambda _, code=code: Refusing(code)),))
        _write_manifest(clip.parent, f"{name},P,glioma,in-vivo,north")
        (item,) = _take_in(workspace, clip.parent).quarantined
        assert item["reason"] == code
        ids[name] = item["id"]
    with pytest.raises(VideoError, match="So it says"):
        _release(workspace, ids["other.mp4"])
    monkeypatch.setattr(clip_checks, "CHECKS", (clip_checks.Check(Nothing, lambda _: Refusing("text_in_picture")),))
    report = _release(workspace, ids["clip.mp4"][:8])
    assert (report.released, report.taken) == ([ids["clip.mp4"]], [ids["clip.mp4"]])
    (video,) = manifest.read_videos(workspace.manifest)
    assert (video.video_id, video.label, video.domain, video.site) == (ids["clip.mp4"], "glioma", "in-vivo", "north")
    assert quarantine.get(workspace, ids["clip.mp4"]) is None
    released = [entry for entry in ledger.read(workspace.ledger) if entry.event == "released"]
    assert [(entry.subject, entry.data) for entry in released] == [
        (ids["clip.mp4"], {"reason": "checked by eye", "was": "text_in_picture"})
    ]
    assert clip.exists()


def test_a_wrong_label_is_refused_and_corrected_only_when_asked(
    workspace: Workspace, clip: Path, make_clip: Callable[..., Path]
) -> None:
    make_clip(clip.with_name("two.mp4"), seed=1)
    _write_manifest(clip.parent, "clip.mp4,P,glioma", "two.mp4,P,healthy")
    first = _take_in(workspace, clip.parent)
    before = {video.video_id: video for video in manifest.read_videos(workspace.manifest)}
    _write_manifest(clip.parent, "clip.mp4,P,healthy,in-vivo,north", "two.mp4,P,healthy")
    refused = _take_in(workspace, clip.parent)
    assert [(error.column, error.code) for error in refused.errors] == [("label", "label_differs")]
    with one_writer(workspace):
        report = intake.run(workspace, clip.parent, update=True)
    changed = first.taken[0]
    after = {video.video_id: video for video in manifest.read_videos(workspace.manifest)}
    assert (report.corrected, report.known, report.taken) == ([changed], [first.taken[1]], [])
    assert after[changed] == dataclasses.replace(before[changed], label="healthy", domain="in-vivo", site="north")
    assert after[first.taken[1]] == before[first.taken[1]]
    last = ledger.read(workspace.ledger)[-1]
    assert (last.event, last.subject, last.data["changes"]["label"]) == ("relabelled", changed, ["glioma", "healthy"])
    assert versioning.git(workspace, "status", "--porcelain") == ""
    with one_writer(workspace):
        assert intake.run(workspace, clip.parent, update=True).corrected == []
    assert len(ledger.read(workspace.ledger)) == 2
    assert ledger.verify(workspace.ledger) == []
    _other_bytes_of_the_same_name(workspace, clip, make_clip)


def _other_bytes_of_the_same_name(workspace: Workspace, clip: Path, make_clip: Callable[..., Path]) -> None:
    """In the same batch an error that names both; in another batch a remark."""
    recorded = manifest.read_videos(workspace.manifest)
    make_clip(clip, seed=2)
    _write_manifest(clip.parent, "clip.mp4,P,healthy")
    (error,) = _take_in(workspace, clip.parent).errors
    assert error.code == "path_reused"
    now, before = sha256_file(clip)[:12], {video.video_id[:12] for video in recorded}
    assert {now} < set(re.findall(r"[0-9a-f]{12}", error.message)) <= before | {now}
    april = clip.parent.rename(clip.parent.with_name("april"))
    report = _take_in(workspace, april)
    assert [remark["code"] for remark in report.remarks] == ["same_name_elsewhere"]
    assert len(report.taken) == 1


def test_an_intake_that_is_stopped_keeps_what_it_took(workspace: Workspace, clip: Path) -> None:
    shutil.copy(clip, clip.with_name("bad.mp4"))
    with clip.with_name("bad.mp4").open("ab") as file:
        file.write(b"0000")
    _write_manifest(clip.parent, "bad.mp4,P,glioma", "clip.mp4,P,glioma")
    asked = iter((False, True))
    with one_writer(workspace):
        report = intake.run(workspace, clip.parent, stop=lambda: next(asked))
    assert (report.stopped, len(report.quarantined) + len(report.taken)) == (True, 1)


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


def test_a_patient_who_withdrew_stays_out_and_nothing_else_is_lost(
    workspace: Workspace, clip: Path, make_clip: Callable[..., Path]
) -> None:
    make_clip(clip.with_name("two.mp4"), seed=1)
    _write_manifest(clip.parent, "clip.mp4,Erika,glioma")
    _take_in(workspace, clip.parent)
    (video,) = manifest.read_videos(workspace.manifest)
    forget.run(workspace, video.patient_id)
    _write_manifest(clip.parent, "clip.mp4,Erika,glioma", "two.mp4,Q,glioma")
    for take in (_take_in, _take_in_with_updates):
        report = take(workspace, clip.parent)
        (error,) = report.errors
        assert (error.row, error.column, error.value, error.code) == (2, "patient_id", "", "withdrawn")
        assert video.patient_id in error.message
        assert "Erika" not in error.message
        assert (report.clean, report.quarantined, len(report.taken + report.known)) == (False, [], 1)
    assert set(workspace.video_files()) == {sha256_file(clip.with_name("two.mp4"))}
    assert quarantine.listing(workspace) == []


def test_a_patient_who_withdrew_is_known_by_an_older_key_too(
    workspace: Workspace, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_manifest(clip.parent, "clip.mp4,P,glioma")
    _take_in(workspace, clip.parent)
    (video,) = manifest.read_videos(workspace.manifest)
    forget.run(workspace, video.patient_id)
    manifest.write_splits(workspace.splits, {})  # as for somebody who was never more than in quarantine
    book = Book.open(workspace)
    newer = dataclasses.replace(book.key, key_id="knew", secret=b"newer")
    book = dataclasses.replace(book, key=newer, held_keys=[newer, book.key])
    assert (book.patient_id("P"), book.patient_id("Q")[:4]) == (video.patient_id, "knew")


@pytest.mark.parametrize("through", ["release", "intake"])
def test_bytes_in_quarantine_of_a_patient_who_withdrew_elsewhere_go(
    workspace: Workspace, clip: Path, make_clip: Callable[..., Path], through: str
) -> None:
    make_clip(clip.with_name("two.mp4"), seed=1)
    clip.write_bytes(clip.read_bytes()[:800])
    _write_manifest(clip.parent, "clip.mp4,P,glioma")
    (item,) = _take_in(workspace, clip.parent).quarantined
    (record,) = quarantine.listing(workspace)
    patient = record.row["patient_id"]
    ledger.append(workspace, actor="forget", event="withdrawn", subject=patient, data={"versions": [], "purged": []})
    if through == "release":
        with pytest.raises(StageError) as caught:
            _release(workspace, item["id"])
        assert (caught.value.code, patient in caught.value.cause) == ("withdrawn", True)
    else:
        _write_manifest(clip.parent, "two.mp4,Q,glioma")
        assert len(_take_in(workspace, clip.parent).taken) == 1
    assert list(workspace.quarantine.iterdir()) == []


def test_a_ledger_that_may_hide_a_withdrawal_stops_intake(workspace: Workspace, clip: Path) -> None:
    _write_manifest(clip.parent, "clip.mp4,P,glioma")
    ledger.append(workspace, actor="forget", event="withdrawn", subject="k-1", data={"versions": 1})
    with pytest.raises(StageError, match="does not say what withdrawn must"):
        _take_in(workspace, clip.parent)
    assert list(workspace.videos.glob("*")) == []


def test_a_video_of_another_patient_is_named_with_where_it_stands_and_what_to_do(
    workspace: Workspace, clip: Path
) -> None:
    shutil.copy(clip, clip.with_name("same.mp4"))
    _write_manifest(clip.parent, "clip.mp4,P,glioma", "same.mp4,Q,glioma")
    (error,) = _take_in(workspace, clip.parent).errors
    (video,) = manifest.read_videos(workspace.manifest)
    assert (error.row, error.code) == (3, "patient_differs")
    assert error.message.startswith("row 2, clip.mp4, holds the same bytes")
    _write_manifest(clip.parent, "same.mp4,Q,glioma")
    (error,) = _take_in(workspace, clip.parent).errors
    assert (error.row, error.message.startswith("these bytes were taken in before")) == (2, True)
    assert video.video_id[:12] in error.message
    assert f"`lclsc forget {video.patient_id}`" in error.message
    forget.run(workspace, video.patient_id)
    assert _take_in(workspace, clip.parent).taken == [video.video_id]


def test_a_folder_that_is_not_there_is_no_empty_batch(workspace: Workspace, tmp_path: Path) -> None:
    for place in (tmp_path / "nofolder", f"file://{tmp_path}/nofolder"):
        with pytest.raises(WrongUseError, match=r"There is no folder .*nofolder\."):
            intake.run(workspace, place)
