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
