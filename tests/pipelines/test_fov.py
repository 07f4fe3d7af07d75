"""The field of view of planted outlines, its stored geometry, and frames judged by planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines import schemas
from pipelines.params import ExtractParams
from pipelines.video import fov, geometry, quality

HEIGHT_PX, WIDTH_PX, SIDE_PX = 336, 464, 96
Y, X = np.mgrid[:HEIGHT_PX, :WIDTH_PX] + 0.5
PARAMS = ExtractParams(
    side_px=SIDE_PX,
    window_low=0.5,
    window_high=99.5,
    min_mean=18,
    max_saturated=0.04,
    min_contrast=20,
    min_sharpness=0.015,
    max_smear=1.95,
    min_change=0.5,
)


def planted(inside_HW: NDArray[np.bool_], *, noise: int = 3) -> NDArray[np.uint8]:
    """Uneven tissue in ``inside_HW``, faint compression noise outside."""
    rng = np.random.default_rng(0)
    tissue = rng.integers(60, 200, inside_HW.shape)
    return np.where(inside_HW, tissue, rng.integers(0, noise + 1, inside_HW.shape)).astype(np.uint8)


def disc(cx: float, cy: float, radius: float) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(X - cx, Y - cy) <= radius)


@pytest.mark.parametrize(
    ("cx", "cy", "radius", "shape"),
    [(230.3, 170.6, 150.2, "disc"), (232, 168, 200, "cropped disc"), (100, 168, 150, "cropped disc")],
)
def test_a_round_field_of_view_is_found_to_the_pixel(cx: float, cy: float, radius: float, shape: str) -> None:
    view = fov.find_field_of_view(planted(disc(cx, cy, radius)))
    assert view.radius is not None
    assert (view.cx, view.cy, view.radius) == pytest.approx((cx, cy, radius), abs=1.0)
    assert geometry.shape(view.stored(SIDE_PX)) == shape


def test_a_rectangle_is_found_to_the_pixel() -> None:
    view = fov.find_field_of_view(planted((X > 40) & (X < 400) & (Y > 30) & (Y < 300)))
    assert (view.x0, view.y0, view.x1, view.y1) == pytest.approx((40, 30, 400, 300), abs=1.0)
    assert geometry.shape(view.stored(SIDE_PX)) == "rectangle"


def test_a_picture_without_light_is_taken_whole() -> None:
    view = fov.find_field_of_view(np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8))
    assert (view.x0, view.y0, view.x1, view.y1) == (0, 0, WIDTH_PX, HEIGHT_PX)


def test_burnt_in_text_neither_moves_the_view_nor_is_stored() -> None:
    picture = planted(disc(232, 168, 150))
    picture[10:24, 10:90] = 255
    view = fov.find_field_of_view(picture)
    assert (view.cx, view.cy) == pytest.approx((232, 168), abs=1.0)
    assert not fov.resample(picture, view, SIDE_PX)[~view.inside(SIDE_PX)].any()


def test_everything_outside_is_zero_and_the_inside_is_lit() -> None:
    picture = np.full((HEIGHT_PX, WIDTH_PX), 255, np.uint8)
    view = fov.find_field_of_view(planted(disc(232, 168, 150)))
    stored_SS, inside_SS = fov.resample(picture, view, SIDE_PX), view.inside(SIDE_PX)
    assert stored_SS.shape == inside_SS.shape == (SIDE_PX, SIDE_PX)
    assert not stored_SS[~inside_SS].any()
    assert (stored_SS[inside_SS] > 0).all()


def test_stored_geometry_gives_the_mask_again_from_plain_numbers() -> None:
    view = fov.find_field_of_view(planted(disc(232, 168, 200)))
    columns = view.stored(SIDE_PX)
    assert list(columns) == geometry.COLUMNS
    assert np.array_equal(geometry.inside_mask(columns, SIDE_PX), view.inside(SIDE_PX))


def test_a_mask_pixel_belongs_with_half_of_its_area() -> None:
    view = fov.find_field_of_view(np.full((SIDE_PX * 2, SIDE_PX * 2), 200, np.uint8))
    mask_HW = np.zeros((SIDE_PX * 2, SIDE_PX * 2), bool)
    mask_HW[0, 0:2] = True  # two of four source pixels
    mask_HW[10, 10] = True  # one of four
    stored_SS = fov.resample_mask(mask_HW, view, SIDE_PX)
    assert stored_SS[0, 0]
    assert stored_SS.sum() == 1


def smooth_noise(rng: np.random.Generator, *, along: int = 1) -> NDArray[np.uint8]:
    """Blobs; ``along`` averages them over as many pixels of a row, as motion does."""
    field = rng.standard_normal((SIDE_PX, SIDE_PX))
    for axis in (0, 1):
        field = sum(np.roll(field, shift, axis) for shift in range(-2, 3))
    field = sum(np.roll(field, shift, 1) for shift in range(along))
    return np.clip(110 + 25 * (field - field.mean()) / field.std(), 0, 249).astype(np.uint8)


FAULTS: dict[str | None, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    None: lambda image: image,
    "dark": lambda image: image // 20,
    "saturated": lambda image: np.where(image > 120, 255, image).astype(np.uint8),
    "flat": lambda image: (100 + image // 40).astype(np.uint8),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_planted_fault_is_named(reason: str | None) -> None:
    inside_SS = np.hypot(*(np.mgrid[:SIDE_PX, :SIDE_PX] - 47.5)) < 46
    figures = quality.Gauge(inside_SS, PARAMS).measure(FAULTS[reason](smooth_noise(np.random.default_rng(1))))
    assert reason is None or reason in schemas.REASONS
    assert quality.judge(figures, PARAMS) == reason


def test_motion_in_any_direction_raises_smear() -> None:
    inside_SS = np.hypot(*(np.mgrid[:SIDE_PX, :SIDE_PX] - 47.5)) < 46
    still, moved = (smooth_noise(np.random.default_rng(2), along=along) for along in (1, 24))
    smear = [quality.Gauge(inside_SS, PARAMS).measure(image).smear for image in (still, moved, moved.T.copy())]
    assert smear[0] < 1.5 < 3.0 < smear[1]
    assert smear[2] == pytest.approx(smear[1], rel=1e-6)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_uniform_frame_has_finite_figures(level: int) -> None:
    image_SS = np.full((SIDE_PX, SIDE_PX), level, np.uint8)
    figures = quality.Gauge(np.ones((SIDE_PX, SIDE_PX), bool), PARAMS).measure(image_SS)
    assert all(np.isfinite(value) for value in asdict(figures).values() if value is not None)
    assert quality.judge(figures, PARAMS) is not None


@pytest.mark.parametrize("radius", [220, 240, 260])
def test_a_disc_that_fills_nearly_the_whole_frame_is_no_rectangle(radius: float) -> None:
    view = fov.find_field_of_view(planted(disc(232, 168, radius)))
    assert view.radius == pytest.approx(radius, abs=1.0)
    assert geometry.shape(view.stored(SIDE_PX)) == "cropped disc"
