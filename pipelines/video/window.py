"""Measurements of 16 bits to grey levels: a linear window between two percentiles inside the field of view.

The window comes from a bounded sample of frames spread evenly over the clip, and from integers only, so one
file and one rule give one window everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.video import fov
from pipelines.video.frame import RawFrame

SAMPLE_FRAMES = 32
SAMPLE_BYTES = 64 << 20
CODES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Percentiles of the levels inside the field of view that become black and white."""

    low: float = 0.5
    high: float = 99.5


STANDARD = Rule()


@dataclass(frozen=True)
class Window:
    """Levels at and below ``low`` become 0, at and above ``high`` 255."""

    low: int
    high: int

    def apply(self, levels_HW: NDArray[Any]) -> NDArray[np.uint8]:
        table = self._of_signed if levels_HW.dtype == np.int16 else self._of_unsigned
        return np.take(table, levels_HW.view(np.uint16))

    @cached_property
    def _of_signed(self) -> NDArray[np.uint8]:
        return self._table(np.arange(CODES, dtype=np.uint16).view(np.int16))

    @cached_property
    def _of_unsigned(self) -> NDArray[np.uint8]:
        return self._table(np.arange(CODES, dtype=np.uint16))

    def _table(self, codes: NDArray[Any]) -> NDArray[np.uint8]:
        """Rounded to nearest."""
        span = max(1, self.high - self.low)
        above = np.clip(codes.astype(np.int64) - self.low, 0, span)
        return ((above * 255 * 2 + span) // (2 * span)).astype(np.uint8)


def of_frames(frames: Iterable[RawFrame], rule: Rule) -> Window:
    """The window of a clip; reads it to its end and holds at most a sample of it."""
    sample = _sample(frames)
    flat = Window(int(min(levels.min() for levels in sample)), _percentile(sample, None, 99.5))
    view = fov.find_field_of_view(fov.brightest(flat.apply(levels) for levels in sample))
    inside = view.mask(sample[0].shape)
    return Window(_percentile(sample, inside, rule.low), _percentile(sample, inside, rule.high))


def _sample(frames: Iterable[RawFrame]) -> list[NDArray[Any]]:
    """Every frame, every second, every fourth ...: the most that fit, spread over the whole clip."""
    kept: list[NDArray[Any]] = []
    step = 1
    for index, frame in enumerate(frames):
        if index % step:
            continue
        if kept and len(kept) == max(2, min(SAMPLE_FRAMES, SAMPLE_BYTES // kept[0].nbytes)):
            kept, step = kept[::2], 2 * step
            if index % step:
                continue
        kept.append(frame.levels_HW)
    return kept


def _percentile(sample: list[NDArray[Any]], inside: NDArray[np.bool_] | None, percent: float) -> int:
    """The smallest level at or below which that share of the sample lies."""
    counts = np.zeros(CODES, dtype=np.int64)
    offset = CODES // 2 if sample[0].dtype == np.int16 else 0
    for levels in sample:
        seen = levels if inside is None else levels[inside]
        counts += np.bincount(seen.ravel().astype(np.int64) + offset, minlength=CODES)
    rank = max(1, math.ceil(int(counts.sum()) * percent / 100))
    return int(np.searchsorted(np.cumsum(counts), rank)) - offset
