"""Ours, in a process of its own: label contrast in blocks, and the plain dense form for comparison.

``form`` "blocks" is what ``lclsc`` trains with; "dense" keeps all logits and lets autograd keep what it wants.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lclsc import label_contrast
from loss_case import embeddings, forward_and_backward, plain_work
from serve import Numbers, peak_bytes, serve


def blocks(z_ND: Tensor, labels_N: Tensor) -> Tensor:
    total, count = label_contrast(z_ND, labels_N, z_ND, labels_N, first_key=0, temperature=0.1)
    return total / count


def dense(z_ND: Tensor, labels_N: Tensor) -> Tensor:
    """One matrix of logits; the positives' mean from class sums."""
    is_NL = torch.nn.functional.one_hot(labels_N).to(z_ND.dtype)
    positives_N = (is_NL.sum(0) - 1)[labels_N]
    pulled_N = (z_ND * (is_NL @ (is_NL.T @ z_ND) - z_ND)).sum(1) / (0.1 * positives_N)
    itself_NN = torch.eye(len(z_ND), dtype=torch.bool)
    return ((z_ND @ z_ND.T / 0.1).masked_fill(itself_NN, -torch.inf).logsumexp(1) - pulled_N).mean()


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"blocks": blocks, "dense": dense}


def measure(size: int, width: int, form: str = "blocks", memory_only: bool = False, **_case: Any) -> Numbers:
    z_ND, labels_N = embeddings(torch, size, width)
    loss = partial(FORMS[form], z_ND, labels_N)
    if memory_only:  # the yardstick would be the peak
        before = peak_bytes()
        numbers = forward_and_backward(loss, z_ND)
        return numbers | {"peak_bytes_beyond_inputs": numbers["peak_bytes"] - before}
    return plain_work(torch, z_ND) | forward_and_backward(loss, z_ND)


serve(measure)
