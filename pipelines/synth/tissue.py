"""A plane of tissue, larger than the field of view, with foci of one class planted in it.

Everything outside the foci is drawn the same way for every class. Inside them only the arrangement differs:
textures are standardised, so that brightness and contrast say nothing about the class.
Lengths are fractions of ``size_px``, the side of a frame, so that a phantom looks alike at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.synth import structures
from pipelines.synth.structures import Draw, Image

Mask = NDArray[np.bool_]

FOCUS_SPACING = 0.60  # between neighbouring foci, of the frame's side: about two in view
FOCUS_RADIUS = (0.156, 0.194)


@dataclass(frozen=True, kw_only=True)
class TissueStyle:
    """What one patient's tissue has in common: unitless levels, where 1.0 is a full display scale."""

    focus_lift: float  # how much brighter foci are on average
    focus_contrast: float  # standard deviation of the structure inside a focus
    background_level: float
    autofluorescence: float  # standard deviation of the slow background
    vessel_depth: float  # fraction of light a vessel takes away


@dataclass(frozen=True, kw_only=True, eq=False)
class TissuePlane:
    brightness: Image  # HW, 0 to 1
    mask: Mask  # HW, where a focus is planted


def tissue_plane(
    rng: np.random.Generator, draw: Draw, style: TissueStyle, *, side_px: int, size_px: int
) -> TissuePlane:
    """Draw ``side_px`` square pixels of tissue for frames of ``size_px``."""
    background = _background(rng, style, side_px=side_px, size_px=size_px)
    structure, cover = _foci(rng, draw, side_px=side_px, size_px=size_px)
    planted = style.background_level + style.focus_lift + style.focus_contrast * structure
    # A little of the background shines through the foci; vessels run below them.
    brightness = (1.0 - cover) * background + cover * (0.8 * planted + 0.2 * background)
    return TissuePlane(brightness=np.clip(brightness, 0.0, 1.0), mask=cover > 0.5)


def _background(rng: np.random.Generator, style: TissueStyle, *, side_px: int, size_px: int) -> Image:
    slow = _noise_field(rng, side_px, sigma_px=0.11 * size_px)
    medium = _noise_field(rng, side_px, sigma_px=0.022 * size_px)
    light = style.background_level + style.autofluorescence * (slow + 0.42 * medium)
    light += 0.16 * _distractors(rng, side_px=side_px, size_px=size_px)
    return np.asarray(light * (1.0 - style.vessel_depth * _vessels(rng, side_px=side_px, size_px=size_px)))


def _distractors(rng: np.random.Generator, *, side_px: int, size_px: int) -> Image:
    """Lone cells and stray fibres, found in every class: a single dot or line must prove nothing."""
    area = (side_px / size_px) ** 2
    light = np.zeros((side_px, side_px))
    for _ in range(int(rng.poisson(14 * area))):
        top, left = rng.uniform(0, side_px, 2)
        patch, (v, u) = _patch(light, float(top), float(left), 0.05 * size_px)
        radius_px = rng.uniform(0.010, 0.022) * size_px
        light[patch] += rng.uniform(0.5, 1.0) * np.exp(-0.5 * (u * u + v * v) / radius_px**2)
    stray = np.zeros((side_px, side_px))
    for _ in range(int(rng.poisson(5 * area))):
        path_K2 = _crossing_path(rng, length_px=0.5 * size_px, side_px=side_px)
        _mark(stray, path_K2, rng.uniform(0.5, 1.0))
    fibre_px = 0.008 * size_px
    return np.asarray(light + 2.5 * fibre_px * ndimage.gaussian_filter(stray, fibre_px))


def _vessels(rng: np.random.Generator, *, side_px: int, size_px: int) -> Image:
    """0 outside, towards 1 on the axis of a few dark, curved tubes."""
    depth = np.zeros((side_px, side_px))
    for _ in range(int(rng.integers(2, 5))):
        axis = np.zeros((side_px, side_px))
        _mark(axis, _crossing_path(rng, length_px=2.4 * side_px, side_px=side_px), 1.0)
        distance_px = ndimage.distance_transform_edt(axis == 0)
        radius_px = rng.uniform(0.014, 0.034) * size_px
        depth = np.maximum(depth, 1.0 / (1.0 + (distance_px / radius_px) ** 4))
    return depth


def _foci(rng: np.random.Generator, draw: Draw, *, side_px: int, size_px: int) -> tuple[Image, Image]:
    """(structure, cover): standardised structure, and the share of a pixel's light that a focus gives."""
    structure, cover = np.zeros((side_px, side_px)), np.zeros((side_px, side_px))
    spacing_px = FOCUS_SPACING * size_px
    origin_2 = rng.uniform(-1.0, 0.0, 2)  # no place on the plane is more likely than another
    for row, column in np.ndindex(2 * (int(side_px / spacing_px) + 3,)):
        # Every second row is shifted by half a step: an even spread from every point of view.
        place_px = (origin_2 + np.array([row, column - 0.5 * (row % 2)]) + rng.uniform(-0.15, 0.15, 2)) * spacing_px
        radius_px = rng.uniform(*FOCUS_RADIUS) * size_px
        patch, (v_px, u_px) = _patch(cover, float(place_px[0]), float(place_px[1]), 1.3 * radius_px)
        if u_px.size == 0:
            continue
        u, v = u_px / radius_px, v_px / radius_px
        focus_cover = _focus_cover(rng, u, v)
        drawn = _standard(draw(rng, u, v), u, v)
        structure[patch] = np.where(focus_cover > cover[patch], drawn, structure[patch])
        cover[patch] = np.maximum(cover[patch], focus_cover)
    return structure, cover


def mixed(own: Draw, others: Sequence[Draw], *, largest_share: float) -> Draw:
    """A focus with a random share, from 0 to ``largest_share``, of one of the ``others``' structure in it."""

    def draw(rng: np.random.Generator, u: Image, v: Image) -> Image:
        share, other = rng.uniform(0.0, largest_share), others[int(rng.integers(len(others)))]
        return (1.0 - share) * _standard(own(rng, u, v), u, v) + share * _standard(other(rng, u, v), u, v)

    return draw


def _focus_cover(rng: np.random.Generator, u: Image, v: Image) -> Image:
    """A soft, irregular outline around the unit disc."""
    angle = np.arctan2(v, u)
    outline = 1.0 + 0.0 * angle
    for order in (2, 3, 4):
        outline += 0.06 * rng.standard_normal() * np.cos(order * angle + rng.uniform(0, structures.TAU))
    return np.asarray(np.clip((outline + 0.06 - np.hypot(u, v)) / 0.12, 0.0, 1.0))


def _standard(texture: Image, u: Image, v: Image) -> Image:
    """Mean 0 and standard deviation 1 within the focus: no class is brighter or rougher than another."""
    inside = texture[np.hypot(u, v) < 1.0]
    if inside.size < 16:  # only the corner of a focus lies on the plane
        return np.zeros_like(texture)
    return np.asarray(np.clip((texture - inside.mean()) / (inside.std() + 1e-9), -2.0, 2.6))


def _noise_field(rng: np.random.Generator, side_px: int, *, sigma_px: float) -> Image:
    """Smooth noise, mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal((side_px, side_px)), sigma_px, mode="wrap")
    return np.asarray((field - field.mean()) / field.std())


def _crossing_path(rng: np.random.Generator, *, length_px: float, side_px: int) -> NDArray[np.float64]:
    """K 2 points (column, row), half a pixel apart, of a curve through a random place on the plane."""
    u0, v0 = rng.uniform(0.0, side_px, 2)
    angle = rng.uniform(0, structures.TAU)
    u1, v1 = u0 - 0.5 * length_px * np.cos(angle), v0 - 0.5 * length_px * np.sin(angle)
    coarse_K2 = structures.curve(rng, float(u1), float(v1), float(angle), length=length_px, bend=1.2)
    positions = np.linspace(0, len(coarse_K2) - 1, int(2 * length_px) + 2)
    knots = np.arange(len(coarse_K2))
    return np.stack([np.interp(positions, knots, coarse_K2[:, axis]) for axis in (0, 1)], axis=1)


def _mark(canvas: Image, path_K2: NDArray[np.float64], value: float) -> None:
    """Set the pixels under a path (column, row); what lies off the canvas is dropped."""
    points = np.round(path_K2).astype(np.intp)
    inside = ((points >= 0) & (points < canvas.shape[0])).all(axis=1)
    canvas[points[inside, 1], points[inside, 0]] = value


def _patch(
    canvas: Image, row_px: float, column_px: float, reach_px: float
) -> tuple[tuple[slice, slice], tuple[Image, Image]]:
    """The window of ``canvas`` within ``reach_px`` of a point, and pixel offsets (v, u) from there."""
    side_px = canvas.shape[0]
    rows, columns = (
        slice(max(0, int(centre - reach_px)), max(0, min(side_px, int(centre + reach_px) + 1)))
        for centre in (row_px, column_px)
    )
    v, u = np.meshgrid(
        np.arange(rows.start, rows.stop) - row_px,
        np.arange(columns.start, columns.stop) - column_px,
        indexing="ij",
    )
    return (rows, columns), (v, u)
