"""Calibration against brute force, loops and planted truths."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lclsc import calibrate_temperature, expected_calibration_error


def planted(tau: float, n: int = 20_000):
    """Similarities whose labels are drawn from softmax(similarity / tau)."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(n, 4, generator=generator) * 2 - 1
    return scores, torch.multinomial(torch.softmax(scores / tau, 1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("tau", [0.05, 0.3, 1.0])
def test_a_planted_temperature_is_found_again(tau):
    assert calibrate_temperature(*planted(tau)) == pytest.approx(tau, rel=0.05)


def test_no_temperature_of_a_fine_grid_does_better():
    scores, labels = planted(0.2, 300)
    found = calibrate_temperature(scores, labels)
    grid = np.geomspace(0.01, 5.0, 500)
    losses = [float(cross_entropy(scores.double() / tau, labels)) for tau in [*grid, found]]
    assert losses[-1] <= min(losses[:-1]) + 1e-9


def test_an_unseen_class_says_nothing_about_tau():
    scores, labels = planted(0.2, 300)
    unseen = torch.full((300, 1), -torch.inf)
    with_unseen = torch.cat((torch.cat((scores, unseen), 1), torch.zeros(1, 5)))
    with_unseen[-1, 4] = -torch.inf
    tau = calibrate_temperature(with_unseen, torch.cat((labels, torch.tensor([4]))))
    assert tau == pytest.approx(calibrate_temperature(scores, labels), rel=1e-6)


def test_it_refuses_to_calibrate_on_nothing():
    with pytest.raises(ValueError, match="no sample to calibrate on"):
        calibrate_temperature(torch.full((3, 2), -torch.inf), torch.zeros(3, dtype=torch.long))


def test_the_calibration_error_is_the_formula_in_loops():
    scores, labels = planted(0.3, 500)
    p = torch.softmax(scores.double() / 0.1, 1).numpy()
    confidence, hit = p.max(1), p.argmax(1) == labels.numpy()
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(torch.from_numpy(p), labels) == pytest.approx(expected, abs=1e-12)


def test_calibration_lowers_the_calibration_error():
    scores, labels = planted(0.3, 5000)
    raw, calibrated = (
        expected_calibration_error(torch.softmax(scores / tau, 1), labels)
        for tau in (0.05, calibrate_temperature(scores, labels))
    )
    assert calibrated < 0.05 < raw


@pytest.mark.parametrize(
    "labels", [torch.zeros(4, 1).long(), torch.zeros(1).long(), torch.full((4,), 2), torch.rand(4)]
)
def test_labels_that_are_none_of_these_samples_are_refused(labels):
    for measure in (calibrate_temperature, expected_calibration_error):
        with pytest.raises(ValueError, match="label"):
            measure(torch.full((4, 2), 0.5), labels)


def test_scores_that_are_no_numbers_and_similarities_for_probabilities_are_refused():
    with pytest.raises(ValueError, match="not a number"):
        calibrate_temperature(torch.tensor([[torch.nan, 0.1], [0.9, 0.2]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="probabilities"):
        expected_calibration_error(torch.tensor([[-0.5, 1.0], [0.9, 0.2]]), torch.tensor([0, 1]))
