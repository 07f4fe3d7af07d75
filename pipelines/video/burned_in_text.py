"""Text burned into the field of view: strokes that stand still while the tissue below them moves.

The darkest that a pixel gets over a clip takes away what moves and keeps bright letters; the brightest, seen as a
negative, keeps dark ones. What is left is searched for thin strokes of strong contrast that stand in a row like
letters. The honeycomb of the fibres stands still as well, but its contrast is that of the tissue behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pipelines.video.fov import FieldOfView, find_field_of_view
from pipelines.video.frame import Frame

MIN_FRAMES = 4  # fewer tell nothing of what moves
RIM_SHARE = 0.03  # of the field of view's side: its edge stands still too
STROKE_SHARE = 0.03  # thicker than this share of the side is no stroke
MIN_CONTRAST = 40  # grey levels
SPREADS = 8  # contrast in units of what the clip has anyway
MIN_LETTERS = 4
MIN_HEIGHT_PX = 6
MAX_HEIGHT_SHARE = 0.2
Grey = NDArray[np.uint8]


@dataclass
class TextFinder:
    """Frames in, letters out; keeps four pictures, however long the clip."""

    frames: int = 0
    darkest: tuple[Grey, Grey] | None = None
    brightest: tuple[Grey, Grey] | None = None

    def see(self, frame: Frame) -> None:
        luma_HW = frame.luma_HW
        self.frames += 1
        self.brightest = _second(self.brightest, luma_HW)
        self.darkest = _second(self.darkest, 255 - luma_HW)

    def letters(self) -> int:
        """How many letters stand in the longest row; 0 below MIN_LETTERS."""
        if self.frames < MIN_FRAMES or self.brightest is None or self.darkest is None:
            return 0
        high_HW, low_HW = self.brightest[1], 255 - self.darkest[1]
        view = find_field_of_view(high_HW)
        inside_HW = _inside(view, high_HW.shape)
        side_px = view.crop[2]
        found = max(_longest_row(_letters(picture, inside_HW, side_px)) for picture in (low_HW, 255 - high_HW))
        return found if found >= MIN_LETTERS else 0


def _second(pair: tuple[Grey, Grey] | None, luma_HW: Grey) -> tuple[Grey, Grey]:
    """The largest and the second largest of each pixel so far: one odd frame shows nothing."""
    if pair is None:
        return luma_HW.copy(), np.zeros_like(luma_HW)
    largest, second = pair
    np.maximum(second, np.minimum(largest, luma_HW), out=second)
    np.maximum(largest, luma_HW, out=largest)
    return largest, second


def _inside(view: FieldOfView, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Source pixels well inside the field of view."""
    rim = RIM_SHARE * view.crop[2]
    y, x = np.ogrid[: shape[0], : shape[1]]
    inside: NDArray[np.bool_] = (x >= view.x0 + rim) & (x < view.x1 - rim) & (y >= view.y0 + rim) & (y < view.y1 - rim)
    if view.radius is not None:
        inside &= (x + 0.5 - view.cx) ** 2 + (y + 0.5 - view.cy) ** 2 <= (view.radius - rim) ** 2
    return inside


def _letters(picture_HW: Grey, inside_HW: NDArray[np.bool_], side_px: int) -> NDArray[np.float64]:
    """Boxes (left, top, right, bottom) of thin, bright, letter-sized parts."""
    stroke_px = max(3, int(STROKE_SHARE * side_px) | 1)
    strokes_HW = picture_HW - np.minimum(picture_HW, ndimage.grey_opening(picture_HW, (stroke_px, stroke_px)))
    values = strokes_HW[inside_HW]
    if not len(values):
        return np.zeros((0, 4))
    usual = float(np.median(values)) + SPREADS * max(1.0, float(np.percentile(values, 75) - np.percentile(values, 25)))
    labels, _ = ndimage.label((strokes_HW > max(MIN_CONTRAST, usual)) & inside_HW, np.ones((3, 3)))
    boxes = [
        (columns.start, rows.start, columns.stop, rows.stop)
        for rows, columns in ndimage.find_objects(labels)
        if MIN_HEIGHT_PX <= rows.stop - rows.start <= MAX_HEIGHT_SHARE * side_px
    ]
    return np.array(boxes, float).reshape(-1, 4)


def _longest_row(boxes_N4: NDArray[np.float64]) -> int:
    """Letters of like height that follow one another on a line; several that touch count by their width."""
    if not len(boxes_N4):
        return 0
    left, top, right, bottom = boxes_N4.T
    height = bottom - top
    taller = np.maximum(height[:, None], height)
    shared = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    gap = np.maximum(left[:, None], left) - np.minimum(right[:, None], right)
    linked = (shared >= 0.6 * taller) & (gap <= taller)
    count, row_N = _components(linked)
    letters_N = np.maximum(1, np.round((right - left) / height))
    return int(max(letters_N[row_N == row].sum() for row in range(count)))


def _components(linked_NN: NDArray[np.bool_]) -> tuple[int, NDArray[np.int32]]:

    count, label_N = connected_components(csr_array(linked_NN), directed=False)
    return int(count), label_N
