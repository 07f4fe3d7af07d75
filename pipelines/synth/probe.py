"""The instrument: a fibre bundle that drifts over tissue and sees it through a few thousand cores.

Each frame samples the plane at the cores only, spoils those samples, and spreads them over the pixel grid:
this gives the honeycomb, the fixed pattern and the limited resolution of a real bundle at once.
Coordinates are (row, column) in pixels. N cores, F frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from pipelines.synth.structures import Image
from pipelines.synth.tissue import Mask

Points = NDArray[np.float64]

DIAGNOSTIC, DARK, SATURATED, SMEARED = "diagnostic", "dark", "saturated", "smeared"
FAULTS = (DARK, SATURATED, SMEARED)
SMEAR_LENGTH = (0.22, 0.34)  # of the frame's side, travelled while one frame is scanned
SMEAR_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Optics:
    """One patient's instrument. Levels in units of full scale, lengths in units of the frame's side."""

    centre: tuple[float, float]  # of the field of view
    radius: float
    core_turn: float  # radians
    honeycomb: float  # how dark it gets between the cores, 0 to 1
    fixed_pattern: float  # spread of the cores' own transmission
    gain: float
    offset: float
    gamma: float
    shot_noise: float  # standard deviation at full scale; grows with the root of the signal
    read_noise: float
    smear: float  # travelled while any frame is scanned, also a diagnostic one


@dataclass(frozen=True, kw_only=True, eq=False)
class FibreBundle:
    cores: Points  # N2
    transmission: NDArray[np.float64]  # N
    nearest: NDArray[np.intp]  # HWK: the K = 3 cores around a pixel
    weights: NDArray[np.float64]  # HWK
    honeycomb: Image  # HW: transmission of a pixel by its distance to a core, 0 outside the disc
    view: Mask  # HW: the field of view


def fibre_bundle(rng: np.random.Generator, optics: Optics, *, size_px: int) -> FibreBundle:
    """A slightly irregular hexagonal lattice of cores, and how every pixel of a frame is made of them."""
    pitch_px = core_pitch_px(size_px)
    centre_px, radius_px = np.array(optics.centre) * size_px, optics.radius * size_px
    cores_N2 = _hexagonal(pitch_px, radius_px + pitch_px, optics.core_turn) + centre_px
    cores_N2 = cores_N2 + rng.normal(0.0, 0.07 * pitch_px, cores_N2.shape)
    pixels_HW2 = np.stack(np.meshgrid(np.arange(size_px), np.arange(size_px), indexing="ij"), axis=-1)
    distance_HWK, nearest_HWK = spatial.cKDTree(cores_N2).query(pixels_HW2, k=3)
    weights_HWK = 1.0 / (distance_HWK / pitch_px + 0.15) ** 2
    view_HW = np.hypot(*np.moveaxis(pixels_HW2 - centre_px, -1, 0)) <= radius_px
    honeycomb_HW = 1.0 - optics.honeycomb * np.clip(distance_HWK[..., 0] / (0.577 * pitch_px), 0.0, 1.0) ** 2
    return FibreBundle(
        cores=cores_N2,
        transmission=np.clip(1.0 + optics.fixed_pattern * rng.standard_normal(len(cores_N2)), 0.4, 1.6),
        nearest=nearest_HWK.astype(np.intp),
        weights=weights_HWK / weights_HWK.sum(axis=-1, keepdims=True),
        honeycomb=np.where(view_HW, honeycomb_HW, 0.0),
        view=view_HW,
    )


def core_pitch_px(size_px: int) -> float:
    """Distance between cores: about 58 across the disc, but never so close that the grid hides them."""
    return max(2.2, size_px / 62.0)


def drift(
    rng: np.random.Generator, *, frames: int, travel_px: float, jitter_px: float, room_px: float
) -> NDArray[np.float64]:
    """F 2 offsets of the frame's corner on the plane, in [0, room_px]: a slow curve plus jitter."""
    time = np.linspace(0.0, 1.0, frames)[:, None]
    heading = rng.uniform(0, 2 * np.pi)
    line = np.array([np.cos(heading), np.sin(heading)]) * (time - 0.5)
    sway = 0.18 * np.sin(2 * np.pi * (rng.uniform(0.6, 1.4, 2) * time + rng.uniform(0, 1, 2)))
    path_F2 = 0.5 * room_px + travel_px * (line + sway) + rng.normal(0, jitter_px, (frames, 2))
    return np.clip(path_F2, 0.0, room_px)


def faults(rng: np.random.Generator, *, frames: int, first_fault: int) -> tuple[str, ...]:
    """What is wrong with each frame: 15-25 % in runs of two or three neighbours, the kinds taking turns."""
    kinds = [DIAGNOSTIC] * frames
    left, turn = max(1, round(frames * float(rng.uniform(0.15, 0.25)))), first_fault
    while left:
        length = left if left <= 3 else 2
        free = [
            start
            for start in range(frames - length + 1)
            if all(kind == DIAGNOSTIC for kind in kinds[max(0, start - 1) : start + length + 1])
        ]
        start = int(rng.choice(free))
        kinds[start : start + length] = [FAULTS[turn % len(FAULTS)]] * length
        left, turn = left - length, turn + 1
    return tuple(kinds)


def look(
    rng: np.random.Generator,
    bundle: FibreBundle,
    optics: Optics,
    plane_HW: Image,
    corner_2: Points,
    *,
    fault: str,
) -> NDArray[np.uint8]:
    """One H W frame with its corner at ``corner_2`` on the plane; exactly 0 outside the field of view."""
    length = SMEAR_LENGTH if fault == SMEARED else (optics.smear, optics.smear)
    signal_N = _samples(rng, bundle, plane_HW, corner_2, smear=length) * bundle.transmission
    signal_N = optics.offset + optics.gain * float(rng.normal(1.0, 0.03)) * signal_N
    signal_N = signal_N * _exposure(rng, fault)
    spread_N = optics.read_noise + optics.shot_noise * np.sqrt(np.clip(signal_N, 0.0, 1.5))
    signal_N = signal_N + spread_N * rng.standard_normal(len(signal_N))
    frame_HW = (signal_N[bundle.nearest] * bundle.weights).sum(axis=-1) * bundle.honeycomb
    frame_HW = np.clip(frame_HW, 0.0, 1.0) ** optics.gamma
    return np.where(bundle.view, np.rint(255.0 * frame_HW), 0.0).astype(np.uint8)


def planted(bundle: FibreBundle, mask_HW: Mask, corner_2: Points) -> Mask:
    """The planted structure as this frame sees it: H W, to the nearest pixel."""
    top, left = (int(edge) for edge in np.rint(corner_2))
    rows, columns = bundle.view.shape
    return mask_HW[top : top + rows, left : left + columns] & bundle.view


def _exposure(rng: np.random.Generator, fault: str) -> float:
    if fault == DARK:
        return float(rng.uniform(0.03, 0.10))
    return float(rng.uniform(3.5, 6.0)) if fault == SATURATED else 1.0


def _samples(
    rng: np.random.Generator, bundle: FibreBundle, plane_HW: Image, corner_2: Points, *, smear: tuple[float, float]
) -> NDArray[np.float64]:
    """N brightnesses under the cores; a smeared frame averages over a path centred on its corner."""
    if not any(smear):
        return _under(plane_HW, bundle.cores + corner_2)
    side_px, heading = bundle.view.shape[0], rng.uniform(0, 2 * np.pi)
    path_px = np.linspace(-0.5, 0.5, SMEAR_STEPS) * rng.uniform(*smear) * side_px
    step_2 = np.array([np.sin(heading), np.cos(heading)])
    seen_SN = np.stack([_under(plane_HW, bundle.cores + corner_2 + s * step_2) for s in path_px])
    return np.asarray(seen_SN.mean(axis=0))


def _under(plane_HW: Image, points_N2: Points) -> NDArray[np.float64]:
    return np.asarray(ndimage.map_coordinates(plane_HW, points_N2.T, order=1, mode="reflect"))


def _hexagonal(pitch_px: float, reach_px: float, turn: float) -> Points:
    """N 2 points of a hexagonal lattice around the origin, out to ``reach_px``."""
    steps = int(reach_px / (pitch_px * 0.866)) + 2
    row, column = (index.ravel() for index in np.mgrid[-steps : steps + 1, -steps : steps + 1])
    y, x = row * pitch_px * np.sqrt(0.75), (column + 0.5 * (row % 2)) * pitch_px
    points_N2 = np.stack([y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)], axis=1)
    return np.asarray(points_N2[np.hypot(points_N2[:, 0], points_N2[:, 1]) <= reach_px])
