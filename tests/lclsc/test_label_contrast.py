"""Label contrast against its formula in loops, and its laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from lclsc import label_contrast


def in_loops(anchors, anchor_labels, keys, key_labels, *, first_key, temperature, balanced=False):
    """The formula, one anchor and one key at a time."""
    total, covered = 0.0, 0
    for i in range(len(anchors)):
        others = [a for a in range(len(keys)) if a != first_key + i]
        positives = [a for a in others if key_labels[a] == anchor_labels[i]]
        if not positives:
            continue
        logit = {a: float(anchors[i] @ keys[a]) / temperature for a in others}
        size = {a: sum(key_labels[b] == key_labels[a] for b in others) if balanced else 1 for a in others}
        denominator = math.log(sum(math.exp(logit[a]) / int(size[a]) for a in others))
        total += -sum(logit[p] - denominator for p in positives) / len(positives)
        covered += 1
    return total, covered


def batch(n: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(n, 8, generator=generator, dtype=torch.float64), dim=1)
    return z, torch.randint(classes, (n,), generator=generator)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_it_is_the_formula_in_loops(n, classes, seed, balanced):
    z, y = batch(n, classes, seed)
    total, count = label_contrast(z, y, z, y, first_key=0, temperature=0.2, class_balanced=balanced)
    expected, covered = in_loops(z, y, z, y, first_key=0, temperature=0.2, balanced=balanced)
    assert float(total) == pytest.approx(expected, abs=1e-9)
    assert int(count) == covered


def test_the_order_of_the_batch_does_not_matter():
    z, y = batch(12, 3, 0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    one, _ = label_contrast(z, y, z, y, first_key=0, temperature=0.1)
    two, _ = label_contrast(z[order], y[order], z[order], y[order], first_key=0, temperature=0.1)
    assert float(one) == pytest.approx(float(two), abs=1e-9)


def test_anchors_cut_among_workers_add_up_to_the_whole_in_value_and_gradient():
    z, y = batch(12, 3, 2)
    whole, parts = z.clone().requires_grad_(), z.clone().requires_grad_()
    total, count = label_contrast(whole, y, whole, y, first_key=0, temperature=0.1)
    pieces = [label_contrast(parts[s : s + 4], y[s : s + 4], parts, y, first_key=s, temperature=0.1) for s in (0, 4, 8)]
    torch.testing.assert_close(sum(piece[0] for piece in pieces), total)
    assert sum(int(piece[1]) for piece in pieces) == int(count)
    (g_whole,) = torch.autograd.grad(total, whole)
    (g_parts,) = torch.autograd.grad(sum(piece[0] for piece in pieces), parts)
    torch.testing.assert_close(g_parts, g_whole)


def test_extra_keys_serve_as_positives_and_negatives():
    z, y = batch(5, 3, 3)
    bank, bank_y = batch(3, 3, 4)[0], torch.arange(3)
    keys, labels = torch.cat((z, bank)), torch.cat((y, bank_y))
    total, count = label_contrast(z, y, keys, labels, first_key=0, temperature=0.3)
    expected, covered = in_loops(z, y, keys, labels, first_key=0, temperature=0.3)
    assert (float(total), int(count)) == (pytest.approx(expected), covered)


@pytest.mark.parametrize("n", [1, 4])
def test_lonely_classes_add_nothing_and_no_nan(n):
    z = batch(n, 1, 5)[0].float().requires_grad_()
    total, count = label_contrast(z, torch.arange(n), z, torch.arange(n), first_key=0, temperature=0.01)
    (gradient,) = torch.autograd.grad(total, z)
    assert (float(total.detach()), int(count)) == (0.0, 0)
    assert torch.equal(gradient, torch.zeros_like(z))


def test_perfect_clusters_reach_the_closed_form():
    z = torch.eye(2).repeat(3, 1)  # classes at right angles, three each
    y = torch.tensor([0, 1] * 3)
    total, count = label_contrast(z, y, z, y, first_key=0, temperature=0.5)
    assert float(total / count) == pytest.approx(math.log(2 + 3 * math.exp(-2.0)), abs=1e-5)
