"""What every picture of a report paints with: colours, frames at the size they are drawn in, text.

S: side of a frame in pixels; L: side as drawn.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

TEXT_PX = 12
MAX_ALPHA = 0.8

INK = (27, 36, 48)
MUTED = (91, 102, 115)
PAPER = (255, 255, 255)
OUTSIDE = (13, 17, 23)


def resized(
    values_SS: NDArray[np.generic], side_px: int, how: Image.Resampling = Image.Resampling.BILINEAR
) -> NDArray[np.float32]:
    """Any values, as many pixels a side as asked."""
    picture = Image.fromarray(np.nan_to_num(values_SS.astype(np.float32)))
    return np.asarray(picture.resize((side_px, side_px), how), np.float32)


def grey(image_SS: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """A frame as it is drawn, (L, L, 3)."""
    grey_LL = np.clip(resized(image_SS, side_px, Image.Resampling.BICUBIC), 0, 255).round().astype(np.uint8)
    return np.repeat(grey_LL[..., None], 3, axis=2)


def blend(
    frame_LL3: NDArray[np.uint8], saliency_LL: NDArray[np.float32], fov_LL: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Colour where there is evidence, the bare frame where there is none."""
    strength_LL = np.clip(saliency_LL, 0, 1) * fov_LL
    alpha_LL1 = (MAX_ALPHA * strength_LL)[..., None]
    blended: NDArray[np.uint8] = (
        ((1 - alpha_LL1) * frame_LL3 + alpha_LL1 * colours(strength_LL)).round().astype(np.uint8)
    )
    return blended


def colours(strength: NDArray[np.floating]) -> NDArray[np.floating]:
    """inferno: even steps of lightness, legible without colour vision. Its black foot is left out."""
    rgba: NDArray[np.floating] = matplotlib.colormaps["inferno"](0.25 + 0.7 * strength)
    return 255 * rgba[..., :3]


def pixels(pixels_LL3: NDArray[np.uint8], fov_LL: NDArray[np.bool_]) -> Image.Image:
    """What lies outside the field of view is dark."""
    return Image.fromarray(np.where(fov_LL[..., None], pixels_LL3, np.array(OUTSIDE, np.uint8)))


def fit(line: str, width_px: int) -> str:
    """The line, cut short where it is too long."""
    if font(TEXT_PX).getlength(line) <= width_px:
        return line
    while line and font(TEXT_PX).getlength(line + "…") > width_px:
        line = line[:-1]
    return line + "…"


@cache
def font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu as matplotlib ships it, so that a sheet looks the same on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size_px)
