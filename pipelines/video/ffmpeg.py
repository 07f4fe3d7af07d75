"""Video files through FFmpeg's decoders (PyAV): any container and codec it reads.

Grey comes straight from the decoder's luma plane. One decoding thread: the bytes of a frame must not
depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from av.codec.context import Flags
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipelines.video.caps import Caps
from pipelines.video.container import is_cut_short, says_no_rate
from pipelines.video.faults import fault
from pipelines.video.frame import RawFrame

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mxf,ogg,mpeg,mpegts,mpegvideo,m4v,h264,hevc,yuv4mpegpipe"
)
"""Formats that hold their own frames. Playlists and concat scripts would make FFmpeg open other files."""

CODEC_OPTIONS = {
    "idct": "simple",  # the faster ones may differ between processors
    "err_detect": "crccheck+bitstream+buffer+explode",  # else decoders hide damage under pixels they made up
}

FULL_RANGE = 2  # AVCOL_RANGE_JPEG; anything else, unspecified too, is taken for limited range


def recognises(path: Path) -> bool:
    """Tries whatever is left: it knows hundreds of formats by their content itself."""
    return True


def identity() -> str:
    """Decoder versions that can change a frame's bytes."""
    codec = ".".join(str(part) for part in av.library_versions["libavcodec"])
    return f"pyav-{av.__version__}+libavcodec-{codec}"


def read(path: Path, caps: Caps) -> Iterator[RawFrame]:
    """Every frame in presentation order, one in memory at a time."""
    if is_cut_short(path):
        raise fault("truncated", "The file ends before its boxes do.")
    if says_no_rate(path):
        raise fault("impossible_rate", "The header does not say how many frames a second there are.")
    yield from read_stream(f"file:{path}", caps)


def read_stream(source: str | RawIOBase, caps: Caps) -> Iterator[RawFrame]:
    """The same of anything FFmpeg opens: a ``file:`` address or an open file."""
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        with av.open(source, options=options) as container:
            yield from _decode(container, caps)
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        raise fault("unreadable", f"The video cannot be decoded ({error.strerror}).") from None


def _decode(container: av.container.InputContainer, caps: Caps) -> Iterator[RawFrame]:
    if not container.streams.video:
        code = "audio_only" if container.streams.audio else "no_video_stream"
        raise fault(code, "The file has no video stream.")
    stream = container.streams.video[0]
    if stream.width:
        caps.require_pixels(stream.width, stream.height)
    stream.thread_type, stream.thread_count = "NONE", 1
    stream.codec_context.flags |= Flags.bitexact
    stream.codec_context.options = CODEC_OPTIONS
    count, hidden, seconds, step = 0, 0, 0.0, float(1 / (stream.average_rate or 1))
    with _listening() as said:
        for packet in container.demux(stream):  # the last one is empty: it makes the decoder hand out what it holds
            hidden += packet.is_discard  # kept by a cut without re-encoding, decoded and not shown
            for decoded in packet.decode():
                if decoded.is_corrupt or any("CRC mismatch" in message for _, _, message in said):
                    raise fault("damaged", f"Frame {count} is damaged: the decoder filled in what it could not read.")
                seconds = _seconds(decoded, seconds + step if count else 0.0)
                yield RawFrame(index=count, pts_seconds=seconds, levels_HW=levels(decoded))
                count += 1
    if stream.frames > count + hidden:
        raise fault("truncated", f"The video promises {stream.frames} frames and holds {count}.")


@contextmanager
def _listening() -> Iterator[list[tuple[int, str, str]]]:
    """What the decoder says while it works: FFV1 reports a broken slice in no other way. One thread decodes."""
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=True) as said:
            yield said
    finally:
        av.logging.set_level(None)


def levels(decoded: VideoFrame) -> NDArray[Any]:
    """Grey levels (H, W): 0..255, or 16 bits where the codec holds grey measurements of more than 8."""
    if decoded.format.name.startswith("gray") and decoded.format.components[0].bits > 8:
        return np.asarray(decoded.to_ndarray()).astype(np.uint16, copy=False)
    return luma(decoded)


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
    return _full_range(grey)


def _full_range(limited_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """16..235 to 0..255, rounded to nearest: (255 (v - 16) + 109) // 219 in 16 bits, faster than any table."""
    levels_HW = np.clip(limited_HW, 16, 235).astype(np.uint16)
    levels_HW *= 255
    levels_HW -= 255 * 16 - 109
    levels_HW //= 219
    return levels_HW.astype(np.uint8)


def _seconds(decoded: VideoFrame, counted: float) -> float:
    """The frame's own time; one without is counted from the frame before at the stream's rate."""
    if decoded.pts is not None and decoded.time_base is not None:
        return float(decoded.pts * decoded.time_base)
    return counted
