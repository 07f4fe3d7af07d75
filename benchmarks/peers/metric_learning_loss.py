"""Peer: SupConLoss of pytorch-metric-learning, forward and backward."""

import torch
from pytorch_metric_learning.losses import SupConLoss

from loss_case import embeddings, forward_and_backward, plain_work
from serve import Numbers, serve

LOSS = SupConLoss(temperature=0.1)


def measure(size: int, width: int) -> Numbers:
    z_ND, labels_N = embeddings(torch, size, width)
    return plain_work(torch, z_ND) | forward_and_backward(lambda: LOSS(z_ND, labels_N), z_ND)


serve(measure)
