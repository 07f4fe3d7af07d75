"""What every reader yields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One decoded frame: its place, its time in seconds as the stream gives it, grey levels 0..255 (H, W)."""

    index: int
    pts_seconds: float
    luma_HW: NDArray[np.uint8]
