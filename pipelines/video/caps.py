"""How much a clip may ask for. Checked while it is read: what a header promises before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.video.faults import fault
from pipelines.video.frame import RawFrame

SLOWEST_HZ, FASTEST_HZ = 0.01, 1000.0
"""Time lapse to the fastest scanning heads; beyond it a clock is broken."""


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Of one clip; without limit unless said."""

    pixels: float = math.inf  # of one frame
    frames: float = math.inf
    minutes: float = math.inf
    bytes: float = math.inf  # of the file, or of a folder's files together

    def require_pixels(self, width_px: int, height_px: int) -> None:
        if width_px < 1 or height_px < 1:
            raise fault("unreadable", f"A frame is said to have {width_px}x{height_px} px.")
        if width_px * height_px > self.pixels:
            raise fault("over_pixels", f"A frame has {width_px}x{height_px} px; the limit is {self.pixels:.0f} px.")

    def require_frames(self, count: int) -> None:
        if count > self.frames:
            raise fault("over_frames", f"The video has {count} frames or more; the limit is {self.frames:.0f}.")

    def require_minutes(self, minutes: float) -> None:
        if minutes > self.minutes:
            raise fault("over_minutes", f"The video is longer than {self.minutes:g} minutes.")

    def require_bytes(self, path: Path) -> None:
        files = path.iterdir() if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
        if size > self.bytes:
            raise fault("over_bytes", f"The video has {size} bytes; the limit is {self.bytes:.0f}.")


NO_CAPS = Caps()


def within(caps: Caps, frames: Iterable[RawFrame]) -> Iterator[RawFrame]:
    """The same frames, as long as they are one size, run forward in time and stay below the caps."""
    size, first, last = (0, 0), 0.0, 0.0
    count = 0
    for frame in frames:
        height_px, width_px = frame.levels_HW.shape
        if count == 0:
            size, first, last = (height_px, width_px), frame.pts_seconds, frame.pts_seconds
            caps.require_pixels(width_px, height_px)
        elif size != (height_px, width_px):
            raise fault("size_changed", "The picture size changes within the video.")
        if not frame.pts_seconds >= last:  # catches what is no number, too
            raise fault("impossible_rate", "The times of the frames run backwards.")
        last = frame.pts_seconds
        count += 1
        caps.require_frames(count)
        caps.require_minutes((last - first) / 60)
        yield frame
    if count == 0:
        raise fault("no_frames", "The video holds no frame that decodes.")
    if count > 1:
        _require_rate(count - 1, last - first)


def _require_rate(intervals: int, seconds: float) -> None:
    if not SLOWEST_HZ * seconds <= intervals <= FASTEST_HZ * seconds:
        raise fault("impossible_rate", f"{intervals + 1} frames in {seconds:g} s is no rate of a camera.")
