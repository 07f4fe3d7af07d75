"""Ground-truth masks on disk: multi-page 1-bit TIFF, one page a frame, and nothing else in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipelines.errors import VideoError
from pipelines.files import atomic_path


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


def read(path: Path) -> NDArray[np.bool_]:
    """Every page, (F, H, W): set where a page is not 0. VideoError when it is no such stack."""
    try:
        with tifffile.TiffFile(path) as stack:
            return np.stack([page.asarray() != 0 for page in stack.pages])
    except (tifffile.TiffFileError, OSError, ValueError, IndexError):
        raise VideoError(
            "mask_unreadable", "The mask is not a readable TIFF with pages of one size.", "Export it again."
        ) from None
