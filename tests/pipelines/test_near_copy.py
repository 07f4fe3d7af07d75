"""Planted copies are found and others are not; copies come to one side of the split, or to none."""

from __future__ import annotations

import csv
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from clip_files import DICOM_IN_PYDICOM, dicom_data, filmed

import planted_copies as planted
from pipelines import intake, ledger, manifest
from pipelines.intake import near_copy
from pipelines.intake.candidate import Candidate
from pipelines.intake.near_copy import Index, Match, Transform
from pipelines.intake.near_copy_check import (
    Judge,
    Look,
    Sides,
    Store,
    _packed,
    _packed_to_fit,
    _unpacked,
    fingerprint_of,
)
from pipelines.locks import one_writer
from pipelines.video import fingerprint
from pipelines.video.fingerprint import Blobs
from pipelines.video.isolation import run_isolated
from pipelines.workspace import Workspace

SEED = 4
SOURCES = planted.sources(SEED, patients=1, frames=36)


@pytest.fixture(scope="module")
def clips() -> list[planted.Clip]:
    return [source.draw() for source in SOURCES[:2]]


@pytest.fixture(scope="module")
def index(clips: list[planted.Clip]) -> Index:
    made = Index()
    for number, clip in enumerate(clips):
        made.add(str(number), fingerprint.thinned(_blobs(clip)))
    return made


def _blobs(clip: planted.Clip) -> Blobs:
    return planted.blobs_of(planted.decoded(planted.encoded(clip, planted.FPS)))


@pytest.mark.parametrize(
    "kinds",
    [*((kind,) for kind in planted.KINDS), ("encode", "trim", "mirror", "turn", "rate"), ("crop", "scale", "gain")],
)
def test_a_copy_is_found_and_nothing_else(clips: list[planted.Clip], index: Index, kinds: tuple[str, ...]) -> None:
    for number, clip in enumerate(clips):
        copy = planted.copied(clip, kinds, np.random.default_rng([SEED, number]))
        assert [match.video_id for match in index.find(planted.blobs_of(copy))] == [str(number)]


def test_a_longer_recording_is_found_by_a_part_of_it(clips: list[planted.Clip]) -> None:
    part = Index()
    part.add("part", fingerprint.thinned(_blobs(clips[0][12:36])))
    assert [match.video_id for match in part.find(_blobs(clips[0]))] == ["part"]


def test_long_clips_are_compared_in_parts_with_the_same_answer(
    clips: list[planted.Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, rows = _blobs(clips[0]), fingerprint.thinned(_blobs(clips[0]))
    hint = Transform(turn=0, octave=0.0, shift=(0.0, 0.0), pairs=3)
    whole = near_copy.support(blobs, rows, hint)
    monkeypatch.setattr(near_copy, "COMPARED_AT_ONCE", 100 * len(rows))
    assert len(blobs) > 200
    assert near_copy.support(blobs, rows, hint) == whole


ULTRASOUND = (dicom_data("color3d_jpeg_baseline.dcm"), DICOM_IN_PYDICOM / "examples_ybr_color.dcm")
FILM = (filmed("carphone_pristine.mp4"), filmed("carphone_distorted.mp4"))


@pytest.mark.parametrize("pair", [ULTRASOUND, ULTRASOUND[::-1], FILM])
def test_real_copies_are_found_and_nothing_else(pair: tuple[Path, Path]) -> None:
    """The second ultrasound is the first 30 of 120 frames of the other at half the size."""
    library = Index()
    for path in (pair[0], dicom_data("emri_small.dcm")):
        library.add(path.name, fingerprint.thinned(_unpacked(fingerprint_of(str(path)))))
    found = library.find(_unpacked(fingerprint_of(str(pair[1]))))
    assert [match.video_id for match in found] == [pair[0].name]


@pytest.mark.parametrize("turn", range(8))
def test_turning_the_words_is_turning_the_picture(clips: list[planted.Clip], turn: int) -> None:
    """0 to 7: mirrored along x (1), along y (2), transposed before that (4)."""
    wide = np.zeros((2, 160, 160), np.uint8) + 40
    wide[:, 20:140, 20:140] = clips[0][:2, 20:140, 20:140]
    picture = np.swapaxes(wide, 1, 2) if turn & 4 else wide
    picture = picture[:, :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]
    ours, theirs = fingerprint.turned(_still(wide), turn), _still(picture)
    assert min(len(ours), len(theirs)) > 8
    near = np.hypot(theirs["x"][:, None] - ours["x"], theirs["y"][:, None] - ours["y"]) < 0.02
    wrong = np.where(near, np.bitwise_count(theirs["word"][:, None] ^ ours["word"]), 99).min(axis=0)
    assert (wrong <= 4).mean() > 0.8


def _still(clip: planted.Clip) -> Blobs:
    frames = [planted.Frame(index=n, pts_seconds=n / 8, luma_HW=luma) for n, luma in enumerate(clip)]
    return planted.blobs_of(frames[:1])


def test_the_same_clip_gives_the_same_blobs(clips: list[planted.Clip]) -> None:
    assert _blobs(clips[1]).tobytes() == _blobs(clips[1]).tobytes()


def test_a_dark_clip_has_no_blobs_and_no_copies(index: Index) -> None:
    assert index.find(_still(np.zeros((2, 64, 64), np.uint8))) == []


def test_patients_joined_over_others_stand_on_one_side() -> None:
    sides = Sides({"a": "test"})
    sides.join("b", "c")
    sides.join("c", "a")
    assert (sides.of("b"), sides.of("c"), sides.of("stranger")) == ("test", "test", "")


def test_patients_of_different_sides_are_never_joined() -> None:
    sides = Sides({"a": "test", "b": "train"})
    sides.join("c", "a")
    with pytest.raises(ValueError, match="different sides"):
        sides.join("c", "b")
    assert (sides.of("c"), sides.of("b")) == ("test", "train")


# --- through intake ------------------------------------------------------------------------------


def _take_in(workspace: Workspace, folder: Path, *rows: tuple[bytes, str, str]) -> intake.IntakeReport:
    """Rows of (content, patient, wanted split)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with (folder / "manifest.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient_id", "label", "split"])
        for number, (content, patient, split) in enumerate(rows):
            (folder / f"{number}.mp4").write_bytes(content)
            writer.writerow([f"{number}.mp4", patient, "glioma", split])
    with one_writer(workspace):
        return intake.run(workspace, folder)


def _sides(workspace: Workspace) -> list[str]:
    splits = manifest.read_splits(workspace.splits)
    return [splits[video.patient_id] for video in manifest.read_videos(workspace.manifest)]


def test_patients_who_share_a_copy_come_to_one_side_and_the_pair_is_named(
    workspace: Workspace, tmp_path: Path, clips: list[planted.Clip]
) -> None:
    first, copy = planted.encoded(clips[0], 12), planted.encoded(clips[0][:, :, ::-1], 12, crf=26)
    report = _take_in(workspace, tmp_path / "in", (first, "Ada", ""), (copy, "Berta", ""))
    remark = report.remarks[0]
    assert (remark["row"], remark["code"], remark["video_id"], remark["other"]) == (
        3,
        "near_copy",
        report.taken[1],
        report.taken[0],
    )
    assert len(set(_sides(workspace))) == 1
    noted = ledger.read(workspace.ledger)[-1].data
    assert noted["near_copies"] == [[report.taken[1], report.taken[0]]]


def test_a_copy_across_the_split_is_set_aside_and_nobody_moves(
    workspace: Workspace, tmp_path: Path, clips: list[planted.Clip]
) -> None:
    _take_in(workspace, tmp_path / "in", (planted.encoded(clips[0], 12), "Ada", "test"))
    copy = planted.encoded(clips[0][10:, 4:150, 4:150], 12, crf=26)
    report = _take_in(workspace, tmp_path / "in", (copy, "Berta", "train"), (planted.encoded(clips[1], 12), "Cora", ""))
    assert [item["reason"] for item in report.quarantined] == ["near_copy_across_split"]
    assert manifest.read_videos(workspace.manifest)[0].video_id in {*report.taken, *workspace.video_files()}
    assert _sides(workspace).count("test") == 1
    assert "Ada" not in report.quarantined[0]["cause"]


def test_a_recording_whose_halves_stand_on_two_sides_is_set_aside(
    workspace: Workspace, tmp_path: Path, clips: list[planted.Clip]
) -> None:
    """Its patient has no side yet: compared with each half alone, it would fit both."""
    halves = [planted.encoded(clip, 12) for clip in clips]
    _take_in(workspace, tmp_path / "in", (halves[0], "Ada", "train"), (halves[1], "Berta", "test"))
    whole = planted.encoded(np.concatenate(clips), 12, crf=26)
    report = _take_in(workspace, tmp_path / "in", (whole, "Cora", ""))
    assert [item["reason"] for item in report.quarantined] == ["near_copy_across_split"]
    assert all(f"which stands in {side}" in report.quarantined[0]["cause"] for side in ("train", "test"))
    assert sorted(_sides(workspace)) == ["test", "train"]


def test_a_row_that_was_set_aside_decides_nothing_for_its_patient(
    workspace: Workspace, tmp_path: Path, clips: list[planted.Clip]
) -> None:
    _take_in(workspace, tmp_path / "in", (planted.encoded(clips[0], 12), "Ada", "test"))
    copies = [planted.encoded(clips[0], 12, crf=crf) for crf in (26, 28)]
    report = _take_in(workspace, tmp_path / "in", (copies[0], "Berta", "train"), (copies[1], "Berta", ""))
    assert [item["row"] for item in report.quarantined] == [2]
    assert report.patients == {"test": 1}


def test_a_later_copy_joins_the_side_that_is_there(
    workspace: Workspace, tmp_path: Path, clips: list[planted.Clip]
) -> None:
    for split in ("test", "validation"):
        _take_in(workspace, tmp_path / "in", (planted.encoded(clips[split == "test"], 12), f"first {split}", split))
    copy = planted.encoded(np.rot90(clips[1], axes=(1, 2)), 12)
    report = _take_in(workspace, tmp_path / "in", (copy, "Berta", ""))
    assert report.patients == {"test": 1}


def test_lost_fingerprints_are_made_again_and_those_of_others_removed(
    workspace: Workspace, tmp_path: Path, clips: list[planted.Clip]
) -> None:
    _take_in(workspace, tmp_path / "in", (planted.encoded(clips[0], 12), "Ada", "test"))
    (kept,) = Store(workspace).folder.glob("*.npy")
    content = kept.read_bytes()
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    kept.rename(kept.with_name(f"{'0' * 64}.npy"))
    _take_in(workspace, tmp_path / "in", (planted.encoded(clips[1], 12), "Cora", ""))
    assert kept.read_bytes() == content
    assert len(list(kept.parent.glob("*.npy"))) == 2


def test_what_the_child_sends_is_what_it_saw(tmp_path: Path, clips: list[planted.Clip]) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(planted.encoded(clips[0], 12))
    assert len(_unpacked(fingerprint_of(str(path)))) == len(_blobs(clips[0]))


class TwoHours:
    """A look's finder of blobs that do not compress, 15 frames a second for two hours."""

    def blobs(self) -> Blobs:
        moments, rng = np.arange(2 * 3600 * 15) / 15, np.random.default_rng(SEED)
        rows = np.empty(len(moments) * fingerprint.BLOBS_A_FRAME, fingerprint.BLOB)
        rows["word"] = rng.integers(0, 1 << fingerprint.WORD_BITS, len(rows), dtype=np.uint64)
        rows["x"], rows["y"], rows["scale"] = rng.random((3, len(rows)), np.float32)
        rows["seconds"] = np.repeat(moments, fingerprint.BLOBS_A_FRAME)
        return rows


def look_at_two_hours() -> str:
    look = Look()
    look.fingerprinter = TwoHours()  # type: ignore[assignment]
    return look.summary()


def test_two_hours_fit_into_what_a_child_may_say() -> None:
    """Fewer of the frames, spread over all of it, and those whole; a clip that fits is sent as it is."""
    sent, (short, long) = _unpacked(run_isolated(look_at_two_hours)), (TwoHours().blobs()[:2400], TwoHours().blobs())
    seconds, counts = np.unique(sent["seconds"], return_counts=True)
    assert set(counts) == {fingerprint.BLOBS_A_FRAME}
    assert len(set(np.diff(seconds).round(3))) == 1
    assert seconds[-1] > 7199
    assert np.isin(sent["word"], long["word"]).all()
    assert _packed_to_fit(short) == _packed(short)


class CountingIndex(Index):
    """Says how often it was asked."""

    asked = 0

    def find(self, blobs: Blobs) -> list[Match]:
        self.asked += 1
        return super().find(blobs)


def test_a_clip_is_searched_for_once_and_still_found_by_the_next(
    workspace: Workspace, clips: list[planted.Clip]
) -> None:
    judge, index = Judge(workspace), CountingIndex()
    judge.index = index
    summary = _packed(_blobs(clips[0]))
    others = []
    for number in range(3):
        clip = Candidate(
            video_id=f"{number:064d}",
            patient_id=f"p{number}",
            label="glioma",
            split="",
            path=workspace.root / "clip.mp4",
            frames=36,
            size_px=(128, 128),
        )
        others.append([remark.other[-1] for remark in judge.judge(clip, summary)])
        judge.taken(clip, summary)
    assert index.asked == 3
    assert [sorted(found) for found in others] == [[], ["0"], ["0", "1"]]
