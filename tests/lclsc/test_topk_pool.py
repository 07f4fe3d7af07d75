"""Top-K maximum and minimum pooling against a numpy sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lclsc import top_k_contrast, top_k_max_min


def by_sorting(values: np.ndarray, rho: float):
    """T+, T- and validity of one image's values inside its mask."""
    k = max(1, int(np.round(rho * len(values))))
    ranked = np.sort(values)
    return ranked[-k:].mean(), ranked[:k].mean(), 2 * k <= len(values)


@given(st.integers(0, 10**6), st.floats(0.1, 1.0), st.sampled_from([0.05, 0.2, 0.37, 0.5]))
@settings(max_examples=40, deadline=None)
def test_it_is_a_numpy_sort_inside_the_mask(seed, share, rho):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(4, 5, 6, generator=generator, dtype=torch.float64)
    fov = torch.rand(4, 5, 6, generator=generator) < share
    fov[:, 0, 0] = True
    plus, minus, valid = top_k_max_min(maps, fov, rho)
    for b in range(4):
        expected_plus, expected_minus, expected_valid = by_sorting(maps[b][fov[b]].numpy(), rho)
        assert bool(valid[b]) == expected_valid
        if expected_valid:
            assert float(plus[b]) == pytest.approx(expected_plus)
            assert float(minus[b]) == pytest.approx(expected_minus)


def test_what_lies_outside_the_mask_changes_nothing():
    maps, fov = torch.rand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    fov[:, 1:3, 1:3] = True
    other = torch.where(fov, maps, 99.0)
    assert torch.equal(top_k_max_min(maps, fov, 0.25)[0], top_k_max_min(other, fov, 0.25)[0])


def test_a_sample_whose_ends_would_overlap_is_left_out():
    fov = torch.zeros(2, 3, 3, dtype=torch.bool)
    fov[0, 0, 0] = True  # one cell: K = 1 exceeds n / 2
    fov[1] = True
    total, count = top_k_contrast(
        torch.ones(2, 3, 3), fov, rho=0.2, delta=0.8, include_B=torch.ones(2, dtype=torch.bool)
    )
    assert (float(total), int(count)) == (pytest.approx(0.8), 1)


def test_a_constant_map_costs_delta_and_a_sharp_one_nothing():
    fov, everyone = torch.ones(1, 4, 4, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    sharp = torch.zeros(1, 4, 4)
    sharp[0, :2] = 1.0
    settings = {"rho": 0.5, "delta": 0.8, "include_B": everyone}
    assert float(top_k_contrast(torch.full((1, 4, 4), 0.5), fov, **settings)[0]) == pytest.approx(0.8)
    assert float(top_k_contrast(sharp, fov, **settings)[0]) == 0.0


def test_excluded_samples_add_to_neither_number():
    nobody = torch.zeros(3, dtype=torch.bool)
    total, count = top_k_contrast(
        torch.rand(3, 4, 4), torch.ones(3, 4, 4, dtype=torch.bool), rho=0.2, delta=0.8, include_B=nobody
    )
    assert (float(total), int(count)) == (0.0, 0)


def test_the_gradient_raises_the_largest_and_lowers_the_smallest():
    maps = torch.linspace(0, 0.5, 10).reshape(1, 2, 5).requires_grad_()
    fov, everyone = torch.ones(1, 2, 5, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    total, _ = top_k_contrast(maps, fov, rho=0.2, delta=0.8, include_B=everyone)
    (gradient,) = torch.autograd.grad(total, maps)
    assert gradient.flatten().tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0, -0.5, -0.5]


@pytest.mark.parametrize("rho", [0.0, 0.51, 1.0])
def test_a_share_above_one_half_is_a_configuration_error(rho):
    with pytest.raises(ValueError, match="rho is"):
        top_k_max_min(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), rho)
