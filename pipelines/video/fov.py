"""The field of view: which part of the picture is tissue. A disc, a cropped disc, or a rectangle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipelines import video
from pipelines.video.geometry import inside_mask

LOOK_AT_FRAMES = 64
MIN_LEVEL = 12
"""Grey levels that compression noise outside the field of view stays below."""
CORNER_SHARE = 0.93
"""A shape that fills this much of its box has corners: it is a rectangle. A full disc fills 0.785."""


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """In source pixels: a half-open box and, where the view is round, a disc it cuts."""

    x0: float
    y0: float
    x1: float
    y1: float
    cx: float
    cy: float
    radius: float | None

    @property
    def crop(self) -> tuple[int, int, int]:
        """Left, top and side of the square around the box; it may reach beyond the picture."""
        side = int(np.ceil(max(self.x1 - self.x0, self.y1 - self.y0)))
        left = int(np.floor((self.x0 + self.x1 - side) / 2))
        top = int(np.floor((self.y0 + self.y1 - side) / 2))
        return left, top, side

    def stored(self, side_px: int) -> dict[str, float | None]:
        """The geometry in pixels of the stored frame, under the names of its columns."""
        left, top, side = self.crop
        scale = side_px / side
        moved = {
            "fov_x0": self.x0 - left,
            "fov_y0": self.y0 - top,
            "fov_x1": self.x1 - left,
            "fov_y1": self.y1 - top,
            "fov_cx": self.cx - left,
            "fov_cy": self.cy - top,
        }
        # As stored: what is computed from a shard must be what was computed when it was written.
        numbers: dict[str, float | None] = {name: float(np.float32(value * scale)) for name, value in moved.items()}
        return numbers | {"fov_radius": None if self.radius is None else float(np.float32(self.radius * scale))}

    def inside(self, side_px: int) -> NDArray[np.bool_]:
        """The field of view of a stored frame, (side, side)."""
        return inside_mask(self.stored(side_px), side_px)


def of_clip(path: Path) -> FieldOfView:
    """From the brightest that each pixel gets over the first frames: dark frames hide nothing."""
    return find_field_of_view(brightest(frame.luma_HW for frame in islice(video.read_frames(path), LOOK_AT_FRAMES)))


def brightest(frames: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pixelwise maximum, one frame in memory at a time."""
    result: NDArray[np.uint8] | None = None
    for luma_HW in frames:
        result = luma_HW if result is None else np.maximum(result, luma_HW)
    assert result is not None
    return result


def find_field_of_view(image_HW: NDArray[np.uint8]) -> FieldOfView:
    """The largest lit region; the whole picture where nothing stands out."""
    height, width = image_HW.shape
    lit = _largest_region(image_HW >= _threshold(image_HW))
    if lit.sum() < 0.05 * lit.size:
        lit = np.ones_like(lit)
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    box = {"x0": float(x0), "y0": float(y0), "x1": float(x1), "y1": float(y1)}
    if lit.sum() >= CORNER_SHARE * (x1 - x0) * (y1 - y0):
        return FieldOfView(**box, cx=(x0 + x1) / 2, cy=(y0 + y1) / 2, radius=None)
    cx, cy, radius = _fit_circle(lit)
    return FieldOfView(
        x0=max(box["x0"], cx - radius, 0.0),
        y0=max(box["y0"], cy - radius, 0.0),
        x1=min(box["x1"], cx + radius, float(width)),
        y1=min(box["y1"], cy + radius, float(height)),
        cx=cx,
        cy=cy,
        radius=radius,
    )


def resample(luma_HW: NDArray[np.uint8], view: FieldOfView, side_px: int) -> NDArray[np.uint8]:
    """The field of view as a (side, side) picture, zero outside: names are burned in there.

    Pillow's box filter averages areas in fixed-point arithmetic: the same bytes on every CPU.
    """
    stored_SS = _shrink(luma_HW, view, side_px)
    return np.where(view.inside(side_px), stored_SS, 0).astype(np.uint8)


def resample_mask(mask_HW: NDArray[np.bool_], view: FieldOfView, side_px: int) -> NDArray[np.bool_]:
    """Ground truth in the same geometry: a pixel belongs when at least half of its area does."""
    shrunk_SS = _shrink(mask_HW.astype(np.uint8) * 255, view, side_px)
    return (shrunk_SS >= 128) & view.inside(side_px)


def _shrink(source_HW: NDArray[np.uint8], view: FieldOfView, side_px: int) -> NDArray[np.uint8]:
    left, top, side = view.crop
    picture = Image.fromarray(np.ascontiguousarray(source_HW)).crop((left, top, left + side, top + side))
    return np.asarray(picture.resize((side_px, side_px), Image.Resampling.BOX))


def _threshold(image_HW: NDArray[np.uint8]) -> float:
    """A fraction of the typical bright level: tissue glows, the surroundings do not."""
    bright = float(np.percentile(image_HW, 95))
    return max(MIN_LEVEL, 0.15 * bright)


def _largest_region(lit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the honeycomb's gaps and without text beside the view."""
    closed = ndimage.binary_opening(ndimage.binary_closing(np.pad(lit, 8), iterations=3), iterations=3)[8:-8, 8:-8]
    labels, count = ndimage.label(closed)
    if not count:
        return np.zeros_like(lit)
    sizes = np.bincount(labels.ravel())[1:]
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(labels == 1 + int(sizes.argmax()))
    return filled


def _fit_circle(lit: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Least squares over the rim, without the part that the picture's border or a crop cuts straight."""
    rim = lit & ~ndimage.binary_erosion(lit, border_value=1)
    y, x = np.nonzero(rim)
    y0, x0 = np.flatnonzero(lit.any(1))[0], np.flatnonzero(lit.any(0))[0]
    y1, x1 = np.flatnonzero(lit.any(1))[-1], np.flatnonzero(lit.any(0))[-1]
    straight = ((y == y0) & ((y == y0).sum() > 0.4 * (x1 - x0))) | ((y == y1) & ((y == y1).sum() > 0.4 * (x1 - x0)))
    straight |= ((x == x0) & ((x == x0).sum() > 0.4 * (y1 - y0))) | ((x == x1) & ((x == x1).sum() > 0.4 * (y1 - y0)))
    keep = ~straight if (~straight).sum() >= 16 else np.ones(len(x), dtype=bool)
    px, py = x[keep] + 0.5, y[keep] + 0.5
    system = np.column_stack([px, py, np.ones(len(px))])
    (a, b, c), *_ = np.linalg.lstsq(system, px**2 + py**2, rcond=None)
    cx, cy = a / 2, b / 2
    # Quarter pixels: what least squares leaves to rounding must not reach the stored bytes.
    return tuple(round(float(value) * 4) / 4 for value in (cx, cy, np.sqrt(c + cx**2 + cy**2) + 0.5))  # type: ignore[return-value]
