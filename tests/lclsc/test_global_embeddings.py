"""Laws of the exponential average of class embeddings."""

import pytest
import torch
from torch.nn.functional import normalize

from lclsc import GlobalEmbeddings


def filled(seed: int = 0, momentum: float = 0.9) -> GlobalEmbeddings:
    bank = GlobalEmbeddings(classes=4, embedding_dim=16, momentum=momentum)
    bank.update_(*batch(seed))
    return bank


def batch(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(40, 16, generator=generator), dim=1), torch.arange(40) % 3


def test_seen_embeddings_have_unit_norm_and_the_unseen_stay_zero():
    bank = filled()
    bank.update_(*batch(1))
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert bank.seen.tolist() == [True, True, True, False]


def test_first_sight_is_the_direction_of_the_class_mean():
    z, y = batch(0)
    for k in range(3):
        torch.testing.assert_close(filled().vectors[k], normalize(z[y == k].mean(0), dim=0))


def test_one_sample_of_a_class_is_enough_to_be_seen():
    bank = GlobalEmbeddings(classes=2, embedding_dim=3)
    bank.update_(torch.tensor([[0.0, 3.0, 4.0]]), torch.tensor([1]))
    assert bank.seen.tolist() == [False, True]
    torch.testing.assert_close(bank.vectors[1], torch.tensor([0.0, 0.6, 0.8]))


def test_a_later_batch_moves_by_the_momentum():
    bank = filled()
    before, (z, y) = bank.vectors.clone(), batch(1)
    bank.update_(z, y)
    for k in range(3):
        expected = normalize(0.9 * before[k] + 0.1 * z[y == k].mean(0), dim=0)
        torch.testing.assert_close(bank.vectors[k], expected)


def test_an_absent_class_is_untouched_to_the_bit():
    bank = filled()
    before = bank.vectors.clone()
    bank.update_(batch(1)[0], torch.zeros(40, dtype=torch.long))
    assert torch.equal(bank.vectors[1:], before[1:])
    assert not torch.equal(bank.vectors[0], before[0])


def test_the_order_within_a_batch_hardly_matters():
    one, two, (z, y) = filled(), filled(), batch(1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    one.update_(z, y)
    two.update_(z[order], y[order])
    torch.testing.assert_close(one.vectors, two.vectors, rtol=0, atol=1e-7)


def test_a_checkpoint_carries_everything():
    bank, copy = filled(), GlobalEmbeddings(classes=4, embedding_dim=16)
    copy.load_state_dict(bank.state_dict())
    assert torch.equal(copy.vectors, bank.vectors)
    assert torch.equal(copy.seen, bank.seen)


def test_no_gradient_flows_into_the_average():
    bank = filled()
    z = batch(1)[0].requires_grad_()
    bank.update_(z, batch(1)[1])
    assert not bank.vectors.requires_grad


def test_a_momentum_of_one_is_refused():
    with pytest.raises(ValueError, match="momentum is 1"):
        GlobalEmbeddings(classes=2, embedding_dim=4, momentum=1.0)


def test_wrong_labels_forget_nothing():
    bank = filled()
    before = bank.vectors.clone()
    with pytest.raises(ValueError, match="none of the classes"):
        bank.recompute_(torch.randn(2, bank.vectors.shape[1]), torch.tensor([0, 99]))
    assert torch.equal(bank.vectors, before)
    assert bank.seen.any()
