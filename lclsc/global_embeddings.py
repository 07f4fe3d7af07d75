"""One global embedding per class, moved by an exponential average of the embeddings (not of the weights).

Letters: N embeddings, D embedding width, K classes.
Precedents: CIDER (arXiv 2203.04450), MoPro (arXiv 2009.07995).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from lclsc import checks


class GlobalEmbeddings(nn.Module):
    """Buffers ``vectors`` (K, D), float32, unit once seen, and ``seen`` (K,), bool: in every checkpoint."""

    vectors: Tensor
    seen: Tensor

    def __init__(self, *, classes: int, embedding_dim: int, momentum: float = 0.95) -> None:
        super().__init__()
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum is {momentum}: it must be in [0, 1)")
        self.momentum = momentum
        self.register_buffer("vectors", torch.zeros(classes, embedding_dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    @torch.no_grad()
    def update_(self, z_ND: Tensor, labels_N: Tensor) -> None:
        """Move each class present to normalise(m e + (1-m) batch mean); first sight sets it, absent stays.

        Feed the gathered embeddings in global order: equal input then means equal bits on every rank.
        Sums are taken in float64, so that the order within hardly matters to the float32 result.
        """
        member_KN = one_hot(labels_N, len(self.seen)).T.double()
        count_K1 = member_KN.sum(1, keepdim=True)
        mean_KD = member_KN @ z_ND.detach().double() / count_K1.clamp_min(1)
        kept = self.momentum * self.seen.double().unsqueeze(1)
        moved_KD = normalize(kept * self.vectors.double() + (1 - kept) * mean_KD, dim=1)
        present_K1 = count_K1 > 0
        self.vectors.copy_(torch.where(present_K1, moved_KD.to(self.vectors.dtype), self.vectors))
        self.seen.logical_or_(present_K1.squeeze(1))

    @torch.no_grad()
    def recompute_(self, z_ND: Tensor, labels_N: Tensor) -> None:
        """Forget the averages: each class's vector is the direction of its mean over these embeddings.

        ValueError, and nothing forgotten, for labels that are no classes.
        """
        labels_N = checks.class_numbers(labels_N, len(z_ND), len(self.seen))
        self.vectors.zero_()
        self.seen.zero_()
        self.update_(z_ND, labels_N)
