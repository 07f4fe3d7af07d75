"""Global embedding inference (GEI): classify by cosine similarity to the global embeddings.

Letters: B images, D embedding width, K classes. Relative: cosine classifiers (Gidaris & Komodakis 2018).
"""

import math

import torch
from torch import Tensor

MIN_TAU = 1e-6  # below, cosines over tau leave the range of float32 exponents behind


def similarity(z_BD: Tensor, vectors_KD: Tensor, seen_K: Tensor) -> Tensor:
    """Cosines (B, K) of unit embeddings; -inf for a class never seen, which therefore cannot be predicted."""
    return (z_BD @ vectors_KD.T).masked_fill(~seen_K, -torch.inf)


def probabilities(similarity_BK: Tensor, tau: float) -> Tensor:
    """softmax(similarity / tau); exactly 0 for a class never seen, all 0 while none was."""
    if not MIN_TAU <= tau < math.inf:
        raise ValueError(f"tau is {tau}: a temperature must be positive and finite")
    known_B1 = similarity_BK.isfinite().any(1, keepdim=True)
    return torch.softmax((similarity_BK / tau).where(known_B1, 0.0), dim=1).where(known_B1, 0.0)


def reject(similarity_BK: Tensor, *, min_score: float, min_margin: float) -> Tensor:
    """True (B,) where the top cosine, or its lead over the second, is too low to answer."""
    if math.isnan(min_score) or math.isnan(min_margin):
        raise ValueError(f"min_score is {min_score} and min_margin {min_margin}: give numbers")
    ranked_BK = similarity_BK.sort(dim=1, descending=True).values
    refused_B = ~(ranked_BK[:, 0] >= min_score)
    if ranked_BK.shape[1] > 1:
        refused_B |= ranked_BK[:, 0] - ranked_BK[:, 1] < min_margin
    return refused_B
