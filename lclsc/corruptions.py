"""Corruptions: what goes wrong with a probe in a hospital, each in five severities.

After Hendrycks & Dietterich 2019 (arXiv 1903.12261): models are measured on these, never trained on them.
The list and its levels are this project's own, for confocal endomicroscopy through a fibre bundle.

Letters: B images in [0, 1], S side in pixels. ``inside`` is the field of view as 0 and 1. The same sample
meets the same chance at every severity, so that a worse one is the same accident, worse. As in ``views``,
a sample's result is the same to the bit in whatever batch it stands.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from lclsc import chance
from lclsc.chance import signed

SEVERITIES = (1, 2, 3, 4, 5)
GREY_LEVELS = 256
SMEAR_TAPS = 17
READ_NOISE = 0.01  # deviation, of the displayed range
HONEYCOMB_PITCH = (0.040, 0.055)  # core distance in image sides: the beat of cores and pixels, not single cores


@dataclass(frozen=True)
class Corruption:
    """``apply`` takes images, inside, the draws of each sample and one of the five ``levels``."""

    levels: tuple[float, float, float, float, float]
    unit: str
    apply: Callable[[Tensor, Tensor, list[Iterator[int]], float], tuple[Tensor, Tensor]]


def corrupt(
    image_B1SS: Tensor, fov_B1SS: Tensor, sample_index_B: Tensor, *, kind: str, severity: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The corrupted images, in [0, 1] and 0 outside, and their fields of view (B,1,S,S, bool)."""
    if kind not in CORRUPTIONS:
        raise ValueError(f"corruption {kind!r} is unknown: choose one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}: it must be one of {SEVERITIES}")
    corruption = CORRUPTIONS[kind]
    inside = fov_B1SS.to(image_B1SS.dtype)
    draws = [chance.words("corruption", kind, seed, index) for index in sample_index_B.tolist()]
    image, inside = corruption.apply(image_B1SS * inside, inside, draws, corruption.levels[severity - 1])
    return image.clamp(0.0, 1.0) * inside, inside.bool()


def _gaussian_noise(
    image: Tensor, inside: Tensor, draws: list[Iterator[int]], deviation: float
) -> tuple[Tensor, Tensor]:
    """Noise of the electronics: the same everywhere."""
    return image + chance.noise(_keys(draws, image), image.shape[-1]) * deviation, inside


def _poisson_noise(image: Tensor, inside: Tensor, draws: list[Iterator[int]], photons: float) -> tuple[Tensor, Tensor]:
    """Photon counts by inversion: the pixel's uniform draw through the exact distribution of its grey level."""
    table, width = _poisson_table(photons)
    level = (image * (GREY_LEVELS - 1)).round().long().clamp(0, GREY_LEVELS - 1)
    drawn = level + chance.uniform(_keys(draws, image), image.shape[-1])
    count = torch.searchsorted(table.to(image.device), drawn) - level * width
    return (count.double() / photons).to(image.dtype), inside


@cache
def _poisson_table(photons: float) -> tuple[Tensor, int]:
    """g + P(count <= k at grey level g), sorted, for every g and k < width; one search then finds a count."""
    width = math.ceil(photons + 8 * math.sqrt(photons)) + 8
    rates = [photons * level / (GREY_LEVELS - 1) for level in range(GREY_LEVELS)]
    rate_G = torch.tensor(rates, dtype=torch.float64)
    chances = [torch.tensor([math.exp(-rate) for rate in rates], dtype=torch.float64)]
    for count in range(1, width):
        chances.append(chances[-1] * rate_G / count)
    cumulative_GK = torch.stack(chances, dim=1).cumsum(1).clamp(max=1.0)
    return (torch.arange(GREY_LEVELS)[:, None] + cumulative_GK).flatten(), width


def _motion_smear(image: Tensor, inside: Tensor, draws: list[Iterator[int]], length: float) -> tuple[Tensor, Tensor]:
    """The probe slides along a drawn direction while the frame is scanned: a mean along that line."""
    angles = [math.pi * signed(words) for words in draws]
    total, share = torch.zeros_like(image), torch.zeros_like(image)
    for tap in range(SMEAR_TAPS):
        along = length * (2 * tap / (SMEAR_TAPS - 1) - 1)  # half a side is 1, as in normalised coordinates
        shifts = [(along * math.cos(angle), along * math.sin(angle)) for angle in angles]
        seen, weight = _shifted(image, inside, shifts)
        total, share = total + seen, share + weight
    return total / share.clamp_min(1e-6), inside


def _shifted(image: Tensor, inside: Tensor, shifts: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Image and mask at x + shift (normalised coordinates), 0 from outside."""
    side_px = image.shape[-1]
    centre_S = (2 * torch.arange(side_px, device=image.device, dtype=image.dtype) + 1) / side_px - 1
    x_B, y_B = torch.tensor(shifts, dtype=image.dtype, device=image.device).unbind(1)
    x_BSS = (centre_S[None, None, :] + x_B[:, None, None]).expand(-1, side_px, -1)
    y_BSS = (centre_S[None, :, None] + y_B[:, None, None]).expand(-1, -1, side_px)
    both = torch.cat((image, inside), dim=1)
    seen = grid_sample(both, torch.stack((x_BSS, y_BSS), dim=-1), align_corners=False)
    return seen[:, :1], seen[:, 1:]


def _defocus(image: Tensor, inside: Tensor, draws: list[Iterator[int]], radius: float) -> tuple[Tensor, Tensor]:
    """A blur disc of this radius, over the pixels inside the field of view only."""
    radius_px = radius * image.shape[-1]
    reach = math.ceil(radius_px)
    total, share = torch.zeros_like(image), torch.zeros_like(image)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            weight = min(1.0, max(0.0, radius_px + 0.5 - math.hypot(down, right)))
            if weight:
                total = total + _moved(image, down, right, reach) * weight
                share = share + _moved(inside, down, right, reach) * weight
    return total / share.clamp_min(1e-6), inside


def _moved(values: Tensor, down: int, right: int, reach: int) -> Tensor:
    side_px = values.shape[-1]
    return pad(values, (reach,) * 4).narrow(2, reach + down, side_px).narrow(3, reach + right, side_px)


def _gain(image: Tensor, inside: Tensor, draws: list[Iterator[int]], factor: float) -> tuple[Tensor, Tensor]:
    """Too much laser power or detector gain: bright tissue saturates."""
    return image * factor, inside


def _dark(image: Tensor, inside: Tensor, draws: list[Iterator[int]], factor: float) -> tuple[Tensor, Tensor]:
    """Too little light: what is left stands against read noise and whole grey levels."""
    faint = image * factor + chance.noise(_keys(draws, image), image.shape[-1]) * READ_NOISE
    return (faint * (GREY_LEVELS - 1)).round() / (GREY_LEVELS - 1), inside


def _honeycomb(image: Tensor, inside: Tensor, draws: list[Iterator[int]], depth: float) -> tuple[Tensor, Tensor]:
    """Fibre cores on a hexagonal lattice of drawn pitch, angle and place; glass between them carries no light."""
    lattice = torch.cat([_lattice(words, image) for words in draws])
    return image * ((lattice - 1.0) * depth + 1.0), inside


def _lattice(words: Iterator[int], like: Tensor) -> Tensor:
    """Three plane waves 60 degrees apart, (1,1,S,S): 1 on the cores, 0 in the middle between them."""
    low, high = HONEYCOMB_PITCH
    pitch_px = like.shape[-1] * ((low + high) / 2 + (high - low) / 2 * signed(words))
    turn = math.pi * signed(words)
    place = [math.pi * signed(words) for _ in range(2)]
    number = 4 * math.pi / (math.sqrt(3) * pitch_px)  # of a wave whose triple has its maxima one pitch apart
    phases = (place[0], place[1], -place[0] - place[1])  # any two move the lattice; the third follows
    waves = [
        _wave(number * math.cos(angle), number * math.sin(angle), phase, like)
        for angle, phase in zip((turn, turn + 2 * math.pi / 3, turn + 4 * math.pi / 3), phases, strict=True)
    ]
    return (waves[0] + waves[1] + waves[2] + 1.5) / 4.5


def _wave(across: float, down: float, phase: float, like: Tensor) -> Tensor:
    """cos(across x + down y + phase), (1,1,S,S), as products of values taken in Python: see ``views``."""
    places = range(like.shape[-1])
    columns = [[function(across * x + phase) for x in places] for function in (math.cos, math.sin)]
    rows = [[function(down * y) for y in places] for function in (math.cos, math.sin)]
    cos_x, sin_x = (torch.tensor(values, dtype=like.dtype, device=like.device) for values in columns)
    cos_y, sin_y = (torch.tensor(values, dtype=like.dtype, device=like.device)[:, None] for values in rows)
    return (cos_y * cos_x - sin_y * sin_x)[None, None]


def _fov_crop(image: Tensor, inside: Tensor, draws: list[Iterator[int]], share: float) -> tuple[Tensor, Tensor]:
    """Blood, a bubble or a tilted probe: only the pixels nearest to a drawn place stay in the field of view."""
    kept = [_nearest(mask_1SS, words, share) for mask_1SS, words in zip(inside, draws, strict=True)]
    inside = inside * torch.stack(kept)
    return image * inside, inside


def _nearest(mask_1SS: Tensor, words: Iterator[int], share: float) -> Tensor:
    """That share of the mask's pixels around a point near its centre, as 0 and 1; ties stay in."""
    down, right = mask_1SS[0].nonzero().unbind(1)
    if not len(down):
        return mask_1SS
    side_px = mask_1SS.shape[-1]
    centre = [int(axis.sum()) // len(axis) + round(0.15 * side_px * signed(words)) for axis in (down, right)]
    place = torch.arange(side_px, device=mask_1SS.device)
    distance_SS = (place[:, None] - centre[0]) ** 2 + (place[None, :] - centre[1]) ** 2
    wanted = max(1, round(share * len(down)))
    largest = distance_SS[down, right].sort().values[wanted - 1]
    return (distance_SS <= largest).to(mask_1SS.dtype)[None]


def _keys(draws: list[Iterator[int]], like: Tensor) -> Tensor:
    return torch.tensor([next(words) for words in draws], device=like.device).reshape(-1, 1, 1, 1)


CORRUPTIONS = {
    "gaussian_noise": Corruption((0.05, 0.09, 0.14, 0.20, 0.28), "deviation, of the displayed range", _gaussian_noise),
    "poisson_noise": Corruption((60.0, 30.0, 15.0, 8.0, 4.0), "photons at full white", _poisson_noise),
    "motion_smear": Corruption((0.03, 0.06, 0.10, 0.15, 0.22), "length, of the image side", _motion_smear),
    "defocus": Corruption((0.010, 0.017, 0.025, 0.034, 0.045), "radius, of the image side", _defocus),
    "gain": Corruption((1.3, 1.7, 2.2, 3.0, 4.0), "factor", _gain),
    "dark": Corruption((0.50, 0.30, 0.18, 0.11, 0.07), "factor", _dark),
    "honeycomb": Corruption((0.2, 0.35, 0.5, 0.7, 0.9), "share of light lost between cores", _honeycomb),
    "fov_crop": Corruption((0.75, 0.55, 0.38, 0.24, 0.14), "share of the field of view left", _fov_crop),
}
