"""Removal: what an image looks like without some of its pixels.

Never black: black means *outside the field of view* here, and a network reacts to a black hole whether it
mattered or not. What is removed is filled from the tissue that the field of view shows.

Letters: B images in [0, 1], S side in pixels. Removed pixels and fields of view are (B,1,S,S), bool.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from lclsc import chance

BLUR = 1 / 10  # deviation of the blur, of the image side: wider than a nest of cells
IMPUTATION_NOISE = 0.01  # deviation, of the displayed range (arXiv 2202.00449 uses the same)
MAX_ITERATIONS = 2000
TOLERANCE = 1e-5  # of the residual, of its first value: far below a grey level
ROUNDING = 1e-12  # of a residual's pixel in float64
_NEIGHBOURS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))


def blurred_tissue(image_B1SS: Tensor, fov_B1SS: Tensor) -> Tensor:
    """The image with everything but its slow brightness gone, blurred over the field of view alone."""
    inside = fov_B1SS.to(image_B1SS.dtype)
    side_px = image_B1SS.shape[-1]
    place_S = torch.arange(side_px, dtype=image_B1SS.dtype, device=image_B1SS.device) / (BLUR * side_px)
    weight_SS = torch.exp(-(place_S[:, None] - place_S[None]).square() / 2)
    total, share = (weight_SS @ values @ weight_SS for values in (image_B1SS * inside, inside))
    return total / share.clamp_min(1e-6) * inside


def noisy_linear_imputation(
    image_B1SS: Tensor, fov_B1SS: Tensor, removed_B1SS: Tensor, sample_index_B: Tensor, *, seed: int
) -> Tensor:
    """Each removed pixel becomes the weighted mean of its eight neighbours, plus a little noise.

    ROAD (Rong et al. 2022, arXiv 2202.00449): direct neighbours weigh twice as much as diagonal ones; all
    removed pixels together solve one linear system, so that no outline of the removed area remains. Only
    neighbours inside the field of view count. Where nothing of a region is left, it takes the image's mean.
    """
    inside = fov_B1SS.to(image_B1SS.dtype)
    removed = (removed_B1SS & fov_B1SS.bool()).to(image_B1SS.dtype)
    filled = _harmonic(image_B1SS * inside, inside, removed)
    keys = [next(chance.words("imputation", seed, index)) for index in sample_index_B.tolist()]
    key_B111 = torch.tensor(keys, device=image_B1SS.device).reshape(-1, 1, 1, 1)
    noise = chance.noise(key_B111, image_B1SS.shape[-1]) * IMPUTATION_NOISE
    return (filled + noise * removed).clamp(0.0, 1.0).to(image_B1SS.dtype) * inside


def remove_most(order_BP: Tensor, fov_B1SS: Tensor, share: float) -> Tensor:
    """The first ``share`` of each field of view's pixels in ``order_BP`` (see ``order``), (B,1,S,S), bool."""
    count_B = (fov_B1SS.flatten(1).sum(1) * share).round()
    return (order_BP < count_B[:, None]).reshape(fov_B1SS.shape) & fov_B1SS.bool()


def order(map_BSS: Tensor, fov_B1SS: Tensor, *, least_first: bool = False) -> Tensor:
    """Place (B, S*S) of each pixel when the field of view's are sorted by saliency; those outside come last.

    Equal pixels are taken in reading order.
    """
    value_BP = (-1 if least_first else 1) * map_BSS.flatten(1).double()
    sorted_BP = value_BP.where(fov_B1SS.flatten(1).bool(), -torch.inf).sort(dim=1, descending=True, stable=True)
    places_BP = torch.arange(value_BP.shape[1], device=map_BSS.device).expand_as(sorted_BP.indices)
    return torch.empty_like(sorted_BP.indices).scatter_(1, sorted_BP.indices, places_BP)


def _harmonic(image: Tensor, inside: Tensor, removed: Tensor) -> Tensor:
    """Conjugate gradients in float64, every image its own system, started at the mean of what is left.

    Of the symmetric form sum_j w_ij (x_i - x_j) = 0 over a removed pixel i and its neighbours j in ``inside``.
    """
    image, inside, removed = image.double(), inside.double(), removed.double()
    kept = inside - removed
    weight_sum = _neighbour_sum(inside)
    mean = _total(image * kept) / _total(kept).clamp_min(1.0)
    lonely = _total(kept) == 0
    mean = torch.where(lonely, _total(image) / _total(inside).clamp_min(1.0), mean)
    guess = image * kept + mean * removed
    residual = (_neighbour_sum(guess) - weight_sum * guess) * removed
    step, power = residual, _total(residual.square())
    # Where nothing of a region is left, rounding is all there is to solve for, and it has no solution.
    enough = (power * TOLERANCE**2).maximum(_total(removed) * ROUNDING**2)
    for _ in range(MAX_ITERATIONS):
        going = power > enough
        if not going.any():
            break
        pushed = (weight_sum * step - _neighbour_sum(step)) * removed
        length = torch.where(going, power / _total(step * pushed).where(going, 1.0), 0.0)
        guess, residual = guess + length * step, residual - length * pushed
        power, before = _total(residual.square()), power
        step = residual + step * torch.where(going, power / before.where(going, 1.0), 0.0)
    return guess


def _neighbour_sum(values: Tensor) -> Tensor:
    """Direct neighbours times 1/6 plus diagonal ones times 1/12; 0 beyond the image."""
    side_px = values.shape[-1]
    padded = pad(values, (1, 1, 1, 1))
    total = torch.zeros_like(values)
    for down, right in _NEIGHBOURS:
        weight = 1 / 12 if down and right else 1 / 6
        total = total + padded.narrow(2, 1 + down, side_px).narrow(3, 1 + right, side_px) * weight
    return total


def _total(values: Tensor) -> Tensor:
    return values.sum((1, 2, 3), keepdim=True)
