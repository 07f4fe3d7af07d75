"""Who is judged: a packaged model, scored on the current test videos in a process of its own with its own readers.

Scores are kept by weights, recipe, libraries and video, so a scored video need not be scored again. Each time one
of them is all the same: what is kept must be what the package says today, in a fresh process on this machine.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines import lineage
from pipelines.errors import StageError
from pipelines.files import digest, read_json, sha256_file, write_json
from pipelines.package import child
from pipelines.package.build import training_videos

COLUMNS = ["video_id", "frame_index", "predicted", "probabilities", "reject"]
AGAIN = "again"
SCORE = "score_child.py"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contestant:
    """A packaged model and what it says about the test videos."""

    name: str
    classes: Sequence[str]
    training_videos: frozenset[str]
    scores: pd.DataFrame  # COLUMNS, kept frames only
    params: Mapping[str, Any] = field(default_factory=dict)  # of its lineage record, by section


def prepare() -> None:
    """A contestant comes soon: the process that scores it may import torch meanwhile."""
    child.prepare(SCORE)


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
    """Kept frames of every video as the packaged model sees them. At least one is scored anew, by a fresh process."""
    folder = cache / package_identity(package)
    if not _complete(package, videos, folder):
        log.warning("kept scores of %s are not what it says today: all are made again", package.name)
        shutil.rmtree(folder)
        _complete(package, videos, folder)
    return kept_scores(package, videos, cache)


def kept_scores(package: Path, videos: Mapping[str, Path], cache: Path) -> pd.DataFrame:
    """What ``score_package`` found last."""
    folder = cache / package_identity(package)
    rows = [row for video_id in sorted(videos) for row in _rows(folder, video_id)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _complete(package: Path, videos: Mapping[str, Path], folder: Path) -> bool:
    """Score what is missing, and again what was scored longest ago: does the package still say of it what is kept?"""
    folder.mkdir(parents=True, exist_ok=True)
    files = {video_id: folder / f"{video_id}.json" for video_id in videos}
    missing = {video_id: path for video_id, path in videos.items() if not files[video_id].exists()}
    kept = sorted(files.keys() - missing.keys(), key=lambda video_id: (files[video_id].stat().st_mtime_ns, video_id))
    _score(package, missing | ({AGAIN: videos[kept[0]]} if kept else {}), folder)
    _refuse_unscored(folder, {AGAIN: kept[0]} if kept else {}, missing)
    if not kept:
        return True
    again, before = folder / f"{AGAIN}.json", files[kept[0]]
    same = again.read_bytes() == before.read_bytes()
    again.replace(before)
    return same


def _refuse_unscored(folder: Path, again: Mapping[str, str], missing: Iterable[str]) -> None:
    """A failure is told and not kept: what failed once may be a machine short of memory."""
    failed = {}
    for name in (*again, *missing):
        path = folder / f"{name}.json"
        found = read_json(path)
        if "error" in found:
            failed[again.get(name, name)] = found["error"]
            path.unlink()
    for video_id, cause in failed.items():
        raise StageError(
            "video_not_scored",
            f"A packaged model cannot read the test video {video_id[:12]}: {cause}",
            "Retrain so that the champion is a model with today's readers.",
        )


def package_identity(package: Path) -> str:
    """Names what can change a score: weights, recipe (model card and every line of code), and libraries."""
    model = package / "artifacts" / "model"
    recipe = {
        "card": sha256_file(model / "model.json"),
        "code": lineage.tree_digest(package / "code"),
        "interface": sha256_file(package / "model_code.py"),
        "libraries": {name: _installed(name) for name in _libraries(package)},
    }
    return f"{sha256_file(model / 'model.safetensors')[:16]}-{digest(recipe)[:12]}"


def _libraries(package: Path) -> list[str]:
    """What the package says that it runs on: an upgrade may change what it says of a video, or that it runs at all."""
    lines = (package / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return sorted(found[0] for line in lines if (found := NAME.match(line.strip())))


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _score(package: Path, videos: Mapping[str, Path], out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lclsc-gate-") as name:
        request = Path(name) / "request.json"
        write_json(request, {video_id: str(path.resolve()) for video_id, path in videos.items()})
        child.run(SCORE, package, request, out)


def _rows(folder: Path, video_id: str) -> list[dict[str, Any]]:
    found = read_json(folder / f"{video_id}.json")["rows"]
    if len({row["frame_index"] for row in found}) < len(found):
        raise StageError(
            "frames_repeated",
            f"A packaged model judges frames of the test video {video_id[:12]} more than once.",
            "Retrain: its code does not number frames as it should.",
        )
    return [{**row, "video_id": video_id, "predicted": row["class"]} for row in found]
