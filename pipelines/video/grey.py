"""Grey levels of decoded pictures, in integers: the same on every processor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.video.faults import fault

RED, GREEN, BLUE = 19595, 38470, 7471  # BT.601 luma times 2**16; they add up to 2**16


def luma_of_rgb(rgb_HWC: NDArray[Any]) -> NDArray[Any]:
    """(H, W) of the same type, rounded to nearest; a fourth channel is transparency and is ignored."""
    sum_HW = np.full(rgb_HWC.shape[:2], 1 << 15, np.uint32)  # holds 16 bits of level times 16 bits of weight
    for channel, weight in enumerate((RED, GREEN, BLUE)):
        sum_HW += rgb_HWC[..., channel] * np.uint32(weight)
    luma_HW: NDArray[Any] = (sum_HW >> 16).astype(rgb_HWC.dtype)
    return luma_HW


def levels_of(picture: NDArray[Any]) -> NDArray[Any]:
    """(H, W) as uint8, uint16 or int16 from grey (H, W), colour (H, W, C) or set bits (H, W)."""
    picture = picture.astype(picture.dtype.newbyteorder("="), copy=False)
    if picture.ndim == 3 and picture.shape[-1] in (3, 4) and picture.dtype in (np.uint8, np.uint16):
        return luma_of_rgb(picture)
    if picture.ndim == 2 and picture.dtype == np.bool_:
        return picture.astype(np.uint8) * np.uint8(255)
    if picture.ndim == 2 and picture.dtype == np.int8:
        return picture.astype(np.int16)
    if picture.ndim == 2 and picture.dtype in (np.uint8, np.uint16, np.int16):
        return np.ascontiguousarray(picture)
    raise fault("unsupported_pixels", f"The pictures are {picture.dtype.name} in {picture.ndim} dimensions.")
