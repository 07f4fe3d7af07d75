"""Is a frame fit to be judged? Figures inside the field of view, and the reason when it is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.params import ExtractParams

SATURATED_LEVEL = 250
RIM_PX = 3
"""The bright edge of the field of view is no tissue structure."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one stored frame; names and units as in schemas.frames."""

    mean: float
    contrast: float
    saturated: float
    sharpness: float
    smear: float

    def as_row(self) -> dict[str, float]:
        return asdict(self)


def measure(image_SS: NDArray[np.uint8], inside_SS: NDArray[np.bool_]) -> Quality:
    """Brightness and contrast over the whole field of view; structure away from its rim."""
    pixels = image_SS[inside_SS]
    low, high = np.percentile(pixels, [5, 95])
    core_SS = ndimage.binary_erosion(inside_SS, iterations=RIM_PX)
    picture_SS = image_SS.astype(np.float64)
    return Quality(
        mean=float(pixels.mean()),
        contrast=float(high - low),
        saturated=float((pixels >= SATURATED_LEVEL).mean()),
        sharpness=_sharpness(picture_SS, core_SS),
        smear=_smear(picture_SS, core_SS),
    )


def judge(quality: Quality, params: ExtractParams) -> str | None:
    """The first reason of schemas.REASONS against keeping a frame, or None."""
    reasons = {
        "dark": quality.mean < params.min_mean,
        "saturated": quality.saturated > params.max_saturated,
        "flat": quality.contrast < params.min_contrast,
        "blurred": quality.sharpness < params.min_sharpness,
        "smeared": quality.smear > params.max_smear,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _sharpness(picture_SS: NDArray[np.float64], core_SS: NDArray[np.bool_]) -> float:
    """Variance of the Laplacian over variance of the image: fine structure against all structure."""
    values = picture_SS[core_SS]
    variance = values.var() if values.size else 0.0
    return float(ndimage.laplace(picture_SS)[core_SS].var() / variance) if variance > 0 else 0.0


def _smear(picture_SS: NDArray[np.float64], core_SS: NDArray[np.bool_]) -> float:
    """Ratio of the structure tensor's eigenvalues over the frame: motion leaves gradients across it only."""
    soft_SS = ndimage.gaussian_filter(picture_SS, 1.0)  # the honeycomb's grid is finer than tissue
    gy, gx = ndimage.sobel(soft_SS, 0)[core_SS], ndimage.sobel(soft_SS, 1)[core_SS]
    if not gx.size:
        return 1.0
    xx, yy, xy = (gx * gx).mean(), (gy * gy).mean(), (gx * gy).mean()
    spread = np.hypot((xx - yy) / 2, xy)
    centre = (xx + yy) / 2
    return float((centre + spread) / max(centre - spread, 1e-9)) if centre > 0 else 1.0
