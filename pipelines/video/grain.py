"""The noise of a frame, in grey levels. Other figures of quality are taken from a smoothed picture and cannot see it.

Immerkær's estimate (1996): what a difference of two Laplacians leaves of a picture is noise, edges aside. S pixels a
side.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.int32)
_SCALE = math.sqrt(math.pi / 2) / 6  # mean absolute residual of Gaussian noise to its standard deviation


def grain(images_NSS: NDArray[np.uint8], inside_SS: NDArray[np.bool_]) -> list[float]:
    """Standard deviation of white noise that would leave as much; 0 where the field of view is too small."""
    core_SS = ndimage.binary_erosion(inside_SS, np.ones((3, 3), bool))
    if not core_SS.any():
        return [0.0] * len(images_NSS)
    return [
        _SCALE * float(np.abs(ndimage.convolve(image_SS.astype(np.int32), _MASK))[core_SS].mean())
        for image_SS in images_NSS
    ]
