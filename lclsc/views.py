"""Views: a random, geometrically known look at each image, x_i(q) = photometric(x(A q)).

Letters: B images, S side in pixels. A is a 3x3 affine from the view's to the image's normalised coordinates
(x right, y down, -1 and 1 at the edges). Every draw is a function of (seed, epoch, sample index, view).

A sample's result is the same to the bit in whatever batch it stands: large tensors see only additions,
multiplications, divisions and clamps, which round alike in the vector and the scalar loop of a kernel
(powers and exponentials do not); angles and logarithms are taken in Python, per sample.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from lclsc import chance, checks
from lclsc.chance import signed
from lclsc.shapes import shape_repr


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """How far a view may go from its image. All ranges are drawn uniformly, ratios on a log scale."""

    rotate_degrees: float = 180.0  # either way; any angle
    flip: bool = True
    zoom: float = 1.25  # magnification in [1/zoom, zoom]
    shift: float = 0.10  # either way, in half image sides
    gain: float = 1.25  # brightness factor in [1/gain, gain]
    gamma: float = 1.30  # exponent in [1/gamma, gamma]
    noise: float = 0.04  # largest deviation of the added noise, in units of the displayed range
    blur: float = 0.20  # largest weight of either neighbour in a 3-tap blur, [0, 1/3]

    def __post_init__(self) -> None:
        ratios = dict.fromkeys(("zoom", "gain", "gamma"), (1.0, 100.0))
        bounds = {"rotate_degrees": (0.0, 180.0), "shift": (0.0, 1.0), "noise": (0.0, 1.0), "blur": (0.0, 1 / 3)}
        for name, (low, high) in (bounds | ratios).items():
            if not low <= getattr(self, name) <= high:  # NaN is in no range
                raise ValueError(f"{name} is {getattr(self, name)}: it must be in [{low:g}, {high:g}]")


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A view in [0, 1], 0 outside its field of view (B,1,S,S, bool), and its affine A (B,3,3)."""

    image_B1SS: Tensor
    fov_B1SS: Tensor
    affine_B33: Tensor
    __repr__ = shape_repr


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What chance decided for one sample."""

    affine: tuple[tuple[float, float, float], ...]
    gain: float
    bend: float
    noise: float
    blur: float
    noise_key: int


def make_views(
    image_B1SS: Tensor,
    fov_B1SS: Tensor,
    sample_index_B: Tensor,
    *,
    seed: int,
    epoch: int,
    view: int,
    settings: ViewSettings,
) -> View:
    """View 0 or 1 of each image in [0, 1], computed on the images' device. ValueError for other shapes or types."""
    checks.pictures(image_B1SS, fov_B1SS)
    indices: list[int] = sample_index_B.tolist()
    draws = [draw(seed, epoch, index, view, settings) for index in indices]
    affine_B33 = torch.tensor([sample.affine for sample in draws], dtype=image_B1SS.dtype, device=image_B1SS.device)
    image, inside = _look(image_B1SS, fov_B1SS, affine_B33)
    image = _soften(image, inside, _column(draws, "blur", image))
    image = _bend(image * _column(draws, "gain", image), _column(draws, "bend", image))
    noise = chance.noise(_column(draws, "noise_key", image, torch.int64), image.shape[-1])
    image = (image + noise * _column(draws, "noise", image)).clamp(0.0, 1.0) * inside
    return View(image_B1SS=image, fov_B1SS=inside.bool(), affine_B33=affine_B33)


def draw(seed: int, epoch: int, sample_index: int, view: int, settings: ViewSettings) -> Draw:
    """All chance of one view, from a hash of its four coordinates."""
    words = chance.words(seed, epoch, sample_index, view)
    angle = math.radians(settings.rotate_degrees) * signed(words)
    scale = _ratio(settings.zoom, words)
    flip = -1.0 if settings.flip and signed(words) < 0 else 1.0
    shift_x, shift_y = settings.shift * signed(words), settings.shift * signed(words)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return Draw(
        affine=((flip * cosine, -sine, shift_x), (flip * sine, cosine, shift_y), (0.0, 0.0, 1.0)),
        gain=_ratio(settings.gain, words),
        bend=2.0 ** _ratio(settings.gamma, words) - 2.0,
        noise=settings.noise * abs(signed(words)),
        blur=settings.blur * abs(signed(words)),
        noise_key=next(words),
    )


def _ratio(largest: float, words: Iterator[int]) -> float:
    return math.exp(math.log(largest) * signed(words))


def _column(draws: list[Draw], name: str, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    drawn = [getattr(sample, name) for sample in draws]
    values = torch.tensor(drawn, dtype=dtype or like.dtype, device=like.device)
    return values.reshape(-1, 1, 1, 1)


def _look(image_B1SS: Tensor, fov_B1SS: Tensor, affine_B33: Tensor) -> tuple[Tensor, Tensor]:
    """Image and mask (as 0 and 1) at A q. Inside is what is mixed from inside only: no dark rim."""
    mask_B1SS = fov_B1SS.to(image_B1SS.dtype)
    both_B2SS = torch.cat((image_B1SS * mask_B1SS, mask_B1SS), dim=1)
    seen_B2SS = grid_sample(both_B2SS, _grid(affine_B33, image_B1SS.shape[-1]), align_corners=False)
    inside_B1SS = (seen_B2SS[:, 1:] > 0.999).to(image_B1SS.dtype)
    return seen_B2SS[:, :1] * inside_B1SS, inside_B1SS


def _grid(affine_B33: Tensor, side_px: int) -> Tensor:
    """A q for every pixel centre q, (B, S, S, 2); spelled out: a matrix product may round by batch."""
    centre_S = (2 * torch.arange(side_px, device=affine_B33.device) + 1) / side_px - 1
    x, y = centre_S[None, None, :], centre_S[None, :, None]
    a, b, c, d, e, f = affine_B33[:, :2].flatten(1)[:, :, None, None].unbind(1)
    return torch.stack((a * x + b * y + c, d * x + e * y + f), dim=-1)


def _soften(image_B1SS: Tensor, inside_B1SS: Tensor, weight_B111: Tensor) -> Tensor:
    """3-tap blur along both axes over the pixels inside the field of view only."""
    total, share = image_B1SS, inside_B1SS
    for axis in (2, 3):
        total, share = (_three_taps(values, weight_B111, axis) for values in (total, share))
    return total / share.clamp_min(1e-6) * inside_B1SS


def _three_taps(values_B1SS: Tensor, weight_B111: Tensor, axis: int) -> Tensor:
    side_px = values_B1SS.shape[axis]
    padded = pad(values_B1SS, (1, 1, 0, 0) if axis == 3 else (0, 0, 1, 1))
    neighbours = padded.narrow(axis, 0, side_px) + padded.narrow(axis, 2, side_px)
    return values_B1SS * (1 - 2 * weight_B111) + neighbours * weight_B111


def _bend(image_B1SS: Tensor, bend_B111: Tensor) -> Tensor:
    """x / (1 + bend (1 - x)): Schlick's rational curve (Graphics Gems IV), x ** gamma at 0, 1/2 and 1."""
    bright = image_B1SS.clamp(0.0, 1.0)
    return bright / ((1 - bright) * bend_B111 + 1)
