"""Predict: what a registered model says of one video, frame by frame and as a whole."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import progress, registry
from pipelines.errors import VideoError, WrongUseError
from pipelines.files import read_json, sha256_file, write_bytes
from pipelines.inference import Prediction, VideoPrediction
from pipelines.package import child
from pipelines.registry import Registry, Version
from pipelines.report import overlay
from pipelines.report.sheet import Tile, png_bytes, saliency_sheet
from pipelines.video.writer import write_colour
from pipelines.workspace import Workspace

SHEET_TILES = 18


def run(
    workspace: Workspace, video: Path, *, model: str | None, sheet: Path | None = None, film: Path | None = None
) -> dict[str, Any]:
    """``predict/1``: classes, probabilities and rejects.

    ``sheet`` also draws some frames with their saliency, ``film`` all of them.
    """
    if not video.is_file():
        raise WrongUseError("no_video", f"{video} is not a file.", "Name a video file.")
    if film is not None:
        _require_film(film, video)
    store = registry.connect(workspace)
    version = choose(store, model)
    package = store.download(version)
    classes = list(read_json(package / "artifacts" / "model" / "model.json")["classes"])
    found = _classified(package, video) if film is None else _filmed(film, classes, package, video, version.version)
    if sheet is not None:
        write_bytes(
            sheet,
            png_bytes(saliency_sheet(_tiles(classes, found), title=_title(video, version.version))),
        )
    return {
        "schema": "predict/1",
        "version": version.version,
        "classes": classes,
        "video": _whole(classes, found),
        "frames": [_frame(classes, found, n) for n in range(len(found.frame_index_N))],
    }


def _title(video: Path, version: str) -> str:
    """The video by its id: a file's name may be a patient's."""
    return f"Video {sha256_file(video)[:12]}: version {version}"


def _classified(package: Path, video: Path) -> VideoPrediction:
    """Asked in the package's own process: its readers and thresholds are those it was trained with."""
    with tempfile.TemporaryDirectory(prefix="lclsc-predict-") as folder:
        out = Path(folder) / "answer.npz"
        said = child.run("predict_child.py", package, video, out)
        if said:
            raise VideoError(**json.loads(said))
        with np.load(out, allow_pickle=False) as arrays:
            given = {field.name: arrays[field.name] for field in fields(Prediction) if field.name in arrays}
            prediction = Prediction(**given)
            own = {field.name: arrays[field.name] for field in fields(VideoPrediction) if field.name in arrays}
            return VideoPrediction(prediction=prediction, **own)


def _require_film(film: Path, video: Path) -> None:
    if film.suffix.lower() != ".mp4" or film.resolve() == video.resolve():
        raise WrongUseError("overlay_name", f"The overlay cannot be written to {film.name}.", "Name a new .mp4 file.")


def _filmed(film: Path, classes: Sequence[str], package: Path, video: Path, version: str) -> VideoPrediction:
    """Classified, and every frame painted beside its saliency at the clip's own times."""
    with progress.track("overlay", 1, "frames") as tracker:
        found = _classified(package, video)
        tracker.retitle(len(found.frame_index_N), "frames")
        write_colour(film, overlay.frames(classes, found, version, tracker.advance), found.pts_seconds_N.tolist())
    return found


def choose(store: Registry, model: str | None) -> Version:
    """A version by number or ``@alias``; by default the champion, and the newest where there is none."""
    versions = store.versions()
    if not versions:
        raise WrongUseError("no_model", "No model is registered yet.", "Train one with `lclsc retrain`.")
    if model is None:
        return store.alias_version("champion") or versions[-1]
    found = store.alias_version(model[1:]) if model.startswith("@") else store.version(model)
    if found is None:
        known = ", ".join(version.version for version in versions)
        raise WrongUseError(
            "no_version", f"There is no version {model!r}.", f"Versions: {known}; aliases start with @."
        )
    return found


def _frame(classes: Sequence[str], found: VideoPrediction, n: int) -> dict[str, Any]:
    prediction = found.prediction
    shares = zip(classes, prediction.probabilities_NK[n], strict=True)
    return {
        "frame_index": int(found.frame_index_N[n]),
        "pts_seconds": float(found.pts_seconds_N[n]),
        "class": classes[prediction.predicted_N[n]],
        "probabilities": {name: float(share) for name, share in shares},
        "score": float(prediction.score_N[n]),
        "reject": bool(prediction.reject_N[n]),
        "keep": bool(found.keep_N[n]),
    }


def _whole(classes: Sequence[str], found: VideoPrediction) -> dict[str, Any]:
    """Mean probabilities over the frames fit to be judged, as evaluation pools them."""
    use_N = found.keep_N
    if not use_N.any():
        return {"class": None, "probabilities": None, "frames_judged": 0}
    mean_K = found.prediction.probabilities_NK[use_N].mean(0)
    return {
        "class": classes[int(mean_K.argmax())],
        "probabilities": {name: float(share) for name, share in zip(classes, mean_K, strict=True)},
        "frames_judged": int(use_N.sum()),
    }


def _tiles(classes: Sequence[str], found: VideoPrediction) -> list[Tile]:
    """Evenly spread over the frames fit to be judged, or over all where none is."""
    candidates = np.flatnonzero(found.keep_N) if found.keep_N.any() else np.arange(len(found.keep_N))
    chosen = candidates[
        np.unique(np.linspace(0, len(candidates) - 1, min(SHEET_TILES, len(candidates))).round().astype(int))
    ]
    return [_tile(classes, found, int(n)) for n in chosen]


def _tile(classes: Sequence[str], found: VideoPrediction, n: int) -> Tile:
    frame = _frame(classes, found, n)
    state = " (rejected)" if frame["reject"] else ""
    return Tile(
        image_SS=found.images_NSS[n],
        saliency_SS=found.prediction.saliency_NSS[n],
        fov_SS=found.fov_NSS[n],
        caption=f"{frame['pts_seconds']:.1f} s  {frame['class']} {frame['probabilities'][frame['class']]:.2f}{state}",
    )
