"""A phantom on disk: H.264 MP4 and a 1-bit TIFF stack, whole or absent, the same bytes every time.

Nothing here writes a clock, a host or a version; x264 is held to one thread and to code that does not
depend on the processor. Another build of FFmpeg or zlib may write other bytes for the same pixels.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from pipelines.files import atomic_path

CRF = 18  # visually lossless: the honeycomb and the noise survive
NO_COLOUR = 128
LIMITED_LOW, LIMITED_SPAN = 16.0, 219.0  # ITU-R BT.601/709: grey 0..255 becomes luma 16..235

_X264 = {
    "crf": str(CRF),
    "preset": "fast",
    "x264-params": "threads=1:lookahead-threads=1:sliced-threads=0:cpu-independent=1:bframes=0"
    ":colormatrix=bt709:range=tv",  # the range is written only beside a matrix; grey has no use for either
}


def write_video(path: Path, frames_FHW: NDArray[np.uint8], *, fps: int) -> None:
    """Encode full-range grey frames (even height and width) as limited-range yuv420p."""
    frames, height_px, width_px = frames_FHW.shape
    if height_px % 2 or width_px % 2 or not frames:
        raise ValueError(
            f"H.264 in yuv420p needs frames with even sides, got {frames} of {height_px} x {width_px}. "
            "Use at least one frame and an even size_px."
        )
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("libx264", rate=fps, options=_X264)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        context = stream.codec_context
        context.color_range = ColorRange.MPEG
        context.thread_count = 1
        context.flags |= Flags.bitexact
        for index, frame_HW in enumerate(frames_FHW):
            container.mux(stream.encode(_video_frame(frame_HW, index, fps)))
        container.mux(stream.encode(None))


def _video_frame(frame_HW: NDArray[np.uint8], index: int, fps: int) -> av.VideoFrame:
    height_px, width_px = frame_HW.shape
    planes = np.full((height_px * 3 // 2, width_px), NO_COLOUR, np.uint8)
    planes[:height_px] = np.rint(LIMITED_LOW + frame_HW * (LIMITED_SPAN / 255.0)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.color_range = ColorRange.MPEG
    frame.pts, frame.time_base = index, Fraction(1, fps)
    return frame
