"""Map quality: does a saliency map lie on the structure that an expert outlined?

Letters: B images, S side in pixels. Maps (B,S,S) are not negative; truth and field of view (B,S,S) are bool.
Every figure is one number an image, (B,), float64, higher is better, and NaN where it has no value: where
nothing, or where the question needs both sides and everything, is outlined.
"""

import torch
from torch import Tensor

THRESHOLD = 0.5  # of a map's largest value; one rule for every method that is compared


def equal_area_iou(map_BSS: Tensor, truth_BSS: Tensor) -> Tensor:
    """Overlap of the truth with the most salient pixels, as many as the truth has; 0..1, no threshold to tune.

    Pixels without any saliency are never chosen; among equal ones the first in reading order are.
    """
    map_BP, truth_BP = map_BSS.flatten(1), truth_BSS.flatten(1)
    area_B = truth_BP.sum(1)
    order_BP = map_BP.sort(dim=1, descending=True, stable=True).indices
    place_BP = torch.empty_like(order_BP).scatter_(1, order_BP, torch.arange(order_BP.shape[1]).expand_as(order_BP))
    chosen_BP = (place_BP < area_B[:, None]) & (map_BP > 0)
    return _iou(chosen_BP, truth_BP).where(area_B > 0, torch.nan)


def pointing(map_BSS: Tensor, truth_BSS: Tensor) -> Tensor:
    """1 when the map's first peak lies in the truth; 0 otherwise, and where the map is empty.

    The pointing game of Zhang et al. 2016 (arXiv 1608.00507), without its tolerance.
    """
    map_BP, truth_BP = map_BSS.flatten(1), truth_BSS.flatten(1)
    peak_B1 = map_BP.argmax(1, keepdim=True)
    hit_B = (truth_BP.gather(1, peak_B1) & (map_BP.gather(1, peak_B1) > 0)).squeeze(1).double()
    return hit_B.where(truth_BP.any(1), torch.nan)


def saliency_auc(map_BSS: Tensor, truth_BSS: Tensor, fov_BSS: Tensor) -> Tensor:
    """Area under the ROC curve of pixels of the field of view, the truth against the rest; 0..1, chance 0.5.

    How likely a pixel of the structure is more salient than one beside it; ties count half.
    """
    fov_BP = fov_BSS.flatten(1)
    truth_BP = truth_BSS.flatten(1) & fov_BP
    positives_B, pixels_B = truth_BP.sum(1).double(), fov_BP.sum(1).double()
    rank_sum_B = (average_ranks(map_BSS.flatten(1), fov_BP) * truth_BP).sum(1)
    area_B = (rank_sum_B - positives_B * (positives_B + 1) / 2) / (positives_B * (pixels_B - positives_B))
    return area_B.where((positives_B > 0) & (positives_B < pixels_B), torch.nan)


def mean_iou(map_BSS: Tensor, truth_BSS: Tensor, fov_BSS: Tensor, *, threshold: float = THRESHOLD) -> Tensor:
    """Mean of the IoU of structure and of background, the map cut at ``threshold`` of its peak; 0..1.

    mIoU as in segmentation, over the pixels of the field of view.
    """
    fov_BP = fov_BSS.flatten(1)
    map_BP, truth_BP = map_BSS.flatten(1) * fov_BP, truth_BSS.flatten(1) & fov_BP
    peak_B1 = map_BP.amax(1, keepdim=True)
    chosen_BP = (map_BP >= threshold * peak_B1) & (map_BP > 0) & fov_BP
    both_B = (_iou(chosen_BP, truth_BP) + _iou(fov_BP & ~chosen_BP, fov_BP & ~truth_BP)) / 2
    return both_B.where(truth_BP.any(1) & ~(truth_BP == fov_BP).all(1), torch.nan)


def correlation(one_BSS: Tensor, two_BSS: Tensor, fov_BSS: Tensor, *, ranks: bool = False) -> Tensor:
    """Pearson's, or of the ranks Spearman's, correlation of two maps in the field of view; -1..1.

    NaN where a map is even: it then agrees with nothing.
    """
    fov_BP = fov_BSS.flatten(1)
    found = []
    for map_BSS in (one_BSS, two_BSS):
        map_BP = map_BSS.flatten(1)
        found.append(_centred(average_ranks(map_BP, fov_BP) if ranks else map_BP.double(), fov_BP))
    one_BP, two_BP = found
    power_B = one_BP.square().sum(1) * two_BP.square().sum(1)
    return (one_BP * two_BP).sum(1) / power_B.sqrt().where(power_B > 0, torch.nan)


def average_ranks(values_BP: Tensor, fov_BP: Tensor) -> Tensor:
    """Rank from 1 of each value among those of the field of view, equal ones sharing their mean rank; float64."""
    inside_BP = values_BP.double().where(fov_BP, torch.inf)
    sorted_BP = inside_BP.sort(dim=1).values
    below_BP = torch.searchsorted(sorted_BP, inside_BP)
    up_to_BP = torch.searchsorted(sorted_BP, inside_BP, right=True)
    return (below_BP + up_to_BP + 1).double() / 2


def _iou(one_BP: Tensor, two_BP: Tensor) -> Tensor:
    return (one_BP & two_BP).sum(1).double() / (one_BP | two_BP).sum(1)


def _centred(values_BP: Tensor, fov_BP: Tensor) -> Tensor:
    """Less their mean inside, 0 outside; exactly 0 everywhere when all are equal."""
    first_B1 = values_BP.gather(1, fov_BP.int().argmax(1, keepdim=True))
    surplus_BP = (values_BP - first_B1) * fov_BP
    pixels_B1 = fov_BP.sum(1, keepdim=True).clamp_min(1)
    return (surplus_BP - surplus_BP.sum(1, keepdim=True) / pixels_B1) * fov_BP
