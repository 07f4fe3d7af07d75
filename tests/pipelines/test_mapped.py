"""Mapped frames: what a batch gets is what the shards hold, and what travels is a path."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from pipelines import mapped
from pipelines.frames import Frames


def clip(rng: np.random.Generator, frames: int) -> Frames:
    inside_SS = rng.random((16, 16)) < 0.8
    return Frames(
        frame_index_N=np.arange(frames, dtype=np.int32),
        images_NSS=rng.integers(0, 256, (frames, 16, 16)).astype(np.uint8),
        fov_NSS=np.repeat(inside_SS[None], frames, axis=0),
        keep_N=np.ones(frames, bool),
    )


def test_any_batch_is_that_of_the_frames_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [clip(rng, frames) for frames in (5, 1, 9)]
    pictures, views = mapped.write(tmp_path / "frames", clips)
    images_NSS = np.concatenate([own.images_NSS for own in clips])
    fov_NSS = np.concatenate([own.fov_NSS for own in clips])
    assert len(pictures) == len(views) == 15
    for wanted in (rng.integers(0, 15, 8), np.arange(15), slice(None)):
        assert np.array_equal(pictures[wanted], images_NSS[wanted])
        assert np.array_equal(views[wanted], fov_NSS[wanted])


def test_other_processes_are_sent_the_path_and_no_pixels(tmp_path: Path) -> None:
    pictures, views = mapped.write(tmp_path / "frames", [clip(np.random.default_rng(1), 400)])
    assert len(pictures[:]) == 400  # mapped here already
    sent = pickle.dumps((pictures, views))
    assert len(sent) < 6000
    assert np.array_equal(pickle.loads(sent)[0][[3, 1]], pictures[[3, 1]])


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> object:
        yield clip(np.random.default_rng(2), 3)
        raise KeyboardInterrupt

    try:
        mapped.write(tmp_path / "frames", fails())  # type: ignore[arg-type]
    except KeyboardInterrupt:
        assert list(tmp_path.iterdir()) == []
    else:
        raise AssertionError("the error was lost")
