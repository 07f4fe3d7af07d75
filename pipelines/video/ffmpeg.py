"""Video files through FFmpeg's decoders (PyAV): any container and codec it reads.

Grey comes straight from the decoder's luma plane. One decoding thread: the bytes of a frame must not
depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipelines.errors import VideoError
from pipelines.video.container import is_cut_short
from pipelines.video.frame import Frame

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,yuv4mpegpipe"
"""Formats that hold their own frames. Playlists and concat scripts would make FFmpeg open other files."""

FULL_RANGE = 2  # AVCOL_RANGE_JPEG; anything else, unspecified too, is taken for limited range

_LIMITED_TO_FULL = np.array(
    [min(255, max(0, ((level - 16) * 255 + 109) // 219)) for level in range(256)], dtype=np.uint8
)
"""16..235 to 0..255, rounded to nearest, in integers."""


def identity() -> str:
    """Decoder versions that can change a frame's bytes."""
    codec = ".".join(str(part) for part in av.library_versions["libavcodec"])
    return f"pyav-{av.__version__}+libavcodec-{codec}"


def read(path: Path) -> Iterator[Frame]:
    """Every frame in presentation order, one in memory at a time. VideoError says what is wrong with the bytes."""
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        if is_cut_short(path):
            raise VideoError("truncated", "The file ends before its boxes do.", "Copy or export it again.")
        with av.open(f"file:{path}", options=options) as container:
            yield from _decode(container)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(
            "unreadable",
            f"The video cannot be decoded ({error.strerror}).",
            "Export it again, or convert it to MP4.",
        ) from None


def _decode(container: av.container.InputContainer) -> Iterator[Frame]:
    if not container.streams.video:
        raise VideoError("no_video_stream", "The file has no video stream.", "Send the file with the pictures.")
    stream = container.streams.video[0]
    stream.thread_type, stream.thread_count = "NONE", 1
    stream.codec_context.flags |= Flags.bitexact
    stream.codec_context.options = {"idct": "simple"}  # the faster ones may differ between processors
    size, count = None, 0
    for decoded in container.decode(stream):
        if size not in (None, (decoded.width, decoded.height)):
            raise VideoError("size_changed", "The picture size changes within the video.", "Export it at one size.")
        size = (decoded.width, decoded.height)
        yield Frame(index=count, pts_seconds=_seconds(decoded, count, stream), luma_HW=luma(decoded))
        count += 1
    if not count:
        raise VideoError("no_frames", "The video holds no frame that decodes.", "Export it again.")
    if stream.frames > count:
        raise VideoError(
            "truncated",
            f"The video promises {stream.frames} frames and holds {count}.",
            "Copy or export it again.",
        )


def luma(decoded: VideoFrame) -> NDArray[np.uint8]:
    """Grey levels 0..255, (H, W): the luma plane as decoded, or a grey conversion where there is none."""
    name = decoded.format.name
    if not (name.startswith(("yuv", "nv", "gray")) and decoded.format.components[0].bits == 8 and name != "yuyv422"):
        return np.asarray(decoded.reformat(format="gray").to_ndarray(), dtype=np.uint8)
    plane = decoded.planes[0]
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
    grey: NDArray[np.uint8] = rows[: decoded.height, : decoded.width]
    if decoded.color_range == FULL_RANGE or name.startswith(("yuvj", "gray")):
        return grey.copy()
    return np.take(_LIMITED_TO_FULL, grey)


def _seconds(decoded: VideoFrame, index: int, stream: av.video.stream.VideoStream) -> float:
    """The frame's own time; a stream without times is counted at its rate."""
    if decoded.pts is not None and decoded.time_base is not None:
        return float(decoded.pts * decoded.time_base)
    return float(index / (stream.average_rate or 1))
