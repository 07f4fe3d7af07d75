"""Ground-truth masks on disk: multi-page 1-bit TIFF, one page a frame, and nothing else in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipelines.errors import VideoError
from pipelines.files import atomic_path
from pipelines.video.isolation import Limits, run_isolated


def write(path: Path, masks_FHW: Iterable[NDArray[np.bool_]]) -> None:
    """One deflated 1-bit page a frame; the same bytes for the same masks, no tags that name anybody.

    One mask in memory at a time, where ``masks_FHW`` makes them one by one.
    """
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary) as stack:
        for mask_HW in masks_FHW:
            stack.write(
                mask_HW,
                photometric="minisblack",
                compression="zlib",
                metadata=None,
                software=False,
                datetime=None,
            )


def rewrite(source: Path, target: Path, shape_FHW: tuple[int, int, int], limits: Limits) -> None:
    """Read somebody's mask in a child, and keep it at ``target``. VideoError where it does not fit its video."""
    with atomic_path(target) as temporary:
        try:
            run_isolated(_rewrite, source, temporary, shape_FHW, limits=limits)
        except VideoError as error:
            if error.code.startswith("mask_"):
                raise
            raise VideoError("mask_unreadable", f"The mask: {error.cause}", "Export the mask again.") from None


def _rewrite(source: str, target: str, shape_FHW: list[int]) -> None:
    write(Path(target), _fitting_pages(Path(source), *shape_FHW))


def _fitting_pages(path: Path, frames: int, height_px: int, width_px: int) -> Iterator[NDArray[np.bool_]]:
    """What a page says of itself is checked before its pixels are unpacked, and no page is read in vain."""
    count = 0
    with _readable(), tifffile.TiffFile(path) as stack:
        for count, page in enumerate(stack.pages, start=1):
            if count > frames or tuple(page.shape) != (height_px, width_px):
                raise _mismatch(f"page {count} has {page.shape}", frames, height_px, width_px)
            yield page.asarray() != 0
    if count != frames:
        raise _mismatch(f"it has {count} pages", frames, height_px, width_px)


def _mismatch(found: str, frames: int, height_px: int, width_px: int) -> VideoError:
    return VideoError(
        "mask_mismatch",
        f"The mask does not fit: {found}; the video has {frames} frames of {height_px} x {width_px}.",
        "Export one mask page for each frame, at the video's size.",
    )


def read(path: Path) -> NDArray[np.bool_]:
    """Every page, (F, H, W): set where a page is not 0. VideoError when it is no such stack."""
    with _readable(), tifffile.TiffFile(path) as stack:
        return np.stack([page.asarray() != 0 for page in stack.pages])


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (tifffile.TiffFileError, OSError, ValueError, IndexError):
        raise VideoError(
            "mask_unreadable", "The mask is not a readable TIFF with pages of one size.", "Export it again."
        ) from None
