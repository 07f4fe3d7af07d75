"""One cell of the table: one method trained on one set from one seed, measured on patients nobody trained on.

A cell is one thread's work from fixed chance: it is the same beside whatever else runs. What it was measured with
is in its digest; a cell of another digest does not count.

Letters: N frames, S pixels a side, K classes, h w map cells.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import lclsc
from comparison.baselines import Method, Supervised
from comparison.labelled_sets import LabelledSet
from lclsc import corruptions, faithfulness, map_quality
from pipelines import metrics
from pipelines.params import TrainParams
from pipelines.training import Job, Samples, Trainer, prepare_torch

ROOT = Path(__file__).resolve().parents[2]
BATCH = 32
PROBED_FRAMES = 140  # about so many test frames, evenly spread, meet every corruption and removal
REMOVAL_STEPS = 8
PACKAGES = ("numpy", "pytorch-metric-learning", "scikit-learn", "torch")
SHARED_CODE = (
    "benchmarks.comparison.baselines",
    "benchmarks.comparison.cell",
    "lclsc.calibration",
    "lclsc.centred_conv",
    "lclsc.chance",
    "lclsc.corruptions",
    "lclsc.encoders.adapt",
    "lclsc.encoders.compact",
    "lclsc.encoders.encoder",
    "lclsc.faithfulness",
    "lclsc.inference",
    "lclsc.map_quality",
    "lclsc.model",
    "lclsc.optimisation",
    "lclsc.removal",
    "lclsc.saliency",
    "lclsc.views",
    "pipelines.inference",
    "pipelines.sampling",
    "pipelines.training",
)
CONTRAST_CODE = (
    "lclsc.consistency",
    "lclsc.distributed",
    "lclsc.global_embeddings",
    "lclsc.label_contrast",
    "lclsc.objective",
    "lclsc.step",
    "lclsc.topk_pool",
)
"""All code that shapes a cell, but for the four figures of `pipelines.metrics`, which are definitions."""
CONTRAST_PARAMS = {"class_balanced", "global_keys", "saliency_weight", "saliency_start", "saliency_full", "consistency"}
CONTRAST_PARAMS |= {"top_share", "contrast_margin", "contrast_weight", "momentum", "embeddings"}
"""Parameters that no `Supervised` trainer reads."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Of N frames: probabilities, the class they name, and its map, 0..1 and zero outside the field of view."""

    probabilities_NK: NDArray[np.float64]
    predicted_N: NDArray[np.int64]
    saliency_NSS: Tensor


def measure(
    method: Method, data: LabelledSet, params: TrainParams, *, probed_frames: int = PROBED_FRAMES
) -> dict[str, Any]:
    """Train and measure; ``params`` hold the seed and the budget that all methods share."""
    began = time.monotonic()
    trainer = fit(method, data, method.train_params(params))
    trained = time.monotonic()
    test, temperature = data.splits["test"], trainer.calibration["temperature"]
    answers = answer(trainer.model, temperature, test)
    probed = np.arange(0, len(test), max(1, round(len(test) / probed_frames)))
    per_frame = {"correct": (answers.predicted_N == test.labels_N).astype(float)}
    if data.masks_NSS is not None:
        per_frame |= _against_masks(answers.saliency_NSS, data.masks_NSS)
    per_probed = _under_corruption(trainer.model, temperature, test, probed)
    if data.masks_NSS is None:
        per_probed |= _faithfulness(trainer.model, temperature, test, probed, answers)
    return {
        "validation_macro_f1": trainer.history[-1]["validation_macro_f1"],
        "temperature": temperature,
        "levels": _levels(answers.probabilities_NK, test),
        "patients": _per_patient(answers.predicted_N, test, probed, per_frame, per_probed),
        "train_seconds": round(trained - began, 1),
        "measure_seconds": round(time.monotonic() - trained, 1),
    }


def fit(method: Method, data: LabelledSet, params: TrainParams) -> Trainer:
    """Trained to the end; the last epoch's weights count, whatever validation says."""
    prepare_torch(params)
    card = {
        "classes": list(data.classes),
        "encoder": params.encoder,
        "embedding_dim": params.embedding_dim,
        "momentum": params.momentum,
    }
    train, validation = data.splits["train"], data.splits["validation"]
    job = Job(params=params, card=card, train=None, validation=None, channel=None)
    trainer = method.trainer(job, train, validation, torch.device("cpu"))
    for _ in trainer.steps():
        pass
    trainer.model.eval()
    return trainer


@torch.inference_mode()
def answer(model: lclsc.LCLSC, temperature: float, samples: Samples) -> Answers:
    """As the product answers: calibrated probabilities and the map of the predicted class."""
    probabilities, maps = [], []
    for image, inside, _ in _batches(samples, np.arange(len(samples))):
        scores = model(image, inside)
        probabilities.append(lclsc.probabilities(scores.similarity_BK, temperature))
        maps.append(_map(scores, scores.similarity_BK.argmax(1), inside))
    probabilities_NK = torch.cat(probabilities).double().numpy()
    return Answers(
        probabilities_NK=probabilities_NK, predicted_N=probabilities_NK.argmax(1), saliency_NSS=torch.cat(maps)
    )


def _batches(samples: Samples, chosen: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images in [0, 1], fields of view and indices of the chosen samples, in order."""
    for start in range(0, len(chosen), BATCH):
        index = chosen[start : start + BATCH]
        image = torch.from_numpy(samples.images_NSS[index])[:, None].float() / 255.0
        yield image, torch.from_numpy(samples.fov_NSS[index])[:, None], torch.from_numpy(index)


def _map(scores: lclsc.Scores, class_B: Tensor, inside_B1SS: Tensor) -> Tensor:
    """The saliency of one class an image at the image's size, (B, S, S)."""
    small_Bhw, _ = lclsc.saliency(scores.class_map_of(class_B), scores.fov_Bhw)
    size = inside_B1SS.shape[-2:]
    large = torch.nn.functional.interpolate(small_Bhw[:, None], size=size, mode="bilinear", align_corners=False)
    return (large.clamp(0, 1) * inside_B1SS)[:, 0]


def _against_masks(saliency_NSS: Tensor, masks_NSS: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    truth = torch.from_numpy(masks_NSS)
    return {
        "saliency_iou": map_quality.equal_area_iou(saliency_NSS, truth).numpy(),
        "pointing": map_quality.pointing(saliency_NSS, truth).numpy(),
    }


@torch.inference_mode()
def _under_corruption(
    model: lclsc.LCLSC, temperature: float, samples: Samples, chosen: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Share of the 5 severities at which a frame is still recognised: of each kind, and of all 40 as `corruption`."""
    found: dict[str, NDArray[np.float64]] = {}
    for kind in corruptions.CORRUPTIONS:
        hits = []
        for image, inside, index in _batches(samples, chosen):
            labels_B = torch.from_numpy(samples.labels_N[index.numpy()])
            per_severity = []
            for severity in corruptions.SEVERITIES:
                spoilt = corruptions.corrupt(image, inside, index, kind=kind, severity=severity, seed=0)
                per_severity.append((model(*spoilt).similarity_BK.argmax(1) == labels_B).double())
            hits.append(torch.stack(per_severity).mean(0))
        found[f"corruption {kind}"] = torch.cat(hits).numpy()
    return found | {"corruption": np.mean(list(found.values()), axis=0)}


@torch.inference_mode()
def _faithfulness(
    model: lclsc.LCLSC, temperature: float, samples: Samples, chosen: NDArray[np.int64], answers: Answers
) -> dict[str, NDArray[np.float64]]:
    """Areas under the deletion and insertion curves of the predicted class, their difference, and average drop."""

    def score(image: Tensor, inside: Tensor) -> Tensor:
        return lclsc.probabilities(model(image, inside).similarity_BK, temperature)

    found: dict[str, list[Tensor]] = {"deletion": [], "insertion": [], "average_drop": []}
    for image, inside, index in _batches(samples, chosen):
        explained = (score, image, inside, answers.saliency_NSS[index], torch.from_numpy(answers.predicted_N)[index])
        for name, curve in (("deletion", faithfulness.deletion_curve), ("insertion", faithfulness.insertion_curve)):
            found[name].append(faithfulness.area_under(curve(*explained, steps=REMOVAL_STEPS)))
        found["average_drop"].append(faithfulness.confidence_change(*explained)[0])
    figures = {name: torch.cat(parts).double().numpy() for name, parts in found.items()}
    return figures | {"faithfulness": figures["insertion"] - figures["deletion"]}


def _levels(probabilities_NK: NDArray[np.float64], samples: Samples) -> dict[str, dict[str, float | None]]:
    """Figures of frames, of videos and of patients; the last two answer by the mean of their frames' probabilities."""
    groups = {
        "frame": list(range(len(samples))),
        "video": list(zip(samples.labels_N.tolist(), samples.videos, strict=True)),
        "patient": list(zip(samples.labels_N.tolist(), samples.patients, strict=True)),
    }
    return {level: _figures(probabilities_NK, samples.labels_N, names) for level, names in groups.items()}


def _figures(
    probabilities_NK: NDArray[np.float64], labels_N: NDArray[np.int64], groups: Sequence[Any]
) -> dict[str, float | None]:
    """Macro-F1, balanced accuracy, AUROC and ECE of groups of frames that share a label."""
    members: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    mean_GK = np.stack([probabilities_NK[own].mean(0) for own in members.values()])
    label_G = labels_N[[own[0] for own in members.values()]]
    matrix = _confusion(label_G, mean_GK.argmax(1), mean_GK.shape[1])
    names = [str(k) for k in range(mean_GK.shape[1])]
    return {
        "macro_f1": float(metrics.macro_f1(matrix)),
        "balanced_accuracy": float(metrics.balanced_accuracy(matrix)),
        "auroc": metrics.auroc([names[k] for k in label_G], mean_GK, names),
        "ece": metrics.calibration_error(mean_GK.argmax(1) == label_G, mean_GK.max(1)),
    }


def _confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def _per_patient(
    predicted_N: NDArray[np.int64],
    samples: Samples,
    probed: NDArray[np.int64],
    per_frame: dict[str, NDArray[np.float64]],
    per_probed: dict[str, NDArray[np.float64]],
) -> list[dict[str, Any]]:
    """Each patient's counts and sums, in sorted order: all that a bootstrap over patients needs."""
    patient_N, classes = np.array(samples.patients), int(samples.labels_N.max()) + 1
    rows = []
    for patient in sorted(set(samples.patients)):
        own = patient_N == patient
        sums = {name: _sum_and_count(values[own]) for name, values in per_frame.items()}
        sums |= {name: _sum_and_count(values[own[probed]]) for name, values in per_probed.items()}
        rows.append(
            {
                "patient": patient,
                "labels": sorted(set(samples.labels_N[own].tolist())),
                "confusion": _confusion(samples.labels_N[own], predicted_N[own], classes).tolist(),
                "sums": sums,
            }
        )
    return rows


def _sum_and_count(values: NDArray[np.float64]) -> list[float]:
    there = values[np.isfinite(values)]
    return [round(float(there.sum()), 6), len(there)]


def digest(method: Method, data: LabelledSet, params: TrainParams) -> str:
    """SHA-256 over the code, the versions, the pixels and the parameters that a cell comes from."""
    supervised = issubclass(method.trainer, Supervised)
    modules = SHARED_CODE if supervised else (*SHARED_CODE, *CONTRAST_CODE)
    facts = [
        method.name,
        data.digest,
        method.train_params(params).model_dump_json(exclude=CONTRAST_PARAMS if supervised else None),
        *(_code(module) for module in modules),
        *(f"{name} {_version(name)}" for name in PACKAGES),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _code(module: str) -> str:
    """A module's source without what changes no number: comments, docstrings, layout."""
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _version(package: str) -> str:
    """Without the local build tag, "none" where it is not installed."""
    try:
        return re.sub(r"\+.*", "", importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return "none"
