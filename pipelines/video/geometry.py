"""The field of view in stored pixels, as plain numbers: what training and serving need, without a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMNS = ["fov_x0", "fov_y0", "fov_x1", "fov_y1", "fov_cx", "fov_cy", "fov_radius"]
UNCUT = 1.96
"""Smallest extent, in radii, of a disc that no border cuts."""


def inside_mask(geometry: Mapping[str, Any], side_px: int) -> NDArray[np.bool_]:
    """Pixels (side, side) whose centre lies in the box and, where there is a radius, in the disc."""
    centres = np.arange(side_px) + 0.5
    x, y = centres[None, :], centres[:, None]
    inside: NDArray[np.bool_] = (
        (x >= geometry["fov_x0"]) & (x < geometry["fov_x1"]) & (y >= geometry["fov_y0"]) & (y < geometry["fov_y1"])
    )
    radius = geometry["fov_radius"]
    if radius is None or np.isnan(radius):
        return inside
    disc: NDArray[np.bool_] = (x - geometry["fov_cx"]) ** 2 + (y - geometry["fov_cy"]) ** 2 <= radius**2
    return inside & disc


def shape(geometry: Mapping[str, Any]) -> str:
    """``disc``, ``cropped disc`` or ``rectangle``; scale does not matter."""
    radius = geometry["fov_radius"]
    if radius is None:
        return "rectangle"
    extent = min(geometry["fov_x1"] - geometry["fov_x0"], geometry["fov_y1"] - geometry["fov_y0"])
    return "disc" if extent >= UNCUT * radius else "cropped disc"
