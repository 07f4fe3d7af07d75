"""Evaluate: score the patients nobody trained on.

Reads   data/test.csv with the shards and masks it names, models/
Writes  reports/evaluate.json, reports/predictions.parquet   schemas.PREDICTIONS
Params  evaluate
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipelines import cluster, frames, schemas, stage
from pipelines.errors import StageError
from pipelines.evaluation import frame_sample, maps, robustness
from pipelines.evaluation.summary import summarise
from pipelines.files import read_json, sha256_file
from pipelines.frames import Frames
from pipelines.inference import Classifier, Prediction, as_tensor, load_classifier
from pipelines.params import EvaluateParams, Params
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One video to score: a row of test.csv, where things lie, and how many frames to look at twice."""

    models: Path
    frames: Path
    masks: Path
    row: dict[str, Any]
    seed: int
    corrupted: int
    probed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """``rows`` of schemas.PREDICTIONS; ``hits`` as ``robustness.hits`` counts them, of ``sampled`` frames."""

    rows: list[dict[str, Any]]
    sampled: int
    hits: NDArray[np.int64]


def run(workspace: Workspace, params: Params) -> dict[str, Any]:
    table = frames.read_table(workspace.test_table)
    if table.empty or not table.kept.sum():
        raise StageError(
            "no_test_frames",
            "No kept frame belongs to a test patient.",
            "Take in more patients; reports/extract.json says which frames were dropped and why.",
        )
    work = to_score(workspace, table, params.evaluate)
    scored = cluster.map_items(score_video, work, workspace=workspace, title="evaluate", unit="videos")
    return conclude(workspace, table, scored, params.evaluate)


def conclude(
    workspace: Workspace, table: pd.DataFrame, scored: Sequence[Scored], params: EvaluateParams
) -> dict[str, Any]:
    """Store the predictions of the table's videos; then say what they tell."""
    rows = [row for video in scored for row in video.rows]
    schemas.write_table(workspace.predictions, pa.Table.from_pylist(rows, schema=schemas.PREDICTIONS))
    report = recompute(workspace, params)
    sampled = pd.DataFrame({"sampled": [video.sampled for video in scored], "hits": [video.hits for video in scored]})
    corrupted = robustness.table(table.join(sampled), params)
    report["metrics"]["corrupted_accuracy"] = corrupted and corrupted["mean"]
    report["intervals"]["corrupted_accuracy"] = corrupted and corrupted["interval"]
    return report | {"robustness": corrupted, "weights_sha256": sha256_file(workspace.weights)}


def recompute(workspace: Workspace, params: EvaluateParams) -> dict[str, Any]:
    """Every figure but those of corrupted frames, from the stored predictions alone."""
    predictions = pq.read_table(workspace.predictions).to_pandas()
    patients = frames.read_table(workspace.test_table)[["video_id", "patient_id", "site", "domain"]]
    classes = read_json(workspace.model_card)["classes"]
    return summarise(predictions.merge(patients, on="video_id"), classes, params)


def score_video(work: Scoring) -> Scored:
    """One test video: every frame once, the sampled ones again and again."""
    classifier = _classifier(work.models)
    row = work.row
    shard = frames.read_shard(work.frames / row["shard"], row["shard_sha256"])
    prediction = classifier.predict(shard.images_NSS, shard.fov_NSS)
    truth = frames.read_masks(work.masks / row["mask_shard"], row["mask_shard_sha256"]) if row["mask_shard"] else None
    columns = maps.against_masks(prediction.saliency_NSS, shard.fov_NSS, truth) | _faithfulness(
        classifier, shard, prediction, work
    )
    rows = [
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
        | {name: values[n] for name, values in columns.items()}
        for n in range(len(shard))
    ]
    sample = _sample(shard, work, work.corrupted)
    return Scored(rows=rows, sampled=len(sample), hits=_hits(classifier, shard, sample, work))


def to_score(workspace: Workspace, table: pd.DataFrame, params: EvaluateParams) -> list[Scoring]:
    videos = frames.rows(table)
    corrupted, probed = (
        frame_sample.quotas(videos, count, seed=params.seed)
        for count in (params.corruption_frames, params.faithfulness_frames)
    )
    return [
        Scoring(
            models=workspace.weights.parent,
            frames=workspace.frames,
            masks=workspace.mask_frames,
            row=row,
            seed=params.seed,
            corrupted=corrupted[row["video_id"]],
            probed=probed[row["video_id"]],
        )
        for row in videos
    ]


def _sample(shard: Frames, work: Scoring, count: int) -> NDArray[np.int64]:
    return frame_sample.chosen(work.row["video_id"], shard.frame_index_N, shard.keep_N, count, seed=work.seed)


def _hits(classifier: Classifier, shard: Frames, sample: NDArray[np.int64], work: Scoring) -> NDArray[np.int64]:
    if not len(sample):
        return np.zeros(1 + len(robustness.CASES), dtype=np.int64)
    names = frame_sample.identities(work.row["video_id"], shard.frame_index_N[sample])
    image_N1SS, fov_N1SS = _tensors(shard, sample)
    return robustness.hits(
        classifier, image_N1SS, fov_N1SS, torch.tensor(names), str(work.row["label"]), seed=work.seed
    )


def _faithfulness(classifier: Classifier, shard: Frames, prediction: Prediction, work: Scoring) -> maps.Columns:
    """Of the sampled frames; None at all others."""
    sample = _sample(shard, work, work.probed)
    columns: maps.Columns = {name: [None] * len(shard) for name in maps.FAITHFULNESS}
    if not len(sample):
        return columns
    saliency_NSS = torch.from_numpy(prediction.saliency_NSS[sample])
    predicted_N = torch.from_numpy(prediction.predicted_N[sample])
    found = maps.of_the_model(classifier, *_tensors(shard, sample), saliency_NSS, predicted_N)
    for name, values in found.items():
        for place, value in zip(sample.tolist(), values, strict=True):
            columns[name][place] = value
    return columns


def _tensors(shard: Frames, sample: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    return as_tensor(shard.images_NSS[sample]), torch.from_numpy(shard.fov_NSS[sample])[:, None]


@lru_cache(maxsize=1)
def _classifier(folder: Path) -> Classifier:
    """Loaded once a worker process, on one thread: workers share the machine."""
    torch.set_num_threads(1)
    return load_classifier(folder)


if __name__ == "__main__":
    stage.main("evaluate")
