"""How fit a frame is to be judged: six figures inside the field of view, and the first rule that it breaks.

Everything is summed in integers, or in float64 whose every partial sum is an integer below 2^53 and so exact:
a frame near a threshold must not be kept on one processor and dropped on another. S pixels a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipelines.params import ExtractParams

SATURATED_LEVEL = 250
FIGURE_SIDE_PX = 96
"""Texture is measured at most at this size, so that one threshold holds for every ``extract.side_px``."""

SMOOTHING = 6  # binomial passes, a Gaussian of 1.7 px: noise and fibre pattern go, tissue stays
RIM_PX = SMOOTHING + 1  # how far the dark outside reaches in, a neighbour's included
LARGEST_SMEAR = 1000.0  # stands for any larger ratio, which an all but striped frame has


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one stored frame; as in schemas.frames."""

    mean: float  # grey levels
    contrast: float  # 95th - 5th percentile, grey levels
    saturated: float  # share of pixels at 250 or more
    sharpness: float  # variance of the Laplacian / variance of the image, both smoothed
    smear: float  # largest / smallest directional gradient energy of the smoothed image, 1 and up
    change: float | None  # mean absolute difference from the frame it might repeat, grey levels; None: no such frame


def judge(figure: Quality, params: ExtractParams) -> str | None:
    """Why the frame is not kept, one of schemas.REASONS; None when it is."""
    rules = {
        "dark": figure.mean < params.min_mean,
        "saturated": figure.saturated > params.max_saturated,
        "flat": figure.contrast < params.min_contrast,
        # Smeared frames lack detail as well: the more telling reason first.
        "smeared": figure.smear > params.max_smear,
        "blurred": figure.sharpness < params.min_sharpness,
        "duplicate": is_repeat(figure, params),
    }
    return next((reason for reason, broken in rules.items() if broken), None)


def is_repeat(figure: Quality, params: ExtractParams) -> bool:
    """Does the frame show again what the last new one showed: a frozen picture, or a converted frame rate?"""
    return figure.change is not None and figure.change < params.min_change


class Gauge:
    """Measures the frames of one clip, whose field of view (S, S) is the same in all of them, in their order."""

    def __init__(self, inside_SS: NDArray[np.bool_], params: ExtractParams) -> None:
        self.params = params
        self.inside = np.flatnonzero(inside_SS)
        self.core = np.flatnonzero(_core(inside_SS))
        self.last_new_SS: NDArray[np.int16] | None = None

    def measure(self, image_SS: NDArray[np.uint8]) -> Quality:
        """All zero (smear 1) where there is no field of view."""
        pixels = len(self.inside)
        counts = np.bincount(image_SS.ravel()[self.inside], minlength=256)
        sharpness, smear = self._texture(image_SS)
        figure = Quality(
            mean=int(np.dot(counts, LEVELS)) / pixels if pixels else 0.0,
            contrast=_spread(counts, pixels) if pixels else 0.0,
            saturated=int(counts[SATURATED_LEVEL:].sum()) / pixels if pixels else 0.0,
            sharpness=sharpness,
            smear=smear,
            change=self._change(image_SS),
        )
        # Compared with the last new frame, not with the one before: a slow drift is no standstill.
        if not is_repeat(figure, self.params):
            self.last_new_SS = image_SS.astype(np.int16)
        return figure

    def _change(self, image_SS: NDArray[np.uint8]) -> float | None:
        """Both frames are zero outside the field of view, so that nothing there differs."""
        if self.last_new_SS is None or not len(self.inside):
            return None
        return int(np.abs(self.last_new_SS - image_SS).sum(dtype=np.int64)) / len(self.inside)

    def _texture(self, image_SS: NDArray[np.uint8]) -> tuple[float, float]:
        """(sharpness, smear), away from the rim, whose edge is none of the tissue's."""
        if not len(self.core):
            return 0.0, 1.0
        smooth, row, first = _smoothed(_reduced(image_SS))
        places = self.core - first
        here, up, down, left, right = (smooth.take(places + step) for step in (0, -row, row, -1, 1))
        variance = _scaled_variance(here)
        sharpness = _scaled_variance(up + down + left + right - 4 * here) / variance if variance else 0.0
        return sharpness, _anisotropy(right - left, down - up)


LEVELS = np.arange(256)


def _spread(counts: NDArray[np.int64], pixels: int) -> float:
    """From the 5th to the 95th percentile: the smallest levels at or below which so many pixels lie."""
    low, high = np.searchsorted(np.cumsum(counts), (math.ceil(0.05 * pixels), math.ceil(0.95 * pixels)))
    return float(high - low)


def _core(inside_SS: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The field of view of the frame that texture is measured on, without its rim."""
    inside = _reduced(inside_SS.astype(np.uint8) * 255) >= 128
    core: NDArray[np.bool_] = ndimage.binary_erosion(inside, np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), bool))
    return core


def _reduced(image_SS: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image_SS.shape[0] <= FIGURE_SIDE_PX:
        return image_SS
    return np.asarray(Image.fromarray(image_SS).resize((FIGURE_SIDE_PX, FIGURE_SIDE_PX), Image.Resampling.BOX))


def _smoothed(image_SS: NDArray[np.uint8]) -> tuple[NDArray[np.float64], int, int]:
    """Binomial smoothing in fixed point with 8 bits behind the point: values, row length, place of the first value.

    Flat, because each pass is two sums of neighbours that way. What wraps from row to row stays inside the rim.
    All passes over both axes weigh 2^24: a pixel's sum fits into 32 bits without a sign.
    """
    row = image_SS.shape[1]
    smooth = image_SS.ravel().astype(np.uint32)
    for step in (1, row):
        for _ in range(2 * SMOOTHING):
            smooth = smooth[:-step] + smooth[step:]
    return ((smooth + 0x8000) >> 16).astype(np.float64), row, SMOOTHING * (row + 1)


def _scaled_variance(values: NDArray[np.float64]) -> int:
    """n² times the variance, exactly."""
    return len(values) * int(np.dot(values, values)) - int(values.sum()) ** 2


def _anisotropy(gx: NDArray[np.float64], gy: NDArray[np.float64]) -> float:
    """Ratio of the structure tensor's eigenvalues; 1 where no direction is preferred."""
    xx, yy, xy = int(np.dot(gx, gx)), int(np.dot(gy, gy)), int(np.dot(gx, gy))
    spread = math.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    largest, smallest = xx + yy + spread, xx + yy - spread
    if largest <= 0:
        return 1.0
    return min(largest / smallest, LARGEST_SMEAR) if smallest > 0 else LARGEST_SMEAR
