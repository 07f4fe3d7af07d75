"""Figures of merit, named once for the whole product, with intervals clustered by patient.

Frames of one patient are near-copies of each other: every interval resamples patients, never frames.
A figure without data is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Float = NDArray[np.float64]


def confusion(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Counts, shape (K, K): rows are the truth, columns the prediction, in the order of ``classes``."""
    place = {name: index for index, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(matrix, ([place[name] for name in labels], [place[name] for name in predicted]), 1)
    return matrix


def f1_per_class(matrix: NDArray[np.int64] | Float) -> Float:
    """F1 of each class, shape (..., K); 0 where a class is neither there nor predicted."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(float)
    both = matrix.sum(-1) + matrix.sum(-2)
    result: Float = np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)
    return result


def macro_f1(matrix: NDArray[np.int64] | Float) -> Float:
    """Mean F1 over the classes that occur in the truth."""
    return _mean_over_present(f1_per_class(matrix), matrix)


def balanced_accuracy(matrix: NDArray[np.int64] | Float) -> Float:
    """Mean recall over the classes that occur in the truth."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(float)
    truth = matrix.sum(-1)
    return _mean_over_present(np.divide(hits, truth, out=np.zeros_like(hits), where=truth > 0), matrix)


def auroc(labels: Sequence[str], probabilities_NK: Float, classes: Sequence[str]) -> float | None:
    """Mean one-against-rest area under the ROC curve over classes that have both sides."""
    truth = np.asarray(labels)
    areas = [
        roc_auc_score(truth == name, probabilities_NK[:, index])
        for index, name in enumerate(classes)
        if 0 < (truth == name).sum() < len(truth)
    ]
    return float(np.mean(areas)) if areas else None


def calibration_error(correct_N: NDArray[np.bool_], confidence_N: Float, bins: int = 15) -> float | None:
    """Expected calibration error over equal-width bins of the winning probability."""
    if not len(correct_N):
        return None
    places = np.minimum((confidence_N * bins).astype(int), bins - 1)
    weights = np.bincount(places, minlength=bins)
    gaps = np.bincount(places, correct_N.astype(float), bins) - np.bincount(places, confidence_N, bins)
    return float(np.abs(gaps).sum() / weights.sum())


def patient_confusions(table: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.int64]:
    """One confusion matrix a patient and label, shape (P, K, K), in sorted order."""
    groups = table.groupby(["label", "patient_id"], sort=True)
    return np.stack([confusion(list(group.label), list(group.predicted), classes) for _, group in groups])


def patient_bootstrap(strata: Sequence[str], *, draws: int, seed: int) -> Float:
    """How often each of P patients is drawn, shape (draws, P): with replacement, within each class."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    counts = np.zeros((draws, len(strata)))
    names = np.asarray(strata)
    for name in np.unique(names):
        own = np.flatnonzero(names == name)
        counts[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=draws)
    return counts


def interval(values: Float, confidence: float) -> list[float] | None:
    """Percentile interval of bootstrap draws."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return [float(low), float(high)]


def per_class(
    matrix: NDArray[np.int64], classes: Sequence[str], patients: Mapping[str, int]
) -> dict[str, dict[str, float | None]]:
    """Precision, recall, F1 and sizes of each class; null where there is nothing to divide by."""
    hits = np.diagonal(matrix).astype(float)
    truth, predicted, f1 = matrix.sum(1), matrix.sum(0), f1_per_class(matrix)
    return {
        name: {
            "precision": _ratio(hits[k], predicted[k]),
            "recall": _ratio(hits[k], truth[k]),
            "f1": float(f1[k]) if truth[k] else None,
            "frames": int(truth[k]),
            "patients": patients.get(name, 0),
        }
        for k, name in enumerate(classes)
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _mean_over_present(values: Float, matrix: NDArray[np.int64] | Float) -> Float:
    present = matrix.sum(-1) > 0
    count = present.sum(-1)
    total = np.where(present, values, 0.0).sum(-1)
    result: Float = np.divide(total, count, out=np.full_like(total, np.nan, dtype=float), where=count > 0)
    return result
