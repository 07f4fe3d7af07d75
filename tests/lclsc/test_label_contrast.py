"""Label contrast against its formula in loops and in one dense matrix, and its laws."""

import importlib
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from lclsc import label_contrast

blocks = importlib.import_module("lclsc.label_contrast")
MIB = 2**20


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


def dense(anchors, anchor_labels, keys, key_labels, *, first_key, temperature, balanced=False):
    """The formula with all pairs in one matrix: automatic differentiation gives its gradient."""
    itself = torch.arange(len(keys)) == torch.arange(first_key, first_key + len(anchors)).unsqueeze(1)
    same = (anchor_labels.unsqueeze(1) == key_labels) & ~itself
    logits = (anchors @ keys.T / temperature).masked_fill(itself, -torch.inf)
    weights = torch.zeros_like(logits)
    if balanced:
        counts = torch.stack([((key_labels == label) & ~itself).sum(1) for label in key_labels], 1)
        weights = counts.clamp_min(1).to(logits.dtype).log()
    covered = same.any(1)
    log_share = (logits - (logits - weights).logsumexp(1, keepdim=True)).masked_fill(itself, 0.0)[covered]
    return -((log_share * same[covered]).sum(1) / same[covered].sum(1)).sum(), covered.sum()


def value_and_gradients(loss, anchors, keys, *arguments, **options):
    """Loss, count and gradients to anchors and keys; to both together where they are one tensor."""
    leaves = [anchors.detach().requires_grad_()]
    if keys is not anchors:
        leaves.append(keys.detach().requires_grad_())
    anchor_labels, key_labels = arguments
    total, count = loss(leaves[0], anchor_labels, leaves[-1], key_labels, **options)
    return total.detach(), count, torch.autograd.grad(3 * total, leaves)


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks of 4, so that a small batch has many, and no plain path."""
    monkeypatch.setattr(blocks, "BLOCK", 4)
    monkeypatch.setattr(blocks, "PLAIN_KEYS", 0)


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


def as_dense(anchors, anchor_labels, keys, key_labels, *, first_key, balanced):
    """Ours and the dense form, in value, count and every gradient."""
    options = {"first_key": first_key, "temperature": 0.1}
    data = (anchors, keys, anchor_labels, key_labels)
    ours = value_and_gradients(label_contrast, *data, **options, class_balanced=balanced)
    theirs = value_and_gradients(dense, *data, **options, balanced=balanced)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("n", [2, 4, 5, 8, 13])
def test_blocks_of_a_batch_against_itself_are_the_dense_form_in_value_and_gradient(n, balanced):
    z, y = batch(n, 3, n)
    y[0] = 3  # one lonely
    as_dense(z, y, z, y, first_key=0, balanced=balanced)


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("first_key", "anchors"), [(0, 13), (0, 5), (3, 6), (7, 6), (12, 1)])
def test_blocks_of_anchors_against_more_keys_are_the_dense_form_in_both_gradients(first_key, anchors, balanced):
    keys, labels = batch(13, 3, first_key)
    own = slice(first_key, first_key + anchors)
    as_dense(keys[own].clone(), labels[own], keys, labels, first_key=first_key, balanced=balanced)


@pytest.mark.parametrize("n", [64, 256, 257, 513])
def test_sizes_on_both_sides_of_the_real_blocks_are_the_dense_form(n):
    z, y = batch(n, 4, n)
    as_dense(z, y, z, y, first_key=0, balanced=False)
    as_dense(z[:40].clone(), y[:40], z, y, first_key=0, balanced=True)


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("balanced", [False, True])
def test_the_gradient_is_that_of_finite_differences(balanced):
    keys, labels = batch(9, 3, 6)

    def to_anchors_and_keys(anchors, keys):
        options = {"first_key": 2, "temperature": 0.5, "class_balanced": balanced}
        return label_contrast(anchors, labels[2:8], keys, labels, **options)[0]

    def to_both(z):
        return label_contrast(z, labels, z, labels, first_key=0, temperature=0.5, class_balanced=balanced)[0]

    leaves = (keys[2:8].clone().requires_grad_(), keys.clone().requires_grad_())
    assert torch.autograd.gradcheck(to_anchors_and_keys, leaves)
    assert torch.autograd.gradcheck(to_both, leaves[1:])


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_logits_far_beyond_the_range_of_exp_stay_exact(scale):
    exact_z, y = batch(11, 2, 7)
    exact_z *= scale  # logits up to 3600 at scale 6; e^89 is no float32
    z = exact_z.float()
    total, _, (gradient,) = value_and_gradients(label_contrast, z, z, y, y, first_key=0, temperature=0.01)
    expected, _, (exact,) = value_and_gradients(dense, exact_z, exact_z, y, y, first_key=0, temperature=0.01)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), exact, rtol=0, atol=2e-3 * float(exact.abs().max()))


@pytest.mark.parametrize("n", [64, 1100])
def test_the_same_batch_gives_the_same_bits_again_and_on_one_thread_or_two(n):
    z, y = (part.float() if part.is_floating_point() else part for part in batch(n, 4, 8))
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 1, 2):
        torch.set_num_threads(count)
        total, _, (gradient,) = value_and_gradients(label_contrast, z, z, y, y, first_key=0, temperature=0.1)
        results.append((total.numpy().tobytes(), gradient.numpy().tobytes()))
    torch.set_num_threads(threads)
    assert results[0] == results[2], "again on one thread"
    assert results[1] == results[3], "again on two threads"
    assert results[0] == results[1], "one thread and two"


@pytest.mark.parametrize("first_key", [1, 3, 5])
def test_anchors_that_are_not_the_named_keys_are_refused(first_key):
    z, _ = batch(5, 3, 9)
    labels = torch.tensor([0, 1, 2, 0, 2])
    with pytest.raises(ValueError, match=f"keys from {first_key} on"):
        label_contrast(z[:3], labels[:3], z, labels, first_key=first_key, temperature=0.1)


PEAK = """
import resource, torch; torch.set_num_threads(1)
from lclsc import label_contrast
torch.manual_seed(0)
z, y = torch.nn.functional.normalize(torch.randn(8192, 16)).requires_grad_(), torch.randint(4, (8192,))
warm = z[:600].detach().requires_grad_()
label_contrast(warm, y[:600], warm, y[:600], first_key=0, temperature=0.1)[0].backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
label_contrast(z, y, z, y, first_key=0, temperature=0.1)[0].backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_grows_with_the_batch_and_not_with_its_square():
    done = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True)
    one_dense_matrix = 4 * 8192**2  # bytes
    assert int(done.stdout) * 1024 < 24 * MIB < one_dense_matrix / 10
