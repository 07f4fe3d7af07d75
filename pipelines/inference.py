"""A trained model at work: grey pictures in, classes, probabilities, rejects and saliency out.

What evaluation measures, ``lclsc predict`` shows and a served model answers is this one code.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import lclsc
from pipelines.errors import WrongUseError
from pipelines.files import read_json
from pipelines.params import ExtractParams
from pipelines.video import fov, quality
from pipelines.video.geometry import inside_mask
from pipelines.video.isolation import Limits, run_isolated

BATCH = 32
LIMITS = Limits(memory_mib=1024, cpu_seconds=3600, wall_seconds=4 * 3600)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Of N frames; classes in the order of the model's class list."""

    probabilities_NK: NDArray[np.float32]
    score_N: NDArray[np.float32]  # cosine with the predicted class, -1..1
    predicted_N: NDArray[np.int64]
    reject_N: NDArray[np.bool_]
    saliency_NSS: NDArray[np.float32]  # of the predicted class, 0..1, zero outside the field of view
    similarity_NK: NDArray[np.float32] | None = None  # cosine with every class; packages before 0.1.0 give none


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoPrediction:
    """A whole video: what each frame is, and which frames were fit to be judged."""

    frame_index_N: NDArray[np.int32]
    pts_seconds_N: NDArray[np.float64]
    images_NSS: NDArray[np.uint8]
    fov_NSS: NDArray[np.bool_]
    keep_N: NDArray[np.bool_]
    prediction: Prediction


class Classifier:
    """LCL-SC with its classes, calibration and the recipe that frames are prepared by."""

    def __init__(self, model: lclsc.LCLSC, card: dict[str, Any]) -> None:
        self.model = model.eval()
        self.card = card
        self.classes: list[str] = list(card["classes"])
        self.extract = ExtractParams.model_validate(card["extract"])

    @torch.inference_mode()
    def predict(self, images_NSS: NDArray[np.uint8], fov_NSS: NDArray[np.bool_]) -> Prediction:
        """Frames of ``extract.side_px`` a side with their fields of view."""
        parts = [
            self._predict_batch(images_NSS[start : start + BATCH], fov_NSS[start : start + BATCH])
            for start in range(0, len(images_NSS), BATCH)
        ]
        return Prediction(
            probabilities_NK=np.concatenate([part.probabilities_NK for part in parts]),
            score_N=np.concatenate([part.score_N for part in parts]),
            predicted_N=np.concatenate([part.predicted_N for part in parts]),
            reject_N=np.concatenate([part.reject_N for part in parts]),
            saliency_NSS=np.concatenate([part.saliency_NSS for part in parts]),
            similarity_NK=np.concatenate([part.similarity_NK for part in parts if part.similarity_NK is not None]),
        )

    def _predict_batch(self, images_NSS: NDArray[np.uint8], fov_NSS: NDArray[np.bool_]) -> Prediction:
        fov_N1SS = torch.tensor(fov_NSS)[:, None]
        scores = self.model(as_tensor(images_NSS), fov_N1SS)
        similarity_NK = scores.similarity_BK
        best_N = similarity_NK.argmax(1)
        rows = torch.arange(len(best_N))
        saliency_Nhw, _ = lclsc.saliency(scores.class_map_of(best_N), scores.fov_Bhw)
        reject = self.card["reject"]
        return Prediction(
            probabilities_NK=lclsc.probabilities(similarity_NK, self.card["temperature"]).numpy(),
            score_N=similarity_NK[rows, best_N].numpy(),
            predicted_N=best_N.numpy(),
            reject_N=lclsc.reject(similarity_NK, min_score=reject["score"], min_margin=reject["margin"]).numpy(),
            saliency_NSS=lclsc.enlarge(saliency_Nhw, fov_N1SS).numpy(),
            similarity_NK=similarity_NK.numpy(),
        )


def as_tensor(images_NSS: NDArray[np.uint8]) -> torch.Tensor:
    """(N, S, S) uint8 to (N, 1, S, S) float32 in [0, 1]."""
    return torch.tensor(images_NSS)[:, None].float() / 255.0


def build_model(card: dict[str, Any], *, bfloat16: bool = False) -> lclsc.LCLSC:
    """The architecture that a model card names, untrained; with ``bfloat16`` its encoder trains in that precision."""
    return lclsc.LCLSC(
        lclsc.build_encoder(card["encoder"]),
        classes=len(card["classes"]),
        embedding_dim=card["embedding_dim"],
        momentum=card["momentum"],
        encoder_bfloat16=bfloat16,
    )


def load_classifier(folder: Path) -> Classifier:
    """From ``model.safetensors`` and ``model.json`` in ``folder``."""
    try:
        card = read_json(folder / "model.json")
        model = build_model(card)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except FileNotFoundError as error:
        raise WrongUseError(
            "no_model", f"{Path(error.filename).name} is missing.", "Train one with `lclsc retrain`."
        ) from None
    return Classifier(model, card)


def predict_video(classifier: Classifier, path: Path) -> VideoPrediction:
    """Classify every frame of a clip, prepared in a child with limits as extraction would have stored it."""
    from pipelines.video import prepared  # here: it brings every decoder, which training and scoring do without

    side_px = classifier.extract.side_px
    with tempfile.TemporaryDirectory(prefix="lclsc-frames-") as folder:
        images = Path(folder) / "images"
        clip = run_isolated(prepared.spool, path.absolute(), classifier.extract.model_dump(), images, limits=LIMITS)
        images_NSS = np.fromfile(images, np.uint8).reshape(-1, side_px, side_px)
    fov_NSS = np.broadcast_to(inside_mask(clip["view"], side_px), images_NSS.shape)
    return VideoPrediction(
        frame_index_N=np.array(clip["frame_index"], dtype=np.int32),
        pts_seconds_N=np.array(clip["pts_seconds"]),
        images_NSS=images_NSS,
        fov_NSS=fov_NSS,
        keep_N=np.array(clip["keep"]),
        prediction=classifier.predict(images_NSS, fov_NSS),
    )


def prepare_image(classifier: Classifier, grey_HW: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One picture, of any size, as a stored frame and its field of view."""
    side_px = classifier.extract.side_px
    view = fov.find_field_of_view(grey_HW)
    return fov.resample(grey_HW, view, side_px), view.inside(side_px)


def measured(classifier: Classifier, images_NSS: NDArray[np.uint8], fov_SS: NDArray[np.bool_]) -> list[quality.Quality]:
    """The figures of pictures of one field of view, in their order."""
    gauge = quality.Gauge(fov_SS, classifier.extract)
    return [gauge.measure(image_SS) for image_SS in images_NSS]


def is_fit(classifier: Classifier, figures: quality.Quality) -> bool:
    """Would a frame with these figures be judged?"""
    return quality.judge(figures, classifier.extract) is None
