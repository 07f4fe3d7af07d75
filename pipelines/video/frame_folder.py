"""A folder of PNG, JPEG or TIFF pictures, one a frame, with the rate in ``rate.txt``.

Frames are ordered as people count: by the numbers in their names, then by the names. ``rate.txt`` holds one
number, the frames per second. Names that start with a dot are ignored; anything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipelines.files import digest, sha256_file
from pipelines.video import tiff
from pipelines.video.caps import Caps
from pipelines.video.faults import fault
from pipelines.video.frame import RawFrame
from pipelines.video.grey import levels_of

RATE_FILE = "rate.txt"
NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?")


def video_id(path: Path) -> str:
    """SHA-256 of the canonical list of (ordinal, SHA-256 of the frame's file, rate): names are not in it."""
    rate_hz = rate(path)
    return digest([[ordinal, sha256_file(file), rate_hz] for ordinal, file in enumerate(files(path))])


def files(path: Path) -> list[Path]:
    """The frames' files in the order of time."""
    found = [file for file in path.iterdir() if file.name != RATE_FILE and not file.name.startswith(".")]
    if any(file.is_symlink() or not file.is_file() for file in found):
        raise fault("unreadable", "The folder holds a link or a folder among its frames.")
    if not found:
        raise fault("no_frames", "The folder holds no frame.")
    return sorted(found, key=lambda file: (_numbers(file.stem), file.name))


def rename_by_order(path: Path) -> None:
    """Name every frame by its ordinal: other names of the same frames give the same folder."""
    ordered = files(path)
    hidden = [file.rename(path / f".{index:06d}") for index, file in enumerate(ordered)]
    for file in hidden:
        file.rename(path / file.name[1:])


def rate(path: Path) -> float:
    """Frames per second."""
    file = path / RATE_FILE
    text = file.read_text(encoding="ascii", errors="replace")[:32].strip() if file.is_file() else ""
    if file.is_symlink() or not NUMBER.fullmatch(text) or float(text) == 0:
        raise fault("no_rate", "The folder of frames does not say how many it shows a second.")
    return float(text)


def recognises(path: Path) -> bool:
    return path.is_dir()


def identity() -> str:
    return f"pillow-{PIL.__version__}+{tiff.identity()}"


def read(path: Path, caps: Caps) -> Iterator[RawFrame]:
    """Every frame, one in memory at a time."""
    rate_hz = rate(path)
    frames = files(path)
    caps.require_frames(len(frames))
    for index, file in enumerate(frames):
        yield RawFrame(index=index, pts_seconds=index / rate_hz, levels_HW=_picture(file, index, caps))


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"[0-9]+", name)]


def _picture(file: Path, index: int, caps: Caps) -> NDArray[Any]:
    try:
        if tiff.recognises(file):
            with tifffile.TiffFile(file) as pages:
                return tiff.levels(pages.pages[0], caps)
        with Image.open(file, formats=["PNG", "JPEG"]) as image:
            caps.require_pixels(*image.size)
            return _levels(image)
    except (
        OSError,
        ValueError,
        SyntaxError,
        IndexError,
        KeyError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ):
        raise fault("unreadable", f"Frame {index} is no picture that can be read (PNG, JPEG or TIFF).") from None


def _levels(image: Image.Image) -> NDArray[Any]:
    """JPEG gives its luma as it is stored; 16-bit PNG stays 16 bits."""
    if image.format == "JPEG":
        image.draft("L", image.size)
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    return levels_of(np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")))
