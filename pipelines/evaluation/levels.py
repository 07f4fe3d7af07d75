"""The same four figures of frames, videos and patients, with intervals that resample patients.

Frames of one patient are near-copies: whatever the level, a draw takes or leaves a patient whole.
Letters: N rows, K classes, P patients (one of each label a patient has), D draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.metrics import Float
from pipelines.params import EvaluateParams

LEVELS = {"": None, "video_": ["video_id", "patient_id"], "patient_": ["patient_id"]}
"""Prefix of a figure's name -> what its rows pool; frames stand alone."""


class Resampling:
    """Patients drawn with replacement within each class, the same draws for every figure."""

    def __init__(self, kept: pd.DataFrame, params: EvaluateParams) -> None:
        self.params = params
        self.patients = sorted(set(zip(kept.label, kept.patient_id, strict=True)))

    @cached_property
    def weights(self) -> Float:
        """How often each draw counts each patient, (D, P)."""
        strata = [label for label, _ in self.patients]
        return metrics.patient_bootstrap(strata, draws=self.params.bootstrap, seed=self.params.seed)

    def places(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """Which patient each row belongs to."""
        place = {patient: number for number, patient in enumerate(self.patients)}
        return np.array([place[key] for key in zip(table.label, table.patient_id, strict=True)], dtype=np.int64)

    def interval(self, values_D: Float) -> list[float] | None:
        """None too where no class has a second patient: every draw is then the same, which is not certainty."""
        if len(self.patients) == len({label for label, _ in self.patients}):
            return None
        return metrics.interval(values_D, self.params.confidence)

    def of_mean(self, sums_P: Float, counts_P: Float) -> list[float] | None:
        """Of a mean over rows, given each patient's sum and number of rows."""
        return self.interval(metrics.ratio(*(metrics.drawn_sum(self.weights, part_P) for part_P in (sums_P, counts_P))))

    def sums(self, table: pd.DataFrame, values_N: Float) -> Float:
        """Each patient's sum."""
        return metrics.patient_sums(self.places(table), values_N, len(self.patients))


def pooled(kept: pd.DataFrame, by: list[str] | None, classes: Sequence[str]) -> pd.DataFrame:
    """Mean probabilities over the kept frames of a video or patient, and the class they name."""
    if by is None:
        return kept
    means = kept.groupby(["label", *by], sort=True).probabilities.apply(
        lambda group: np.mean(list(group), axis=0, dtype=float)
    )
    table = means.reset_index()
    table["predicted"] = [classes[int(np.argmax(mean))] for mean in table.probabilities]
    return table


def figures(table: pd.DataFrame, classes: Sequence[str]) -> dict[str, float | None]:
    """Of rows with ``label``, ``predicted`` and ``probabilities``; None where there is no value."""
    if table.empty:
        return dict.fromkeys(("macro_f1", "balanced_accuracy", "auroc", "ece"))
    matrix = metrics.confusion(list(table.label), list(table.predicted), classes)
    probabilities_NK = probabilities(table)
    return {
        "macro_f1": number(metrics.macro_f1(matrix)),
        "balanced_accuracy": number(metrics.balanced_accuracy(matrix)),
        "auroc": metrics.auroc(list(table.label), probabilities_NK, classes),
        "ece": metrics.calibration_error(correct(table), probabilities_NK.max(1)),
    }


def intervals(table: pd.DataFrame, classes: Sequence[str], resampling: Resampling) -> dict[str, list[float] | None]:
    """Of the same four figures."""
    weights_DP, place_N = resampling.weights, resampling.places(table)
    matrices = metrics.drawn_sum(weights_DP, metrics.patient_confusions(table, classes))
    found: dict[str, Any] = {
        "macro_f1": metrics.macro_f1(matrices),
        "balanced_accuracy": metrics.balanced_accuracy(matrices),
        "auroc": metrics.drawn_auroc(list(table.label), probabilities(table), classes, place_N, weights_DP),
        "ece": metrics.drawn_calibration_error(correct(table), probabilities(table).max(1), place_N, weights_DP),
    }
    return {name: resampling.interval(values_D) for name, values_D in found.items()}


def probabilities(table: pd.DataFrame) -> Float:
    return np.array(list(table.probabilities), dtype=float)


def correct(table: pd.DataFrame) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = (table.label == table.predicted).to_numpy()
    return result


def number(value: Any) -> float | None:
    """A finite float, or None."""
    return float(value) if value is not None and math.isfinite(value) else None


def mean(values: pd.Series) -> float | None:
    """Mean of what is there; None when nothing is."""
    present = values.dropna().astype(float)
    return float(present.mean()) if len(present) else None
