"""A clip as a few thousand words that a copy of it shares: re-encoded, cut, mirrored, turned, cropped or re-scaled.

Blobs of tissue are found at their own scale (difference of Gaussians), and the patch around each becomes the
signs of its low-frequency cosine coefficients: gain, offset and compression leave them alone. A mirror image
only changes signs and swaps axes, so the eight turned and mirrored versions cost no second look at the pixels.
The static pattern of the fibres is finer than any blob kept here.

N blobs, K = 54 coefficients, S = SIDE_PX, L levels of blur.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

from pipelines.video.fov import LOOK_AT_FRAMES, FieldOfView, brightest, find_field_of_view
from pipelines.video.frame import Frame

SIDE_PX = 96
LEVELS_AN_OCTAVE = 3
BLUR_PX = tuple(1.5 * 2 ** (step / LEVELS_AN_OCTAVE) for step in range(9))
PADDED_PX = 120  # the longest blur must not come round the edge
BLOBS_A_FRAME = 24
FRAMES_A_SECOND = 16
KEPT_EVERY_SECONDS = 0.5
KEPT_AT_LEAST = 24  # frames
SMALLEST_VIEW = 0.2  # of the picture
MIN_SPREAD = 2.0  # grey levels inside the field of view; a flat or dark frame says nothing
GRID = 10  # samples along each side of a patch
REACH = 4.5  # half the side of a patch, in units of its blur
RIM = 0.55  # a blob keeps this share of its patch's half side away from the rim of the field of view

WAVES = [(v, u) for v in range(GRID) for u in range(GRID) if 1 <= u + v <= 9]
WORD_BITS = len(WAVES)

Floats = NDArray[np.float32]
Blobs = NDArray[np.void]

BLOB = np.dtype([("word", "<u8"), ("x", "<f4"), ("y", "<f4"), ("scale", "<f4"), ("seconds", "<f4")])
"""x, y and scale (the blur of its level) are in sides of the square around the field of view."""


class Fingerprinter:
    """Frames in, blobs out; holds frames only until the field of view is known."""

    def __init__(self) -> None:
        self.first: list[Frame] = []
        self.view: FieldOfView | None = None
        self.inside_SS = np.zeros((SIDE_PX, SIDE_PX), bool)
        self.rim_SS = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        self.parts: list[Blobs] = []
        self.last_seconds = -np.inf

    def see(self, frame: Frame) -> None:
        """Faster clips are thinned out to FRAMES_A_SECOND; a clip whose clock runs backwards is taken whole."""
        if 0 <= frame.pts_seconds - self.last_seconds < 0.9 / FRAMES_A_SECOND:
            return
        self.last_seconds = frame.pts_seconds
        if self.view is not None:
            self._look(frame, self.view)
            return
        self.first.append(frame)
        if len(self.first) == LOOK_AT_FRAMES:
            self._settle()

    def blobs(self) -> Blobs:
        """In the order of their frames."""
        if self.first:
            self._settle()
        return np.concatenate([np.zeros(0, BLOB), *self.parts])

    def _settle(self) -> None:
        """The field of view is known now: look at what was held back."""
        self.view = _view([frame.luma_HW for frame in self.first])
        self.inside_SS = self.view.inside(SIDE_PX)
        padded = np.pad(self.inside_SS, 1)
        self.rim_SS = ndimage.distance_transform_edt(padded)[1:-1, 1:-1].astype(np.float32)
        for frame in self.first:
            self._look(frame, self.view)
        self.first = []

    def _look(self, frame: Frame, view: FieldOfView) -> None:
        image_SS = self._normal(frame.luma_HW, view)
        if image_SS is not None:
            self.parts.append(self._blobs(image_SS, frame.pts_seconds))

    def _normal(self, luma_HW: NDArray[np.uint8], view: FieldOfView) -> Floats | None:
        """The field of view, mean 0 and variance 1 inside, 0 outside; None where there is nothing to see."""
        left, top, side = view.crop
        picture = Image.fromarray(np.ascontiguousarray(luma_HW)).crop((left, top, left + side, top + side))
        grey_SS = np.asarray(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), np.float32)
        values = grey_SS[self.inside_SS]
        spread = float(values.std())
        if spread < MIN_SPREAD:
            return None
        return np.where(self.inside_SS, (grey_SS - values.mean()) / spread, 0).astype(np.float32)

    def _blobs(self, image_SS: Floats, seconds: float) -> Blobs:
        blurred_LSS = _blurred(image_SS)
        edges_LSS = blurred_LSS[1:] - blurred_LSS[:-1]
        level_N, y_N, x_N = self._strongest(edges_LSS)
        blur_N = np.array(BLUR_PX, np.float32)[level_N] * np.exp2(
            _between(edges_LSS, level_N, y_N, x_N) / LEVELS_AN_OCTAVE
        )
        rows = np.empty(len(blur_N), BLOB)
        rows["word"] = _words(_waves(blurred_LSS, level_N, y_N, x_N, blur_N))
        rows["x"], rows["y"] = (x_N + 0.5) / SIDE_PX, (y_N + 0.5) / SIDE_PX
        rows["scale"], rows["seconds"] = blur_N / SIDE_PX, seconds
        return rows

    def _strongest(self, edges_LSS: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Level, row, column of the most pronounced extrema over space and scale, away from the rim."""
        strength_LSS = np.abs(edges_LSS)
        peak_LSS = strength_LSS >= _largest_around(strength_LSS)
        for level, blur_px in enumerate(BLUR_PX[: len(edges_LSS)]):
            peak_LSS[level] &= self.rim_SS > RIM * REACH * blur_px
        peak_LSS[[0, -1]] = False
        level_N, y_N, x_N = np.nonzero(peak_LSS)
        order = np.argsort(-strength_LSS[level_N, y_N, x_N], kind="stable")[:BLOBS_A_FRAME]
        return level_N[order], y_N[order], x_N[order]


def thinned(blobs: Blobs) -> Blobs:
    """What is kept of a clip: its frames KEPT_EVERY_SECONDS apart, closer in a clip that has few."""
    moments = np.unique(blobs["seconds"])
    length = float(moments[-1] - moments[0]) if len(moments) else 0.0
    apart, last = min(KEPT_EVERY_SECONDS, length / KEPT_AT_LEAST), -np.inf
    kept = []
    for moment in moments:
        if moment >= last + apart - 1e-3:
            kept.append(moment)
            last = moment
    return blobs[np.isin(blobs["seconds"], kept)]


def one_in(frames: int, blobs: Blobs) -> Blobs:
    """The blobs of every so many-th frame."""
    _, frame_N = np.unique(blobs["seconds"], return_inverse=True)
    return np.asarray(blobs[frame_N % frames == 0])


def turned(blobs: Blobs, turn: int) -> Blobs:
    """The same blobs in one of the eight turned and mirrored pictures; 0 is the picture itself.

    A mirror image inverts the signs of the odd waves across it; a transposed one swaps the two axes.
    """
    transpose, flip_y, flip_x = bool(turn & 4), turn >> 1 & 1, turn & 1
    result = blobs.copy()
    if transpose:
        result["x"], result["y"] = blobs["y"], blobs["x"]
        result["word"] = _transposed(blobs["word"])
    odd = (1 << bit for bit, (v, u) in enumerate(WAVES) if (v * flip_y + u * flip_x) % 2)
    result["word"] ^= np.uint64(sum(odd))
    if flip_x:
        result["x"] = 1 - result["x"]
    if flip_y:
        result["y"] = 1 - result["y"]
    return result


def _transposed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    result = np.zeros_like(words)
    for bit, (v, u) in enumerate(WAVES):
        result |= (words >> np.uint64(WAVES.index((u, v))) & np.uint64(1)) << np.uint64(bit)
    return result


def _words(waves_NK: Floats) -> NDArray[np.uint64]:
    """N words of WORD_BITS signs."""
    bits = (waves_NK > 0).astype(np.uint64) << np.arange(WORD_BITS, dtype=np.uint64)
    return np.asarray(bits.sum(axis=1, dtype=np.uint64))


def _view(frames: list[NDArray[np.uint8]]) -> FieldOfView:
    """The field of view, or the whole picture where what was found is too small to be one."""
    found = find_field_of_view(brightest(frames))
    height_px, width_px = frames[0].shape
    if (found.x1 - found.x0) * (found.y1 - found.y0) >= SMALLEST_VIEW * height_px * width_px:
        return found
    return find_field_of_view(np.full((height_px, width_px), 255, np.uint8))


def _between(edges_LSS: Floats, level_N: NDArray[np.intp], y_N: NDArray[np.intp], x_N: NDArray[np.intp]) -> Floats:
    """Where the top of a parabola through three levels lies, in levels from the middle one."""
    below, here, above = (edges_LSS[level_N + step, y_N, x_N] for step in (-1, 0, 1))
    bend = below - 2 * here + above
    return np.asarray(np.clip(0.5 * (below - above) / np.where(bend == 0, 1, bend), -0.5, 0.5), np.float32)


def _blurred(image_SS: Floats) -> Floats:
    """L levels, by the convolution theorem."""
    waves = fft.rfft2(image_SS, (PADDED_PX, PADDED_PX))
    return np.asarray(fft.irfft2(waves * _GAUSSIANS, (PADDED_PX, PADDED_PX))[:, :SIDE_PX, :SIDE_PX], np.float32)


def _gaussians() -> Floats:
    """Transfer functions of the L blurs."""
    y = fft.fftfreq(PADDED_PX)[:, None]
    x = fft.rfftfreq(PADDED_PX)[None, :]
    return np.stack([np.exp(-2 * (np.pi * blur_px) ** 2 * (y**2 + x**2)) for blur_px in BLUR_PX]).astype(np.float32)


_GAUSSIANS = _gaussians()


def _largest_around(values_LSS: Floats) -> Floats:
    """The largest of the 3 x 3 x 3 neighbours of each value, itself included."""
    largest = values_LSS
    for axis in range(3):
        around = largest.copy()
        before = [slice(None)] * 3
        after = [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        np.maximum(around[tuple(after)], largest[tuple(before)], out=around[tuple(after)])
        np.maximum(around[tuple(before)], largest[tuple(after)], out=around[tuple(before)])
        largest = around
    return largest


_OFFSETS = ((np.arange(GRID) + 0.5) / GRID * 2 - 1).astype(np.float32)
_COSINES = fft.dct(np.eye(GRID, dtype=np.float32), axis=0, norm="ortho")  # waves x samples


def _waves(
    blurred_LSS: Floats,
    level_N: NDArray[np.intp],
    y_N: NDArray[np.intp],
    x_N: NDArray[np.intp],
    blur_N: Floats,
) -> Floats:
    """Cosine coefficients of the patches around N blobs, each read one level below its own."""
    reach_N = REACH * blur_N
    rows_NG = y_N[:, None] + reach_N[:, None] * _OFFSETS
    columns_NG = x_N[:, None] + reach_N[:, None] * _OFFSETS
    patch_NGG = _bilinear(blurred_LSS, level_N, rows_NG, columns_NG)
    waves_NGG = np.einsum("vy,nyx,ux->nvu", _COSINES, patch_NGG, _COSINES, optimize=True)
    waves_NK = waves_NGG[:, [v for v, _ in WAVES], [u for _, u in WAVES]]
    return np.asarray(waves_NK, np.float32)


def _bilinear(blurred_LSS: Floats, level_N: NDArray[np.intp], rows_NG: Floats, columns_NG: Floats) -> Floats:
    """N x G x G samples; what lies outside the picture is 0, as outside the field of view."""
    padded = np.pad(blurred_LSS, ((0, 0), (1, 1), (1, 1)))
    top = blurred_LSS.shape[1] + 0.999
    rows = np.clip(rows_NG + 1, 0, top)
    columns = np.clip(columns_NG + 1, 0, top)
    row, column = rows.astype(np.intp), columns.astype(np.intp)
    down = (rows - row)[:, :, None].astype(np.float32)
    right = (columns - column)[:, None, :].astype(np.float32)
    level, r, c = level_N[:, None, None], row[:, :, None], column[:, None, :]
    upper = padded[level, r, c] * (1 - right) + padded[level, r, c + 1] * right
    lower = padded[level, r + 1, c] * (1 - right) + padded[level, r + 1, c + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)
