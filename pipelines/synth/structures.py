"""The local structure of each tissue class, drawn inside one focus.

A focus is a patch of tissue in its own coordinates: ``u`` to the right, ``v`` down, 1.0 = the focus radius.
Every drawing function takes a generator and these two H W grids and returns an H W float64 texture.
Its scale is free: `tissue.py` gives all classes the same mean and spread; only *arrangement* differs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Image, Image], Image]

TAU = 2.0 * np.pi


def glioma(rng: np.random.Generator, u: Image, v: Image) -> Image:
    """Dense, pleomorphic, partly overlapping bright nuclei: sizes, shapes and brightness all vary."""
    texture = np.zeros_like(u)
    for _ in range(int(rng.integers(46, 64))):
        u0, v0 = _inside_disc(rng, 1.05)
        radius = float(np.clip(0.105 * np.exp(0.38 * rng.standard_normal()), 0.055, 0.22))
        nucleus = _soft_ellipse(u - u0, v - v0, radius, rng.uniform(0.45, 1.0), rng.uniform(0, np.pi))
        texture = np.maximum(texture, rng.uniform(0.45, 1.0) * nucleus)
    return texture


def meningioma(rng: np.random.Generator, u: Image, v: Image) -> Image:
    """A whorl: wavy, broken lamellae of spindle cells winding around an off-centre core."""
    u0, v0 = _inside_disc(rng, 0.25)
    stretched_u, stretched_v = _rotate(u - u0, v - v0, rng.uniform(0, np.pi))
    stretched_v = stretched_v / rng.uniform(0.68, 0.95)
    radius, angle = np.hypot(stretched_u, stretched_v), np.arctan2(stretched_v, stretched_u)
    winding = rng.choice([-1.0, 0.0, 1.0]) * angle / TAU  # rings, or a spiral to either side
    ring = radius / rng.uniform(0.29, 0.37) + winding + _wavy(rng, angle, amplitude=0.34) * np.sqrt(radius)
    lamellae = (0.5 + 0.5 * np.cos(TAU * ring)) ** 1.4
    # Each ring is cut into arcs of uneven brightness, and no two rings are cut alike.
    ring_number = np.clip(np.round(ring - winding) + 2, 0, 15).astype(np.intp)
    cuts = rng.uniform(0, TAU, 16)[ring_number]
    arcs = 0.25 + 0.75 / (1.0 + np.exp(-6.0 * (np.cos(rng.integers(2, 4) * angle + cuts) + 0.25)))
    return np.asarray(lamellae * arcs * rng.uniform(0.6, 1.0, 16)[ring_number])


def metastasis(rng: np.random.Generator, u: Image, v: Image) -> Image:
    """Gland-like acini: rings of bright cells, one cell thick, around dark lumina."""
    texture = np.full_like(u, 0.1)
    for u0, v0, radius in _packed_discs(rng, radius_low=0.27, radius_high=0.40, reach=0.80):
        turned_u, turned_v = _rotate(u - u0, v - v0, rng.uniform(0, np.pi))
        turned_v = turned_v / rng.uniform(0.8, 1.0)
        distance, angle = np.hypot(turned_u, turned_v), np.arctan2(turned_v, turned_u)
        cells = 0.72 + 0.28 * np.cos(round(TAU * radius / 0.24) * angle + rng.uniform(0, TAU))
        wall = np.exp(-0.5 * ((distance - radius * 0.74) / 0.072) ** 2)
        texture = np.where(distance < radius * 0.74, 0.02, texture)
        texture = np.maximum(texture, rng.uniform(0.75, 1.0) * cells * wall)
    return texture


def healthy(rng: np.random.Generator, u: Image, v: Image) -> Image:
    """A few neuron bodies with thin, tapering processes, over a weak bundle of parallel axons."""
    texture = _axon_bundle(rng, u, v)
    for u0, v0, _ in _packed_discs(rng, radius_low=0.42, radius_high=0.55, reach=0.65, count=3):
        radius, aspect, angle = rng.uniform(0.14, 0.19), rng.uniform(0.6, 0.9), rng.uniform(0, np.pi)
        body = _soft_ellipse(u - u0, v - v0, radius, aspect, angle)
        texture = np.maximum(texture, body)
        first_angle, processes = rng.uniform(0, TAU), int(rng.integers(4, 6))
        for process in range(processes):
            angle = first_angle + TAU * process / processes + rng.normal(0, 0.25)
            path_K2 = curve(rng, u0, v0, angle, length=rng.uniform(0.55, 0.9), bend=0.9)
            texture = np.maximum(texture, 0.85 * strokes(u, v, path_K2, width=0.042))
    return texture


DRAW: dict[str, Draw] = {
    "glioma": glioma,
    "healthy": healthy,
    "meningioma": meningioma,
    "metastasis": metastasis,
}


def curve(
    rng: np.random.Generator, u0: float, v0: float, angle: float, *, length: float, bend: float
) -> NDArray[np.float64]:
    """K 2 points of a smooth path of about ``length`` from (u0, v0) that turns by about ``bend`` radians."""
    points = 48
    wander = ndimage.gaussian_filter1d(rng.standard_normal(points), 8.0, mode="nearest")
    headings = angle + bend * np.cumsum(wander) / 6.0
    step = length / points
    steps_K2 = step * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return np.asarray(np.array([u0, v0]) + np.cumsum(steps_K2, axis=0))


def strokes(u: Image, v: Image, path_K2: NDArray[np.float64], *, width: float) -> Image:
    """A line of Gaussian cross-section ``width`` (standard deviation) along a path, 1.0 on it."""
    gaps = np.square(u[..., None] - path_K2[:, 0]) + np.square(v[..., None] - path_K2[:, 1])
    return np.asarray(np.exp(-0.5 * gaps.min(axis=-1) / width**2))


def _axon_bundle(rng: np.random.Generator, u: Image, v: Image) -> Image:
    along, across = _rotate(u, v, rng.uniform(0, np.pi))
    wave = 0.08 * np.sin(TAU * along / rng.uniform(1.2, 2.2) + rng.uniform(0, TAU))
    texture = np.zeros_like(u)
    for offset in np.linspace(-0.75, 0.75, 5) + rng.normal(0, 0.08, 5):
        texture += rng.uniform(0.2, 0.42) * np.exp(-0.5 * ((across + wave - offset) / 0.045) ** 2)
    return texture


def _packed_discs(
    rng: np.random.Generator, *, radius_low: float, radius_high: float, reach: float, count: int = 7
) -> list[tuple[float, float, float]]:
    """Up to ``count`` discs (u0, v0, radius) that barely touch, by trying places at random."""
    discs: list[tuple[float, float, float]] = []
    for _ in range(160):
        u0, v0 = _inside_disc(rng, reach)
        radius = float(rng.uniform(radius_low, radius_high))
        if all(np.hypot(u0 - a, v0 - b) > 0.86 * (radius + r) for a, b, r in discs):
            discs.append((u0, v0, radius))
        if len(discs) == count:
            break
    return discs


def _soft_ellipse(u: Image, v: Image, radius: float, aspect: float, angle: float) -> Image:
    """1.0 inside an ellipse, falling to 0 over about a third of its radius."""
    along, across = _rotate(u, v, angle)
    distance = np.hypot(along, across / aspect) / radius
    return np.asarray(np.clip((1.25 - distance) / 0.45, 0.0, 1.0))


def _wavy(rng: np.random.Generator, angle: Image, *, amplitude: float) -> Image:
    """A smooth periodic wobble of an angle."""
    waves = np.zeros_like(angle)
    for order in (2, 3, 5):
        waves += amplitude * rng.standard_normal() * np.cos(order * angle + rng.uniform(0, TAU)) / order
    return waves


def _rotate(u: Image, v: Image, angle: float) -> tuple[Image, Image]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * u + sine * v, cosine * v - sine * u


def _inside_disc(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    distance, angle = radius * np.sqrt(rng.uniform()), rng.uniform(0, TAU)
    return float(distance * np.cos(angle)), float(distance * np.sin(angle))
