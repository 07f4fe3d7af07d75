"""Oracles: closed forms of a linear scorer, loops, scipy's sparse solver and captum."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import sensitivity_max as captum_sensitivity_max
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from lclsc import LCLSC, build_encoder, faithfulness, map_stability, removal, saliency
from lclsc.global_embeddings import GlobalEmbeddings
from lclsc.model import cells_inside

SIDE = 24


def scene(batch: int = 3, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(2)
    axis = torch.linspace(-1, 1, SIDE)
    fov = (axis[:, None] ** 2 + axis[None] ** 2 < 0.9).expand(batch, 1, SIDE, SIDE)
    image = torch.rand(batch, 1, SIDE, SIDE, generator=generator, dtype=dtype) * fov
    maps = torch.rand(batch, SIDE, SIDE, generator=generator, dtype=dtype) * fov[:, 0]
    return image, fov, maps, torch.tensor([1, 0, 1][:batch]), torch.arange(batch)


class Linear:
    """p = <w_k, x>: what every pixel is worth is known."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.weight_KSS = torch.rand(2, SIDE, SIDE, generator=generator, dtype=torch.float64) / SIDE**2

    def __call__(self, image, fov):
        return torch.einsum("bchw,khw->bk", image.double() * fov, self.weight_KSS)


# --- removal ---------------------------------------------------------------------------------------


def test_removed_pixels_are_never_black_and_an_even_picture_stays_even():
    _, fov, _, _, _ = scene()
    even = 0.4 * fov.double()
    torch.testing.assert_close(removal.blurred_tissue(even, fov), even)
    removed = torch.rand(even.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    filled = removal.noisy_linear_imputation(even, fov, removed, torch.arange(3), seed=0)
    assert (filled - even).abs().max() < 6 * removal.IMPUTATION_NOISE
    assert not filled[~fov].any()


def test_the_blur_leaves_no_detail():
    image, fov, _, _, _ = scene()
    blurred = removal.blurred_tissue(image, fov)
    assert blurred[fov].std() < 0.2 * image[fov].std()
    assert not blurred[~fov].any()


def test_imputation_solves_roads_linear_system(monkeypatch):
    monkeypatch.setattr(removal, "IMPUTATION_NOISE", 0.0)
    image, fov, maps, _, index = scene()
    removed = (maps.unsqueeze(1) > 0.3) & fov
    found = removal.noisy_linear_imputation(image, fov, removed, index, seed=0)
    for n in range(len(image)):
        expected = imputed_by_scipy(image[n, 0].numpy(), fov[n, 0].numpy(), removed[n, 0].numpy())
        np.testing.assert_allclose(found[n, 0].numpy(), expected, atol=1e-4)


def imputed_by_scipy(image, fov, removed):
    pixels = {tuple(place): number for number, place in enumerate(np.argwhere(removed))}
    matrix, right_side = lil_matrix((len(pixels), len(pixels))), np.zeros(len(pixels))
    for (row, column), number in pixels.items():
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                near = (row + down, column + right)
                if near == (row, column) or not (min(near) >= 0 and max(near) < SIDE) or not fov[near]:
                    continue
                weight = 1 / 12 if down and right else 1 / 6
                matrix[number, number] += weight
                if near in pixels:
                    matrix[number, pixels[near]] -= weight
                else:
                    right_side[number] += weight * image[near]
    filled = image.copy()
    filled[removed] = spsolve(matrix.tocsr(), right_side)
    return filled


def test_a_region_without_neighbours_takes_the_mean_of_what_is_left():
    image, fov, _, _, index = scene(1)
    island = torch.zeros_like(fov)
    island[0, 0, 11:14, 11:14] = True
    apart = fov & ~(torch.nn.functional.max_pool2d(island.float(), 3, 1, 1).bool() & ~island)
    filled = removal.noisy_linear_imputation(image * apart, apart, island, index, seed=0)
    left = image[apart & ~island].mean()
    assert (filled[island] - left).abs().max() < 5 * removal.IMPUTATION_NOISE


def test_where_nothing_is_left_the_image_is_even():
    """A system without a solution of its own: what rounding leaves of it must not be solved for."""
    image = torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = torch.ones_like(image).bool()
    filled = removal.noisy_linear_imputation(image, whole, whole, torch.arange(20), seed=0)
    assert (filled - image.mean((1, 2, 3), keepdim=True)).abs().max() < 5 * removal.IMPUTATION_NOISE


def test_pixels_go_by_saliency_and_those_outside_never():
    _, fov, maps, _, _ = scene()
    places = removal.order(maps, fov)
    for share in (0.0, 0.25, 0.6, 1.0):
        removed = removal.remove_most(places, fov, share)
        assert removed.sum((1, 2, 3)).tolist() == [round(share * int(fov[0].sum()))] * 3
        assert not (removed & ~fov).any()
        for n in range(3):
            if 0 < share < 1:
                assert maps[n][removed[n, 0]].min() >= maps[n][fov[n, 0] & ~removed[n, 0]].max()


# --- faithfulness ----------------------------------------------------------------------------------


def test_the_deletion_curve_of_a_linear_scorer_is_the_sum_of_what_is_removed():
    image, fov, maps, classes, _ = scene()
    score = Linear()
    curve = faithfulness.deletion_curve(score, image, fov, maps, classes, steps=7)
    worth = score.weight_KSS[classes] * (image - removal.blurred_tissue(image, fov))[:, 0]
    for n in range(3):
        inside = fov[n, 0]
        order = sorted(range(int(inside.sum())), key=lambda pixel, n=n, inside=inside: -float(maps[n][inside][pixel]))
        start = float(score(image, fov)[n, classes[n]])
        for step in range(8):
            gone = order[: round(step / 7 * len(order))]
            assert float(curve[n, step]) == pytest.approx(start - float(worth[n][inside][gone].sum()))


def test_insertion_mirrors_deletion_for_a_linear_scorer():
    image, fov, maps, classes, _ = scene()
    score = Linear()
    deletion = faithfulness.deletion_curve(score, image, fov, maps, classes, steps=9)
    insertion = faithfulness.insertion_curve(score, image, fov, maps, classes, steps=9)
    torch.testing.assert_close(deletion + insertion, (deletion[:, :1] + deletion[:, -1:]).expand(-1, 10))
    torch.testing.assert_close(insertion[:, -1], deletion[:, 0])


def test_no_map_beats_the_one_that_knows_what_each_pixel_is_worth():
    image, fov, _, classes, index = scene()
    score = Linear()
    worth = score.weight_KSS[classes] * (image - removal.blurred_tissue(image, fov))[:, 0] * fov[:, 0]

    def figures(maps):
        curves = (faithfulness.deletion_curve, faithfulness.insertion_curve)
        deletion, insertion = (
            faithfulness.area_under(curve(score, image, fov, maps, classes, steps=20)) for curve in curves
        )
        return deletion, insertion, faithfulness.road(score, image, fov, maps, classes, index, seed=0)

    best_deletion, best_insertion, best_road = figures(worth)
    assert (best_road > 0).all()
    for seed in range(5):
        other = torch.rand(worth.shape, generator=torch.Generator().manual_seed(seed)).double()
        deletion, insertion, road = figures(other)
        assert (deletion > best_deletion).all()
        assert (insertion < best_insertion).all()
        assert (road < best_road).all()


def test_the_area_under_a_straight_line_is_its_middle():
    assert faithfulness.area_under(torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.2, 0.2]])).tolist() == pytest.approx(
        [0.5, 0.2]
    )


def test_drop_and_increase_in_closed_form():
    """The score is the variance that blurring takes away: a map that shows everything loses nothing."""
    image, fov, _, classes, _ = scene()

    def score(picture, inside):
        detail = (picture - removal.blurred_tissue(image, inside)).flatten(1)
        share = (detail * (image - removal.blurred_tissue(image, inside)).flatten(1)).sum(1)
        whole = (image - removal.blurred_tissue(image, inside)).flatten(1).square().sum(1)
        return torch.stack((1 - share / whole, share / whole), dim=1)

    for share in (1.0, 0.7, 0.0):
        maps = share * fov[:, 0].double()
        drop, increase = faithfulness.confidence_change(score, image, fov, maps, torch.ones_like(classes))
        torch.testing.assert_close(drop, torch.full_like(drop, 1 - share), atol=1e-9, rtol=0)
        assert not increase.any() or share == 1.0  # equal up to rounding
        risen = faithfulness.confidence_change(score, image, fov, maps, torch.zeros_like(classes))[1]
        assert share == 1.0 or risen.all()


def test_road_is_half_of_what_the_two_orders_of_removal_leave_apart():
    image, fov, maps, classes, index = scene()
    score, left = Linear(), []
    for least_first in (True, False):
        removed = removal.remove_most(removal.order(maps, fov, least_first=least_first), fov, 0.5)
        filled = removal.noisy_linear_imputation(image, fov, removed, index, seed=0)
        left.append(score(filled, fov).gather(1, classes[:, None])[:, 0])
    found = faithfulness.road(score, image, fov, maps, classes, index, seed=0, shares=(0.5,))
    torch.testing.assert_close(found, 0.5 * left[0] - 0.5 * left[1])


def test_road_tells_a_map_from_its_reverse_and_an_even_one_says_little():
    image, fov, maps, classes, index = scene()
    score = Linear()
    maps = score.weight_KSS[classes] * (image - removal.blurred_tissue(image, fov))[:, 0]
    forward = faithfulness.road(score, image, fov, maps, classes, index, seed=0)
    backward = faithfulness.road(score, image, fov, -maps, classes, index, seed=0)
    torch.testing.assert_close(forward, -backward)
    assert (forward > 0).all()


def test_adcc_is_the_harmonic_mean_of_its_parts():
    image, fov, maps, classes, _ = scene()
    found, parts = faithfulness.adcc(Linear(), lambda *_: maps, image, fov, classes)
    inside = fov[:, 0]
    for n in range(3):
        coherency, complexity = 1.0, float(maps[n][inside[n]].mean())
        drop = float(parts["average_drop"][n])
        expected = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
        assert float(found[n]) == pytest.approx(expected)
        assert float(parts["coherency"][n]) == pytest.approx(1.0)
        assert float(parts["complexity"][n]) == pytest.approx(complexity)


def test_a_map_of_everything_is_too_complex_to_score():
    image, fov, _, classes, _ = scene()
    everything = fov[:, 0].double()
    assert (faithfulness.adcc(Linear(), lambda *_: everything, image, fov, classes)[0] == 0).all()


# --- against captum --------------------------------------------------------------------------------


def small_model() -> LCLSC:
    torch.manual_seed(0)
    model = LCLSC(build_encoder("compact"), classes=3, embedding_dim=16).eval().double()
    vectors = torch.nn.functional.normalize(torch.randn(3, 16, dtype=torch.float64), dim=1)
    bank: GlobalEmbeddings = model.global_embeddings
    bank.vectors.copy_(vectors)
    bank.seen.fill_(True)
    return model


def maps_of(model: LCLSC):
    def explain(image, fov, classes):
        scores = model(image, fov)
        cells, _ = saliency(scores.class_map_of(classes), scores.fov_Bhw)
        large = torch.nn.functional.interpolate(cells[:, None], size=image.shape[-2:], mode="bilinear")
        return large[:, 0] * fov[:, 0]

    return explain


def test_captums_grad_cam_of_the_score_with_its_norm_held_still_is_the_class_map():
    model = small_model()
    image, fov, _, classes, _ = scene()

    def similarity(picture):
        embedded = model.embed(picture, fov)
        return (embedded.pooled_BD / embedded.norm_B.detach()[:, None]) @ model.global_embeddings.vectors.T

    found = LayerGradCam(similarity, model.head.project).attribute(image, target=classes)
    ours = model(image, fov).class_map_of(classes)
    cells = ours[0].numel()
    torch.testing.assert_close(found[:, 0] * cells, ours, rtol=1e-8, atol=1e-10)
    assert cells_inside(fov, ours.shape[-2:]).any()


def test_infidelity_is_captums():
    image, fov, maps, classes, index = scene()
    score = Linear()
    changes = faithfulness.patch_changes(image, fov, index, changes=6, seed=0)
    turn = iter(changes)

    def perturb(pictures):
        change = next(turn)
        return change, pictures - change

    expected = captum_infidelity(
        lambda picture: score(picture, fov[: len(picture)]),
        perturb,
        image,
        maps.unsqueeze(1),
        target=classes,
        n_perturb_samples=6,
        max_examples_per_batch=3,
        normalize=True,
    )
    found = faithfulness.infidelity(score, image, fov, maps, classes, changes)
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-14)


def test_infidelity_is_nothing_for_the_true_worth_of_every_pixel_on_any_scale():
    image, fov, maps, classes, index = scene()
    score = Linear()
    changes = faithfulness.patch_changes(image, fov, index, changes=5, seed=0)
    assert (changes.flatten(2).abs().sum(2) > 0).all()
    worth = score.weight_KSS[classes] * 1000
    assert (faithfulness.infidelity(score, image, fov, worth, classes, changes) < 1e-20).all()
    assert (faithfulness.infidelity(score, image, fov, maps, classes, changes) > 1e-12).all()


def test_max_sensitivity_is_captums():
    model = small_model()
    explain = maps_of(model)
    image, fov, _, classes, index = scene()
    turn = iter(range(3))

    def perturb(pictures):
        return map_stability.noisy_copy(pictures, fov, index, next(turn), seed=0, noise=0.05)

    def maps(pictures):  # captum gives a tuple or a tensor and wants a tuple
        return (explain(pictures[0] if isinstance(pictures, tuple) else pictures, fov, classes),)

    with torch.no_grad():
        expected = captum_sensitivity_max(
            maps,
            image,
            perturb_func=perturb,
            n_perturb_samples=3,
            max_examples_per_batch=3,
        )
        found = map_stability.max_sensitivity(explain, image, fov, classes, index, seed=0, copies=3)
    torch.testing.assert_close(found, expected.double())


# --- stability -------------------------------------------------------------------------------------


def test_a_map_that_ignores_the_image_is_stable_and_one_of_pixels_is_not():
    image, fov, maps, classes, index = scene()
    steady = map_stability.stability(lambda *_: maps, image, fov, classes, index, seed=0)
    torch.testing.assert_close(steady, torch.ones(3, dtype=torch.float64))
    gentle, rough = (
        map_stability.stability(lambda x, *_: x[:, 0], image, fov, classes, index, seed=0, noise=noise)
        for noise in (0.05, 0.5)
    )
    assert (gentle > 0.9).all()
    assert (rough < gentle).all()


def test_an_even_map_counts_nothing_instead_of_spoiling_the_mean():
    image, fov, _, classes, index = scene()
    even = torch.ones(3, SIDE, SIDE)
    assert (map_stability.stability(lambda *_: even, image, fov, classes, index, seed=0) == 0).all()
    assert (map_stability.randomised_weights(lambda *_: even, lambda *_: even, image, fov, classes) == 0).all()


def test_a_noisy_copy_stays_an_image_in_its_field_of_view():
    image, fov, _, _, index = scene()
    noisy = map_stability.noisy_copy(image, fov, index, 0, seed=0, noise=5.0)
    assert (float(noisy.amin()), float(noisy.amax())) == (0.0, 1.0)
    assert not (noisy.bool() & ~fov.bool()).any()


def test_shuffled_weights_change_the_models_map_but_not_one_of_the_image_alone():
    model = small_model()
    image, fov, _, classes, _ = scene()
    forgetful = map_stability.without_knowledge(model, seed=1)
    with torch.no_grad():
        ours = map_stability.randomised_weights(maps_of(model), maps_of(forgetful), image, fov, classes)
    alone = map_stability.randomised_weights(lambda x, *_: x[:, 0], lambda x, *_: x[:, 0], image, fov, classes)
    assert (ours < 0.95).all()
    torch.testing.assert_close(alone, torch.ones(3, dtype=torch.float64))
    bent = map_stability.randomised_weights(lambda x, *_: x[:, 0], lambda x, *_: x[:, 0] ** 5, image, fov, classes)
    torch.testing.assert_close(bent, torch.ones(3, dtype=torch.float64), msg="only the order counts")


def test_a_model_without_knowledge_has_the_same_weights_in_another_order_and_leaves_its_original_alone():
    model = small_model()
    before = [weight.clone() for weight in model.parameters()]
    one, two = (map_stability.without_knowledge(model, seed=1) for _ in range(2))
    for original, kept, first, second in zip(
        before, model.parameters(), one.parameters(), two.parameters(), strict=True
    ):
        assert torch.equal(original, kept)
        assert torch.equal(first, second)
        assert torch.equal(first.flatten().sort().values, original.flatten().sort().values)
    assert any(not torch.equal(a, b) for a, b in zip(before, one.parameters(), strict=True))


# --- all of them -----------------------------------------------------------------------------------


def test_no_figure_knows_its_batch():
    model = small_model()
    image, fov, _, classes, index = scene()

    def every(rows):
        x, f, c, i = image[rows], fov[rows], classes[rows], index[rows]
        explain = maps_of(model)

        def score(picture, inside):
            return torch.softmax(model(picture, inside).similarity_BK, dim=1)

        maps = explain(x, f, c)
        return torch.stack(
            (
                faithfulness.area_under(faithfulness.deletion_curve(score, x, f, maps, c, steps=4)),
                faithfulness.area_under(faithfulness.insertion_curve(score, x, f, maps, c, steps=4)),
                *faithfulness.confidence_change(score, x, f, maps, c),
                faithfulness.road(score, x, f, maps, c, i, seed=0, shares=(0.5,)),
                faithfulness.adcc(score, explain, x, f, c)[0],
                map_stability.stability(explain, x, f, c, i, seed=0, copies=2),
            )
        )

    with torch.no_grad():
        whole = every(torch.arange(3))
        torch.testing.assert_close(every(torch.tensor([1])), whole[:, 1:2], rtol=1e-6, atol=1e-9)
        assert torch.equal(whole, every(torch.arange(3)))


def test_where_nothing_of_one_part_is_left_it_takes_the_mean_of_the_others():
    """Two parts of a field of view that do not touch, one of them removed as a whole."""
    image = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    fov = torch.ones_like(image).bool()
    fov[..., 30:34] = False
    part = fov.clone()
    part[..., 32:] = False
    filled = removal.noisy_linear_imputation(image, fov, part, torch.arange(4), seed=0)
    left = (image * (fov & ~part)).sum((1, 2, 3)) / (fov & ~part).sum((1, 2, 3))
    assert ((filled - left[:, None, None, None]) * part).abs().max() < 5 * removal.IMPUTATION_NOISE
