"""Grain is the noise that was added, whatever lies under it."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.video.grain import grain

SIDE_PX = 96


@pytest.mark.parametrize("deviation", [3.0, 8.0, 15.0])
@pytest.mark.parametrize("slope", [0.0, 0.7])
def test_it_is_the_standard_deviation_of_white_noise(deviation: float, slope: float) -> None:
    rng = np.random.default_rng(0)
    ground_SS = 80 + slope * np.mgrid[:SIDE_PX, :SIDE_PX][1]
    images_NSS = np.rint(ground_SS + rng.normal(0, deviation, (5, SIDE_PX, SIDE_PX))).clip(0, 255).astype(np.uint8)
    assert grain(images_NSS, np.ones((SIDE_PX, SIDE_PX), bool)) == pytest.approx([deviation] * 5, rel=0.05)


def test_the_rim_of_the_view_is_no_noise() -> None:
    inside_SS = np.hypot(*(np.mgrid[:SIDE_PX, :SIDE_PX] - 47.5)) < 40
    assert grain((100 * inside_SS).astype(np.uint8)[None], inside_SS) == [0.0]
    assert grain(np.zeros((2, SIDE_PX, SIDE_PX), np.uint8), np.zeros((SIDE_PX, SIDE_PX), bool)) == [0.0, 0.0]
