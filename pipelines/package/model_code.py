"""The served model: MLflow runs this file when it loads a package.

In    a table with exactly one column: ``image`` (base64 PNG, one a row) or ``video`` (one path)
      and, as parameters for the prediction log, where it was recorded, ``site``, and any word that all requests
      of one patient share, ``case``
Out   frame_index, class, probabilities {class: p}, reject, saliency (base64 PNG of the model's side, 0..255)

Frames of a video that are too poor to be judged have no row; pictures that are too poor are rejected.
Imports of this project resolve inside the package (its ``code`` folder), so they wait until MLflow has put that
folder on the path.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image

COLUMNS = ["frame_index", "class", "probabilities", "reject", "saliency"]
MAX_PIXELS = 64_000_000
SERVE_ROOT = "LCLSC_SERVE_ROOT"
SERVED_BY = ("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "__pyfunc_model_path__")
"""Set by MLflow's scoring server and by ``mlflow models predict``."""


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """LCL-SC behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        from pipelines import prediction_log
        from pipelines.inference import load_classifier

        self.classifier = load_classifier(Path(context.artifacts["model"]))
        self.log = prediction_log.from_environment()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        from pipelines.errors import LclscError

        column = only_column(list(model_input.columns))
        values = list(model_input[column])
        try:
            about = self._about(params or {})
            return self._images(values, about) if column == "image" else self._video(values, about)
        except LclscError as error:
            raise refusal(f"{error.cause} {error.remedy}") from None

    def _about(self, params: dict[str, Any]) -> dict[str, Any]:
        """What the prediction log keeps of the request's parameters."""
        from pipelines.prediction_log import checked_site

        site = checked_site(params.get("site"))
        return {"site": site, "case": self.log.case(params.get("case")) if self.log is not None else None}

    def _images(self, values: list[Any], about: dict[str, Any]) -> pd.DataFrame:
        from pipelines.files import digest
        from pipelines.inference import is_fit, measured, prepare_image
        from pipelines.video.grain import grain

        if not values:
            return pd.DataFrame(columns=COLUMNS)
        prepared = [prepare_image(self.classifier, decode_png(value)) for value in values]
        images_NSS, fov_NSS = (np.stack(part) for part in zip(*prepared, strict=True))
        figures = [measured(self.classifier, image_SS[None], fov_SS)[0] for image_SS, fov_SS in prepared]
        fit_N = np.array([is_fit(self.classifier, one) for one in figures])
        prediction = self.classifier.predict(images_NSS, fov_NSS)
        prediction.reject_N[:] |= ~fit_N  # each picture has its row, also one that would not be judged in a video
        index_N = np.arange(len(values))
        if self.log is not None:
            noise = [grain(image_SS[None], fov_SS)[0] for image_SS, fov_SS in prepared]
            self._note("image", digest(values), about, index_N, fit_N, figures, noise, prediction)
        return self._table(index_N, prediction, np.ones(len(values), dtype=bool))

    def _video(self, values: list[Any], about: dict[str, Any]) -> pd.DataFrame:
        from pipelines.inference import measured, predict_video
        from pipelines.video.clips import content_id
        from pipelines.video.grain import grain

        if len(values) != 1:
            raise refusal(f"There are {len(values)} videos; frames of one video make a table. Send one.")
        path = video_path(values[0])
        found = predict_video(self.classifier, path)
        if self.log is not None:
            figures = measured(self.classifier, found.images_NSS, found.fov_NSS[0])
            noise = grain(found.images_NSS, found.fov_NSS[0])
            self._note(
                "video", content_id(path), about, found.frame_index_N, found.keep_N, figures, noise, found.prediction
            )
        return self._table(found.frame_index_N, found.prediction, found.keep_N)

    def _note(
        self,
        kind: str,
        source: str,
        about: dict[str, Any],
        index_N: Any,
        fit_N: Any,
        figures: Any,
        noise: list[float],
        prediction: Any,
    ) -> None:
        from pipelines.prediction_log import rows

        if self.log is None:
            return
        noted = rows(
            version=self.log.version,
            kind=kind,
            source=source,
            **about,
            classes=self.classifier.classes,
            frame_index_N=index_N,
            fit_N=fit_N,
            figures=figures,
            grain=noise,
            prediction=prediction,
        )
        self.log.note(noted)

    def _table(self, frame_index_N: NDArray[Any], prediction: Any, keep_N: NDArray[np.bool_]) -> pd.DataFrame:
        names = self.classifier.classes
        rows = [
            {
                "frame_index": int(frame_index_N[n]),
                "class": names[prediction.predicted_N[n]],
                "probabilities": dict(zip(names, map(float, prediction.probabilities_NK[n]), strict=True)),
                "reject": bool(prediction.reject_N[n]),
                "saliency": encode_png(prediction.saliency_NSS[n]),
            }
            for n in np.flatnonzero(keep_N)
        ]
        return pd.DataFrame(rows, columns=COLUMNS)


def refusal(message: str) -> MlflowException:
    """The scoring server answers it as a bad request, without a stack trace."""
    return MlflowException.invalid_parameter_value(message)


def only_column(columns: list[str]) -> str:
    if len(columns) != 1 or columns[0] not in ("image", "video"):
        raise refusal(f"The table has the columns {columns}; send exactly one, `image` or `video`.")
    return columns[0]


def decode_png(value: Any) -> NDArray[np.uint8]:
    """Grey levels (H, W) of a base64 PNG."""
    try:
        data = base64.b64decode(value, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise refusal(f"The image has {image.width}x{image.height} px; the limit is {MAX_PIXELS}.")
            return _grey(image)
    except (TypeError, ValueError, OSError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        raise refusal("`image` is not a PNG in base64. Send the file's bytes encoded, no prefix.") from None


def encode_png(saliency_SS: NDArray[np.float32]) -> str:
    """A map in [0, 1] as an 8-bit grey PNG."""
    target = io.BytesIO()
    Image.fromarray(np.rint(saliency_SS * 255).astype(np.uint8)).save(target, format="PNG")
    return base64.b64encode(target.getvalue()).decode("ascii")


def video_path(value: Any) -> Path:
    """The file to read. A server reads only beneath LCLSC_SERVE_ROOT, links resolved; nobody reads a URL."""
    root = os.environ.get(SERVE_ROOT)
    if not isinstance(value, str) or not value or "\0" in value or "://" in value:
        raise refusal("`video` must be the path of a file or of a folder of frames; a URL is never read.")
    if not root:
        if any(os.environ.get(name) for name in SERVED_BY):
            raise refusal(f"This server reads no videos. Start it with {SERVE_ROOT} set to their folder.")
        return _existing(Path(value).resolve())
    path = Path(root, value).resolve()
    _require_beneath(path, Path(root).resolve())
    return _existing(path)


def _require_beneath(path: Path, root: Path) -> None:
    """Checked before existence, so that an answer tells nothing about other folders."""
    if not path.is_relative_to(root):
        raise refusal(f"The video does not lie beneath {SERVE_ROOT}.")
    for frame in path.iterdir() if path.is_dir() else ():
        if not frame.resolve().is_relative_to(root):
            raise refusal(f"A frame of the video does not lie beneath {SERVE_ROOT}.")


def _existing(path: Path) -> Path:
    if not (path.is_file() or path.is_dir()):
        raise refusal("There is no such video.")
    return path


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        return np.asarray(np.asarray(image, dtype=np.uint32) >> 8, dtype=np.uint8)  # 16 bits a pixel
    return np.asarray(image.convert("L"))


mlflow.models.set_model(Model())
