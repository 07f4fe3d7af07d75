"""Label contrast (LCL): labels say which samples attract each other.

The supervised contrastive form (SupCon, arXiv 2004.11362).
Letters: N anchors, K keys, D embedding width, L labels. Shipped with temperature 0.03.

Only the denominator needs all pairs. It is computed in blocks of B x B logits with an online log-sum-exp, and
the blocks are computed again on the way back (the idea of FlashAttention, arXiv 2205.14135): memory grows
with N + K, not with N K. Where the anchors are the keys, each block above the diagonal serves both its sides.
"""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement, product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import one_hot

BLOCK = 512  # one block of float32 logits, 1 MiB, stays in a core's cache
PLAIN_KEYS = 256  # up to here one plain block is faster than its own way back


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
    neither number. ``class_balanced`` divides each class's part of the denominator by its number of
    keys other than the anchor itself.
    Labels are 0..L-1. Half the work is saved where anchors and keys are one and the same tensor.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: it must be positive and finite")
    own = slice(first_key, first_key + len(anchors_ND))
    if not torch.equal(anchor_labels_N, key_labels_K[own]):
        raise ValueError(f"the anchors' labels are not those of the keys from {first_key} on: check first_key")
    key_is_KL = one_hot(key_labels_K).to(keys_KD.dtype)
    anchor_is_NL = key_is_KL[own]
    positives_N = (key_is_KL.sum(0) - 1)[anchor_labels_N]
    covered_N = positives_N > 0

    # sum over covered anchors of a_i (S_y(i) - k_i) / (tau n_i), class by class: S class sums, n_i positives
    pulling_ND = anchors_ND * (covered_N / (temperature * positives_N.clamp_min(1))).unsqueeze(1)
    pulled = ((anchor_is_NL.T @ pulling_ND) * (key_is_KL.T @ keys_KD)).sum() - (pulling_ND * keys_KD[own]).sum()

    queries, targets = anchors_ND / temperature, keys_KD
    if class_balanced:
        counts_NL = key_is_KL.sum(0) - anchor_is_NL  # the anchor itself is no key of its own
        # further columns that take log(count of the key's class) off each logit
        queries = torch.cat((queries, -counts_NL.clamp_min(1).log()), 1)
        targets = torch.cat((keys_KD, key_is_KL), 1)
    whole = slice(0, len(keys_KD))
    if len(keys_KD) <= PLAIN_KEYS:
        denominator_N = _logits(queries, targets, slice(0, len(queries)), whole, first_key).logsumexp(1)
    elif anchors_ND is keys_KD and not class_balanced:
        denominator_N = _symmetric_log_denominator(anchors_ND / temperature**0.5)
    else:
        denominator_N = _log_denominator(queries, targets, first_key)
    return (denominator_N * covered_N).sum() - pulled, covered_N.sum()


class _LogDenominator(torch.autograd.Function):
    """log sum_k exp <a_n, k> over all keys but the anchor's own; finite even when there is no other key."""

    @staticmethod
    def forward(ctx: Any, anchors_ND: Tensor, keys_KD: Tensor, first_key: int) -> Tensor:
        total_N = anchors_ND.new_full((len(anchors_ND),), -torch.inf)
        for rows, columns in product(_blocks(anchors_ND), _blocks(keys_KD)):
            logits_BB = _logits(anchors_ND, keys_KD, rows, columns, first_key)
            total_N[rows] = total_N[rows].logaddexp(logits_BB.logsumexp(1))
        ctx.save_for_backward(anchors_ND, keys_KD, total_N)
        ctx.first_key = first_key
        return total_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, Tensor, None]:
        anchors_ND, keys_KD, total_N = ctx.saved_tensors
        to_anchors_ND, to_keys_KD = torch.zeros_like(anchors_ND), torch.zeros_like(keys_KD)
        for rows, columns in product(_blocks(anchors_ND), _blocks(keys_KD)):
            logits_BB = _logits(anchors_ND, keys_KD, rows, columns, ctx.first_key)
            share_BB = _share(logits_BB, total_N[rows, None], gradient_N[rows, None])
            to_anchors_ND[rows].addmm_(share_BB, keys_KD[columns])
            to_keys_KD[columns].addmm_(share_BB.T, anchors_ND[rows])
        return to_anchors_ND, to_keys_KD, None


class _SymmetricLogDenominator(torch.autograd.Function):
    """The same with the anchors as keys: the block of rows I and columns J is also that of rows J, columns I."""

    @staticmethod
    def forward(ctx: Any, z_ND: Tensor) -> Tensor:
        total_N = z_ND.new_full((len(z_ND),), -torch.inf)
        for rows, columns in combinations_with_replacement(_blocks(z_ND), 2):
            logits_BB = _logits(z_ND, z_ND, rows, columns, 0)
            total_N[rows] = total_N[rows].logaddexp(logits_BB.logsumexp(1))
            if rows != columns:
                total_N[columns] = total_N[columns].logaddexp(logits_BB.logsumexp(0))
        ctx.save_for_backward(z_ND, total_N)
        return total_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> Tensor:
        z_ND, total_N = ctx.saved_tensors
        to_z_ND = torch.zeros_like(z_ND)
        for rows, columns in combinations_with_replacement(_blocks(z_ND), 2):
            logits_BB = _logits(z_ND, z_ND, rows, columns, 0)
            share_BB = _share(logits_BB, total_N[columns], gradient_N[columns])
            share_BB += _share(logits_BB, total_N[rows, None], gradient_N[rows, None])
            to_z_ND[rows].addmm_(share_BB, z_ND[columns])
            if rows != columns:
                to_z_ND[columns].addmm_(share_BB.T, z_ND[rows])
        return to_z_ND


_log_denominator: Callable[[Tensor, Tensor, int], Tensor] = _LogDenominator.apply
_symmetric_log_denominator: Callable[[Tensor], Tensor] = _SymmetricLogDenominator.apply


def _blocks(x_ND: Tensor) -> list[slice]:
    return [slice(start, min(start + BLOCK, len(x_ND))) for start in range(0, len(x_ND), BLOCK)]


def _logits(anchors_ND: Tensor, keys_KD: Tensor, rows: slice, columns: slice, first_key: int) -> Tensor:
    """One block of inner products (B, B), with the lowest number for an anchor's own key."""
    logits_BB = anchors_ND[rows] @ keys_KD[columns].T
    logits_BB.diagonal(first_key + rows.start - columns.start).fill_(torch.finfo(logits_BB.dtype).min)
    return logits_BB


def _share(logits_BB: Tensor, total: Tensor, gradient: Tensor) -> Tensor:
    """Each key's share of the anchor's denominator, times the gradient that reached the anchor."""
    return (logits_BB - total).exp_().mul_(gradient)
