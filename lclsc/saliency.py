"""Saliency: an exact decomposition of the class score over the image, and its evidence map in [0, 1].

Letters: B images, D embedding width, K classes, h w map cells, S side in pixels.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MIN_PEAK = 1e-6


def class_map(dense_BDhw: Tensor, vectors_KD: Tensor, norm_B: Tensor) -> Tensor:
    """M_k(u) = <P(u), e_k> / stopgrad(norm), (B, K, h, w). Its mean over the field of view *is* cos(z, e_k).

    The norm is detached: the gradient of a pure cosine sums to zero over space and would say nothing.
    """
    shape = (len(dense_BDhw), len(vectors_KD), *dense_BDhw.shape[2:])
    scores_BKhw = (vectors_KD @ dense_BDhw.flatten(2)).reshape(shape)
    return scores_BKhw / norm_B.detach()[:, None, None, None]


def label_map(dense_BDhw: Tensor, vectors_BD: Tensor, norm_B: Tensor) -> Tensor:
    """The class map (B, h, w) of one class per image, given that class's global embedding."""
    return torch.einsum("bdhw,bd->bhw", dense_BDhw, vectors_BD) / norm_B.detach()[:, None, None]


def saliency(class_map_Bhw: Tensor, fov_Bhw: Tensor) -> tuple[Tensor, Tensor]:
    """S = relu(M) inside the field of view (bool) over its largest value, and whether there is evidence (B,).

    Without positive evidence S is 0 everywhere; such a sample is to be left out of the saliency losses.
    """
    evidence_Bhw = class_map_Bhw.relu() * fov_Bhw
    peak_B = evidence_Bhw.amax((1, 2))
    has_evidence_B = peak_B > MIN_PEAK
    scale_B = peak_B.where(has_evidence_B, torch.inf)
    return evidence_Bhw / scale_B[:, None, None], has_evidence_B


def enlarge(saliency_Bhw: Tensor, fov_B1SS: Tensor) -> Tensor:
    """Cells to pixels, bilinear, (B, S, S): in [0, 1] and 0 outside the field of view."""
    pixels_B1SS = interpolate(saliency_Bhw.unsqueeze(1), size=fov_B1SS.shape[-2:], mode="bilinear", align_corners=False)
    return (pixels_B1SS.clamp(0, 1) * fov_B1SS).squeeze(1)
