"""Colour frames into an MP4: H.264, yuv420p, the same bytes every time on one machine.

Nothing here writes a clock, a host, a path or a title; x264 is held to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from pipelines.files import atomic_path

TICKS_PER_SECOND = 90_000
CRF = 20  # lettering stays crisp
USUAL_RATE = Fraction(25)  # of a clip of one frame, which has none
_X264 = {
    "crf": str(CRF),
    "preset": "fast",
    "x264-params": "threads=1:lookahead-threads=1:sliced-threads=0:cpu-independent=1:bframes=0"
    ":colormatrix=bt709:range=tv",
}


def write_colour(path: Path, frames_HW3: Iterable[NDArray[np.uint8]], pts_seconds: Sequence[float]) -> None:
    """Each frame (even height and width) at its own time, as in the clip it was made from; whole or absent."""
    ticks = _ticks(pts_seconds)
    with (
        atomic_path(path) as temporary,
        av.open(
            str(temporary), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}
        ) as container,
    ):
        stream = container.add_stream("libx264", rate=_rate(ticks), options=_X264)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS_PER_SECOND)
        context.color_range = ColorRange.MPEG
        context.thread_count = 1
        context.flags |= Flags.bitexact
        for number, (frame_HW3, tick) in enumerate(zip(frames_HW3, ticks, strict=True)):
            if not number:
                stream.height, stream.width = frame_HW3.shape[:2]
            container.mux(stream.encode(_encodable(frame_HW3, tick)))
        container.mux(stream.encode(None))


def _encodable(frame_HW3: NDArray[np.uint8], tick: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(frame_HW3, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.AREA,
    )
    frame.pts, frame.time_base = tick, Fraction(1, TICKS_PER_SECOND)
    return frame


def _ticks(pts_seconds: Sequence[float]) -> list[int]:
    """From 0 on, each later than the one before: a player wants them so."""
    ticks: list[int] = []
    for seconds in pts_seconds:
        tick = round((seconds - pts_seconds[0]) * TICKS_PER_SECOND)
        ticks.append(max(tick, ticks[-1] + 1) if ticks else tick)
    return ticks


def _rate(ticks: Sequence[int]) -> Fraction:
    """Frames a second by the usual distance; what the file says of itself, its frames have their own times."""
    if len(ticks) < 2:
        return USUAL_RATE
    return Fraction(TICKS_PER_SECOND, int(np.median(np.diff(ticks)))).limit_denominator(1001)
