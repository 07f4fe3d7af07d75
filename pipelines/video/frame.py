"""What readers yield, and what everything after them gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class RawFrame:
    """One decoded frame: its place, its time in seconds as the file gives it, its levels (H, W).

    Levels are uint8 where the file holds pictures to look at, 0..255, and uint16 or int16 where it holds
    measurements, which are windowed before anything else sees them.
    """

    index: int
    pts_seconds: float
    levels_HW: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame to work with: its place, its time in seconds, grey levels 0..255 (H, W)."""

    index: int
    pts_seconds: float
    luma_HW: NDArray[np.uint8]
