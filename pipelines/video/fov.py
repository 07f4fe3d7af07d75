"""The field of view: which part of the picture is tissue. A disc, a cropped disc, or a rectangle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipelines.video.faults import fault
from pipelines.video.frame import Frame
from pipelines.video.geometry import inside_mask

LOOK_AT_FRAMES = 64
LOOK_AT_BYTES = 64 << 20  # of grey; what is looked at is held in memory until it is stored
LIT_FLOOR = 10  # grey levels; above what compression leaves of black
LIT_SHARE = 0.10  # of the clip's bright level
RIM_PX = 2  # boundary points this close to a side of the box belong to that side
FIT_ROUNDS = 12
FIT_TOLERANCE_PX = 1.5
CUT_SHARE = 0.04  # of the radius; a side that lacks less is no cut
STEPS_A_PX = 8  # circles are kept to an eighth of a pixel

Box = tuple[int, int, int, int]
Points = NDArray[np.int64]  # x, y in half pixels: corners and centres of pixels are integers


@dataclass(frozen=True, kw_only=True)
class Circle:
    """Source px."""

    cx: float
    cy: float
    radius: float


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

    def mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """The field of view of a source frame (H, W)."""
        x, y = np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5
        mask_HW: NDArray[np.bool_] = ((y >= self.y0) & (y < self.y1))[:, None] & ((x >= self.x0) & (x < self.x1))
        if self.radius is not None:
            mask_HW &= (x - self.cx)[None, :] ** 2 + (y - self.cy)[:, None] ** 2 <= self.radius**2
        return mask_HW

    def inside(self, side_px: int) -> NDArray[np.bool_]:
        """The field of view of a stored frame, (side, side); not to be written to."""
        return _inside(self, side_px)


@lru_cache(maxsize=8)
def _inside(view: FieldOfView, side_px: int) -> NDArray[np.bool_]:
    inside_SS = inside_mask(view.stored(side_px), side_px)
    inside_SS.setflags(write=False)
    return inside_SS


def look_at(frames: Iterator[Frame]) -> list[Frame]:
    """The first frames of a clip, as many as decide its field of view."""
    looked_at = []
    for frame in frames:
        looked_at.append(frame)
        if len(looked_at) == max(2, min(LOOK_AT_FRAMES, LOOK_AT_BYTES // frame.luma_HW.nbytes)):
            break
    return looked_at


def of_frames(frames: Iterable[Frame]) -> FieldOfView:
    """From the brightest that each pixel gets over the first frames: dark ones hide nothing."""
    return find_field_of_view(brightest(frame.luma_HW for frame in look_at(iter(frames))))


def brightest(frames: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Per pixel the second-largest value over time: one flash or one hot pixel shows nothing. H W."""
    largest = second = None
    for luma in frames:
        if largest is None or second is None:
            largest, second = luma.copy(), luma.copy() * 0
            continue
        np.maximum(second, np.minimum(largest, luma), out=second)
        np.maximum(largest, luma, out=largest)
    if largest is None or second is None:
        raise fault("no_frames", "The video holds no frame.")
    return second if second.any() else largest


def find_field_of_view(image_HW: NDArray[np.uint8]) -> FieldOfView:
    """Disc, cropped disc or rectangle: whichever outline the lit region has. A black picture: all of it."""
    height, width = image_HW.shape
    region = _lit_region(image_HW)
    if region is None:
        return _rectangle((0, 0, width, height))
    box = _box(region)
    circle = _circle(region, box)
    candidates = [_rectangle(box)]
    if circle is not None:
        candidates.insert(0, _cut_by_frame(circle, box, width_px=width, height_px=height))
    return max(candidates, key=lambda view: _overlap(view, region))


def _rectangle(box: Box) -> FieldOfView:
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return FieldOfView(x0=x0, y0=y0, x1=x1, y1=y1, cx=(x0 + x1) / 2, cy=(y0 + y1) / 2, radius=None)


def resample(luma_HW: NDArray[np.uint8], view: FieldOfView, side_px: int) -> NDArray[np.uint8]:
    """The field of view as a (side, side) picture, zero outside: names are burned in there.

    Pillow's box filter averages areas in fixed-point arithmetic: the same bytes on every CPU.
    """
    return _shrink(luma_HW, view, side_px) * view.inside(side_px)


def resample_mask(mask_HW: NDArray[np.bool_], view: FieldOfView, side_px: int) -> NDArray[np.bool_]:
    """Ground truth in the same geometry: a pixel belongs when at least half of its area does."""
    shrunk_SS = _shrink(mask_HW.astype(np.uint8) * 255, view, side_px)
    return (shrunk_SS >= 128) & view.inside(side_px)


def _shrink(source_HW: NDArray[np.uint8], view: FieldOfView, side_px: int) -> NDArray[np.uint8]:
    left, top, side = view.crop
    box = (left, top, left + side, top + side)
    picture = Image.fromarray(np.ascontiguousarray(source_HW))
    if left < 0 or top < 0 or box[2] > picture.width or box[3] > picture.height:
        picture, box = picture.crop(box), (0, 0, side, side)  # black beyond the border
    return np.asarray(picture.resize((side_px, side_px), Image.Resampling.BOX, box=box))


def _lit_region(image_HW: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """The largest connected lit area without holes: neither burnt-in text nor dark vessels take part."""
    bright = int(np.percentile(image_HW, 95, method="lower"))
    lit = image_HW > max(LIT_FLOOR, LIT_SHARE * bright)
    # Bridges gaps between fibre cores, then drops what hangs on by a thread.
    padded = np.pad(lit, 4)
    lit = _eroded(_dilated(padded))[4:-4, 4:-4]
    opened = _dilated(_eroded(np.pad(lit, 4, mode="edge")))[4:-4, 4:-4]
    labels, count = ndimage.label(opened)
    if count == 0:
        return None
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    region: NDArray[np.bool_] = ndimage.binary_fill_holes(labels == largest)
    return region


def _dilated(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By a square of 5 px, one axis after the other."""
    return _of_five_rows(_of_five_rows(region, np.logical_or).T, np.logical_or).T


def _eroded(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return _of_five_rows(_of_five_rows(region, np.logical_and).T, np.logical_and).T


def _of_five_rows(region: NDArray[np.bool_], combine: np.ufunc) -> NDArray[np.bool_]:
    """Each row with the two before and the two behind it; nothing is lit beyond the border."""
    padded, result = np.pad(region, ((2, 2), (0, 0))), np.copy(region)
    for first in (0, 1, 3, 4):
        combine(result, padded[first : first + len(region)], out=result)
    return result


def _box(region: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _circle(region: NDArray[np.bool_], box: Box) -> Circle | None:
    """The circle through the outline, sides of the box left out; None where no round part is left."""
    points = _outline(region, box)
    shortest = min(box[2] - box[0], box[3] - box[1])
    fitted = None
    for _ in range(FIT_ROUNDS):
        if len(points) < 0.1 * shortest:
            return None
        fitted = _least_squares_circle(points)
        if fitted is None:
            return None
        distance = np.sqrt((points[:, 0] / 2 - fitted.cx) ** 2 + (points[:, 1] / 2 - fitted.cy) ** 2)
        off = np.abs(distance - fitted.radius)
        good = off <= max(FIT_TOLERANCE_PX, 2 * float(np.median(off)))
        if good.all():
            break
        points = points[good]
    return fitted if fitted and 0.4 * shortest < fitted.radius < 2 * shortest else None


def _outline(region: NDArray[np.bool_], box: Box) -> Points:
    """First and last pixel edge of every row and column, in half pixels, unless near a side of the box."""
    x0, y0, x1, y1 = box
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    width, height = region.shape[1], region.shape[0]
    left, right = region[rows].argmax(axis=1), width - region[rows, ::-1].argmax(axis=1)
    top, bottom = region[:, columns].argmax(axis=0), height - region[::-1, columns].argmax(axis=0)
    points = np.concatenate(
        [
            np.stack([2 * np.concatenate([left, right]), np.tile(2 * rows + 1, 2)], axis=1),
            np.stack([np.tile(2 * columns + 1, 2), 2 * np.concatenate([top, bottom])], axis=1),
        ]
    ).astype(np.int64)
    x, y = points[:, 0] / 2, points[:, 1] / 2
    return points[(x > x0 + RIM_PX) & (x < x1 - RIM_PX) & (y > y0 + RIM_PX) & (y < y1 - RIM_PX)]


def _least_squares_circle(points: Points) -> Circle | None:
    """Kåsa's fit: x² + y² = a x + b y + c in the least-squares sense, by exact integer sums."""
    origin = points.min(axis=0)
    x, y = (points - origin).T
    z = x * x + y * y
    n, sx, sy, sz = len(points), int(x.sum()), int(y.sum()), int(z.sum())
    # Centred second moments times n: Python integers, no rounding.
    xx, xy, yy = (n * int((a * b).sum()) - sa * sb for a, b, sa, sb in ((x, x, sx, sx), (x, y, sx, sy), (y, y, sy, sy)))
    xz, yz = n * int((x * z).sum()) - sx * sz, n * int((y * z).sum()) - sy * sz
    determinant = xx * yy - xy * xy
    if determinant == 0:
        return None
    a, b = (xz * yy - yz * xy) / determinant, (yz * xx - xz * xy) / determinant
    c = (sz - a * sx - b * sy) / n
    squared = c + (a * a + b * b) / 4
    if squared <= 0:
        return None
    cx, cy = (a / 2 + int(origin[0])) / 2, (b / 2 + int(origin[1])) / 2
    return Circle(cx=_in_steps(cx), cy=_in_steps(cy), radius=_in_steps(squared**0.5 / 2))


def _in_steps(length_px: float) -> float:
    return round(length_px * STEPS_A_PX) / STEPS_A_PX


def _cut_by_frame(circle: Circle, box: Box, *, width_px: int, height_px: int) -> FieldOfView:
    """Sides where the lit box stops well inside the circle are cuts; elsewhere the box follows the circle."""
    x0, y0, x1, y1 = box
    ends = (
        circle.cx - circle.radius,
        circle.cy - circle.radius,
        circle.cx + circle.radius,
        circle.cy + circle.radius,
    )
    slack = max(3.0, CUT_SHARE * circle.radius)
    return FieldOfView(
        x0=float(x0) if x0 - ends[0] > slack else max(0.0, float(np.floor(ends[0]))),
        y0=float(y0) if y0 - ends[1] > slack else max(0.0, float(np.floor(ends[1]))),
        x1=float(x1) if ends[2] - x1 > slack else min(float(width_px), float(np.ceil(ends[2]))),
        y1=float(y1) if ends[3] - y1 > slack else min(float(height_px), float(np.ceil(ends[3]))),
        cx=circle.cx,
        cy=circle.cy,
        radius=circle.radius,
    )


def _overlap(view: FieldOfView, region: NDArray[np.bool_]) -> float:
    """Intersection over union with the lit region, 0..1."""
    mask = view.mask(region.shape)
    return int((mask & region).sum()) / int((mask | region).sum())
