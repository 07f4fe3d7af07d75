"""Both bounds of the figures that stand side by side, by the rule of the clauses: a patient is one draw."""

from __future__ import annotations

from typing import Any

import pandas as pd
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.gate import frames, statistics
from pipelines.gate.statistics import Figure
from pipelines.metrics import Float
from pipelines.params import PromoteParams

Interval = list[float] | None
"""Within 0 and 1; None where a class has a single patient: nobody can say how much another one would differ."""


def of_figures(policy: PromoteParams, mine: pd.DataFrame) -> dict[str, Interval]:
    """Of one model's labelled frames."""
    return {
        "macro_f1": macro_f1(policy, mine),
        "balanced_accuracy": _of_matrices(policy, metrics.balanced_accuracy, mine),
        "ece": _ece(policy, mine),
    }


def macro_f1(policy: PromoteParams, mine: pd.DataFrame) -> Interval:
    return _of_matrices(policy, metrics.macro_f1, mine)


def class_f1(policy: PromoteParams, mine: pd.DataFrame, label: str) -> Interval:
    """Of the class ``label``, over all frames."""
    names = sorted(set(mine.label) | set(mine.predicted))
    if label not in set(mine.label):
        return None
    return _of_matrices(policy, lambda matrix: metrics.f1_per_class(matrix)[..., names.index(label)], mine)


def _of_matrices(policy: PromoteParams, figure: Figure, mine: pd.DataFrame) -> Interval:
    if mine.empty or (counts := frames.count(mine)).lonely():
        return None
    return _bounds(policy, figure, counts.matrices_PTKK[:, 0], counts.stratum_P)


def _ece(policy: PromoteParams, mine: pd.DataFrame) -> Interval:
    if mine.empty or (counts := frames.count(mine)).lonely():
        return None
    return _bounds(policy, _mean_gap, frames.gaps(mine), counts.stratum_P)


def _mean_gap(gaps: Float) -> Float:
    """ECE of (..., B, 2): right answers less confidence, and frames, of each bin."""
    result: Float = abs(gaps[..., 0]).sum(-1) / gaps[..., 1].sum(-1)
    return result


def _bounds(policy: PromoteParams, figure: Figure, counts_P: Float, stratum_P: NDArray[Any]) -> Interval:
    found = statistics.estimate(figure, counts_P, stratum_P)
    return [max(0.0, float(found.lower(policy.error_rate))), min(1.0, float(found.upper(policy.error_rate)))]
