"""DICOM: multi-frame pictures in any common coding, and encapsulated MPEG-2, H.264 and HEVC video.

pydicom finds the pixels and undoes native and run-length coding; imagecodecs undoes the JPEG family; what is
a video goes to FFmpeg. Of the header only geometry, coding and rate are read. A clip without a rate is
counted at a frame a second.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, parse_basic_offsets, parse_fragments
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import BaseTag

from pipelines.errors import LclscError
from pipelines.video import ffmpeg
from pipelines.video.caps import Caps
from pipelines.video.faults import fault
from pipelines.video.frame import RawFrame
from pipelines.video.grey import levels_of, luma_of_rgb
from pipelines.video.rates import UNKNOWN_HZ, positive

PREAMBLE_BYTES = 128
NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
DEFLATED = {"1.2.840.10008.1.2.1.99"}
RUN_LENGTH = {"1.2.840.10008.1.2.5"}
JPEG = {f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 57, 70)}
JPEG_LS = {f"1.2.840.10008.1.2.4.{last}" for last in (80, 81)}
JPEG_2000 = {f"1.2.840.10008.1.2.4.{last}" for last in (90, 91, 201, 202, 203)}
VIDEO = {f"1.2.840.10008.1.2.4.{last}{form}" for last in range(100, 109) for form in ("", ".1")}  # .1: in fragments
"""Transfer syntaxes, PS3.5 section 10 and annex A."""

TIMING = ("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate")
SHAPE = ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration")
SAMPLES = ("BitsAllocated", "BitsStored", "PixelRepresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
PALETTE = tuple(
    form.format(colour)
    for colour in ("Red", "Green", "Blue")
    for form in (
        "{}PaletteColorLookupTableDescriptor",
        "{}PaletteColorLookupTableData",
        "Segmented{}PaletteColorLookupTableData",
    )
)
NEEDED = {BaseTag(tag_for_keyword(keyword) or 0) for keyword in (*TIMING, *SHAPE, *SAMPLES, *PALETTE)}
ANY_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
logging.getLogger("pydicom").disabled = True  # it quotes what it reads
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def recognises(path: Path) -> bool:
    """``DICM`` behind the preamble, or a file without one that starts with its group 2."""
    with path.open("rb") as file:
        head = file.read(PREAMBLE_BYTES + 4)
    return head[PREAMBLE_BYTES:] == b"DICM" or head[:6] == b"\x02\x00\x00\x00UL"


def identity() -> str:
    return f"pydicom-{pydicom.__version__}+imagecodecs-{imagecodecs.__version__}+{ffmpeg.identity()}"


def read(path: Path, caps: Caps) -> Iterator[RawFrame]:
    """Every frame, one in memory at a time."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = _header(file)
        syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
        if syntax in VIDEO:
            yield from ffmpeg.read_stream(_Fragments(file), caps)
            return
        count = int(positive(header.get("NumberOfFrames"))) or 1
        caps.require_frames(count)
        caps.require_pixels(int(positive(header.get("Columns"))), int(positive(header.get("Rows"))))
        times = _times(header, count)
        found = 0
        for levels_HW in _all_levels(path, file, header, syntax, count):
            yield RawFrame(index=found, pts_seconds=next(times), levels_HW=levels_HW)
            found += 1
        if found < count:
            raise fault("truncated", f"The file promises {count} frames and holds {found}.")


def _header(file: BinaryIO) -> Dataset:
    """What is needed and no more: names are not even parsed. The file is left where the pixels start."""
    try:
        header = read_partial(file, stop_when=lambda tag, _, __: tag in ANY_PIXELS, specific_tags=list(NEEDED))
    except Exception:  # pydicom raises whatever a broken header provokes
        raise fault("unreadable", "The DICOM header cannot be parsed.") from None
    if header.file_meta.get("TransferSyntaxUID") in DEFLATED:
        raise fault("unsupported_codec", "The DICOM file is deflated as a whole.")
    start = file.read(8)
    if len(start) < 8:
        raise fault("no_video_stream", "The DICOM file holds no pictures.")
    file.seek(4 if start[4:6].isalpha() else 0, os.SEEK_CUR)  # explicit headers are longer
    return header


def _all_levels(path: Path, file: BinaryIO, header: Dataset, syntax: str, count: int) -> Iterator[NDArray[Any]]:
    if syntax in NATIVE:
        _require_whole(file, header, count)
    elif syntax not in RUN_LENGTH | DECODERS.keys():
        raise fault("unsupported_codec", "The DICOM file is coded in a way that is not supported.")
    try:
        for picture in _pictures(path, file, header, syntax, count):
            yield _levels(picture, header, recoloured=syntax in JPEG_2000)
    except (LclscError, MemoryError):
        raise
    except Exception:  # pydicom and imagecodecs raise whatever broken pixels provoke
        raise fault("unreadable", "The pictures of the DICOM file cannot be decoded.") from None


def _require_whole(file: BinaryIO, header: Dataset, count: int) -> None:
    """Native pixels have a length that can be told."""
    samples = 2 if header.get("PhotometricInterpretation") == "YBR_FULL_422" else header.get("SamplesPerPixel", 1)
    bits = header.Rows * header.Columns * samples * header.get("BitsAllocated", 8) * count
    if os.fstat(file.fileno()).st_size < file.tell() + (bits + 7) // 8:
        raise fault("truncated", "The file ends before its frames do.")


def _pictures(path: Path, file: BinaryIO, header: Dataset, syntax: str, count: int) -> Iterator[NDArray[Any]]:
    """Decoded samples, (H, W) or (H, W, C), in the colours they are stored in."""
    if syntax not in DECODERS:
        yield from iter_pixels(path, raw=True)
        return
    offsets = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    coded = generate_frames(file, number_of_frames=count, extended_offsets=offsets if all(offsets) else None)
    for data in itertools.islice(coded, count):
        picture = DECODERS[syntax](data, header)
        if picture.shape[:2] != (header.Rows, header.Columns):
            raise fault("size_changed", "A frame has another size than the header says.")
        yield picture


def _jpeg(data: bytes, header: Dataset) -> NDArray[Any]:
    """Luma straight from the codec where the frame is in luma and chroma, as libjpeg tells by its markers."""
    before_scan = data[: data.find(b"\xff\xda")]
    marked = b"JFIF\0" in before_scan or b"Adobe" in before_scan
    if header.get("PhotometricInterpretation") == "RGB" and not marked:
        return imagecodecs.jpeg8_decode(data, colorspace="RGB", outcolorspace="RGB")
    if header.get("SamplesPerPixel") == 3 and header.file_meta.TransferSyntaxUID in LOSSY_JPEG:
        return imagecodecs.jpeg8_decode(data, outcolorspace="GRAYSCALE")
    return imagecodecs.jpeg8_decode(data)


def _levels(picture: NDArray[Any], header: Dataset, *, recoloured: bool) -> NDArray[Any]:
    """Grey (H, W) by the photometric interpretation."""
    kind = str(header.get("PhotometricInterpretation", ""))
    if kind == "PALETTE COLOR":
        return _palette(picture, header)
    if picture.ndim == 3 and kind.startswith("YBR") and not recoloured:
        picture = picture[..., 0]
    if header.get("BitsAllocated") == 1:
        picture = picture.astype(np.bool_)
    if header.get("PixelRepresentation") == 1:
        picture = _signed(picture, header.get("BitsStored", 16))
    elif header.get("BitsStored", 16) <= 8:
        picture = picture.astype(np.uint8) if picture.dtype == np.uint16 else picture
    grey_HW = levels_of(picture)
    return ~grey_HW if kind == "MONOCHROME1" else grey_HW


def _palette(picture: NDArray[Any], header: Dataset) -> NDArray[np.uint8]:
    """Through the three colour tables, whose 16-bit entries may hold 8 bits each."""
    entries = np.arange(header.RedPaletteColorLookupTableDescriptor[0] or 1 << 16, dtype=np.uint16)
    shift = 8 if apply_color_lut(entries[None], header).max() > 255 else 0
    return (luma_of_rgb(apply_color_lut(picture, header)) >> shift).astype(np.uint8)


def _signed(picture: NDArray[Any], bits_stored: int) -> NDArray[Any]:
    """Two's complement of so many bits, whatever the codec made of it."""
    if picture.dtype.itemsize > 2:
        return picture
    unused = 16 - bits_stored
    return (picture.astype(np.int16) << unused) >> unused


def _times(header: Dataset, count: int) -> Iterator[float]:
    """Seconds of each frame, by the first way of timing that the header has."""
    steps_ms = header.get("FrameTimeVector")
    if isinstance(steps_ms, MultiValue) and len(steps_ms) >= count:
        return (total / 1000 for total in itertools.accumulate(positive(step) for step in steps_ms))
    milliseconds = positive(header.get("FrameTime"))
    rates_hz = (positive(header.get(name)) for name in ("CineRate", "RecommendedDisplayFrameRate"))
    seconds = milliseconds / 1000 or 1 / (next(filter(None, rates_hz), UNKNOWN_HZ))
    return (index * seconds for index in itertools.count())


class _Fragments(io.RawIOBase):
    """The fragments of encapsulated pixel data as one file that FFmpeg can seek in; nothing is copied."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            parse_basic_offsets(file)
            _, items = parse_fragments(file)
        except (ValueError, struct.error):
            raise fault("unreadable", "The encapsulated video cannot be found.") from None
        self.file, self.position = file, 0
        self.parts: list[tuple[int, int]] = []  # where each starts in the file, and its length
        for item in items:
            file.seek(item + 4)
            self.parts.append((item + 8, int.from_bytes(file.read(4), "little")))
        size = os.fstat(file.fileno()).st_size
        if not self.parts or self.parts[-1][0] + self.parts[-1][1] > size:
            raise fault("truncated", "The file ends before its video does.")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: sum(length for _, length in self.parts)}
        self.position = max(0, base[whence] + offset)
        return self.position

    def read(self, count: int = -1) -> bytes:
        """From the part that holds the position; may be less than asked, and empty only at the end."""
        before = 0
        for start, length in self.parts:
            if self.position < before + length:
                inside = self.position - before
                wanted = length - inside if count < 0 else min(count, length - inside)
                self.file.seek(start + inside)
                data = self.file.read(wanted)
                self.position += len(data)
                return data
            before += length
        return b""


LOSSY_JPEG = {f"1.2.840.10008.1.2.4.{last}" for last in (50, 51)}
DECODERS: dict[str, Callable[[bytes, Dataset], NDArray[Any]]] = (
    dict.fromkeys(JPEG, _jpeg)
    | dict.fromkeys(JPEG_LS, lambda data, _: imagecodecs.jpegls_decode(data))
    | dict.fromkeys(JPEG_2000, lambda data, _: imagecodecs.jpeg2k_decode(data, numthreads=1))
)
