"""The class map decomposes the score exactly; saliency is its evidence."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from lclsc import class_map, label_map, saliency
from lclsc.model import pool


@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
@settings(max_examples=25, deadline=None)
def test_the_maps_mean_inside_any_mask_is_the_cosine(seed, share):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(3, 8, 5, 6, generator=generator, dtype=torch.float64)
    fov = torch.rand(3, 5, 6, generator=generator) < share
    fov[:, 2, 3] = True
    vectors = normalize(torch.randn(4, 8, generator=generator, dtype=torch.float64), dim=1)
    embedded = pool(dense, fov)
    maps = class_map(dense, vectors, embedded.norm_B)
    for b in range(3):
        cosine = torch.cosine_similarity(embedded.pooled_BD[b : b + 1], vectors)
        torch.testing.assert_close(maps[b, :, fov[b]].mean(1), cosine)


def test_the_map_of_a_label_is_its_slice_of_all_maps():
    dense, vectors, norm = torch.randn(3, 8, 4, 4), torch.randn(5, 8), torch.rand(3) + 1
    labels = torch.tensor([4, 0, 2])
    every = class_map(dense, vectors, norm)
    torch.testing.assert_close(label_map(dense, vectors[labels], norm), every[torch.arange(3), labels])


def test_the_gradient_does_not_pass_through_the_norm():
    dense, vectors = torch.randn(1, 8, 4, 4, requires_grad=True), normalize(torch.randn(2, 8), dim=1)
    embedded = pool(dense, torch.ones(1, 4, 4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(class_map(dense, vectors, embedded.norm_B)[0, 0].mean(), dense)
    expected = vectors[0] / embedded.norm_B / 16
    torch.testing.assert_close(gradient[0], expected.detach()[:, None, None].expand(8, 4, 4))


def test_saliency_lies_in_zero_to_one_reaches_one_and_vanishes_outside():
    maps, fov = torch.randn(6, 5, 5), torch.rand(6, 5, 5) < 0.5
    result, evident = saliency(maps, fov)
    assert evident.all()
    assert (result.amax((1, 2)) == 1).all()
    assert (result >= 0).all()
    assert (result[~fov] == 0).all()


def test_without_positive_evidence_saliency_is_zero_and_says_so():
    maps = -torch.rand(2, 4, 4).requires_grad_()
    result, evident = saliency(maps, torch.ones(2, 4, 4, dtype=torch.bool))
    assert not evident.any()
    assert (result == 0).all()


def test_an_evidence_free_map_has_a_finite_gradient():
    maps = torch.zeros(1, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(saliency(maps, torch.ones(1, 3, 3))[0].sum(), maps)
    assert gradient.isfinite().all()
