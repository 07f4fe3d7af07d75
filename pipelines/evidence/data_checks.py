"""Does the data of a commit hold together? Tables, splits, shards, the patients behind them."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import object_stores
from pipelines.errors import StoreUnreachableError
from pipelines.evidence.check import Check, Problem, checked, differing
from pipelines.evidence.commit import TABLES, Commit
from pipelines.evidence.intake_checks import check_rows

SPLIT_OF_TABLE = {"data/train.csv": ("train", "validation"), "data/test.csv": ("test",)}


def check_data(commit: Commit, *, withdrawn: Collection[str]) -> Iterator[Check]:
    """``withdrawn`` are patients whose consent was taken back."""
    yield from checked("tables_agree", "train.csv and test.csv", _table_problems(commit, withdrawn))
    yield from checked("patients_disjoint", f"{len(commit.splits)} patients", _split_problems(commit))
    yield from checked("shards_trace", f"{len(commit.tables)} shards", _shard_problems(commit, withdrawn))
    yield from check_rows(commit)


def _table_problems(commit: Commit, withdrawn: Collection[str]) -> Iterator[Problem]:
    """Every row of the stages' tables repeats what manifest and splits say of its video.

    Patients who withdrew have left the manifest, and leave the tables with the next retrain.
    """
    for path in TABLES:
        rows = commit.table(path)
        if rows is None:
            if path in commit.outs:
                yield Problem(object=path, expected="readable", found="no intact copy", unknown=True)
            continue
        for row in rows:
            if row["patient_id"] not in withdrawn:
                yield from _row_problems(commit, path, row)


def _row_problems(commit: Commit, path: str, row: dict[str, str]) -> Iterator[Problem]:
    video = commit.videos.get(row["video_id"])
    name = f"{path}: video {row['video_id'][:12]}"
    if video is None:
        yield Problem(object=name, expected="a row of manifest.csv", found="missing")
        return
    yield from differing(f"{name}, patient_id", video.patient_id, row["patient_id"])
    yield from differing(f"{name}, label", video.label, row["label"])
    yield from differing(f"{name}, split", commit.splits.get(video.patient_id), row["split"])
    if row["split"] not in SPLIT_OF_TABLE[path]:
        yield Problem(object=name, expected=f"split {' or '.join(SPLIT_OF_TABLE[path])}", found=row["split"])


def _split_problems(commit: Commit) -> Iterator[Problem]:
    """Each patient of the manifest has one split, and a video stands on one side only."""
    for patient_id in sorted({video.patient_id for video in commit.videos.values()} - set(commit.splits)):
        yield Problem(object=f"patient {patient_id}", expected="a row of splits.csv", found="missing")
    sides: dict[str, set[str]] = {}
    for row in commit.tables:
        sides.setdefault(row["patient_id"], set()).add(row["split"])
    for patient_id, splits in sorted(sides.items()):
        if len(splits) > 1:
            yield Problem(object=f"patient {patient_id}", expected="one split", found=", ".join(sorted(splits)))


def _shard_problems(commit: Commit, withdrawn: Collection[str]) -> Iterator[Problem]:
    """Every stored frame belongs to the video that its shard is named for, and none is there twice."""
    md5_of = {stored.path: stored for stored in commit.objects}
    for row in commit.tables:
        if row["patient_id"] in withdrawn:
            continue
        stored = md5_of.get(f"data/frames/{row['shard']}")
        if stored is None:
            yield Problem(object=row["shard"], expected="an object of data/frames", found="missing")
            continue
        content = _content(commit, stored.md5, stored.remote)
        if content is None:
            yield Problem(object=row["shard"], expected="readable", found="no copy", unknown=True)
            continue
        yield from _frame_problems(row, content)


def _content(commit: Commit, md5: str, remote: str) -> bytes | None:
    for store in (object_stores.cache(commit.workspace), object_stores.remote(commit.workspace, remote)):
        try:
            content = store.read(md5)
        except StoreUnreachableError:
            continue
        if content is not None:
            return content
    return None


def _frame_problems(row: dict[str, str], content: bytes) -> Iterator[Problem]:
    shard = row["shard"]
    try:
        table = pq.read_table(io.BytesIO(content), columns=["video_id", "frame_index", "keep"])
    except (pa.ArrowException, OSError) as error:
        yield Problem(object=shard, expected="a Parquet file", found=type(error).__name__)
        return
    found: dict[str, Any] = table.to_pydict()
    strangers = sorted(set(found["video_id"]) - {row["video_id"]})
    if strangers:
        yield Problem(object=shard, expected=f"frames of video {row['video_id'][:12]}", found=", ".join(strangers))
    yield from differing(f"{shard}, frame_index", list(range(table.num_rows)), found["frame_index"])
    yield from differing(f"{shard}, frames", int(row["frames"]), table.num_rows)
    yield from differing(f"{shard}, kept", int(row["kept"]), sum(found["keep"]))
