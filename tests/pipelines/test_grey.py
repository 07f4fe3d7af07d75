"""Luma of colours, exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pipelines.errors import VideoError
from pipelines.video.grey import levels_of, luma_of_rgb


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_luma_is_the_weighted_sum_rounded_to_nearest(kind: Any) -> None:
    rgb_HWC = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (20, 20, 3)).astype(kind)
    rgb_HWC[0, 0] = np.iinfo(kind).max
    sums = (19595 * int(red) + 38470 * int(green) + 7471 * int(blue) for red, green, blue in rgb_HWC.reshape(-1, 3))
    assert luma_of_rgb(rgb_HWC).ravel().tolist() == [int(Fraction(total, 1 << 16) + Fraction(1, 2)) for total in sums]
    assert luma_of_rgb(rgb_HWC)[0, 0] == np.iinfo(kind).max


def test_grey_written_as_colour_keeps_its_levels() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(levels_of(np.repeat(levels[..., None], 3, axis=2)), levels)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.float32), np.zeros((4, 4), np.int32), np.zeros((4, 4, 2), np.uint8)]
)
def test_other_samples_are_refused(picture: Any) -> None:
    with pytest.raises(VideoError) as caught:
        levels_of(picture)
    assert caught.value.code == "unsupported_pixels"
