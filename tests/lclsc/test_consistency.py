"""Saliency consistency: zero for an equivariant encoder, and its laws."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lclsc import consistency
from lclsc.consistency import bilinear_weights, invert_affine

KINDS = ("mse", "l1", "cosine")
EVERYONE = torch.ones(4, dtype=torch.bool)


def affine(turn_degrees: float = 0.0, flip: bool = False, shift: float = 0.0) -> Tensor:
    """One A for four samples, and the same as a batch."""
    angle, sign = math.radians(turn_degrees), -1.0 if flip else 1.0
    cosine, sine = math.cos(angle), math.sin(angle)
    rows = [[sign * cosine, -sine, shift], [sign * sine, cosine, 0.0], [0.0, 0.0, 1.0]]
    return torch.tensor(rows).expand(4, 3, 3)


def seen_through(images: Tensor, a: Tensor) -> Tensor:
    """x(A q) by torch's own sampler: the independent oracle of the convention."""
    grid = affine_grid(a[:, :2], [*images[:, None].shape], align_corners=False)
    return grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def evidence(views: Tensor) -> Tensor:
    """A toy encoder that commutes with turns and flips: block means of the brightness."""
    return torch.nn.functional.avg_pool2d(views[:, None], 4)[:, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("one", [(0, False), (90, False), (180, True)])
@pytest.mark.parametrize("two", [(270, True), (90, True), (0, False)])
def test_it_is_zero_for_an_equivariant_encoder_under_quarter_turns_and_flips(kind, one, two):
    images = torch.rand(4, 24, 24, generator=torch.Generator().manual_seed(0))
    a1, a2 = affine(*one), affine(*two)
    fov = torch.ones(4, 6, 6, dtype=torch.bool)
    maps = (evidence(seen_through(images, a)) for a in (a1, a2))
    total, count = consistency(*maps, fov, fov, a1, a2, kind=kind, include_B=EVERYONE)
    assert float(total) == pytest.approx(0.0, abs=1e-5)
    assert int(count) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_maps_that_disagree_cost_something_and_get_a_gradient(kind):
    maps = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fov, a = torch.ones(4, 6, 6, dtype=torch.bool), affine(30)
    total, _ = consistency(*maps, fov, fov, a, affine(), kind=kind, include_B=EVERYONE)
    (gradient,) = torch.autograd.grad(total, maps)
    assert float(total.detach()) > 0.1
    assert (gradient.abs().sum((2, 3)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_views_may_change_places(kind):
    maps = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    fov, a1, a2 = torch.rand(4, 6, 6) < 0.9, affine(37, True), affine(-80, shift=0.1)
    there, _ = consistency(maps[0], maps[1], fov, fov, a1, a2, kind=kind, include_B=EVERYONE)
    back, _ = consistency(maps[1], maps[0], fov, fov, a2, a1, kind=kind, include_B=EVERYONE)
    assert float(there) == pytest.approx(float(back), rel=1e-5)


def test_standardised_maps_do_not_care_for_scale():
    maps = torch.rand(2, 4, 6, 6)
    fov, a = torch.ones(4, 6, 6, dtype=torch.bool), affine()
    one, _ = consistency(*maps, fov, fov, a, a, kind="mse", include_B=EVERYONE)
    two, _ = consistency(maps[0], 0.5 * maps[1] + 0.2, fov, fov, a, a, kind="mse", include_B=EVERYONE)
    assert float(one) == pytest.approx(float(two), rel=1e-2)


def by_formula(kind: str, one: Tensor, two: Tensor) -> float:
    """The distance of two lists of cells that are all in the overlap."""
    if kind == "l1":
        return float((one - two).abs().mean())
    if kind == "cosine":
        return 1 - float(one @ two / (one.norm() * two.norm()))
    one, two = ((cells - cells.mean()) / cells.std(correction=0) for cells in (one, two))
    return float((one - two).square().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_is_the_mean_over_the_cells_that_both_see(kind):
    maps = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(2))
    fov1, fov2 = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(3)) < 0.8
    total, count = consistency(*maps, fov1, fov2, affine(), affine(), kind=kind, include_B=EVERYONE)
    both = fov1 & fov2
    expected = sum(by_formula(kind, maps[0, n][both[n]], maps[1, n][both[n]]) for n in range(4))
    assert (float(total), int(count)) == (pytest.approx(expected, rel=5e-3), 4)


def test_only_the_overlap_of_both_masks_counts():
    maps = torch.rand(4, 6, 6)
    other, fov1, fov2 = (
        maps.clone(),
        torch.ones(4, 6, 6, dtype=torch.bool),
        torch.ones(4, 6, 6, dtype=torch.bool),
    )
    fov1[:, :, :2] = False
    fov2[:, :2] = False
    other[:, :2], other[:, :, :2] = 9.0, -9.0
    total, count = consistency(maps, other, fov1, fov2, affine(), affine(), kind="l1", include_B=EVERYONE)
    assert (float(total), int(count)) == (pytest.approx(0.0, abs=1e-6), 4)


def test_a_pair_with_little_overlap_or_not_included_is_left_out():
    maps, fov = torch.rand(4, 6, 6), torch.ones(4, 6, 6, dtype=torch.bool)
    include = torch.tensor([True, True, False, False])
    total, count = consistency(maps, maps, fov, fov, affine(shift=1.8), affine(), kind="l1", include_B=include)
    assert (float(total), int(count)) == (0.0, 0)
    assert int(consistency(maps, maps, fov, fov, affine(), affine(), include_B=include)[1]) == 2


def test_a_quarter_of_overlap_is_just_enough():
    maps, fov = torch.rand(4, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool)
    counts = [
        int(consistency(maps, maps, fov, fov, affine(shift=shift), affine(), kind="l1", include_B=EVERYONE)[1])
        for shift in (1.5, 1.75)  # half sides: six and seven of eight columns
    ]
    assert counts == [4, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_flat_maps_give_no_nan(kind):
    maps = torch.zeros(4, 6, 6, requires_grad=True)
    fov = torch.ones(4, 6, 6, dtype=torch.bool)
    total, _ = consistency(maps, maps * 1.0, fov, fov, affine(20), affine(), kind=kind, include_B=EVERYONE)
    (gradient,) = torch.autograd.grad(total, maps)
    assert float(total.detach()) == pytest.approx(0.0, abs=1e-6)
    assert gradient.isfinite().all()


def test_the_warp_is_torchs_sampler():
    maps, a = torch.rand(4, 7, 7), affine(33, True, 0.2)
    rows, columns = bilinear_weights(a, maps)
    mine = torch.einsum("bqh,bhw,bqw->bq", rows, maps, columns)
    torch.testing.assert_close(mine, seen_through(maps, a).flatten(1), rtol=0, atol=1e-5)


def test_an_unknown_kind_is_refused_with_the_choices():
    maps, fov = torch.rand(4, 6, 6), torch.ones(4, 6, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"'l2' is unknown.*mse"):
        consistency(maps, maps, fov, fov, affine(), affine(), kind="l2", include_B=EVERYONE)


def test_the_closed_form_inverse_is_the_inverse():
    generator = torch.Generator().manual_seed(0)
    any_B33 = torch.eye(3, dtype=torch.double).repeat(20, 1, 1)
    any_B33[:, :2] += torch.rand(20, 2, 3, generator=generator, dtype=torch.double) - 0.5
    assert torch.allclose(invert_affine(any_B33), torch.linalg.inv(any_B33))
