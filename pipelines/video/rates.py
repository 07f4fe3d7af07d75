"""How many frames a second, as files say it."""

from __future__ import annotations

import math
from typing import Any

UNKNOWN_HZ = 1.0
"""A clip that does not say its rate is counted at a frame a second."""


def positive(value: Any) -> float:
    """A finite number above 0, or 0 for anything else that a file may say."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if 0 < number < math.inf else 0.0
