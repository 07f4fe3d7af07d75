"""Publish: the page that a reviewer decides by, kept beside the model in MLflow.

Reads   reports/, models/, the tables and shards, videos/, both versions' packages, git
Writes  reports/report.html and its pictures; ledger event ``published``; the same files with the version's run
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines import frames, gate, ledger, lineage
from pipelines.errors import LclscError, OutsideSystemError
from pipelines.evidence import diff
from pipelines.files import read_json, sha256_file, temporary_folder, write_bytes, write_json, write_text
from pipelines.inference import load_classifier
from pipelines.package import child
from pipelines.params import Params
from pipelines.registry import Registry, Version
from pipelines.report import page, pairs
from pipelines.report.figures import confusion_matrix
from pipelines.report.sheet import Pair, Tile, png_bytes, saliency_sheet
from pipelines.workspace import Workspace, private_folder


def run(
    workspace: Workspace,
    params: Params,
    store: Registry,
    version: Version,
    decision: Mapping[str, Any],
    durations: Mapping[str, float],
) -> Path:
    """The page of a decision about the version whose files stand in this workspace."""
    tiles = _tiles(workspace, page.frames_to_show(workspace))
    _draw(workspace, tiles)
    facts = page.gather(
        workspace,
        registration={
            "name": store.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "status": decision["verdict"],
        },
        gate=decision,
        lineage=lineage.read(store.download(version)),
        durations=durations,
        tiles=tiles,
        pairs=_pairs(workspace, store, decision["champion"]),
        changes=_changes(workspace, version, decision["champion"]),
        card=params.card.model_dump(),
        commit=version.tags["git_commit"],
    )
    write_text(workspace.report_page, page.build_page(facts))
    pictures = (workspace.confusion_picture, workspace.saliency_picture)
    kept = (workspace.report_page, workspace.predictions, *pictures)
    files = {path.name: sha256_file(path) for path in kept}
    _note(workspace, store, f"version {version.version}", files)
    store.log_artifacts(version.run_id, kept)
    return workspace.report_page


def _note(workspace: Workspace, store: Registry, subject: str, files: dict[str, str]) -> None:
    """Once, also by a registration that goes on where it was killed."""
    with ledger.exclusive(workspace, "registry"):
        entries = ledger.read(workspace.ledger)
        told = [entry.data for entry in entries if (entry.event, entry.subject) == ("published", subject)]
        if told[-1:] == [{"files": files}]:
            last = entries[-1]
        else:
            last = ledger.append(workspace, actor="publish", event="published", subject=subject, data={"files": files})
        store.mark_ledger(last)


def is_built_here(workspace: Workspace, store: Registry, version: Version) -> bool:
    """Are models/ and reports/ those of this version? The page of another one would tell of these.

    Weights alone do not make a model: other validation patients calibrate the same ones differently.
    """
    if (
        not (workspace.weights.exists() and workspace.model_card.exists())
        or sha256_file(workspace.weights) != version.tags["weights_sha256"]
    ):
        return False
    card = store.download(version) / "artifacts" / "model" / workspace.model_card.name
    return sha256_file(card) == sha256_file(workspace.model_card)


def _draw(workspace: Workspace, tiles: Sequence[Tile]) -> None:
    """The page's pictures as files of their own, for MLflow's page and for slides."""
    confusion = read_json(workspace.stage_report("evaluate"))["confusion"]
    write_text(workspace.confusion_picture, confusion_matrix(confusion["classes"], confusion["matrix"]))
    write_bytes(workspace.saliency_picture, png_bytes(saliency_sheet(tiles)))


def _tiles(workspace: Workspace, picks: Sequence[page.Pick]) -> list[Tile]:
    """Frames of the test patients with the saliency the model gives them."""
    classifier = load_classifier(workspace.weights.parent)
    rows = {row["video_id"]: row for row in frames.rows(frames.read_table(workspace.test_table))}
    tiles = []
    for pick in picks:
        row = rows[pick.video_id]
        shard = frames.read_shard(workspace.frames / row["shard"], row["shard_sha256"])
        n = int(np.flatnonzero(shard.frame_index_N == pick.frame_index)[0])
        prediction = classifier.predict(shard.images_NSS[n : n + 1], shard.fov_NSS[n : n + 1])
        truth = (
            frames.read_masks(workspace.mask_frames / row["mask_shard"], row["mask_shard_sha256"])
            if row["mask_shard"]
            else None
        )
        tiles.append(
            Tile(
                image_SS=shard.images_NSS[n],
                saliency_SS=prediction.saliency_NSS[0],
                fov_SS=shard.fov_NSS[n],
                caption=pick.caption,
                correct=pick.correct,
                mask_SS=None if truth is None else truth[n],
            )
        )
    return tiles


# --- beside the champion ---------------------------------------------------------------------------


def _changes(workspace: Workspace, version: Version, champion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """None without a champion, and where its commit cannot be read any more."""
    if champion is None:
        return None
    try:
        return diff.run(workspace, champion["version"], version.version)
    except LclscError:
        return None


def _pairs(workspace: Workspace, store: Registry, champion: Mapping[str, Any] | None) -> list[Pair]:
    """The same frames by both; none where the champion's package can no longer be run."""
    rival = store.version(champion["version"]) if champion else None
    if rival is None:
        return []
    files = workspace.video_files()
    videos = {video_id: files[video_id] for video_id in frames.read_table(workspace.test_table).video_id}
    try:
        package = store.download(rival)
        picked = pairs.picks(workspace, gate.kept_scores(package, videos, workspace.state / "scores"))
        shown = [(change, before, after) for change, group in picked.items() for before, after in group]
        maps = _maps(workspace, package, {video: files[video] for video in videos}, [before for _, before, _ in shown])
    except (OutsideSystemError, FileNotFoundError):
        return []
    tiles = _tiles(workspace, [after for _, _, after in shown])
    return [
        Pair(change, _seen_by_champion(tile, before, maps[before.video_id, before.frame_index]), tile)
        for (change, before, _), tile in zip(shown, tiles, strict=True)
        if (before.video_id, before.frame_index) in maps
    ]


def _seen_by_champion(tile: Tile, pick: page.Pick, saliency: Image.Image) -> Tile:
    """Its map on the challenger's frame; a champion of another side in pixels is scaled to it."""
    side = tile.image_SS.shape[0]
    map_SS: NDArray[np.float64] = np.asarray(saliency.resize((side, side), Image.Resampling.BILINEAR)) / 255.0
    return dataclasses.replace(tile, saliency_SS=map_SS, caption=pick.caption, correct=pick.correct)


def _maps(
    workspace: Workspace, package: Path, files: Mapping[str, Path], picks: Sequence[page.Pick]
) -> dict[tuple[str, int], Image.Image]:
    """(video_id, frame_index) -> saliency as the packaged model draws it, in a process of its own.

    The maps pass through a folder that ``forget`` empties: a run that is killed leaves them there.
    """
    request: dict[str, dict[str, Any]] = {}
    for pick in picks:
        one = request.setdefault(pick.video_id, {"path": str(files[pick.video_id].resolve()), "frames": []})
        one["frames"].append(pick.frame_index)
    if not request:
        return {}
    folder = private_folder(workspace.state / "scores")
    with temporary_folder(folder) as draft:
        asked, said = draft / "request.json", draft / "said.json"
        write_json(asked, request)
        child.run("look_child.py", package, asked, said)
        found = read_json(said)
    return {
        (video_id, int(row["frame_index"])): Image.open(io.BytesIO(base64.b64decode(row["saliency"]))).convert("L")
        for video_id, rows in found.items()
        for row in rows
    }
