"""How the report page writes numbers: a dash where there is no value, never 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"
MINUS = "−"
THIN_SPACE = "\u202f"


def number(value: Any) -> str:
    """Three decimals; a dash where there is no value."""
    return NONE if not is_finite(value) else f"{value:.3f}".replace("-", MINUS)


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}".replace(",", THIN_SPACE)


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.0f}{THIN_SPACE}%"


def span(interval: Sequence[float] | None) -> str:
    return NONE if interval is None else between(*interval)


def between(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{number(low)} – {number(high)}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def tally(counts: Mapping[str, int]) -> str:
    """in-vivo 3, ex-vivo 12"""
    return ", ".join(f"{name or 'unnamed'} {count(value)}" for name, value in counts.items()) or NONE


def plain(value: Any) -> str:
    match value:
        case None:
            return NONE
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}".replace("-", MINUS) if math.isfinite(value) else NONE
        case list() | tuple():
            return ", ".join(map(plain, value)) or NONE
        case Mapping():
            return NONE
        case _:
            return str(value)


def is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
