"""Cellvizio ``.mkt`` recordings: grey 16-bit frames between a short header and a text trailer.

header    16 bytes: frames/s (float32) and bytes a frame (int32), big-endian
frames    int16 little-endian, row by row, 32 bytes of something else after each
trailer   key=value lines from the last ``allowed_egain_eoffset_pairs=`` to ``<CEND``: width, height,
          framerate, and the patient, which is never looked at
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipelines.video.caps import Caps
from pipelines.video.faults import fault
from pipelines.video.frame import RawFrame

HEADER_BYTES, GAP_BYTES = 16, 32
FIELD_OFFSETS = ((5, 10), (4, 9))  # of rate and frame size: descriptions of the header count from 0 or from 1
TRAILER_STARTS, TRAILER_ENDS = b"allowed_egain_eoffset_pairs=", b"<CEND"
TRAILER_BYTES = 1 << 20
KNOWN_SIZES_PX = ((464, 336), (384, 274), (576, 576), (512, 512))
"""Width and height that these recorders write, for files whose trailer is gone."""

LARGEST_FRAME_BYTES = 1 << 27
TEXT = bytes(range(32, 127)) + b"\t\r\n"
BROKEN = {
    "truncated": "The recording ends within a frame.",
    "damaged": "The frames before the trailer do not end where a frame ends: bytes were lost or added among them.",
}
NUMBER = rb"[0-9]{1,6}(?:\.[0-9]{1,9})?"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the frames lie and how they look."""

    width_px: int
    height_px: int
    frames: int
    rate_hz: float
    broken: str  # code of what is wrong with the whole, empty where every byte has its place

    @property
    def frame_bytes(self) -> int:
        return 2 * self.width_px * self.height_px


def identity() -> str:
    return "mkt-1"


def recognises(path: Path) -> bool:
    """No magic bytes: a header that makes sense, and a trailer or a known size that fits it."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return _layout(file) is not None


def read(path: Path, caps: Caps) -> Iterator[RawFrame]:
    """Every frame, one in memory at a time, timed by the rate of the header."""
    with path.open("rb") as file:
        layout = _layout(file)
        if layout is None:
            raise fault("no_geometry", "The recording does not say how wide and high its frames are.")
        caps.require_pixels(layout.width_px, layout.height_px)
        caps.require_frames(layout.frames)
        for index in range(layout.frames):
            file.seek(HEADER_BYTES + index * (layout.frame_bytes + GAP_BYTES))
            levels = np.frombuffer(file.read(layout.frame_bytes), dtype="<i2")
            levels_HW = levels.reshape(layout.height_px, layout.width_px).astype(np.int16)
            yield RawFrame(index=index, pts_seconds=index / layout.rate_hz, levels_HW=levels_HW)
        if layout.broken:
            raise fault(layout.broken, BROKEN[layout.broken])


def _layout(file: BinaryIO) -> Layout | None:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    fields = [(_number(">f", header, rate_at), _number(">i", header, bytes_at)) for rate_at, bytes_at in FIELD_OFFSETS]
    fields = [(rate_hz, length) for rate_hz, length in fields if 0 < length <= LARGEST_FRAME_BYTES]
    frames_end, numbers = _trailer(file, size) if fields else (0, {})
    for header_hz, frame_bytes in fields:
        size_px = _size_px(frame_bytes, numbers)
        rate_hz = next(filter(_is_rate, (header_hz, numbers.get("framerate", 0.0))), None)
        if size_px and rate_hz:
            return _laid_out(file, size_px, rate_hz, frames_end, has_trailer=bool(numbers))
    return None


def _number(form: str, header: bytes, offset: int) -> float:
    return float(struct.unpack_from(form, header, offset)[0])


def _laid_out(
    file: BinaryIO, size_px: tuple[int, int], rate_hz: float, frames_end: int, *, has_trailer: bool
) -> Layout:
    stride = 2 * size_px[0] * size_px[1] + GAP_BYTES
    frames, rest = divmod(frames_end - HEADER_BYTES, stride)
    if rest == stride - GAP_BYTES:  # the last gap may be left out
        frames, rest = frames + 1, 0
    if has_trailer:
        broken = "" if _is_text(file, frames_end - rest, rest) else "damaged"
    else:
        broken = "" if rest < GAP_BYTES else "truncated"
    return Layout(
        width_px=size_px[0],
        height_px=size_px[1],
        frames=frames,
        rate_hz=rate_hz,
        broken=broken,
    )


def _is_text(file: BinaryIO, start: int, length: int) -> bool:
    """Lines of a trailer may come before the one that it is found by; half a frame is no text."""
    file.seek(start)
    return length <= TRAILER_BYTES and not file.read(length).translate(None, TEXT)


def _size_px(frame_bytes: float, numbers: dict[str, float]) -> tuple[int, int] | None:
    """The trailer's width and height if they fit the frame size, else a known size that does."""
    stated = (int(numbers.get("width", 0)), int(numbers.get("height", 0)))
    fitting = (size for size in (stated, *KNOWN_SIZES_PX) if 2 * size[0] * size[1] == frame_bytes > 0)
    return next(fitting, None)


def _is_rate(rate_hz: float) -> bool:
    return 0.1 <= rate_hz <= 1000


def _trailer(file: BinaryIO, size: int) -> tuple[int, dict[str, float]]:
    """Where the frames end, and the three numbers that are read; nothing else of the text leaves here."""
    start = max(0, size - TRAILER_BYTES)
    file.seek(start)
    tail = file.read(TRAILER_BYTES)
    begins = tail.rfind(TRAILER_STARTS)
    if begins < 0:
        return size, {}
    text = tail[begins:].split(TRAILER_ENDS)[0]
    numbers = {}
    for name in ("width", "height", "framerate"):
        found = re.search(rb"^%b *= *(%b)\s*$" % (name.encode(), NUMBER), text, re.MULTILINE)
        if found:
            numbers[name] = float(found[1])
    return start + begins, numbers
