"""Video in, grey frames out. One file a format; which one reads a file is decided by its content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from pipelines.files import sha256_file
from pipelines.video import dicom, ffmpeg, frame_folder, mkt, tiff, window
from pipelines.video.caps import NO_CAPS, Caps, within
from pipelines.video.frame import Frame, RawFrame
from pipelines.video.window import Rule, Window

__all__ = [
    "Caps",
    "Clip",
    "Frame",
    "Rule",
    "Window",
    "content_id",
    "decoder_identity",
    "every_decoder",
    "open_clip",
    "read_frames",
    "sniff",
]

FORMATS = {"frame_folder": frame_folder, "dicom": dicom, "tiff": tiff, "mkt": mkt, "ffmpeg": ffmpeg}
"""Asked in this order; each has ``recognises(path)``, ``read(path, caps)`` and ``identity()``."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip that is known to start with a frame; every pass over it decodes it anew."""

    path: Path
    caps: Caps
    window: Window | None
    """Of 16-bit levels; None where the file holds pictures to look at."""

    def frames(self) -> Iterator[Frame]:
        """Every frame in presentation order, one in memory at a time. VideoError for what is wrong."""
        for frame in _raw_frames(self.path, self.caps):
            luma_HW = frame.levels_HW if self.window is None else self.window.apply(frame.levels_HW)
            yield Frame(index=frame.index, pts_seconds=frame.pts_seconds, luma_HW=luma_HW)


def open_clip(path: Path, *, caps: Caps = NO_CAPS, rule: Rule = window.STANDARD) -> Clip:
    """Look at the first frame; where it holds measurements of 16 bits, find their window."""
    caps.require_bytes(path)
    first = next(_raw_frames(path, caps))
    found = window.of_frames(_raw_frames(path, caps), rule) if first.levels_HW.dtype.itemsize > 1 else None
    return Clip(path=path, caps=caps, window=found)


def read_frames(path: Path, *, caps: Caps = NO_CAPS, rule: Rule = window.STANDARD) -> Iterator[Frame]:
    """Every frame of a clip, in presentation order."""
    yield from open_clip(path, caps=caps, rule=rule).frames()


def content_id(path: Path) -> str:
    """SHA-256 of what is decoded: a file's bytes, or a folder's frames in order with their rate."""
    return frame_folder.video_id(path) if path.is_dir() else sha256_file(path)


def sniff(path: Path) -> str:
    """The format of a file or folder by its content, one of ``FORMATS``; FFmpeg tries what nobody knows."""
    return next(name for name, reader in FORMATS.items() if reader.recognises(path))


def decoder_identity(path: Path) -> str:
    """Joins the recipe of a clip's shard: other decoders of its format may give other bytes."""
    return cast(str, _reader(path).identity())


def every_decoder() -> str:
    """What this installation reads clips with."""
    return "+".join(reader.identity() for reader in FORMATS.values())


def _reader(path: Path) -> ModuleType:
    return FORMATS[sniff(path)]


def _raw_frames(path: Path, caps: Caps) -> Iterator[RawFrame]:
    yield from within(caps, _reader(path).read(path, caps))
