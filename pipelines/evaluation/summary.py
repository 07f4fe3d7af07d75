"""reports/evaluate.json, but for what happens to corrupted frames: everything that predictions tell.

A pure function of the predictions with their patients, sites and domains, of the classes and the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines import frames, metrics
from pipelines.evaluation import levels
from pipelines.evaluation.levels import LEVELS, Resampling, mean
from pipelines.params import EvaluateParams

OF_MAPS = (
    *("saliency_iou", "pointing", "saliency_auc"),
    *("deletion", "insertion", "average_drop", "confidence_increase"),
)
SUBGROUPS = ("domain", "site")
CURVE_POINTS = 100


def summarise(predictions: pd.DataFrame, classes: Sequence[str], params: EvaluateParams) -> dict[str, Any]:
    """All figures of one evaluation. Frames not kept count in coverage only."""
    kept = predictions[predictions.keep]
    tables = {prefix: levels.pooled(kept, by, classes) for prefix, by in LEVELS.items()}
    resampling = Resampling(kept, params)
    found = {
        f"{prefix}{name}": value
        for prefix, table in tables.items()
        for name, value in levels.figures(table, classes).items()
    }
    spans = {
        f"{prefix}{name}": span
        for prefix, table in tables.items()
        for name, span in levels.intervals(table, classes, resampling).items()
    }
    selective = _selective(kept)
    return {
        "metrics": found | _of_maps(kept) | selective.pop("metrics") | {"coverage": float(predictions.keep.mean())},
        "intervals": spans | {name: _mean_interval(kept, name, resampling) for name in OF_MAPS},
        "per_class": _per_class(kept, classes),
        "confusion": {"classes": list(classes), "matrix": _confusion(kept, classes).tolist()},
        "per_patient": _per_patient(predictions, tables["patient_"]),
        "subgroups": {by: _subgroups(predictions, by, classes, params) for by in SUBGROUPS},
        "reliability": {_level_name(prefix): _reliability(table) for prefix, table in tables.items()},
        "selective": selective,
        "frames": len(kept),
        "patients": int(kept.patient_id.nunique()),
        "videos": int(kept.video_id.nunique()),
    }


def _level_name(prefix: str) -> str:
    return f"{prefix or 'frame_'}".replace("_", "s")


def _confusion(table: pd.DataFrame, classes: Sequence[str]) -> Any:
    return metrics.confusion(list(table.label), list(table.predicted), classes)


def _of_maps(kept: pd.DataFrame) -> dict[str, float | None]:
    return {name: mean(kept[name]) for name in OF_MAPS}


def _mean_interval(kept: pd.DataFrame, name: str, resampling: Resampling) -> list[float] | None:
    values_N = kept[name].to_numpy(dtype=float)
    known_N = np.isfinite(values_N)
    if not known_N.any():
        return None
    return resampling.of_mean(
        resampling.sums(kept, np.where(known_N, values_N, 0.0)), resampling.sums(kept, known_N.astype(float))
    )


def _reliability(table: pd.DataFrame) -> list[dict[str, Any]]:
    return metrics.reliability(levels.correct(table), levels.probabilities(table).max(1))


def _selective(kept: pd.DataFrame) -> dict[str, Any]:
    """Errors among the surest answers, and where the model's own reject option stands on that curve."""
    risk_N = metrics.selective_risk(levels.correct(kept), levels.probabilities(kept).max(1))
    accepted = kept[~kept.reject]
    accuracy = mean(accepted.label == accepted.predicted)
    counts = sorted({max(1, round(len(kept) * point / CURVE_POINTS)) for point in range(1, CURVE_POINTS + 1)})
    share = len(accepted) / len(kept)
    return {
        "curve": [{"coverage": count / len(kept), "risk": float(risk_N[count - 1])} for count in counts],
        "reject": {"coverage": share, "risk": None if accuracy is None else 1 - accuracy},
        "metrics": {"aurc": float(risk_N.mean()), "rejected": 1 - share, "accepted_accuracy": accuracy},
    }


def _per_class(kept: pd.DataFrame, classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
    counts = {str(label): int(n) for label, n in kept.groupby("label").patient_id.nunique().items()}
    table = metrics.per_class(_confusion(kept, classes), classes, counts)
    probabilities_NK = levels.probabilities(kept)
    for place, name in enumerate(classes):
        own = kept[kept.label == name]
        table[name] |= {
            "auroc": metrics.auroc(list(kept.label), probabilities_NK[:, [place]], [name]),
            "saliency_iou": mean(own.saliency_iou),
        }
    return table


def _subgroups(
    predictions: pd.DataFrame, by: str, classes: Sequence[str], params: EvaluateParams
) -> list[dict[str, Any]]:
    """One row for every site or domain, judged on its own frames alone."""
    return [_subgroup(str(name), group, classes, params) for name, group in predictions.groupby(by, sort=True)]


def _subgroup(name: str, group: pd.DataFrame, classes: Sequence[str], params: EvaluateParams) -> dict[str, Any]:
    kept = group[group.keep]
    of_patients = levels.figures(levels.pooled(kept, LEVELS["patient_"], classes), classes) if len(kept) else {}
    spans = levels.intervals(kept, classes, Resampling(kept, params)) if len(kept) else {}
    return {
        "name": name,
        "patients": int(kept.patient_id.nunique()),
        "videos": int(kept.video_id.nunique()),
        "frames": len(kept),
        "coverage": float(group.keep.mean()),
        "accuracy": mean(kept.label == kept.predicted),
        **levels.figures(kept, classes),
        "patient_macro_f1": of_patients.get("macro_f1"),
        "rejected": mean(kept.reject),
        "saliency_iou": mean(kept.saliency_iou),
        "intervals": {figure: spans.get(figure) for figure in ("macro_f1", "balanced_accuracy")},
    }


def _per_patient(predictions: pd.DataFrame, patients: pd.DataFrame) -> list[dict[str, Any]]:
    verdicts = {(row["label"], row["patient_id"]): row["predicted"] for row in frames.rows(patients)}
    rows = []
    for (label, patient_id), group in predictions.groupby(["label", "patient_id"], sort=True):
        kept = group[group.keep]
        rows.append(
            {
                "patient_id": patient_id,
                "label": label,
                "site": ", ".join(sorted(set(group.site))),
                "domain": ", ".join(sorted(set(group.domain))),
                "videos": int(group.video_id.nunique()),
                "frames": len(group),
                "kept": len(kept),
                "accuracy": mean(kept.label == kept.predicted),
                "predicted": verdicts.get((label, patient_id)),
            }
        )
    return rows
