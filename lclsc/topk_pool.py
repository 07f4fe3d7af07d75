"""Top-K maximum and minimum pooling (TK-MMP): raises the contrast of relevant against irrelevant areas.

Letters: B images, h w map cells, n cells inside the field of view, m = h w.
Relative: WILDCAT's max + min pooling. Shipped with rho 0.1, delta 0.8.
"""

import torch
from torch import Tensor


def top_k_max_min(saliency_Bhw: Tensor, fov_Bhw: Tensor, rho: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the K largest and of the K smallest values inside the mask, and validity (B,).

    K = max(1, round(rho n)). A sample whose K exceeds n/2, so that the two would overlap, is not valid.
    """
    if not 0.0 < rho <= 0.5:
        raise ValueError(f"rho is {rho}: it must be in (0, 0.5], or the largest and smallest cells overlap")
    inside_Bm = fov_Bhw.flatten(1)
    n_B1 = inside_Bm.sum(1, keepdim=True)
    k_B1 = (rho * n_B1.double()).round().long().clamp_min(1)
    lowest = torch.finfo(saliency_Bhw.dtype).min
    values_Bm = saliency_Bhw.flatten(1).masked_fill(~inside_Bm, lowest)
    ranked_Bm = values_Bm.sort(dim=1, descending=True, stable=True).values
    rank_m = torch.arange(inside_Bm.shape[1], device=inside_Bm.device)
    valid_B = (2 * k_B1 <= n_B1).squeeze(1)
    t_plus_B = _mean(ranked_Bm, rank_m < k_B1)
    t_minus_B = _mean(ranked_Bm, (rank_m >= n_B1 - k_B1) & (rank_m < n_B1))
    return t_plus_B.where(valid_B, 0.0), t_minus_B.where(valid_B, 0.0), valid_B


def _mean(values_Bm: Tensor, chosen_Bm: Tensor) -> Tensor:
    return values_Bm.where(chosen_Bm, 0.0).sum(1) / chosen_Bm.sum(1).clamp_min(1)


def top_k_contrast(
    saliency_Bhw: Tensor, fov_Bhw: Tensor, *, rho: float, delta: float, include_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Summed hinge max(0, delta - (T+ - T-)) and the number of valid, included samples it covers."""
    t_plus_B, t_minus_B, valid_B = top_k_max_min(saliency_Bhw, fov_Bhw, rho)
    covered_B = valid_B & include_B
    hinge_B = (delta - (t_plus_B - t_minus_B)).relu()
    return hinge_B.where(covered_B, 0.0).sum(), covered_B.sum()
