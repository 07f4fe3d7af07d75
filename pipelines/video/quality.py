"""How fit a frame is to be judged: five figures inside the field of view, and the first rule that it breaks.

Everything is summed in integers: a frame near a threshold must not be kept on one processor and dropped on
another. S pixels a side.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipelines.params import ExtractParams

SATURATED_LEVEL = 250
FIGURE_SIDE_PX = 96
"""Texture is measured at most at this size, so that one threshold holds for every ``extract.side_px``."""

SMOOTHING = 6  # binomial passes, a Gaussian of 1.7 px: noise and fibre pattern go, tissue stays
RIM_PX = SMOOTHING  # how far the dark outside reaches in
LARGEST_SMEAR = 1000.0  # stands for any larger ratio, which an all but striped frame has


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one stored frame; as in schemas.frames."""

    mean: float  # grey levels
    contrast: float  # 95th - 5th percentile, grey levels
    saturated: float  # share of pixels at 250 or more
    sharpness: float  # variance of the Laplacian / variance of the image, both smoothed
    smear: float  # largest / smallest directional gradient energy of the smoothed image, 1 and up

    def as_row(self) -> dict[str, float]:
        return asdict(self)


def measure(image_SS: NDArray[np.uint8], inside_SS: NDArray[np.bool_]) -> Quality:
    """Quality of a stored frame inside its field of view; all zero (smear 1) where there is none."""
    counts = np.bincount(image_SS[inside_SS], minlength=256)
    pixels = int(counts.sum())
    if pixels == 0:
        return Quality(mean=0.0, contrast=0.0, saturated=0.0, sharpness=0.0, smear=1.0)
    sharpness, smear = _texture(*_reduced(image_SS, inside_SS))
    return Quality(
        mean=int((counts * np.arange(256)).sum()) / pixels,
        contrast=float(_level(counts, 0.95) - _level(counts, 0.05)),
        saturated=int(counts[SATURATED_LEVEL:].sum()) / pixels,
        sharpness=sharpness,
        smear=smear,
    )


def judge(figure: Quality, params: ExtractParams) -> str | None:
    """Why the frame is not kept, one of schemas.REASONS; None when it is."""
    rules = {
        "dark": figure.mean < params.min_mean,
        "saturated": figure.saturated > params.max_saturated,
        "flat": figure.contrast < params.min_contrast,
        # Smeared frames lack detail as well: the more telling reason first.
        "smeared": figure.smear > params.max_smear,
        "blurred": figure.sharpness < params.min_sharpness,
    }
    return next((reason for reason, broken in rules.items() if broken), None)


def _level(counts: NDArray[np.int64], share: float) -> int:
    """The smallest grey level at or below which at least ``share`` of the pixels lie."""
    return int(np.searchsorted(np.cumsum(counts), math.ceil(share * int(counts.sum()))))


def _reduced(image_SS: NDArray[np.uint8], inside_SS: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    if image_SS.shape[0] <= FIGURE_SIDE_PX:
        return image_SS, inside_SS
    size, box = (FIGURE_SIDE_PX, FIGURE_SIDE_PX), Image.Resampling.BOX
    image = np.asarray(Image.fromarray(image_SS).resize(size, box))
    return image, np.asarray(Image.fromarray(inside_SS.astype(np.uint8) * 255).resize(size, box)) >= 128


def _texture(image_SS: NDArray[np.uint8], inside_SS: NDArray[np.bool_]) -> tuple[float, float]:
    """(sharpness, smear), away from the rim, whose edge is none of the tissue's."""
    core = ndimage.binary_erosion(inside_SS, np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), bool))
    if not core.any():
        return 0.0, 1.0
    smooth_SS = _smoothed(image_SS)
    up, down, left, right = (np.roll(smooth_SS, shift, axis)[core] for axis in (0, 1) for shift in (1, -1))
    here = smooth_SS[core]
    variance = _scaled_variance(here)
    sharpness = _scaled_variance(up + down + left + right - 4 * here) / variance if variance else 0.0
    return sharpness, _anisotropy(right - left, down - up)


def _smoothed(image_SS: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Binomial smoothing in fixed point with 8 bits behind the point."""
    smooth = image_SS.astype(np.int64) << 8
    for _ in range(SMOOTHING):
        for axis in (0, 1):
            smooth = np.roll(smooth, 1, axis) + 2 * smooth + np.roll(smooth, -1, axis)
        smooth = (smooth + 8) >> 4
    return smooth


def _scaled_variance(values: NDArray[np.int64]) -> int:
    """n² times the variance, exactly."""
    return len(values) * int((values * values).sum()) - int(values.sum()) ** 2


def _anisotropy(gx: NDArray[np.int64], gy: NDArray[np.int64]) -> float:
    """Ratio of the structure tensor's eigenvalues; 1 where no direction is preferred."""
    xx, yy, xy = int((gx * gx).sum()), int((gy * gy).sum()), int((gx * gy).sum())
    spread = math.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    largest, smallest = xx + yy + spread, xx + yy - spread
    if largest <= 0:
        return 1.0
    return min(largest / smallest, LARGEST_SMEAR) if smallest > 0 else LARGEST_SMEAR
