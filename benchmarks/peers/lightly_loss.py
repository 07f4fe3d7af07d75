"""Peer: NTXentLoss of lightly, forward and backward. Lightly has no loss that takes labels; this is its nearest.

The same N embeddings as N / 2 pairs of views: all pairs in the denominator, one positive each.
"""

import torch
from lightly.loss import NTXentLoss

from loss_case import embeddings, forward_and_backward, plain_work
from serve import Numbers, serve

LOSS = NTXentLoss(temperature=0.1)


def measure(size: int, width: int) -> Numbers:
    z_ND, _ = embeddings(torch, size, width)
    return plain_work(torch, z_ND) | forward_and_backward(lambda: LOSS(*z_ND.chunk(2)), z_ND)


serve(measure)
