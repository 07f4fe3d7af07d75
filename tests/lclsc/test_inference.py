"""Laws of global embedding inference."""

import pytest
import torch
from torch.nn.functional import normalize

from lclsc import probabilities, reject, similarity

Z = normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
VECTORS = normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), dim=1)
SEEN = torch.tensor([True, True, False, True, True])


def test_the_similarity_is_the_cosine():
    expected = torch.cosine_similarity(Z[:, None], VECTORS[None], dim=-1)
    torch.testing.assert_close(similarity(Z, VECTORS, torch.ones(5, dtype=torch.bool)), expected)


def test_the_prediction_does_not_depend_on_tau():
    scores = similarity(Z, VECTORS, SEEN)
    for tau in (0.01, 0.1, 1.0, 10.0):
        assert torch.equal(probabilities(scores.double(), tau).argmax(1), scores.argmax(1))


def test_a_class_never_seen_is_never_predicted():
    scores = similarity(VECTORS[2:3], VECTORS, SEEN)
    assert int(scores.argmax(1)) != 2
    assert float(probabilities(scores, 0.1)[0, 2]) == 0.0


def test_probabilities_add_up_to_one_or_to_nothing_where_no_class_was_seen():
    torch.testing.assert_close(probabilities(similarity(Z, VECTORS, SEEN), 0.1).sum(1), torch.ones(50))
    nothing = probabilities(similarity(Z, VECTORS, torch.zeros(5, dtype=torch.bool)), 0.1)
    assert torch.equal(nothing, torch.zeros(50, 5))


def test_a_low_score_or_a_low_margin_is_rejected():
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.1], [0.9, 0.85], [0.9, -torch.inf]])
    assert reject(scores, min_score=0.5, min_margin=0.1).tolist() == [False, True, True, False]
    assert reject(scores[:, :1], min_score=0.5, min_margin=0.1).tolist() == [False, True, False, False]


def test_with_no_class_seen_everything_is_rejected():
    assert reject(torch.full((2, 3), -torch.inf), min_score=-1.0, min_margin=0.0).all()


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match="tau is 0"):
        probabilities(torch.zeros(1, 2), 0)


@pytest.mark.parametrize("tau", [float("nan"), float("inf"), 1e-45])
def test_a_temperature_must_leave_numbers(tau):
    with pytest.raises(ValueError, match="tau is"):
        probabilities(torch.tensor([[0.9, -0.9]]), tau)


def test_the_smallest_temperature_leaves_numbers():
    torch.testing.assert_close(probabilities(torch.tensor([[1.0, -1.0]]), 1e-6), torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("limits", [{"min_score": float("nan")}, {"min_margin": float("nan")}])
def test_a_limit_that_is_no_number_is_refused(limits):
    with pytest.raises(ValueError, match="give numbers"):
        reject(torch.tensor([[0.9, 0.1]]), **({"min_score": 0.2, "min_margin": 0.1} | limits))
