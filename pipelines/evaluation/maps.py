"""Columns of a video's predictions that judge its saliency maps: by masks where there are some, by the model itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import lclsc
from lclsc import faithfulness, map_quality
from pipelines.inference import Classifier

STEPS = 10  # of the deletion and insertion curves
AGAINST_MASKS = ("saliency_iou", "pointing", "saliency_auc")
FAITHFULNESS = ("deletion", "insertion", "average_drop", "confidence_increase")
Columns = dict[str, list[float | None]]


def against_masks(
    saliency_NSS: NDArray[np.float32], fov_NSS: NDArray[np.bool_], truth_NSS: NDArray[np.bool_] | None
) -> Columns:
    """Of N frames; None where nothing is outlined, or no mask came with the video."""
    if truth_NSS is None:
        return {name: [None] * len(saliency_NSS) for name in AGAINST_MASKS}
    maps, fov = torch.from_numpy(saliency_NSS), torch.from_numpy(fov_NSS.copy())
    truth = torch.from_numpy(truth_NSS) & fov
    return {
        "saliency_iou": _values(map_quality.equal_area_iou(maps, truth)),
        "pointing": _values(map_quality.pointing(maps, truth)),
        "saliency_auc": _values(map_quality.saliency_auc(maps, truth, fov)),
    }


@torch.inference_mode()
def of_the_model(
    classifier: Classifier,
    image_N1SS: torch.Tensor,
    fov_N1SS: torch.Tensor,
    saliency_NSS: torch.Tensor,
    predicted_N: torch.Tensor,
) -> Columns:
    """Faithfulness of the maps of the predicted classes, see ``lclsc.faithfulness``."""

    def score(image: torch.Tensor, fov: torch.Tensor) -> torch.Tensor:
        similarity_NK = classifier.model(image, fov).similarity_BK
        return lclsc.probabilities(similarity_NK, classifier.card["temperature"])

    frames = (score, image_N1SS, fov_N1SS, saliency_NSS, predicted_N)
    deletion = faithfulness.area_under(faithfulness.deletion_curve(*frames, steps=STEPS))
    insertion = faithfulness.area_under(faithfulness.insertion_curve(*frames, steps=STEPS))
    found = (deletion, insertion, *faithfulness.confidence_change(*frames))
    return {name: _values(values) for name, values in zip(FAITHFULNESS, found, strict=True)}


def _values(values_N: torch.Tensor) -> list[float | None]:
    listed: list[Any] = values_N.tolist()
    return [None if math.isnan(value) else value for value in listed]
