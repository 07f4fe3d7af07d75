"""Chance that knows no batch: every draw is a hash of coordinates such as (seed, epoch, sample index).

No generator is carried along, so a sample's draws are the same to the bit in whatever batch, order or
process it is computed. Fields are integer arithmetic per pixel: they do not depend on the device either.

Letters: B images, S side in pixels.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_NOISE_MEAN = 4 * 127.5
_NOISE_DEVIATION = math.sqrt(4 * (256**2 - 1) / 12)  # of the sum of four uniform bytes


def words(*coordinates: int | str) -> Iterator[int]:
    """Sixteen 32-bit words from a hash of the coordinates."""
    digest = hashlib.blake2b(repr(coordinates).encode()).digest()
    return iter(int.from_bytes(digest[at : at + 4], "little") for at in range(0, 64, 4))


def signed(words: Iterator[int]) -> float:
    """Uniform in (-1, 1)."""
    return (2 * next(words) + 1) / 2.0**32 - 1


def noise(key_B111: Tensor, side_px: int) -> Tensor:
    """Nearly normal noise (B,1,S,S) of deviation 1: the sum of the four bytes of a pixel's hash."""
    word = _pixel_words(key_B111, side_px)
    total = (word & 255) + ((word >> 8) & 255) + ((word >> 16) & 255) + (word >> 24)
    return (total.float() - _NOISE_MEAN) * (1.0 / _NOISE_DEVIATION)


def uniform(key_B111: Tensor, side_px: int) -> Tensor:
    """Uniform in (0, 1), (B,1,S,S), float64."""
    return (_pixel_words(key_B111, side_px).double() + 0.5) / 2.0**32


def _pixel_words(key_B111: Tensor, side_px: int) -> Tensor:
    """One 32-bit word a pixel, in int64, from the sample's 32-bit key."""
    pixel_SS = torch.arange(side_px * side_px, device=key_B111.device).reshape(side_px, side_px)
    return _mix(_mix(pixel_SS + 1) ^ key_B111)


def _mix(word: Tensor) -> Tensor:
    """A bijective 32-bit mixer (Wellons' lowbias32), on words held in int64."""
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & _WORD
    word = ((word ^ (word >> 15)) * 0x846CA68B) & _WORD
    return word ^ (word >> 16)
