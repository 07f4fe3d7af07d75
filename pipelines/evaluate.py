"""Evaluate: score the patients nobody trained on.

Reads   data/test.csv with the shards and masks it names, models/
Writes  reports/evaluate.json, reports/predictions.parquet   schemas.PREDICTIONS
Params  evaluate
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipelines import cluster, frames, metrics, schemas, stage
from pipelines.errors import StageError
from pipelines.files import sha256_file
from pipelines.inference import Classifier, Prediction, load_classifier
from pipelines.params import EvaluateParams, Params
from pipelines.workspace import Workspace


@dataclass(frozen=True)
class Scoring:
    """One video to score: a row of test.csv and where things lie."""

    models: Path
    frames: Path
    masks: Path
    row: dict[str, Any]


def run(workspace: Workspace, params: Params) -> dict[str, Any]:
    table = frames.read_table(workspace.test_table)
    if table.empty or not table.kept.sum():
        raise StageError(
            "no_test_frames",
            "No kept frame belongs to a test patient.",
            "Take in more patients; reports/extract.json says which frames were dropped and why.",
        )
    work = [
        Scoring(workspace.weights.parent, workspace.frames, workspace.mask_frames, row) for row in frames.rows(table)
    ]
    scored = cluster.map_items(score_video, work, workspace=workspace, title="evaluate", unit="videos")
    rows = [row for video in scored for row in video]
    schemas.write_table(workspace.predictions, pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS))
    predictions = pd.DataFrame(rows).merge(table[["video_id", "patient_id", "site", "domain"]], on="video_id")
    classes = load_classifier(workspace.weights.parent).classes
    return summarise(predictions, classes, params.evaluate) | {"weights_sha256": sha256_file(workspace.weights)}


def score_video(work: Scoring) -> list[dict[str, Any]]:
    """Rows of schemas.PREDICTIONS for one test video."""
    classifier = _classifier(work.models)
    row = work.row
    shard = frames.read_shard(work.frames / row["shard"], row["shard_sha256"])
    prediction = classifier.predict(shard.images_NSS, shard.fov_NSS)
    truth = frames.read_masks(work.masks / row["mask_shard"], row["mask_shard_sha256"]) if row["mask_shard"] else None
    return [
        {
            "video_id": row["video_id"],
            "frame_index": int(shard.frame_index_N[n]),
            "split": row["split"],
            "label": row["label"],
            "predicted": classifier.classes[prediction.predicted_N[n]],
            "probabilities": prediction.probabilities_NK[n].tolist(),
            "score": float(prediction.score_N[n]),
            "reject": bool(prediction.reject_N[n]),
            "keep": bool(shard.keep_N[n]),
        }
        | _saliency_figures(prediction, n, None if truth is None else truth[n] & shard.fov_NSS[n])
        for n in range(len(shard))
    ]


def _saliency_figures(prediction: Prediction, n: int, truth_SS: NDArray[np.bool_] | None) -> dict[str, float | None]:
    if truth_SS is None or not truth_SS.any():
        return {"saliency_iou": None, "pointing": None}
    saliency_SS = prediction.saliency_NSS[n]
    return {
        "saliency_iou": equal_area_iou(saliency_SS, truth_SS),
        "pointing": pointing(saliency_SS, truth_SS),
    }


def equal_area_iou(saliency_SS: NDArray[np.float32], truth_SS: NDArray[np.bool_]) -> float:
    """Overlap of the truth with the most salient pixels, as many as the truth has; no threshold to tune."""
    area = int(truth_SS.sum())
    strongest = np.argsort(-saliency_SS, axis=None, kind="stable")[:area]
    chosen = np.zeros(truth_SS.size, dtype=bool)
    chosen[strongest] = saliency_SS.flat[strongest] > 0
    both = int((chosen & truth_SS.ravel()).sum())
    return both / (area + int(chosen.sum()) - both)


def pointing(saliency_SS: NDArray[np.float32], truth_SS: NDArray[np.bool_]) -> float:
    """1 when the map's peak lies in the truth; 0 otherwise, and where the map is empty."""
    return float(saliency_SS.max() > 0 and truth_SS.flat[int(saliency_SS.argmax())])


def summarise(predictions: pd.DataFrame, classes: Sequence[str], params: EvaluateParams) -> dict[str, Any]:
    """All figures of one evaluation. Frames not kept count in coverage only."""
    kept = predictions[predictions.keep]
    videos, patients = (pooled(kept, by, classes) for by in (["video_id", "patient_id"], ["patient_id"]))
    figures = _figures(kept, classes) | {
        "coverage": float(predictions.keep.mean()),
        "rejected": float(kept.reject.mean()),
        "video_macro_f1": _macro_f1(videos, classes),
        "patient_macro_f1": _macro_f1(patients, classes),
    }
    counts = {str(label): int(n) for label, n in kept.groupby("label").patient_id.nunique().items()}
    matrix = metrics.confusion(list(kept.label), list(kept.predicted), classes)
    return {
        "metrics": figures,
        "intervals": _intervals(kept, classes, params),
        "per_class": metrics.per_class(matrix, classes, counts),
        "confusion": {"classes": list(classes), "matrix": matrix.tolist()},
        "per_patient": _per_patient(predictions, patients),
        "frames": len(kept),
        "patients": int(kept.patient_id.nunique()),
        "videos": int(kept.video_id.nunique()),
    }


def pooled(kept: pd.DataFrame, by: list[str], classes: Sequence[str]) -> pd.DataFrame:
    """Mean probabilities over the kept frames of a video or patient, and the class they name."""
    means = kept.groupby(["label", *by], sort=True).probabilities.apply(lambda group: np.mean(list(group), axis=0))
    table = means.reset_index()
    table["predicted"] = [classes[int(np.argmax(mean))] for mean in table.probabilities]
    return table


def _figures(kept: pd.DataFrame, classes: Sequence[str]) -> dict[str, float | None]:
    matrix = metrics.confusion(list(kept.label), list(kept.predicted), classes)
    probabilities_NK = np.array(list(kept.probabilities), dtype=float)
    correct_N = (kept.label == kept.predicted).to_numpy()
    return {
        "macro_f1": float(metrics.macro_f1(matrix)),
        "balanced_accuracy": float(metrics.balanced_accuracy(matrix)),
        "auroc": metrics.auroc(list(kept.label), probabilities_NK, classes),
        "ece": metrics.calibration_error(correct_N, probabilities_NK.max(1)),
        "saliency_iou": _mean(kept.saliency_iou),
        "pointing": _mean(kept.pointing),
    }


def _macro_f1(table: pd.DataFrame, classes: Sequence[str]) -> float:
    return float(metrics.macro_f1(metrics.confusion(list(table.label), list(table.predicted), classes)))


def _intervals(kept: pd.DataFrame, classes: Sequence[str], params: EvaluateParams) -> dict[str, list[float] | None]:
    """Patient-clustered bootstrap intervals of the figures a reader compares."""
    parts = metrics.patient_confusions(kept, classes)
    strata = [label for label, _ in sorted(set(zip(kept.label, kept.patient_id, strict=True)))]
    weights = metrics.patient_bootstrap(strata, draws=params.bootstrap, seed=params.seed)
    matrices = np.einsum("bp,pij->bij", weights, parts)
    figures: dict[str, Callable[[Any], Any]] = {
        "macro_f1": metrics.macro_f1,
        "balanced_accuracy": metrics.balanced_accuracy,
    }
    found = {name: metrics.interval(figure(matrices), params.confidence) for name, figure in figures.items()}
    for name in ("saliency_iou", "pointing"):
        found[name] = _mean_interval(kept, name, weights, params.confidence)
    return found


def _mean_interval(
    kept: pd.DataFrame, name: str, weights: NDArray[np.float64], confidence: float
) -> list[float] | None:
    groups = kept.groupby(["label", "patient_id"], sort=True)[name]
    sums, counts = groups.sum().to_numpy(dtype=float), groups.count().to_numpy(dtype=float)
    if not counts.sum():
        return None
    totals = weights @ counts
    return metrics.interval(
        np.divide(weights @ sums, totals, out=np.full(len(totals), np.nan), where=totals > 0), confidence
    )


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
                "accuracy": _mean(kept.label == kept.predicted),
                "predicted": verdicts.get((label, patient_id)),
            }
        )
    return rows


def _mean(values: pd.Series) -> float | None:
    """Mean of what is there; None when nothing is."""
    present = values.dropna()
    return float(present.mean()) if len(present) else None


@lru_cache(maxsize=1)
def _classifier(folder: Path) -> Classifier:
    """Loaded once a worker process, on one thread: workers share the machine."""
    import torch

    torch.set_num_threads(1)
    return load_classifier(folder)


if __name__ == "__main__":
    stage.main("evaluate")
