"""Extract: decode each accepted video into frames, one Parquet shard a video.

Reads   manifest.csv, splits.csv, videos/, masks/
Writes  data/frames/<video_id>-<recipe>.parquet   schemas.frames
        data/masks/<video_id>-<mask_sha12>-<recipe>.parquet   schemas.masks
        data/train.csv (train + validation patients), data/test.csv
Params  extract, split.min_patients

Incremental and exact: a shard is named by what it is made of, so what is there is never decoded again, and
what no manifest row names any more is removed.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines import cluster, code_digest, manifest, shard_writer, stage
from pipelines.errors import StageError, VideoError
from pipelines.files import digest, write_json, write_text
from pipelines.manifest import Video
from pipelines.params import ExtractParams, Params
from pipelines.shards import ShardIndex
from pipelines.video import clips, geometry
from pipelines.video.isolation import Limits, run_isolated
from pipelines.workspace import Workspace

TRAIN_COLUMNS = ("video_id", "patient_id", "split", "label", "shard", "shard_sha256", "frames", "kept")
TEST_COLUMNS = (*TRAIN_COLUMNS, "site", "domain", "mask_shard", "mask_shard_sha256")

LIMITS = Limits(memory_mib=1024, cpu_seconds=4 * 3600, wall_seconds=16 * 3600, file_mib=64 * 1024)
"""Well above what intake allows a clip: whatever was taken in comes out."""

Mapper = Callable[..., list[Any]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One video to decode, and where its shards go."""

    video_id: str
    source: Path
    mask: Path | None
    mask_sha256: str
    shard: Path
    mask_shard: Path | None
    params: ExtractParams


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a worker says of one video: facts for the report, or what was wrong with it."""

    video_id: str
    facts: dict[str, Any] | None
    problem: str = ""


def run(workspace: Workspace, params: Params, map_items: Mapper = cluster.map_items) -> dict[str, Any]:
    """Decode what has no shard yet, prune what nothing names, list the rest for training and testing."""
    code = code_digest.stage_digest(workspace, "extract")
    work = _work(workspace, params.extract, code)
    index = ShardIndex(workspace)
    todo = sorted((item for item in work if not _is_there(index, item)), key=_bytes_to_read, reverse=True)
    written = map_items(
        write_shards,
        todo,
        workspace=workspace,
        title="extract",
        unit="videos",
        note=lambda result: result.video_id[:12],
    )
    for item, result in zip(todo, written, strict=True):
        if result.facts is not None:
            index.note(item.shard, result.facts)
    _require_all(written)
    removed = _prune(workspace, work)
    facts = {item.video_id: _facts(index, item) for item in work}
    waiting = _write_tables(workspace, params, work, index, facts)
    index.save({path for item in work for path in (item.shard, item.mask_shard) if path})
    counts = {"new": len(todo), "reused": len(work) - len(todo), "removed": removed}
    write_json(workspace.state / "extract.run.json", counts)
    return _report(recipe_of(params.extract, code), facts, waiting)


def recipe_of(params: ExtractParams, code: str, decoder: str = "") -> str:
    """12 hex digits over all that shapes a shard beside its video; a shard's also names its format's decoder."""
    return digest({"params": params.model_dump(), "code": code, "decoder": decoder})[:12]


def write_shards(work: Work) -> Written:
    """Decode one video and write its shards in a child with limits. What is wrong with it is an answer."""
    try:
        facts = run_isolated(shard_writer.write, files_of(work), work.params.model_dump(), limits=LIMITS)
    except VideoError as error:
        return Written(video_id=work.video_id, facts=None, problem=error.cause)
    return Written(video_id=work.video_id, facts=facts)


def files_of(work: Work) -> shard_writer.Files:
    return {
        "video_id": work.video_id,
        "source": str(work.source),
        "shard": str(work.shard),
        "mask": str(work.mask or ""),
        "mask_sha256": work.mask_sha256,
        "mask_shard": str(work.mask_shard or ""),
    }


def _work(workspace: Workspace, params: ExtractParams, code: str) -> list[Work]:
    """One item a manifest row, in the manifest's order."""
    rows = manifest.read_videos(workspace.manifest)
    files = workspace.video_files()
    missing = [row.video_id for row in rows if row.video_id not in files]
    if missing:
        raise StageError(
            "video_missing",
            f"{len(missing)} videos of the manifest are not in videos/, {missing[0][:12]} among them.",
            "Fetch them with `dvc pull`.",
        )
    recipe = cache(lambda decoder: recipe_of(params, code, decoder))
    return [
        _item(workspace, row, files[row.video_id], params, recipe(clips.decoder_identity(files[row.video_id])))
        for row in rows
    ]


def _item(workspace: Workspace, row: Video, source: Path, params: ExtractParams, recipe: str) -> Work:
    mask_name = f"{row.video_id}-{row.mask_sha256[:12]}-{recipe}.parquet"
    return Work(
        video_id=row.video_id,
        source=source,
        mask=workspace.masks / f"{row.video_id}.tif" if row.mask_sha256 else None,
        mask_sha256=row.mask_sha256,
        shard=workspace.frames / f"{row.video_id}-{recipe}.parquet",
        mask_shard=workspace.mask_frames / mask_name if row.mask_sha256 else None,
        params=params,
    )


def _is_there(index: ShardIndex, item: Work) -> bool:
    return index.verifies(item.shard) and (item.mask_shard is None or index.verifies(item.mask_shard))


def _bytes_to_read(item: Work) -> int:
    """The longest first: a long clip begun last would run on alone while the other workers have nothing to do."""
    files = item.source.iterdir() if item.source.is_dir() else [item.source]
    return sum(file.stat().st_size for file in files)


def _require_all(written: Iterable[Written]) -> None:
    failed = [result for result in written if result.facts is None]
    if failed:
        listed = "; ".join(f"{result.video_id[:12]}: {result.problem}" for result in failed)
        raise StageError(
            "extract_failed",
            f"{len(failed)} videos could not be decoded ({listed}). The others have their shards.",
            "Restore these files with `dvc checkout videos`, or take their rows out of manifest.csv.",
        )


def _prune(workspace: Workspace, work: Iterable[Work]) -> int:
    """Frames of a withdrawn video must not survive; returns how many files went."""
    wanted = {path for item in work for path in (item.shard, item.mask_shard) if path}
    removed = 0
    for folder in (workspace.frames, workspace.mask_frames):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            if path not in wanted:
                path.unlink()
                removed += folder == workspace.frames
    return removed


def _facts(index: ShardIndex, item: Work) -> dict[str, Any]:
    """From the index, or from the shard itself where the index was lost."""
    known = index.facts(item.shard)
    if known is None:
        table = pq.read_table(item.shard, columns=["keep", "reason"])
        reasons = Counter(reason for reason in table["reason"].to_pylist() if reason)
        view = pq.read_table(item.shard, columns=geometry.COLUMNS).slice(0, 1).to_pylist()[0]
        known = {
            "window": json.loads(pq.read_schema(item.shard).metadata[b"window"]),
            "frames": table.num_rows,
            "kept": table.num_rows - reasons.total(),
            "reasons": dict(sorted(reasons.items())),
            "shape": geometry.shape(view),
        }
        index.note(item.shard, known)
    return known


def _write_tables(
    workspace: Workspace,
    params: Params,
    work: Sequence[Work],
    index: ShardIndex,
    facts: dict[str, dict[str, Any]],
) -> list[str]:
    """data/train.csv and data/test.csv; returns the classes that wait for more patients."""
    videos = {row.video_id: row for row in manifest.read_videos(workspace.manifest)}
    splits = manifest.read_splits(workspace.splits)
    waiting = _waiting(videos.values(), splits, params.split.min_patients)
    rows = [
        _table_row(videos[item.video_id], splits[videos[item.video_id].patient_id], item, index, facts[item.video_id])
        for item in work
        if videos[item.video_id].label not in waiting
    ]
    _write_csv(workspace.train_table, TRAIN_COLUMNS, (row for row in rows if row["split"] != "test"))
    _write_csv(workspace.test_table, TEST_COLUMNS, (row for row in rows if row["split"] == "test"))
    return waiting


def _waiting(videos: Iterable[Video], splits: dict[str, str], min_patients: int) -> list[str]:
    """Classes with too few patients, or with none to train on."""
    patients: dict[str, set[str]] = {}
    trained: set[str] = set()
    for row in videos:
        patients.setdefault(row.label, set()).add(row.patient_id)
        if splits[row.patient_id] == "train":
            trained.add(row.label)
    return sorted(label for label, own in patients.items() if len(own) < min_patients or label not in trained)


def _table_row(row: Video, split: str, item: Work, index: ShardIndex, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "video_id": row.video_id,
        "patient_id": row.patient_id,
        "split": split,
        "label": row.label,
        "shard": item.shard.name,
        "shard_sha256": index.sha256(item.shard),
        "frames": facts["frames"],
        "kept": facts["kept"],
        "site": row.site,
        "domain": row.domain,
        "mask_shard": item.mask_shard.name if item.mask_shard else "",
        "mask_shard_sha256": index.sha256(item.mask_shard) if item.mask_shard else "",
    }


def _write_csv(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _report(recipe: str, facts: dict[str, dict[str, Any]], waiting: list[str]) -> dict[str, Any]:
    """Says nothing of what was new or reused: the same data gives the same report, however it was reached."""
    dropped = Counter(chain.from_iterable(Counter(own["reasons"]).elements() for own in facts.values()))
    return {
        "recipe": recipe,
        "videos": len(facts),
        "frames": sum(own["frames"] for own in facts.values()),
        "kept": sum(own["kept"] for own in facts.values()),
        "dropped": dict(sorted(dropped.items())),
        "per_video": [{"video_id": video_id, **own} for video_id, own in facts.items()],
        "waiting": waiting,
    }


if __name__ == "__main__":
    stage.main("extract")
