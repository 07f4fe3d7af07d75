"""Faithfulness: does the model really use what a saliency map points at?

Letters: B images in [0, 1], S side in pixels, K classes, T steps. ``score`` gives probabilities (B,K) of
images (B,1,S,S) and their fields of view; maps (B,S,S) are in [0, 1] and 0 outside; ``class_B`` is the class
that is explained. Figures are one number an image, (B,), and no two images know of each other. No gradient
is taken. Removed pixels are filled from the field of view's own tissue, see ``removal``.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lclsc import chance, removal
from lclsc.map_quality import correlation

Score = Callable[[Tensor, Tensor], Tensor]
Explain = Callable[[Tensor, Tensor, Tensor], Tensor]  # images, fields of view, classes -> maps
ROAD_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
PATCH = 1 / 4  # side of the square that infidelity removes, of the image side


def deletion_curve(
    score: Score, image_B1SS: Tensor, fov_B1SS: Tensor, map_BSS: Tensor, class_B: Tensor, *, steps: int
) -> Tensor:
    """Probability (B, T+1) while the most salient pixels are removed, 0 to all of them in equal shares.

    RISE (Petsiuk et al. 2018, arXiv 1806.07421). ``area_under`` it, 0..1: lower is better.
    """
    fill = removal.blurred_tissue(image_B1SS, fov_B1SS)
    return _curve(score, image_B1SS, fill, fov_B1SS, map_BSS, class_B, steps)


def insertion_curve(
    score: Score, image_B1SS: Tensor, fov_B1SS: Tensor, map_BSS: Tensor, class_B: Tensor, *, steps: int
) -> Tensor:
    """Probability (B, T+1) while the most salient pixels return to blurred tissue, none to all of them.

    RISE, as above. ``area_under`` it, 0..1: higher is better.
    """
    fill = removal.blurred_tissue(image_B1SS, fov_B1SS)
    return _curve(score, fill, image_B1SS, fov_B1SS, map_BSS, class_B, steps)


def area_under(curve_BT: Tensor) -> Tensor:
    """Trapezoid area under each curve over [0, 1]."""
    return ((curve_BT[:, 1:] + curve_BT[:, :-1]) / 2).mean(1)


def confidence_change(
    score: Score, image_B1SS: Tensor, fov_B1SS: Tensor, map_BSS: Tensor, class_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Average drop, 0..1, lower is better; and increase, 1 or 0, higher is better: when only the map is shown.

    Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063): max(0, p - o) / p and [o > p], o of the image
    that fades to blurred tissue where the map fades.
    """
    whole_B = _of_class(score(image_B1SS, fov_B1SS), class_B)
    shown_B = _of_class(score(explained(image_B1SS, fov_B1SS, map_BSS), fov_B1SS), class_B)
    drop_B = (whole_B - shown_B).clamp_min(0.0) / whole_B.clamp_min(1e-12)
    return drop_B, (shown_B > whole_B).to(drop_B.dtype)


def explained(image_B1SS: Tensor, fov_B1SS: Tensor, map_BSS: Tensor) -> Tensor:
    """The image where the map is 1, blurred tissue where it is 0, a mixture between."""
    share = map_BSS.unsqueeze(1)
    return image_B1SS * share + removal.blurred_tissue(image_B1SS, fov_B1SS) * (1 - share)


def road(
    score: Score,
    image_B1SS: Tensor,
    fov_B1SS: Tensor,
    map_BSS: Tensor,
    class_B: Tensor,
    sample_index_B: Tensor,
    *,
    seed: int,
    shares: Sequence[float] = ROAD_SHARES,
) -> Tensor:
    """Half the probability that removing the most salient pixels costs more than removing the least; -0.5..0.5.

    Higher is better, 0 is a map that says nothing. ROAD (Rong et al. 2022, arXiv 2202.00449): mean over
    ``shares`` of the field of view, filled by noisy linear imputation, which leaves no shape to read.
    """
    left = []
    for least_first in (True, False):
        places_BP = removal.order(map_BSS, fov_B1SS, least_first=least_first)
        scores = []
        for share in shares:
            removed = removal.remove_most(places_BP, fov_B1SS, share)
            image = removal.noisy_linear_imputation(image_B1SS, fov_B1SS, removed, sample_index_B, seed=seed)
            scores.append(_of_class(score(image, fov_B1SS), class_B))
        left.append(torch.stack(scores).mean(0))
    return (left[0] - left[1]) / 2


def adcc(
    score: Score, explain: Explain, image_B1SS: Tensor, fov_B1SS: Tensor, class_B: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Harmonic mean of coherency, 1 - complexity and 1 - average drop, 0..1, higher is better; and its parts.

    ADCC (Poppi et al. 2021, arXiv 2104.10252). Coherency, 0..1, higher is better: (1 + r) / 2, r the
    correlation of the map with the map of the explained image (0 where either is even). Complexity, 0..1,
    lower is better: mean of the map over the field of view.
    """
    map_BSS = explain(image_B1SS, fov_B1SS, class_B)
    again_BSS = explain(explained(image_B1SS, fov_B1SS, map_BSS), fov_B1SS, class_B)
    inside_BSS = fov_B1SS.squeeze(1).bool()
    coherency_B = (1 + correlation(map_BSS, again_BSS, inside_BSS).nan_to_num(-1.0)) / 2
    complexity_B = (map_BSS * inside_BSS).double().sum((1, 2)) / inside_BSS.sum((1, 2)).clamp_min(1)
    drop_B = confidence_change(score, image_B1SS, fov_B1SS, map_BSS, class_B)[0].double()
    parts_3B = torch.stack((coherency_B, 1 - complexity_B, 1 - drop_B)).clamp_min(0.0)
    value_B = (3 / parts_3B.clamp_min(1e-12).reciprocal().sum(0)).where(parts_3B.amin(0) > 0, 0.0)
    return value_B, {"coherency": coherency_B, "complexity": complexity_B, "average_drop": drop_B}


def infidelity(
    score: Score,
    image_B1SS: Tensor,
    fov_B1SS: Tensor,
    map_BSS: Tensor,
    class_B: Tensor,
    change_NB1SS: Tensor,
) -> Tensor:
    """Mean squared gap between what the map says a change costs and what it costs, over N changes; lower is better.

    Yeh et al. 2019 (arXiv 1901.09392), with the scale of the map fitted first (their optimal scaling), as
    the scale of a saliency map means nothing. A change is what is subtracted from the image: ``patch_changes``.
    """
    before_B = _of_class(score(image_B1SS, fov_B1SS), class_B)
    costs, said = [], []
    for change in change_NB1SS:
        costs.append(before_B - _of_class(score(image_B1SS - change, fov_B1SS), class_B))
        said.append((change.squeeze(1) * map_BSS).sum((1, 2)))
    cost_NB, said_NB = torch.stack(costs), torch.stack(said)
    power_B = said_NB.square().mean(0)
    scale_B = ((said_NB * cost_NB).mean(0) / power_B).where(power_B > 0, 0.0)
    return (said_NB * scale_B - cost_NB).square().mean(0)


def patch_changes(image_B1SS: Tensor, fov_B1SS: Tensor, sample_index_B: Tensor, *, changes: int, seed: int) -> Tensor:
    """N squares at drawn places, (N,B,1,S,S): the image there, less the blurred tissue that replaces it."""
    detail = (image_B1SS - removal.blurred_tissue(image_B1SS, fov_B1SS)) * fov_B1SS
    side_px = image_B1SS.shape[-1]
    patch_px = max(1, round(PATCH * side_px))
    squares = torch.zeros(changes, *image_B1SS.shape, dtype=image_B1SS.dtype, device=image_B1SS.device)
    for row, index in enumerate(sample_index_B.tolist()):
        for change in range(changes):
            words = chance.words("patch", seed, index, change)
            top, left = (next(words) % (side_px - patch_px + 1) for _ in range(2))
            squares[change, row, :, top : top + patch_px, left : left + patch_px] = 1
    return squares * detail


def _curve(
    score: Score,
    start: Tensor,
    end: Tensor,
    fov_B1SS: Tensor,
    map_BSS: Tensor,
    class_B: Tensor,
    steps: int,
) -> Tensor:
    places_BP = removal.order(map_BSS, fov_B1SS)
    shares = [step / steps for step in range(steps + 1)]
    images = (torch.where(removal.remove_most(places_BP, fov_B1SS, share), end, start) for share in shares)
    return torch.stack([_of_class(score(image, fov_B1SS), class_B) for image in images], dim=1)


def _of_class(probability_BK: Tensor, class_B: Tensor) -> Tensor:
    return probability_BK.gather(1, class_B.unsqueeze(1)).squeeze(1)
