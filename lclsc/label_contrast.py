"""Label contrast (LCL): labels say which samples attract each other.

The supervised contrastive form (SupCon, arXiv 2004.11362).
Letters: N anchors, K keys, D embedding width, L labels. Usual temperature 0.1.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def label_contrast(
    anchors_ND: Tensor,
    anchor_labels_N: Tensor,
    keys_KD: Tensor,
    key_labels_K: Tensor,
    *,
    first_key: int,
    temperature: float,
    class_balanced: bool = False,
) -> tuple[Tensor, Tensor]:
    """Summed label-contrastive loss in nats and the number of anchors it covers.

    Anchor i is key ``first_key + i`` and never its own positive; an anchor without a positive adds to
    neither number. ``class_balanced`` divides each class's part of the denominator by its number of keys.
    """
    own = slice(first_key, first_key + len(anchors_ND))
    labels = int(torch.cat((anchor_labels_N, key_labels_K)).max()) + 1
    anchor_is_NL = one_hot(anchor_labels_N, labels).to(keys_KD.dtype)
    key_is_KL = one_hot(key_labels_K, labels).to(keys_KD.dtype)
    positives_N = anchor_is_NL @ key_is_KL.sum(0) - 1
    class_sums_ND = anchor_is_NL @ (key_is_KL.T @ keys_KD)
    pulled_N = (anchors_ND * (class_sums_ND - keys_KD[own])).sum(1) / (temperature * positives_N.clamp_min(1))

    logits_NK = anchors_ND @ keys_KD.T / temperature
    if class_balanced:
        counts_NL = key_is_KL.sum(0) - anchor_is_NL  # the anchor itself is no key of its own
        logits_NK = logits_NK - (counts_NL.clamp_min(1) @ key_is_KL.T).log()
    loss_N = _log_denominator(logits_NK, first_key) - pulled_N
    covered_N = positives_N > 0
    return loss_N.where(covered_N, 0.0).sum(), covered_N.sum()


def _log_denominator(logits_NK: Tensor, first_key: int) -> Tensor:
    """log of the sum over all keys but the anchor's own; finite even when there is no other key."""
    anchors, keys = logits_NK.shape
    device = logits_NK.device
    own_N1 = torch.arange(first_key, first_key + anchors, device=device).unsqueeze(1)
    itself_NK = torch.arange(keys, device=device) == own_N1
    lowest = torch.finfo(logits_NK.dtype).min
    return logits_NK.masked_fill(itself_NK, lowest).logsumexp(1)
