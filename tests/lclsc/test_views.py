"""Views: known geometry, masks carried along, chance that knows no batch."""

import itertools

import pytest
import torch
from torch.nn.functional import affine_grid, grid_sample

from lclsc import ViewSettings, make_views
from lclsc.views import draw

PLAIN = {"gain": 1.0, "gamma": 1.0, "noise": 0.0, "blur": 0.0}
STILL = {"rotate_degrees": 0.0, "flip": False, "zoom": 1.0, "shift": 0.0}


def disc(batch: int, side: int):
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, side)
    fov = (axis[:, None] ** 2 + axis[None] ** 2 < 0.9).expand(batch, 1, side, side)
    return torch.rand(batch, 1, side, side, generator=generator) * fov, fov, torch.arange(100, 100 + batch)


@pytest.mark.parametrize("side", [31, 48])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_samples_view_is_the_same_to_the_bit_in_whatever_batch_it_stands(side, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    image, fov, index = disc(37, side)
    chance = {"seed": 1, "epoch": 2, "view": 0, "settings": ViewSettings()}
    whole = make_views(image, fov, index, **chance)
    shuffled = torch.randperm(37, generator=torch.Generator().manual_seed(3))
    for chosen in itertools.chain((torch.tensor([b]) for b in range(37)), shuffled.split(5)):
        part = make_views(image[chosen], fov[chosen], index[chosen], **chance)
        assert torch.equal(part.image_B1SS, whole.image_B1SS[chosen])
        assert torch.equal(part.fov_B1SS, whole.fov_B1SS[chosen])
        assert torch.equal(part.affine_B33, whole.affine_B33[chosen])
    torch.set_num_threads(before)


def test_seed_epoch_index_and_view_each_change_the_draw():
    draws = {draw(*coordinates, ViewSettings()) for coordinates in itertools.product((0, 1), repeat=4)}
    assert len(draws) == 16


def test_a_view_is_the_image_at_a_q():
    image, fov, index = disc(6, 48)
    view = make_views(image, fov, index, seed=0, epoch=0, view=1, settings=ViewSettings(**PLAIN))
    grid = affine_grid(view.affine_B33[:, :2], [*image.shape], align_corners=False)
    expected = grid_sample(image, grid, align_corners=False) * view.fov_B1SS
    torch.testing.assert_close(view.image_B1SS, expected, rtol=0, atol=1e-4)


def test_outside_the_field_of_view_a_view_is_black_and_inside_it_has_no_dark_rim():
    _, fov, index = disc(8, 48)
    flat = 0.5 * fov
    view = make_views(flat, fov, index, seed=0, epoch=0, view=0, settings=ViewSettings(gain=1.0, gamma=1.0, noise=0.0))
    assert (view.image_B1SS[~view.fov_B1SS] == 0).all()
    assert (view.image_B1SS[view.fov_B1SS] - 0.5).abs().max() < 1e-3
    assert (view.fov_B1SS.float().mean((1, 2, 3)) > 0.4).all()


def test_with_everything_off_a_view_is_the_image():
    image, _, index = disc(3, 48)
    whole = torch.ones_like(image, dtype=torch.bool)
    view = make_views(image, whole, index, seed=0, epoch=0, view=0, settings=ViewSettings(**PLAIN, **STILL))
    torch.testing.assert_close(view.image_B1SS, image, rtol=0, atol=1e-5)
    assert view.fov_B1SS.all()


def test_the_gamma_curve_keeps_black_and_white_and_agrees_in_the_middle():
    levels = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3).expand(5, 1, 3, 3)
    settings = ViewSettings(**(PLAIN | {"gamma": 1.3}), **STILL)
    whole, index = torch.ones(5, 1, 3, 3, dtype=torch.bool), torch.arange(5)
    view = make_views(levels, whole, index, seed=0, epoch=0, view=0, settings=settings)
    middle = view.image_B1SS[:, 0, 0, 1]
    assert (view.image_B1SS[:, 0, 0, 0] < 1e-5).all()
    assert (view.image_B1SS[:, 0, 0, 2] > 1 - 1e-5).all()
    assert (middle >= 0.5**1.3 - 1e-4).all()
    assert (middle <= 0.5 ** (1 / 1.3) + 1e-4).all()
    assert middle.std() > 0.01


def test_the_noise_is_nearly_normal_and_white():
    settings = ViewSettings(**(PLAIN | {"noise": 0.1}), **STILL)
    flat, whole = torch.full((40, 1, 64, 64), 0.5), torch.ones(40, 1, 64, 64, dtype=torch.bool)
    view = make_views(flat, whole, torch.arange(40), seed=0, epoch=0, view=0, settings=settings)
    sigma = torch.tensor([draw(0, 0, i, 0, settings).noise for i in range(40)])
    noise = (view.image_B1SS - 0.5)[:, 0]
    assert (noise.mean((1, 2)).abs() < 0.1 * sigma + 1e-4).all()
    torch.testing.assert_close(noise.std((1, 2)), sigma, rtol=0.05, atol=1e-4)
    neighbours = (noise[:, :, 1:] * noise[:, :, :-1]).mean((1, 2)) / (sigma**2 + 1e-8)
    samples = (noise[1:] * noise[:-1]).mean((1, 2)) / (sigma[1:] * sigma[:-1] + 1e-8)
    assert neighbours.abs().max() < 0.08
    assert samples.abs().max() < 0.08


def test_every_angle_and_both_flips_occur():
    affines = torch.tensor([draw(0, 0, i, 0, ViewSettings()).affine for i in range(400)])
    determinant = torch.linalg.det(affines)
    angle = torch.atan2(-affines[:, 0, 1], affines[:, 1, 1])
    assert 0.4 < (determinant < 0).float().mean() < 0.6
    assert (angle.histc(8, -torch.pi, torch.pi) > 25).all()
    assert determinant.abs().max() <= 1.25**2 + 1e-6


@pytest.mark.parametrize("wrong", [{"zoom": 0.9}, {"gamma": 0.5}, {"blur": 0.5}])
def test_ranges_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ViewSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"shift": -0.5}, {"shift": 5}, {"noise": -1}, {"rotate_degrees": float("nan")}, {"zoom": float("nan")}],
    ids=str,
)
def test_what_is_in_no_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ViewSettings(**wrong)


def test_only_square_grey_images_have_views():
    image = torch.rand(2, 1, 48, 64)
    with pytest.raises(ValueError, match="square"):
        make_views(image, torch.ones_like(image), torch.arange(2), seed=0, epoch=0, view=0, settings=ViewSettings())
