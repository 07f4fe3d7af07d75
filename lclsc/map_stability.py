"""Map stability: does a map stay when nothing that matters changes, and go when the model's knowledge goes?

Letters: B images in [0, 1], S side in pixels. Maps (B,S,S) come from ``explain(images, fields of view,
classes)``. Figures are one number an image, (B,), float64.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from lclsc import chance
from lclsc.faithfulness import Explain
from lclsc.map_quality import correlation

NOISE = 0.05  # deviation, of the displayed range: what a second look at the same tissue differs by
Network = TypeVar("Network", bound=nn.Module)


def stability(
    explain: Explain,
    image_B1SS: Tensor,
    fov_B1SS: Tensor,
    class_B: Tensor,
    sample_index_B: Tensor,
    *,
    seed: int,
    copies: int = 4,
    noise: float = NOISE,
) -> Tensor:
    """Mean correlation of the map with those of noisy copies of its image; -1..1, higher is better.

    An even map, which agrees with nothing, counts 0.
    """
    inside_BSS = fov_B1SS.squeeze(1).bool()
    map_BSS = explain(image_B1SS, fov_B1SS, class_B)
    found = []
    for number in range(copies):
        noisy = noisy_copy(image_B1SS, fov_B1SS, sample_index_B, number, seed=seed, noise=noise)
        found.append(correlation(map_BSS, explain(noisy, fov_B1SS, class_B), inside_BSS).nan_to_num(0.0))
    return torch.stack(found).mean(0)


def max_sensitivity(
    explain: Explain,
    image_B1SS: Tensor,
    fov_B1SS: Tensor,
    class_B: Tensor,
    sample_index_B: Tensor,
    *,
    seed: int,
    copies: int = 4,
    noise: float = NOISE,
) -> Tensor:
    """Largest change of the map over noisy copies, as a share of the map (Frobenius norms); lower is better.

    Yeh et al. 2019 (arXiv 1901.09392). NaN where the map is empty.
    """
    map_BP = explain(image_B1SS, fov_B1SS, class_B).flatten(1).double()
    changes = []
    for number in range(copies):
        noisy = noisy_copy(image_B1SS, fov_B1SS, sample_index_B, number, seed=seed, noise=noise)
        changes.append((explain(noisy, fov_B1SS, class_B).flatten(1).double() - map_BP).square().sum(1).sqrt())
    norm_B = map_BP.square().sum(1).sqrt()
    return torch.stack(changes).amax(0) / norm_B.where(norm_B > 0, torch.nan)


def noisy_copy(
    image_B1SS: Tensor, fov_B1SS: Tensor, sample_index_B: Tensor, number: int, *, seed: int, noise: float
) -> Tensor:
    """Copy ``number`` of each image with noise of this deviation inside the field of view."""
    keys = [next(chance.words("stability", seed, index, number)) for index in sample_index_B.tolist()]
    key_B111 = torch.tensor(keys, device=image_B1SS.device).reshape(-1, 1, 1, 1)
    drawn = chance.noise(key_B111, image_B1SS.shape[-1]).to(image_B1SS.dtype)
    return (image_B1SS + drawn * noise).clamp(0.0, 1.0) * fov_B1SS


def without_knowledge(model: Network, *, seed: int) -> Network:
    """A copy whose every weight tensor has its own values in drawn order: same scale, nothing learned left."""
    generator = torch.Generator().manual_seed(seed)
    forgetful = copy.deepcopy(model)
    with torch.no_grad():
        for weight in forgetful.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return forgetful


def randomised_weights(
    explain: Explain, explain_without_knowledge: Explain, image_B1SS: Tensor, fov_B1SS: Tensor, class_B: Tensor
) -> Tensor:
    """Absolute rank correlation of the maps of a model and of the same one without knowledge; 0..1, lower is better.

    The sanity check of Adebayo et al. 2018 (arXiv 1810.03292): a map that stays the same shows the image,
    not the model. An even map counts 0.
    """
    one_BSS, two_BSS = (each(image_B1SS, fov_B1SS, class_B) for each in (explain, explain_without_knowledge))
    return correlation(one_BSS, two_BSS, fov_B1SS.squeeze(1).bool(), ranks=True).nan_to_num(0.0).abs()
