"""Video in, grey frames out. One file a format; which one reads a file is decided by its content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pipelines.video import ffmpeg
from pipelines.video.frame import Frame

__all__ = ["Frame", "decoder_identity", "read_frames"]


class Reader(Protocol):
    """Yields every frame in order, holding one at a time; VideoError for what is wrong with the bytes."""

    def __call__(self, path: Path) -> Iterator[Frame]: ...


def read_frames(path: Path) -> Iterator[Frame]:
    """Every frame of a clip, in presentation order."""
    return reader_of(path)(path)


def reader_of(path: Path) -> Reader:
    """FFmpeg reads every container for now; DICOM, TIFF, .mkt and folders join here."""
    return ffmpeg.read


def decoder_identity() -> str:
    """Joins the recipe of a shard: other decoders may give other bytes."""
    return ffmpeg.identity()
