"""A clip prepared as it is stored and as models see it: field of view, small grey pictures, figures, verdicts.

Extraction, prediction and scoring share this one code. N frames, S pixels a side, H W source pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.params import ExtractParams
from pipelines.video import clips, fov, quality
from pipelines.video.frame import Frame
from pipelines.video.quality import Quality
from pipelines.video.window import Window

SPOOLED = 32  # frames in memory at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """N neighbouring frames of one clip."""

    frame_index: list[int]
    pts_seconds: list[float]
    images_NSS: NDArray[np.uint8]
    figures: list[Quality]
    reasons: list[str | None]  # of schemas.REASONS, None when kept

    def __len__(self) -> int:
        return len(self.frame_index)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A clip whose frames come once."""

    window: Window | None  # of 16-bit levels
    view: fov.FieldOfView
    batches: Iterator[Batch]


def prepare(path: Path, params: ExtractParams, *, batch: int) -> Prepared:
    """Decode once: what decides the field of view stays in memory until it is stored, and one batch beside it."""
    clip = clips.open_clip(path, rule=clips.Rule(low=params.window_low, high=params.window_high))
    frames = clip.frames()
    first = fov.look_at(frames)
    view = fov.of_frames(first)
    return Prepared(window=clip.window, view=view, batches=_batches(chain(_let_go(first), frames), view, params, batch))


def spool(source: str, params: dict[str, Any], images: str) -> dict[str, Any]:
    """For a child process: all pictures go into the file ``images``, (N, S, S) uint8; the rest is the answer."""
    extract = ExtractParams.model_validate(params)
    clip = prepare(Path(source), extract, batch=SPOOLED)
    answer: dict[str, Any] = {"frame_index": [], "pts_seconds": [], "keep": []}
    with Path(images).open("xb") as file:
        for batch in clip.batches:
            file.write(batch.images_NSS.tobytes())
            answer["frame_index"] += batch.frame_index
            answer["pts_seconds"] += batch.pts_seconds
            answer["keep"] += [reason is None for reason in batch.reasons]
    return answer | {"view": clip.view.stored(extract.side_px)}


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """``itertools.batched`` of Python 3.12, as lists."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _batches(frames: Iterable[Frame], view: fov.FieldOfView, params: ExtractParams, batch: int) -> Iterator[Batch]:
    gauge = quality.Gauge(view.inside(params.side_px), params)
    small = ((frame, fov.resample(frame.luma_HW, view, params.side_px)) for frame in frames)
    stored = ((frame.index, frame.pts_seconds, image_SS) for frame, image_SS in small)
    for some in batched(stored, batch):
        index, pts_seconds, images = zip(*some, strict=True)
        figures = [gauge.measure(image_SS) for image_SS in images]
        yield Batch(
            frame_index=list(index),
            pts_seconds=list(pts_seconds),
            images_NSS=np.stack(images),
            figures=figures,
            reasons=[quality.judge(figure, params) for figure in figures],
        )


def _let_go(frames: list[Frame]) -> Iterator[Frame]:
    """Each frame in turn, forgotten as soon as the next one is asked for."""
    frames.reverse()
    while frames:
        yield frames.pop()
