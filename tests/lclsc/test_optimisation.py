"""The schedule against its formula, written out, and what decays."""

import math

import pytest
import torch
from torch import nn

from lclsc.optimisation import learning_rate_share, parameter_groups


def shares(total, warmup):
    return [learning_rate_share(step, total, warmup=warmup) for step in range(total)]


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    falling = [0.5 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]
    assert shares(10, 0.3) == pytest.approx([0.25, 0.5, 0.75, *falling])


def test_without_a_warm_up_the_first_step_has_half_the_rate():
    assert shares(4, 0.0) == pytest.approx([0.5, 1.0, 0.75, 0.25])


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.0), (1, 1.0), (2, 1.0), (7, 0.5), (100, 0.05)])
def test_every_step_has_a_rate(total, warmup):
    assert all(0 < share <= 1 for share in shares(total, warmup))


def test_matrices_and_kernels_decay_and_what_is_frozen_is_left_out():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    decaying, kept = parameter_groups(model, 0.05)
    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    assert [tuple(one.shape) for one in decaying["params"]] == [(3, 1, 3, 3)]
    assert [tuple(one.shape) for one in kept["params"]] == [(3,), (3,), (3,)]
    torch.optim.AdamW([decaying, kept])
