"""Figures of merit, named once for the whole product, with intervals clustered by patient.

Frames of one patient are near-copies of each other: every interval resamples patients, never frames.
A figure without data is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Float = NDArray[np.float64]
BINS = 15  # of the winning probability, equally wide


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
    from sklearn.metrics import roc_auc_score  # here: it takes most of a second to import

    truth = np.asarray(labels)
    areas = [
        roc_auc_score(truth == name, probabilities_NK[:, index])
        for index, name in enumerate(classes)
        if 0 < (truth == name).sum() < len(truth)
    ]
    return float(np.mean(areas)) if areas else None


def drawn_auroc(
    truth: Sequence[str],
    probabilities_NK: Float,
    classes: Sequence[str],
    patient_N: NDArray[np.int64],
    weights_DP: Float,
) -> Float:
    """``auroc`` of D bootstrap draws, each counting patient p ``weights_DP[:, p]`` times; NaN where it has none.

    Pairs of a positive and a negative are counted once for every two patients; a draw only weighs them.
    """
    areas = [
        _drawn_area(np.asarray(truth) == name, probabilities_NK[:, index], patient_N, weights_DP)
        for index, name in enumerate(classes)
    ]
    known_KD = np.isfinite(areas)
    total_D, count_D = np.where(known_KD, areas, 0.0).sum(0), known_KD.sum(0)
    return ratio(total_D, count_D)


def _drawn_area(
    positive_N: NDArray[np.bool_], value_N: Float, patient_N: NDArray[np.int64], weights_DP: Float
) -> Float:
    patients = weights_DP.shape[1]
    above_PP = np.zeros((patients, patients))
    for patient in np.unique(patient_N[~positive_N]):
        below = np.sort(value_N[~positive_N & (patient_N == patient)])
        left, right = (np.searchsorted(below, value_N[positive_N], side) for side in ("left", "right"))
        above_PP[:, patient] = np.bincount(patient_N[positive_N], (left + right) / 2, patients)
    sides = [
        drawn_sum(weights_DP, np.bincount(patient_N[side], minlength=patients)) for side in (positive_N, ~positive_N)
    ]
    return ratio((drawn_sum(weights_DP, above_PP) * weights_DP).sum(1), sides[0] * sides[1])


def reliability(correct_N: NDArray[np.bool_], confidence_N: Float, bins: int = BINS) -> list[dict[str, Any]]:
    """Equal-width bins of the winning probability: bounds, mean confidence, accuracy, size. Empty ones are left out."""
    places = bin_of(confidence_N, bins)
    return [
        {
            "low": place / bins,
            "high": (place + 1) / bins,
            "confidence": float(confidence_N[places == place].mean()),
            "accuracy": float(correct_N[places == place].mean()),
            "count": int((places == place).sum()),
        }
        for place in np.unique(places).tolist()
    ]


def bin_of(confidence_N: Float, bins: int = BINS) -> NDArray[np.int64]:
    """Place of each probability among ``bins`` of equal width."""
    return np.minimum((confidence_N * bins).astype(np.int64), bins - 1)


def calibration_error(correct_N: NDArray[np.bool_], confidence_N: Float, bins: int = BINS) -> float | None:
    """Expected calibration error: |accuracy - confidence| of the reliability bins, weighted by their size."""
    found = reliability(correct_N, confidence_N, bins)
    gaps = [row["count"] * abs(row["accuracy"] - row["confidence"]) for row in found]
    return sum(gaps) / len(correct_N) if found else None


def drawn_calibration_error(
    correct_N: NDArray[np.bool_],
    confidence_N: Float,
    patient_N: NDArray[np.int64],
    weights_DP: Float,
    bins: int = BINS,
) -> Float:
    """``calibration_error`` of D bootstrap draws, each counting patient p ``weights_DP[:, p]`` times."""
    places_N = bin_of(confidence_N, bins)
    gap_PB = np.zeros((weights_DP.shape[1], bins))
    np.add.at(gap_PB, (patient_N, places_N), correct_N - confidence_N)
    rows_D = drawn_sum(weights_DP, np.bincount(patient_N, minlength=weights_DP.shape[1]))
    return ratio(np.abs(drawn_sum(weights_DP, gap_PB)).sum(1), rows_D)


def selective_risk(correct_N: NDArray[np.bool_], confidence_N: Float) -> Float:
    """Share of errors among the n surest answers, for n = 1..N (Geifman & El-Yaniv 2017, arXiv 1705.08500).

    Equally sure answers share their errors evenly: the result does not depend on the order of rows.
    """
    _, group_N, sizes = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    wrong = np.bincount(group_N, ~correct_N, len(sizes)) / sizes if len(sizes) else np.zeros(0)
    result: Float = np.repeat(wrong, sizes).cumsum() / np.arange(1, len(correct_N) + 1)
    return result


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


def drawn_sum(weights_DP: Float, values_P: NDArray[Any]) -> Float:
    """What each draw's patients sum to, (D, ...): in one fixed order, whatever the number of processors."""
    result: Float = np.einsum("dp,p...->d...", weights_DP, values_P)
    return result


def patient_sums(patient_N: NDArray[np.int64], values_N: Float, patients: int) -> Float:
    """Sum of each patient's values, (P,)."""
    result: Float = np.bincount(patient_N, values_N, patients).astype(float)
    return result


def ratio(part: Float, whole: Float) -> Float:
    """Quotient, NaN where there is nothing to divide by."""
    result: Float = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result


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
