"""Who is judged: a packaged model, scored on the current test videos in a process of its own with its own readers.

Scores are kept by weights, recipe and video, so a scored video is never scored again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import lineage
from pipelines.errors import StageError
from pipelines.files import digest, read_json, sha256_file, write_json
from pipelines.package import child
from pipelines.package.build import training_videos

COLUMNS = ["video_id", "frame_index", "predicted", "probabilities", "reject"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contestant:
    """A packaged model and what it says about the test videos."""

    name: str
    classes: Sequence[str]
    training_videos: frozenset[str]
    scores: pd.DataFrame  # COLUMNS, kept frames only
    params: Mapping[str, Any] = field(default_factory=dict)  # of its lineage record, by section


def contestant(name: str, package: Path, videos: Mapping[str, Path], cache: Path) -> Contestant:
    """Score a package on the test videos and read what it says about itself."""
    return Contestant(
        name=name,
        classes=list(read_json(package / "artifacts" / "model" / "model.json")["classes"]),
        training_videos=training_videos(package),
        scores=score_package(package, videos, cache),
        params=lineage.read(package)["params"],
    )


def score_package(package: Path, videos: Mapping[str, Path], cache: Path) -> pd.DataFrame:
    """Kept frames of every video as the packaged model sees them."""
    folder = cache / package_identity(package)
    folder.mkdir(parents=True, exist_ok=True)
    missing = {video_id: path for video_id, path in videos.items() if not (folder / f"{video_id}.json").exists()}
    if missing:
        _score(package, missing, folder)
    rows = [row for video_id in sorted(videos) for row in _rows(folder, video_id)]
    return pd.DataFrame(rows, columns=COLUMNS)


def package_identity(package: Path) -> str:
    """Names what can change a score: the weights, and the recipe (model card and every line of code)."""
    model = package / "artifacts" / "model"
    recipe = {
        "card": sha256_file(model / "model.json"),
        "code": lineage.tree_digest(package / "code"),
        "interface": sha256_file(package / "model_code.py"),
    }
    return f"{sha256_file(model / 'model.safetensors')[:16]}-{digest(recipe)[:12]}"


def _score(package: Path, videos: Mapping[str, Path], out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lclsc-gate-") as name:
        request = Path(name) / "request.json"
        write_json(request, {video_id: str(path.resolve()) for video_id, path in videos.items()})
        child.run("score_child.py", package, request, out)


def _rows(folder: Path, video_id: str) -> list[dict[str, Any]]:
    path = folder / f"{video_id}.json"
    found = read_json(path)
    if "error" in found:
        path.unlink()
        raise StageError(
            "video_not_scored",
            f"A packaged model cannot read the test video {video_id[:12]}: {found['error']}",
            "Retract that video, or retrain so that the champion is a model with today's readers.",
        )
    return [{**row, "video_id": video_id, "predicted": row["class"]} for row in found["rows"]]
