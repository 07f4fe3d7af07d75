"""Ground-truth masks on disk: multi-page 1-bit TIFF, one page a frame, and nothing else in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipelines.errors import VideoError
from pipelines.files import atomic_path
from pipelines.video.isolation import run_isolated


def write(path: Path, masks_FHW: NDArray[np.bool_]) -> None:
    """One deflated 1-bit page a frame; the same bytes for the same masks, no tags that name anybody."""
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


def rewrite(source: Path, target: Path, shape_FHW: tuple[int, int, int]) -> None:
    """Read somebody's mask in a child, and keep it at ``target``. VideoError where it does not fit its video."""
    with atomic_path(target) as temporary:
        try:
            found = tuple(run_isolated(_rewrite, source, temporary))
        except VideoError as error:
            raise VideoError("mask_unreadable", f"The mask: {error.cause}", "Export the mask again.") from None
        if found != shape_FHW:
            raise VideoError(
                "mask_mismatch",
                f"The mask has {found[0]} pages of {found[1:]}; the video {shape_FHW[0]} frames of {shape_FHW[1:]}.",
                "Export one mask page for each frame, at the video's size.",
            )


def _rewrite(source: str, target: str) -> tuple[int, ...]:
    masks_FHW = read(Path(source))
    write(Path(target), masks_FHW)
    return masks_FHW.shape


def read(path: Path) -> NDArray[np.bool_]:
    """Every page, (F, H, W): set where a page is not 0. VideoError when it is no such stack."""
    try:
        with tifffile.TiffFile(path) as stack:
            return np.stack([page.asarray() != 0 for page in stack.pages])
    except (tifffile.TiffFileError, OSError, ValueError, IndexError):
        raise VideoError(
            "mask_unreadable", "The mask is not a readable TIFF with pages of one size.", "Export it again."
        ) from None
