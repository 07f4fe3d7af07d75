"""Measurements of 16 bits become grey levels by one recorded rule, the same at intake, in training and in use."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import clip_files
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from pipelines import params as parameters
from pipelines.video import clips, window
from pipelines.video.frame import RawFrame
from pipelines.video.isolation import run_isolated
from pipelines.video.prepared import prepare, spool
from pipelines.video.window import Rule, Window

SIDE_PX = 96


def disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] + 0.5
    return np.hypot(x - SIDE_PX / 2, y - SIDE_PX / 2) <= 40


def measured(frames: int = 8, *, outside: int = 0) -> NDArray[np.int16]:
    """Levels of 1000..6000 in a disc, as a probe measures them, (F, H, W)."""
    inside = np.random.default_rng(0).integers(1000, 6001, (frames, SIDE_PX, SIDE_PX))
    return np.where(disc(), inside, outside).astype(np.int16)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize(("low", "high"), [(1000, 6000), (0, 1), (7, 7), (-400, 8191)])
def test_levels_are_spread_linearly_and_rounded_to_nearest(kind: Any, low: int, high: int) -> None:
    levels = np.arange(np.iinfo(kind).min, np.iinfo(kind).max + 1, 7, dtype=np.int64)
    span = max(1, high - low)
    exact = [Fraction(min(max(int(level) - low, 0), span) * 255, span) for level in levels]
    expected = [int(share + Fraction(1, 2)) for share in exact]
    assert Window(low, high).apply(levels.astype(kind)).tolist() == expected


@pytest.mark.parametrize("outside", [-400, 0, 300])
def test_the_window_is_taken_inside_the_field_of_view(tmp_path: Path, outside: int) -> None:
    clip = clips.open_clip(clip_files.mkt(tmp_path / "clip.mkt", measured(outside=outside)))
    assert clip.window is not None
    inside = measured()[:, disc()]
    low, high = np.percentile(inside, [0.5, 99.5])
    assert abs(clip.window.low - low) <= 10
    assert abs(clip.window.high - high) <= 10


def test_the_rule_decides_the_window(tmp_path: Path) -> None:
    path = clip_files.mkt(tmp_path / "clip.mkt", measured())
    narrow = clips.open_clip(path, rule=Rule(low=25, high=75)).window
    assert narrow is not None
    assert 2150 < narrow.low < 2350
    assert 4650 < narrow.high < 4850


def test_pictures_to_look_at_are_left_alone(tmp_path: Path) -> None:
    pictures = clip_files.pictures()
    tifffile.imwrite(tmp_path / "clip.tif", pictures)
    clip = clips.open_clip(tmp_path / "clip.tif")
    assert clip.window is None
    assert all(np.array_equal(frame.luma_HW, picture) for frame, picture in zip(clip.frames(), pictures, strict=True))


def test_one_recording_in_three_formats_gives_one_window_and_the_same_grey_levels(tmp_path: Path) -> None:
    levels_FHW = measured()
    tifffile.imwrite(tmp_path / "clip.tif", levels_FHW, compression="zlib")
    tags = {"BitsAllocated": 16, "BitsStored": 16, "PixelRepresentation": 1}
    native = levels_FHW.astype("<i2").tobytes()
    paths = [
        tmp_path / "clip.tif",
        clip_files.mkt(tmp_path / "clip.mkt", levels_FHW),
        clip_files.dicom(tmp_path / "clip.dcm", native, frames=8, size_px=(SIDE_PX, SIDE_PX), **tags),
    ]
    opened = [clips.open_clip(path) for path in paths]
    assert len({clip.window for clip in opened}) == 1
    assert len({b"".join(frame.luma_HW.tobytes() for frame in clip.frames()) for clip in opened}) == 1


@pytest.mark.parametrize("frames", [1, 31, 32, 33, 64, 65, 500])
def test_the_sample_is_bounded_and_spread_over_the_whole_clip(frames: int) -> None:
    levels = [np.full((2, 2), index, np.uint16) for index in range(frames)]
    stream = (RawFrame(index=index, pts_seconds=0.0, levels_HW=level) for index, level in enumerate(levels))
    indices = [int(level[0, 0]) for level in window._sample(stream)]
    step = 1 if frames <= 32 else 2 ** int(np.ceil(np.log2(frames / 32)))
    assert indices == list(range(0, frames, step))
    assert len(indices) <= 32


def test_real_measurements_use_the_whole_range(tmp_path: Path) -> None:
    clip = clips.open_clip(clip_files.dicom_data("emri_small.dcm"))
    grey = np.stack([frame.luma_HW for frame in clip.frames()])
    assert clip.window is not None
    assert grey.min() == 0
    assert grey.max() == 255


def test_prediction_prepares_frames_in_a_child_as_extraction_does_here(tmp_path: Path) -> None:
    shipped = parameters.load(Path(__file__).parents[2] / "params.yaml").extract
    params = shipped.model_copy(update={"side_px": 64, "window_low": 5.0, "window_high": 95.0})
    path = clip_files.mkt(tmp_path / "clip.mkt", measured())
    here = prepare(path, params, batch=5)
    images_NSS = np.concatenate([batch.images_NSS for batch in here.batches])
    said = run_isolated(spool, path, params.model_dump(), tmp_path / "images")
    assert np.array_equal(np.fromfile(tmp_path / "images", np.uint8).reshape(-1, 64, 64), images_NSS)
    assert said["view"] == here.view.stored(64)
    assert said["pts_seconds"] == pytest.approx([index / 9 for index in range(8)])
