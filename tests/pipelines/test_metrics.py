"""Oracles: scikit-learn for figures, numpy loops for the bootstrap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from pipelines import metrics

CLASSES = ["glioma", "healthy", "metastasis"]


@pytest.fixture
def answers() -> pd.DataFrame:
    generator = np.random.default_rng(4)
    truth = generator.choice(CLASSES, 200)
    wrong = generator.random(200) < 0.3
    predicted = np.where(wrong, generator.choice(CLASSES, 200), truth)
    patients = [f"{label}-{number}" for label, number in zip(truth, generator.integers(0, 4, 200), strict=True)]
    return pd.DataFrame({"label": truth, "predicted": predicted, "patient_id": patients})


def test_macro_f1_and_balanced_accuracy_are_scikit_learns(answers: pd.DataFrame) -> None:
    matrix = metrics.confusion(list(answers.label), list(answers.predicted), CLASSES)
    assert metrics.macro_f1(matrix) == pytest.approx(
        sklearn_metrics.f1_score(answers.label, answers.predicted, average="macro")
    )
    assert metrics.balanced_accuracy(matrix) == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(answers.label, answers.predicted)
    )


def test_a_class_nobody_has_is_left_out_of_the_mean(answers: pd.DataFrame) -> None:
    present = answers[answers.label != "glioma"]
    matrix = metrics.confusion(list(present.label), list(present.predicted), CLASSES)
    expected = sklearn_metrics.f1_score(present.label, present.predicted, labels=CLASSES[1:], average="macro")
    assert metrics.macro_f1(matrix) == pytest.approx(expected)


def test_auroc_has_no_value_with_one_class() -> None:
    assert metrics.auroc(["glioma"] * 3, np.full((3, 3), 1 / 3), CLASSES) is None


def test_calibration_error_of_certain_and_half_wrong_answers_is_one_half() -> None:
    assert metrics.calibration_error(np.array([True, False]), np.array([1.0, 1.0])) == pytest.approx(0.5)


def test_the_bootstrap_draws_patients_within_their_class() -> None:
    strata = ["a", "a", "a", "b"]
    counts = metrics.patient_bootstrap(strata, draws=50, seed=2)
    assert (counts[:, :3].sum(1) == 3).all()
    assert (counts[:, 3] == 1).all()
    assert (counts == metrics.patient_bootstrap(strata, draws=50, seed=2)).all()


def test_a_clustered_interval_is_wider_than_one_that_takes_frames_for_independent() -> None:
    """Ten patients, 50 frames each, all right or all wrong: 500 rows hold the information of ten."""
    rows = [
        {"label": "glioma", "patient_id": f"p{p}", "predicted": "glioma" if p < 7 else "healthy"} for p in range(10)
    ]
    table = pd.DataFrame(rows * 50)
    parts = metrics.patient_confusions(table, CLASSES)
    weights = metrics.patient_bootstrap(["glioma"] * 10, draws=500, seed=0)
    low, high = metrics.interval(metrics.balanced_accuracy(np.einsum("bp,pij->bij", weights, parts)), 0.95) or (0, 0)
    assert high - low > 0.4


def test_an_interval_without_values_is_none() -> None:
    assert metrics.interval(np.array([np.nan, np.nan]), 0.95) is None


def test_per_class_figures_have_no_value_where_nothing_was_predicted() -> None:
    found = metrics.per_class(metrics.confusion(["glioma"], ["healthy"], CLASSES), CLASSES, {"glioma": 1})
    assert found["glioma"]["precision"] is None
    assert found["glioma"]["recall"] == 0.0
    assert found["metastasis"]["f1"] is None


# --- what a bootstrap draws -------------------------------------------------------------------------


def drawn_by_hand(seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of five patients, their probabilities with ties, and how often three draws count each patient."""
    generator = np.random.default_rng(seed)
    patient_N = generator.integers(0, 5, 80)
    probabilities_NK = np.round(generator.dirichlet([1, 1, 1], 80), 1)
    truth = np.array(CLASSES)[generator.integers(0, 3, 80)]
    table = pd.DataFrame({"truth": truth, "predicted": np.array(CLASSES)[probabilities_NK.argmax(1)]})
    return table, probabilities_NK, patient_N, generator.integers(0, 3, (3, 5)).astype(float)


def test_a_draws_auroc_is_that_of_its_rows_written_out() -> None:
    table, probabilities_NK, patient_N, weights_DP = drawn_by_hand()
    found = metrics.drawn_auroc(list(table.truth), probabilities_NK, CLASSES, patient_N, weights_DP)
    for draw, weights_P in enumerate(weights_DP):
        rows = np.repeat(np.arange(80), weights_P[patient_N].astype(int))
        assert found[draw] == pytest.approx(metrics.auroc(list(table.truth[rows]), probabilities_NK[rows], CLASSES))


def test_a_draws_calibration_error_is_that_of_its_rows_written_out() -> None:
    table, probabilities_NK, patient_N, weights_DP = drawn_by_hand(1)
    correct_N, confidence_N = (table.truth == table.predicted).to_numpy(), probabilities_NK.max(1)
    found = metrics.drawn_calibration_error(correct_N, confidence_N, patient_N, weights_DP)
    for draw, weights_P in enumerate(weights_DP):
        rows = np.repeat(np.arange(80), weights_P[patient_N].astype(int))
        assert found[draw] == pytest.approx(metrics.calibration_error(correct_N[rows], confidence_N[rows]))


def test_a_draw_without_a_second_class_has_no_auroc() -> None:
    found = metrics.drawn_auroc(["glioma", "healthy"], np.eye(2, 3), CLASSES, np.array([0, 1]), np.eye(2))
    assert np.isnan(found).all()


# --- calibration and rejection ----------------------------------------------------------------------


def test_the_calibration_error_is_the_gap_of_the_reliability_bins() -> None:
    correct_N = np.array([True, True, False, True, False, False])
    confidence_N = np.array([0.95, 0.97, 0.93, 0.41, 0.45, 1.0])
    bins = metrics.reliability(correct_N, confidence_N, bins=10)
    assert [(row["low"], row["high"], row["count"]) for row in bins] == [(0.4, 0.5, 2), (0.9, 1.0, 4)]
    assert [row["accuracy"] for row in bins] == [0.5, 0.5]
    assert bins[0]["confidence"] == pytest.approx(0.43)
    assert metrics.calibration_error(correct_N, confidence_N, bins=10) == pytest.approx(
        (2 * 0.07 + 4 * (3.85 / 4 - 0.5)) / 6
    )


def test_risk_is_the_share_of_errors_among_the_surest() -> None:
    correct_N = np.array([False, True, True, False])
    confidence_N = np.array([0.4, 0.9, 0.8, 0.6])
    assert metrics.selective_risk(correct_N, confidence_N) == pytest.approx([0, 0, 1 / 3, 1 / 2])


def test_equally_sure_answers_share_their_errors_whatever_their_order() -> None:
    correct_N = np.array([True, False, True, False, True])
    confidence_N = np.array([0.9, 0.9, 0.9, 0.5, 0.5])
    expected = [1 / 3, 1 / 3, 1 / 3, 1.5 / 4, 2 / 5]
    for order in (np.arange(5), np.array([4, 1, 3, 0, 2])):
        assert metrics.selective_risk(correct_N[order], confidence_N[order]) == pytest.approx(expected)


def test_a_perfect_order_has_the_least_area_under_its_risk() -> None:
    correct_N = np.array([True] * 6 + [False] * 4)
    best = metrics.selective_risk(correct_N, np.linspace(1, 0.1, 10)).mean()
    worst = metrics.selective_risk(correct_N, np.linspace(0.1, 1, 10)).mean()
    constant = metrics.selective_risk(correct_N, np.full(10, 0.5)).mean()
    assert best < constant < worst
    assert constant == pytest.approx(0.4)


def test_no_answers_have_no_risk() -> None:
    assert len(metrics.selective_risk(np.zeros(0, bool), np.zeros(0))) == 0
