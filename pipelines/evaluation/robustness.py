"""How many answers stay right when frames are corrupted, see ``lclsc.corruptions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lclsc.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from pipelines.evaluation.levels import Resampling
from pipelines.inference import Classifier
from pipelines.params import EvaluateParams

CASES = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]


@torch.inference_mode()
def hits(
    classifier: Classifier,
    image_N1SS: torch.Tensor,
    fov_N1SS: torch.Tensor,
    index_N: torch.Tensor,
    truth: str,
    *,
    seed: int,
) -> NDArray[np.int64]:
    """Right answers of N frames of one class: as they are, then in every one of ``CASES``."""
    frames = [(image_N1SS, fov_N1SS)]
    for kind, severity in CASES:
        frames.append(corrupt(image_N1SS, fov_N1SS, index_N, kind=kind, severity=severity, seed=seed))
    return np.array([_right(classifier, image, fov, truth) for image, fov in frames], dtype=np.int64)


def _right(classifier: Classifier, image_N1SS: torch.Tensor, fov_N1SS: torch.Tensor, truth: str) -> int:
    predicted_N = classifier.model(image_N1SS, fov_N1SS).similarity_BK.argmax(1)
    return int((predicted_N == classifier.classes.index(truth)).sum())


def table(videos: pd.DataFrame, params: EvaluateParams) -> dict[str, Any] | None:
    """Of videos with ``label``, ``patient_id``, ``sampled`` (frames) and ``hits``; None when none was sampled."""
    videos = videos[videos.sampled > 0]
    if videos.empty:
        return None
    frames = int(videos.sampled.sum())
    hits_VC = np.stack(list(videos.hits))
    clean, *accuracy_C = (hits_VC.sum(0) / frames).tolist()
    return {
        "frames": frames,
        "clean": clean,
        "mean": float(np.mean(accuracy_C)),
        "interval": _interval(videos, hits_VC[:, 1:].mean(1), params),
        "severities": list(SEVERITIES),
        "kinds": {kind: _kind(kind, accuracy_C) for kind in CORRUPTIONS},
    }


def _interval(videos: pd.DataFrame, hits_V: NDArray[np.float64], params: EvaluateParams) -> list[float] | None:
    resampling = Resampling(videos, params)
    sampled_V = videos.sampled.to_numpy(dtype=float)
    return resampling.of_mean(resampling.sums(videos, hits_V), resampling.sums(videos, sampled_V))


def _kind(kind: str, accuracy_C: Sequence[float]) -> dict[str, Any]:
    corruption = CORRUPTIONS[kind]
    return {
        "unit": corruption.unit,
        "levels": list(corruption.levels),
        "accuracy": [value for (name, _), value in zip(CASES, accuracy_C, strict=True) if name == kind],
    }
