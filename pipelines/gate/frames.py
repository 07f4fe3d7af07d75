"""The frames that a contestant judged, with what is known of them, and their counts by patient.

Letters: P patients, K classes, T models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines import metrics
from pipelines.gate.contestant import Contestant
from pipelines.metrics import Float

FRAME = ["video_id", "frame_index"]
OF_VIDEO = ["video_id", "patient_id", "label", "site", "domain"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Confusion matrices of each patient and model, and the class that most of a patient's frames have."""

    matrices_PTKK: Float
    stratum_P: NDArray[np.int64]
    names: Sequence[str]  # of the K classes
    patient_ids: Sequence[str]

    @property
    def patients(self) -> int:
        return len(self.stratum_P)

    def without(self, patient_id: str) -> Counts:
        """Of all other patients."""
        kept = [place for place, name in enumerate(self.patient_ids) if name != patient_id]
        return replace(
            self,
            matrices_PTKK=self.matrices_PTKK[kept],
            stratum_P=self.stratum_P[kept],
            patient_ids=[self.patient_ids[place] for place in kept],
        )

    def lonely(self) -> list[str]:
        """Classes with a single patient: nobody can say how much another one would differ."""
        owners_K = (self.matrices_PTKK[:, 0].sum(-1) > 0).sum(0)
        of_stratum = np.bincount(self.stratum_P, minlength=len(self.names))
        return [name for k, name in enumerate(self.names) if owners_K[k] == 1 or of_stratum[k] == 1]


def labelled(one: Contestant, test: pd.DataFrame) -> pd.DataFrame:
    """Scores beside patient, label, site and domain of their video."""
    return one.scores.merge(test[OF_VIDEO], on="video_id", validate="many_to_one")


def shared(challenger: Contestant, champion: Contestant, test: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same frames, of the classes both know, as each judged them: challenger's, champion's."""
    mine, theirs = (of_shared_classes(one, challenger, champion, test) for one in (challenger, champion))
    both = mine[FRAME].merge(theirs[FRAME], validate="one_to_one")
    return both.merge(mine), both.merge(theirs)


def of_shared_classes(
    one: Contestant, challenger: Contestant, champion: Contestant, test: pd.DataFrame
) -> pd.DataFrame:
    """What ``one`` of the two judged of the classes that both know."""
    found = labelled(one, test)
    return found[found.label.isin(set(challenger.classes) & set(champion.classes))]


def count(*models: pd.DataFrame) -> Counts:
    """Of frames with ``patient_id``, ``label`` and ``predicted``; every model judged the same patients."""
    names = sorted({name for one in models for column in (one.label, one.predicted) for name in column})
    patients = sorted(set(models[0].patient_id))
    matrices = np.zeros((len(patients), len(models), len(names), len(names)))
    for place, one in enumerate(models):
        for patient, group in one.groupby("patient_id", sort=True):
            matrix = metrics.confusion(list(group.label), list(group.predicted), names)
            matrices[patients.index(str(patient)), place] = matrix
    stratum_P = matrices[:, 0].sum(-1).argmax(-1)
    return Counts(matrices_PTKK=matrices, stratum_P=stratum_P, names=names, patient_ids=patients)


def macro_f1(frames: pd.DataFrame) -> float | None:
    """Of frames with ``label`` and ``predicted``, whatever classes either names; None without frames."""
    if frames.empty:
        return None
    value = float(metrics.macro_f1(_confusion(frames)[0]))
    return value if np.isfinite(value) else None


def class_f1(frames: pd.DataFrame, label: str) -> float | None:
    """F1 of one class over all frames; None where none has that label."""
    if not (frames.label == label).any():
        return None
    matrix, names = _confusion(frames)
    return float(metrics.f1_per_class(matrix)[names.index(label)])


def balanced_accuracy(frames: pd.DataFrame) -> float | None:
    """Of frames with ``label`` and ``predicted``; None without frames."""
    return None if frames.empty else float(metrics.balanced_accuracy(_confusion(frames)[0]))


def ece(frames: pd.DataFrame) -> float | None:
    """Calibration error of the winning probability; None without frames."""
    if frames.empty:
        return None
    return metrics.calibration_error(*_winners(frames))


def reliability(frames: pd.DataFrame) -> list[dict[str, Any]]:
    """Bins of a reliability diagram of the winning probability; none without frames."""
    return [] if frames.empty else metrics.reliability(*_winners(frames))


def gaps(frames: pd.DataFrame) -> Float:
    """(P, B, 2): right answers less confidence, and frames, of each patient and bin of the winning probability."""
    right_N, confidence_N = _winners(frames)
    patients = sorted(set(frames.patient_id))
    found = np.zeros((len(patients), metrics.BINS, 2))
    places = (np.searchsorted(patients, frames.patient_id), metrics.bin_of(confidence_N))
    np.add.at(found[..., 0], places, right_N - confidence_N)
    np.add.at(found[..., 1], places, 1.0)
    return found


def confusion(frames: pd.DataFrame) -> dict[str, Any] | None:
    """``classes`` and ``matrix``, a row a label; None without frames."""
    if frames.empty:
        return None
    matrix, names = _confusion(frames)
    return {"classes": names, "matrix": matrix.tolist()}


def _confusion(frames: pd.DataFrame) -> tuple[NDArray[np.int64], list[str]]:
    """The matrix and the names of its classes: all that are a label or a prediction."""
    names = sorted(set(frames.label) | set(frames.predicted))
    return metrics.confusion(list(frames.label), list(frames.predicted), names), names


def _winners(frames: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of each frame: was the class that won right, and its probability."""
    confidence = np.array([max(row.values()) for row in frames.probabilities], dtype=float)
    return (frames.label == frames.predicted).to_numpy(), confidence
