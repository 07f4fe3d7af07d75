"""Phantoms: same bytes for the same seed, true masks, readable by other tools."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile

from pipelines.synth.conditions import HARD, USUAL
from pipelines.synth.dataset import COLUMNS, PRESETS, SynthPreset, SynthReport, write_dataset
from pipelines.synth.phantom import CLASSES, PhantomVideo, phantom_video

TINY = replace(PRESETS["micro"], classes=("glioma", "healthy"), patients_per_class=2, frames=8, size_px=64)
SEED = 11
SMALL = {"seed": SEED, "label": "glioma", "patient": 0, "video": 0, "frames": 6, "size_px": 64}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "set"
    write_dataset(out, TINY, seed=SEED)
    return out


@pytest.fixture(scope="module", params=CLASSES)
def phantom(request: pytest.FixtureRequest) -> PhantomVideo:
    return phantom_video(seed=SEED, label=request.param, patient=0, video=0, frames=12, size_px=96)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def digests(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def made(out: Path, preset: SynthPreset = TINY, *, seed: int = SEED, first_patient: int = 0) -> SynthReport:
    return write_dataset(out, preset, seed=seed, first_patient=first_patient)


def test_the_same_seed_writes_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    made(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(dataset)


def test_another_seed_writes_other_videos(dataset: Path, tmp_path: Path) -> None:
    made(tmp_path / "other", seed=SEED + 1)
    assert {row["sha256"] for row in rows(tmp_path / "other")}.isdisjoint(row["sha256"] for row in rows(dataset))


def test_processes_write_what_one_process_writes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.synth.dataset.SMALL_WORK_PIXELS", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    made(tmp_path / "parallel")
    assert digests(tmp_path / "parallel") == digests(dataset)


def test_a_patient_is_the_same_whatever_the_others(dataset: Path, tmp_path: Path) -> None:
    made(tmp_path / "later", replace(TINY, classes=("glioma",)), first_patient=1)
    before = {row["path"]: row for row in rows(dataset)}
    shared = [row for row in rows(tmp_path / "later") if row["path"] in before]
    assert [row["patient_id"] for row in shared] == ["PHANTOM-GLI-0001"]
    assert all(before[row["path"]] == row for row in shared)


def test_the_videos_of_one_patient_differ() -> None:
    first, second = (
        phantom_video(seed=SEED, label="glioma", patient=0, video=video, frames=8, size_px=64) for video in (0, 1)
    )
    assert not np.array_equal(first.frames, second.frames)
    assert {first.domain, second.domain} == {"ex-vivo", "in-vivo"}


def test_the_manifest_is_true(dataset: Path) -> None:
    found = rows(dataset)
    assert tuple(found[0]) == COLUMNS
    assert [row["path"] for row in found] == sorted(row["path"] for row in found)
    assert len(found) == 4
    for row in found:
        assert hashlib.sha256((dataset / row["path"]).read_bytes()).hexdigest() == row["sha256"]
        assert (dataset / row["mask"]).is_file()
    for label in TINY.classes:
        assert {row["domain"] for row in found if row["label"] == label} == {"ex-vivo", "in-vivo"}


def test_the_record_lists_the_finished_videos(dataset: Path) -> None:
    record = json.loads((dataset / "synth.json").read_bytes())
    assert (record["format"], record["preset"], record["seed"]) == ("synth/1", "micro", SEED)
    assert record["videos"] == sorted(row["sha256"] for row in rows(dataset))


def test_videos_have_the_asked_frames_rate_and_size(dataset: Path) -> None:
    for row in rows(dataset):
        with av.open(str(dataset / row["path"])) as container:
            stream = container.streams.video[0]
            sizes = [(frame.height, frame.width) for frame in container.decode(stream)]
            assert (stream.average_rate, stream.codec_context.pix_fmt) == (TINY.fps, "yuv420p")
            assert "creation_time" not in container.metadata
        assert sizes == [(TINY.size_px, TINY.size_px)] * TINY.frames


def test_ffprobe_reads_the_same(dataset: Path) -> None:
    if shutil.which("ffprobe") is None:
        if "ffprobe" in os.environ.get("LCLSC_REQUIRE", ""):
            pytest.fail("ffprobe is required by LCLSC_REQUIRE and not installed")
        pytest.skip("ffprobe is not installed")
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json"]
    answer = subprocess.run([*command, dataset / rows(dataset)[0]["path"]], check=True, capture_output=True)
    stream = json.loads(answer.stdout)["streams"][0]
    assert (stream["codec_name"], stream["color_range"], stream["avg_frame_rate"]) == ("h264", "tv", "12/1")
    assert (stream["nb_read_frames"], stream["width"], stream["height"]) == ("8", 64, 64)
    assert float(stream["start_time"]) == 0.0


def test_decoded_luma_is_the_rendered_frame(dataset: Path) -> None:
    phantom = phantom_video(seed=SEED, label="glioma", patient=0, video=0, frames=8, size_px=64)
    with av.open(str(dataset / "glioma/PHANTOM-GLI-0000/0.mp4")) as container:
        luma = np.stack([frame.to_ndarray()[:64] for frame in container.decode(video=0)]).astype(float)
    error = np.clip((luma - 16.0) * 255.0 / 219.0, 0.0, 255.0) - phantom.frames
    assert np.sqrt(np.mean(error**2)) < 5.0


def test_mask_stacks_have_a_one_bit_page_a_frame(dataset: Path) -> None:
    phantom = phantom_video(seed=SEED, label="glioma", patient=0, video=0, frames=8, size_px=64)
    with tifffile.TiffFile(dataset / "masks/glioma/PHANTOM-GLI-0000/0.tif") as stack:
        assert {page.bitspersample for page in stack.pages} == {1}
        assert not {"DateTime", "Software"} & {tag.name for page in stack.pages for tag in page.tags}
        pages = np.stack([page.asarray() for page in stack.pages])
    np.testing.assert_array_equal(pages.astype(bool), phantom.masks)


def test_structures_are_brighter_inside_their_mask(phantom: PhantomVideo) -> None:
    view = (phantom.frames > 0).any(axis=0)
    good = [index for index, fault in enumerate(phantom.faults) if fault == "diagnostic"]
    for index in good:
        frame, mask = phantom.frames[index], phantom.masks[index]
        assert frame[mask].mean() > frame[view & ~mask].mean()
        assert frame[mask].std() > frame[view & ~mask].std()


def test_masks_follow_the_drift(phantom: PhantomVideo) -> None:
    """The right mask explains a frame better than the mask of a distant frame."""
    good = [index for index, fault in enumerate(phantom.faults) if fault == "diagnostic"]
    first, last = good[0], good[-1]
    view = (phantom.frames > 0).any(axis=0)

    def contrast(frame: int, mask: int) -> float:
        image, planted = phantom.frames[frame].astype(float), phantom.masks[mask]
        return float(image[planted].mean() - image[view & ~planted].mean())

    assert contrast(first, first) + contrast(last, last) > contrast(first, last) + contrast(last, first)


def test_structures_fill_a_part_of_the_round_view(phantom: PhantomVideo) -> None:
    view = (phantom.frames > 0).any(axis=0)
    assert 0.6 < view.mean() < 0.78
    assert not phantom.frames[:, 0, 0].any()
    assert not phantom.masks[:, ~view].any()
    assert 0.10 < phantom.masks.sum() / (view.sum() * len(phantom.masks)) < 0.50


def test_dark_saturated_and_smeared_frames_occur() -> None:
    mean, gradient, seen = {}, {}, {}
    for patient in range(4):
        video = phantom_video(seed=SEED, label="glioma", patient=patient, video=0, frames=24, size_px=64)
        view = (video.frames > 0).any(axis=0)
        share = np.mean([fault != "diagnostic" for fault in video.faults])
        assert 0.10 <= share <= 0.30
        for frame, fault in zip(video.frames.astype(float), video.faults, strict=True):
            mean.setdefault(fault, []).append(frame[view].mean())
            gradient.setdefault((patient, fault), []).append(frame[view].std())
            seen[fault] = True
    assert set(seen) == {"diagnostic", "dark", "saturated", "smeared"}
    assert max(mean["dark"]) < min(mean["diagnostic"])
    assert min(mean["saturated"]) > max(mean["diagnostic"])
    smeared = [patient for patient, fault in gradient if fault == "smeared"]
    assert all(np.mean(gradient[p, "smeared"]) < np.mean(gradient[p, "diagnostic"]) for p in smeared)


def test_a_cut_short_call_is_continued(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(dataset, out)
    victim, damaged = (out / row["path"] for row in rows(out)[:2])
    victim.unlink()
    damaged.write_bytes(b"not a video")
    calls: list[tuple[int, int]] = []
    report = write_dataset(out, TINY, seed=SEED, on_video=lambda done, total: calls.append((done, total)))
    assert (report.written, report.kept) == (2, 2)
    assert calls == [(3, 4), (4, 4)]
    assert digests(out) == digests(dataset)


def test_a_finished_set_is_left_alone(dataset: Path) -> None:
    assert made(dataset).written == 0


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty .* Name a new or empty folder"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_set_of_other_parameters_is_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match=r"another seed\. Name a new folder"):
        made(dataset, seed=SEED + 1)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"size_px": 65}, "size_px is 65"),
        ({"frames": 2}, "frames is 2"),
        ({"classes": ("lymphoma",)}, "lymphoma"),
        ({"fps": 0}, r"fps \(0\)"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, object], cause: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=cause):
        made(tmp_path / "set", replace(TINY, **change))
    assert not (tmp_path / "set").exists()


def test_a_hard_manifest_says_who_is_tested_and_who_is_away(tmp_path: Path) -> None:
    preset = replace(PRESETS["hard"], classes=("glioma",), videos_per_patient=2, frames=6, size_px=64)
    made(tmp_path / "set", preset)
    found = rows(tmp_path / "set")
    assert tuple(found[0]) == (*COLUMNS, "split")
    by_split = {name: {row["patient_id"] for row in found if row["split"] == name} for name in HARD.split}
    assert {name: len(patients) for name, patients in by_split.items()} == HARD.split
    away = [row for row in found if row["site"] == "site-d"]
    assert {row["split"] for row in away} == {"test"}
    assert {row["domain"] for row in away} == {"in-vivo"}
    assert len(away) == sum(row["split"] == "test" for row in found) / 2
    record = json.loads((tmp_path / "set" / "synth.json").read_bytes())
    assert record["videos"] == sorted(row["sha256"] for row in found)


def test_usual_conditions_change_nothing_and_are_not_recorded(dataset: Path) -> None:
    assert "conditions" not in json.loads((dataset / "synth.json").read_bytes())
    assert not any(USUAL.is_away(patient) or USUAL.split_of(patient) for patient in range(20))
    usual, hard = (phantom_video(**SMALL, conditions=conditions) for conditions in (USUAL, HARD))
    assert not np.array_equal(usual.frames, hard.frames)
    np.testing.assert_array_equal(usual.masks, phantom_video(**SMALL).masks)
    np.testing.assert_array_equal(usual.frames, phantom_video(**SMALL).frames)


def test_the_other_site_is_dim_and_soft() -> None:
    """The same patient, were it at home."""
    there, here = (
        phantom_video(**SMALL | {"patient": 7}, conditions=conditions).frames.astype(float)
        for conditions in (HARD, replace(HARD, split={}))
    )
    view = (here > 0).any(axis=0)
    assert there[:, view].mean() < here[:, view].mean()
    assert there[:, view].std() < here[:, view].std()


def test_the_hard_preset_is_frozen() -> None:
    """It was tuned before any contrastive method ran on it; other pixels would be another benchmark."""
    pixels = (phantom_video(**SMALL | {"patient": patient}, conditions=HARD).frames.tobytes() for patient in (0, 7))
    digest = hashlib.sha256(b"".join(pixels)).hexdigest()
    assert digest == "9b2717fe17f3ca409c6694d6f5746be99647cb77c5a454922a539cdb6c8c7494"
