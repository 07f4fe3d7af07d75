"""The rows of the report's result tables, from reports/evaluate.json. A figure without a value is a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.report import figures
from pipelines.report.words import NONE, between, is_finite, number

METRICS = {
    "macro_f1": "Macro-F1",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "ece": "Calibration error (ECE)",
    "saliency_iou": "Saliency IoU",
    "pointing": "Pointing game",
    "saliency_auc": "Saliency AUC",
    "insertion": "Insertion AUC",
    "deletion": "Deletion AUC",
    "average_drop": "Average drop",
    "confidence_increase": "Confidence increased",
    "corrupted_accuracy": "Accuracy on corrupted frames",
    "coverage": "Coverage",
    "rejected": "Rejected frames",
    "accepted_accuracy": "Accuracy of what is not rejected",
    "aurc": "Area under risk and coverage",
    "video_macro_f1": "Macro-F1, videos",
    "patient_macro_f1": "Macro-F1, patients",
}
BY_LEVEL = ("macro_f1", "balanced_accuracy", "auroc", "ece")
LEVELS = {"": "Frames", "video_": "Videos", "patient_": "Patients"}
OF_MAPS = {
    "saliency_iou": "overlap with the outlined structure, areas equal",
    "pointing": "peak inside the structure",
    "saliency_auc": "structure above the rest; chance is 0.5",
    "insertion": "probability while the salient pixels return to blurred tissue",
    "deletion": "probability while the salient pixels are blurred away; lower is better",
    "average_drop": "probability lost when only what is salient is shown; lower is better",
    "confidence_increase": "share of frames whose probability rises then",
}
LESS_IS_BETTER = {"ece", "video_ece", "patient_ece", "deletion", "average_drop", "aurc"}
NEITHER_IS_BETTER = {"coverage", "rejected"}
TILES = {
    "macro_f1": "frames of unseen patients",
    "balanced_accuracy": "mean recall of the classes",
    "saliency_iou": "overlap with ground truth",
    "pointing": "peak inside the structure",
    "ece": "lower is better",
    "coverage": "frames fit to be judged",
}


@dataclass(frozen=True)
class Figure:
    """A headline number; positions on its scale are in percent."""

    title: str
    value: str
    interval: str
    note: str
    at: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """Unseen patients that share a class, a domain or a site."""

    name: str
    patients: int  # with a kept frame
    right: int  # of them, those whose mean probabilities name the right class
    accuracy: float | None  # mean over patients


@dataclass(frozen=True)
class Corrupted:
    """Accuracy under one corruption: the value and its background at each severity, and their mean."""

    name: str
    unit: str
    cells: tuple[tuple[float, str], ...]
    mean: float


def tile(evaluation: Mapping[str, Any], name: str, note: str) -> Figure:
    value = evaluation["metrics"].get(name)
    low, high = _interval(evaluation, name)
    on_scale = is_finite(value) and name not in LESS_IS_BETTER
    return Figure(
        title=METRICS[name],
        value=number(value),
        interval=between(low, high),
        note=note,
        at=_position(value) if on_scale else None,
        low=_position(low) if on_scale and low is not None else None,
        high=_position(high) if on_scale and high is not None else None,
    )


def _position(value: float) -> float:
    return round(100 * max(0.0, min(1.0, value)), 2)


def _interval(evaluation: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    low, high = (evaluation.get("intervals") or {}).get(name) or (None, None)
    return (low, high) if is_finite(low) and is_finite(high) else (None, None)


def by_level(evaluation: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The figures that exist of frames, videos and patients: value and interval of each."""
    metrics = evaluation["metrics"]
    return [
        (
            METRICS[name],
            [(number(metrics.get(prefix + name)), between(*_interval(evaluation, prefix + name))) for prefix in LEVELS],
        )
        for name in BY_LEVEL
    ]


def others(metrics: Mapping[str, Any]) -> list[str]:
    shown = {prefix + name for prefix in LEVELS for name in BY_LEVEL} | set(OF_MAPS)
    return [name for name in ordered(metrics) if name not in shown]


def metric_rows(evaluation: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Title, value, interval and a note."""
    metrics = evaluation["metrics"]
    return [
        (
            title_of(name),
            number(metrics[name]),
            between(*_interval(evaluation, name)) or NONE,
            OF_MAPS.get(name, ""),
        )
        for name in names
    ]


def corruptions(evaluation: Mapping[str, Any]) -> list[Corrupted]:
    """How often sampled frames are still right, by kind and severity; the worst kind first."""
    found = evaluation.get("robustness") or {"kinds": {}}
    rows = [
        Corrupted(
            name=kind.replace("fov", "field of view").replace("_", " "),
            unit=row["unit"],
            cells=tuple((share, figures.shade(share)) for share in row["accuracy"]),
            mean=fmean(row["accuracy"]),
        )
        for kind, row in found["kinds"].items()
    ]
    return sorted(rows, key=lambda row: (row.mean, row.name))


def ordered(*metrics: Mapping[str, Any]) -> list[str]:
    """Names in the project's order, strangers behind them by name."""
    found = {name for each in metrics for name in each}
    return [name for name in METRICS if name in found] + sorted(found - set(METRICS))


def title_of(name: str) -> str:
    return METRICS.get(name, name)


def compared(name: str, old: Any, new: Any) -> dict[str, str]:
    row = {"title": title_of(name), "old": number(old), "new": number(new), "difference": NONE, "state": "none"}
    if is_finite(old) and is_finite(new):
        change = new - old
        gain = -change if name in LESS_IS_BETTER else change
        row["difference"] = ("+" if round(change, 3) > 0 else "") + number(round(change, 3) + 0.0)
        if abs(change) >= 0.0005 and name not in NEITHER_IS_BETTER:
            row["state"] = "good" if gain > 0 else "bad"
    return row


def patients(evaluation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Worst first: what a reviewer should see before anything else. Without a kept frame: last."""
    return sorted(evaluation.get("per_patient") or (), key=_badness)


def _badness(row: Mapping[str, Any]) -> tuple[Any, ...]:
    accuracy = math.inf if row["accuracy"] is None else row["accuracy"]
    judged = row["predicted"] is not None
    return not judged, row["predicted"] == row["label"], accuracy, row["patient_id"], row["label"]


def groups(evaluation: Mapping[str, Any]) -> list[tuple[str, list[Group]]]:
    """Unseen patients by what they share: a model may have learned a site instead of a tissue."""
    patients = evaluation.get("per_patient") or ()
    return [
        (title, [_group(name, patients, key) for name in sorted({str(row[key]) for row in patients})])
        for title, key in (("Class", "label"), ("Domain", "domain"), ("Site", "site"))
    ]


def _group(name: str, patients: Sequence[Mapping[str, Any]], key: str) -> Group:
    own = [row for row in patients if str(row[key]) == name]
    known = [row["accuracy"] for row in own if row["accuracy"] is not None]
    return Group(
        name=name or "unnamed",
        patients=sum(row["predicted"] is not None for row in own),
        right=sum(row["predicted"] == row["label"] for row in own),
        accuracy=fmean(known) if known else None,
    )
