"""Calibration: the softmax scale of the similarities, and how far confidence is from accuracy.

Letters: N samples, K classes. Temperature scaling and ECE after Guo et al. 2017 (arXiv 1706.04599).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lclsc import checks

TAU_BOUNDS = (0.005, 10.0)
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def calibrate_temperature(similarity_NK: Tensor, labels_N: Tensor) -> float:
    """The tau that minimises the negative log-likelihood of softmax(similarity / tau), within ``TAU_BOUNDS``.

    The likelihood is convex in 1/tau, so golden section on log tau finds its one minimum, always the same.
    Samples of a class never seen (similarity -inf) say nothing about tau and are left out. ValueError for NaN, or
    labels that are no classes.
    """
    scores_NK = similarity_NK.detach().double()
    labels_N = checks.class_numbers(labels_N, *scores_NK.shape)
    if scores_NK.isnan().any():
        raise ValueError("a similarity is not a number: look for images that are none")
    scorable_N = scores_NK.gather(1, labels_N.unsqueeze(1)).squeeze(1).isfinite()
    if not scorable_N.any():
        raise ValueError("no sample to calibrate on: give validation samples of classes the model has seen")
    scores_NK, labels_N = scores_NK[scorable_N], labels_N[scorable_N]

    def loss(log_tau: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores_NK / math.exp(log_tau), labels_N))

    low, high = (math.log(bound) for bound in TAU_BOUNDS)
    return math.exp(golden_section(loss, low, high))


def golden_section(function: Callable[[float], float], low: float, high: float, *, width: float = 1e-5) -> float:
    """Where a function with one minimum in [low, high] has it, to ``width``."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > width:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2


def expected_calibration_error(probabilities_NK: Tensor, labels_N: Tensor, *, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal-width confidence bins (l, r], weighted by their samples."""
    if len(labels_N) == 0:
        raise ValueError("no sample: the calibration error of nothing has no value")
    labels_N = checks.class_numbers(labels_N, *probabilities_NK.shape)
    if not ((probabilities_NK >= 0) & (probabilities_NK <= 1)).all():
        raise ValueError("a confidence is not in [0, 1]: give probabilities, not similarities")
    confidence_N, predicted_N = probabilities_NK.detach().double().max(dim=1)
    surplus_N = (predicted_N == labels_N).double() - confidence_N
    bin_N = ((confidence_N * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = [surplus_N[bin_N == index].sum().abs() for index in range(bins)]
    return float(torch.stack(gaps).sum() / len(labels_N))
