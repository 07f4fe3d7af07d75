"""Oracles: scikit-learn and scipy for figures, loops for the rest."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from lclsc import map_quality

SIDE = 20


@pytest.fixture
def scenes():
    """Five maps with ties, their truths and fields of view."""
    generator = torch.Generator().manual_seed(1)
    axis = torch.linspace(-1, 1, SIDE)
    fov = (axis[:, None] ** 2 + axis[None] ** 2 < 0.95).expand(5, SIDE, SIDE)
    maps = (torch.rand(5, SIDE, SIDE, generator=generator) * 12).floor() / 12 * fov
    truth = (torch.rand(5, SIDE, SIDE, generator=generator) < 0.2) & fov
    return maps, truth, fov


def test_saliency_auc_is_scikit_learns_inside_the_field_of_view(scenes):
    maps, truth, fov = scenes
    found = map_quality.saliency_auc(maps, truth, fov)
    for n in range(5):
        assert float(found[n]) == pytest.approx(metrics.roc_auc_score(truth[n][fov[n]], maps[n][fov[n]]))


def test_mean_iou_is_scikit_learns_jaccard_index(scenes):
    maps, truth, fov = scenes
    found = map_quality.mean_iou(maps, truth, fov, threshold=0.6)
    for n in range(5):
        chosen = maps[n] >= 0.6 * maps[n].max()
        expected = metrics.jaccard_score(truth[n][fov[n]], chosen[fov[n]], average="macro")
        assert float(found[n]) == pytest.approx(expected)


def test_equal_area_iou_is_the_overlap_with_as_many_pixels(scenes):
    maps, truth, _ = scenes
    for n, value in enumerate(map_quality.equal_area_iou(maps, truth).tolist()):
        wanted = set(np.flatnonzero(truth[n].numpy()))
        ranked = sorted(range(SIDE * SIDE), key=lambda pixel, n=n: (-float(maps[n].flatten()[pixel]), pixel))
        chosen = {pixel for pixel in ranked[: len(wanted)] if maps[n].flatten()[pixel] > 0}
        assert value == pytest.approx(len(wanted & chosen) / len(wanted | chosen))


def test_pointing_asks_for_the_first_peak(scenes):
    maps, truth, _ = scenes
    expected = [float(truth[n].flatten()[int(np.argmax(maps[n].numpy()))]) for n in range(5)]
    assert map_quality.pointing(maps, truth).tolist() == expected


def test_the_truth_itself_is_a_perfect_map_and_its_reverse_the_worst(scenes):
    _, truth, fov = scenes
    best, worst = truth.float(), (fov & ~truth).float()
    for figure in (map_quality.saliency_auc, map_quality.mean_iou):
        assert (figure(best, truth, fov) == 1).all()
        assert (figure(worst, truth, fov) == 0).all()
    for figure in (map_quality.equal_area_iou, map_quality.pointing):
        assert (figure(best, truth) == 1).all()
        assert (figure(worst, truth) == 0).all()


def test_an_empty_map_scores_nothing_and_an_auc_of_one_half(scenes):
    _, truth, fov = scenes
    empty = torch.zeros(5, SIDE, SIDE)
    assert (map_quality.equal_area_iou(empty, truth) == 0).all()
    assert (map_quality.pointing(empty, truth) == 0).all()
    assert (map_quality.saliency_auc(empty, truth, fov) == 0.5).all()


def test_there_is_no_value_without_a_structure(scenes):
    maps, truth, fov = scenes
    for figure in (map_quality.equal_area_iou, map_quality.pointing):
        assert figure(maps, torch.zeros_like(truth)).isnan().all()
    for figure in (map_quality.saliency_auc, map_quality.mean_iou):
        assert figure(maps, torch.zeros_like(truth), fov).isnan().all()
        assert figure(maps, fov, fov).isnan().all()


@pytest.mark.parametrize(("ranks", "oracle"), [(False, stats.pearsonr), (True, stats.spearmanr)])
def test_correlation_is_scipys_inside_the_field_of_view(scenes, ranks, oracle):
    maps, _, fov = scenes
    other = maps.flip(0) + 0.3 * maps + 7 * ~fov
    found = map_quality.correlation(maps, other, fov, ranks=ranks)
    for n in range(5):
        assert float(found[n]) == pytest.approx(oracle(maps[n][fov[n]], other[n][fov[n]]).statistic, abs=1e-6)


def test_an_even_map_correlates_with_nothing(scenes):
    maps, _, fov = scenes
    even = torch.full_like(maps, 0.1)
    for ranks in (False, True):
        assert map_quality.correlation(even, maps, fov, ranks=ranks).isnan().all()


def test_a_figure_does_not_know_its_batch(scenes):
    maps, truth, fov = scenes
    whole = map_quality.saliency_auc(maps, truth, fov)
    assert torch.equal(whole[2:3], map_quality.saliency_auc(maps[2:3], truth[2:3], fov[2:3]))


@pytest.mark.parametrize("marked", [1, SIDE * SIDE - 1])
def test_one_pixel_alone_is_a_structure(marked):
    fov = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    truth = (torch.arange(SIDE * SIDE) < marked).reshape(1, SIDE, SIDE)
    maps = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = metrics.roc_auc_score(truth.flatten(), maps.flatten())
    assert float(map_quality.saliency_auc(maps, truth, fov)) == pytest.approx(expected)
