"""Multi-page TIFF, BigTIFF, OME-TIFF and ImageJ stacks, grey or colour, 8 or 16 bits.

The rate is the one that OME (``TimeIncrement``) or ImageJ (``finterval``, ``fps``) wrote; a stack without one
is counted at a frame a second.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from pipelines.errors import LclscError
from pipelines.video.caps import Caps
from pipelines.video.container import tiff_is_cut_short
from pipelines.video.faults import fault
from pipelines.video.frame import RawFrame
from pipelines.video.grey import levels_of, luma_of_rgb
from pipelines.video.rates import UNKNOWN_HZ, positive

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SECONDS = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
logging.getLogger("tifffile").disabled = True  # it quotes what it reads


def recognises(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def identity() -> str:
    return f"tifffile-{tifffile.__version__}+imagecodecs-{imagecodecs.__version__}"


def read(path: Path, caps: Caps) -> Iterator[RawFrame]:
    """Every page, one in memory at a time."""
    if tiff_is_cut_short(path):
        raise fault("truncated", "The file ends before its pages do.")
    try:
        # Other files that OME metadata names are never opened.
        with tifffile.TiffFile(path, _multifile=False) as stack:
            rate_hz = _rate(stack)
            found = 0
            for levels_HW in _pages(stack, path, caps):
                yield RawFrame(index=found, pts_seconds=found / rate_hz, levels_HW=levels_HW)
                found += 1
            if found < positive((stack.imagej_metadata or {}).get("images")):
                raise fault("truncated", "The stack holds fewer pages than it promises.")
    except (LclscError, MemoryError):
        raise
    except Exception:  # tifffile and imagecodecs raise whatever broken pages provoke
        raise fault("unreadable", "The file is no TIFF stack that can be decoded.") from None


def levels(page: Any, caps: Caps) -> NDArray[Any]:
    """Grey levels (H, W) of one page."""
    caps.require_pixels(page.keyframe.imagewidth, page.keyframe.imagelength)
    picture = page.asarray()
    if page.axes == "SYX":  # colours plane by plane
        picture = np.moveaxis(picture, 0, -1)
    photometric = page.keyframe.photometric
    if photometric == tifffile.PHOTOMETRIC.PALETTE:
        return (luma_of_rgb(np.moveaxis(page.keyframe.colormap[:, picture], 0, -1)) >> 8).astype(np.uint8)
    grey_HW = levels_of(picture)
    return ~grey_HW if photometric == tifffile.PHOTOMETRIC.MINISWHITE else grey_HW


def _pages(stack: tifffile.TiffFile, path: Path, caps: Caps) -> Iterator[NDArray[Any]]:
    """One picture a frame, whole or not at all."""
    if not stack.series:
        raise fault("no_frames", "The stack holds no page.")
    if len(stack.series) != 1:
        raise fault("size_changed", "The pages of the stack differ in size or kind.")
    series = stack.series[0]
    extent = dict(zip(series.axes, series.shape, strict=True))
    if extent.get("C", 1) > 1 or (extent.get("Z", 1) > 1 and extent.get("T", 1) > 1):
        raise fault("unsupported_pixels", "The stack has several channels or planes at each time.")
    size = path.stat().st_size
    if len(series.pages) == 1 and series.dataoffset is not None:
        yield from _behind_one_header(series, path, size, caps)
        return
    caps.require_frames(len(series.pages))
    for page in series.pages:
        if page is None or any(map(size.__lt__, map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))):
            raise fault("truncated", "The file ends before its pages do.")
        yield levels(page, caps)


def _behind_one_header(series: Any, path: Path, size: int, caps: Caps) -> Iterator[NDArray[Any]]:
    """ImageJ writes stacks over 4 GiB as one page that all others follow without headers."""
    page = series.pages[0]
    caps.require_pixels(page.imagewidth, page.imagelength)
    count = series.size // page.size
    caps.require_frames(count)
    if series.dataoffset + count * page.nbytes > size:
        raise fault("truncated", "The file ends before its pages do.")
    dtype = series.dtype.newbyteorder(page.parent.byteorder)
    for index in range(count):
        picture = np.fromfile(path, dtype, page.size, offset=series.dataoffset + index * page.nbytes)
        yield levels_of(picture.reshape(page.shape))


def _rate(stack: tifffile.TiffFile) -> float:
    """Frames per second as OME or ImageJ wrote them."""
    if stack.is_ome:
        found = dict(re.findall(r'(TimeIncrement|TimeIncrementUnit)="([^"<>&]{1,20})"', stack.ome_metadata or ""))
        seconds = positive(found.get("TimeIncrement")) * SECONDS.get(found.get("TimeIncrementUnit", "s"), 0.0)
    else:
        written = stack.imagej_metadata or {}
        rate_hz = positive(written.get("fps"))
        seconds = positive(written.get("finterval")) or (1 / rate_hz if rate_hz else 0.0)
    return 1 / seconds if seconds else UNKNOWN_HZ
